"""Variance stabilisation and noise whitening: noise of any known model becomes white noise of standard deviation 1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mptpn.noise import NoiseModel, PoissonGaussian
from mptpn.random import generator

NODES, BEND = 257, 0.02  # least number of tabulated intensities, and most that log sigma changes between two of them
BEYOND = 6.0  # standard deviations by which the clean intensities pass the image's ends
FURTHER = 10.0  # standard deviations by which the noisy ones pass these
SMALLEST = 1e-4  # standard deviation, of the largest: noise that vanishes in the dark would have an endless slope there
# white noise over the largest power of the correlated noise: a measured correlation is not exact, and weak correlation
# is what small lags leave
HEIGHT = 2.0
PAIRS = 2  # fields of added noise and their negatives: what the network lets through of them cancels in the mean
SIDE = 512  # px, period of the fields
# photons a pixel below which the noise has a few values alone, the networks keep them as structure, and white noise of
# this standard deviation is added: a smooth phantom of 0.4 to 0.6 photons gains 4 to 10 dB by it, one of 0.9 loses 0.2
FEW_VALUES, ADDED = 0.75, 0.7


@dataclass(frozen=True)
class VarianceStabilisingTransform:
    """The transform f that gives noise the standard deviation 1 at every intensity, and its exact unbiased inverse.

    f is the integral of 1 / sigma over the expected noisy intensity (Bartlett 1947; of Poisson-Gaussian noise it is
    Anscombe's root): exact where sigma hardly bends within the noise. A denoiser finds E f(y) in f(y), not f(E y); the
    exact unbiased inverse (Makitalo and Foi 2013; Foi 2011 for Rice) takes it back to the clean intensity. Ours
    computes the expectation by quadrature of the noise model, whatever its skew, and tabulates it where sigma bends.

    Attributes:
        noisy, stable: f at rising noisy intensities.
        clean, expected: E f(y) at rising clean intensities.
    """

    noisy: np.ndarray
    stable: np.ndarray
    clean: np.ndarray
    expected: np.ndarray

    @classmethod
    def of(cls, noise_model: NoiseModel, *, low: float, high: float) -> "VarianceStabilisingTransform":
        """For noisy intensities from low to high, in the image's unit; of a correlated model that of single pixels."""
        model = noise_model.pointwise
        ends = torch.tensor([low, high], dtype=torch.float64)
        sigma = model.variance(ends).sqrt() * torch.tensor([-1.0, 1.0])
        clean = _where_sigma_bends(model, *(ends + BEYOND * sigma).tolist())
        clean = torch.cat([clean.new_tensor([model.least]), clean]) if clean[0] < model.least else clean
        clean = clean[clean >= model.least]
        mean, sigma = model.mean(clean).numpy(), model.variance(clean).sqrt()
        first, last = (ends + (BEYOND + FURTHER) * (sigma[[0, -1]] * torch.tensor([-1.0, 1.0]))).tolist()
        noisy = np.unique(np.concatenate([np.linspace(first, last, NODES), mean]))
        root = model.root_variance(clean).sqrt()
        slope = 1 / np.interp(noisy, mean, root.clamp_min(SMALLEST * float(root.max())).numpy())
        stable = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(noisy))])
        values, weight = (x.numpy() for x in model.quadrature(clean))
        expected = (np.interp(values, noisy, stable) * weight).sum(1) / weight.sum(1)
        return cls(noisy, stable, clean.numpy(), np.maximum.accumulate(expected))

    def __call__(self, noisy: Tensor) -> Tensor:
        """f of every pixel, same shape and type; its noise has a standard deviation of 1."""
        return _interpolated(noisy, self.noisy, self.stable)

    def inverse(self, denoised: Tensor) -> Tensor:
        """The clean intensity whose noisy values have this expectation of f, for every pixel."""
        return _interpolated(denoised, self.expected, self.clean)


def _where_sigma_bends(model: NoiseModel, low: float, high: float) -> Tensor:
    """Intensities from low to high, denser where the noise's level changes, rising, float64."""
    at = torch.linspace(low, high, NODES, dtype=torch.float64)
    for _ in range(60):  # halves an interval at most to the last digit
        variance = model.variance(at)
        steep = variance.clamp_min(SMALLEST**2 * float(variance.max())).log().diff().abs() > 2 * BEND
        middle = ((at[1:] + at[:-1]) / 2)[steep]
        if not len(middle):
            break
        at = torch.cat([at, middle]).unique()
    return at


def _interpolated(x: Tensor, at: np.ndarray, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.interp(x.cpu().double().numpy(), at, values)).to(x)


def whitening_noise(noise_model: NoiseModel, *, pairs: int = PAIRS, side: int = SIDE, seed: int = 0) -> Tensor:
    """Fields that, added to noise of variance 1 and the model's correlation, make it white, [2 pairs, 1, side, side].

    Their power is HEIGHT times the largest of the noise's, less the noise's: correlation of either sign becomes none,
    at the price of a higher level. They close on themselves, see cut(). One field of 0 where noise is white already.
    """
    if not noise_model.correlated:
        return torch.zeros(1, 1, 1, 1)
    power = noise_model.spectrum(side, side)
    missing = (HEIGHT * power.max() - power).sqrt().float()
    white = torch.randn(pairs, 1, side, side, generator=generator(seed, "whitening"))
    field = torch.fft.ifft2(torch.fft.fft2(white) * missing).real
    return torch.cat([field, -field])


def added_noise(noise_model: NoiseModel, photons: float) -> Tensor:
    """What is added to a transformed image for a network that knows white Gaussian noise alone, as whitening_noise.

    photons: a pixel on average, see StabilisedPredictor.
    """
    if photons >= FEW_VALUES or noise_model.correlated:
        return whitening_noise(noise_model)
    field = ADDED * torch.randn(PAIRS, 1, SIDE, SIDE, generator=generator(0, "few photons"))
    return torch.cat([field, -field])


def photons_at(noise_model: NoiseModel, mean: float) -> float:
    """The variance at an intensity over that of one photon: the photons there, and read noise as if it were more.

    Infinite where the variance does not rise with the intensity.
    """
    model = noise_model.pointwise
    if not (isinstance(model, PoissonGaussian) and model.gain > 0):
        return math.inf
    return float(model.variance(torch.tensor([mean], dtype=torch.float64))) / model.gain**2


def cut(fields: Tensor, origin: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The fields [N, 1, P, P], repeated without end, at rows and columns `origin` and on: [N, 1, *shape]."""
    rows, cols = (
        (start + torch.arange(length)) % period
        for start, length, period in zip(origin, shape, fields.shape[2:], strict=True)
    )
    return fields[..., rows[:, None], cols]
