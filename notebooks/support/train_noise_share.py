"""Trains the network of the package that tells noise from texture, in about an hour on one core, from the folder
notebooks: python -m support.train_noise_share OUT [STEPS].
"""

import sys
from pathlib import Path

import torch

from mptpn.networks import save_weights
from mptpn.networks.noise_share import NoiseShareNetwork
from mptpn.random import generator, seeded
from mptpn.training import loop
from support import datasets, noise_share_training

SETS = ("w2s", "oct", "ldct_d45f", "m4raw_t1")  # whose training images show what real noise is like
EXAMPLES = {"photographs": 1750, "blurred noise": 410, "scenes": 400, "real": 300}
HELD_OUT = 7  # of the examples each seventh is kept, to print how well its share is known


def main(out: str, steps: int = 9000) -> None:
    kept = Path(out) / "noise_share.examples.pt"
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.is_file():
        torch.save(gather(EXAMPLES), kept)
    examples = torch.load(kept)
    every = [one for own in examples.values() for one in own]
    known = [one for i, one in enumerate(every) if i % HELD_OUT]
    with seeded(0):
        network = NoiseShareNetwork().to(memory_format=torch.channels_last)
    noise_share_training.train(
        network, known, steps=steps, fabric=loop.launch(threads=1), checkpoint=Path(out) / "noise_share.checkpoint.pt"
    )
    held = [torch.stack(column) for column in zip(*every[::HELD_OUT], strict=True)]
    with torch.no_grad():
        error = (network.eval()(*held[:2]).sigmoid() - held[2]).abs()
    note = {
        "photos": "BSDS500 train and test, DIV2K 0801-0880",
        "real": f"crops of the noisy training images of {', '.join(SETS)}",
        "sha256_of_photos": datasets.sha256_of_photos("train"),
        "examples": {name: len(own) for name, own in examples.items()},
        "steps": steps,
        "seed": 0,
        "mean_absolute_error_held_out": float(error.mean()),
    }
    print(save_weights(Path(out) / "noise_share.safetensors", network, arguments={}, note=note), note)


def gather(numbers: dict[str, int]) -> dict[str, list]:
    """So many examples of each kind, see noise_share_training.example."""
    photos = [image.pixels for image in datasets.natural("train")]
    noisy = [pair.noisy.pixels for name in SETS for pair in datasets.pairs(name, "train")]
    random = generator(0, "noise-share examples")
    crops = {
        "photographs": lambda: noise_share_training.drawn(photos, random),
        "blurred noise": lambda: noise_share_training.drawn(photos, random, blurred=True),
        "scenes": lambda: noise_share_training.scene(random),
        "real": lambda: (noise_share_training.measured(noisy, random), None),
    }
    examples = {name: [] for name in numbers}
    for name, own in examples.items():
        while len(own) < numbers[name]:
            if (one := noise_share_training.example(*crops[name]())) is not None:
                own.append(one)
    return examples


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
