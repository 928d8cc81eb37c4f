"""Scores and thresholds of a prompt segmentation network on images whose truth is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mptpn.metrics import dice
from mptpn.segmentation.examples import Example
from mptpn.segmentation.inference import GrayRange, Segmenter
from mptpn.segmentation.words import Target


class _AsItIs(GrayRange):
    """Examples are normalised already."""

    def __init__(self):
        self.low, self.span = 0.0, 1.0


AS_IT_IS = _AsItIs()


def scores(segmenter: Segmenter, examples: Sequence[Example]) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Dice of every image that has a target, without any judgement of presence, by group and target.

    Returns:
        {(group, name of the target): {"dice": [...], "name": [...]}}, images in their order.
    """
    found: dict = {}
    for example in examples:
        for target in segmenter.targets:
            if example.has(target.words):
                mask = segmenter.probability(example.image.float(), target, gray=AS_IT_IS) >= target.threshold
                row = found.setdefault((example.group, target.name), {"dice": [], "name": []})
                row["dice"].append(dice(mask[0, 0].numpy(), example.masks[target.words][0, 0].numpy()))
                row["name"].append(example.name)
    return found


def presences(segmenter: Segmenter, examples: Sequence[Example]) -> dict[str, tuple[list[float], list[float]]]:
    """Probabilities of presence, {name of the target: (images that have it, images that do not)}."""
    found = {target.name: ([], []) for target in segmenter.targets}
    for example in examples:
        for target in segmenter.targets:
            if target.words not in example.unknown:
                value = segmenter.presence(example.image.float(), target, gray=AS_IT_IS)
                found[target.name][not example.has(target.words)].append(value)
    return found


def calibrated(segmenter: Segmenter, validation: Sequence[Example]) -> Segmenter:
    """The same network with presence thresholds from validation images.

    A threshold has the largest balanced accuracy (images with the target accepted, images without it refused), and
    lies half way, in logits, between the two values around it.
    """
    targets, found = [], presences(segmenter, validation)
    for target in segmenter.targets:
        here, absent = (np.array(values) for values in found[target.name])
        targets.append(replace(target, presence=between(here, absent)) if len(here) and len(absent) else target)
    return Segmenter(segmenter.network, targets, segmenter.note, encoder=segmenter.encoder)


def between(here: np.ndarray, absent: np.ndarray) -> float:
    """The probability with the largest balanced accuracy between images with the target and images without it."""
    here, absent = (np.log(np.clip(p, 1e-6, 1 - 1e-6) / np.clip(1 - p, 1e-6, 1)) for p in (here, absent))
    values = np.unique(np.concatenate([here, absent]))
    middles, gaps = (values[1:] + values[:-1]) / 2, values[1:] - values[:-1]
    if not len(middles):
        return 0.5
    balanced = [(here >= middle).mean() + (absent < middle).mean() for middle in middles]
    best = max(range(len(middles)), key=lambda at: (round(balanced[at], 9), gaps[at]))
    return float(np.round(1 / (1 + np.exp(-middles[best])), 4))


def surest(segmenter: Segmenter, examples: Sequence[Example], target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the surest pixel of each image: (images that have the target, images that do not)."""
    found = [], []
    for example in examples:
        probability = segmenter.probability(example.image.float(), target, gray=AS_IT_IS)
        found[not example.has(target.words)].append(float(probability.max()))
    return np.array(found[0]), np.array(found[1])


def with_peak(segmenter: Segmenter, examples: Sequence[Example], name: str) -> Segmenter:
    """The same network, and for one target the least probability of its surest pixel, by balanced accuracy.

    For a target that images of one kind have or lack, such as a lesion: what kind of image it is says nothing then.

    Args:
        examples: images of that kind, some without the target; best training images, so that others measure it.
    """
    (target,) = (target for target in segmenter.targets if target.name == name)
    least = between(*surest(segmenter, examples, target))
    return segmenter.with_target(replace(target, peak=least))
