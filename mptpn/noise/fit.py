"""The noise model of an image's noise: which of the known ones fits its noise-level function best, with which
parameters and errors.
"""

import math

import numpy as np
import torch
from torch import Tensor

from mptpn.noise.models import NoiseLevelFunction, NoiseModel, PoissonGaussian, Rician, Speckle

MISFIT = 4.0  # mean squared deviation of a noise model from the bins, in standard errors, from which it does not fit


def fit_noise_model(
    intensity: np.ndarray, variance: np.ndarray, error: np.ndarray, *, from_zero: bool = False
) -> tuple[str, NoiseModel, dict[str, tuple[float, float]], float]:
    """The noise model with the smallest Bayesian information criterion over the bins of a noise-level function.

    Args:
        intensity, variance: of the bins. error: relative standard error of the level, half that of the variance.
    Returns:
        kind, noise model, parameters with standard errors, and the misfit: mean squared deviation in standard errors.
    """
    fits = {
        "gaussian": _fit_linear(intensity, variance, error, powers=(0,)),
        "poisson_gaussian": _fit_linear(intensity, variance, error, powers=(0, 1)),
    }
    if from_zero and len(intensity) > 1 and (intensity > 0).all():
        fits |= {
            "speckle": _fit_linear(intensity, variance, error, powers=(2,)),
            "rician": _fit_rician(intensity, variance, error),
        }
    fits = {kind: fit for kind, fit in fits.items() if fit is not None}

    def deviation(noise_model: NoiseModel) -> float:
        at = (
            torch.from_numpy(intensity)
            if not isinstance(noise_model, Rician)
            else _rician_clean(intensity, noise_model.sigma)
        )
        return float(
            np.mean((np.log(noise_model.variance(at).numpy() / variance) / (2 * np.maximum(error, 0.01))) ** 2)
        )

    misfits = {kind: deviation(noise_model) for kind, (noise_model, _) in fits.items()}
    # far from the dark Rician is Gaussian: it must do better, not as well
    size = {"gaussian": 1, "poisson_gaussian": 2, "speckle": 1, "rician": 1.5}
    best = min(misfits, key=lambda kind: len(intensity) * misfits[kind] + size[kind] * math.log(len(intensity) + 1))
    if misfits[best] > MISFIT and len(intensity) > 2:
        return "free", NoiseLevelFunction(tuple(intensity), tuple(variance)), {}, misfits[best]
    return best, *fits[best], misfits[best]


def _fit_linear(
    intensity: np.ndarray, variance: np.ndarray, error: np.ndarray, *, powers: tuple[int, ...]
) -> tuple[NoiseModel, dict[str, tuple[float, float]]] | None:
    """Weighted least squares of the variance on powers of the intensity; None where the slope is not positive or
    nothing is left to fit.
    """
    if len(intensity) <= len(powers) and powers != (0,):  # one bin tells a level
        return None
    columns, fitted = np.stack([intensity**power for power in powers], 1), variance
    for _ in range(5):  # the error of a variance grows with the variance: weigh by the last fit
        weight = 1 / (2 * np.maximum(error, 0.01) * np.maximum(fitted, 1e-3 * variance.max()))
        found = np.linalg.lstsq(columns * weight[:, None], variance * weight, rcond=None)[0]
        fitted = columns @ found
    covariance = np.linalg.pinv((columns * weight[:, None]).T @ (columns * weight[:, None]))
    found, spread = found.tolist(), np.sqrt(np.diag(covariance)).tolist()
    if powers == (2,):
        return (
            (Speckle(looks=1 / found[0]), {"looks": (1 / found[0], spread[0] / found[0] ** 2)})
            if found[0] > 0
            else None
        )
    if powers == (0,):
        return PoissonGaussian(sigma=found[0] ** 0.5), {"sigma": (found[0] ** 0.5, spread[0] / (2 * found[0] ** 0.5))}
    floor, gain = found
    if gain <= 0:
        return None
    # where the line meets no read noise: the darkest bins still have theirs
    least = max(0.25 * float(variance.min()), 1e-12)
    lowest = float(intensity.min())
    # the line goes down to there: CT has intensities far below 0
    start = lowest if lowest < -(float(variance.min()) ** 0.5) else 0.0
    moved = floor + gain * start < least
    sigma2, black = (least, (least - floor) / gain) if moved else (floor + gain * start, start)
    unsure = math.sqrt(float(np.array([1, start]) @ covariance @ np.array([1, start])))  # of sigma2
    noise_model = PoissonGaussian(sigma=sigma2**0.5, gain=gain, black=black)
    return noise_model, {
        "sigma": (sigma2**0.5, unsure / (2 * sigma2**0.5)),
        "gain": (gain, spread[1]),
        "black": (black, spread[0] / gain if moved else 0.0),
    }


def _rician_clean(mean: np.ndarray, sigma: float) -> Tensor:
    """Clean magnitudes whose Rice mean is `mean`."""
    clean = torch.linspace(0, float(mean.max()) + 4 * sigma, 4096, dtype=torch.float64)
    return torch.from_numpy(np.interp(mean, Rician(sigma).mean(clean).numpy(), clean.numpy()))


def _fit_rician(
    intensity: np.ndarray, variance: np.ndarray, error: np.ndarray
) -> tuple[NoiseModel, dict[str, tuple[float, float]]]:
    weight = 1 / np.maximum(error, 0.01) ** 2
    log_sigma = 0.5 * np.average(np.log(variance), weights=weight)
    for _ in range(20):
        noise_model = Rician(math.exp(log_sigma))
        log_sigma += 0.5 * np.average(
            np.log(variance / noise_model.variance(_rician_clean(intensity, noise_model.sigma)).numpy()), weights=weight
        )
    sigma = math.exp(log_sigma)
    levels = [np.log(Rician(s).variance(_rician_clean(intensity, s)).numpy()) / 2 for s in (sigma, 1.01 * sigma)]
    slope = (levels[1] - levels[0]) / math.log(1.01)  # of the level at these means, 1 far from the dark
    return Rician(sigma), {"sigma": (sigma, sigma * float(weight.sum() ** 0.5 / (weight * slope).sum()))}
