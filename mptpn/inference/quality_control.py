"""Whether a denoised image can be trusted, told without truth: what was taken away must look like the noise, and like
nothing else.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import lagged, one_thread
from mptpn.inference.spots import MIDDLE_OF_SQUARES, SPOTS, spot_count
from mptpn.inference.stripes import stripe_level
from mptpn.networks.noise_level import LAGS
from mptpn.noise import NoiseEstimate, NoiseModel
from mptpn.noise.bands import MAX_LEVEL_ERROR
from mptpn.noise.correlation import STRONG_CORRELATION

BLOCK = 16  # px, side of the blocks that count as independent
INDEPENDENT = 0.1  # correlation up to which a residual counts as independent from pixel to pixel
DETAIL = 4  # px, side of the cells whose residual energy is compared with their gradient
FALSE_ALARM = 0.01  # of one check on a residual that is the noise itself
BINS = 8  # of intensity, equally many pixels in each
# sigmas; adds 1 % of the noise's variance to the error. A posterior mean itself has E(residual | denoised) of a few
# hundredths at the ends
SHIFT = 0.1
ROUNDING = 1e-4  # sigmas, residual up to which the output is the input
NOTHING = 0.05  # sigmas, residual below which nothing was removed
# of the noise's variance: a posterior mean that gains 3 dB takes away as much, for its residual has the variance
# sigma^2 - error^2
HALF = 0.5
EDGE = 0.1  # sigmas a pixel, slope of an edge
LOST = 0.1  # of the noise's variance, excess of the residual's energy at edges
FEW_SPOTS = 2
# sigmas and standard errors of the offsets of lines: 12 real validation images and 9 photographs under noise of 3, 10
# and 25 gray levels show at most 0.17, or fewer errors; drawn offsets of 0.3 are found in 26 of these 27
STRIPE, STRIPE_ERRORS = 0.2, 5.0


@dataclass(frozen=True)
class Check:
    """One question: the value that answers it, the limit that it must not pass, and the answer as a sentence.

    Attributes:
        alarm: whether a user must be warned at once: nothing was removed, or the noise is not known.
    """

    name: str
    value: float
    limit: float
    passed: bool
    verdict: str
    alarm: bool = False


@dataclass(frozen=True)
class QualityControl:
    """What check_residual() found, check by check."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def faults(self) -> tuple[str, ...]:
        """The verdicts that did not pass."""
        return tuple(check.verdict for check in self.checks if not check.passed)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        return "\n".join(f"{'ok  ' if check.passed else 'DOUBT'} {check.verdict}" for check in self.checks)

    def as_dict(self) -> dict:
        """Numbers and sentences for JSON: passed, and every check by its name."""
        names = ("value", "limit", "passed", "verdict")
        return {"passed": self.passed, "checks": {c.name: {n: getattr(c, n) for n in names} for c in self.checks}}


@torch.no_grad()
@one_thread()
def check_residual(
    noisy: Tensor,
    denoised: Tensor,
    *,
    noise_model: NoiseModel,
    valid: Tensor | None = None,
    noise: NoiseEstimate | None = None,
    unit: float = 1.0,
) -> QualityControl:
    """Compare the residual, noisy less denoised, with the noise that the noise model expects at the denoised image.

    Each limit is a tolerance plus chance. Standard errors are roots of squared sums over blocks of 16 px, or over
    single pixels where that is more. So many of them are allowed that 99 % of residuals that are the noise itself pass
    (normal distribution, Bonferroni over bins or lags), so a perfect result passes all checks in 96 % of cases or more.

    Args:
        noisy, denoised: [B, 1, H, W], in one unit; several are judged as one.
        noise_model: in that unit. A Rician one is taken at the denoised image as its mean.
        valid: [B, 1, H, W] bool, the pixels that are judged; None: all.
        noise: the estimate that the noise model is from; None: the noise model is known.
        unit: what 1 stands for in the verdicts.
    Raises:
        ValueError: shapes that differ, or under 64 pixels to judge.
    """
    valid = torch.ones_like(noisy, dtype=torch.bool) if valid is None else valid
    if not noisy.shape == denoised.shape == valid.shape or noisy.shape[1] != 1:
        shapes = f"{tuple(noisy.shape)}, {tuple(denoised.shape)} and {tuple(valid.shape)}"
        raise ValueError(f"shapes {shapes} must be equal, [B, 1, H, W].")
    if int(valid.sum()) < 64:
        raise ValueError(f"only {int(valid.sum())} pixels can be judged; a judgement takes 64.")
    variance = noise_model.variance(denoised.double())
    sigma = variance.clamp_min(1e-4 * variance.mean()).sqrt()
    residual = torch.where(valid, (noisy.double() - denoised.double()) / sigma, 0.0)
    size = _size(residual, valid, math.log(noise.sigma_interval[1] / noise.sigma_interval[0]) if noise else 0.0)
    model = [_model(noise)] if noise else []
    if size.value < NOTHING**2:
        names, verdict = ("shift", "whiteness", "structure", "spots", "stripes"), "not judged, nothing was removed"
        shift, *others = [Check(name, 0.0, 0.0, False, f"{name}: {verdict}") for name in names]
        return QualityControl((shift, size, *others, *model))
    others = [
        _whiteness(residual, valid, noise_model, removed=min(1.0, size.value)),
        _structure(residual, denoised, valid, sigma),
        _spots(residual, valid),
        _stripes(noisy / sigma.median(), valid),
    ]
    return QualityControl((_shift(residual, denoised, valid, unit), size, *others, *model))


def _errors_allowed(questions: int = 1) -> float:
    return NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * questions))


def _error_of_sum(deviations: Tensor) -> float:
    """Standard error of the sum of deviations of expectation 0, [B, 1, H, W]."""
    blocks = F.avg_pool2d(deviations, BLOCK, ceil_mode=True, divisor_override=1)
    return math.sqrt(max(float(blocks.square().sum()), float(deviations.square().sum())))


def _shift(residual: Tensor, denoised: Tensor, valid: Tensor, unit: float) -> Check:
    """The largest mean residual, sigmas, over blocks of like intensity.

    Blocks, not pixels: a pixel that came out bright had bright noise more often than not, whatever the denoiser.
    """
    count, total, light = (
        F.avg_pool2d(torch.where(valid, x, 0.0), BLOCK, ceil_mode=True, divisor_override=1).flatten()
        for x in (torch.ones_like(residual), residual, denoised.double())
    )
    least = min(BLOCK**2 / 2, float(count.max()))  # the rest of a block was left out by its brightness
    count, total, light = (x[count >= least] for x in (count, total, light))
    light = light / count
    edges = light.quantile(torch.arange(1, BINS, dtype=light.dtype) / BINS).unique()
    bins = torch.bucketize(light, edges)
    pixels, sums, lights = (
        light.new_zeros(len(edges) + 1).index_add(0, bins, x) for x in (count, total, light * count)
    )
    there = pixels > 0
    pixels, sums, lights = (x[there] for x in (pixels, sums, lights))
    # variance of a pixel's share in a sum over many, from the middle block: a shift of some blocks is no chance
    variance = max(float((total**2 / count).median()) / MIDDLE_OF_SQUARES, float(residual[valid].var()))
    errors = (variance / pixels).sqrt()
    means, limits = sums / pixels, SHIFT + _errors_allowed(len(pixels)) * errors
    worst = int((means.abs() / limits).argmax())
    value, limit, center = float(means[worst]), float(limits[worst]), unit * float(lights[worst] / pixels[worst])
    passed = abs(value) <= limit
    said = "is kept at all intensities: largest mean" if passed else "was shifted: mean"
    number = f"{value:+.2f} sigma ({value / max(float(errors[worst]), 1e-12):+.1f} standard errors)"
    return Check(
        "shift", value, limit, passed, f"brightness {said} of the residual {number} near intensity {center:.4g}"
    )


def _size(residual: Tensor, valid: Tensor, doubt: float) -> Check:
    """Variance of the residual over that of the noise model.

    At most 1, plus the stated error of the level. Below 0.5 part of the noise is left: a posterior mean has sigma^2 -
    error^2, so this is a gain under 3 dB. Below 0.05^2 nothing was removed.
    """
    count = int(valid.sum())
    value = float(residual.square().sum()) / count
    error = _error_of_sum(torch.where(valid, residual.square() - value, 0.0)) / count
    most = math.exp(doubt) + _errors_allowed() * error
    share = f"{100 * value:.0f} %"
    if value < NOTHING**2:
        equal = value < ROUNDING**2
        size = f"nothing was removed: the residual is {100 * value**0.5:.1f} % of sigma"
        return Check(
            "size", value, HALF, False, "the output equals the input: nothing was removed" if equal else size, True
        )
    if value < HALF - _errors_allowed() * error:
        return Check("size", value, HALF, False, f"only {share} of the noise's variance was removed")
    if value > most:
        verdict = f"more than the noise was removed: {share} of its variance, at most {100 * most:.0f} % is noise"
        return Check("size", value, most, False, verdict)
    return Check("size", value, most, True, f"{share} of the noise's variance was removed, and no more than noise")


def _whiteness(residual: Tensor, valid: Tensor, noise_model: NoiseModel, *, removed: float) -> Check:
    """The largest difference, at lags up to 3 px, of the residual's autocorrelation and the noise model's.

    Tolerated is what counts as independent in the noise estimate, 0.1, and 0.2 where the correlation is measured. Noise
    that was left, most of it of long range, lacks in the residual: correlations may be lower by its share.

    Args:
        removed: residual's share of the noise's variance.
    """
    height, width = residual.shape[2:]
    lags = [(row, col) for row, col in LAGS if row < height and abs(col) < width]
    correlated = noise_model.correlated
    worst = (-1.0, 0.0, 0.0, (0, 0))
    square, counted = residual**2 / 2, valid.to(residual)  # the residual is 0 where it does not count
    for row, col in lags:
        (first, second), (here, there), squares = (lagged(x, row, col) for x in (residual, counted, square))
        powers, products = squares[0] * there + squares[1] * here, first * second
        power = float(powers.sum())
        if power == 0:
            continue
        found = float(products.sum()) / power
        error = _error_of_sum(products - found * powers) / power
        value = found - _correlation(noise_model, row, col)
        limit = (STRONG_CORRELATION if correlated else INDEPENDENT) + _errors_allowed(len(lags)) * error
        limit += (1 - removed) / removed if value < 0 else 0.0
        worst = max(worst, (abs(value) / limit, value, limit, (row, col)))
    _, value, limit, (row, col) = worst
    passed = abs(value) <= limit
    place = f"{value:+.2f} at a lag of {row} down, {col} across"
    like = "correlates as the noise does" if correlated else "is white as the noise is"
    unlike = "correlates unlike the noise" if correlated else "is not white, the noise is"
    verdict = f"the residual {like if passed else unlike}: autocorrelation differs by {place}"
    return Check("whiteness", value, limit, passed, verdict)


def _correlation(noise_model: NoiseModel, row: int, col: int) -> float:
    radius = len(noise_model.correlation) // 2
    return noise_model.correlation[radius + row][radius + col] if max(row, abs(col)) <= radius else 0.0


def _structure(residual: Tensor, denoised: Tensor, valid: Tensor, sigma: Tensor) -> Check:
    """Excess of the residual's energy in the steepest tenth of the image's cells over the flatter half.

    Cells less steep than EDGE are none: there the slopes are those of noise that was left.
    """
    image = torch.where(valid, denoised.double(), denoised.double()[valid].mean())
    slope = (F.pad(image, (1, 1, 0, 0), mode="replicate").diff(dim=3).unfold(3, 2, 1).mean(-1)) ** 2
    slope = slope + (F.pad(image, (0, 0, 1, 1), mode="replicate").diff(dim=2).unfold(2, 2, 1).mean(-1)) ** 2
    slope = slope / sigma**2
    inside = 1 - F.max_pool2d((~valid).double(), 3, 1, 1)  # no slope across the edge of a mask
    count, energy, steep = (
        F.avg_pool2d(x * inside, DETAIL, ceil_mode=True, divisor_override=1).flatten()
        for x in (inside, residual**2, slope)
    )
    whole = count > DETAIL**2 / 2
    energy, steep, count = energy[whole], (steep / count.clamp_min(1))[whole], count[whole]
    if len(energy) < 20:
        return Check("structure", 0.0, LOST, True, "structure: too few pixels to compare edges with flat parts")
    order = steep.argsort()
    flat, edge = order[: len(order) // 2], order[-max(2, len(order) // 10) :]
    edge = edge[steep[edge] > EDGE**2]
    if len(edge) < 20:
        return Check("structure", 0.0, LOST, True, "detail: the image has no edges above the noise to lose")
    (level, spread), (at_edge, edge_spread) = (
        (float(energy[part].sum() / count[part].sum()), float((energy[part] / count[part]).std()) / len(part) ** 0.5)
        for part in (flat, edge)
    )
    error = math.hypot(edge_spread, at_edge / max(level, 1e-12) * spread)
    value, limit = at_edge - level, LOST + _errors_allowed() * error
    passed = value <= limit
    kept = f"the residual's energy at edges is that of flat parts {value:+.2f} of the noise's variance"
    return Check(
        "structure", value, limit, passed, f"detail {'is kept' if passed else 'was removed with the noise'}: {kept}"
    )


def _spots(residual: Tensor, valid: Tensor) -> Check:
    """The number of places where the residual is like a small disc."""
    count = spot_count(residual, valid)
    passed = count <= FEW_SPOTS
    size = f"of {SPOTS[0]:.0f} to {SPOTS[-1]:.0f} px"
    verdict = f"small structures are kept: {count} places of the residual are like discs {size}"
    if not passed:
        verdict = f"small structures may have been removed: {count} places of the residual are like discs {size}"
    return Check("spots", float(count), float(FEW_SPOTS), passed, verdict)


def _stripes(noisy: Tensor, valid: Tensor) -> Check:
    """The offset that rows, or columns, share; noisy: in units of the noise."""
    found = {"rows": stripe_level(noisy, valid), "columns": stripe_level(noisy.mT, valid.mT)}
    lines, (level, errors) = max(found.items(), key=lambda one: one[1][0] * (one[1][1] > STRIPE_ERRORS))
    passed = level <= STRIPE or errors <= STRIPE_ERRORS
    verdict = "rows and columns have no offsets of their own"
    if not passed:
        verdict = f"stripes: {lines} have offsets of {level:.2f} sigma ({errors:.0f} standard errors), which stay"
    return Check("stripes", level if errors > STRIPE_ERRORS else 0.0, STRIPE, passed, verdict)


def _model(noise: NoiseEstimate) -> Check:
    """Half the logarithm of the ratio of the interval's ends; 0.5 is "unknown"."""
    low, high = noise.sigma_interval
    value = math.log(high / low) / 2 if low > 0 else math.inf
    findings = "; ".join(noise.findings)
    if value >= MAX_LEVEL_ERROR:
        verdict = f"the noise level is not known ({low:.4g} to {high:.4g}){': ' + findings if findings else ''}"
        return Check("model", value, MAX_LEVEL_ERROR, False, verdict, True)
    kind = noise.kind.replace("_", "-").replace("free", "a table by intensity")
    verdict = f"the noise level is known ({kind}){', but note: ' + findings if findings else ''}"
    return Check("model", value, MAX_LEVEL_ERROR, True, verdict)
