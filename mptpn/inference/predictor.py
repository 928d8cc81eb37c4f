"""Predictors: the posterior mean of a noisy image and the standard deviation of its error, whatever the network."""

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.filters import gaussian_blur, turned, turned_back
from mptpn.inference.stabilise import VarianceStabilisingTransform, added_noise, cut
from mptpn.networks import BlindSpotNetwork
from mptpn.networks.noise_level import RADIUS
from mptpn.noise import NoiseModel
from mptpn.noise.by_place import LocalNoise, cell_energies
from mptpn.stages import preliminary, profound

PROBES, STEP, WINDOW = 2, 0.05, 17  # noise fields that probe a Jacobian, their size in sigmas, side of the averages, px
# the network that is told a correlation errs more than its Jacobian says: the told one has an error of its own. Chosen
# on twelve kinds of noise, drawn on 12 validation images, where the network for white noise needs no factor
# (notebooks/support/interval_coverage.py)
SPREAD_TOLD = 1.12
# of the noise's variance: a smaller error is chance in the probes; 0.01 was more than the error under strong noise
SMALLEST_ERROR = 0.003
# px, around tiles of a transformer: in gray levels of 255 `small` then differs from the whole image by 0.20 at most
# where the noise's sigma is 12, `base` by 0.06 (sigma 17); with 256 px it is 0.0005, and a tile takes 0.8 GB
HALO = 128
BRIGHTNESS, OUTLIER = 16.0, 8.0  # px, standard deviation of a Gaussian; standard deviations of the noise


@dataclass(frozen=True, eq=False)
class Place:
    """Where a tile lies.

    Attributes:
        origin: row and column of its upper left pixel in the whole image.
        level: of the noise over its noise model's, [B or 1, 1, H or 1, W or 1].
        correlation: of the noise in cells, see NoiseByPlace; None: that of the noise model.
    """

    origin: tuple[int, int] = (0, 0)
    level: Tensor = field(default_factory=lambda: torch.ones(1, 1, 1, 1))
    correlation: Tensor | None = None

    def noise(self, noise_model: NoiseModel) -> NoiseModel:
        """The noise model as it is there."""
        return LocalNoise(noise_model, self.level, self.correlation)


ANYWHERE = Place()


class Predictor(Protocol):
    """What denoises images of one noise model; sides are in px.

    Attributes:
        noise_model: of the images, in their unit.
        alignment: what corners and sides of tiles are multiples of. halo: what a tile needs around it.
        bytes_per_pixel: peak memory of one call, whatever the size.
    """

    noise_model: NoiseModel
    alignment: int
    halo: int
    bytes_per_pixel: int

    def peak_bytes(self, pixels: int) -> int:
        """Peak memory of one call on so many pixels."""

    def mean(self, noisy: Tensor, *, place: Place = ANYWHERE) -> Tensor:
        """Posterior mean of [B, 1, H, W]."""

    def expected(self, denoised: Tensor) -> Tensor:
        """The noisy image that is expected of a result; where noise has a mean, a network may predict either."""

    def predict(
        self, noisy: Tensor, *, place: Place = ANYWHERE, probes: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of its error, [B, 1, H, W] each; without probes that of the noise."""


@dataclass(frozen=True, eq=False)
class _OfNetwork:
    """A network, the noise model of its images, and the mean intensity by which it sees them, [1, 1, 1, 1]."""

    network: nn.Module
    noise_model: NoiseModel
    offset: Tensor

    @property
    def alignment(self) -> int:
        return self.network.alignment

    @property
    def halo(self) -> int:
        return self.network.halo

    @property
    def bytes_per_pixel(self) -> int:
        return self.network.bytes_per_pixel

    def peak_bytes(self, pixels: int) -> int:
        return self.network.peak_bytes(pixels)

    def expected(self, denoised: Tensor) -> Tensor:
        return denoised


@dataclass(frozen=True, eq=False)
class BlindSpotPredictor(_OfNetwork):
    """Stage 1: blind mean and noisy pixel, fused (Wu et al. 2020, Eq. 9).

    Attributes:
        table: the noise model over the range of the images, see preliminary.tabulated.
    """

    network: BlindSpotNetwork
    table: Tensor

    def mean(self, noisy: Tensor, *, place: Place = ANYWHERE) -> Tensor:
        return self.predict(noisy)[0]

    @torch.no_grad()
    def predict(
        self, noisy: Tensor, *, place: Place = ANYWHERE, probes: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        offset, table = self.offset.expand(len(noisy), -1, -1, -1), self.table.expand(len(noisy), -1)
        mean, sigma_mu, sigma_n = preliminary.predict(self.network, noisy, offset=offset, noise_model=table)
        return preliminary.fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n)


@dataclass(frozen=True, eq=False)
class TransformerPredictor(_OfNetwork):
    """Stage 3; its uncertainty is the diagonal of J S, J the Jacobian and S the noise's covariance.

    That is the second-order Tweedie formula (Manor and Michaeli 2023, Thm. 1), E n' (f(y + e n') - f(y)) / e over noise
    n'; ours averages it over 17 x 17 px, there relative to the noise's variance, which may differ from pixel to pixel,
    and keeps it between 0.3 % of the noise's variance and all of it.

    Attributes:
        scale: robust level of the images as the network sees them, [1, 1, 1, 1].
        spread: what the standard deviation of the error is multiplied by.
    """

    scale: Tensor
    spread: ClassVar[float] = 1.0

    @property
    def halo(self) -> int:
        return min(self.network.halo, -(-HALO // self.alignment) * self.alignment)

    @torch.no_grad()
    def mean(self, noisy: Tensor, *, place: Place = ANYWHERE) -> Tensor:
        return profound.denoise(self.network, noisy, offset=self.offset, scale=self.scale)

    @torch.no_grad()
    def predict(
        self, noisy: Tensor, *, place: Place = ANYWHERE, probes: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        mean, model = self.mean(noisy, place=place), place.noise(self.noise_model)
        noise = model.variance(mean)
        if probes is None:
            return mean, noise.sqrt()
        variance = torch.zeros_like(noisy)
        for _ in range(PROBES):
            probe = model.sample(mean, generator=probes) - model.mean(mean)
            variance += probe * (self.mean(noisy + STEP * probe, place=place) - mean) / (STEP * PROBES)
        share = self.spread**2 * _averaged(variance) / _averaged(noise).clamp_min(torch.finfo(noise.dtype).tiny)
        return mean, (share.clamp(SMALLEST_ERROR, 1) * noise).sqrt()


def _averaged(image: Tensor) -> Tensor:
    return F.avg_pool2d(image, WINDOW, 1, WINDOW // 2, count_include_pad=False)


@dataclass(frozen=True, eq=False)
class StabilisedPredictor(TransformerPredictor):
    """A pretrained network: the noise's variance is made even, and its correlation is told to the network.

    A network for white noise alone cannot be told: the noise's power is filled up to white.

    Attributes:
        transform: makes the variance even; offset and scale are those of the transformed (and whitened) images.
        correlation: what the network is told, [1, 7, 7]; None: it cannot be told.
        turns: orientations of the square over which the result is averaged, 1 to 8.
        photons: a pixel on average, see photons_at; infinite where the noise does not rise with the intensity.
    """

    transform: VarianceStabilisingTransform
    correlation: Tensor | None = None
    turns: int = 1
    photons: float = math.inf

    @property
    def spread(self) -> float:
        return 1.0 if self.correlation is None else SPREAD_TOLD

    @cached_property
    def fields(self) -> Tensor:
        """The added noise: one field for all images, so that tiles fit together."""
        return added_noise(self.noise_model, self.photons) if self.correlation is None else torch.zeros(1, 1, 1, 1)

    def expected(self, denoised: Tensor) -> Tensor:
        return self.noise_model.mean(denoised)

    def energies(self, noisy: Tensor, *, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Of [1, 1, H, W], what NoiseByPlace is made of: energies in cells, and the noise model's variance there.

        valid: its pixels that are measured, bool.
        """
        stable, model = self.transform(noisy), self.noise_model
        energies, mean = cell_energies(stable, valid=valid)
        return energies, model.variance(self.transform.inverse(mean))

    @torch.no_grad()
    def mean(self, noisy: Tensor, *, place: Place = ANYWHERE) -> Tensor:
        stable, level = self.transform(noisy), place.level
        fields = cut(self.fields, place.origin, noisy.shape[2:]).to(noisy)
        told = self.correlation if self.correlation is None or place.correlation is None else place.correlation
        total = torch.zeros_like(stable)
        for added in fields:
            for turn in range(self.turns):
                known = {"scale": turned(self.scale * level, turn), "correlation": turned_told(told, turn)}
                seen = turned(stable + level * added, turn)
                total += turned_back(profound.denoise(self.network, seen, offset=self.offset, **known), turn)
        found = self.transform.inverse(total / (len(fields) * self.turns))
        return self._of_its_brightness(found, noisy, place.noise(self.noise_model))

    def _of_its_brightness(self, found: Tensor, noisy: Tensor, noise_model: NoiseModel) -> Tensor:
        """The result with the local mean of the noisy image: a bias, of network or noise model, does not last.

        The residual's mean over BRIGHTNESS px brings back less than 0.1 % of the variance of white noise. Outliers do
        not count in it.
        """
        most = OUTLIER * noise_model.variance(found).sqrt()
        residual = torch.minimum(torch.maximum(noisy - noise_model.mean(found), -most), most)
        return (found + gaussian_blur(residual, sigma=BRIGHTNESS)).clamp_min(self.noise_model.pointwise.least)


def turned_told(told: Tensor | None, turn: int) -> Tensor | None:
    """The told correlation of an image that filters.turned() turns, [..., 7, 7] or in cells [1, h, w, 7, 7]."""
    if told is None or turn == 0:
        return told
    told = turned(told, turn)
    return told if told.ndim == 3 else turned(told.permute(0, 3, 4, 1, 2), turn).permute(0, 3, 4, 1, 2)


def told_correlation(noise_model: NoiseModel) -> Tensor:
    """The correlation of a noise model at lags of -3..3 rows and columns, [7, 7] float32."""
    given, told = torch.tensor(noise_model.correlation), torch.zeros(2 * RADIUS + 1, 2 * RADIUS + 1)
    reach = min(len(given) // 2, RADIUS)
    inner, middle = slice(RADIUS - reach, RADIUS + reach + 1), len(given) // 2
    near = slice(middle - reach, middle + reach + 1)
    told[inner, inner] = given[near, near]
    return told
