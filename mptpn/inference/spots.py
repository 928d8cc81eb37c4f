"""Spots: small discs that were removed, found by a matched filter against the residual's own noise."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import correlate

SPOTS = (3.0, 5.0)  # px, diameters of the discs by which removed small structures are found
RING = 2.5  # px, width of the ring around a disc whose mean is subtracted
# standard deviations of the filtered residual. On 21 results with nothing planted (13 real validation images,
# photographs under drawn noise) at most 1 maximum is above it; of 8 discs of 2 to 6 px and 2 sigma that were removed,
# 3 to 8 (on smooth CT, whose noise is as large as they are, 0 to 1)
SPOT = 5.5
OUTLIER = 4.0  # sigmas, at which single pixels are cut: a dead pixel is no structure
FEWEST = 256  # pixels from which the residual's own noise is taken
MIDDLE_OF_SQUARES = 0.455  # median of the square of a standard normal variable


def spot_count(residual: Tensor, valid: Tensor) -> int:
    """The number of places where the residual is like a small disc.

    Args:
        residual: [B, 1, H, W] in units of the noise, 0 where it is not valid. valid: same shape, bool.
    """
    cut = residual.clamp(-OUTLIER, OUTLIER)
    best = torch.zeros_like(cut)
    for diameter in SPOTS:
        disc = _disc(diameter, like=cut)
        reach = disc.shape[-1] // 2
        inside = _largest_around((~valid).to(cut), reach) == 0
        inside[..., :reach, :] = inside[..., -reach:, :] = inside[..., :reach] = inside[..., -reach:] = False
        if int(inside.sum()) < FEWEST:
            continue
        found = correlate(F.pad(cut, (reach,) * 4), disc).abs()
        spread = float(found[inside].median()) / MIDDLE_OF_SQUARES**0.5
        best = torch.maximum(best, torch.where(inside, found / max(spread, 1e-12), 0.0))
    peaks = (best == _largest_around(best, int(max(SPOTS) / 2 + RING))) & (best > SPOT)
    return int(peaks.sum())


def _largest_around(image: Tensor, reach: int) -> Tensor:
    """The largest value of [B, 1, H, W] in squares of 2 reach + 1 px around each pixel: along rows, then columns."""
    side = 2 * reach + 1
    return F.max_pool2d(F.max_pool2d(image, (1, side), 1, (0, reach)), (side, 1), 1, (reach, 0))


def _disc(diameter: float, *, like: Tensor) -> Tensor:
    """Mean over a disc less the mean over the ring around it, a filter [K, K]."""
    reach = math.ceil(diameter / 2 + RING)
    step = torch.arange(-reach, reach + 1, dtype=like.dtype)
    radius = torch.hypot(step[:, None], step)
    disc, ring = radius <= diameter / 2, (radius > diameter / 2) & (radius <= diameter / 2 + RING)
    return (disc / disc.sum() - ring / ring.sum()).to(like)
