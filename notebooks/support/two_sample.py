"""Real noise against drawn noise: variance, histogram, and a classifier two-sample test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor

from mptpn.noise import CorrelatedGaussian, NoiseModel, PoissonGaussian
from mptpn.noise.statistics import divergence, quantise_like
from mptpn.random import generator

SIDE = 64  # px of the patches that the classifier sees: those that the networks are trained on
FOLDS = 5
HISTOGRAM = torch.tensor([-2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3.5])  # edges that the classifier sees
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0))  # rows down, columns across


@dataclass(frozen=True)
class TwoSampleTest:
    """Accuracy of a classifier on patches of real and drawn noise, on subjects that did not train it.

    Attributes:
        accuracy: share of patches that it names rightly; 0.5: it cannot tell the two apart.
        interval: (low, high), 95 %, Wilson's, with the effective number of patches: those of one subject err together.
        by_subject: accuracy on each subject.
        separation: difference of means of each statistic, in standard deviations, the largest first.
    """

    accuracy: float
    interval: tuple[float, float]
    by_subject: dict[str, float]
    separation: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """Real and drawn noise, standardised by one reference noise model.

    Attributes:
        variance_ratio: real over drawn.
        kl: Kullback-Leibler divergence of the histograms, real from drawn, nats.
        kl_chance: the same of real noise from itself, patches taken alternately; half as many in each, so twice too
            high for white noise.
        test: of the classifier.
    """

    variance_ratio: float
    kl: float
    kl_chance: float
    test: TwoSampleTest


def draw(
    clean: Sequence[Tensor], *, noise_models: Sequence[NoiseModel], like: Sequence[Tensor] | None = None, seed: int = 0
) -> list[Tensor]:
    """A noisy copy of each image by its own noise model, quantised as the real ones are.

    Args:
        clean: each [1, 1, H, W].
        like: real images, see quantise_like; None: neither rounded nor clipped.
    """
    drawn = [
        noise_model.sample(image, generator=generator(seed, "two-sample copies", i))
        for i, (image, noise_model) in enumerate(zip(clean, noise_models, strict=True))
    ]
    return drawn if like is None else [quantise_like(image, like=real) for image, real in zip(drawn, like, strict=True)]


def scale_gain(noise_model: NoiseModel, *, factor: float = 1.2) -> NoiseModel:
    """A planted fault: the gain of a Poisson-Gaussian noise model, or the variance of another, times factor."""
    if isinstance(noise_model, PoissonGaussian) and noise_model.gain:
        return replace(noise_model, gain=noise_model.gain * factor)
    return noise_model.scaled(math.sqrt(factor))


def add_correlation(noise_model: NoiseModel, *, lag_1: float = 0.2) -> CorrelatedGaussian:
    """A planted fault: the correlation of direct neighbours raised by lag_1."""
    white = ((0.0, 0, 0), (0, 1, 0), (0, 0, 0))
    lags = torch.tensor(noise_model.correlation if noise_model.correlated else white, dtype=torch.float64)
    middle = len(lags) // 2
    for row, col in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        lags[middle + row, middle + col] = min(0.95, lags[middle + row, middle + col] + lag_1)
    return CorrelatedGaussian(noise_model.pointwise, lags)


def standardise(noisy: Tensor, clean: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Noise in standard deviations of a noise model, (noisy - mean) / sigma, same shape, float32."""
    return ((noisy - noise_model.mean(clean)) / noise_model.variance(clean).sqrt()).float()


def compare(
    real: Sequence[Tensor],
    drawn: Sequence[Tensor],
    clean: Sequence[Tensor],
    *,
    noise_models: Sequence[NoiseModel],
    subjects: Sequence[str] | None = None,
    side: int = SIDE,
    folds: int = FOLDS,
) -> Comparison:
    """Real noise against drawn noise on the same content.

    Args:
        real, drawn, clean: each image [1, 1, H, W] with H, W >= side; clean in the scale of its real image, see
            scores.fitted.
        noise_models: of reference, one an image; they set the unit, for real and drawn noise alike.
        subjects: of the images, at least two; None: each image is a subject of its own.
        side, folds: see classifier_test.
    Raises:
        ValueError: numbers or shapes that do not fit, or too few subjects.
    """
    test = classifier_test(real, drawn, clean, noise_models=noise_models, subjects=subjects, side=side, folds=folds)
    a, b = (
        [standardise(y, x, noise_model=m) for y, x, m in zip(noisy, clean, noise_models, strict=True)]
        for noisy in (real, drawn)
    )
    halves = [torch.cat([_patches(z, side)[i::2].flatten() for z in a]) for i in (0, 1)]
    a, b = (torch.cat([z.flatten() for z in noise]) for noise in (a, b))
    ratio = float(a.double().square().mean() / b.double().square().mean())
    return Comparison(ratio, divergence(a, b), divergence(*halves), test)


def classifier_test(
    real: Sequence[Tensor],
    drawn: Sequence[Tensor],
    clean: Sequence[Tensor],
    *,
    noise_models: Sequence[NoiseModel],
    subjects: Sequence[str] | None = None,
    side: int = SIDE,
    folds: int = FOLDS,
) -> TwoSampleTest:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017), cross-validated by subject; arguments as in compare.

    Logistic regression on some 40 statistics of a patch and their squares, for a fault may point either way from image
    to image. No statistic looks at the curvature of the content: an average has noise of its own, so real noise
    correlates with it even if the noise model is perfect (on W2S's content 0.81 with such a statistic, 0.59 without).

    Args:
        side: of the patches, px; they lie side by side, a rest at the rim is left out.
        folds: parts of the subjects, each held out once.
    """
    subjects = list(subjects) if subjects is not None else [str(i) for i in range(len(real))]
    _check(real, drawn, clean, noise_models, subjects, side)
    each = [
        [_statistics(y, x, noise_model=m, side=side) for y, x, m in zip(noisy, clean, noise_models, strict=True)]
        for noisy in (real, drawn)
    ]
    # [patches, statistics] of real and drawn noise
    a, b = (np.concatenate([np.stack([*image.values()], 1) for image in images]) for images in each)
    owner = np.repeat(subjects, [len(image["mean"]) for image in each[0]])
    label, groups = np.repeat([1, 0], len(owner)), np.tile(owner, 2)
    squares = FunctionTransformer(_with_squares)
    classifier = make_pipeline(StandardScaler(), squares, LogisticRegression(solver="newton-cholesky"))
    parts = GroupKFold(min(folds, len(set(subjects))))
    right = cross_val_predict(classifier, np.concatenate([a, b]), label, groups=groups, cv=parts) == label
    apart = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2).clip(1e-9)
    separation = sorted(zip(each[0][0], apart.tolist(), strict=True), key=lambda item: -abs(item[1]))
    by_subject = {subject: float(right[groups == subject].mean()) for subject in dict.fromkeys(subjects)}
    return TwoSampleTest(float(right.mean()), _interval(right, groups), by_subject, dict(separation))


def _with_squares(z: np.ndarray) -> np.ndarray:
    z = z.clip(-5, 5)
    return np.concatenate([z, z**2 - 1], 1)


def _interval(right: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Wilson's 95 % interval of the mean of as many independent trials as would spread the subjects so far apart."""
    share, each = float(right.mean()), np.unique(groups)
    off = np.array([(right[groups == subject] - share).sum() for subject in each]) / len(right)
    variance = float((off**2).sum()) * len(each) / (len(each) - 1)
    trials = min(len(right), share * (1 - share) / variance) if variance > 0 else len(right)
    trials = max(1, round(trials))
    interval = binomtest(round(share * trials), trials).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _check(
    real: Sequence[Tensor],
    drawn: Sequence[Tensor],
    clean: Sequence[Tensor],
    noise_models: Sequence[NoiseModel],
    subjects: Sequence[str],
    side: int,
) -> None:
    numbers = [len(x) for x in (real, drawn, clean, noise_models, subjects)]
    different = len(set(subjects))
    if len(set(numbers)) > 1 or different < 2:
        given = f"{numbers} real, drawn, clean images, noise models and subjects, {different} different"
        raise ValueError(f"{given}; give one an image, and at least two subjects.")
    for i, (y, z, x) in enumerate(zip(real, drawn, clean, strict=True)):
        if not y.shape == z.shape == x.shape or x.shape[:2] != (1, 1) or min(x.shape[2:]) < side:
            shapes = ", ".join(str(tuple(image.shape)) for image in (y, z, x))
            raise ValueError(f"image {i}: shapes {shapes}; give [1, 1, H, W] of at least {side} px, all equal.")


def _product(z: Tensor, lag: tuple[int, int]) -> Tensor:
    """Each pixel of [..., H, W] times the one at the lag."""
    (down, across), (height, width) = lag, z.shape[-2:]
    left, right = max(0, -across), width - max(0, across)
    return z[..., : height - down, left:right] * z[..., down:, left + across : right + across]


def _patches(image: Tensor, side: int) -> Tensor:
    """[patches, side, side], side by side from the top left."""
    height, width = (n // side * side for n in image.shape[-2:])
    return image[0, 0, :height, :width].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def _statistics(noisy: Tensor, clean: Tensor, *, noise_model: NoiseModel, side: int) -> dict[str, Tensor]:
    """What the classifier sees of each patch, name: [patches], float64."""
    z = standardise(noisy, clean, noise_model=noise_model)
    z, x, y = (_patches(image, side).double() for image in (z, clean, noisy))
    flat = z.flatten(1)
    out = {"mean": flat.mean(1), "variance": _log((flat**2).mean(1))}
    centred = flat - flat.mean(1, keepdim=True)
    power = (centred**2).mean(1).clamp_min(1e-9)
    for name, n in (("skewness", 3), ("kurtosis", 4)):
        out[name] = torch.asinh((centred**n).mean(1) / power ** (n / 2))
    ranked = flat.gather(1, x.flatten(1).argsort(1))  # from the darkest pixel to the brightest
    for name, third in zip(("dark", "middle", "bright"), ranked.tensor_split(3, 1), strict=True):
        out |= {f"mean, {name}": third.mean(1), f"variance, {name}": _log((third**2).mean(1))}
        out |= {f"cube, {name}": torch.asinh((third**3).mean(1))}
    z = centred.view_as(z)
    level = z.abs() - z.abs().mean((1, 2), keepdim=True)
    out |= {f"correlation {lag}": _product(z, lag).mean((1, 2)) / power for lag in LAGS}
    out |= {f"levels {lag}": _product(level, lag).mean((1, 2)) / power for lag in LAGS[:2]}
    which = torch.bucketize(flat, HISTOGRAM.double())
    out |= {f"share in bin {i}": (which == i).double().mean(1).sqrt() for i in range(len(HISTOGRAM) + 1)}
    ends = {"lowest": noisy.amin(), "highest": noisy.amax()}
    out |= {f"share {name}": (y == end).double().mean((1, 2)).sqrt() for name, end in ends.items()}
    return out | {"equal neighbours": (y[:, :, 1:] == y[:, :, :-1]).double().mean((1, 2)).sqrt()}


def _log(power: Tensor) -> Tensor:
    return power.clamp_min(1e-6).log()
