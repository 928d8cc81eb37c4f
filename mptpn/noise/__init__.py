"""Noise models, and their estimation from noisy images alone."""

from mptpn.noise.bands import measure
from mptpn.noise.estimate import NoiseEstimate, estimate_from, estimate_noise_model
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, NoiseModel, PoissonGaussian, Rician, Speckle
from mptpn.noise.photons import EMCCD, Poisson, count_step, detect_skew, may_be_skewed

__all__ = [
    "EMCCD",
    "CorrelatedGaussian",
    "NoiseEstimate",
    "NoiseLevelFunction",
    "NoiseModel",
    "Poisson",
    "PoissonGaussian",
    "Rician",
    "Speckle",
    "count_step",
    "detect_skew",
    "estimate_from",
    "estimate_noise_model",
    "may_be_skewed",
    "measure",
]
