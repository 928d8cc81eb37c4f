"""How like real noise drawn noise is: variance noise model, histogram, autocorrelation, and a classifier that must tell
patches of both apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mptpn.noise.models import CorrelatedGaussian, NoiseModel, PoissonGaussian
from mptpn.noise.statistics import divergence, quantise_like
from mptpn.random import generator

SIDE = 64  # px of the patches that the classifier sees: those that the networks are trained on
FOLDS = 5
RIDGE = 1.0  # prior precision of the classifier's weights; its inputs have variance 1
BINS = 8  # of intensity, with equally many pixels
COARSE = torch.tensor([-2.5, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 2.5, 3.5])  # of the classifier's histogram
Z95 = 1.96
LAGS = ((0, 1), (1, 0), (1, 1), (1, -1), (0, 2), (2, 0), (0, 3), (3, 0))  # rows down, columns across


@dataclass(frozen=True)
class Verdict:
    """How often a classifier tells patches of real and drawn noise apart, on subjects that did not train it.

    Attributes:
        accuracy: share of patches it names rightly, 0.5 for none told apart.
        interval: (low, high), 95 %, Wilson's, with the effective number of patches: those of one subject err together.
        by_subject: accuracy on each subject.
        seen: how far each statistic of a patch alone sets the two apart, difference of means in standard deviations,
            the largest first.
    """

    accuracy: float
    interval: tuple[float, float]
    by_subject: dict[str, float]
    seen: dict[str, float]


@dataclass(frozen=True)
class Likeness:
    """What compare found; noise is standardised by one reference noise model, the same for real and drawn.

    Attributes:
        intensity: mean of the clean pixels in each bin.
        variance_ratio: real over drawn, (ratio, standard error over images) for each bin.
        skewness: (real, drawn) for each bin.
        kl: Kullback-Leibler divergence of the histograms, real from drawn, nats.
        kl_chance: the same of real noise from itself, patches taken alternately; half as many in each, so twice too
            high for white noise.
        autocorrelation: lag (rows down, columns across): (real, drawn, standard error of the difference over images).
        verdict: of the classifier.
    """

    intensity: tuple[float, ...]
    variance_ratio: tuple[tuple[float, float], ...]
    skewness: tuple[tuple[float, float], ...]
    kl: float
    kl_chance: float
    autocorrelation: dict[tuple[int, int], tuple[float, float, float]]
    verdict: Verdict


def draw(
    clean: Sequence[Tensor], *, noise_models: Sequence[NoiseModel], like: Sequence[Tensor] | None = None, seed: int = 0
) -> list[Tensor]:
    """A noisy copy of each image by its own noise model, recorded as the real ones are.

    Args:
        clean: each [1, 1, H, W].
        like: real images: see recorded; None: neither rounded nor clipped.
    """
    drawn = [
        noise_model.sample(image, generator=generator(seed, "two-sample copies", i))
        for i, (image, noise_model) in enumerate(zip(clean, noise_models, strict=True))
    ]
    return drawn if like is None else [quantise_like(image, like=real) for image, real in zip(drawn, like, strict=True)]


def scale_gain(noise_model: NoiseModel, *, factor: float = 1.2) -> NoiseModel:
    """A planted fault: the gain of a Poisson-Gaussian noise model, or the variance of another, times factor."""
    return (
        replace(noise_model, gain=noise_model.gain * factor)
        if isinstance(noise_model, PoissonGaussian) and noise_model.gain
        else noise_model.scaled(math.sqrt(factor))
    )


def add_correlation(noise_model: NoiseModel, *, lag_1: float = 0.2) -> CorrelatedGaussian:
    """A planted fault: the correlation of neighbours, down and across, raised by lag_1; a noise model without
    correlation gets one.
    """
    old = torch.tensor(
        noise_model.correlation if noise_model.correlated else ((0.0, 0, 0), (0, 1, 0), (0, 0, 0)), dtype=torch.float64
    )
    middle = len(old) // 2
    for row, col in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        old[middle + row, middle + col] = min(0.95, old[middle + row, middle + col] + lag_1)
    return CorrelatedGaussian(noise_model.pointwise, old)


def standardised(noisy: Tensor, clean: Tensor, *, noise_model: NoiseModel) -> Tensor:
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
) -> Likeness:
    """Real noise against drawn noise on the same content.

    Args:
        real, drawn, clean: each image [1, 1, H, W] with H, W >= side; clean in the scale of its real image, see
            scores.fitted.
        noise models: of reference, one an image: they set the unit of the noise alone, for real and drawn alike.
        subjects: of the images; None: each image is a subject of its own. There must be at least two.
        side, folds: see tell_apart.
    Raises:
        ValueError: numbers or shapes that do not fit, or too few subjects.
    """
    verdict = tell_apart(real, drawn, clean, noise_models=noise_models, subjects=subjects, side=side, folds=folds)
    a, b = (
        [
            standardised(y, x, noise_model=noise_model)
            for y, x, noise_model in zip(noisy, clean, noise_models, strict=True)
        ]
        for noisy in (real, drawn)
    )
    edges = torch.cat([x.flatten() for x in clean]).sort().values
    edges = edges[torch.arange(1, BINS) * len(edges) // BINS]
    bins = [torch.bucketize(x.flatten(), edges) for x in clean]
    # [2, images, bins]
    power = torch.stack([torch.stack([_sums(z**2, k) for z, k in zip(noise, bins, strict=True)]) for noise in (a, b)])
    count = sum(_sums(torch.ones_like(x), k) for x, k in zip(clean, bins, strict=True))
    third = torch.stack([sum(_sums(z**3, k) for z, k in zip(noise, bins, strict=True)) for noise in (a, b)]) / count
    skewness = third / (power.sum(1) / count) ** 1.5
    ratio = power[0].sum(0) / power[1].sum(0)
    error = (power[0] - ratio * power[1]).square().sum(0).sqrt() / power[1].sum(0)
    intensity = sum(_sums(x, k) for x, k in zip(clean, bins, strict=True)) / count
    halves = [torch.cat([_patches(z, side)[i::2].flatten() for z in a]) for i in (0, 1)]
    return Likeness(
        intensity=tuple(intensity.tolist()),
        variance_ratio=tuple(zip(ratio.tolist(), error.tolist(), strict=True)),
        skewness=tuple(zip(*skewness.tolist(), strict=True)),
        kl=divergence(torch.cat([z.flatten() for z in a]), torch.cat([z.flatten() for z in b])),
        kl_chance=divergence(*halves),
        autocorrelation={lag: _autocorrelation(a, b, lag) for lag in LAGS},
        verdict=verdict,
    )


def tell_apart(
    real: Sequence[Tensor],
    drawn: Sequence[Tensor],
    clean: Sequence[Tensor],
    *,
    noise_models: Sequence[NoiseModel],
    subjects: Sequence[str] | None = None,
    side: int = SIDE,
    folds: int = FOLDS,
) -> Verdict:
    """Train a classifier on patches of real and drawn noise, and ask it about subjects that it has not seen; arguments
    as in compare.

    Logistic regression on some 40 statistics of a patch and their squares, for a fault may point either way from image
    to image. None of them asks how noise
    goes with the bends of the content: an average holds noise of its own, which bends, and that tells real from drawn
    even if the noise model is perfect. On W2S's content a perfect noise model would get 0.81 with such a statistic,
    0.59 without, and 0.55 where the frame is one of the 400 averaged, as W2S's seem to be.

    Args:
        side: of the patches, px; they lie side by side, a rest at the rim is left out.
        folds: parts of the subjects, each held out once.
    """
    subjects = list(subjects) if subjects is not None else [str(i) for i in range(len(real))]
    _check(real, drawn, clean, noise_models, subjects, side)
    inputs = [
        [
            _statistics(y, x, noise_model=noise_model, side=side)
            for y, x, noise_model in zip(noisy, clean, noise_models, strict=True)
        ]
        for noisy in (real, drawn)
    ]
    names = list(inputs[0][0])
    # [patches, statistics]
    a, b = (torch.cat([torch.stack(list(one.values()), 1) for one in side_]) for side_ in inputs)
    order = list(dict.fromkeys(subjects))
    owner = torch.cat(
        [torch.full((len(one["mean"]),), order.index(s)) for one, s in zip(inputs[0], subjects, strict=True)]
    )
    # of the two patches on the same content, the share named rightly
    right = torch.zeros(len(owner), dtype=torch.float64)
    fold = torch.randperm(len(order), generator=generator("folds")) % min(folds, len(order))
    for k in range(int(fold.max()) + 1):
        held = fold[owner] == k
        score = _classifier(a[~held], b[~held])
        right[held] = ((score(a[held]) > 0).double() + (score(b[held]) < 0).double()) / 2
    apart = (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / 2).sqrt().clamp_min(1e-9)
    seen = dict(sorted(zip(names, apart.tolist(), strict=True), key=lambda item: -abs(item[1])))
    by_subject = {s: float(right[owner == i].mean()) for i, s in enumerate(order)}
    return Verdict(float(right.mean()), _interval(right, owner), by_subject, seen)


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
        raise ValueError(
            f"{numbers} real, drawn, clean images, noise models and subjects, {different} different; give one an image, and at least two subjects."
        )
    for i, (y, z, x) in enumerate(zip(real, drawn, clean, strict=True)):
        if not y.shape == z.shape == x.shape or x.shape[:2] != (1, 1) or min(x.shape[2:]) < side:
            raise ValueError(
                f"image {i}: shapes {tuple(y.shape)}, {tuple(z.shape)}, {tuple(x.shape)}; give [1, 1, H, W] of at least {side} px, all equal."
            )


def _sums(values: Tensor, bins: Tensor) -> Tensor:
    return torch.bincount(bins, weights=values.flatten().double(), minlength=BINS)


def _autocorrelation(a: Sequence[Tensor], b: Sequence[Tensor], lag: tuple[int, int]) -> tuple[float, float, float]:
    """Of real and of drawn noise, pooled over images, and the standard error of the difference."""
    top, bottom = (
        [[float(f(z)) for z in noise] for noise in (a, b)]
        for f in (lambda z: _product(z, lag).sum(), lambda z: (z.double() ** 2).sum())
    )
    top, bottom = torch.tensor(top), torch.tensor(bottom)  # [2, images]
    r = top.sum(1) / bottom.sum(1)
    left = (top - r[:, None] * bottom) / bottom.sum(1, keepdim=True)
    return float(r[0]), float(r[1]), float((left[0] - left[1]).square().sum().sqrt())


def _product(z: Tensor, lag: tuple[int, int]) -> Tensor:
    """Each pixel of [..., H, W] times the one at the lag."""
    (down, across), (height, width) = lag, z.shape[-2:]
    left = max(0, -across)
    return (
        z[..., : height - down, left : width - max(0, across)] * z[..., down:, left + across : width + min(0, across)]
    )


def _patches(image: Tensor, side: int) -> Tensor:
    """[patches, side, side], side by side from the top left."""
    height, width = (n // side * side for n in image.shape[-2:])
    return image[0, 0, :height, :width].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def _statistics(noisy: Tensor, clean: Tensor, *, noise_model: NoiseModel, side: int) -> dict[str, Tensor]:
    """What the classifier sees of each patch, name: [patches], float64."""
    z, x, y = (
        _patches(image, side).double() for image in (standardised(noisy, clean, noise_model=noise_model), clean, noisy)
    )
    flat = z.flatten(1)
    out = {"mean": flat.mean(1), "variance": _log((flat**2).mean(1))}
    centred = flat - flat.mean(1, keepdim=True)
    power = (centred**2).mean(1).clamp_min(1e-9)
    for name, n in (("skewness", 3), ("kurtosis", 4)):
        out[name] = torch.asinh((centred**n).mean(1) / power ** (n / 2))
    ranked = flat.gather(1, x.flatten(1).argsort(1))  # from the darkest pixel to the brightest
    for name, third in zip(("dark", "middle", "bright"), ranked.tensor_split(3, 1), strict=True):
        out |= {
            f"mean, {name}": third.mean(1),
            f"variance, {name}": _log((third**2).mean(1)),
            f"cube, {name}": torch.asinh((third**3).mean(1)),
        }
    z, level = centred.view_as(z), (centred.view_as(z).abs() - centred.view_as(z).abs().mean((1, 2), keepdim=True))
    out |= {f"correlation {lag}": _product(z, lag).mean((1, 2)) / power for lag in LAGS}
    out |= {f"levels {lag}": _product(level, lag).mean((1, 2)) / power for lag in LAGS[:2]}
    which = torch.bucketize(flat, COARSE.double())
    out |= {f"share in bin {i}": (which == i).double().mean(1).sqrt() for i in range(len(COARSE) + 1)}
    ends = {"lowest": noisy.amin(), "highest": noisy.amax()}
    out |= {f"share {name}": (y == end).double().mean((1, 2)).sqrt() for name, end in ends.items()}
    return out | {"equal neighbours": (y[:, :, 1:] == y[:, :, :-1]).double().mean((1, 2)).sqrt()}


def _log(power: Tensor) -> Tensor:
    return power.clamp_min(1e-6).log()


def _classifier(a: Tensor, b: Tensor, *, rounds: int = 12):
    """Logistic regression by Newton's method, a: 1, b: 0; returns score(statistics), above 0 for a."""
    both = torch.cat([a, b])
    middle, spread = both.mean(0), both.std(0).clamp_min(1e-9)

    def inputs(statistics: Tensor) -> Tensor:
        z = ((statistics - middle) / spread).clamp(-5, 5)
        return torch.cat([torch.ones(len(z), 1, dtype=z.dtype), z, z**2 - 1], 1)

    known, named = inputs(both), torch.cat([torch.ones(len(a)), torch.zeros(len(b))]).to(both)
    weights = torch.zeros(known.shape[1], dtype=both.dtype)
    prior = RIDGE * torch.eye(len(weights), dtype=both.dtype)
    for _ in range(rounds):
        p = torch.sigmoid(known @ weights)
        hessian = (known * (p * (1 - p))[:, None]).T @ known + prior
        weights = weights + torch.linalg.solve(hessian, known.T @ (named - p) - prior @ weights)
    return lambda statistics: inputs(statistics) @ weights


def _interval(right: Tensor, owner: Tensor) -> tuple[float, float]:
    """Wilson's 95 % interval of the mean, with as many trials as independent ones would leave that spread between
    subjects.
    """
    trials, share = 2 * len(right), float(right.mean())
    groups = owner.unique()
    off = torch.stack([(right[owner == g] - share).sum() for g in groups]) / len(right)
    variance = float(off.square().sum()) * len(groups) / (len(groups) - 1)
    effective = min(trials, share * (1 - share) / variance) if variance > 0 else trials
    middle, half = (
        share + Z95**2 / (2 * effective),
        Z95 * math.sqrt(share * (1 - share) / effective + (Z95 / (2 * effective)) ** 2),
    )
    return (middle - half) / (1 + Z95**2 / effective), (middle + half) / (1 + Z95**2 / effective)
