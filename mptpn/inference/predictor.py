"""Predictors: the posterior mean of a noisy image and the standard deviation of its error, whatever the network."""

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.inference.stabilise import VarianceStabilisingTransform, cut, whitening_noise
from mptpn.networks import BlindSpotNetwork
from mptpn.noise import NoiseModel
from mptpn.stages import preliminary, profound

PROBES, STEP, WINDOW = 2, 0.05, 9  # noise fields that probe a Jacobian, their size in sigmas, side of the averages, px
SMALLEST_ERROR = 0.01  # of the noise's variance: a smaller error is chance in the probes
# px, around tiles of a transformer: in gray levels of 255 `small` then differs from the whole image by 0.20 at most
# where the noise's sigma is 12, `base` by 0.06 (sigma 17); with 256 px it is 0.0005, and a tile takes 0.8 GB
HALO = 128


class Predictor(Protocol):
    """What denoises images of one noise model; sides are in px.

    Attributes:
        noise_model: of the images, in their unit.
        alignment: what corners and sides of tiles are multiples of. halo: what a tile needs around it.
        bytes_per_pixel: peak memory of one call.
    """

    noise_model: NoiseModel
    alignment: int
    halo: int
    bytes_per_pixel: int

    def mean(self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """Posterior mean of [B, 1, H, W], whose upper left pixel lies at `origin` of the whole image."""

    def predict(
        self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0), probes: torch.Generator | None = None
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


@dataclass(frozen=True, eq=False)
class BlindSpotPredictor(_OfNetwork):
    """Stage 1: blind mean and noisy pixel, fused (Wu et al. 2020, Eq. 9).

    Attributes:
        table: the noise model over the range of the images, see preliminary.tabulated.
    """

    network: BlindSpotNetwork
    table: Tensor

    def mean(self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0)) -> Tensor:
        return self.predict(noisy)[0]

    @torch.no_grad()
    def predict(
        self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0), probes: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        offset, table = self.offset.expand(len(noisy), -1, -1, -1), self.table.expand(len(noisy), -1)
        mean, sigma_mu, sigma_n = preliminary.predict(self.network, noisy, offset=offset, noise_model=table)
        return preliminary.fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n)


@dataclass(frozen=True, eq=False)
class TransformerPredictor(_OfNetwork):
    """Stage 3; its uncertainty is the diagonal of J S, J the Jacobian and S the noise's covariance.

    That is the second-order Tweedie formula (Manor and Michaeli 2023, Thm. 1), E n' (f(y + e n') - f(y)) / e over noise
    n'; ours averages over 9 x 9 px and keeps it between 1 % of the noise's variance and all of it.

    Attributes:
        scale: robust level of the images as the network sees them, [1, 1, 1, 1].
    """

    scale: Tensor

    @property
    def halo(self) -> int:
        return min(self.network.halo, -(-HALO // self.alignment) * self.alignment)

    @torch.no_grad()
    def mean(self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0)) -> Tensor:
        return profound.denoise(self.network, noisy, offset=self.offset, scale=self.scale)

    @torch.no_grad()
    def predict(
        self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0), probes: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        mean = self.mean(noisy, origin=origin)
        noise = self.noise_model.variance(mean)
        if probes is None:
            return mean, noise.sqrt()
        variance = torch.zeros_like(noisy)
        for _ in range(PROBES):
            probe = self.noise_model.sample(mean, generator=probes) - self.noise_model.mean(mean)
            variance += probe * (self.mean(noisy + STEP * probe, origin=origin) - mean) / (STEP * PROBES)
        variance = F.avg_pool2d(variance, WINDOW, 1, WINDOW // 2, count_include_pad=False)
        return mean, torch.maximum(torch.minimum(variance, noise), SMALLEST_ERROR * noise).sqrt()


@dataclass(frozen=True, eq=False)
class StabilisedPredictor(TransformerPredictor):
    """A network for white noise where noise is not white: its variance is made even, its power filled up to white.

    Attributes:
        transform: makes the variance even; offset and scale are those of the transformed, whitened images.
    """

    transform: VarianceStabilisingTransform

    @cached_property
    def fields(self) -> Tensor:
        """The added noise: one field for all images, so that tiles fit together."""
        return whitening_noise(self.noise_model)

    @torch.no_grad()
    def mean(self, noisy: Tensor, *, origin: tuple[int, int] = (0, 0)) -> Tensor:
        stable = self.transform(noisy)
        fields = cut(self.fields, origin, noisy.shape[2:]).to(noisy)
        passes = [super(StabilisedPredictor, self).mean(stable + field) for field in fields]
        return self.transform.inverse(torch.stack(passes).mean(0))
