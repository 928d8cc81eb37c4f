"""Noise level of an image: a small network says how surely the energy of a window's high-pass bands is noise."""

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import as_file, files

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.filters import SECOND_DIFFERENCE, autocorrelation, correlate, has_noise, lagged, one_thread, robust_level
from mptpn.networks.weights import load_weights

SMALLEST = 16  # px; below that, the window statistics are all border
WINDOW, STRIDE = 13, 4  # px, side of the local averages and step between them
RADIUS = 3  # px, largest lag of the correlation map
# one of each pair of opposite lags
LAGS = [(row, col) for row in range(RADIUS + 1) for col in range(-RADIUS, RADIUS + 1) if row > 0 or col > 0]
# lags at which noise is taken to be independent, so that half the squared difference is its variance
FAR = [(0, 6), (6, 0)]
BANDS = 1 + len(LAGS) + len(FAR)  # the second difference, then half the squared difference at each lag
# px left, right, above and below, where a band is not known: its square stands between the pixels that it takes
MARGINS = [(1, 1, 1, 1)] + [
    (abs(col) // 2, abs(col) - abs(col) // 2, row // 2, row - row // 2) for row, col in LAGS + FAR
]
HELD = 8  # px at the smallest or largest value from which it clips
LEAST_PRECISION = 4  # of the finest band, all windows together: the level is known to 50 %
CLIPPED = 0.05  # share of clipped pixels from which a window's variance is cut short


class NoiseLevelNetwork(nn.Module):
    """Precision of the noise in local energies of 27 high-pass bands, after CNN_est (Wu et al. 2020).

    CNN_est averages a function of the pixels and cannot separate texture from noise when levels differ. This network
    sees the local energies of all bands relative to a robust level, and their low quantiles over the image; it states
    the precision of each energy, learned from its own errors.

    forward(noisy [B, 1, H, W], valid, counts, variance) -> log precision [B, bands, h, w], energy [B, bands, h, w]
    (intensity squared), mean intensity [B, 1, h, w]; H, W >= 16, h = ceil(H / 4). valid: same shape as noisy, bool;
    None: every pixel. counts: whether 0 is a number of photons, and no sign of clipping or background. variance: of the
    noise at an intensity, as estimated before, to which energies are compared; None: to a robust level. The energy of
    band 0 is the variance of white noise; that of lag k is variance (1 - correlation at k). Gain and offset of the
    image scale the energies and change no precision.
    """

    def __init__(self, *, width: int = 48):
        super().__init__()
        first, second = _OneByOne(3 * BANDS, width), nn.Conv2d(width, width, 3, padding=1)
        third, fourth = _OneByOne(width, width), nn.Conv2d(width, width, 3, padding=1)
        hidden = (first, nn.ReLU(), second, nn.ReLU(), third, nn.ReLU(), fourth, nn.ReLU())
        self.layers = nn.Sequential(*hidden, _OneByOne(width, BANDS))
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.ones_(self.layers[-1].bias)
        self.log_floor = nn.Parameter(torch.full((BANDS,), -8.0))  # error variance that no number of windows takes away
        self.register_buffer("log_bias", torch.zeros(BANDS))  # of the level, set by calibrate
        self.register_buffer("spread", torch.ones(()))  # true errors over stated ones, 68 % of them, set by calibrate
        # stated errors that hold 95 % of the true ones, set by calibrate
        self.register_buffer("tail", torch.tensor(1.96))

    def forward(
        self,
        noisy: Tensor,
        valid: Tensor | None = None,
        *,
        counts: bool = False,
        variance: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if noisy.ndim != 4 or noisy.shape[1] != 1 or min(noisy.shape[2:]) < SMALLEST:
            raise ValueError(
                f"shape {tuple(noisy.shape)}: give gray images [B, 1, H, W] of at least {SMALLEST} x {SMALLEST} px."
            )
        given, (valid, whole) = valid, valid_masks(noisy, valid, counts=counts)
        squares, numbers = band_sums(noisy, valid)
        energy = squares / numbers.clamp_min(1e-6)
        known = (numbers > 0.3 * window_sums(torch.ones_like(valid))) & whole
        mean = window_sums(noisy * valid) / window_sums(valid).clamp_min(1e-6)
        if variance is None:
            precision = self._precision(energy / robust_level(noisy, given) ** 2, known)
            if not bool(whole.all()) and float((precision.exp() * known)[:, 0].sum()) < LEAST_PRECISION:
                precision = self._precision(energy / robust_level(noisy, _within(whole, given, noisy)) ** 2, known)
        else:
            precision = self._precision(energy / variance(mean.double()).clamp_min(1e-12).to(energy), known)
        return precision.masked_fill(~known, -30.0), energy * (-2 * self.log_bias).exp()[:, None, None], mean

    def _precision(self, energy: Tensor, known: Tensor) -> Tensor:
        """Log precision of each band by its energy relative to that of the noise, both [B, bands, h, w]."""
        logs = (energy + 1e-3).log()
        quantiles = quantiles_of(logs.masked_fill(~known, math.nan).flatten(2), (0.1, 0.5)).flatten(1)
        logs = logs.masked_fill(~known, 0.0)
        features = torch.cat([logs, quantiles[:, :, None, None].expand(-1, -1, *logs.shape[2:])], 1)
        return self.layers(features).clamp(-8, 8)


def _within(whole: Tensor, valid: Tensor | None, noisy: Tensor) -> Tensor:
    """The valid pixels, [B, 1, H, W] bool, of whole windows: a dark that was cut off at 0 holds half of its noise, and
    beside that the noise of the light would seem to be structure.
    """
    inside = _pixels(whole, noisy)
    return inside if valid is None else inside & valid


def part_between(noisy: Tensor, valid: Tensor | None, ends: tuple[float, float]) -> Tensor:
    """The valid pixels of an image [H, W] where the local mean, and those next to it, are between two intensities.

    Bool, [H, W]. Next to it: a window beyond an edge that takes a few bright pixels is not bright.
    """
    inside = torch.ones_like(noisy) if valid is None else valid.to(noisy)
    noisy, inside = noisy[None, None], inside[None, None]
    mean = window_sums(noisy * inside) / window_sums(inside).clamp_min(1e-6)
    off = ((mean < ends[0]) | (mean > ends[1])).to(noisy)
    near = F.max_pool2d(off, 3, 1, 1) < 0.5
    return (_pixels(near, noisy) & (inside > 0))[0, 0]


def _pixels(windows: Tensor, noisy: Tensor) -> Tensor:
    """Of windows [B, 1, h, w] bool, STRIDE x STRIDE pixels of an image [B, 1, H, W] from the middle of each, bool."""
    return F.interpolate(windows.to(noisy), scale_factor=STRIDE)[..., : noisy.shape[2], : noisy.shape[3]] > 0


class _OneByOne(nn.Conv2d):
    """A convolution of 1 x 1 px, which oneDNN rounds otherwise for each number of threads."""

    def __init__(self, features: int, out: int):
        super().__init__(features, out, 1)

    def forward(self, features: Tensor) -> Tensor:
        with one_thread():
            return super().forward(features)


def valid_masks(noisy: Tensor, valid: Tensor | None = None, *, counts: bool = False) -> tuple[Tensor, Tensor]:
    """Which of the valid pixels, and which windows, hold the noise as it is.

    Not pixels in constant surroundings (zeroed background, padding), nor a window of which more than 5 % are clipped
    (the smallest or largest value where HELD pixels or more hold it): its variance is cut short. A few clipped pixels
    are valid: without its tail noise would seem weaker still. Where nothing would be left, everything is valid.

    Returns:
        pixels [B, 1, H, W], 1 or 0, and windows [B, 1, h, w] bool.
    """
    inside, low, high = has_noise(noisy) | (counts & (noisy == 0)), noisy, noisy
    if valid is not None:
        inside = inside & valid
        low, high = noisy.masked_fill(~valid, math.inf), noisy.masked_fill(~valid, -math.inf)
    ends = torch.stack([low.flatten(1).amin(1), high.flatten(1).amax(1)], 1)
    held = [(noisy == end.view(-1, 1, 1, 1)) & inside for end in ends.unbind(1)[int(counts) :]]
    clipped = sum(at & (at.flatten(1).sum(1) >= HELD).view(-1, 1, 1, 1) for at in held) > 0
    every = torch.ones_like(noisy) if valid is None else valid.to(noisy)
    nothing = (inside.flatten(1).sum(1) < 64).view(-1, 1, 1, 1)
    valid = torch.where(nothing, every, inside.to(noisy))
    share = window_sums(clipped.to(noisy)) / window_sums(torch.ones_like(noisy))
    whole = share <= CLIPPED
    return valid, whole | ~whole.flatten(1).any(1).view(-1, 1, 1, 1) | nothing


def band_sums(noisy: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over windows of the squares of each band, [B, bands, h, w], and of the pixels at which all that the band
    takes is valid, the same or [1, bands, h, w].
    """
    if not bool(valid.all()):
        each = ([window_sums(x) for x in band] for band in band_squares(noisy, valid))
        squares, numbers = zip(*each, strict=True)
    else:
        squares = [window_sums(F.pad(square, margins)) for square, margins in _squares(noisy)]
        numbers = [_rectangle_sums(noisy, margins) for margins in MARGINS]
    return torch.cat(squares, 1), torch.cat(numbers, 1)


def band_squares(noisy: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Band by band its squares at each pixel, and whether all pixels that it takes are valid, each [B, 1, H, W]."""
    around = correlate(valid, torch.ones(3, 3).to(valid)) > 8.5
    both = [around.to(noisy), *(torch.mul(*lagged(valid, row, col)) for row, col in LAGS + FAR)]
    for (square, margins), inside in zip(_squares(noisy), both, strict=True):
        yield F.pad(square * inside, margins), F.pad(inside, margins)


def _squares(noisy: Tensor) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Band by band its squares where the image holds all its pixels, and the margins around them, see MARGINS."""
    yield correlate(noisy, SECOND_DIFFERENCE.to(noisy)).square(), MARGINS[0]
    for (row, col), margins in zip(LAGS + FAR, MARGINS[1:], strict=True):
        yield torch.sub(*lagged(noisy, row, col)).square_().div_(2), margins


def _rectangle_sums(like: Tensor, margins: Sequence[int]) -> Tensor:
    """window_sums of an image of ones within margins of zeros, [1, 1, h, w], to the last bit."""
    left, right, top, bottom = margins
    sides = zip(like.shape[2:], (top, left), (bottom, right), strict=True)
    ones = (F.pad(like.new_ones(1, 1, side - first - last), (first, last)) for side, first, last in sides)
    rows, columns = (F.conv1d(x, x.new_ones(1, 1, WINDOW), stride=STRIDE, padding=WINDOW // 2)[0, 0] for x in ones)
    return torch.outer(rows, columns)[None, None] / WINDOW**2


def quantiles_of(values: Tensor, shares: Sequence[float]) -> Tensor:
    """Quantiles of each row of [B, rows, n] without its NaN, [B, shares, rows], as torch.nanquantile; 0 of no value."""
    last = (~values.isnan()).sum(2, keepdim=True).to(values) - 1
    ranks = [(last * share).clamp_min(0) for share in shares]
    ends = [(rank.floor().long(), rank.ceil().long()) for rank in ranks]
    # some ranks need no sort; NaN come last
    kept = np.partition(values.cpu().numpy(), torch.stack([at for pair in ends for at in pair]).unique().tolist(), 2)
    ordered = torch.from_numpy(kept).to(values)
    found = []
    for rank, pair in zip(ranks, ends, strict=True):
        low, high = (ordered.gather(2, at) for at in pair)
        found.append(low.lerp(high, rank - pair[0])[..., 0])
    return torch.stack(found, 1).nan_to_num()


def window_sums(x: Tensor) -> Tensor:
    """Sums over windows, divided by the window's area, on a grid of every fourth pixel."""
    return F.avg_pool2d(x, WINDOW, STRIDE, padding=WINDOW // 2)


def band_factors(covariance: Tensor) -> Tensor:
    """Energy of each band, [bands], of noise of this covariance at lags -r..r, [2 r + 1, 2 r + 1]; 0 beyond."""
    radius = max(len(covariance) // 2, *FAR[0])
    covariance = F.pad(covariance, (radius - len(covariance) // 2,) * 4)
    middle = covariance[radius - 2 : radius + 3, radius - 2 : radius + 3]
    second = (autocorrelation(SECOND_DIFFERENCE).to(covariance) * middle).sum()
    lags = torch.stack([covariance[radius, radius] - covariance[radius + row, radius + col] for row, col in LAGS + FAR])
    return torch.cat([second[None], lags])


def stated_precision(network: NoiseLevelNetwork, total: Tensor) -> Tensor:
    """1 / variance of the log level, from the sum of the windows' precisions [B, bands, ...]."""
    floor = network.log_floor.exp().view(1, -1, *[1] * (total.ndim - 2))
    return 1 / (floor + 1 / total.clamp_min(1e-9)) / network.spread**2


def pretrained_noise_level() -> NoiseLevelNetwork:
    """The pretrained network, trained by notebooks/support/train_noise_level.py on BSDS500 and DIV2K."""
    with as_file(files("mptpn") / "weights" / "noise_level.safetensors") as path:
        return load_weights(path, NoiseLevelNetwork)[0]
