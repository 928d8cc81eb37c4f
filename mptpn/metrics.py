"""Distances to a clean image, and the floor that any denoiser must pass: a Gaussian blur of oracle width."""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from torch import Tensor

WIDTHS = (*np.arange(0.2, 2.0, 0.1), *np.arange(2.0, 4.0, 0.25), *np.arange(4.0, 12.5, 0.5))  # px, tried by gaussian_oracle


def psnr_db(image: Tensor, clean: Tensor, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared error), dB; nothing is clipped. Same shapes; infinite for equal images."""
    _check_same_size(image, clean)
    error = float(((image.double() - clean.double()) ** 2).mean())
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(image: Tensor, clean: Tensor, *, peak: float = 1.0) -> float:
    """Structural similarity with Wang's 11 x 11 Gaussian window, sigma 1.5 (Wang et al. 2004), mean over the inside; [1, C, H, W], H, W >= 11."""
    _check_same_size(image, clean)
    first, second = (x[0].double().numpy() for x in (image, clean))
    return float(structural_similarity(first, second, data_range=peak, channel_axis=0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False))


def _check_same_size(image: Tensor, clean: Tensor) -> None:
    if image.shape != clean.shape:
        raise ValueError(f"shapes {tuple(image.shape)} and {tuple(clean.shape)} differ; compare images of one size.")


def gaussian_oracle(noisy: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """The Gaussian blur whose width gives the smallest error against the truth; returns the blurred image [1, C, H, W] and the width, px."""
    blurred = {float(width): torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width))) for width in WIDTHS}
    best = min(blurred, key=lambda width: float(((blurred[width] - clean) ** 2).mean()))
    return blurred[best], best


def residual_correlation(residual: Tensor) -> tuple[float, float]:
    """Lag-1 autocorrelation of a residual [1, C, H, W] along rows (vertical step) and columns (horizontal step); about 0 for white noise."""
    centred = residual.double() - residual.double().mean()
    power = (centred**2).mean()
    vertical = (centred[:, :, 1:] * centred[:, :, :-1]).mean() / power
    horizontal = (centred[:, :, :, 1:] * centred[:, :, :, :-1]).mean() / power
    return float(vertical), float(horizontal)
