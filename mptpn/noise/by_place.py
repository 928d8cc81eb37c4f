"""How strong the noise is, and how it correlates, from place to place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import gaussian_blur, turned_back
from mptpn.networks.noise_level import BANDS, FAR, LAGS, RADIUS, STRIDE, band_factors, window_sums
from mptpn.noise.bands import pretrained_network
from mptpn.noise.correlation import far_energy
from mptpn.noise.models import CorrelatedGaussian, NoiseModel

CELL = 16  # px, side of the cells in which the noise is told
WIDTH, WIDER = 24, 32  # px, standard deviations of the Gaussians over which levels and correlations are averaged
KNOWN = 0.3  # relative error of a level up to which its place says how much levels differ
LEAST_FACTOR = 0.1  # share of the variance from which a band takes part
# of a window's pixels, those measured from which it says anything of its place: structure that a mask cuts looks like
# noise
MEASURED = 0.9
FEWEST = 256  # measured pixels from which a piece of an image says anything


@torch.no_grad()
def cell_energies(stable: Tensor, *, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Energy of each band times its precision, and that precision, [2 bands, h, w] in cells, and their mean intensity.

    Args:
        stable: [1, 1, H, W], at least 16 x 16 px, of noise of variance 1; h = ceil(H / CELL).
        valid: same shape as stable, bool.
    """
    shape = [-(-side // CELL) for side in stable.shape[2:]]
    if int(valid.sum()) < FEWEST:
        return stable.new_zeros(2 * BANDS, *shape), stable.new_zeros(1, *shape)
    precision, energy, mean = pretrained_network()(stable, valid)
    weight = precision.exp()
    if not bool(valid.all()):
        weight *= window_sums(valid.to(stable)) / window_sums(torch.ones_like(stable)) > MEASURED
    both = torch.cat([(weight * energy).nan_to_num(), weight, mean], 1)
    cells = F.avg_pool2d(both, CELL // STRIDE, ceil_mode=True)[0]
    return cells[:-1], cells[-1:]


@dataclass(frozen=True, eq=False)
class NoiseByPlace:
    """The noise of one image in cells of CELL px, relative to its noise model.

    Attributes:
        level: standard deviation over the noise model's, [1, 1, h, w].
        correlation: at lags of -3..3 rows and columns, [1, h, w, 7, 7]; None: white everywhere.
    """

    level: Tensor
    correlation: Tensor | None

    @classmethod
    def of(cls, energies: Tensor, variance: Tensor, correlation: Tensor | None) -> "NoiseByPlace":
        """From cell_energies of the whole image, the noise model's variance in its cells, [1, h, w], and correlation,
        [7, 7]; None: white.
        """
        level = level_of(*mean_energies(energies, correlation))
        told = None if correlation is None else correlation_of(energies, variance)
        return cls(level, told)

    def at(self, around: tuple[slice, slice]) -> tuple[Tensor, Tensor | None]:
        """Level of each pixel of a tile, [1, 1, H, W], and correlation of its cells; its corner is one of a cell."""
        cells = [slice(max(0, span.start // CELL - 1), -(-span.stop // CELL) + 1) for span in around]
        fine = F.interpolate(self.level[..., *cells], scale_factor=CELL, mode="bilinear", align_corners=False)
        first = [span.start - CELL * cell.start for span, cell in zip(around, cells, strict=True)]
        rows, columns = (slice(a, a + span.stop - span.start) for a, span in zip(first, around, strict=True))
        told = None if self.correlation is None else self.correlation[:, *cells_of(around)]
        return fine[..., rows, columns], told


def mean_energies(energies: Tensor, correlation: Tensor | None) -> tuple[Tensor, Tensor]:
    """Energy times precision, over the noise model's, and precision, means of the bands that take part, [1, 1, h, w].

    Args: as in NoiseByPlace.of.
    """
    seen, weight = energies[None].chunk(2, 1)
    factor = torch.ones(BANDS) if correlation is None else band_factors(correlation.double()).to(energies)
    used = factor > LEAST_FACTOR
    seen = seen / factor.clamp_min(LEAST_FACTOR).view(1, -1, 1, 1)
    return seen[:, used].mean(1, keepdim=True), weight[:, used].mean(1, keepdim=True)


def level_of(energy: Tensor, precision: Tensor) -> Tensor:
    """From mean_energies of a whole image, levels of its cells, [1, 1, h, w].

    Levels are averaged over WIDTH, and drawn towards 1 by how much they differ more than their stated errors do
    (empirical Bayes; Efron and Morris 1973): noise that is even gives 1 everywhere.
    """
    network, width = pretrained_network(), WIDTH / CELL
    # the bands share their errors
    energy, precision = (gaussian_blur(x, sigma=width) for x in (energy, precision))
    log_level = (energy / precision.clamp_min(1e-12)).clamp_min(1e-6).log() / 2
    held = 4 * torch.pi * (WIDTH / STRIDE) ** 2  # windows that the Gaussian holds
    floor = float(network.log_floor.detach().exp().mean())
    error = (floor + 1 / (held * precision).clamp_min(1e-6)) * float(network.spread) ** 2
    known = error < KNOWN**2
    scatter = ((log_level**2 - error)[known].sum() / known.sum().clamp_min(1)).clamp_min(0)
    return (log_level * scatter / (scatter + error)).exp()


def strengths_of(energies: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From energies of an image, those of each band and of the far ones, and the strength of the noise in cells."""
    seen, weight = energies[None].chunk(2, 1)
    energy = gaussian_blur(seen, sigma=WIDTH / CELL) / gaussian_blur(weight, sigma=WIDTH / CELL).clamp_min(1e-12)
    far = energy[:, -len(FAR) :].mean(1, keepdim=True).clamp_min(1e-12)
    return energy, far, variance[None] * far


def correlation_of(energies: Tensor, variance: Tensor, strongest: float | None = None) -> Tensor:
    """Correlation in cells, [1, h, w, 7, 7], by 1 - E(lag) / E(far) as in correlation_map.

    Energies are averaged over WIDER: strong noise counts most. strongest: of the strengths of the whole image, where
    this is a part.
    """
    energy, far, strength = strengths_of(energies, variance)
    strongest = float(strength.amax()) if strongest is None else strongest
    strength = strength.clamp_min(1e-12 * strongest + 1e-30)
    energy, total = (gaussian_blur(x, sigma=WIDER / CELL) for x in (energy / far * strength, strength))
    lags = (energy / total)[:, 1:]
    far = far_energy(lags[0]).clamp_min(1e-12)
    found = (1 - lags[:, : len(LAGS)] / far).clamp(-1, 1)
    told = torch.zeros(1, *energies.shape[1:], 2 * RADIUS + 1, 2 * RADIUS + 1)
    told[..., RADIUS, RADIUS] = 1
    for number, (row, column) in enumerate(LAGS):
        told[..., RADIUS + row, RADIUS + column] = told[..., RADIUS - row, RADIUS - column] = found[:, number]
    return told


def cells_of(place: Sequence[slice]) -> list[slice]:
    """The cells that hold the rows and columns of a place, whose corner is one of a cell."""
    return [slice(span.start // CELL, -(-span.stop // CELL)) for span in place]


@dataclass(frozen=True, eq=False)
class LocalNoise(NoiseModel):
    """Noise of a noise model as it is at a place: stronger or weaker, and correlated otherwise.

    Attributes:
        noise_model: the other.
        level: factor of its standard deviation at each pixel, of the shape of every image that it meets.
        cells: correlation in cells, see NoiseByPlace, whose mean counts; None: that of the noise model.
    """

    noise_model: NoiseModel
    level: Tensor
    cells: Tensor | None = None

    @cached_property
    def there(self) -> NoiseModel:
        """The noise model with the correlation of the place."""
        if self.cells is None or not self.noise_model.correlated:
            return self.noise_model
        return CorrelatedGaussian(self.noise_model.pointwise, self.cells.double().mean((0, 1, 2)))

    @property
    def label(self) -> str:
        return self.noise_model.label

    @property
    def correlation(self) -> tuple[tuple[float, ...], ...]:
        return self.there.correlation

    @property
    def zero_mean_gaussian(self) -> bool:
        return self.noise_model.zero_mean_gaussian

    def mean(self, clean: Tensor) -> Tensor:
        return self.noise_model.mean(clean)

    def variance(self, clean: Tensor) -> Tensor:
        return self.noise_model.variance(clean) * self.level.to(clean) ** 2

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        mean = self.mean(clean)
        return mean + self.level.to(clean) * (self.there.sample(clean, generator=generator) - mean)

    def turned_back(self, turn: int) -> "LocalNoise":
        cells = None if self.cells is None else turned_back(self.cells, turn)
        return LocalNoise(self.noise_model.turned_back(turn), turned_back(self.level, turn), cells)

    def scaled(self, factor: float) -> "LocalNoise":
        return replace(self, noise_model=self.noise_model.scaled(factor))

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "LocalNoise":
        return replace(self, noise_model=self.noise_model.in_unit(scale, zero=zero))
