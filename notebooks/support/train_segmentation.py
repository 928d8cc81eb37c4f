"""Trains the package's segmentation network on one core: python -m support.train_segmentation OUT [SECONDS] [SEED]."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch

from mptpn.networks import SegmentationNetwork
from mptpn.segmentation import Example, Segmenter, fit_segmenter
from mptpn.segmentation.training import scores
from mptpn.training import launch
from support import segmentation_sets as sets

SETTINGS = {"lr": 2e-3, "ema": 0.998, "batch": 8, "side": 128}


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
    return told | {"settings": SETTINGS, "weights_of_groups": sets.WEIGHTS, "validation_dice": dice} | about


def main(out: Path, seconds: float = 3000.0, seed: int = 0) -> None:
    """Train, choose and calibrate on validation images, and write OUT."""
    training, validation = sets.examples("train"), sets.examples("val")
    fabric = launch(precision="bf16-mixed", threads=1)
    start, where = untrained(seed), {"fabric": fabric, "checkpoint": out.with_suffix(".checkpoint")}
    settings = SETTINGS | where | {"seconds": seconds, "seed": seed, "weights": sets.WEIGHTS}
    segmenter, history = fit_segmenter(start, training, validation, **settings)
    about = {"steps": history[-1]["step"], "seconds": history[-1]["seconds"], "seed": seed}
    print(segmenter.save(out, note(segmenter, training, validation, about)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(float, sys.argv[2:3]), *map(int, sys.argv[3:4]))
