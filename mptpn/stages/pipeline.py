"""From noisy images alone to a denoiser: stages 1, 2 and 3 in a row. The one module, besides the notebooks, that joins
them.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from mptpn.filters import center_crop, has_noise
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load_weights
from mptpn.noise.bands import Measurement, measure
from mptpn.noise.emccd import detect_emccd
from mptpn.noise.estimate import NoiseEstimate, estimate_from, levels_by_place
from mptpn.noise.models import NoiseModel
from mptpn.stages import preliminary, profound
from mptpn.stages.synthesis import LEVELS, PairSynthesis, TargetStatistics, structure, target_statistics
from mptpn.training.loop import fit

# Arguments of BlindSpotNetwork and of RetractableTransformer: networks that learn in minutes on a CPU.
BLIND = {"width": 16, "depth": 3, "local_means": (3, 5, 7, 11)}
STUDENT = {
    "channels": 1,
    "widths": (32, 64),
    "intervals": ((4,), (2,)),
    "blocks": 2,
    "head_dim": 16,
    "unshuffle": 2,
    "mlp_ratio": 2.0,
    "bias": "relative",
}


CONTENT = 1024  # px, side of the part of a noisy image whose first result is content: 1 GB of memory
SURELY = 0.97  # a level is never known better: two of its stated errors
FEW = 8  # places, from which the spread of levels is not told
# the network of the package that stage 3 goes on from: it has seen photographs with noise of every level and no medical
# image
START = "small"


@dataclass(frozen=True)
class SetNoise:
    """What stage 1 knows of the noise of a set.

    Attributes:
        whole: report of all images together; its correlation is that of the set.
        noise models: of each image, with the correlation of the set where there is any, with multiplied electrons where
            an image looks like that.
        levels: lowest and highest level, relative to the noise model of an image, that stage 3 should know.
    """

    whole: NoiseEstimate
    noise_models: tuple[NoiseModel, ...]
    levels: tuple[float, float] = LEVELS


def measure_set(noisy: list[Tensor], *, subjects: Sequence[Hashable] | None = None) -> list[Measurement | None]:
    """What noise_of needs of each image, [1, 1, H, W]; None where hardly a part of it says anything of its noise, for
    all is constant or clipped.
    """
    subjects = range(len(noisy)) if subjects is None else subjects
    measured = [
        measure(image, number=i, subject=subject) if _speaks(image) else None
        for i, (image, subject) in enumerate(zip(noisy, subjects, strict=True))
    ]
    return [one if one and one.counts.any() else None for one in measured]


def _speaks(image: Tensor) -> bool:
    """Whether an image is neither constant nor so nearly that stage 2 finds no structure function."""
    return bool(image.amin() < image.amax()) and all(map(math.isfinite, structure(image, has_noise(image))))


def estimate_set(
    noisy: list[Tensor], *, subjects: Sequence[Hashable] | None = None, measured: list[Measurement] | None = None
) -> SetNoise:
    """Noise of a set: each image has a level of its own, all share a correlation.

    Args:
        noisy: each [1, 1, H, W]. subjects: of whom each is, see noise_report.report. measured: of each, from telling;
            None: measured here.
    Raises:
        ValueError: no image, or one that is too small, constant, clipped all over or not finite.
    """
    subjects = range(len(noisy)) if subjects is None else subjects
    measured = measured or [
        measure(image, number=i, subject=subject)
        for i, (image, subject) in enumerate(zip(noisy, subjects, strict=True))
    ]
    whole = estimate_from(measured)
    noise_models = [_noise_model_in_set(one, whole) for one in measured]
    places = zip(
        *[levels_by_place(one, noise_model) for one, noise_model in zip(measured, noise_models, strict=True)],
        strict=True,
    )
    return SetNoise(
        whole,
        tuple(
            detect_emccd(image, noise_model=noise_model) for image, noise_model in zip(noisy, noise_models, strict=True)
        ),
        _to_know(*map(torch.cat, places)),
    )


def _to_know(places: Tensor, errors: Tensor) -> tuple[float, float]:
    """Squares of the 5 % and the 95 % quantile of the levels by place, less what their stated errors spread them;
    LEVELS where too few places are known.

    Logarithms are shrunk by the share of their spread that the errors do not explain (one less the inverse of the
    reduced chi-square): drawing levels that do not occur cost 0.1 dB on photographs with noise of one level. Squares,
    for where noise is strong fewest places are known, and other images will differ from these as their places differ
    from each other. Down to SURELY and up to its inverse at least, to 0.4 and 2.5 at most, for beneath weak noise
    structure passes for a level.
    """
    if len(places) < FEW:
        return LEVELS
    logs, trust = places.log(), errors**-2
    off = logs - (trust * logs).sum() / trust.sum()
    chance = len(off) - 1
    real = 1 - chance / max(chance, float((trust * off.square()).sum()))
    low, high = (2 * math.sqrt(real) * logs.quantile(logs.new_tensor([0.05, 0.95]))).exp().tolist()
    return min(max(low, 0.4), SURELY), max(min(high, 2.5), 1 / SURELY)


def noise_model_of(noisy: Tensor, *, whole: NoiseEstimate) -> NoiseModel:
    """The noise model of one image, with the correlation of its set, or without any where the set has none."""
    return _noise_model_in_set(measure(noisy), whole)


def _noise_model_in_set(own: Measurement, whole: NoiseEstimate) -> NoiseModel:
    correlated = whole.noise_model.correlated
    plain = estimate_from([own], correlated=correlated).noise_model.pointwise
    return replace(whole.noise_model, noise_model=plain) if correlated else plain


def stage_1(
    noisy: list[Tensor],
    *,
    noise: SetNoise,
    steps: int,
    fabric: Fabric,
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
    """Train a blind-spot network on noisy images alone.

    Args:
        noisy: each [1, 1, H, W].
        noise: from noise_of.
        hole: of the blind spot, see BlindSpotNetwork; None: what the set's correlation asks for.
        network: arguments of BlindSpotNetwork. The others: see preliminary.train.
    """
    torch.manual_seed(seed)
    blind = BlindSpotNetwork(**network, half_size=noise.whole.half_size if half_size is None else half_size).to(
        memory_format=torch.channels_last
    )
    training = {
        "steps": steps,
        "batch": batch,
        "patch": patch,
        "lr": lr,
        "ema": ema,
        "seconds": seconds,
        "checkpoint": checkpoint,
        "seed": seed,
    }
    preliminary.train(blind, noisy, noise_models=list(noise.noise_models), fabric=fabric, **training)
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
    """Pairs B from photographs that take on the looks of the noisy images; given the blind-spot network, pairs A; the
    others as in PairSynthesis.

    first: a denoiser of stage 3, whose results on the noisy images become content too, of large ones those on the
    middle 1024 x 1024 px.
    """
    targets: list[TargetStatistics] = [
        target_statistics(image, noise_model=noise_model)
        for image, noise_model in zip(noisy, noise.noise_models, strict=True)
    ]
    denoised = (
        [
            preliminary.denoise(blind, image, noise_model=noise_model)["denoised"]
            for image, noise_model in zip(noisy, noise.noise_models, strict=True)
        ]
        if blind
        else []
    )
    pairs_a = list(zip(noisy, denoised, strict=True)) if blind else []
    own = [_own_content(first, image, look) for image, look in zip(noisy, targets, strict=True)] if first else []
    return PairSynthesis(
        photos, targets, pairs_a=pairs_a, own=own, levels=noise.levels, batch=batch, patch=patch, seed=seed
    )


def _own_content(first: RetractableTransformer, noisy: Tensor, look: TargetStatistics) -> Tensor:
    unit = {"offset": look.mean, "scale": look.robust}
    return profound.denoise(
        first,
        center_crop(noisy, side=CONTENT),
        **{name: torch.tensor(value).view(1, 1, 1, 1) for name, value in unit.items()},
    )


def stage_3(
    pairs: PairSynthesis,
    *,
    steps: int,
    fabric: Fabric,
    lr: float | None = None,
    ema: float = 0.98,
    network: dict | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    seconds: float = math.inf,
    title: str = "stage 3",
) -> RetractableTransformer:
    """Train a retractable transformer on pairs.

    Args:
        lr: peak learning rate; None: 5e-4 to go on from START, 2e-3 for a new network.
        network: arguments of a new RetractableTransformer; None: go on from START, which needs a tenth of the steps.
            The others as in training.fit.
    """
    torch.manual_seed(seed)
    student = (
        load_weights(START, RetractableTransformer)[0].train() if network is None else RetractableTransformer(**network)
    )
    student.for_white_noise = False  # it learns the noise of the set
    lr = lr or (5e-4 if network is None else 2e-3)
    fit(
        student,
        loss=profound.loss,
        batches=pairs,
        steps=steps,
        lr=lr,
        fabric=fabric,
        checkpoint=checkpoint,
        ema=ema,
        seconds=seconds,
        title=title,
    )
    return student.eval().cpu()  # as in stage_1
