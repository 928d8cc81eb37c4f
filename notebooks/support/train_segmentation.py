"""Trains the package's segmentation network on one core: python -m support.train_segmentation OUT [SEED]."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch

from mptpn.networks import SegmentationNetwork
from mptpn.segmentation import Example, Segmenter, fit_segmenter
from mptpn.segmentation.calibration import scores
from mptpn.training import launch
from support import segmentation_sets as sets

SETTINGS = {"batch": 8, "side": 128}
SECOND = {"monuseg": 3.0, "dsb fluorescence": 0.8, "dsb stained": 1.0, "retina": 1.2, "em": 2.0}
SECOND |= {"ultrasound": 3.0, "white cells": 3.0, "others": 0.5}
PHASES = (
    {"seconds": 3000.0, "lr": 2e-3, "ema": 0.998, "weights": sets.WEIGHTS},
    {"seconds": 1080.0, "lr": 1.2e-3, "ema": 0.99, "weights": SECOND, "fixed_statistics": True},
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


def main(out: Path, seed: int = 0) -> None:
    """Train, choose and calibrate on validation images, and write OUT.

    First 50 minutes with the statistics of the batches, then 18 with fixed ones and more draws of the weak groups.
    """
    training, validation = sets.examples("train"), sets.examples("val")
    fabric, segmenter, history = launch(precision="bf16-mixed", threads=1), untrained(seed), []
    for number, phase in enumerate(PHASES):
        where = {"checkpoint": out.with_suffix(f".checkpoint{number}"), "fabric": fabric, "seed": seed + number}
        segmenter, rows = fit_segmenter(segmenter, training, validation, **SETTINGS | phase | where)
        history.append({"steps": rows[-1]["step"], "seconds": rows[-1]["seconds"]})
    print(segmenter.save(out, note(segmenter, training, validation, {"phases": history, "seed": seed})))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:3]))
