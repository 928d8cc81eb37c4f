"""Noise models: what a noisy image is, given the clean one.

Images are [B, C, H, W], float32 or float64; noise is drawn on the device of the clean image, where the generator must
live too.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.filters import turned_back

SERIES_FROM = 50.0  # clean / sigma from which Rice's variance is taken from its series; both are right to 1e-10 there
TAILS, NODES = 8.0, 257  # of a quadrature: standard deviations to either side, and number of noisy intensities
MIN_POWER = 1e-3  # of a correlated field, white noise has 1; rounding to 8 bits adds as much at sigma_255 = 9


class NoiseModel(ABC):
    """What every noise model offers; the defaults are those of independent pixels with mean clean.

    Attributes:
        label: the model's name in messages.
        correlation: of the noise at lags -r..r of rows and columns, [2r + 1, 2r + 1]; ((1.0,),) for independent pixels.
        zero_mean_gaussian: whether Stein's estimate may take the noise as Gaussian of mean 0.
        least: the smallest clean intensity there can be, in the image's unit.
        counted: whether the image holds numbers of photons and nothing else, so that 0 is no sign of a background.
    """

    label = "noise"
    correlation = ((1.0,),)
    zero_mean_gaussian = True
    least = -math.inf
    counted = False

    @abstractmethod
    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, same shape as clean, intensity squared."""

    @abstractmethod
    def scaled(self, factor: float) -> "NoiseModel":
        """The same noise model with its standard deviation times factor."""

    @abstractmethod
    def in_unit(self, scale: float, *, zero: float = 0.0) -> "NoiseModel":
        """The noise model of the image times scale plus zero."""

    def turned_back(self, turn: int) -> "NoiseModel":
        """The noise model of images of which filters.turned() gave those of this one."""
        return self

    def mean(self, clean: Tensor) -> Tensor:
        """Expected noisy image, same shape as clean."""
        return clean

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped."""
        return clean + self.variance(clean).sqrt() * _randn(clean.shape, clean, generator)

    def quadrature(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Noisy intensities and their weights, [N, K] each, float64, at clean intensities [N] of independent pixels.

        The expectation of any function of a noisy pixel is its weighted mean.
        """
        step = torch.linspace(-TAILS, TAILS, NODES, dtype=torch.float64)
        noisy = self.mean(clean)[:, None] + self.variance(clean).sqrt()[:, None] * step
        return noisy, (-(step**2) / 2).exp().expand_as(noisy)

    def root_variance(self, noisy: Tensor) -> Tensor:
        """The variance whose inverse square root is the slope of the stabilising transform, same shape as noisy."""
        return self.variance(noisy)

    def gaussian(self) -> "NoiseModel":
        """A noise model with mean clean and about this variance, as a correlated field needs it."""
        return self

    @property
    def correlated(self) -> bool:
        """Whether pixels are not independent."""
        return len(self.correlation) > 1

    @property
    def pointwise(self) -> "NoiseModel":
        """The noise model of single pixels: the factor of a correlated field, or the noise model itself."""
        return self


@dataclass(frozen=True)
class PoissonGaussian(NoiseModel):
    """Poisson-Gaussian noise in its Gaussian approximation, variance gain * clean + sigma**2 (Foi et al. 2008, Eq. 3).

    Gain 0 is white Gaussian noise.

    Attributes:
        sigma: standard deviation of the signal-independent part, in the image's unit.
        gain: variance per unit of intensity, in the image's unit.
        black: intensity without light (a camera's black level), in the image's unit; below it the variance is sigma**2.
    """

    sigma: float
    gain: float = 0.0
    black: float = 0.0

    def __post_init__(self):
        total = self.sigma + self.gain
        if not (self.sigma >= 0 and self.gain >= 0 and total > 0 and math.isfinite(total + self.black)):
            raise ValueError(
                f"sigma {self.sigma} and gain {self.gain} must be finite, not negative and not both 0, "
                f"and black {self.black} finite."
            )

    @property
    def label(self) -> str:
        return "Poisson-Gaussian noise" if self.gain else "Gaussian noise"

    def variance(self, clean: Tensor) -> Tensor:
        return self.gain * (clean - self.black).clamp_min(0) + self.sigma**2

    def scaled(self, factor: float) -> "PoissonGaussian":
        return replace(self, sigma=self.sigma * factor, gain=self.gain * factor**2)

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "PoissonGaussian":
        return replace(self, sigma=self.sigma * scale, gain=self.gain * scale, black=self.black * scale + zero)


@dataclass(frozen=True)
class NoiseLevelFunction(NoiseModel):
    """Gaussian noise whose variance is any function of intensity, sigma_n(clean)**2 (Wu et al. 2020).

    Ours is linear between knots and constant outside them.

    Attributes:
        intensities: of the knots, rising, in the image's unit; at least two.
        variances: at the knots, above 0, intensity squared.
    """

    intensities: tuple[float, ...]
    variances: tuple[float, ...]
    label = "noise of no known model"

    def __post_init__(self):
        at, variances = tuple(map(float, self.intensities)), tuple(map(float, self.variances))
        if len(at) < 2 or not all(map(math.isfinite, at)) or any(a >= b for a, b in zip(at, at[1:], strict=False)):
            raise ValueError(f"intensities {at} must be at least two, finite and rising.")
        if len(variances) != len(at) or not all(math.isfinite(v) and v > 0 for v in variances):
            raise ValueError(
                f"variances {variances} must be finite and above 0, one for each of {len(at)} intensities."
            )
        object.__setattr__(self, "intensities", at)
        object.__setattr__(self, "variances", variances)

    def variance(self, clean: Tensor) -> Tensor:
        at, variances = clean.new_tensor(self.intensities), clean.new_tensor(self.variances)
        right = torch.bucketize(clean.contiguous(), at).clamp(1, len(at) - 1)
        share = (clean - at[right - 1]) / (at[right] - at[right - 1])
        return torch.lerp(variances[right - 1], variances[right], share.clamp(0, 1))

    def scaled(self, factor: float) -> "NoiseLevelFunction":
        return replace(self, variances=tuple(v * _positive("factor", factor) ** 2 for v in self.variances))

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "NoiseLevelFunction":
        at = tuple(x * scale + zero for x in self.intensities)
        return NoiseLevelFunction(at, tuple(v * scale**2 for v in self.variances))


@dataclass(frozen=True)
class Rician(NoiseModel):
    """Magnitude of a complex MR image, |clean + n1 + i n2|, n ~ N(0, sigma**2) (Gudbjartsson and Patz 1995, Eq. 1).

    Negative intensities count as 0; a magnitude has no zero but its own.

    Attributes:
        sigma: standard deviation of the real and of the imaginary part, in the image's unit; that of a dark magnitude
            is 0.655 sigma.
    """

    sigma: float
    label = "Rician noise"
    zero_mean_gaussian = False
    least = 0.0

    def __post_init__(self):
        _positive("sigma", self.sigma)

    def mean(self, clean: Tensor) -> Tensor:
        """Expected noisy image, sigma sqrt(pi / 2) L_1/2(-clean**2 / (2 sigma**2)); 1.25 sigma in the dark."""
        half = (clean.clamp_min(0) / self.sigma) ** 2 / 4
        laguerre = (1 + 2 * half) * torch.special.i0e(half) + 2 * half * torch.special.i1e(half)
        return self.sigma * math.sqrt(math.pi / 2) * laguerre

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, 2 sigma**2 + clean**2 - mean**2, same shape as clean, intensity squared."""
        ratio = clean.double().clamp_min(0) / self.sigma  # float64: the difference of two large squares
        exact = 2 + ratio**2 - (self.mean(clean.double()) / self.sigma) ** 2
        # squared asymptotic series of 1F1(-1/2; 1; -ratio**2 / 2): sum of ((-1/2)_n)**2 / n! (2 / ratio**2)**n
        series = 1 - 1 / (2 * ratio**2) - 1 / (2 * ratio**4)
        return (self.sigma**2 * torch.where(ratio < SERIES_FROM, exact, series)).to(clean.dtype)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        real, imaginary = self.sigma * _randn((2, *clean.shape), clean, generator)
        return torch.hypot(clean.clamp_min(0) + real, imaginary)

    def quadrature(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """By the density of Rice, y exp(-(y**2 + clean**2) / (2 sigma**2)) I0(y clean / sigma**2) / sigma**2."""
        noisy = super().quadrature(clean)[0].clamp_min(0)
        clean = clean.clamp_min(0)[:, None]
        bessel = torch.special.i0e(noisy * clean / self.sigma**2)
        return noisy, noisy / self.sigma * (-(((noisy - clean) / self.sigma) ** 2) / 2).exp() * bessel

    def gaussian(self) -> PoissonGaussian:
        """White Gaussian noise of the same sigma, which Rician noise approaches far from the dark."""
        return PoissonGaussian(self.sigma)

    def scaled(self, factor: float) -> "Rician":
        return replace(self, sigma=self.sigma * factor)

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "Rician":
        return replace(self, sigma=self.sigma * scale)


@dataclass(frozen=True)
class Speckle(NoiseModel):
    """Multiplicative noise, noisy = clean * g, g ~ Gamma of shape looks and mean 1 (Bruniquel and Lopes 1998).

    The variance is clean**2 / looks; negative intensities count as 0.

    Attributes:
        looks: how many independent speckles were averaged, any number above 0; it has no unit.
    """

    looks: float
    label = "speckle noise"
    zero_mean_gaussian = False
    least = 0.0

    def __post_init__(self):
        _positive("looks", self.looks)

    def variance(self, clean: Tensor) -> Tensor:
        return clean.clamp_min(0) ** 2 / self.looks

    def mean(self, clean: Tensor) -> Tensor:
        return clean.clamp_min(0)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        # torch.distributions.Gamma calls the same function, but takes no generator
        drawn = torch._standard_gamma(torch.full_like(clean, self.looks), generator=generator)
        return clean.clamp_min(0) * drawn / self.looks

    def quadrature(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Equal weights at the quantiles of the Gamma distribution, which has no smooth density at 0."""
        from scipy import special  # slow to import, and most noise needs none

        quantiles = special.gammaincinv(self.looks, (np.arange(4 * NODES) + 0.5) / (4 * NODES)) / self.looks
        noisy = clean.clamp_min(0)[:, None] * torch.from_numpy(quantiles / quantiles.mean())
        return noisy, torch.ones_like(noisy)

    def scaled(self, factor: float) -> "Speckle":
        return replace(self, looks=self.looks / _positive("factor", factor) ** 2)

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "Speckle":
        return self


@dataclass(frozen=True)
class CorrelatedGaussian(NoiseModel):
    """Spatially correlated Gaussian noise, noisy = clean + sigma(clean) * z, z a stationary field of variance 1.

    Each channel has a field of its own, drawn by circulant embedding (Dietrich and Newsam 1997). A measured correlation
    that was cut can have a negative power spectrum; ours raises the power to MIN_POWER and sets the variance back to 1.

    Attributes:
        noise_model: gives sigma(clean); its variance alone is used, so that Speckle is taken as Gaussian.
        correlation: of z at lags -r..r of rows and columns, [2r + 1, 2r + 1], 1 at lag 0 and 0 outside; a Tensor is
            taken too.
    """

    noise_model: PoissonGaussian | NoiseLevelFunction | Speckle
    correlation: tuple[tuple[float, ...], ...] = field()  # without field() the base class's would be its default

    def __post_init__(self):
        if not isinstance(self.noise_model, PoissonGaussian | NoiseLevelFunction | Speckle):
            raise ValueError(
                f"noise model {self.noise_model} must be PoissonGaussian, NoiseLevelFunction or Speckle: "
                "one with mean clean and independent pixels."
            )
        lags = torch.as_tensor(self.correlation, dtype=torch.float64)
        if lags.ndim != 2 or lags.shape[0] != lags.shape[1] or not lags.isfinite().all():
            raise ValueError(f"correlation {lags.tolist()} must be square and finite.")
        radius = len(lags) // 2
        one = len(lags) % 2 and abs(lags[radius, radius] - 1) <= 1e-6 and lags.abs().max() <= 1 + 1e-6
        if not one or not torch.allclose(lags, lags.flip(0, 1), atol=1e-6):
            raise ValueError(
                f"correlation {lags.tolist()} must have an odd side, 1 in its centre, nothing larger, "
                "and be equal at opposite lags."
            )
        object.__setattr__(self, "correlation", tuple(map(tuple, lags.tolist())))

    @property
    def label(self) -> str:
        return f"correlated {self.noise_model.label}"

    @property
    def correlated(self) -> bool:
        return True

    @property
    def pointwise(self) -> NoiseModel:
        return self.noise_model

    @property
    def zero_mean_gaussian(self) -> bool:
        return self.noise_model.zero_mean_gaussian

    def turned_back(self, turn: int) -> "CorrelatedGaussian":
        return replace(self, correlation=turned_back(torch.tensor(self.correlation, dtype=torch.float64), turn))

    def spectrum(self, height: int, width: int) -> Tensor:
        """Power of z on a torus of height x width, [height, width] in the order of fft2, float64, mean 1.

        Larger lag maps wrap around it.
        """
        lags = torch.tensor(self.correlation, dtype=torch.float64)
        step = torch.arange(len(lags)) - len(lags) // 2
        torus = torch.zeros(height, width, dtype=torch.float64)
        torus.index_put_((step[:, None] % height, step % width), lags, accumulate=True)
        power = torch.fft.fft2(torus).real.clamp_min(MIN_POWER)
        return power / power.mean()

    def variance(self, clean: Tensor) -> Tensor:
        return self.noise_model.variance(clean)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped; opposite rims do not correlate."""
        height, width = clean.shape[-2:]
        radius = len(self.correlation) // 2
        size = height + radius, width + radius  # room enough: lags within the image meet no other around the torus
        power = self.spectrum(*size)[:, : size[1] // 2 + 1].to(clean)
        white = torch.fft.rfft2(_randn((*clean.shape[:-2], *size), clean, generator))
        z = torch.fft.irfft2(white * power.sqrt(), s=size)[..., :height, :width]
        return clean + self.variance(clean).sqrt() * z

    def scaled(self, factor: float) -> "CorrelatedGaussian":
        return replace(self, noise_model=self.noise_model.scaled(factor))

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "CorrelatedGaussian":
        return replace(self, noise_model=self.noise_model.in_unit(scale, zero=zero))


def _randn(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} {value} must be finite and above 0.")
    return value
