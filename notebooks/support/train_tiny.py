"""Trains `tiny`, a student of `base` for previews, on one core;
from the folder notebooks: python -m support.train_tiny OUT [MINUTES [START]].

START, the weights file of an earlier training, is trained on: other draws, and the rate falls once more, from AGAIN.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch

from mptpn.networks import RetractableTransformer, load, load_weights, save_weights
from mptpn.random import seeded
from mptpn.stages import profound
from mptpn.training import loop
from support import datasets, timing
from support.distillation import SIDE, DistilledPhotographs, taught
from support.photographs import NoisyPhotographs, white_copies
from support.pretraining import mean_psnrs, psnrs

STUDENT = {"channels": 1, "widths": [32, 64], "intervals": [[8], [4]], "blocks": 2, "head_dim": 32, "unshuffle": 2}
STUDENT |= {"mlp_ratio": 2.0, "bias": "relative"}
BATCH, PATCH, EMA = 4, 96, 0.999  # as many pairs again are taught
RATE, AGAIN = 2e-3, 1e-3  # peaks of the learning rate, of new weights and of trained ones
LESSONS = 60  # batches of two squares that `base` denoises
STEPS, LEVELS = 1_000_000, (15, 25, 50)  # the clock ends the training; levels of the validation, gray levels of 255


def white_noise_scores(network: RetractableTransformer) -> dict[str, float]:
    """Mean PSNR of each test set and level, which no training and no choice has seen, {"bsd68_25": dB}."""
    found = {}
    for name in datasets.AWGN:
        clean = [image.pixels for image in datasets.awgn(name)]
        for level in LEVELS:
            noisy = white_copies(clean, level=level / 255, seed=0, purpose="comparison noise")
            found[f"{name}_{level}"] = round(sum(psnrs(network, noisy, clean)) / len(clean), 3)
    return found


def main(out: str, minutes: float = 65.0, start: str | None = None) -> None:
    photos = {split: [image.pixels for image in datasets.natural(split)] for split in ("train", "val")}
    if start:
        network, earlier = load_weights(start, RetractableTransformer)
    else:
        with seeded(0):
            network, earlier = RetractableTransformer(**STUDENT), {}
    fabric = loop.launch(threads=1, precision="bf16-mixed")
    wide = NoisyPhotographs([x for x in photos["train"] if min(x.shape[2:]) >= SIDE], batch=2, patch=SIDE, seed=1)
    lessons = taught(wide, load("base"), count=LESSONS, path=Path(out) / "lessons.pt")
    seed = earlier.get("seed", 0) + 1 if start else 0
    large = [x for x in photos["train"] if min(x.shape[2:]) >= PATCH]
    fresh = NoisyPhotographs(large, batch=BATCH, patch=PATCH, seed=seed)
    copies = partial(white_copies, photos["val"], seed=0, purpose=911)
    noisy = {level: copies(level=level / 255) for level in LEVELS}
    network = network.requires_grad_().train().to(memory_format=torch.channels_last)
    history = loop.fit(
        network,
        loss=profound.loss,
        batches=DistilledPhotographs(fresh, lessons=lessons, seed=seed),
        steps=STEPS,
        lr=AGAIN if start else RATE,
        ema=EMA,
        seconds=60 * minutes,
        fabric=fabric,
        checkpoint=Path(out) / "tiny.checkpoint.pt",
        checkpoint_seconds=60,
        watch=partial(mean_psnrs, noisy=noisy, clean=photos["val"]),
        watch_seconds=900,
        title="tiny",
    )
    network.eval()
    note = {
        "psnr_db": white_noise_scores(network),
        "photos": "BSDS500 train and test, DIV2K 0801-0880; validated on DIV2K 0881-0890",
        "sha256_of_photos": datasets.sha256_of_photos("train"),
        "teacher": "base",
        "minutes": minutes + earlier.get("minutes", 0),
        "seed": seed,
        "machine": timing.machine("cpu"),
        "history": [*earlier.get("history", []), *(row for row in history if "val_25" in row)],
    }
    given = {"arguments": network.arguments, "note": note, "white_noise": True, "half": True}
    print(save_weights(Path(out) / "tiny.safetensors", network, **given))
    print(json.dumps(note["history"]))


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:3]), *sys.argv[3:])
