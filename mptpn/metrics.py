"""Distances to a clean image, what correlation a residual holds, and overlaps with a true mask."""

import math
from collections.abc import Sequence

import numpy as np
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


# Overlap of masks. Empty truth: an empty mask of an empty truth scores 1, any other mask of it scores 0.


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice coefficient of two masks [H, W], 2 |A B| / (|A| + |B|); 1 where both are empty."""
    both, total = _overlap(mask, truth)
    return 2 * both / total if total else 1.0


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union (Jaccard) of two masks [H, W]; 1 where both are empty."""
    both, total = _overlap(mask, truth)
    return both / (total - both) if total else 1.0


def pooled_dice(masks: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Dice of all pixels of all images together: another measure than the mean over images.

    The pooled IoU is D / (2 - D); the mean IoU is no such function of the mean Dice.
    """
    both, total = (sum(one) for one in zip(*map(_overlap, masks, truths), strict=True))
    return 2 * both / total if total else 1.0


def aggregated_jaccard(labels: np.ndarray, truth: np.ndarray) -> float:
    """Aggregated Jaccard index of numbered objects, 0 outside (Kumar et al. 2017, Algorithm 1); 1 where both are empty.

    Each true object takes the found one of the best IoU that is still free; found objects that no true one took count
    in the union.
    """
    if labels.shape != truth.shape:
        raise ValueError(f"shapes {labels.shape} and {truth.shape} differ; compare masks of one size.")
    truth_area, area = np.bincount(truth.ravel()), np.bincount(labels.ravel())
    if truth_area[1:].sum() + area[1:].sum() == 0:
        return 1.0
    pairs = np.bincount(
        truth.ravel().astype(np.int64) * len(area) + labels.ravel(), minlength=len(truth_area) * len(area)
    )
    pairs = pairs.reshape(len(truth_area), len(area))
    both, union, free = 0, 0, area.astype(bool)
    free[0] = False
    for number in np.flatnonzero(truth_area[1:]) + 1:
        near = np.flatnonzero((pairs[number] > 0) & free)
        if not len(near):
            union += truth_area[number]
            continue
        ratio = pairs[number, near] / (truth_area[number] + area[near] - pairs[number, near])
        best = near[ratio.argmax()]
        both += pairs[number, best]
        union += truth_area[number] + area[best] - pairs[number, best]
        free[best] = False
    return float(both / (union + area[free].sum()))


def hausdorff_95(mask: np.ndarray, truth: np.ndarray) -> float:
    """95th percentile of the distances between the borders of two masks, both ways together, px.

    0 where both are empty, infinite where one is.
    """
    from scipy import ndimage

    _overlap(mask, truth)
    if not mask.any() or not truth.any():
        return 0.0 if mask.any() == truth.any() else math.inf
    borders = [one & ~ndimage.binary_erosion(one) for one in (mask.astype(bool), truth.astype(bool))]
    away = [ndimage.distance_transform_edt(~border) for border in borders]
    distances = np.concatenate([away[1][borders[0]], away[0][borders[1]]])
    return float(np.percentile(distances, 95))


def _overlap(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Pixels in both masks, and in the one plus in the other."""
    if np.shape(mask) != np.shape(truth):
        raise ValueError(f"shapes {np.shape(mask)} and {np.shape(truth)} differ; compare masks of one size.")
    mask, truth = np.asarray(mask, bool), np.asarray(truth, bool)
    return int((mask & truth).sum()), int(mask.sum()) + int(truth.sum())
