"""The gain in PSNR over the noisy image, of a result that is there already, estimated without truth."""

import math
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn import tiling
from mptpn.filters import one_thread
from mptpn.inference.denoiser import Prediction
from mptpn.inference.predictor import Place, Predictor
from mptpn.inference.sure import BLOCK, MARGIN, variance_of_mean
from mptpn.metrics import NORMAL_95
from mptpn.noise import NoiseModel
from mptpn.noise.by_place import cells_of
from mptpn.random import generator

STEP = 0.05  # of the noise: size of the noise whose passage is measured
AROUND = 16  # px, around a square in which the denoiser meets noise drawn anew: borders are worse than the rest
# of the expected noisy intensity over the clean one: below, as in the dark of a magnitude, a residual counts nothing.
# Counted there as at 0.5, the interval held the gain of 37 of 42 images under Rician noise; so it holds that of 41
LEAST_SLOPE = 0.5
# of the interval in dB: at 1 it held the true gain of 68 of 80 drawn images; at 1.3 it holds that of 127 of 130 others
# (notebooks/support/interval_coverage.py)
WIDER = 1.3
STRATA, FEWEST = 6, 8  # of blocks of like activity, and the fewest blocks of one


def residual_excess(residual: Tensor, denoised: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Squared residual less the noise's variance, float64, in the unit of the clean image squared.

    Its mean is the result's squared error less twice the noise that the denoiser lets pass.

    Args:
        residual: noisy image less what is expected of it at the result. denoised: the result, same shape.
    """
    excess = residual.double().square() - noise_model.variance(denoised).double()
    if noise_model.zero_mean_gaussian:
        return excess
    step = STEP * noise_model.variance(denoised).sqrt().clamp_min(1e-9)
    slope = (noise_model.mean(denoised + step) - noise_model.mean(denoised - step)) / (2 * step)
    return torch.where(slope > LEAST_SLOPE, excess / slope.double().square(), 0.0)


def squared_noise(denoised: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Expected squared difference of the noisy image and the clean one, if that were the result; same shape."""
    return noise_model.variance(denoised) + (noise_model.mean(denoised) - denoised).square()


def passing(predictor: Predictor, prediction: Prediction, place: tuple) -> Tensor:
    """How much of small Gaussian noise passes in the blocks of a square, see estimated_gain, [blocks, 3]."""
    there, noise_model = _there(predictor, prediction, place)
    noisy, clean = prediction.noisy[place], prediction.denoised[place]
    random = generator(noisy.numel(), place[1].start, place[2].start, "risk")
    noise = noise_model.sample(clean, generator=random) - noise_model.mean(clean)
    with_noise, without = (predictor.mean(x, place=there) for x in (noisy + STEP * noise, noisy))
    passed = (with_noise - without) / STEP
    return _blocks([noise * passed, passed**2, noise**2], prediction.noise[place])


def rehearsed(predictor: Predictor, prediction: Prediction, place: tuple) -> Tensor:
    """The same of any noise: the result gets noise drawn anew, is denoised again, and its error and excess are seen.

    Half their difference is what passes, whatever the shape of the noise's distribution.
    """
    sides = zip(place[1:], prediction.noisy.shape[2:], strict=True)
    cut = (tiling.spans(span.start, side, span.stop - span.start, AROUND) for span, side in sides)
    around, inside, _ = zip(*cut, strict=True)
    there, noise_model = _there(predictor, prediction, (..., *around))
    clean = prediction.denoised[..., *around]
    random = generator(clean.numel(), around[0].start, around[1].start, "risk")
    noisy = noise_model.sample(clean, generator=random)
    again = predictor.mean(noisy, place=there)
    excess = residual_excess(noisy - predictor.expected(again), again, noise_model=noise_model)
    error = (again - clean).square()
    terms = [(error - excess.to(error)) / 2, error, (noisy - noise_model.mean(clean)).square()]
    return _blocks([term[..., *inside] for term in terms], prediction.noise[place])


def _there(predictor: Predictor, prediction: Prediction, place: tuple) -> tuple[Place, NoiseModel]:
    """A square of an image as the predictor is told of it, and the noise there."""
    rows, columns = place[1:]
    told = None if prediction.correlation is None else prediction.correlation[:, *cells_of(place[1:])]
    there = Place((rows.start, columns.start), prediction.level[place], told)
    return there, there.noise(predictor.noise_model)


def _blocks(terms: list[Tensor], variance: Tensor) -> Tensor:
    return F.avg_pool2d(torch.cat(terms) / variance.mean(), BLOCK).flatten(1).T.double()


@torch.no_grad()
@one_thread()
def estimated_gain(
    excess: Tensor,
    *,
    variance: Tensor,
    before: Tensor,
    valid: Tensor,
    passing: Tensor,
    activity: tuple[Tensor, Tensor, Tensor],
    level_error: float,
) -> tuple[float, tuple[float, float], float]:
    """Gain in PSNR over the noisy image, dB, its 95 % interval, and the share of the change of least estimated error,
    by sure() of a result that is there already.

    The squared residual is of all pixels. What the denoiser lets pass is measured in a few parts of the image and taken
    to the whole by strata of like activity. The interval adds in squares the chance in both and the error of the level,
    and is made WIDER. As in estimated_psnr, the error is no smaller than the noise that passes less 10 %.

    Args:
        excess: see residual_excess, [B, 1, H, W]. variance: of the noise. before: see squared_noise.
        valid: pixels that count, bool; all of the same shape.
        passing: of blocks of BLOCK px in the parts, [blocks, 3], see passing and rehearsed: share of the noise's
            variance in n f'n (n the noise, f'n what the denoiser makes of it), in (f'n)^2 and in n^2.
        activity: of these blocks and of all of the image, see activity(); the noise's variance in the latter.
        level_error: relative standard error of the noise's standard deviation.
    """
    count = int(valid.sum())
    excess = torch.where(valid, excess, 0.0)
    own, residual = float(variance.double()[valid].mean()), float(excess.sum()) / count
    chance = variance_of_mean(torch.where(valid, excess - residual, 0.0)) * (excess.numel() / count) ** 2
    (passes, passes_error), (kept, _) = (_by_strata(passing[:, column], passing[:, 2], *activity) for column in (0, 1))
    error = residual + 2 * own * passes
    spread = math.hypot(math.sqrt(chance), 2 * own * passes_error, 2 * level_error * own * (1 - 2 * passes))
    floor = max(MARGIN * (1 - NORMAL_95 * level_error) ** 2 * kept * own, 1e-6 * own)
    noisy = float(before.double()[valid].mean())
    low, best, high = (10 * math.log10(noisy / x) for x in _above(floor, error, spread))
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
