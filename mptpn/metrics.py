"""Distances to a clean image, and the floor that any denoiser must pass: a Gaussian blur of oracle width."""

import math

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

# px, tried by gaussian_oracle
NORMAL_95 = 1.96  # standard errors to either side that hold 95 % of a normal distribution
WIDTHS = (*np.arange(0.2, 2.0, 0.1), *np.arange(2.0, 4.0, 0.25), *np.arange(4.0, 12.5, 0.5))
WEIGHTS = np.geomspace(0.01, 1.5, 14)  # of total variation, for an image that spans 0..1, tried by tv_oracle


def psnr_db(image: Tensor, clean: Tensor, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio, 10 log10(peak^2 / mean squared error), dB; nothing is clipped. Same shapes; infinite
    for equal images.
    """
    _check_same_size(image, clean)
    return psnr_from_mse(float(((image.double() - clean.double()) ** 2).mean()), peak=peak)


def psnr_from_mse(error: float, *, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio of a mean squared error, dB; infinite for none."""
    return 10 * math.log10(peak**2 / error) if error else math.inf


def ssim(image: Tensor, clean: Tensor, *, peak: float = 1.0) -> float:
    """Structural similarity with Wang's 11 x 11 Gaussian window, sigma 1.5 (Wang et al. 2004), mean over the inside;
    [1, C, H, W], H, W >= 11.
    """
    _check_same_size(image, clean)
    first, second = (x[0].double().numpy() for x in (image, clean))
    return float(
        structural_similarity(
            first,
            second,
            data_range=peak,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def _check_same_size(image: Tensor, clean: Tensor) -> None:
    if image.shape != clean.shape:
        raise ValueError(f"shapes {tuple(image.shape)} and {tuple(clean.shape)} differ; compare images of one size.")


def gaussian_oracle(noisy: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """The Gaussian blur whose width gives the smallest error against the truth; returns the blurred image [1, C, H, W]
    and the width, px.
    """
    blurred = {float(width): torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width))) for width in WIDTHS}
    best = min(blurred, key=lambda width: float(((blurred[width] - clean) ** 2).mean()))
    return blurred[best], best


def tv_oracle(noisy: Tensor, clean: Tensor) -> Tensor:
    """Total variation denoising (Chambolle 2004, scikit-image) with the weight that gives the smallest error against
    the truth; [1, C, H, W].
    """
    low, high = float(noisy.min()), float(noisy.max())
    unit = ((noisy[0] - low) / (high - low)).permute(1, 2, 0).double().numpy()
    denoised = [denoise_tv_chambolle(unit, weight=weight, channel_axis=-1) for weight in WEIGHTS]
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].to(noisy) * (high - low) + low for x in denoised]
    return min(tensors, key=lambda x: float(((x - clean) ** 2).mean()))


def fitted(image: Tensor, clean: Tensor) -> Tensor:
    """The image with the gain and offset that bring it closest to the truth: for targets that were scaled image by
    image.
    """
    columns = torch.stack([image.flatten().double(), torch.ones(image.numel(), dtype=torch.float64)], 1)
    return (
        (columns @ torch.linalg.lstsq(columns, clean.flatten().double()[:, None]).solution).view(image.shape).to(image)
    )


def blend(noisy: list[Tensor], denoised: list[Tensor], clean: list[Tensor]) -> float:
    """Share of the noisy image, 0..1, whose blend with the denoised one is closest to the truth over a set: the truth
    may hold some of the input's noise.
    """
    steps = torch.cat([(y - x).flatten() for y, x in zip(noisy, denoised, strict=True)]).double()
    wanted = torch.cat([(c - x).flatten() for c, x in zip(clean, denoised, strict=True)]).double()
    return float((steps @ wanted / (steps @ steps)).nan_to_num().clamp(0, 1))


def paired_interval(
    differences: list[float], subjects: list[str], *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of paired differences, and the 95 % bootstrap interval of that mean over subjects; equal ends where there is
    one subject alone.
    """
    groups = [
        [d for d, s in zip(differences, subjects, strict=True) if s == subject] for subject in dict.fromkeys(subjects)
    ]
    picks = np.random.default_rng(seed).integers(len(groups), size=(draws, len(groups)))
    sums, counts = np.array([sum(g) for g in groups]), np.array([len(g) for g in groups])
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    return float(np.mean(differences)), float(low), float(high)


def residual_correlation(residual: Tensor) -> tuple[float, float]:
    """Lag-1 autocorrelation of a residual [1, C, H, W] along rows (vertical step) and columns (horizontal step); about
    0 for white noise.
    """
    centred = residual.double() - residual.double().mean()
    power = (centred**2).mean()
    vertical = (centred[:, :, 1:] * centred[:, :, :-1]).mean() / power
    horizontal = (centred[:, :, :, 1:] * centred[:, :, :, :-1]).mean() / power
    return float(vertical), float(horizontal)
