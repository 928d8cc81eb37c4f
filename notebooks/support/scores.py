"""Scores that only comparisons need: classical filters of oracle strength, fits to a truth, and paired intervals."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import bootstrap
from skimage.restoration import denoise_tv_chambolle
from torch import Tensor

# px, tried by gaussian_oracle
WIDTHS = (*np.arange(0.2, 2.0, 0.1), *np.arange(2.0, 4.0, 0.25), *np.arange(4.0, 12.5, 0.5))
WEIGHTS = np.geomspace(0.01, 1.5, 14)  # of total variation, for an image that spans 0..1, tried by tv_oracle


def gaussian_oracle(noisy: Tensor, clean: Tensor) -> tuple[Tensor, float]:
    """The Gaussian blur whose width has the smallest error: the blurred image [1, C, H, W], and the width, px."""
    blurred = {float(width): torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width))) for width in WIDTHS}
    best = min(blurred, key=lambda width: float(((blurred[width] - clean) ** 2).mean()))
    return blurred[best], best


def tv_oracle(noisy: Tensor, clean: Tensor) -> Tensor:
    """Total variation denoising (Chambolle 2004, scikit-image) with the weight of the smallest error; [1, C, H, W]."""
    low, high = float(noisy.min()), float(noisy.max())
    unit = ((noisy[0] - low) / (high - low)).permute(1, 2, 0).double().numpy()
    denoised = [denoise_tv_chambolle(unit, weight=weight, channel_axis=-1) for weight in WEIGHTS]
    tensors = [torch.from_numpy(x).permute(2, 0, 1)[None].to(noisy) * (high - low) + low for x in denoised]
    return min(tensors, key=lambda x: float(((x - clean) ** 2).mean()))


def fitted(image: Tensor, clean: Tensor) -> Tensor:
    """The image with the gain and offset of least squares to the truth, for targets that were scaled one by one."""
    columns = torch.stack([image.flatten().double(), torch.ones(image.numel(), dtype=torch.float64)], 1)
    solution = torch.linalg.lstsq(columns, clean.flatten().double()[:, None]).solution
    return (columns @ solution).view(image.shape).to(image)


def blend(noisy: list[Tensor], denoised: list[Tensor], clean: list[Tensor]) -> float:
    """Share of the noisy image, 0..1, whose blend with the denoised one has the smallest error over a set.

    It is above 0 where the truth holds some of the input's noise.
    """
    steps = torch.cat([(y - x).flatten() for y, x in zip(noisy, denoised, strict=True)]).double()
    wanted = torch.cat([(c - x).flatten() for c, x in zip(clean, denoised, strict=True)]).double()
    return float((steps @ wanted / (steps @ steps)).nan_to_num().clamp(0, 1))


def paired_interval(
    differences: list[float], subjects: list[str], *, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of paired differences, and the 95 % percentile bootstrap interval of that mean over subjects.

    Subjects are drawn with all their images (cluster bootstrap); the ends are equal where there is one subject alone.
    """
    groups = [
        [d for d, s in zip(differences, subjects, strict=True) if s == subject] for subject in dict.fromkeys(subjects)
    ]
    mean = float(np.mean(differences))
    if len(groups) == 1:
        return mean, mean, mean
    found = bootstrap(
        ([sum(group) for group in groups], [len(group) for group in groups]),
        lambda sums, counts, axis: sums.sum(axis) / counts.sum(axis),
        paired=True,
        n_resamples=draws,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return mean, float(found.low), float(found.high)
