"""Noise beyond the Poisson-Gaussian law: free, Rician, multiplicative, spatially correlated and colour noise, each with PoissonGaussian's few methods.

Every model has variance(clean), mean(clean), sample(clean, generator=...), log_likelihood(noisy, clean) and scaled(factor). Images are [B, C, H, W],
float32 or float64; noise is drawn on the device of clean, where the generator must live too.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LOG_2_PI = math.log(2 * math.pi)
FAR = 50.0  # clean / sigma from which Rice's variance is taken from its series: both ways are right to 1e-10 there
FLOOR = 1e-3  # smallest power of a correlated field, white noise has 1: a density needs power at every frequency; 8-bit rounding adds this at sigma_255 = 9


@dataclass(frozen=True)
class PoissonGaussian:
    """Poisson-Gaussian noise in its Gaussian approximation, variance gain * clean + sigma**2 (Foi et al. 2008, Eq. 3); gain 0 is white Gaussian noise.

    Attributes:
        sigma: standard deviation of the signal-independent part, in the image's unit.
        gain: variance per unit of intensity, in the image's unit.
        black: intensity without light (a camera's black level), in the image's unit; below it the variance is sigma**2.
    """

    sigma: float
    gain: float = 0.0
    black: float = 0.0

    def __post_init__(self):
        if not (self.sigma >= 0 and self.gain >= 0 and self.sigma + self.gain > 0 and math.isfinite(self.sigma + self.gain + self.black)):
            raise ValueError(f"sigma {self.sigma} and gain {self.gain} must be finite, not negative and not both 0, and black {self.black} finite.")

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, same shape as clean, intensity squared; intensities below black count as black."""
        return self.gain * (clean - self.black).clamp_min(0) + self.sigma**2

    def mean(self, clean: Tensor) -> Tensor:
        """Expected noisy image: clean itself."""
        return clean

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped."""
        return clean + self.variance(clean).sqrt() * torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of noisy given clean at each pixel, same shape, nats."""
        variance = self.variance(clean)
        return -0.5 * ((noisy - clean) ** 2 / variance + variance.log() + math.log(2 * math.pi))

    def scaled(self, factor: float) -> "PoissonGaussian":
        """The same law with its standard deviation times factor."""
        return replace(self, sigma=self.sigma * factor, gain=self.gain * factor**2)


class Unbiased:
    """A model whose noise has mean 0."""

    def mean(self, clean: Tensor) -> Tensor:
        """Expected noisy image: clean itself."""
        return clean


@dataclass(frozen=True)
class NoiseLevelFunction(Unbiased):
    """Gaussian noise of any variance law, sigma_n(clean)**2 (Wu et al. 2020): ours is linear between knots and constant outside them.

    Attributes:
        intensities: of the knots, rising, in the image's unit; at least two.
        variances: at the knots, above 0, intensity squared.
    """

    intensities: tuple[float, ...]
    variances: tuple[float, ...]

    def __post_init__(self):
        at, variances = tuple(map(float, self.intensities)), tuple(map(float, self.variances))
        if len(at) < 2 or not all(map(math.isfinite, at)) or any(a >= b for a, b in zip(at, at[1:], strict=False)):
            raise ValueError(f"intensities {at} must be at least two, finite and rising.")
        if len(variances) != len(at) or not all(math.isfinite(v) and v > 0 for v in variances):
            raise ValueError(f"variances {variances} must be finite and above 0, one for each of {len(at)} intensities.")
        object.__setattr__(self, "intensities", at)
        object.__setattr__(self, "variances", variances)

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, same shape as clean, intensity squared."""
        at, variances = clean.new_tensor(self.intensities), clean.new_tensor(self.variances)
        right = torch.bucketize(clean.contiguous(), at).clamp(1, len(at) - 1)
        share = (clean - at[right - 1]) / (at[right] - at[right - 1])
        return torch.lerp(variances[right - 1], variances[right], share.clamp(0, 1))

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped."""
        return clean + self.variance(clean).sqrt() * _randn(clean.shape, clean, generator)

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of noisy given clean at each pixel, same shape, nats."""
        variance = self.variance(clean)
        return -0.5 * ((noisy - clean) ** 2 / variance + variance.log() + LOG_2_PI)

    def scaled(self, factor: float) -> "NoiseLevelFunction":
        """The same law with its standard deviation times factor."""
        return replace(self, variances=tuple(v * _positive("factor", factor) ** 2 for v in self.variances))


@dataclass(frozen=True)
class Rician:
    """Magnitude of a complex MR image, |clean + n1 + i n2| with n1, n2 ~ N(0, sigma**2) (Gudbjartsson and Patz 1995, Eq. 1).

    Attributes:
        sigma: standard deviation of the real and of the imaginary part, in the image's unit; that of a dark magnitude is 0.655 sigma.
    """

    sigma: float

    def __post_init__(self):
        _positive("sigma", self.sigma)

    def mean(self, clean: Tensor) -> Tensor:
        """Expected noisy image, sigma sqrt(pi / 2) L_1/2(-clean**2 / (2 sigma**2)), 1.25 sigma in the dark; negative intensities count as 0."""
        half = (clean.clamp_min(0) / self.sigma) ** 2 / 4
        laguerre = (1 + 2 * half) * torch.special.i0e(half) + 2 * half * torch.special.i1e(half)
        return self.sigma * math.sqrt(math.pi / 2) * laguerre

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, 2 sigma**2 + clean**2 - mean**2, same shape as clean, intensity squared."""
        ratio = clean.double().clamp_min(0) / self.sigma  # float64: the difference of two large squares
        exact = 2 + ratio**2 - (self.mean(clean.double()) / self.sigma) ** 2
        # squared asymptotic series of 1F1(-1/2; 1; -ratio**2 / 2): sum of ((-1/2)_n)**2 / n! (2 / ratio**2)**n
        series = 1 - 1 / (2 * ratio**2) - 1 / (2 * ratio**4)
        return (self.sigma**2 * torch.where(ratio < FAR, exact, series)).to(clean.dtype)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy magnitude of clean, same shape, float, never negative and never clipped."""
        real, imaginary = self.sigma * _randn((2, *clean.shape), clean, generator)
        return torch.hypot(clean.clamp_min(0) + real, imaginary)

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of noisy given clean at each pixel, same shape, nats; minus infinity where noisy <= 0 (mask a zeroed background)."""
        y, x, s = noisy.clamp_min(0), clean.clamp_min(0), self.sigma
        return y.log() - 0.5 * ((y - x) / s) ** 2 + torch.special.i0e(y / s * (x / s)).log() - 2 * math.log(s)

    def scaled(self, factor: float) -> "Rician":
        """The same law with the standard deviation of its two parts times factor."""
        return replace(self, sigma=self.sigma * factor)


@dataclass(frozen=True)
class Speckle:
    """Multiplicative noise, noisy = clean * g, g ~ Gamma of shape looks and mean 1: intensity averaged over independent looks (Bruniquel and Lopes 1998).

    Attributes:
        looks: how many independent speckles were averaged, any number above 0; the noise is 1 / sqrt(looks) of the signal.
    """

    looks: float

    def __post_init__(self):
        _positive("looks", self.looks)

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, clean**2 / looks, same shape as clean, intensity squared; negative intensities count as 0."""
        return clean.clamp_min(0) ** 2 / self.looks

    def mean(self, clean: Tensor) -> Tensor:
        """Expected noisy image: clean itself, negative intensities counting as 0."""
        return clean.clamp_min(0)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never negative and never clipped."""
        # torch.distributions.Gamma calls the same function, but takes no generator
        return clean.clamp_min(0) * torch._standard_gamma(torch.full_like(clean, self.looks), generator=generator) / self.looks

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of noisy given clean at each pixel, same shape, nats; minus infinity where noisy < 0 or clean <= 0 (no noise, no density)."""
        possible = (noisy >= 0) & (clean > 0)
        y, x, k = noisy.where(possible, 1.0), clean.where(possible, 1.0), self.looks
        log_density = torch.special.xlogy(k - 1, y / x) + k * (1 - y / x) - x.log() + (k * math.log(k) - k - math.lgamma(k))
        return log_density.where(possible, -math.inf)

    def scaled(self, factor: float) -> "Speckle":
        """The same law with its standard deviation times factor."""
        return replace(self, looks=self.looks / _positive("factor", factor) ** 2)


@dataclass(frozen=True)
class CorrelatedGaussian(Unbiased):
    """Spatially correlated Gaussian noise, noisy = clean + sigma(clean) * z, with z a stationary field of variance 1, its own for each channel.

    Fields are drawn by circulant embedding (Dietrich and Newsam 1997). Ours differs where the correlation has a negative power spectrum, as a
    measured and cut one can: power is raised to FLOOR and the variance set back to 1.

    Attributes:
        law: gives sigma(clean); its variance alone is used, so that Speckle is taken as Gaussian.
        correlation: of z at lags -r..r of rows and columns, [2r+1, 2r+1], 1 at lag 0 and 0 outside; a Tensor is taken too.
    """

    law: PoissonGaussian | NoiseLevelFunction | Speckle
    correlation: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        if not isinstance(self.law, PoissonGaussian | NoiseLevelFunction | Speckle):
            raise ValueError(f"law {self.law} must be PoissonGaussian, NoiseLevelFunction or Speckle: one with mean clean and independent pixels.")
        lags = _frozen_square(self, "correlation")
        radius = len(lags) // 2
        if len(lags) % 2 == 0 or abs(lags[radius, radius] - 1) > 1e-6 or lags.abs().max() > 1 + 1e-6 or not torch.allclose(lags, lags.flip(0, 1), atol=1e-6):
            raise ValueError(f"correlation {lags.tolist()} must have an odd side, 1 in its centre, nothing larger, and be equal at opposite lags.")

    def spectrum(self, height: int, width: int) -> Tensor:
        """Power of z on a torus of height x width, [height, width] in the order of fft2, float64, mean 1; larger lag maps wrap around it."""
        lags = torch.tensor(self.correlation, dtype=torch.float64)
        step = torch.arange(len(lags)) - len(lags) // 2
        torus = torch.zeros(height, width, dtype=torch.float64)
        torus.index_put_((step[:, None] % height, step % width), lags, accumulate=True)
        power = torch.fft.fft2(torus).real.clamp_min(FLOOR)
        return power / power.mean()

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel, same shape as clean, intensity squared."""
        return self.law.variance(clean)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped; opposite rims do not correlate."""
        height, width = clean.shape[-2:]
        radius = len(self.correlation) // 2
        size = height + radius, width + radius  # room enough: lags within the image meet no other around the torus
        power = self.spectrum(*size)[:, : size[1] // 2 + 1].to(clean)
        white = torch.fft.rfft2(_randn((*clean.shape[:-2], *size), clean, generator))
        field = torch.fft.irfft2(white * power.sqrt(), s=size)[..., :height, :width]
        return clean + self.variance(clean).sqrt() * field

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of each whole image given clean, [B], nats, float64: exact on a torus, where Fourier coefficients of z are independent.

        A real image does not close on itself. The jump between its opposite rims costs 0.008 nats a pixel of 512 x 512 if the field is white noise blurred
        by a Gaussian of 0.7 px, but 0.4 if of 1.5 px, whose power falls to FLOOR.
        """
        variance = self.variance(clean).double()
        whitened = torch.fft.fft2((noisy - clean).double() / variance.sqrt(), norm="ortho")
        power = self.spectrum(*clean.shape[-2:]).to(clean.device)
        return -0.5 * (whitened.abs() ** 2 / power + power.log() + variance.log() + LOG_2_PI).sum(dim=(1, 2, 3))

    def scaled(self, factor: float) -> "CorrelatedGaussian":
        """The same correlation with the standard deviation times factor."""
        return replace(self, law=self.law.scaled(factor))


@dataclass(frozen=True)
class MultivariateGaussian(Unbiased):
    """Colour noise: at each pixel a vector over the channels ~ N(0, covariance), covariance = P P^T (Wu et al. 2020), the same at every pixel.

    Attributes:
        covariance: [C, C], symmetric and positive definite, intensity squared; a Tensor is taken too.
    """

    covariance: tuple[tuple[float, ...], ...]

    def __post_init__(self):
        covariance = _frozen_square(self, "covariance")
        if not torch.allclose(covariance, covariance.T, rtol=1e-6, atol=0) or torch.linalg.cholesky_ex(covariance).info:
            raise ValueError(f"covariance {covariance.tolist()} must be symmetric and positive definite.")

    def _root(self, clean: Tensor) -> Tensor:
        """P, lower triangular [C, C], in the dtype and on the device of clean."""
        if clean.shape[1] != len(self.covariance):
            raise ValueError(f"an image of {clean.shape[1]} channels does not fit a covariance of {len(self.covariance)}.")
        return torch.linalg.cholesky(torch.tensor(self.covariance, dtype=torch.float64)).to(clean)

    def variance(self, clean: Tensor) -> Tensor:
        """Variance at each pixel and channel, same shape as clean, intensity squared."""
        return self._root(clean).square().sum(dim=1).view(1, -1, 1, 1).expand_as(clean)

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        """A noisy copy of clean, same shape, float, never clipped."""
        return clean + torch.einsum("cd,bdhw->bchw", self._root(clean), _randn(clean.shape, clean, generator))

    def log_likelihood(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """Log density of all channels together at each pixel, [B, 1, H, W], nats."""
        root = self._root(clean)
        whitened = torch.linalg.solve_triangular(root, (noisy - clean).flatten(2), upper=False)
        log_density = -0.5 * (whitened**2 + LOG_2_PI).sum(dim=1, keepdim=True) - root.diagonal().log().sum()
        return log_density.view(-1, 1, *clean.shape[2:])

    def scaled(self, factor: float) -> "MultivariateGaussian":
        """The same correlation between channels with the standard deviation times factor."""
        return replace(self, covariance=torch.tensor(self.covariance, dtype=torch.float64) * _positive("factor", factor) ** 2)


def _randn(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device)


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} {value} must be finite and above 0.")
    return value


def _frozen_square(model: CorrelatedGaussian | MultivariateGaussian, name: str) -> Tensor:
    """The model's square matrix of that name, float64, kept in the model as numbers alone."""
    matrix = torch.as_tensor(getattr(model, name), dtype=torch.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.isfinite().all():
        raise ValueError(f"{name} {matrix.tolist()} must be square and finite.")
    object.__setattr__(model, name, tuple(map(tuple, matrix.tolist())))
    return matrix


Law = PoissonGaussian | NoiseLevelFunction | Speckle | Rician | CorrelatedGaussian  # of a gray image


def pointwise(law: Law) -> Law:
    """The law of single pixels: what a correlated field is multiplied with, or the law itself."""
    return law.law if isinstance(law, CorrelatedGaussian) else law
