"""Trains the package's segmentation network on one core.

python -m support.train_segmentation OUT [SEED [MINUTES [START]]]: with START, a weights file, it goes on from there.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mptpn.networks import SegmentationNetwork
from mptpn.random import seeded
from mptpn.segmentation import Crops, Example, Segmenter, fit_segmenter
from mptpn.segmentation.calibration import calibrated, scores, with_peak
from mptpn.segmentation.training import PromptLoss, with_own_statistics
from mptpn.training import launch
from support import segmentation_sets as sets
from support.segmentation_scores import picture

KEPT = ("seed", "minutes", "phases", "settings", "images_sha256")  # of the note of weights that go on
MINUTES = 44.0  # of one core, all phases
ULTRASOUND = "ultrasound"
SETTINGS = {"batch": 8, "side": 128}
SECOND = {"monuseg": 3.0, "dsb fluorescence": 0.8, "dsb stained": 1.0, "retina": 1.2, "em": 2.0}
SECOND |= {"ultrasound": 3.0, "white cells": 3.0, "others": 0.5}
THIRD = {"monuseg": 2.0, "dsb fluorescence": 2.0, "dsb stained": 1.0, "retina": 1.5, "em": 4.0}
THIRD |= {"ultrasound": 1.5, "white cells": 1.5, "others": 0.3}
PHASES = (
    {"share": 0.605, "lr": 2e-3, "ema": 0.998, "watch_seconds": 900.0, "weights": sets.WEIGHTS},
    {"share": 0.213, "lr": 1.2e-3, "ema": 0.99, "weights": SECOND, "fixed_statistics": True},
    {"share": 0.182, "lr": 1.2e-3, "ema": 0.99, "weights": THIRD, "fixed_statistics": True},
)
AGAIN = {"monuseg": 1.8, "dsb fluorescence": 0.8, "dsb stained": 0.5, "retina": 1.2, "em": 5.0}
AGAIN |= {"ultrasound": 4.0, "white cells": 2.0, "others": 0.5}
FROM_START = (
    {"share": 1.0, "lr": 1.2e-3, "ema": 0.995, "watch_seconds": 900.0, "weights": AGAIN, "fixed_statistics": True},
)


def untrained(seed: int) -> Segmenter:
    """The network with weights drawn from the seed."""
    with seeded(seed):
        return Segmenter(SegmentationNetwork(sets.WORDS, deep=True), sets.TARGETS)


def grown(begun: Segmenter, training: Sequence[Example], seed: int) -> Segmenter:
    """The network of `begun` with two more scales where it has none: drawn from the seed, adding little at first.

    Their batch normalisation gets the statistics of training crops; all other weights are those of `begun`.
    """
    segmenter = untrained(seed)
    network = segmenter.network
    missing = network.load_state_dict(begun.network.state_dict(), strict=False).missing_keys
    if not missing:
        return segmenter
    with torch.no_grad():
        network.context.back.weight.mul_(0.3)
        network.context.back.bias.zero_()
    prompts = [target.words for target in segmenter.targets]
    crops = Crops(training, prompts=prompts, weights=AGAIN, **SETTINGS, seed=seed)
    own = with_own_statistics(PromptLoss(network, segmenter.questions()), crops)
    network.context.load_state_dict(own.context.state_dict())
    return segmenter


def note(
    segmenter: Segmenter, training: list[Example], validation: list[Example], phases: Sequence[dict], about: dict
) -> dict:
    """What a weights file tells: data by hash, settings, Dice on validation images (mask alone, mean over images)."""
    digest = hashlib.sha256()
    for example in training:
        digest.update(example.image.numpy().tobytes())
    found = scores(segmenter, validation)
    dice = {f"{group}: {target}": round(float(np.mean(row["dice"])), 4) for (group, target), row in found.items()}
    counts = {name: sum(example.group == name for example in training) for name in {e.group for e in training}}
    told = {"name": "segmentation", "images": dict(sorted(counts.items())), "images_sha256": digest.hexdigest()}
    return told | {"settings": [SETTINGS | phase for phase in phases], "validation_dice": dice} | about


def noise(count: int = 12) -> list[Example]:
    """White noise of other sizes than the images: presence is calibrated on it too; some looks like tissue."""
    draw, sides = np.random.default_rng(2), np.linspace(64, 400, count).astype(int)
    arrays = [draw.normal(size=(side, side + 20)) for side in sides]
    return [Example(sets.as_input(array), {}, "others", name=f"noise {n}") for n, array in enumerate(arrays)]


def measured(segmenter: Segmenter, training: Sequence[Example], validation: Sequence[Example]) -> Segmenter:
    """The same network that refuses a lesion of which no pixel is sure, and says how often that goes wrong.

    The least probability is chosen on training images; what the caution says is counted on validation images.
    """
    training, validation = (tuple(e for e in one if e.group == ULTRASOUND) for one in (training, validation))
    name = sets.TARGETS[sets.PROMPTS.index(sets.LESION)].name
    segmenter = with_peak(segmenter, training, name)
    (target,) = (target for target in segmenter.targets if target.name == name)
    found = {True: [], False: []}
    for example in validation:
        found[example.has(target.words)].append(segmenter.ask(picture(example), name).found)
    here, healthy = found[True], found[False]
    caution = f"no diagnosis: of {len(here)} validation images with a lesion {here.count(False)} got no mask, "
    caution += f"of {len(healthy)} without one {healthy.count(True)} got one"
    return segmenter.with_target(replace(target, caution=caution))


def main(out: Path, seed: int = 0, minutes: float = MINUTES, start: Path | None = None) -> None:
    """Train, choose and calibrate on validation images, and write OUT.

    First with the statistics of the batches, then 40 % of the time with fixed ones and more draws of the weak groups,
    which after the second phase are others. From START, which may lack the two lowest scales, in one phase with fixed
    statistics; what the weights of START came from is kept in the note.
    """
    training, validation = sets.examples("train"), sets.examples("val")
    fabric, segmenter, history = launch(precision="bf16-mixed", threads=1), untrained(seed), []
    before, phases = {}, PHASES
    if start:
        begun, phases = Segmenter.load(start), FROM_START
        before = {"start": {"digest": begun.digest()} | {n: begun.note[n] for n in KEPT if n in begun.note}}
        segmenter = grown(begun, training, seed)
    for number, phase in enumerate(phases):
        where = {"checkpoint": out.with_suffix(f".checkpoint{number}"), "fabric": fabric, "seed": seed + number}
        where["seconds"] = 60 * minutes * phase["share"]
        settings = SETTINGS | {name: value for name, value in phase.items() if name != "share"}
        segmenter, rows = fit_segmenter(segmenter, training, validation, **settings | where)
        history.append({"steps": rows[-1]["step"], "seconds": rows[-1]["seconds"]})
    segmenter = measured(calibrated(segmenter, [*validation, *noise()]), training, validation)
    about = {"phases": history, "seed": seed, "minutes": minutes} | before
    print(segmenter.save(out, note(segmenter, training, validation, phases, about)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]), *map(float, sys.argv[3:4]), *map(Path, sys.argv[4:5]))
