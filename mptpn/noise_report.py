"""What the noise of an image or a set is: its level as a function of intensity, its correlation, the law that fits best, how sure all that is."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mptpn.noise import PoissonGaussian
from mptpn.noise_correlation import BLIND, UNSURE, blind_hole, coarseness, correlation_map, near_by, outside
from mptpn.noise_law import MISFIT, fit_law
from mptpn.noise_level import RADIUS, SMALLEST, STRIDE, NoiseLevelNetwork, band_factors, shipped, stated_precision
from mptpn.noise_models import CorrelatedGaussian, Law, Rician, pointwise

TILE, TILES = 1024, 12  # px and number: a larger image is judged by tiles spread over it
SHARE = 0.01  # least share of the windows in an intensity bin
PLACE = 64  # px, side of the squares whose levels are told apart
WHITE = 0.06  # relative difference up to which the level at the finest scale and that between far pixels are one: correlation of 0.1 makes 0.07
SURE = 0.15  # stated relative error of a level up to which a bin speaks for the law
APART = 1.5  # ratio of the levels of the images of a set from which the report says so
TURNS = 20  # of the fit of levels by image and by bin
WIDEST = math.log(10)  # of an interval: beyond a factor of ten either way, the level is unknown and the report says so
NAMES = {
    "gaussian": "Gaussian noise",
    "poisson_gaussian": "Poisson-Gaussian noise",
    "speckle": "speckle noise",
    "rician": "Rician noise",
    "free": "noise of no known law",
}


@dataclass(frozen=True)
class NoiseReport:
    """What estimate_noise found; every number is in the image's own unit.

    Attributes:
        sigma: standard deviation at `mean`.
        sigma_interval: (low, high), 95 %.
        mean: mean intensity of the pixels that count.
        kind: "gaussian", "poisson_gaussian", "speckle", "rician" or "free" (none of these fits; the table below is the law), after "correlated " where it is.
        law: the model, to draw from or to ask for its likelihood.
        parameters: of the law, name: (value, standard error).
        intensity, level, error: the noise-level function in bins: intensity, standard deviation, relative standard error of the latter.
        correlation: measured at lags -3..3 of rows and columns, [7, 7], 1 in the middle.
        hole: half height and half width, px, of the blind spot that this correlation asks for.
        findings: what a user must know, a sentence each.
    """

    sigma: float
    sigma_interval: tuple[float, float]
    mean: float
    kind: str
    law: Law
    parameters: dict[str, tuple[float, float]]
    intensity: tuple[float, ...]
    level: tuple[float, ...]
    error: tuple[float, ...]
    correlation: Tensor
    hole: tuple[int, int]
    findings: tuple[str, ...]

    def variance(self, intensity: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Variance of the noise at these intensities, in the image's unit squared."""
        return self.law.variance(torch.as_tensor(np.asarray(intensity, dtype=np.float64))).numpy()

    def __str__(self) -> str:
        low, high = self.sigma_interval
        name = " ".join(NAMES.get(word, word) for word in self.kind.split())
        return "\n".join([f"{name}, sigma {self.sigma:.4g} ({low:.4g} to {high:.4g}) at intensity {self.mean:.4g}", *self.findings])


@dataclass(frozen=True)
class Measurement:
    """What the network says of the windows of one image, float64.

    Attributes:
        precision, energy: log precision and energy of each band, [bands, windows]. mean: intensity, [windows].
        place: number of the square of 64 px in which the window's middle lies, [windows], int64.
    """

    precision: Tensor
    energy: Tensor
    mean: Tensor
    place: Tensor


def report(images: Sequence[Tensor], *, from_zero: bool = False, network: NoiseLevelNetwork | None = None) -> NoiseReport:
    """The noise of images that share one law, from the images alone.

    Args:
        images: each [1, C, H, W] with H, W >= 16; the channels count as further images.
        from_zero: intensity 0 means no signal, so that noise may be multiplicative or Rician.
        network: trained and calibrated; None: the one in the box.
    Raises:
        ValueError: no image, or one that is too small, constant or not finite.
    """
    network = network or _shipped()
    return conclude([measure(image, number=number, network=network) for number, image in enumerate(images)], from_zero=from_zero, network=network)


@torch.no_grad()
def measure(image: Tensor, *, number: int = 0, network: NoiseLevelNetwork | None = None) -> Measurement:
    """The network's part of a report, which takes nearly all its time; number names the image in messages, the others: see report."""
    if image.ndim != 4 or min(image.shape[2:]) < SMALLEST:
        raise ValueError(f"image {number} has shape {tuple(image.shape)}; give [1, C, H, W] of at least {SMALLEST} x {SMALLEST} px.")
    if not torch.isfinite(image).all():
        raise ValueError(f"image {number} holds NaN or infinite pixels; replace or crop them first.")
    tiles = [tile for channel in image.flatten(0, 1) for tile in _tiles(channel) if tile.amin() < tile.amax()]
    if not tiles:
        raise ValueError(f"image {number} is constant, {float(image.amin()):g} everywhere; it holds no noise.")
    network = network or _shipped()
    parts = [network(tile[None, None]) for tile in tiles]
    squares, places = 0, []
    for _, _, mean in parts:
        down, across = (torch.arange(side) * STRIDE // PLACE for side in mean.shape[2:])
        places.append((squares + down[:, None] * (across[-1] + 1) + across).flatten())
        squares = int(places[-1][-1]) + 1
    precision, energy, mean = (torch.cat([x.double().flatten(2)[0] for x in column], 1) for column in zip(*parts, strict=True))
    return Measurement(precision, energy, mean[0], torch.cat(places))


@torch.no_grad()
def conclude(
    measured: Sequence[Measurement], *, from_zero: bool = False, correlated: bool | None = None, network: NoiseLevelNetwork | None = None
) -> NoiseReport:
    """The report on images that were measured by this network; correlated: whether the noise is, None: found here; the other arguments as in report."""
    if not measured:
        raise ValueError("no image was given; the noise of nothing is unknown.")
    network = network or _shipped()
    precision, energy, mean = (torch.cat([getattr(one, name) for one in measured], -1) for name in ("precision", "energy", "mean"))
    image = torch.arange(len(measured)).repeat_interleave(torch.tensor([len(one.mean) for one in measured]))
    counts = (precision[0] > -20) & (energy[0] > 0)
    if not counts.any():
        raise ValueError("no part of the images says anything of their noise: all is constant or clipped.")
    precision, energy, mean, image = precision[:, counts], energy[:, counts], mean[counts], image[counts]
    bins = _bins(mean)
    count = torch.bincount(bins)
    weight = precision.exp()
    ratio = _of_images(weight[:1], energy[:1], bins, image)
    mixture = _in_bins(weight[:1] * ratio, bins) / _in_bins(weight[:1], bins)
    found, alike = (mixture * _in_bins(w * energy, bins) / _in_bins(w * ratio, bins) for w in (weight, precision.mean(0, keepdim=True).exp()))
    at = _in_bins(weight * mean, bins) / _in_bins(weight, bins)
    error = stated_precision(network, _in_bins(weight, bins)[None])[0].double() ** -0.5
    energies = {"alike": alike, "found": found, "error": error, "count": count}
    correlation, unsure = correlation_map(**energies)
    coarse, coarse_unsure = coarseness(found, error, count)
    reliable = float(outside(unsure, (0, 0)).median()) < BLIND
    independent = not (reliable and near_by(**energies) or abs(coarse) > max(WHITE, 1.5 * coarse_unsure)) if correlated is None else not correlated
    if independent:
        intensity, variance, error = at[0], found[0], error[0]
    else:
        factor = band_factors(correlation)[:, None]
        trust = (factor > 0.1) / error**2
        variance = (trust * found / factor.clamp_min(0.1)).sum(0) / trust.sum(0)
        intensity, error = (trust * at).sum(0) / trust.sum(0), trust.amax(0) ** -0.5
    known = next((error < most for most in (SURE, UNSURE) if int((error < most).sum()) > 1), torch.ones_like(error, dtype=torch.bool))
    shares = {"counted": float(counts.double().mean()), "unknown": float(count[~known].sum() / count.sum()), "apart": _apart(ratio[0], image)}
    order = intensity.argsort()[known[intensity.argsort()]]
    intensity, variance, error = (x[order].numpy() for x in (intensity, variance, error))
    kind, law, parameters, misfit = fit_law(intensity, variance, error, from_zero=from_zero)
    hole = (0, 0) if independent else blind_hole(correlation)
    findings = _findings(correlation, independent, hole, reliable, kind, misfit, error, shares)
    middle = float(mean.mean())
    sigma = math.sqrt(float(law.variance(torch.tensor(middle, dtype=torch.float64))))
    relative = min(WIDEST, float(network.tail) * float(np.average(error, weights=1 / error**2)) * max(1.0, min(misfit, MISFIT)) ** 0.5)
    if independent and abs(coarse) > WHITE:  # either reading may be the right one
        relative = min(WIDEST, max(relative, 2 * abs(coarse)))
    if not independent:
        law, kind = CorrelatedGaussian(_gaussian(law), correlation), f"correlated {kind}"
    interval = sigma * math.exp(-relative), sigma * math.exp(relative)
    numbers = (tuple(map(float, x)) for x in (intensity, variance**0.5, error))
    return NoiseReport(sigma, interval, middle, kind, law, parameters, *numbers, correlation.float(), hole, findings)


def levels_by_place(measured: Measurement, law: Law) -> Tensor:
    """Level of the noise in each square of 64 px, relative to the law's at its intensities, [squares], float64, where the windows know it to 50 % or better.

    Noise need not be equally strong in all of an image, nor does its law need to be right everywhere: CT is noisier behind more tissue.
    """
    factor = band_factors(torch.tensor(law.correlation, dtype=torch.float64)) if isinstance(law, CorrelatedGaussian) else torch.ones(1, dtype=torch.float64)
    bands = torch.nonzero(factor > 0.1).flatten()
    weight = measured.precision[bands].exp() * ((measured.precision[0] > -20) & (measured.energy[0] > 0))
    relative = measured.energy[bands] / factor[bands, None] / pointwise(law).variance(measured.mean)
    total = _in_bins(weight, measured.place).sum(0)
    known = total / len(bands) > UNSURE**-2  # the bands share their errors
    return (_in_bins(weight * relative, measured.place).sum(0)[known] / total[known]).sqrt()


@cache
def _shipped() -> NoiseLevelNetwork:
    return shipped()  # kept here alone: who asks noise_level for it may calibrate it


def _tiles(channel: Tensor) -> Iterator[Tensor]:
    height, width = channel.shape
    corners = [(top, left) for top in range(0, max(1, height - TILE // 2), TILE) for left in range(0, max(1, width - TILE // 2), TILE)]
    for top, left in corners[:: -(-len(corners) // TILES)]:
        bottom, right = (side if side - start <= 1.5 * TILE else start + TILE for side, start in ((height, top), (width, left)))
        yield channel[top:bottom, left:right]


def _bins(mean: Tensor) -> Tensor:
    """Number of each window's intensity bin: edges are eight quantiles and sixteen even steps, bins with under 1 % of the windows join their neighbour."""
    ordered = mean.sort().values
    low, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.005, 0.995))
    inner = torch.linspace(0, 1, 9, dtype=mean.dtype)[1:-1]
    edges = torch.cat([ordered[(inner * (len(ordered) - 1)).long()], torch.linspace(float(low), float(high), 17, dtype=mean.dtype)[1:-1]]).unique()
    kept, below = [], 0
    at = torch.searchsorted(ordered, edges, right=True)  # bucketize too puts a mean that equals an edge below it
    for edge, position in zip(edges, at.tolist(), strict=True):
        if position - below >= SHARE * len(ordered) and len(ordered) - position >= SHARE * len(ordered):
            kept.append(edge)
            below = position
    return torch.bucketize(mean, torch.stack(kept)) if kept else torch.zeros(len(mean), dtype=torch.long)


def _of_images(weight: Tensor, energy: Tensor, bins: Tensor, image: Tensor) -> Tensor:
    """Energy of the image that each window belongs to, relative to what its bins would hold if all images were of one level, [1, windows].

    Images of different levels must not be joined as they are: each band likes other windows best, of other images, and where their levels differ the bands
    would seem to. The two factors of the energy, by image and by bin, are fitted in turn (iterative proportional fitting), so that a weak image counts little.
    """
    ratio = torch.ones_like(weight)
    for _ in range(TURNS if len(image.unique()) > 1 else 0):
        of_bin = _in_bins(weight * energy, bins) / _in_bins(weight * ratio, bins)
        ratio = (_in_bins(weight * energy, image) / _in_bins(weight * of_bin[:, bins], image))[:, image]
    return ratio


def _apart(ratio: Tensor, image: Tensor) -> float:
    """Ratio of levels between images of which a twentieth is below and a twentieth above."""
    each = torch.stack([ratio[image == number][0] for number in image.unique()])
    low, high = each.log().quantile(each.new_tensor([0.05, 0.95])).tolist()
    return math.exp((high - low) / 2)  # of levels, not of energies


def _in_bins(values: Tensor, bins: Tensor) -> Tensor:
    """Sums of values [rows, windows] over each bin, [rows, bins]."""
    return values.new_zeros(len(values), int(bins.amax()) + 1).index_add_(1, bins, values)


def _gaussian(law: Law) -> Law:
    """A law with mean clean, for a correlated field."""
    return PoissonGaussian(law.sigma) if isinstance(law, Rician) else law


def _findings(
    correlation: Tensor, independent: bool, hole: tuple[int, int], reliable: bool, kind: str, misfit: float, error: np.ndarray, shares: dict[str, float]
) -> tuple[str, ...]:
    out = []
    if not independent:
        down, across = float(correlation[RADIUS + 1, RADIUS]), float(correlation[RADIUS, RADIUS + 1])
        high, wide = (2 * half + 1 for half in hole)
        so = f"a blind spot of {high} x {wide} px covers it" if high * wide > 1 else "too little to ask for a wider blind spot"
        out.append(f"neighbouring pixels correlate ({down:.2f} down, {across:.2f} across); {so}")
        edge = float(outside(correlation, (RADIUS - 1, RADIUS - 1)).abs().max())
        if edge > BLIND:
            out.append(f"the correlation is still {edge:.2f} at a lag of {RADIUS} px, the end of the map: noise of longer range is not described")
    if not reliable:
        out.append("hardly any window is free of structure: whether pixels correlate is not known")
    if kind == "free":
        out.append(f"no known law fits (deviation {misfit**0.5:.1f} standard errors): the noise-level function is given as a table")
    if shares["apart"] > APART:
        out.append(f"levels of the images are a factor of {shares['apart']:.1f} apart: this is the law of all together, ask for each on its own")
    if shares["unknown"] > 0.05:
        out.append(f"at the intensities of {100 * shares['unknown']:.0f} % of the image no window is free of structure: the law is extended to them")
    if error.min() > 0.1:
        out.append(f"the level is known to {100 * error.min():.0f} % only")
    if shares["counted"] < 0.5:
        out.append(f"only {100 * shares['counted']:.0f} % of the image counts; the rest is constant or clipped")
    return tuple(out)
