"""Fit of noise models to a noise-level function: which one fits best, its parameters and their errors."""

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mptpn.noise.models import NoiseLevelFunction, NoiseModel, PoissonGaussian, Rician, Speckle
from mptpn.noise.photons import Poisson

GOOD_MISFIT = 2.0  # the same of a line, from which it is worth to join bins of one intensity
MAX_MISFIT = 4.0  # mean squared deviation from the bins, in standard errors, from which a noise model does not fit
# least ratio of the intensities whose levels are taken for speckle, and share of their bins; fluorescence has at most
# 0.32, drawn speckle at least 0.56
LIGHT, LIGHT_SHARE, LIGHT_MISFIT = 1.25, 0.45, 2.0
# for the information criterion; far from the dark Rician noise is Gaussian: it must do better, not as well
PARAMETERS = {"gaussian": 1, "poisson_gaussian": 2, "speckle": 1, "rician": 1.5}

# a background without signal holds this share of the windows or more, and gives a sigma of at least 0.88 times that of
# the levels, and at most 1.14 times; levels are low at edges. Bright ones are off by less: drawn, at most by 1.075, and
# by 1.10 where the background has a signal of half a sigma
BACKGROUND_SHARE, BACKGROUND_RANGE, BACKGROUND_BRIGHT = 0.1, (0.88, 1.14), 1.085
NEAR = 0.5  # sigma: distance of bins of one intensity, that of a flat background, sorted by the noise
BRIGHT, BRIGHT_ERROR = 3.0, 0.05  # sigma: intensities whose levels are those to compare with, if they are known so well
BACKGROUND_WIDTH = 0.08  # of sigma: half width of the peak of its windows' means, 1.6 standard deviations
BACKGROUND_SIDE = 0.5  # of the peak: most windows in a band as wide just above; a signal that fades away has more
BACKGROUND_ERROR = 0.01  # relative error of its sigma, measured on drawn noise

Parameters = dict[str, tuple[float, float]]  # name: (value, standard error)
Fit = tuple[NoiseModel, Parameters]
Fitted = tuple[NoiseModel, Parameters, float]  # with the misfit


def fit_noise_model(
    intensity: np.ndarray,
    variance: np.ndarray,
    error: np.ndarray,
    *,
    from_zero: bool = False,
    excluded: Collection[str] = (),
    step: float = 0.0,
) -> tuple[str, NoiseModel, Parameters, float]:
    """The noise model with the smallest Bayesian information criterion over the bins of a noise-level function.

    Args:
        intensity, variance: of the bins. error: relative standard error of the level, half that of the variance.
        from_zero: intensity 0 means no signal, so that noise may be multiplicative or Rician.
        excluded: kinds that the image contradicts; without Gaussian ones, another is taken if it fits.
        step: what one photon adds to an image of counted photons, whose noise has no other part; 0: any other image.
    Returns:
        kind, noise model, parameters with standard errors, and the misfit: mean squared deviation in standard errors.
    """
    if step:  # the values have told it; beside an edge, and where windows are chosen for having no photon, bins are off
        return "poisson_gaussian", Poisson(0.0, step), {"gain": (step, 0.0)}, 0.0
    bins, kinds = (intensity, variance, error), ["gaussian", "poisson_gaussian"]
    if from_zero and (len(intensity) > 1 or excluded) and (intensity > 0).all():
        kinds += ["speckle", "rician"]
    fits = {kind: fit for kind in kinds if (fit := _fit(kind, *bins)) is not None}
    found = {kind: (*fit, _misfit(fit[0], *bins)) for kind, fit in fits.items()}
    left = {kind: found[kind] for kind in found if kind not in excluded}
    least = min((misfit for _, _, misfit in left.values()), default=math.inf)
    if "gaussian" in excluded and least > 1:
        most = 1 if least <= MAX_MISFIT else LIGHT_MISFIT
        speckle = _speckle_in_light(*bins, most=most) if "speckle" in left else None
        if speckle is not None:
            left = {"speckle": speckle}
        elif least > MAX_MISFIT:
            left = found
    count = len(intensity)
    best = min(left, key=lambda kind: count * left[kind][2] + PARAMETERS[kind] * math.log(count + 1))
    misfit = left[best][2]
    if count > 2 and misfit > (GOOD_MISFIT if best == "poisson_gaussian" else MAX_MISFIT):
        near = _merged(*bins)
        line = _fit_joined(*near) if near and "poisson_gaussian" not in excluded else None
        if line is not None and (again := _misfit(line[0], *near)) <= MAX_MISFIT:
            return "poisson_gaussian", *line, again
    if misfit > MAX_MISFIT and count > 2:
        return "free", NoiseLevelFunction(tuple(intensity), tuple(variance)), {}, misfit
    return best, *left[best]


def _fit(kind: str, intensity: np.ndarray, variance: np.ndarray, error: np.ndarray) -> Fit | None:
    if kind == "rician":
        return _fit_rician(intensity, variance, error)
    powers = {"gaussian": (0,), "poisson_gaussian": (0, 1), "speckle": (2,)}[kind]
    if len(intensity) <= len(powers) and powers != (0,):  # one bin is all there is for a slope
        return None
    return _fit_linear(intensity, variance, error, powers=powers)


def _speckle_in_light(*bins: np.ndarray, most: float) -> Fitted | None:
    """Speckle of the brightest bins, as many as it fits up to a misfit; edges make the levels of dark ones too high.

    None where they are less than a factor of LIGHT apart, or too few: so would photons do.
    """
    for first, darkest in enumerate(bins[0]):
        kept = [x[first:] for x in bins]
        if bins[0][-1] < LIGHT * darkest or len(kept[0]) < LIGHT_SHARE * len(bins[0]):
            return None
        fit = _fit("speckle", *kept)
        if fit is not None and (misfit := _misfit(fit[0], *kept)) <= most:
            return *fit, misfit
    return None


def _misfit(noise_model: NoiseModel, intensity: np.ndarray, variance: np.ndarray, error: np.ndarray) -> float:
    rician = isinstance(noise_model, Rician)
    clean = _rician_clean(intensity, noise_model.sigma) if rician else torch.from_numpy(intensity)
    return float(np.mean(_deviations(noise_model.variance(clean).numpy(), variance, error) ** 2))


def _deviations(expected: np.ndarray | float, variance: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Of the bins' levels from those expected, in standard errors of at least 1 %."""
    return np.log(expected / variance) / (2 * np.maximum(error, 0.01))


def _merged(intensity: np.ndarray, variance: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """The bins with those joined that lie within half a sigma: the noise of their windows' means has sorted them.

    None where bins that are joined differ in level, so that more than noise has.
    """
    groups = [[0]]
    for i in range(1, len(intensity)):
        first = groups[-1][0]
        if intensity[i] - intensity[first] < NEAR * variance[first] ** 0.5:
            groups[-1].append(i)
        else:
            groups.append([i])
    joined, off = [], []
    for group in groups:
        weight = error[group] ** -2.0
        means = [np.average(x[group], weights=weight) for x in (intensity, variance)]
        off += list(_deviations(means[1], variance[group], error[group]))
        # bins share the error that no number of windows takes away
        joined.append((*means, max(weight.sum() ** -0.5, error[group].min() / 2**0.5)))
    if float(np.mean(np.square(off))) > MAX_MISFIT:
        return None
    return tuple(np.array(column) for column in zip(*joined, strict=True))


def _fit_joined(intensity: np.ndarray, variance: np.ndarray, error: np.ndarray) -> Fit | None:
    """The line through joined bins; it ends at the darkest, the level of a flat background: no light is below."""
    line = _fit_linear(intensity, variance, error, powers=(0, 1)) if len(intensity) > 1 else None
    if line is None:
        return None
    noise_model, parameters = line
    darkest = float(intensity[0])
    if darkest <= noise_model.black:
        return line
    sigma = float(noise_model.variance(torch.tensor(darkest, dtype=torch.float64))) ** 0.5
    low = parameters["sigma"][1] / noise_model.sigma  # relative errors stay
    found = replace(noise_model, sigma=sigma, black=darkest)
    return found, parameters | {"sigma": (sigma, low * sigma), "black": (darkest, parameters["black"][1])}


def _fit_linear(
    intensity: np.ndarray, variance: np.ndarray, error: np.ndarray, *, powers: tuple[int, ...]
) -> Fit | None:
    """Weighted least squares of the variance on powers of the intensity: (0,), (0, 1) or (2,).

    None where the slope is not positive.
    """
    columns, fitted = np.stack([intensity**power for power in powers], 1), variance
    for _ in range(5):  # the error of a variance grows with the variance: weigh by the last fit
        weight = 1 / (2 * np.maximum(error, 0.01) * np.maximum(fitted, 1e-3 * variance.max()))
        solution = np.linalg.lstsq(columns * weight[:, None], variance * weight, rcond=None)[0]
        fitted = columns @ solution
    covariance = np.linalg.pinv((columns * weight[:, None]).T @ (columns * weight[:, None]))
    if powers == (0, 1):
        return _poisson_gaussian(*solution.tolist(), covariance, intensity=intensity, variance=variance)
    (value,), spread = solution.tolist(), float(np.sqrt(covariance[0, 0]))
    if powers == (0,):
        return PoissonGaussian(sigma=value**0.5), {"sigma": (value**0.5, spread / (2 * value**0.5))}
    return (Speckle(looks=1 / value), {"looks": (1 / value, spread / value**2)}) if value > 0 else None


def _poisson_gaussian(
    floor: float, gain: float, covariance: np.ndarray, *, intensity: np.ndarray, variance: np.ndarray
) -> Fit | None:
    """The noise model of the line floor + gain * intensity, and its errors; None where the gain is not positive."""
    if gain <= 0:
        return None
    # where the line meets no read noise: the darkest bins still have theirs
    least = max(0.25 * float(variance.min()), 1e-12)
    lowest = float(intensity.min())
    # the line goes down to there: CT has intensities far below 0
    start = lowest if lowest < -(float(variance.min()) ** 0.5) else 0.0
    moved = floor + gain * start < least
    sigma2, black = (least, (least - floor) / gain) if moved else (floor + gain * start, start)
    sigma2_error = math.sqrt(float(np.array([1, start]) @ covariance @ np.array([1, start])))
    floor_error, gain_error = np.sqrt(np.diag(covariance)).tolist()
    return PoissonGaussian(sigma=sigma2**0.5, gain=gain, black=black), {
        "sigma": (sigma2**0.5, sigma2_error / (2 * sigma2**0.5)),
        "gain": (gain, gain_error),
        "black": (black, floor_error / gain if moved else 0.0),
    }


def background_sigma(means: np.ndarray, sigma: float, *bins: np.ndarray) -> float | None:
    """Sigma of Rician noise from the background, where its mean is sigma sqrt(pi / 2), or None where there is none.

    From the mode of local means (Aja-Fernandez et al. 2008), here their shortest interval with a tenth of all. Near 0 a
    clean intensity goes with the root of what the mean is off: sigma 5 % too low makes the dark 0.4 sigma too bright.

    Args:
        means: of windows of 13 x 13 px. sigma: from their levels. bins: intensity, variance and error of these, as in
            fit_noise_model.
    """
    bright = [x[bins[0] > BRIGHT * sigma] for x in bins]
    least, most = BACKGROUND_RANGE
    if (bright[2] ** -2).sum() > BRIGHT_ERROR**-2:
        sigma, most = _fit_rician(*bright)[0].sigma, BACKGROUND_BRIGHT
    low, high = (end * sigma * math.sqrt(math.pi / 2) for end in (least, most))
    width = BACKGROUND_WIDTH * sigma
    near = np.sort(means[(low < means) & (means < high + width)])
    share = math.ceil(BACKGROUND_SHARE * means.size)
    if near.size <= share:
        return None
    start = int((near[share:] - near[:-share]).argmin())
    mode = float(near[start : start + share].mean())
    for _ in range(10):  # to the middle of the peak
        mode = float(near[abs(near - mode) < width].mean())
    peak, side = (int((abs(means - at) < width).sum()) for at in (mode, mode + 2 * width))
    return mode / math.sqrt(math.pi / 2) if mode < high and side < BACKGROUND_SIDE * peak else None


def _rician_clean(mean: np.ndarray, sigma: float) -> Tensor:
    """Clean magnitudes whose Rice mean is `mean`."""
    clean = torch.linspace(0, float(mean.max()) + 4 * sigma, 4096, dtype=torch.float64)
    return torch.from_numpy(np.interp(mean, Rician(sigma).mean(clean).numpy(), clean.numpy()))


def _rician_variance(mean: np.ndarray, sigma: float) -> np.ndarray:
    return Rician(sigma).variance(_rician_clean(mean, sigma)).numpy()


def _fit_rician(intensity: np.ndarray, variance: np.ndarray, error: np.ndarray) -> Fit:
    weight = 1 / np.maximum(error, 0.01) ** 2
    log_sigma = 0.5 * np.average(np.log(variance), weights=weight)
    for _ in range(20):
        ratio = variance / _rician_variance(intensity, math.exp(log_sigma))
        log_sigma += 0.5 * np.average(np.log(ratio), weights=weight)
    sigma = math.exp(log_sigma)
    levels = [np.log(_rician_variance(intensity, s)) / 2 for s in (sigma, 1.01 * sigma)]
    slope = (levels[1] - levels[0]) / math.log(1.01)  # of the level at these means, 1 far from the dark
    return Rician(sigma), {"sigma": (sigma, sigma * float(weight.sum() ** 0.5 / (weight * slope).sum()))}
