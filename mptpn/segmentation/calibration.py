"""Scores and thresholds of a prompt segmentation network on images whose truth is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mptpn.metrics import dice
from mptpn.segmentation.examples import Example
from mptpn.segmentation.inference import GrayRange, Segmenter
from mptpn.segmentation.pieces import pieces, without_specks


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


def with_peak(segmenter: Segmenter, examples: Sequence[Example], name: str) -> Segmenter:
    """The same network, and for one target the least probability of its surest pixel.

    It has the largest mean Dice over the examples, as they would be asked: below it an image gets an empty mask, and an
    empty truth counts 1 for an empty mask. For a target that images of one kind have or lack, such as a lesion: what
    kind of image it is says nothing then.

    Args:
        examples: images of that kind, some without the target; best training images, so that others measure it.
    """
    (target,) = (target for target in segmenter.targets if target.name == name)
    rows = []
    for example in examples:
        probability = segmenter.probability(example.image.float(), target, gray=AS_IT_IS)[0, 0].numpy()
        labels = without_specks(pieces(probability >= target.threshold, split=target.objects), target.least)
        here = example.has(target.words)
        truth = example.masks[target.words][0, 0].numpy() if here else np.zeros(labels.shape, bool)
        rows.append((float(probability.max()), dice(labels > 0, truth), float(not here)))
    peaks, shown, refused = np.array(sorted(rows)).T
    return segmenter.with_target(replace(target, peak=least_peak(peaks, shown - refused)))


def least_peak(peaks: np.ndarray, gains: np.ndarray) -> float:
    """The level above which the gains of rising peaks have the largest sum, half way in logits; 0: below all."""
    sums = np.append(np.cumsum(gains[::-1])[::-1], 0.0)
    first = int(sums.argmax())
    if first == 0:
        return 0.0
    ends = np.clip(np.append(peaks, 1.0)[first - 1 : first + 1], 1e-6, 1 - 1e-6)
    middle = np.log(ends / (1 - ends)).mean()
    return float(np.round(1 / (1 + np.exp(-middle)), 4))
