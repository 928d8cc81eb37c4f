"""The correlation of an image's noise, from the energies of high-pass bands, and the blind spot that it asks for."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mptpn.networks.noise_level import LAGS, RADIUS
from mptpn.noise.bands import Bands

BLIND = 0.2  # correlation that a blind spot must cover wherever it is
LEAST = 0.05  # correlation of near pixels that is told from none
RIM = [i for i, (row, col) in enumerate(LAGS) if max(row, abs(col)) == RADIUS]
NEAR = torch.tensor([max(row, abs(col)) < RADIUS for row, col in LAGS])
VOTERS = 6  # subjects of a set from which each is asked on its own
# correlation that the texture of photographs shows in the mean of eight images under white noise, at most
ALIKE = 0.025


def correlation_map(bands: Bands) -> tuple[Tensor, Tensor]:
    """Correlation map [7, 7] and its standard errors from band energies: 1 - E(lag) / E(far).

    Far are the lags at the rim of the map and the two beyond it: what raises or lowers all lags alike, as texture or a
    choice of quiet windows does, is no correlation. Each bin counts with its pixels and its noise, for correlation
    matters where the noise is. The bins' disagreement is part of the error: noise correlates alike at all intensities,
    texture does not.
    """
    share, found = bands.share, bands.found
    lags = (bands.alike * share).sum(1)[1:]
    far = (lags[RIM].sum() + 3 * lags[-2:].sum()) / (len(RIM) + 6)
    left = lags[:-2] / far
    # of log levels; the bins share their causes of error
    unsure = (found * share * bands.error).sum(1) / (found * share).sum(1)
    own = found[1:-2] / _far(bands)
    weight = share * _far(bands)
    scatter = ((own - _quantile(own, weight, 0.5)[:, None]).abs() * weight).sum(1) / weight.sum()
    return _lag_map((1 - left).clamp_min(-1)), _lag_map(
        torch.hypot(2 * left * torch.hypot(unsure[1:-2], unsure[-2:].amin()), scatter)
    )


def near_by(bands: Bands, *, each: Sequence[Bands] = ()) -> bool:
    """Whether pixels up to two apart correlate, told from all images of a set together, or by its subjects one by one.

    Against the lags at the rim of the map some lag must reach 0.05. Either that is twice what it may be wrong by: half
    of what the two kinds of windows differ by, and the largest value at the rim itself, where there is none. Or six
    subjects or more agree: their mean is three standard errors above what texture shows in all images alike. (Slices of
    one volume show the same anatomy, and would agree on it.)
    """
    first, second = _against_rim(bands)
    middle = (first + second) / 2
    sure = middle.abs() > 2 * ((first - second).abs() / 2 + middle[RIM].abs().amax())
    if len(each) >= VOTERS:
        votes = torch.stack([sum(_against_rim(one)) / 2 for one in each])
        sure |= (votes.mean(0).abs() - 3 * votes.std(0) / len(votes) ** 0.5 > ALIKE) & NEAR
    return bool(((middle.abs() > LEAST) & sure).any())


def _against_rim(bands: Bands) -> tuple[Tensor, Tensor]:
    """Correlation at each lag if there is none at the rim, from the same windows and from those that each band likes
    best, [lags].
    """
    return tuple(
        1 - lags / lags[RIM].mean()
        for lags in ((energies * bands.share).sum(1)[1:-2] for energies in (bands.alike, bands.found))
    )


def _far(bands: Bands) -> Tensor:
    """Variance of the noise of each bin from the pixels that are far apart, [bins]."""
    weight = bands.error[-2:] ** -2
    return (bands.found[-2:] * weight).sum(0) / weight.sum(0)


def coarseness(bands: Bands) -> tuple[float, float]:
    """Log of the level between far pixels, which structure raises, over that at the finest scale, which correlation
    lowers, and its stated error.

    The median of the bins: where noise correlates nearly all of them differ, where an image is textured some.
    """
    unsure = bands.error[-2:].amin(0)
    weight = bands.count / unsure**2
    ratio = float(_quantile((_far(bands) / bands.found[0]).sqrt()[None], weight, 0.5))
    return math.log(ratio), float((weight * unsure).sum() / weight.sum())


def _quantile(values: Tensor, weight: Tensor, share: float) -> Tensor:
    """Weighted quantile of each row of [rows, bins], [rows]."""
    order = values.argsort(1)
    below = weight.expand_as(values).gather(1, order).cumsum(1) < share * weight.sum()
    return values.gather(1, order).gather(1, below.sum(1, keepdim=True).clamp_max(values.shape[1] - 1))[:, 0]


def _lag_map(values: Tensor) -> Tensor:
    out = torch.zeros(2 * RADIUS + 1, 2 * RADIUS + 1, dtype=torch.float64)
    out[RADIUS, RADIUS] = 1
    for (row, col), value in zip(LAGS, values, strict=True):
        out[RADIUS + row, RADIUS + col] = out[RADIUS - row, RADIUS - col] = value
    return out


def outside(correlation: Tensor, half_size: tuple[int, int]) -> Tensor:
    offset = torch.arange(-RADIUS, RADIUS + 1).abs()
    return correlation[(offset[:, None] > half_size[0]) | (offset[None] > half_size[1])]


def blind_spot_half_size(correlation: Tensor) -> tuple[int, int]:
    """Smallest half height and half width of a blind spot outside which no correlation of the map exceeds 0.2.

    Where none does anywhere, the blind spot covers neighbours that correlate by more than 0.05: they tell the noise of
    a pixel best, and its content is told nearly as well without them. (Not so beside a strong correlation: a map's
    errors are then larger, and a blind spot of needless width costs more.)
    """
    near = torch.zeros_like(correlation)
    near[RADIUS - 1 : RADIUS + 2, RADIUS - 1 : RADIUS + 2] = correlation[
        RADIUS - 1 : RADIUS + 2, RADIUS - 1 : RADIUS + 2
    ]
    half_size = _covering(correlation, BLIND)
    return half_size if half_size != (0, 0) else _covering(near, LEAST)


def _covering(correlation: Tensor, most: float) -> tuple[int, int]:
    holes = sorted(
        ((h, w) for h in range(RADIUS + 1) for w in range(RADIUS + 1)),
        key=lambda half_size: (2 * half_size[0] + 1) * (2 * half_size[1] + 1),
    )
    return next(
        (
            half_size
            for half_size in holes
            if not len(out := outside(correlation, half_size)) or float(out.abs().max()) < most
        ),
        (RADIUS, RADIUS),
    )
