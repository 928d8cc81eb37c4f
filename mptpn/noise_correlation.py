"""The correlation of an image's noise, from the energies of high-pass bands, and the blind spot that it asks for."""

import math

import torch
from torch import Tensor

from mptpn.noise_level import LAGS, RADIUS

BLIND = 0.2  # correlation that a blind spot must cover
LEAST = 0.05  # correlation of near pixels that is told from none
RIM = [i for i, (row, col) in enumerate(LAGS) if max(row, abs(col)) == RADIUS]
UNSURE = 0.5  # stated relative error of a level from which a bin is not used for the correlation


def correlation_map(alike: Tensor, found: Tensor, *, error: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation map [7, 7] and its standard errors from band energies and their errors [bands, bins]: 1 - E(lag) / E(far).

    Far are the lags at the rim of the map and the two beyond it: what raises or lowers all lags alike, as texture or a choice of quiet windows does, is no
    correlation. Each bin counts with its pixels and its noise, for correlation matters where the noise is, but only where all bands are well known, if
    there are such bins. The bins' disagreement is part of the error: noise correlates alike at all intensities, texture does not.

    Args:
        alike: energies of all bands from the same windows, for noise need not be equally strong in all of an image.
        found: energies of each band from the windows that it likes best.
        error: of the levels of found, relative. count: windows of each bin, [bins].
    """
    share = _share(error, count)
    lags = (alike * share).sum(1)[1:]
    far = (lags[RIM].sum() + 3 * lags[-2:].sum()) / (len(RIM) + 6)
    left = lags[:-2] / far
    unsure = (found * share * error).sum(1) / (found * share).sum(1)  # of log levels; the bins share their causes of error
    own = found[1:-2] / _far(found, error)
    weight = share * _far(found, error)
    scatter = ((own - _quantile(own, weight, 0.5)[:, None]).abs() * weight).sum(1) / weight.sum()
    return _lag_map((1 - left).clamp_min(-1)), _lag_map(torch.hypot(2 * left * torch.hypot(unsure[1:-2], unsure[-2:].amin()), scatter))


def near_by(alike: Tensor, found: Tensor, *, error: Tensor, count: Tensor) -> bool:
    """Whether pixels up to two apart correlate; arguments as in correlation_map.

    Against the lags at the rim of the map, some lag must reach 0.05 and twice what it may be wrong by: half of what the two kinds of windows differ by, and
    the largest value at the rim itself, where there is none.
    """
    share = _share(error, count)
    first, second = (1 - lags / lags[RIM].mean() for lags in ((energies * share).sum(1)[1:-2] for energies in (alike, found)))
    middle = (first + second).abs() / 2
    wrong = (first - second).abs() / 2 + middle[RIM].amax()
    return bool(((middle > LEAST) & (middle > 2 * wrong)).any())


def _share(error: Tensor, count: Tensor) -> Tensor:
    sure = (error[1:] < UNSURE).all(0)
    return count.double() * (sure if bool(sure.any()) else torch.ones_like(sure)) / error[1:].amax(0) ** 2


def _far(found: Tensor, error: Tensor) -> Tensor:
    """Variance of the noise of each bin from the pixels that are far apart, [bins]."""
    weight = error[-2:] ** -2
    return (found[-2:] * weight).sum(0) / weight.sum(0)


def coarseness(found: Tensor, error: Tensor, count: Tensor) -> tuple[float, float]:
    """Log of the level between far pixels, which structure raises, over that at the finest scale, which correlation lowers, and its stated error.

    The median of the bins: where noise correlates nearly all of them differ, where an image is textured some.
    """
    unsure = error[-2:].amin(0)
    weight = count / unsure**2
    ratio = float(_quantile((_far(found, error) / found[0]).sqrt()[None], weight, 0.5))
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


def outside(correlation: Tensor, hole: tuple[int, int]) -> Tensor:
    offset = torch.arange(-RADIUS, RADIUS + 1).abs()
    return correlation[(offset[:, None] > hole[0]) | (offset[None] > hole[1])]


def blind_hole(correlation: Tensor) -> tuple[int, int]:
    """Smallest half height and half width of a blind spot outside which no correlation of the map exceeds 0.2."""
    holes = sorted(((h, w) for h in range(RADIUS + 1) for w in range(RADIUS + 1)), key=lambda hole: (2 * hole[0] + 1) * (2 * hole[1] + 1))
    return next((hole for hole in holes if not len(out := outside(correlation, hole)) or float(out.abs().max()) < BLIND), (RADIUS, RADIUS))
