"""The correlation of an image's noise, from the energies of high-pass bands, and the blind spot that it requires."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mptpn.networks.noise_level import FAR, LAGS, RADIUS
from mptpn.noise.bands import Bands

STRONG_CORRELATION = 0.2  # correlation that a blind spot must cover at every lag
WEAK_CORRELATION = 0.05  # smallest correlation of near pixels that is told from none
RIM = [i for i, (row, col) in enumerate(LAGS) if max(row, abs(col)) == RADIUS]
NEAR = torch.tensor([max(row, abs(col)) < RADIUS for row, col in LAGS])
MIN_SUBJECTS = 6  # from which the subjects of a set are compared one by one
# largest correlation that the texture of eight photographs shows in the mean under white noise
TEXTURE_CORRELATION = 0.025


def correlation_map(bands: Bands) -> tuple[Tensor, Tensor]:
    """Correlation map [7, 7] and its standard errors from band energies: 1 - E(lag) / E(far).

    Far are the lags at the rim of the map and the two beyond it: what changes all lags alike, as texture or a choice of
    quiet windows does, is no correlation. Each bin counts with its pixels and its noise. The bins' disagreement is part
    of the error: noise correlates alike at all intensities, texture does not.
    """
    weight, energy = bands.weight, bands.energy
    lags = (bands.common_energy * weight).sum(1)[1:]
    ratio = lags[:-2] / far_energy(lags)
    # of log levels; the bins share their causes of error
    error = (energy * weight * bands.error).sum(1) / (energy * weight).sum(1)
    own = energy[1:-2] / _far_variance(bands)
    noise_weight = weight * _far_variance(bands)
    scatter = ((own - _quantile(own, noise_weight, 0.5)[:, None]).abs() * noise_weight).sum(1) / noise_weight.sum()
    errors = torch.hypot(2 * ratio * torch.hypot(error[1:-2], error[-2:].amin()), scatter)
    return _lag_map((1 - ratio).clamp_min(-1)), _lag_map(errors)


def far_energy(lags: Tensor) -> Tensor:
    """Energy at lags where noise is taken to be independent, [...], of the energies at all lags, [lags, ...]."""
    return (lags[RIM].sum(0) + 3 * lags[-len(FAR) :].sum(0)) / (len(RIM) + 3 * len(FAR))


def neighbours_correlate(bands: Bands, *, subjects: Sequence[Bands] = ()) -> bool:
    """Whether pixels up to two apart correlate, from all images of a set together, or from its subjects one by one.

    Relative to the lags at the rim of the map some lag must reach 0.05. Either that is twice its possible error: half
    the difference of the two kinds of windows, and the largest value at the rim itself, where there is none. Or six
    subjects or more agree: their mean is three standard errors above what texture shows in all images alike. (Slices of
    one volume show the same anatomy, and would agree on it.)
    """
    first, second = _relative_to_rim(bands)
    mean = (first + second) / 2
    known = mean.abs() > 2 * ((first - second).abs() / 2 + mean[RIM].abs().amax())
    if len(subjects) >= MIN_SUBJECTS:
        each = torch.stack([sum(_relative_to_rim(one)) / 2 for one in subjects])
        known |= (each.mean(0).abs() - 3 * each.std(0) / len(each) ** 0.5 > TEXTURE_CORRELATION) & NEAR
    return bool(((mean.abs() > WEAK_CORRELATION) & known).any())


def _relative_to_rim(bands: Bands) -> tuple[Tensor, Tensor]:
    """Correlation at each lag if there is none at the rim, by common_energy and by energy, [lags] each."""
    return tuple(
        1 - lags / lags[RIM].mean()
        for lags in ((energies * bands.weight).sum(1)[1:-2] for energies in (bands.common_energy, bands.energy))
    )


def _far_variance(bands: Bands) -> Tensor:
    """Variance of the noise of each bin from pixels that are far apart, [bins]."""
    weight = bands.error[-2:] ** -2
    return (bands.energy[-2:] * weight).sum(0) / weight.sum(0)


def log_level_ratio(bands: Bands) -> tuple[float, float]:
    """Log of the level from far pixels over that at the finest scale, median of the bins, and its stated error.

    Structure raises the first, correlation lowers the second; correlation does so in nearly all bins.
    """
    error = bands.error[-2:].amin(0)
    weight = bands.count / error**2
    ratio = float(_quantile((_far_variance(bands) / bands.energy[0]).sqrt()[None], weight, 0.5))
    return math.log(ratio), float((weight * error).sum() / weight.sum())


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
    """The correlations of a map [7, 7] that a blind spot of this half height and half width leaves out, [lags]."""
    offset = torch.arange(-RADIUS, RADIUS + 1).abs()
    return correlation[(offset[:, None] > half_size[0]) | (offset[None] > half_size[1])]


def blind_spot_half_size(correlation: Tensor) -> tuple[int, int]:
    """Smallest half height and half width of a blind spot outside which no correlation of the map exceeds 0.2.

    Where none does anywhere, the blind spot covers neighbours that correlate by more than 0.05. (Not so beside a strong
    correlation: a map's errors are then larger, and a blind spot of needless width costs more.)
    """
    half_size = _covering(correlation, STRONG_CORRELATION)
    if half_size != (0, 0):
        return half_size
    near = torch.zeros_like(correlation)
    square = slice(RADIUS - 1, RADIUS + 2)
    near[square, square] = correlation[square, square]
    return _covering(near, WEAK_CORRELATION)


def _covering(correlation: Tensor, limit: float) -> tuple[int, int]:
    """Half size of the smallest blind spot outside which the correlation is below the limit."""
    half_sizes = [(h, w) for h in range(RADIUS + 1) for w in range(RADIUS + 1)]
    half_sizes.sort(key=lambda half_size: (2 * half_size[0] + 1) * (2 * half_size[1] + 1))
    for half_size in half_sizes[:-1]:
        if float(outside(correlation, half_size).abs().max()) < limit:
            return half_size
    return half_sizes[-1]
