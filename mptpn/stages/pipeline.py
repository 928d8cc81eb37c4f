"""From noisy images alone to a denoiser: stages 1, 2 and 3 in a row. The one module, besides the notebooks, that joins them."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from mptpn.filters import informative, middle
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load_weights
from mptpn.noise.bands import Measurement, measure
from mptpn.noise.emccd import amplified
from mptpn.noise.estimate import NoiseReport, conclude, levels_by_place
from mptpn.noise.models import CorrelatedGaussian, Law, pointwise
from mptpn.stages import preliminary, profound
from mptpn.stages.synthesis import LEVELS, Look, PairSynthesis, look_of, structure
from mptpn.training.loop import fit

# Arguments of BlindSpotNetwork and of RetractableTransformer: networks that learn in minutes on a CPU.
BLIND = {"width": 16, "depth": 3, "local_means": (3, 5, 7, 11)}
STUDENT = {"channels": 1, "widths": (32, 64), "intervals": ((4,), (2,)), "blocks": 2, "head_dim": 16, "unshuffle": 2, "mlp_ratio": 2.0, "bias": "relative"}


CONTENT = 1024  # px, side of the part of a noisy image whose first result is content: 1 GB of memory
SURELY = 0.97  # a level is never known better: two of its stated errors
FEW = 8  # places, from which the spread of levels is not told
START = "small"  # the network of the package that stage 3 goes on from: it has seen photographs with noise of every level and no medical image


@dataclass(frozen=True)
class NoiseOfSet:
    """What stage 1 knows of the noise of a set.

    Attributes:
        whole: report of all images together; its correlation is that of the set.
        laws: of each image, with the correlation of the set where there is any, with multiplied electrons where an image looks like that.
        levels: lowest and highest level, relative to the law of an image, that stage 3 should know.
    """

    whole: NoiseReport
    laws: tuple[Law, ...]
    levels: tuple[float, float] = LEVELS


def telling(noisy: list[Tensor], *, subjects: Sequence[Hashable] | None = None) -> list[Measurement | None]:
    """What noise_of needs of each image, [1, 1, H, W]; None where hardly a part of it says anything of its noise, for all is constant or clipped."""
    subjects = range(len(noisy)) if subjects is None else subjects
    measured = [measure(image, number=i, subject=subject) if _speaks(image) else None for i, (image, subject) in enumerate(zip(noisy, subjects, strict=True))]
    return [one if one and one.counts.any() else None for one in measured]


def _speaks(image: Tensor) -> bool:
    """Whether an image is neither constant nor so nearly that stage 2 finds no structure function."""
    return bool(image.amin() < image.amax()) and all(map(math.isfinite, structure(image, informative(image))))


def noise_of(noisy: list[Tensor], *, subjects: Sequence[Hashable] | None = None, measured: list[Measurement] | None = None) -> NoiseOfSet:
    """Noise of a set: each image has a level of its own, all share a correlation.

    Args:
        noisy: each [1, 1, H, W]. subjects: of whom each is, see noise_report.report. measured: of each, from telling; None: measured here.
    Raises:
        ValueError: no image, or one that is too small, constant, clipped all over or not finite.
    """
    subjects = range(len(noisy)) if subjects is None else subjects
    measured = measured or [measure(image, number=i, subject=subject) for i, (image, subject) in enumerate(zip(noisy, subjects, strict=True))]
    whole = conclude(measured)
    laws = [_law_in_set(one, whole) for one in measured]
    places = zip(*[levels_by_place(one, law) for one, law in zip(measured, laws, strict=True)], strict=True)
    return NoiseOfSet(whole, tuple(amplified(image, law=law) for image, law in zip(noisy, laws, strict=True)), _to_know(*map(torch.cat, places)))


def _to_know(places: Tensor, errors: Tensor) -> tuple[float, float]:
    """Squares of the 5 % and the 95 % quantile of the levels by place, less what their stated errors spread them; LEVELS where too few places are known.

    Logarithms are shrunk by the share of their spread that the errors do not explain (one less the inverse of the reduced chi-square): drawing levels that do
    not occur cost 0.1 dB on photographs with noise of one level. Squares, for where noise is strong fewest places are known, and other images will differ from
    these as their places differ from each other. Down to SURELY and up to its inverse at least, to 0.4 and 2.5 at most, for beneath weak noise structure passes
    for a level.
    """
    if len(places) < FEW:
        return LEVELS
    logs, trust = places.log(), errors**-2
    off = logs - (trust * logs).sum() / trust.sum()
    chance = len(off) - 1
    real = 1 - chance / max(chance, float((trust * off.square()).sum()))
    low, high = (2 * math.sqrt(real) * logs.quantile(logs.new_tensor([0.05, 0.95]))).exp().tolist()
    return min(max(low, 0.4), SURELY), max(min(high, 2.5), 1 / SURELY)


def law_of(noisy: Tensor, *, whole: NoiseReport) -> Law:
    """The law of one image, with the correlation of its set, or without any where the set has none."""
    return _law_in_set(measure(noisy), whole)


def _law_in_set(own: Measurement, whole: NoiseReport) -> Law:
    correlated = isinstance(whole.law, CorrelatedGaussian)
    plain = pointwise(conclude([own], correlated=correlated).law)
    return replace(whole.law, law=plain) if correlated else plain


def stage_1(
    noisy: list[Tensor],
    *,
    noise: NoiseOfSet,
    steps: int,
    fabric: Fabric,
    hole: tuple[int, int] | None = None,
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
    blind = BlindSpotNetwork(**network, hole=noise.whole.hole if hole is None else hole).to(memory_format=torch.channels_last)
    training = {"steps": steps, "batch": batch, "patch": patch, "lr": lr, "ema": ema, "seconds": seconds, "checkpoint": checkpoint, "seed": seed}
    preliminary.train(blind, noisy, laws=list(noise.laws), fabric=fabric, **training)
    return blind.eval().cpu()  # where the images are


@torch.no_grad()
def stage_2(
    noisy: list[Tensor],
    photos: list[Tensor],
    *,
    noise: NoiseOfSet,
    blind: BlindSpotNetwork | None = None,
    first: RetractableTransformer | None = None,
    batch: int = 8,
    patch: int = 64,
    seed: int = 0,
) -> PairSynthesis:
    """Pairs B from photographs that take on the looks of the noisy images; given the blind-spot network, pairs A; the others as in PairSynthesis.

    first: a denoiser of stage 3, whose results on the noisy images become content too, of large ones those on the middle 1024 x 1024 px.
    """
    looks: list[Look] = [look_of(image, law=law) for image, law in zip(noisy, noise.laws, strict=True)]
    denoised = [preliminary.denoise(blind, image, law=law)["denoised"] for image, law in zip(noisy, noise.laws, strict=True)] if blind else []
    pairs_a = list(zip(noisy, denoised, strict=True)) if blind else []
    own = [_own_content(first, image, look) for image, look in zip(noisy, looks, strict=True)] if first else []
    return PairSynthesis(photos, looks, pairs_a=pairs_a, own=own, levels=noise.levels, batch=batch, patch=patch, seed=seed)


def _own_content(first: RetractableTransformer, noisy: Tensor, look: Look) -> Tensor:
    unit = {"offset": look.mean, "scale": look.robust}
    return profound.denoise(first, middle(noisy, side=CONTENT), **{name: torch.tensor(value).view(1, 1, 1, 1) for name, value in unit.items()})


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
        network: arguments of a new RetractableTransformer; None: go on from START, which needs a tenth of the steps. The others as in training.fit.
    """
    torch.manual_seed(seed)
    student = load_weights(START, RetractableTransformer)[0].train() if network is None else RetractableTransformer(**network)
    lr = lr or (5e-4 if network is None else 2e-3)
    fit(student, loss=profound.loss, batches=pairs, steps=steps, lr=lr, fabric=fabric, checkpoint=checkpoint, ema=ema, seconds=seconds, title=title)
    return student.eval().cpu()  # as in stage_1
