"""Trains the package's segmentation network on one core: python -m support.train_segmentation OUT [SEED [MINUTES]]."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mptpn.networks import SegmentationNetwork
from mptpn.segmentation import Example, Segmenter, fit_segmenter
from mptpn.segmentation.calibration import calibrated, scores, with_peak
from mptpn.training import launch
from support import segmentation_sets as sets
from support.segmentation_scores import picture

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


def untrained(seed: int) -> Segmenter:
    """The network with weights drawn from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Segmenter(SegmentationNetwork(sets.WORDS), sets.TARGETS)


def note(segmenter: Segmenter, training: list[Example], validation: list[Example], about: dict) -> dict:
    """What a weights file tells: data by hash, settings, Dice on validation images (mask alone, mean over images)."""
    digest = hashlib.sha256()
    for example in training:
        digest.update(example.image.numpy().tobytes())
    found = scores(segmenter, validation)
    dice = {f"{group}: {target}": round(float(np.mean(row["dice"])), 4) for (group, target), row in found.items()}
    counts = {name: sum(example.group == name for example in training) for name in {e.group for e in training}}
    told = {"name": "segmentation", "images": dict(sorted(counts.items())), "images_sha256": digest.hexdigest()}
    return told | {"settings": [SETTINGS | phase for phase in PHASES], "validation_dice": dice} | about


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


def main(out: Path, seed: int = 0, minutes: float = MINUTES) -> None:
    """Train, choose and calibrate on validation images, and write OUT.

    First with the statistics of the batches, then 40 % of the time with fixed ones and more draws of the weak groups,
    which after the second phase are others.
    """
    training, validation = sets.examples("train"), sets.examples("val")
    fabric, segmenter, history = launch(precision="bf16-mixed", threads=1), untrained(seed), []
    for number, phase in enumerate(PHASES):
        where = {"checkpoint": out.with_suffix(f".checkpoint{number}"), "fabric": fabric, "seed": seed + number}
        where["seconds"] = 60 * minutes * phase["share"]
        settings = SETTINGS | {name: value for name, value in phase.items() if name != "share"}
        segmenter, rows = fit_segmenter(segmenter, training, validation, **settings | where)
        history.append({"steps": rows[-1]["step"], "seconds": rows[-1]["seconds"]})
    segmenter = measured(calibrated(segmenter, [*validation, *noise()]), training, validation)
    about = {"phases": history, "seed": seed, "minutes": minutes}
    print(segmenter.save(out, note(segmenter, training, validation, about)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]), *map(float, sys.argv[3:4]))
