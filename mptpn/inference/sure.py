"""Quality without truth: how far a denoised image is from the clean one, by Stein's unbiased risk estimate.

It takes the noisy image and its noise model alone.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.metrics import NORMAL_95, psnr_from_mse
from mptpn.noise import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian

# px, side of the blocks whose errors are taken as independent: noise and most denoisers reach less far
BLOCK = 16
# of the noise that a denoiser lets through on its own result: true errors were at most 9 % below it (7 images, 3 noise
# models, 3 levels, 5 denoisers)
MARGIN = 0.9

Filter = Callable[[Tensor], Tensor]
GaussianNoise = PoissonGaussian | NoiseLevelFunction | CorrelatedGaussian  # Gaussian noise of mean 0, of a gray image


def sure(
    denoise: Filter,
    noisy: Tensor,
    *,
    noise_model: GaussianNoise,
    generator: torch.Generator,
    draws: int = 4,
    step: float = 0.05,
) -> float:
    """Estimate of the mean squared error, (|f(y) - y|^2 - tr S + 2 tr(S J)) / pixels (Stein 1981; Eldar 2009 for any
    covariance S), J the Jacobian of f at y.

    tr(S J) = E n'^T (f(y + step n') - f(y)) / step (Ramani, Blu and Unser 2008); ours draws n' from the noise model
    at the denoised image, so that white, signal-dependent and correlated noise are one case. With white noise a
    finite step tells tr(S J) exactly, but for noise sqrt(1 + step^2) times as strong, so f may have kinks and jumps.
    All this holds for Gaussian noise: speckle and Rician noise are refused.

    Args:
        denoise: f, any function of an image that gives the same result for the same image.
        noisy: y, [B, C, H, W].
        noise_model: of the noise, in the image's unit.
        draws: fields n'. step: their size in units of the noise.
    Returns:
        intensity squared; unbiased, hence negative now and then where the error is small beside sqrt(2 / pixels) of the
        noise's variance.
    """
    _, misfit, penalty = _terms(denoise, noisy, noise_model=noise_model, generator=generator, draws=draws, step=step)
    return float((misfit - penalty).mean())


def estimated_psnr(
    denoise: Filter,
    noisy: Tensor,
    *,
    noise_model: GaussianNoise,
    level_error: float,
    generator: torch.Generator,
    peak: float = 1.0,
    draws: int = 4,
    step: float = 0.05,
) -> tuple[float, tuple[float, float]]:
    """PSNR against the unknown clean image by sure(), dB, and its 95 % interval; 3 (1 + draws) calls of denoise.

    The interval adds in squares the error of the level and the chance in the noise and in the draws. The chance is
    rehearsed: the denoised image plays the truth and gets fresh noise twice, so that the estimate's error is known; its
    squared sums over blocks add up to its variance. What the denoised image lost of the truth meets noise too, 4 S
    times the squared error that the rehearsal lacks. A squared error well below the noise that denoise lets through,
    half the mean squared difference of the two rehearsals, cannot be: estimate and interval are raised to a floor, that
    noise less its chance and 10 %.
    Not counted: a noise model of the wrong shape or correlation, and pixels that break any noise model (clipped,
    zeroed, interpolated).

    Args:
        noise_model: as estimated. level_error: relative standard error of its standard deviation (0.03 is 3 %), 0 for a
            known noise model.
        peak: as in metrics.psnr_db. The other arguments: see sure.
    """
    if not (0 <= level_error < 1 / NORMAL_95 and peak > 0):
        raise ValueError(f"level_error {level_error} must be at least 0 and below 0.51, and peak {peak} above 0.")
    settings = {"noise_model": noise_model, "generator": generator, "draws": draws, "step": step}
    denoised, misfit, penalty = _terms(denoise, noisy, **settings)
    error = float((misfit - penalty).mean())
    twins, chances = [], []
    for _ in range(2):
        twin, twin_misfit, twin_penalty = _terms(denoise, noise_model.sample(denoised, generator=generator), **settings)
        truth = (twin - denoised).double() ** 2
        lost = max(0.0, error - float(truth.mean()))
        chances.append(
            variance_of_mean(twin_misfit - twin_penalty - truth)
            + 4 * lost * float(noise_model.variance(denoised).mean()) / noisy.numel()
        )
        twins.append(twin)
    spread = math.hypot(math.sqrt(sum(chances) / 2), 2 * level_error * float(penalty.mean()))
    passed = (twins[0] - twins[1]).double().square() / 2
    least = float(passed.mean()) - NORMAL_95 * math.sqrt(variance_of_mean(passed - passed.mean()))
    floor = MARGIN * (1 - NORMAL_95 * level_error) ** 2 * max(least, 0.0)
    best, high, low = (psnr_from_mse(max(error + side * NORMAL_95 * spread, floor), peak=peak) for side in (0, -1, 1))
    return best, (low, high)


@torch.no_grad()
def _terms(
    denoise: Filter, noisy: Tensor, *, noise_model: GaussianNoise, generator: torch.Generator, draws: int, step: float
) -> tuple[Tensor, Tensor, Tensor]:
    """f(y), (f(y) - y)^2 and diag(S - 2 S J), as drawn, at each pixel; the last two in float64, whose difference
    estimates the squared error.
    """
    if not noise_model.zero_mean_gaussian:
        raise ValueError(
            f"noise model {noise_model} must be Gaussian of mean 0 (PoissonGaussian, NoiseLevelFunction, or "
            "CorrelatedGaussian of one of them); take the logarithm of speckle."
        )
    if draws < 1 or not step > 0:
        raise ValueError(f"draws {draws} must be at least 1, and step {step} above 0.")
    denoised = denoise(noisy)
    penalty = noise_model.variance(denoised).double()
    penalty += _mean_variance(noise_model, noisy, denoised) - penalty.mean()
    for _ in range(draws):
        noise = noise_model.sample(denoised, generator=generator) - noise_model.mean(denoised)
        penalty -= 2 / (draws * step) * noise.double() * (denoise(noisy + step * noise) - denoised).double()
    return denoised, (denoised - noisy).double() ** 2, penalty


def _mean_variance(noise_model: GaussianNoise, noisy: Tensor, denoised: Tensor) -> float:
    """Mean variance of the noise over the unknown clean image, with the least bias that its noise model allows.

    A Poisson-Gaussian noise model is linear: the mean intensity has the mean variance. (Pixel by pixel it would stop at
    black, where half the noise lies below.) Any other noise model is taken at the denoised image, brought to the mean
    of the noisy one; a strongly curved one is biased by what denoising took.
    """
    if isinstance(noise_model.pointwise, PoissonGaussian):
        return float(noise_model.variance(noisy.double().mean()))
    return float(noise_model.variance(denoised + (noisy - denoised).mean()).mean())


def variance_of_mean(errors: Tensor) -> float:
    """Variance of the mean of errors of expectation 0 that are independent from block to block."""
    sums = F.avg_pool2d(errors, BLOCK, ceil_mode=True, divisor_override=1)
    return float(sums.square().sum()) / errors.numel() ** 2
