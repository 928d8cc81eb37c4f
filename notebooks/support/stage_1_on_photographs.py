"""Stage 1 on the standard test: one blind-spot network learns from one noisy copy of each photograph, levels estimated,
and denoises BSD68. From the folder notebooks:

python -m support.stage_1_on_photographs OUT --accelerator cuda --precision bf16-mixed --seconds 420

Nothing clean is seen in training: each of the 478 photographs of the registry has one noisy copy at 15, 25 or 50 gray
levels of 255, and the levels of training and test images are those that the estimator finds in them.
"""

import argparse
import math
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import Tensor

from mptpn import metrics
from mptpn.networks import BlindSpotNetwork, save_weights
from mptpn.noise import PoissonGaussian, estimate_noise_model
from mptpn.random import generator, seeded
from mptpn.stages import preliminary
from mptpn.training import loop
from support import datasets
from support.photographs import white_copies

LEVELS = (15, 25, 50)  # gray levels of 255


def main() -> None:
    """Trains, writes OUT/stage_1.safetensors and prints the mean PSNR by level."""
    given = read_arguments()
    photographs, tests = datasets.natural("train")[: given.images], datasets.awgn("bsd68")[: given.tests]
    noisy = [
        PoissonGaussian(LEVELS[i % 3] / 255).sample(image.pixels, generator=generator(0, "stage-1 check", i))
        for i, image in enumerate(photographs)
    ]
    clean = [image.pixels for image in tests]
    copies = {level: white_copies(clean, level=level / 255, seed=0, purpose=922) for level in LEVELS}
    with ProcessPoolExecutor(given.workers) as pool:
        found = list(pool.map(estimated, noisy, chunksize=4))
        found_in_tests = {level: list(pool.map(estimated, images, chunksize=4)) for level, images in copies.items()}
    fabric = loop.launch(accelerator=given.accelerator, precision=given.precision)
    network, last = train(given, noisy, found, fabric=fabric)
    rows = {}
    for level in LEVELS:
        results = denoise(network, copies[level], found_in_tests[level], device=fabric.device)
        for name, images in results.items():
            values = [metrics.psnr_db(x.clamp(0, 1), y) for x, y in zip(images, clean, strict=True)]
            rows[f"{name} {level}"] = round(sum(values) / len(values), 3)
    print(rows)
    note = {"psnr_db": rows, "steps": last["step"], "levels_gray": LEVELS}
    arguments = {"width": given.width, "depth": given.depth, "local_means": (3, 5, 7, 11)}
    save_weights(given.out / "stage_1.safetensors", network, arguments=arguments, note=note)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--workers", type=int, default=2, help="processes that estimate levels")
    parser.add_argument("--images", type=int, default=478, help="photographs")
    parser.add_argument("--tests", type=int, default=68, help="test images")
    parser.add_argument("--compiled", action="store_true")
    return parser.parse_args()


def estimated(noisy: Tensor) -> float:
    """Level of white noise that the estimator finds, in the image's unit."""
    torch.set_num_threads(1)
    return estimate_noise_model([noisy]).sigma


def train(
    given: argparse.Namespace, noisy: list[Tensor], levels: list[float], *, fabric: Fabric
) -> tuple[BlindSpotNetwork, dict]:
    """A blind-spot network in eval mode, and the last row of its history."""
    with seeded(0):
        network = BlindSpotNetwork(width=given.width, depth=given.depth, local_means=(3, 5, 7, 11))
    network = network.to(memory_format=torch.channels_last)
    if given.compiled:
        network.compile(dynamic=False)
    settings = {name: getattr(given, name) for name in ("steps", "seconds", "batch", "patch", "lr")}
    models = [PoissonGaussian(sigma) for sigma in levels]
    last = preliminary.train(network, noisy, noise_models=models, ema=0.999, fabric=fabric, **settings)[-1]
    if given.compiled:
        network._compiled_call_impl = None  # the test images have sizes of their own
    print(f"{last['step']} steps in {last['seconds']:.0f} s, loss {last['loss']:.4f}")
    return network.eval(), last


@torch.no_grad()
def denoise(
    network: BlindSpotNetwork, noisy: list[Tensor], levels: list[float], *, device: torch.device
) -> dict[str, list[Tensor]]:
    """Blind means and posterior means, on the CPU."""
    results = [
        preliminary.denoise(network, image.to(device), noise_model=PoissonGaussian(sigma))
        for image, sigma in zip(noisy, levels, strict=True)
    ]
    keys = {"blind mean": "mean", "posterior": "denoised"}
    return {name: [result[key].cpu() for result in results] for name, key in keys.items()}


if __name__ == "__main__":
    main()
