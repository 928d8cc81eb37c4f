"""Noise models, and their estimation from noisy images alone."""

from mptpn.noise.bands import measure
from mptpn.noise.emccd import EMCCD, detect_emccd
from mptpn.noise.estimate import NoiseEstimate, estimate_from, estimate_noise_model
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, NoiseModel, PoissonGaussian, Rician, Speckle

__all__ = [
    "EMCCD",
    "CorrelatedGaussian",
    "NoiseEstimate",
    "NoiseLevelFunction",
    "NoiseModel",
    "PoissonGaussian",
    "Rician",
    "Speckle",
    "detect_emccd",
    "estimate_from",
    "estimate_noise_model",
    "measure",
]
