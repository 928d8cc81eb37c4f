"""Energies of an image's high-pass bands, as the noise-level network measures them, by intensity and by place."""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from mptpn.networks import NoiseLevelNetwork, pretrained_noise_level
from mptpn.networks.noise_level import BANDS, SMALLEST, STRIDE, band_factors, part_between, stated_precision
from mptpn.noise.models import NoiseModel
from mptpn.noise.photons import count_step
from mptpn.tiling import spread

TILE, MAX_TILES = 1024, 12  # px and number: of a larger image, tiles that are spread over it are measured
MIN_BIN_SHARE = 0.01  # of the windows in an intensity bin
SQUARE = 64  # px, side of the squares whose levels are measured one by one
ROUNDING = 1e-6  # of the largest intensity: levels below it are rounding errors of float32
ROUNDS = 20  # of the fit of levels by image and by bin
MAX_LEVEL_ERROR = 0.5  # stated relative error of a level from which the level counts as unknown


@dataclass(frozen=True)
class Measurement:
    """What the network measured in the windows of one image, or of a part of it, float64.

    Attributes:
        precision, energy: log precision and energy of each band, [bands, windows]. mean: intensity, [windows].
        place: number of the square of 64 px that holds the window's center, [windows], int64.
        counts: what one photon adds to an image of counted photons, in its unit; 0 of any other image.
        number: of the image; parts of one image share it. subject: whom the image is of; images of one subject show the
            same things.
    """

    precision: Tensor
    energy: Tensor
    mean: Tensor
    place: Tensor
    number: int = 0
    subject: Hashable = 0
    counts: float = 0.0

    @property
    def valid(self) -> Tensor:
        """Windows that hold noise, [windows], bool: constant ones have no energy but that of rounding."""
        return (self.precision[0] > -20) & (self.energy[0] > (ROUNDING * self.mean.abs().amax()) ** 2)

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "Measurement":
        """The measurement of the image times scale plus zero, which the network does not depend on."""
        moved = {"energy": self.energy * scale**2, "mean": self.mean * scale + zero, "counts": self.counts * scale}
        return replace(self, **moved)

    def with_part(self, part: "Measurement") -> "Measurement":
        """This measurement, with the windows that hold noise in that of a part of the image taken from there."""
        own = part.valid
        names = ("precision", "energy", "mean")
        return replace(self, **{name: torch.where(own, getattr(part, name), getattr(self, name)) for name in names})


@dataclass(frozen=True)
class Bands:
    """Energies of the bands by intensity, float64.

    Attributes:
        energy: of each band, from the windows that suit this band best, [bands, bins].
        common_energy: of each band, from the windows that suit all bands, [bands, bins]; noise need not be equally
            strong in all of an image.
        intensity: mean of the windows of energy. error: relative error of the levels of energy. Both [bands, bins].
        count: windows of each bin, [bins].
        level_spread: ratio of the levels of images between their quantiles of 5 and 95 %; 1 for one image.
        mean: intensity of all windows. valid_share: share of the windows that hold noise.
    """

    energy: Tensor
    common_energy: Tensor
    intensity: Tensor
    error: Tensor
    count: Tensor
    level_spread: float
    mean: float
    valid_share: float

    @property
    def weight(self) -> Tensor:
        """Weight of each bin for the correlation, [bins]: its windows over its variance.

        Bins in which a band is not known count only where there are no others.
        """
        known = (self.error[1:] < MAX_LEVEL_ERROR).all(0)
        used = known if bool(known.any()) else torch.ones_like(known)
        return self.count.double() * used / self.error[1:].amax(0) ** 2


@torch.no_grad()
def measure(
    image: Tensor,
    *,
    valid: Tensor | None = None,
    counts: float | None = None,
    number: int = 0,
    subject: Hashable = None,
    network: NoiseLevelNetwork | None = None,
    noise_model: NoiseModel | None = None,
    between: tuple[float, float] | None = None,
) -> Measurement:
    """Measure the band energies of an image, which is nearly all the time that an estimate takes.

    Args:
        image: [1, C, H, W] with H, W >= 16; the channels count as further parts.
        valid: same shape, bool; False: pixels that no band takes. None: every pixel counts.
        counts: see Measurement; None: as the image shows.
        number: names the image in messages, and among the images of a set. subject: see Measurement; None: its own.
        network: trained and calibrated; None: the pretrained one.
        noise_model: as estimated before, so that noise that is stronger in the light is not taken for structure there.
        between: local means of the part that is measured as an image of its own; the rest holds nothing. None: all.
    Raises:
        ValueError: too small, constant or not finite.
    """
    if image.ndim != 4 or min(image.shape[2:]) < SMALLEST:
        raise ValueError(
            f"image {number} has shape {tuple(image.shape)}; give [1, C, H, W] of at least {SMALLEST} x {SMALLEST} px."
        )
    if not torch.isfinite(image).all():
        raise ValueError(f"image {number} holds NaN or infinite pixels; replace or crop them first.")
    tiles = list(_tiles_of(image, valid, between))
    if not tiles:
        raise ValueError(f"image {number} is constant, {float(image.amin()):g} everywhere; it holds no noise.")
    network = network or pretrained_network()
    if counts is None:
        counts = count_step(image, valid) if image.shape[1] == 1 else 0.0
    known = {"counts": counts > 0, "variance": noise_model and noise_model.variance}
    parts = [network(tile[None, None], None if valid is None else valid[None, None], **known) for tile, valid in tiles]
    places = _places([mean.shape[2:] for _, _, mean in parts])
    precision, energy, mean = (
        torch.cat([x.double().flatten(2)[0] for x in column], 1) for column in zip(*parts, strict=True)
    )
    subject = number if subject is None else subject
    return Measurement(precision, energy, mean[0], torch.cat(places), number, subject, counts)


def _places(grids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Number of the square of 64 px of each window of the tiles, whose windows stand in grids of these shapes."""
    squares, places = 0, []
    for grid in grids:
        down, across = (torch.arange(side) * STRIDE // SQUARE for side in grid)
        places.append((squares + down[:, None] * (across[-1] + 1) + across).flatten())
        squares = int(places[-1][-1]) + 1
    return places


@torch.no_grad()
def bands_of(measured: Sequence[Measurement], *, network: NoiseLevelNetwork) -> Bands:
    """Energies by intensity of images that were measured by this network; each image has a level of its own.

    Raises ValueError for no image, or no window that holds noise.
    """
    if not measured:
        raise ValueError("no image was given; the noise of nothing is unknown.")
    valid = [one.valid for one in measured]
    if not any(windows.any() for windows in valid):
        raise ValueError("no part of the images says anything of their noise: all is constant or clipped.")
    precision, energy, mean = (
        torch.cat([getattr(one, name)[..., windows] for one, windows in zip(measured, valid, strict=True)], -1)
        for name in ("precision", "energy", "mean")
    )
    image = torch.cat(
        [torch.full((int(windows.sum()),), one.number) for one, windows in zip(measured, valid, strict=True)]
    )
    bins, weight = _bins(mean), precision.exp()
    several = bool((image != image[0]).any())
    ratio = _energy_ratio(weight[:1], energy[:1], bins, image) if several else torch.ones_like(weight[:1])
    mixture = in_bins(weight[:1] * ratio, bins) / in_bins(weight[:1], bins)
    own, common = (
        mixture * in_bins(w * energy, bins) / in_bins(w * ratio, bins)
        for w in (weight, precision.mean(0, keepdim=True).exp())
    )
    return Bands(
        energy=own,
        common_energy=common,
        intensity=in_bins(weight * mean, bins) / in_bins(weight, bins),
        error=stated_precision(network, in_bins(weight, bins)[None])[0].double() ** -0.5,
        count=torch.bincount(bins),
        level_spread=_level_spread(ratio[0], image) if several else 1.0,
        mean=float(mean.mean()),
        valid_share=float(torch.cat(valid).double().mean()),
    )


@torch.no_grad()
def levels_by_place(
    measured: Measurement, noise_model: NoiseModel, *, network: NoiseLevelNetwork | None = None
) -> tuple[Tensor, Tensor]:
    """Level of the noise in each square of 64 px relative to the noise model's, and its stated relative standard error.

    Both are [squares], float64, of the squares where the level is known to 50 % or better.
    """
    network = network or pretrained_network()
    factor = torch.ones(1, dtype=torch.float64)
    if noise_model.correlated:
        factor = band_factors(torch.tensor(noise_model.correlation, dtype=torch.float64))
    used = torch.nonzero(factor > 0.1).flatten()
    weight = measured.precision[used].exp() * measured.valid
    relative = measured.energy[used] / factor[used, None] / noise_model.pointwise.variance(measured.mean)
    total = in_bins(weight, measured.place).sum(0)
    each = total / len(used)  # the bands share their errors
    known = each > MAX_LEVEL_ERROR**-2
    precision = stated_precision(network, each[known].expand(1, BANDS, -1))[0, used].double().mean(0)
    return (in_bins(weight * relative, measured.place).sum(0)[known] / total[known]).sqrt(), precision**-0.5


@cache
def pretrained_network() -> NoiseLevelNetwork:
    """The pretrained network, one copy that no caller calibrates."""
    return pretrained_noise_level()


def _tiles_of(
    image: Tensor, valid: Tensor | None, between: tuple[float, float] | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Tiles [H, W] that are not constant, of each channel, and their pixels that count; the same for any `between`."""
    for i, channel in enumerate(image.flatten(0, 1)):
        for place in _tiles(channel.shape):
            tile = channel[place]
            if tile.amin() < tile.amax():
                counted = None if valid is None else valid.flatten(0, 1)[i][place]
                yield tile, counted if between is None else part_between(tile, counted, between)


def _tiles(shape: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    height, width = shape
    corners = [
        (top, left)
        for top in range(0, max(1, height - TILE // 2), TILE)
        for left in range(0, max(1, width - TILE // 2), TILE)
    ]
    for top, left in spread(corners, MAX_TILES):
        bottom, right = (
            side if side - start <= 1.5 * TILE else start + TILE for side, start in ((height, top), (width, left))
        )
        yield slice(top, bottom), slice(left, right)


def _bins(mean: Tensor) -> Tensor:
    """Number of each window's intensity bin.

    Edges are eight quantiles and sixteen even steps; a bin with under 1 % of the windows joins its neighbour.
    """
    ordered = mean.sort().values
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.005, 0.995))
    inner = torch.linspace(0, 1, 9, dtype=mean.dtype)[1:-1]
    steps = torch.linspace(float(low), float(high), 17, dtype=mean.dtype)[1:-1]
    edges = torch.cat([ordered[(inner * (len(ordered) - 1)).long()], steps]).unique()
    kept, below = [], 0
    at = torch.searchsorted(ordered, edges, right=True)  # bucketize too puts a mean that equals an edge below it
    for edge, position in zip(edges, at.tolist(), strict=True):
        if min(position - below, len(ordered) - position) >= MIN_BIN_SHARE * len(ordered):
            kept.append(edge)
            below = position
    return torch.bucketize(mean, torch.stack(kept)) if kept else torch.zeros(len(mean), dtype=torch.long)


def _energy_ratio(weight: Tensor, energy: Tensor, bins: Tensor, image: Tensor) -> Tensor:
    """Energy of the image that each window belongs to, relative to a set of images of one level, [1, windows].

    Each band prefers other windows, of other images: where the levels of the images differ, those of the bands would
    seem to. The two factors of the energy, by image and by bin, are fitted in turn (iterative proportional fitting), so
    that a weak image counts little.
    """
    ratio = torch.ones_like(weight)
    for _ in range(ROUNDS):
        of_bin = in_bins(weight * energy, bins) / in_bins(weight * ratio, bins)
        ratio = (in_bins(weight * energy, image) / in_bins(weight * of_bin[:, bins], image))[:, image]
    return ratio


def _level_spread(ratio: Tensor, image: Tensor) -> float:
    each = torch.stack([ratio[image == number][0] for number in image.unique()])
    low, high = each.log().quantile(each.new_tensor([0.05, 0.95])).tolist()
    return math.exp((high - low) / 2)  # of levels, not of energies


def in_bins(values: Tensor, bins: Tensor) -> Tensor:
    """Sums of values [rows, windows] over each bin, [rows, bins]."""
    return values.new_zeros(len(values), int(bins.amax()) + 1).index_add_(1, bins, values)
