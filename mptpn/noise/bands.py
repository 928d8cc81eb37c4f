"""What the level-noise network says of an image's windows, and the energies of high-pass bands by intensity, of one
image or of a set.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from mptpn.networks.noise_level import SMALLEST, STRIDE, NoiseLevelNetwork, pretrained_noise_level, stated_precision

TILE, TILES = 1024, 12  # px and number: a larger image is judged by tiles spread over it
SHARE = 0.01  # least share of the windows in an intensity bin
PLACE = 64  # px, side of the squares whose levels are told apart
ROUNDING = 1e-6  # of the largest intensity: levels below it are those of float32
TURNS = 20  # of the fit of levels by image and by bin
# stated relative error of a level from which a bin is not used for the correlation, nor a place for its level
UNSURE = 0.5


@dataclass(frozen=True)
class Measurement:
    """What the network says of the windows of one image, or of a part of it, float64.

    Attributes:
        precision, energy: log precision and energy of each band, [bands, windows]. mean: intensity, [windows].
        place: number of the square of 64 px in which the window's middle lies, [windows], int64.
        number: of the image; parts of one image share it. subject: whom the image is of; images of one subject show the
            same things.
    """

    precision: Tensor
    energy: Tensor
    mean: Tensor
    place: Tensor
    number: int = 0
    subject: Hashable = 0

    @property
    def counts(self) -> Tensor:
        """The windows that say something, [windows], bool: constant ones have no energy but that of rounding."""
        return (self.precision[0] > -20) & (self.energy[0] > (ROUNDING * self.mean.abs().amax()) ** 2)

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "Measurement":
        """That of the image times scale plus zero; the network does not look at either."""
        return replace(self, energy=self.energy * scale**2, mean=self.mean * scale + zero)


@dataclass(frozen=True)
class Bands:
    """Energies of the bands by intensity, float64.

    Attributes:
        found: energies of each band from the windows that it likes best, [bands, bins]. alike: of all bands from the
            same windows, for noise need not be equally strong in all of an image.
        at: mean intensity of the windows of found. error: relative error of the levels of found. Both [bands, bins].
        count: windows of each bin, [bins].
        apart: ratio of levels between images of which a twentieth is below and a twentieth above; 1 for one image.
        mean: intensity of all windows. counted: share of the windows that say something.
    """

    found: Tensor
    alike: Tensor
    at: Tensor
    error: Tensor
    count: Tensor
    apart: float
    mean: float
    counted: float

    @property
    def share(self) -> Tensor:
        """What each bin counts for the correlation, [bins]: its windows, over its variance, only where all bands are
        well known if there are such bins.
        """
        sure = (self.error[1:] < UNSURE).all(0)
        return self.count.double() * (sure if bool(sure.any()) else torch.ones_like(sure)) / self.error[1:].amax(0) ** 2


@torch.no_grad()
def measure(
    image: Tensor, *, number: int = 0, subject: Hashable = None, network: NoiseLevelNetwork | None = None
) -> Measurement:
    """The network's part of a report, which takes nearly all its time.

    Args:
        image: [1, C, H, W] with H, W >= 16; the channels count as further parts.
        number: names the image in messages, and among the images of a set. subject: see Measurement; None: its own.
        network: trained and calibrated; None: the one in the box.
    Raises:
        ValueError: too small, constant or not finite.
    """
    if image.ndim != 4 or min(image.shape[2:]) < SMALLEST:
        raise ValueError(
            f"image {number} has shape {tuple(image.shape)}; give [1, C, H, W] of at least {SMALLEST} x {SMALLEST} px."
        )
    if not torch.isfinite(image).all():
        raise ValueError(f"image {number} holds NaN or infinite pixels; replace or crop them first.")
    tiles = [tile for channel in image.flatten(0, 1) for tile in _tiles(channel) if tile.amin() < tile.amax()]
    if not tiles:
        raise ValueError(f"image {number} is constant, {float(image.amin()):g} everywhere; it holds no noise.")
    network = network or in_the_box()
    parts = [network(tile[None, None]) for tile in tiles]
    squares, places = 0, []
    for _, _, mean in parts:
        down, across = (torch.arange(side) * STRIDE // PLACE for side in mean.shape[2:])
        places.append((squares + down[:, None] * (across[-1] + 1) + across).flatten())
        squares = int(places[-1][-1]) + 1
    precision, energy, mean = (
        torch.cat([x.double().flatten(2)[0] for x in column], 1) for column in zip(*parts, strict=True)
    )
    return Measurement(precision, energy, mean[0], torch.cat(places), number, number if subject is None else subject)


@torch.no_grad()
def bands_of(measured: Sequence[Measurement], *, network: NoiseLevelNetwork) -> Bands:
    """Energies by intensity of images that were measured by this network; each image has a level of its own.

    Raises:
        ValueError: no image, or no window that says anything.
    """
    if not measured:
        raise ValueError("no image was given; the noise of nothing is unknown.")
    told = [one.counts for one in measured]
    if not any(counts.any() for counts in told):
        raise ValueError("no part of the images says anything of their noise: all is constant or clipped.")
    precision, energy, mean = (
        torch.cat([getattr(one, name)[..., counts] for one, counts in zip(measured, told, strict=True)], -1)
        for name in ("precision", "energy", "mean")
    )
    image = torch.cat(
        [torch.full((int(counts.sum()),), one.number) for one, counts in zip(measured, told, strict=True)]
    )
    bins, weight = _bins(mean), precision.exp()
    several = bool((image != image[0]).any())
    ratio = _of_images(weight[:1], energy[:1], bins, image) if several else torch.ones_like(weight[:1])
    mixture = in_bins(weight[:1] * ratio, bins) / in_bins(weight[:1], bins)
    found, alike = (
        mixture * in_bins(w * energy, bins) / in_bins(w * ratio, bins)
        for w in (weight, precision.mean(0, keepdim=True).exp())
    )
    return Bands(
        found=found,
        alike=alike,
        at=in_bins(weight * mean, bins) / in_bins(weight, bins),
        error=stated_precision(network, in_bins(weight, bins)[None])[0].double() ** -0.5,
        count=torch.bincount(bins),
        apart=_apart(ratio[0], image) if several else 1.0,
        mean=float(mean.mean()),
        counted=float(torch.cat(told).double().mean()),
    )


@cache
def in_the_box() -> NoiseLevelNetwork:
    """The network that ships; kept here alone, for who asks noise_level for it may calibrate it."""
    return pretrained_noise_level()


def _tiles(channel: Tensor) -> Iterator[Tensor]:
    height, width = channel.shape
    corners = [
        (top, left)
        for top in range(0, max(1, height - TILE // 2), TILE)
        for left in range(0, max(1, width - TILE // 2), TILE)
    ]
    for top, left in corners[:: -(-len(corners) // TILES)]:
        bottom, right = (
            side if side - start <= 1.5 * TILE else start + TILE for side, start in ((height, top), (width, left))
        )
        yield channel[top:bottom, left:right]


def _bins(mean: Tensor) -> Tensor:
    """Number of each window's intensity bin: edges are eight quantiles and sixteen even steps, bins with under 1 % of
    the windows join their neighbour.
    """
    ordered = mean.sort().values
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.005, 0.995))
    inner = torch.linspace(0, 1, 9, dtype=mean.dtype)[1:-1]
    edges = torch.cat(
        [
            ordered[(inner * (len(ordered) - 1)).long()],
            torch.linspace(float(low), float(high), 17, dtype=mean.dtype)[1:-1],
        ]
    ).unique()
    kept, below = [], 0
    at = torch.searchsorted(ordered, edges, right=True)  # bucketize too puts a mean that equals an edge below it
    for edge, position in zip(edges, at.tolist(), strict=True):
        if position - below >= SHARE * len(ordered) and len(ordered) - position >= SHARE * len(ordered):
            kept.append(edge)
            below = position
    return torch.bucketize(mean, torch.stack(kept)) if kept else torch.zeros(len(mean), dtype=torch.long)


def _of_images(weight: Tensor, energy: Tensor, bins: Tensor, image: Tensor) -> Tensor:
    """Energy of the image that each window belongs to, relative to what its bins would hold if all images were of one
    level, [1, windows].

    Images of different levels must not be joined as they are: each band likes other windows best, of other images, and
    where their levels differ the bands would seem to. The two factors of the energy, by image and by bin, are fitted in
    turn (iterative proportional fitting), so that a weak image counts little.
    """
    ratio = torch.ones_like(weight)
    for _ in range(TURNS):
        of_bin = in_bins(weight * energy, bins) / in_bins(weight * ratio, bins)
        ratio = (in_bins(weight * energy, image) / in_bins(weight * of_bin[:, bins], image))[:, image]
    return ratio


def _apart(ratio: Tensor, image: Tensor) -> float:
    """See Bands."""
    each = torch.stack([ratio[image == number][0] for number in image.unique()])
    low, high = each.log().quantile(each.new_tensor([0.05, 0.95])).tolist()
    return math.exp((high - low) / 2)  # of levels, not of energies


def in_bins(values: Tensor, bins: Tensor) -> Tensor:
    """Sums of values [rows, windows] over each bin, [rows, bins]."""
    return values.new_zeros(len(values), int(bins.amax()) + 1).index_add_(1, bins, values)
