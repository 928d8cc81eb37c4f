"""Stripes: offsets that whole rows or columns have, as of line detectors and scanners; no network here removes them."""

import torch
from torch import Tensor

STRIPS = 4  # side by side: an offset of a line is in all of them, structure seldom
SHARED = 6  # variance of the second difference of independent lines, over theirs
OUTLIER = 4.0  # robust standard deviations, at which second differences are cut: edges along a line
SHIFTS = range(5, 29)  # px, by which strips are moved against each other: what they then share is chance
LEAST = 64  # px, side of an image in which stripes are looked for


def stripe_level(noisy: Tensor, valid: Tensor) -> tuple[float, float]:
    """Standard deviation of the offset that a row has throughout, and how many standard errors that is above chance.

    From the covariance of the strips' second differences down the rows.

    Args:
        noisy: [B, 1, H, W] in units of the noise, valid: same shape, bool; rows half masked in a strip do not count.
    """
    height, width = noisy.shape[2:]
    if min(height, width) < LEAST:
        return 0.0, 0.0
    side = width // STRIPS
    whole = [x[:, 0, :, : STRIPS * side].double().unflatten(2, (STRIPS, side)) for x in (noisy * valid, valid)]
    total, count = (x.sum(3) for x in whole)  # [B, H, STRIPS]
    known = (count >= side / 2).all(2, keepdim=True)
    second = (total / count.clamp_min(1)).diff(n=2, dim=1)
    good = known[:, 2:] & known[:, 1:-1] & known[:, :-2]
    kept = second[good.expand_as(second)]
    if len(kept) < STRIPS * LEAST / 2:
        return 0.0, 0.0
    most = OUTLIER * float(kept.abs().median()) / 0.6745
    second = torch.where(good, second.clamp(-most, most), 0.0)
    moved = [
        torch.stack([second[..., i].roll(i * shift, 1) for i in range(STRIPS)], -1)
        for shift in SHIFTS
        if STRIPS * shift < height
    ]
    found, *chance = (_covariance(x) / float(good.double().mean()) for x in (second, *moved))
    spread = torch.tensor(chance).square().mean().sqrt().clamp_min(1e-12)
    return max(0.0, found) ** 0.5, found / float(spread)


def _covariance(second: Tensor) -> float:
    """Mean covariance of two strips, of their lines themselves."""
    pairs = second.sum(2).square().mean() - second.square().sum(2).mean()
    return float(pairs) / (STRIPS * (STRIPS - 1)) / SHARED
