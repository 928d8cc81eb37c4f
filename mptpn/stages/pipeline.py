"""From noisy images alone to a denoiser: the stages in a row, one function each, for mptpn train and notebooks."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mptpn.filters import center_crop, has_noise
from mptpn.networks import BlindSpotNetwork, RetractableTransformer, load_weights
from mptpn.noise import NoiseEstimate, NoiseModel, detect_skew, estimate_from, measure
from mptpn.noise.bands import Measurement, levels_by_place
from mptpn.random import seeded
from mptpn.stages import preliminary, profound, refinement
from mptpn.stages.synthesis import LEVELS, PairSynthesis, TargetStatistics, structure, target_statistics
from mptpn.training import fit

if TYPE_CHECKING:
    from lightning.fabric import Fabric

# Arguments of BlindSpotNetwork and of RetractableTransformer: networks that learn in minutes on a CPU.
BLIND = {"width": 16, "depth": 3, "local_means": (3, 5, 7, 11)}
STUDENT = {"channels": 1, "widths": (32, 64), "intervals": ((4,), (2,)), "blocks": 2, "head_dim": 16}
STUDENT |= {"unshuffle": 2, "mlp_ratio": 2.0, "bias": "relative"}
START = "small"  # pretrained network that stage 3 goes on from: it has seen photographs with noise of every level

CONTENT = 1024  # px, side of the center crop of a noisy image whose denoised pixels are content: 1 GB of memory
LEAST_PLACES = 8  # with fewer, the spread of the levels is unknown
LEVEL_ERROR = 0.97  # no level is known better: the range reaches at least this far down, and its inverse up
LOWEST, HIGHEST = 0.4, 2.5  # ends of any range of levels: beneath weak noise, structure passes for a level

STEPS = 100_000  # more than any budget of time on a CPU allows: the clock decides
STAGE_1, STAGE_3 = 0.4, 0.5  # shares of a budget of time; estimates and pairs A take the rest
FIRST = 0.3  # share of the first network in stage 3's part


@dataclass(frozen=True)
class SetNoise:
    """Noise of a set of images.

    Attributes:
        whole: estimate of all images together; its correlation is that of the set.
        noise_models: of each image, with the correlation of the set where there is any, EMCCD where an image shows it.
        levels: lowest and highest level, relative to the noise model of an image, that stage 3 should know.
    """

    whole: NoiseEstimate
    noise_models: tuple[NoiseModel, ...]
    levels: tuple[float, float] = LEVELS


def measure_set(noisy: Sequence[Tensor], *, subjects: Sequence[Hashable] | None = None) -> list[Measurement | None]:
    """What estimate_set needs of each image [1, 1, H, W]; None where nearly all of it is constant or clipped."""
    subjects = range(len(noisy)) if subjects is None else subjects
    measured = [
        measure(image, number=i, subject=subject) if _has_structure(image) else None
        for i, (image, subject) in enumerate(zip(noisy, subjects, strict=True))
    ]
    return [one if one and one.valid.any() else None for one in measured]


def _has_structure(image: Tensor) -> bool:
    """Whether an image is far enough from constant to have a structure function."""
    return bool(image.amin() < image.amax()) and all(map(math.isfinite, structure(image, has_noise(image))))


def estimate_set(
    noisy: Sequence[Tensor],
    *,
    subjects: Sequence[Hashable] | None = None,
    measured: Sequence[Measurement] | None = None,
) -> SetNoise:
    """Noise of a set: each image has a level of its own, all share a correlation.

    Args:
        noisy: each [1, 1, H, W].
        subjects: of whom each image is, see noise.estimate.
        measured: of each image, from measure_set; None: measured here.
    Raises:
        ValueError: no image, or one that is too small, constant, clipped all over or not finite.
    """
    subjects = range(len(noisy)) if subjects is None else subjects
    if not measured:
        numbered = enumerate(zip(noisy, subjects, strict=True))
        measured = [measure(image, number=i, subject=subject) for i, (image, subject) in numbered]
    whole = estimate_from(measured)
    models = [noise_model_in_set([one], whole) for one in measured]
    places = zip(*[levels_by_place(one, model) for one, model in zip(measured, models, strict=True)], strict=True)
    models = (detect_skew(image, noise_model=model) for image, model in zip(noisy, models, strict=True))
    return SetNoise(whole, tuple(models), level_range(*map(torch.cat, places)))


def level_range(places: Tensor, errors: Tensor) -> tuple[float, float]:
    """Squares of the 5 % and the 95 % quantile of the levels by place, less what their stated errors spread them.

    Logarithms are shrunk by the share of their spread that the errors do not explain, one less the inverse of the
    reduced chi-square: drawing levels that do not occur cost 0.1 dB on photographs with noise of one level. Squares,
    because few places are known where noise is strong, and other images differ from these as their places do.

    Args:
        places, errors: levels by place, relative to the noise model, and their stated relative errors, [N].
    Returns:
        lowest and highest level; LEVELS where there are fewer than LEAST_PLACES.
    """
    if len(places) < LEAST_PLACES:
        return LEVELS
    logs, weights = places.log(), errors**-2
    off = logs - (weights * logs).sum() / weights.sum()
    freedom = len(off) - 1
    explained = freedom / max(freedom, float((weights * off.square()).sum()))
    low, high = (2 * math.sqrt(1 - explained) * logs.quantile(logs.new_tensor([0.05, 0.95]))).exp().tolist()
    return min(max(low, LOWEST), LEVEL_ERROR), max(min(high, HIGHEST), 1 / LEVEL_ERROR)


def noise_model_of(noisy: Tensor, *, whole: NoiseEstimate) -> NoiseModel:
    """Noise model of one image, with the correlation of its set, or without any where the set has none."""
    return noise_model_in_set([measure(noisy)], whole)


def noise_model_in_set(own: Sequence[Measurement], whole: NoiseEstimate, *, zeros: float | None = None) -> NoiseModel:
    """noise_model_of an image that is measured, in one piece or several; zeros: see noise.estimate_from."""
    correlated = whole.noise_model.correlated
    plain = estimate_from(own, zeros=zeros, correlated=correlated).noise_model.pointwise
    return replace(whole.noise_model, noise_model=plain) if correlated else plain


def stage_1(
    noisy: list[Tensor],
    *,
    noise: SetNoise,
    steps: int,
    fabric: "Fabric",
    half_size: tuple[int, int] | None = None,
    network: dict = BLIND,
    batch: int = 4,
    patch: int = 64,
    lr: float = 3e-3,
    ema: float = 0.98,
    seconds: float = math.inf,
    checkpoint: str | Path | None = None,
    seed: int = 0,
) -> BlindSpotNetwork:
    """Train a blind-spot network on noisy images alone; its attribute `history` is that of training.fit.

    Args:
        noisy: each [1, 1, H, W].
        noise: from estimate_set.
        half_size: of the blind spot, see BlindSpotNetwork; None: what the set's correlation asks for.
        network: other arguments of BlindSpotNetwork. The rest: see preliminary.train.
    """
    half_size = noise.whole.half_size if half_size is None else half_size
    with seeded(seed):
        blind = BlindSpotNetwork(**network, half_size=half_size).to(memory_format=torch.channels_last)
    settings = {"steps": steps, "batch": batch, "patch": patch, "lr": lr, "ema": ema, "seed": seed}
    budget = {"seconds": seconds, "checkpoint": checkpoint, "fabric": fabric}
    blind.history = preliminary.train(blind, noisy, noise_models=noise.noise_models, **settings, **budget)
    return blind.eval().cpu()  # where the images are


@torch.no_grad()
def stage_2(
    noisy: list[Tensor],
    photos: list[Tensor],
    *,
    noise: SetNoise,
    blind: BlindSpotNetwork | None = None,
    first: RetractableTransformer | None = None,
    batch: int = 8,
    patch: int = 64,
    seed: int = 0,
) -> PairSynthesis:
    """Pairs of the set's noise: photographs matched to the noisy images, and where asked for the images themselves.

    Args:
        noisy, photos: each [1, 1, H, W].
        noise: from estimate_set or refine_noise.
        blind: network of stage 1; its results make pairs A.
        first: network of stage 3; its results on the noisy images are content too, of large ones those on the middle
            1024 x 1024 px.
        batch, patch, seed: see PairSynthesis.
    """
    both = list(zip(noisy, noise.noise_models, strict=True))
    targets = [target_statistics(x, noise_model=model) for x, model in both]
    pairs_a = [(x, preliminary.denoise(blind, x, noise_model=model)["denoised"]) for x, model in both] if blind else []
    own = [_own_content(first, x, target) for x, target in zip(noisy, targets, strict=True)] if first else []
    return PairSynthesis(
        photos, targets, pairs_a=pairs_a, own=own, levels=noise.levels, batch=batch, patch=patch, seed=seed
    )


def _own_content(first: RetractableTransformer, noisy: Tensor, target: TargetStatistics) -> Tensor:
    offset, scale = (torch.tensor(value).view(1, 1, 1, 1) for value in (target.mean, target.robust))
    return profound.denoise(first, center_crop(noisy, side=CONTENT), offset=offset, scale=scale)


def stage_3(
    pairs: PairSynthesis,
    *,
    steps: int,
    fabric: "Fabric",
    lr: float | None = None,
    ema: float = 0.98,
    network: dict | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    seconds: float = math.inf,
    title: str = "stage 3",
) -> RetractableTransformer:
    """Train a retractable transformer on pairs; its attribute `history` is that of training.fit.

    Args:
        pairs: from stage_2.
        lr: peak learning rate; None: 5e-4 to go on from START, 2e-3 for a new network.
        network: arguments of a new RetractableTransformer; None: go on from START, which needs a tenth of the steps.
            The rest: see training.fit.
    """
    if network is None:
        student, _ = load_weights(START, RetractableTransformer)
    else:
        with seeded(seed):
            student = RetractableTransformer(**network)
    student.for_white_noise = False  # it learns the noise of the set
    lr = lr or (5e-4 if network is None else 2e-3)
    budget = {"steps": steps, "seconds": seconds, "checkpoint": checkpoint, "fabric": fabric}
    student.history = fit(student.train(), loss=profound.loss, batches=pairs, lr=lr, ema=ema, title=title, **budget)
    return student.eval().cpu()  # as in stage_1


def refine_noise(noise: SetNoise, noisy: list[Tensor], *, first: RetractableTransformer, seed: int = 0) -> SetNoise:
    """The noise models of a set with the level and correlation that a first network of stage 3 finds in the images.

    Args:
        noise: that first was trained with; without correlation it comes back as it is.
        noisy: each [1, 1, H, W]. seed: see refinement.refine.
    """
    denoise = partial(profound.denoise, first)
    return replace(noise, noise_models=refinement.refine(noise.noise_models, noisy, denoise=denoise, seed=seed))


@dataclass(frozen=True)
class ThreeStages:
    """Result of three_stages: networks of stage 1 and stage 3, the first network between them, the refined noise."""

    blind: BlindSpotNetwork
    first: RetractableTransformer
    student: RetractableTransformer
    noise: SetNoise


def three_stages(
    noisy: list[Tensor],
    photos: list[Tensor],
    *,
    noise: SetNoise,
    fabric: "Fabric",
    steps: tuple[int, int, int] = (STEPS, STEPS, STEPS),
    seconds: float = math.inf,
    batch: int = 4,
    patch: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
) -> ThreeStages:
    """The whole method: stage 1, stage 2, a first network, noise-model refinement, stage 2 with own content, stage 3.

    Args:
        noisy, photos: each [1, 1, H, W], H, W >= patch.
        noise: from estimate_set.
        steps: of stage 1, of the first network and of stage 3.
        seconds: wall-clock budget of the method; the trainings have fixed shares of it.
        batch: pairs a step of stage 3. patch: side of all patches, px.
        out: a stopped call goes on from checkpoints beside this path, see checkpoints; None: no checkpoints.
    """
    paths = checkpoints(out) if out else (None, None, None)
    shares = STAGE_1, FIRST * STAGE_3, (1 - FIRST) * STAGE_3
    of_blind, of_first, of_student = (
        {"steps": count, "seconds": share * seconds, "checkpoint": path, "fabric": fabric, "seed": seed}
        for count, share, path in zip(steps, shares, paths, strict=True)
    )
    blind = stage_1(noisy, noise=noise, patch=patch, **of_blind)
    pairs = partial(stage_2, noisy, photos, blind=blind, batch=batch, patch=patch, seed=seed)
    first = stage_3(pairs(noise=noise), title="first network", **of_first)
    noise = refine_noise(noise, noisy, first=first, seed=seed)
    student = stage_3(pairs(noise=noise, first=first), **of_student)
    return ThreeStages(blind, first, student, noise)


def checkpoints(out: str | Path) -> tuple[Path, Path, Path]:
    """Checkpoints beside the file out: of stage 1, of the first network and of stage 3."""
    return tuple(Path(out).with_suffix(f".{part}.checkpoint.pt") for part in ("stage1", "first", "stage3"))
