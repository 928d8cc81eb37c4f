"""Noise of counted photons and of electron-multiplying cameras (EMCCD), skewed in the dark, and its detection."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import SECOND_DIFFERENCE, center_crop, correlate, gaussian_blur, has_noise
from mptpn.noise.models import NoiseModel, PoissonGaussian
from mptpn.noise.statistics import MAX_LEVELS, histogram, quantised, relative_entropy
from mptpn.random import generator

READ_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)  # shares of the dark variance that are tried
CONTENT_BLUR = 1.5  # px, width of the blur whose result stands for the content
MAX_DIVERGENCE = 0.5  # of an accepted skewed model, relative to that of the Gaussian noise model
RING = (torch.ones(5, 5) - F.pad(torch.ones(1, 1), (2,) * 4)) / 24
MANY = 400  # photons, from which their number is taken as Gaussian
SAMPLES = 4096  # noisy intensities of a quadrature, drawn
# of the noise over that of counts with the same mean, in the windows that hold least; shot noise has 1 there
LEAST_DISPERSION, MOST_DISPERSION = 0.6, 1.5
ZEROS = 1.2  # most zeros, of those that Poisson numbers of the same means have; with read noise of 2 photons 1.25
# px, side of the window of an edge: its brightest 3 x 3 px have more than 3 times the mean and 4 counts, or more than 2
# where its darkest have none
EDGE_WINDOW, EDGE, EDGE_COUNTS, EDGE_LIGHT = 9, 3, 4, 2
OFF_STEP = 0.1  # of a step: most that a value is off a multiple
FEWEST_COUNTS = 50  # in such a window, for the variance of fewer is hardly known
COUNT_WINDOW = 15  # px, side of the windows whose means and variances are compared
SIDE = 512  # px, of the center crop that is examined


@dataclass(frozen=True)
class Poisson(PoissonGaussian):
    """A Poisson number of electrons and Gaussian read noise, drawn exactly (Foi et al. 2008, Eq. 1).

    The variance is that of PoissonGaussian, gain * clean + sigma**2; the third central moment is
    gain * (variance - read * sigma**2).

    Attributes:
        read: share of sigma**2 that is Gaussian read noise, 0 to 1; the rest are electrons without light.
    """

    read: float = 0.0
    label = "Poisson noise"
    excess = 1.0  # excess noise factor: variance over that of the number of electrons
    root_shift = 0.375  # electrons that Anscombe's root counts more

    def __post_init__(self):
        super().__post_init__()
        if not (0 <= self.read <= 1 and self.gain > 0):
            raise ValueError(f"gain {self.gain} must be above 0, and read {self.read} from 0 to 1.")

    @property
    def step(self) -> float:
        """Mean intensity of an electron."""
        return self.gain / self.excess

    def rate(self, clean: Tensor) -> Tensor:
        """Expected number of electrons, at each pixel, float64."""
        return (self.variance(clean.double()) - self.read * self.sigma**2) / (self.excess * self.step**2)

    def root_variance(self, noisy: Tensor) -> Tensor:
        """Of Anscombe's root, which counts 3 / 8 of an electron more (Makitalo and Foi 2013, Eq. 3)."""
        return self.variance(noisy) + self.root_shift * self.gain * self.step

    def electrons(self, count: Tensor, *, generator: torch.Generator) -> Tensor:
        """What a number of electrons is recorded as, in electrons."""
        return count

    def sample(self, clean: Tensor, *, generator: torch.Generator) -> Tensor:
        rate = self.rate(clean)
        recorded = self.electrons(torch.poisson(rate, generator=generator), generator=generator)
        white = torch.randn(clean.shape, generator=generator, dtype=clean.dtype, device=clean.device)
        return clean + (self.step * (recorded - rate)).to(clean) + self.sigma * self.read**0.5 * white

    @property
    def counted(self) -> bool:
        return self.sigma == 0

    @property
    def least(self) -> float:
        return self.black if self.counted else -math.inf

    def quadrature(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Of photons alone by their probabilities, as Gaussian noise from MANY on; else by draws."""
        if not self.counted:
            return self._drawn(clean)
        rate, count = self.rate(clean)[:, None], torch.arange(2.0 * MANY, dtype=torch.float64)
        weight = (torch.xlogy(count, rate) - rate - torch.lgamma(count + 1)).exp()
        values, gaussian = super().quadrature(clean)
        pad = (0, len(count) - values.shape[1])
        few = rate < MANY
        noisy = torch.where(few, self.black + self.step * count, F.pad(values, pad))
        return noisy, torch.where(few, weight, F.pad(gaussian, pad))

    def _drawn(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        """Equal weights at drawn intensities, moved and stretched to the exact mean and variance."""
        copies = clean.double().view(1, 1, -1, 1).expand(-1, -1, -1, SAMPLES)
        drawn = self.sample(copies, generator=generator(0, "quadrature"))[0, 0]
        drawn = (drawn - drawn.mean(1, keepdim=True)) / drawn.std(1, keepdim=True).clamp_min(1e-12)
        noisy = clean[:, None] + self.variance(clean).sqrt()[:, None] * drawn
        return noisy, torch.ones_like(noisy)


@dataclass(frozen=True)
class EMCCD(Poisson):
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
    excess = 2.0
    root_shift = 0.0  # Anscombe's is for Poisson numbers alone

    def __post_init__(self):
        super().__post_init__()
        if not (self.read > 0 and self.sigma > 0):
            raise ValueError(f"read {self.read} and sigma {self.sigma} must be above 0.")

    def electrons(self, count: Tensor, *, generator: torch.Generator) -> Tensor:
        amplified = torch._standard_gamma(count.clamp_min(1e-9), generator=generator)
        return amplified.where(count > 0, 0.0)


def count_step(noisy: Tensor, valid: Tensor | None = None) -> float:
    """What one photon adds to an image of counted photons, whose zeros are counts like others; 0 for any other image.

    The values are multiples of one step from 0, or were until they were rounded. In windows the variance is at least
    about the mean, as of Poisson numbers, and where there is least structure about equal to it; and there are no more
    zeros than these have. Zeros of an image that was cut off at 0 are too many, or its noise too weak in the light.

    Args:
        noisy: [1, 1, H, W]. valid: same shape, bool; None: every pixel.
    """
    valid = torch.ones_like(noisy, dtype=torch.bool) if valid is None else valid
    values = noisy[valid].unique()
    if len(values) < 3 or len(values) > MAX_LEVELS or float(values[0]) != 0 or min(noisy.shape[2:]) < COUNT_WINDOW:
        return 0.0
    step = _step(values.double())
    counts = noisy.double() / step
    if float((values.double() / step - (values.double() / step).round()).abs().max()) > OFF_STEP:
        return 0.0
    return float(values[-1]) / round(float(values[-1]) / step) if _like_counts(counts, valid) else 0.0


def _like_counts(counts: Tensor, valid: Tensor) -> bool:
    """Whether an image of whole numbers, [1, 1, H, W], has the variance and no more zeros than Poisson numbers."""
    side = COUNT_WINDOW
    share, mean = (F.avg_pool2d(x * valid, side, side // 2).flatten() for x in (torch.ones_like(counts), counts))
    energy = correlate(counts, SECOND_DIFFERENCE.to(counts)).square()
    energy = F.avg_pool2d(F.pad(energy * valid[..., 1:-1, 1:-1], (1,) * 4), side, side // 2).flatten()
    held = (share > 0.99) & (mean > 0)
    if int(held.sum()) < 4:
        return False
    # the variance beside the mean, in all windows of about one mean together: a few counts say little
    groups = torch.tensor_split(mean[held].argsort(), max(1, min(8, int(held.sum()) // 8)))
    lit = [one for one in groups if side**2 * float(mean[held][one].mean()) > FEWEST_COUNTS] or groups
    dispersion = [float((energy[held][one] / mean[held][one]).quantile(0.25)) for one in lit]
    if LEAST_DISPERSION >= min(dispersion) or sorted(dispersion)[len(dispersion) // 4] >= MOST_DISPERSION:
        return False
    allowed, zeros = _zeros_of_counts(counts, valid)
    return zeros <= ZEROS * allowed + 3 * allowed**0.5 + 8


def _zeros_of_counts(counts: Tensor, valid: Tensor) -> tuple[float, int]:
    """How many zeros Poisson numbers with the mean of the 24 neighbours have, and how many there are.

    Not at an edge: beside a background without light no mean of neighbours is that of a pixel.
    """
    total = F.avg_pool2d(F.pad(counts * valid, (2,) * 4), 5, 1) * 25 - counts * valid
    number = F.avg_pool2d(F.pad(valid.to(counts), (2,) * 4), 5, 1) * 25 - 1
    near = F.avg_pool2d(F.pad(counts, (1,) * 4, mode="reflect"), 3, 1)
    light, dark = (F.max_pool2d(x, EDGE_WINDOW, 1, EDGE_WINDOW // 2) for x in (near, -near))
    mean = total / number.clamp_min(1)
    edge = (light > EDGE * mean + EDGE_COUNTS) | ((dark == 0) & (light > EDGE_LIGHT))
    used = valid & (total > 0) & ~edge
    # exp(-mean), but for what the noise of the neighbours adds
    expected = (-total * (1 - (-1 / number.clamp_min(1)).exp())).exp()
    return float(expected[used].sum()), int((counts[used] == 0).sum())


def _step(values: Tensor) -> float:
    """The step whose multiples are these values, [N] from 0 on, though a scaled image was rounded."""
    step = float(values.diff().min())
    for value in values[1:].tolist():  # each makes it more exact
        if abs(value / step - round(value / step)) < 2 * OFF_STEP:
            step = value / round(value / step)
    return step


def may_be_skewed(noise_model: NoiseModel) -> bool:
    """Whether detect_skew looks for more than the noise model itself."""
    return type(noise_model) is PoissonGaussian and noise_model.gain > 0 and noise_model.sigma > 0


def detect_skew(
    noisy: Tensor, *, noise_model: NoiseModel, seed: int = 0, families: Sequence[type[Poisson]] = (EMCCD,)
) -> NoiseModel:
    """A skewed model of the same variance if the image clearly looks more like one; else the noise model itself.

    A pixel minus the mean of its 24 neighbours is nearly its own noise, with its skew. The histogram of these
    differences is compared with those of copies: the blurred image with noise drawn from the noise model, and from
    skewed noise at several shares of read noise.

    Args:
        noisy: [1, 1, H, W], H, W >= 3.
        noise_model: of its pixels, in its unit; returned as it is unless may_be_skewed.
        families: the classes of models that are tried.
    """
    if not may_be_skewed(noise_model):
        return noise_model
    noisy = center_crop(noisy, side=SIDE)
    content = gaussian_blur(noisy, sigma=CONTENT_BLUR)
    measured, grid = histogram(_standardised(noisy, content, noise_model=noise_model)), noisy.unique()

    def distance(candidate: NoiseModel) -> float:
        copy = quantised(candidate.sample(content, generator=generator(seed, "EMCCD")), grid=grid)
        drawn = _standardised(copy, gaussian_blur(copy, sigma=CONTENT_BLUR), noise_model=noise_model)
        return relative_entropy(measured, histogram(drawn))

    numbers = noise_model.sigma, noise_model.gain, noise_model.black
    candidates = [family(*numbers, read) for family in families for read in READ_SHARES]
    distances = [distance(candidate) for candidate in candidates]
    best = min(range(len(distances)), key=distances.__getitem__)
    return candidates[best] if distances[best] < MAX_DIVERGENCE * distance(noise_model) else noise_model


def _standardised(noisy: Tensor, content: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Pixels minus the mean of their neighbours, in standard deviations, where there is noise, [pixels]."""
    around = correlate(F.pad(noisy, (2,) * 4, mode="reflect"), RING.to(noisy))
    return ((noisy - around) / noise_model.variance(content).sqrt())[has_noise(noisy)]
