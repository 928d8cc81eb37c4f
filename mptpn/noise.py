"""Noise models: each draws noise, tells its variance at every pixel and its log-likelihood."""

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F


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


# Unit gain for white noise, blind to planes (Immerkaer 1996, Eq. 2).
SECOND_DIFFERENCE = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6


def robust_level(noisy: Tensor) -> Tensor:
    """A first guess of white noise's standard deviation, median |second difference| / 0.6745 (Donoho and Johnstone 1994), too high on texture.

    Pixels in constant surroundings (zeroed background, padding, saturation) carry no noise and do not count.

    Args:
        noisy: [B, C, H, W]; the median is over all channels.
    Returns:
        [B, 1, 1, 1], at least 1e-6.
    """
    padded = F.pad(noisy, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    response = F.conv2d(padded, SECOND_DIFFERENCE.to(noisy)[None, None]).abs().view_as(noisy)
    response = response.masked_fill(constant(noisy), math.nan).flatten(1)
    return (response.nanmedian(dim=1).values / 0.6745).nan_to_num(0.0).clamp_min(1e-6).view(-1, 1, 1, 1)


def constant(noisy: Tensor) -> Tensor:
    """Where a pixel equals all its eight neighbours, [B, C, H, W] bool."""
    padded = F.pad(noisy, (1, 1, 1, 1), mode="replicate")
    return F.max_pool2d(padded, 3, 1) == -F.max_pool2d(-padded, 3, 1)


def informative(noisy: Tensor) -> Tensor:
    """Where noise is seen, [B, C, H, W] bool: not in constant surroundings (zeroed background, padding, saturation); everywhere in an all-constant image."""
    inside = F.max_pool2d(constant(noisy).to(noisy), 3, 1, 1) < 0.5
    return inside | ~inside.flatten(1).any(1).view(-1, 1, 1, 1)


def informative_mean(noisy: Tensor) -> Tensor:
    """Mean of each image over its informative pixels, [B, 1, 1, 1]."""
    counts = informative(noisy).to(noisy)
    return (noisy * counts).sum((1, 2, 3), keepdim=True) / counts.sum((1, 2, 3), keepdim=True)


def generator(*keys: int) -> torch.Generator:
    """A CPU random generator that is a function of the keys alone: (seed, purpose, step, ...); equal keys draw equal numbers.

    The keys are hashed: PyTorch's generator looks at 32 bits of its seed.
    """
    digest = hashlib.sha256(",".join(str(int(key)) for key in keys).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def hidden_levels(count: int, *, low: float, high: float, seed: int) -> list[float]:
    """Noise levels for a set, one an image: spaced evenly in the logarithm between low and high, in random order.

    Args:
        count: how many images.
        low, high: smallest and largest level, any unit.
        seed: decides the order alone.
    """
    if not 0 < low <= high:
        raise ValueError(f"levels from {low} to {high} make no range; give 0 < low <= high.")
    spaced = [low * (high / low) ** (i / max(1, count - 1)) for i in range(count)]
    return [spaced[i] for i in torch.randperm(count, generator=generator(seed, 101)).tolist()]


def hidden_copies(clean: list[Tensor], *, low: float, high: float, seed: int) -> tuple[list[Tensor], list[float]]:
    """One noisy copy of each image, white Gaussian, each at a level of its own (the `fixed` setting: a copy is never redrawn).

    Args:
        clean: images of any shapes.
        low, high, seed: see hidden_levels; the levels are in the images' unit.
    Returns:
        the noisy copies, and their true levels, which no stage may see.
    """
    levels = hidden_levels(len(clean), low=low, high=high, seed=seed)
    return [PoissonGaussian(level).sample(image, generator=generator(seed, 102, i)) for i, (image, level) in enumerate(zip(clean, levels, strict=True))], levels
