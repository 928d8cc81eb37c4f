"""Distances to a clean image, and what correlation a residual holds."""

import math

from torch import Tensor

NORMAL_95 = 1.96  # standard errors on either side of a normal estimate that hold 95 %


def psnr_db(image: Tensor, clean: Tensor, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared error), dB; nothing is clipped.

    Raises ValueError for shapes that differ.
    """
    _check_same_size(image, clean)
    return psnr_from_mse(float(((image.double() - clean.double()) ** 2).mean()), peak=peak)


def psnr_from_mse(error: float, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio of a mean squared error, dB; infinite for none."""
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(image: Tensor, clean: Tensor, *, peak: float = 1.0) -> float:
    """Structural similarity with an 11 x 11 Gaussian window of sigma 1.5 (Wang et al. 2004), mean over the inside.

    Images are [1, C, H, W], H, W >= 11. Raises ValueError for shapes that differ.
    """
    from skimage.metrics import structural_similarity  # slow to import, and mptpn denoise needs none

    _check_same_size(image, clean)
    first, second = (x[0].double().numpy() for x in (image, clean))
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(first, second, data_range=peak, channel_axis=0, **window))


def residual_correlation(residual: Tensor) -> tuple[float, float]:
    """Lag-1 autocorrelation of a residual [1, C, H, W], down and across; about 0 for white noise."""
    centred = residual.double() - residual.double().mean()
    power = (centred**2).mean()
    down = (centred[:, :, 1:] * centred[:, :, :-1]).mean() / power
    across = (centred[:, :, :, 1:] * centred[:, :, :, :-1]).mean() / power
    return float(down), float(across)


def _check_same_size(image: Tensor, clean: Tensor) -> None:
    if image.shape != clean.shape:
        raise ValueError(f"shapes {tuple(image.shape)} and {tuple(clean.shape)} differ; compare images of one size.")
