"""Quality without truth: how far a denoised image is from the clean one, by Stein's unbiased risk estimate.

It takes the noisy image and its noise model alone.
"""

import math
from collections.abc import Callable
from statistics import NormalDist

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
# of the interval in dB: at 1 it held the true gain of 68 of 80 drawn images; so, that of 112 of 116 others
# (notebooks/support/interval_coverage.py)
WIDER = 1.3
STRATA, FEWEST = 6, 8  # of blocks of like activity, and the fewest blocks of one

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
            _variance_of_mean(twin_misfit - twin_penalty - truth)
            + 4 * lost * float(noise_model.variance(denoised).mean()) / noisy.numel()
        )
        twins.append(twin)
    spread = math.hypot(math.sqrt(sum(chances) / 2), 2 * level_error * float(penalty.mean()))
    passed = (twins[0] - twins[1]).double().square() / 2
    least = float(passed.mean()) - NORMAL_95 * math.sqrt(_variance_of_mean(passed - passed.mean()))
    floor = MARGIN * (1 - NORMAL_95 * level_error) ** 2 * max(least, 0.0)
    best, high, low = (psnr_from_mse(max(error + side * NORMAL_95 * spread, floor), peak=peak) for side in (0, -1, 1))
    return best, (low, high)


@torch.no_grad()
def estimated_gain(
    noisy: Tensor,
    denoised: Tensor,
    *,
    variance: Tensor,
    valid: Tensor,
    passing: Tensor,
    activity: tuple[Tensor, Tensor, Tensor],
    level_error: float,
) -> tuple[float, tuple[float, float], float]:
    """Gain in PSNR over the noisy image, dB, its 95 % interval, and the share of the change of least estimated error,
    by sure() of a result that is there already.

    The squared residual is of all pixels. What the denoiser lets pass is measured in a few parts of the image, two
    calls of the denoiser on each, and taken to the whole by strata of like activity. The interval adds in squares the
    chance in both and the error of the level, and is made WIDER. As in estimated_psnr, the error is no smaller than
    the noise that passes less 10 %.

    Args:
        noisy, denoised: [B, 1, H, W]. variance: of the noise, same shape. valid: its pixels that count, bool.
        passing: of blocks of BLOCK px in the parts, [blocks, 3]: share of the noise's variance in n f'n (n the noise,
            f'n what the denoiser makes of it), in (f'n)^2 and in n^2.
        activity: of these blocks and of all of the image, see activity(); the noise's variance in the latter.
        level_error: relative standard error of the noise's standard deviation.
    """
    count = int(valid.sum())
    misfit = torch.where(valid, (denoised - noisy).double().square() - variance.double(), 0.0)
    own, residual = float(variance.double()[valid].mean()), float(misfit.sum()) / count
    chance = _variance_of_mean(torch.where(valid, misfit - residual, 0.0)) * (misfit.numel() / count) ** 2
    (passes, passes_error), (kept, _) = (_by_strata(passing[:, column], passing[:, 2], *activity) for column in (0, 1))
    error = residual + 2 * own * passes
    spread = math.hypot(math.sqrt(chance), 2 * own * passes_error, 2 * level_error * own * (1 - 2 * passes))
    floor = max(MARGIN * (1 - NORMAL_95 * level_error) ** 2 * kept * own, 1e-6 * own)
    low, best, high = (10 * math.log10(own / x) for x in _above(floor, error, spread))
    low, high = (best + WIDER * (end - best) for end in (low, high))
    changed = residual + own  # mean squared change
    return best, (low, high), min(1.0, max(0.0, own * (1 - passes) / changed)) if changed > 0 else 1.0


def activity(denoised: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Squared slope over the noise's variance in blocks of BLOCK px of [B, 1, H, W], and this, [B, 1, h, w]."""
    down, across = (F.pad(denoised.diff(dim=axis).square(), pad) for axis, pad in ((2, (0, 0, 0, 1)), (3, (0, 1))))
    slope, noise = (F.avg_pool2d(x, BLOCK) for x in (down + across, variance))
    return slope / noise.clamp_min(1e-12 * float(noise.amax())), noise


def _by_strata(values: Tensor, sizes: Tensor, sampled: Tensor, whole: Tensor, noise: Tensor) -> tuple[float, float]:
    """Mean of values over sizes as it would be in the whole image, and its standard error.

    Args:
        values, sizes: of sampled blocks, [blocks]. sampled, whole: activity of these, and of all blocks. noise: weight
            of the latter.
    """
    strata = min(STRATA, max(1, len(sampled) // FEWEST))
    edges = sampled.quantile(torch.arange(1, strata, dtype=sampled.dtype) / strata)
    inside, share = torch.bucketize(sampled, edges), torch.bucketize(whole, edges)
    mean = variance = 0.0
    for stratum in range(strata):
        of, part = inside == stratum, float(noise[share == stratum].sum() / noise.sum())
        if not bool(of.any()):
            continue
        ratio = float(values[of].sum() / sizes[of].sum())
        off = values[of] - ratio * sizes[of]
        mean += part * ratio
        variance += part**2 * float(off.square().sum() / sizes[of].sum() ** 2) * len(off) / max(1, len(off) - 1)
    return mean, math.sqrt(variance)


def _above(floor: float, mean: float, spread: float) -> tuple[float, float, float]:
    """Upper end, median and lower end, 95 %, of a normal distribution of which only what is above a floor counts."""
    normal = NormalDist(mean, max(spread, 1e-12))
    below = normal.cdf(floor)
    if below > 1 - 1e-9:
        return floor, floor, floor
    return tuple(normal.inv_cdf(below + share * (1 - below)) for share in (0.975, 0.5, 0.025))


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


def _variance_of_mean(errors: Tensor) -> float:
    """Variance of the mean of errors of expectation 0 that are independent from block to block."""
    sums = F.avg_pool2d(errors, BLOCK, ceil_mode=True, divisor_override=1)
    return float(sums.square().sum()) / errors.numel() ** 2
