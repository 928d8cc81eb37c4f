"""Noise of a camera that multiplies electrons (EMCCD): skewed where it is dark. How much of it is multiplied is found
from a noisy image alone.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import center_crop, gaussian_blur, has_noise
from mptpn.noise.models import NoiseModel, PoissonGaussian
from mptpn.noise.statistics import divergence, quantise_like
from mptpn.random import generator

READS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # shares of the dark variance that are tried
SMOOTH = 1.5  # px, width of the blur that stands for the content
CLEARLY = 0.5  # of the Gaussian noise model's divergence, which the skewed noise model must come below
NODES = 64  # of the quadrature over the read noise
RING = (torch.ones(5, 5) - F.pad(torch.ones(1, 1), (2,) * 4))[None, None] / 24
SIDE = 512  # px, of the middle square that is looked at


@dataclass(frozen=True)
class EMCCD(PoissonGaussian):
    """Electron multiplication: a Poisson number of electrons, each amplified to an exponential one, so that the sum is
    Gamma (Basden et al. 2003, Eq. 1).

    The variance is that of PoissonGaussian, gain * clean + sigma**2, half of the gain being the multiplication's own
    (the excess noise factor 2); the third central moment is 1.5 * gain * (variance - read * sigma**2).

    Attributes:
        read: share of sigma**2 that is Gaussian read noise, above 0, at most 1; the rest are electrons without light,
            which are amplified too.
    """

    read: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if not (0 < self.read <= 1 and self.gain > 0 and self.sigma > 0):
            raise ValueError(
                f"read {self.read}, gain {self.gain} and sigma {self.sigma} must be above 0, read at most 1."
            )

    def rate(self, clean: Tensor) -> Tensor:
        """Expected number of electrons before the multiplication, at each pixel, float64."""
        return (self.variance(clean.double()) - self.read * self.sigma**2) / (2 * (self.gain / 2) ** 2)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped."""
        rate = self.rate(clean)
        count = torch.poisson(rate, generator=generator)
        electrons = torch._standard_gamma(count.clamp_min(1e-9), generator=generator).where(count > 0, 0.0)
        white = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        return clean + (self.gain / 2 * (electrons - rate)).to(clean) + self.sigma * self.read**0.5 * white

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of noisy given clean at each pixel, same shape, nats: Gauss-Legendre quadrature over 7 standard
        deviations of the read noise.
        """
        step, spread, rate = self.gain / 2, self.sigma * self.read**0.5 / (self.gain / 2), self.rate(clean)
        # amplified electrons and read noise together, in the mean electron's size
        total = (noisy.double() - clean.double()) / step + rate
        at, weight = (torch.from_numpy(x).to(total) for x in np.polynomial.legendre.leggauss(NODES))
        low, high = ((total + side * 7 * spread).clamp_min(0)[..., None] for side in (-1, 1))
        electrons = (low + high) / 2 + (high - low) / 2 * at
        root = (rate[..., None] * electrons).sqrt()
        amplified = (
            (rate[..., None] / electrons).sqrt()
            * torch.special.i1e(2 * root)
            * (2 * root - electrons - rate[..., None]).exp()
        )

        def gaussian(distance: Tensor) -> Tensor:
            return (-0.5 * (distance / spread) ** 2).exp() / (spread * math.sqrt(2 * math.pi))

        density = (-rate).exp() * gaussian(total) + (
            (high - low) / 2 * weight * amplified.nan_to_num() * gaussian(total[..., None] - electrons)
        ).sum(-1)
        return (density / step).log().to(noisy)


def detect_emccd(noisy: Tensor, *, noise_model: NoiseModel, seed: int = 0) -> NoiseModel:
    """The same noise model with its variance, but multiplied electrons, if the image looks clearly more like that; else
    the noise model itself.

    What a pixel differs by from the mean of its 24 neighbours is nearly its own noise, with its skew. Its histogram is
    compared with the same of copies of the
    smoothed image with noise that is drawn: from the noise model, and from Amplified at several shares of read noise.

    Args:
        noisy: [1, 1, H, W], H, W >= 3. noise model: of its pixels, in its unit; one without gain is not skewed by
            electrons.
    """
    if type(noise_model) is not PoissonGaussian or not (noise_model.gain > 0 and noise_model.sigma > 0):
        return noise_model
    noisy = center_crop(noisy, side=SIDE)
    content = gaussian_blur(noisy, sigma=SMOOTH)
    seen = _standing_out(noisy, content, noise_model=noise_model)

    def away(candidate: NoiseModel) -> float:
        drawn = quantise_like(candidate.sample(content, generator=generator(seed, "EMCCD")), like=noisy)
        return divergence(seen, _standing_out(drawn, gaussian_blur(drawn, sigma=SMOOTH), noise_model=noise_model))

    candidates = [EMCCD(noise_model.sigma, noise_model.gain, noise_model.black, read) for read in READS]
    found = [away(candidate) for candidate in candidates]
    best = min(range(len(found)), key=found.__getitem__)
    return candidates[best] if found[best] < CLEARLY * away(noise_model) else noise_model


def _standing_out(noisy: Tensor, content: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Pixels less the mean of their neighbours, in standard deviations of the noise model, where there is noise,
    [pixels].
    """
    around = F.conv2d(F.pad(noisy, (2,) * 4, mode="reflect"), RING.to(noisy))
    return ((noisy - around) / noise_model.variance(content).sqrt())[has_noise(noisy)]
