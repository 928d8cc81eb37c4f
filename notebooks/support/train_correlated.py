"""Trains the network that is told the noise's correlation, from `small`, in about 65 minutes of one core;
from the folder notebooks: python -m support.train_correlated OUT [STEPS].
"""

import json
import sys
from pathlib import Path

from torch import nn

from mptpn.networks import RetractableTransformer, load, save_weights
from mptpn.random import seeded
from mptpn.training import loop
from support import correlated_photographs, datasets, timing
from support.correlated_photographs import CorrelatedPhotographs

DESCRIBED = 64  # features of the description of the noise
BATCH, PATCH, RATE, EMA = 4, 96, 6e-4, 0.999


def told_network() -> RetractableTransformer:
    """`small` with a description of the noise, which changes nothing yet."""
    white = load("small")
    network = RetractableTransformer(**white.arguments, described=DESCRIBED)
    missing, unexpected = network.load_state_dict(white.state_dict(), strict=False)
    assert not unexpected and all("modulation" in name or "description" in name for name in missing)
    return network


def main(out: str, steps: int = 8000) -> None:
    photos = {split: [image.pixels for image in datasets.natural(split)] for split in ("train", "val")}
    large = [x for x in photos["train"] if min(x.shape[2:]) >= PATCH]
    pairs = CorrelatedPhotographs(large, batch=BATCH, patch=PATCH)
    validation = [CorrelatedPhotographs(photos["val"], batch=BATCH, patch=PATCH, seed=1)(i) for i in range(16)]

    def watch(module: nn.Module) -> dict[str, float]:
        return {"val": sum(float(correlated_photographs.loss(module, batch)) for batch in validation) / 16}

    with seeded(0):
        network = told_network().train()
    history = loop.fit(
        network,
        loss=correlated_photographs.loss,
        batches=pairs,
        steps=steps,
        lr=RATE,
        ema=EMA,
        fabric=loop.launch(threads=1, precision="bf16-mixed"),
        checkpoint=Path(out) / "correlated.checkpoint.pt",
        checkpoint_seconds=120,
        watch=watch,
        watch_seconds=300,
        title="correlated",
    )
    note = {
        "photos": "BSDS500 train and test, DIV2K 0801-0880; validated on DIV2K 0881-0890",
        "sha256_of_photos": datasets.sha256_of_photos("train"),
        "steps": steps,
        "seed": 0,
        "machine": timing.machine("cpu"),
        "history": [row for row in history if "val" in row],
    }
    given = {"arguments": network.arguments, "note": note, "white_noise": True, "half": True}
    print(save_weights(Path(out) / "correlated.safetensors", network, **given))
    print(json.dumps(note["history"]))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
