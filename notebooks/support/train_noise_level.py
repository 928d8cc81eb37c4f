"""Trains the noise-level network of the package in about 15 minutes on one core, from the folder notebooks:
python -m support.train_noise_level OUT [STEPS].
"""

import sys
from pathlib import Path

from mptpn.networks import NoiseLevelNetwork, save_weights
from mptpn.random import seeded
from mptpn.training import loop
from support import datasets, noise_level_training


def main(out: str, steps: int = 7000) -> None:
    photos = {split: [image.pixels for image in datasets.natural(split)] for split in ("train", "val")}
    fabric = loop.launch(threads=1)
    with seeded(0):
        network = NoiseLevelNetwork()
    noise_level_training.train(
        network, photos["train"], steps=steps, fabric=fabric, checkpoint=Path(out) / "noise_level.checkpoint.pt"
    )
    calibration = noise_level_training.calibrate(network.eval(), photos["val"])
    note = {
        "photos": "BSDS500 train and test, DIV2K 0801-0880; calibrated on DIV2K 0881-0890",
        "sha256_of_photos": datasets.sha256_of_photos("train", "val"),
        "steps": steps,
        "seed": 0,
    }
    print(
        save_weights(Path(out) / "noise_level.safetensors", network, arguments={}, note=note | calibration), calibration
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
