"""Denoising of images in their own unit: masks, predictors, tiles, and the assessment of the result."""

from mptpn.inference.assessment import Assessment, assess, common_share
from mptpn.inference.denoiser import Denoiser, Prediction, load_network
from mptpn.inference.masks import masked_image
from mptpn.inference.noisy_images import AUTO, SELF, NoisyImages, predictor_of
from mptpn.inference.predictor import Predictor
from mptpn.inference.quality_control import QualityControl, check_residual
from mptpn.inference.stabilise import VarianceStabilisingTransform

__all__ = [
    "AUTO",
    "SELF",
    "Assessment",
    "Denoiser",
    "NoisyImages",
    "Prediction",
    "Predictor",
    "QualityControl",
    "VarianceStabilisingTransform",
    "assess",
    "check_residual",
    "common_share",
    "load_network",
    "masked_image",
    "predictor_of",
]
