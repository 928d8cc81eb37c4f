"""Noise of an electron-multiplying camera (EMCCD), which is skewed in the dark, and its detection in a noisy image."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import center_crop, gaussian_blur, has_noise
from mptpn.noise.models import NoiseModel, PoissonGaussian
from mptpn.noise.statistics import divergence, quantise_like
from mptpn.random import generator

READ_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # shares of the dark variance that are tried
CONTENT_BLUR = 1.5  # px, width of the blur whose result stands for the content
MAX_DIVERGENCE = 0.5  # of an accepted EMCCD model, relative to that of the Gaussian noise model
RING = (torch.ones(5, 5) - F.pad(torch.ones(1, 1), (2,) * 4))[None, None] / 24
SAMPLES = 4096  # noisy intensities of a quadrature, drawn
SIDE = 512  # px, of the center crop that is examined


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
    label = "EMCCD noise"

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
        rate = self.rate(clean)
        count = torch.poisson(rate, generator=generator)
        electrons = torch._standard_gamma(count.clamp_min(1e-9), generator=generator).where(count > 0, 0.0)
        white = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        return clean + (self.gain / 2 * (electrons - rate)).to(clean) + self.sigma * self.read**0.5 * white

    def quadrature(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Equal weights at drawn intensities, moved and stretched to the exact mean and variance."""
        copies = clean.double().view(1, 1, -1, 1).expand(-1, -1, -1, SAMPLES)
        drawn = self.sample(copies, generator=generator(0, "quadrature"))[0, 0]
        drawn = (drawn - drawn.mean(1, keepdim=True)) / drawn.std(1, keepdim=True).clamp_min(1e-12)
        noisy = clean[:, None] + self.variance(clean).sqrt()[:, None] * drawn
        return noisy, torch.ones_like(noisy)


def detect_emccd(noisy: Tensor, *, noise_model: NoiseModel, seed: int = 0) -> NoiseModel:
    """An EMCCD model of the same variance if the image clearly looks more like one; else the noise model itself.

    A pixel minus the mean of its 24 neighbours is nearly its own noise, with its skew. The histogram of these
    differences is compared with those of copies: the blurred image with noise drawn from the noise model, and from
    EMCCD at several shares of read noise.

    Args:
        noisy: [1, 1, H, W], H, W >= 3.
        noise_model: of its pixels, in its unit; one that is not PoissonGaussian with gain is returned as it is.
    """
    if type(noise_model) is not PoissonGaussian or not (noise_model.gain > 0 and noise_model.sigma > 0):
        return noise_model
    noisy = center_crop(noisy, side=SIDE)
    content = gaussian_blur(noisy, sigma=CONTENT_BLUR)
    measured = _standardised(noisy, content, noise_model=noise_model)

    def distance(candidate: NoiseModel) -> float:
        copy = quantise_like(candidate.sample(content, generator=generator(seed, "EMCCD")), like=noisy)
        return divergence(
            measured, _standardised(copy, gaussian_blur(copy, sigma=CONTENT_BLUR), noise_model=noise_model)
        )

    candidates = [EMCCD(noise_model.sigma, noise_model.gain, noise_model.black, read) for read in READ_SHARES]
    distances = [distance(candidate) for candidate in candidates]
    best = min(range(len(distances)), key=distances.__getitem__)
    return candidates[best] if distances[best] < MAX_DIVERGENCE * distance(noise_model) else noise_model


def _standardised(noisy: Tensor, content: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Pixels minus the mean of their neighbours, in standard deviations, where there is noise, [pixels]."""
    around = F.conv2d(F.pad(noisy, (2,) * 4, mode="reflect"), RING.to(noisy))
    return ((noisy - around) / noise_model.variance(content).sqrt())[has_noise(noisy)]
