"""A network for white noise where noise is not white: by the noise model that the image shows, its variance is made
even and its power filled up to white.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mptpn.noise.models import NoiseModel
from mptpn.random import generator
from mptpn.stages import profound

POINTS, NODES = 4097, 257  # intensities at which the transform and its inverse are tabulated
SAMPLES = 4096  # noisy values drawn for each node of the inverse
BEYOND = 6.0  # standard deviations by which the table passes the image's ends
# smallest standard deviation, of the largest: a noise model without noise in the dark would have an endless slope there
LEAST = 1e-3
# of the white noise over the largest power of the correlated: the map of a set is not exact, and weak correlation is
# what small lags leave
HEIGHT = 2.0
# of fields of added noise, one the negative of the other: what the network lets through of them cancels in the mean
PAIRS = 2


@dataclass(frozen=True)
class VarianceStabilisingTransform:
    """The transform that gives noise of a noise model the standard deviation 1 at every intensity, and the inverse of
    its expectation, tabulated.

    f is the integral of 1 / sigma over the expected noisy intensity (Bartlett 1947; of a Poisson-Gaussian noise model
    it is Anscombe's root): exact where sigma hardly bends within the noise, near enough elsewhere (dividing the slope
    by the deviation that is left was worth - 0.03 to 0.01 dB on real sets). What a denoiser finds in f(y) is E f(y),
    not f(E y): the exact unbiased inverse (Makitalo and Foi 2013) takes it back to the clean intensity, the bias of
    Rice's noise model included (Foi 2011). Ours draws the expectation from the noise model, whatever its skew.

    Attributes:
        noisy, stable: f at rising noisy intensities. clean, expected: E f(y) at rising clean intensities.
    """

    noisy: np.ndarray
    stable: np.ndarray
    clean: np.ndarray
    expected: np.ndarray

    @classmethod
    def of(cls, noise_model: NoiseModel, *, low: float, high: float) -> "VarianceStabilisingTransform":
        """For intensities of the noisy image from low to high, in its unit; of a correlated noise model the one of
        single pixels counts.
        """
        noise_model = noise_model.pointwise
        ends = torch.tensor([low, high], dtype=torch.float64)
        first, last = (ends + BEYOND * noise_model.variance(ends).sqrt() * torch.tensor([-1.0, 1.0])).tolist()
        noisy, clean = np.linspace(first, last, POINTS), torch.linspace(first, last, NODES, dtype=torch.float64)
        sigma, mean = noise_model.variance(clean).sqrt(), noise_model.mean(clean).numpy()
        drawn = noise_model.sample(
            clean.view(1, 1, -1, 1).expand(1, 1, -1, SAMPLES), generator=generator(0, "transform")
        )[0, 0].numpy()
        # expected noisy intensities rise; where Rice's noise model is dark many clean ones expect nearly the same
        at, place = np.unique(mean, return_index=True)
        slope = 1 / np.interp(noisy, at, sigma.clamp_min(LEAST * float(sigma.max())).numpy()[place])
        stable = np.concatenate([[0.0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(noisy))])
        # a straight f has no bias: what the drawn means are off by is taken out along its slope
        expected = np.interp(drawn, noisy, stable).mean(1) - np.interp(mean, noisy, slope) * (drawn.mean(1) - mean)
        return cls(noisy, stable, clean.numpy(), np.maximum.accumulate(expected))

    def __call__(self, noisy: Tensor) -> Tensor:
        """f of every pixel, same shape and type; noise of the noise model has a standard deviation of 1 in it."""
        return _looked_up(noisy, self.noisy, self.stable)

    def inverse(self, denoised: Tensor) -> Tensor:
        """The clean intensity whose noisy values have this expectation of f, for every pixel."""
        return _looked_up(denoised, self.expected, self.clean)


def _looked_up(x: Tensor, at: np.ndarray, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.interp(x.cpu().double().numpy(), at, values)).to(x)


def whitening_noise(noise_model: NoiseModel, shape: tuple[int, int], *, pairs: int = PAIRS, seed: int = 0) -> Tensor:
    """Fields of noise [2 pairs, 1, H, W] that, added to noise of variance 1 and the noise model's correlation, make it
    white; one field of 0 where it is white already.

    Their power is HEIGHT times the largest of the noise model's, less the noise model's: correlation of either sign
    becomes none, at the price of a higher level.
    """
    if not noise_model.correlated:
        return torch.zeros(1, 1, *shape)
    radius = len(noise_model.correlation) // 2
    size = tuple(side + radius for side in shape)  # as CorrelatedGaussian.sample: opposite rims are apart
    power = noise_model.spectrum(*size)
    missing = (HEIGHT * power.max() - power).sqrt().float()
    white = torch.randn(pairs, 1, *size, generator=generator(seed, "whitening"))
    field = torch.fft.ifft2(torch.fft.fft2(white) * missing).real[..., : shape[0], : shape[1]]
    return torch.cat([field, -field])


@torch.no_grad()
def denoise(network: nn.Module, noisy: Tensor, *, noise_model: NoiseModel, pairs: int = PAIRS, seed: int = 0) -> Tensor:
    """Denoised image [1, 1, H, W] of a noisy one, by a network that was trained for white noise.

    Args:
        network: for profound.denoise, gray, e.g. pretrained.load("small").
        noisy: [1, 1, H, W] of any size and intensities. noise model: of its noise, e.g.
            noise_report.report([noisy]).noise model.
        pairs: of fields of added noise where the noise model is correlated, each two passes of the network. seed:
            decides them.
    Raises:
        ValueError: another shape, fewer than one pair, or a value that is not finite.
    """
    if noisy.ndim != 4 or noisy.shape[:2] != (1, 1) or pairs < 1 or not noisy.isfinite().all():
        raise ValueError(
            f"shape {tuple(noisy.shape)} and {pairs} pairs: give one gray image [1, 1, H, W], finite, and at least one pair."
        )
    transform = VarianceStabilisingTransform.of(noise_model, low=float(noisy.min()), high=float(noisy.max()))
    stable = transform(noisy)
    found = [
        profound.denoise(network, stable + field)
        for field in whitening_noise(noise_model, tuple(noisy.shape[2:]), pairs=pairs, seed=seed).to(noisy)[:, None]
    ]
    return transform.inverse(torch.stack(found).mean(0))
