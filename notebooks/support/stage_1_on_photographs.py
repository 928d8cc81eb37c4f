"""Stage 1 on the standard test: one blind-spot network learns from one noisy copy of each photograph, levels estimated,
and denoises BSD68.

python reproduce/stage_1_on_photographs.py OUT --accelerator cuda --precision bf16-mixed --seconds 420

Nothing clean is seen in training: each of the 478 photographs of the registry has one noisy copy at 15, 25 or 50 gray
levels of 255, and the levels of training and test images are those that the estimator finds in them.
"""

import argparse
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from mptpn import metrics
from mptpn.networks.blind_spot import BlindSpotNetwork  # noqa: E402
from mptpn.networks.weights import save_weights  # noqa: E402
from mptpn.noise.estimate import estimate_noise_model  # noqa: E402
from mptpn.noise.models import PoissonGaussian  # noqa: E402
from mptpn.random import generator
from mptpn.stages import preliminary
from mptpn.training import loop
from support import datasets  # noqa: E402
from support.photographs import white_copies  # noqa: E402

LEVELS = (15, 25, 50)  # gray levels of 255


def estimated(noisy: torch.Tensor) -> float:
    """Level of white noise that the estimator finds, in the image's unit."""
    torch.set_num_threads(1)
    return estimate_noise_model([noisy]).sigma


def denoised(
    network: BlindSpotNetwork, noisy: torch.Tensor, sigma: float, device: torch.device
) -> dict[str, torch.Tensor]:
    """Blind mean and posterior mean, on the CPU."""
    found = preliminary.denoise(network, noisy.to(device), noise_model=PoissonGaussian(sigma))
    return {"blind mean": found["mean"].cpu(), "posterior": found["denoised"].cpu()}


def main() -> None:
    """Trains, writes OUT/stage_1.safetensors and prints the mean PSNR by level."""
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
    given = parser.parse_args()
    photographs, tests = datasets.natural("train")[: given.images], datasets.awgn("bsd68")[: given.tests]
    noisy = [
        PoissonGaussian(LEVELS[i % 3] / 255).sample(x.pixels, generator=generator(0, "stage-1 check", i))
        for i, x in enumerate(photographs)
    ]
    test_noisy = {
        level: white_copies([x.pixels for x in tests], level=level / 255, seed=0, purpose=922) for level in LEVELS
    }
    with ProcessPoolExecutor(given.workers) as pool:
        found = list(pool.map(estimated, noisy, chunksize=4))
        test_found = {level: list(pool.map(estimated, images, chunksize=4)) for level, images in test_noisy.items()}
    fabric = loop.launch(accelerator=given.accelerator, precision=given.precision)
    torch.manual_seed(0)
    shape = {"width": given.width, "depth": given.depth, "local_means": (3, 5, 7, 11)}
    network = BlindSpotNetwork(**shape).to(memory_format=torch.channels_last)
    if given.compiled:
        network.compile(dynamic=False)
    noise_models = [PoissonGaussian(sigma) for sigma in found]
    settings = {
        "steps": given.steps,
        "seconds": given.seconds,
        "batch": given.batch,
        "patch": given.patch,
        "lr": given.lr,
        "ema": 0.999,
        "fabric": fabric,
    }
    history = preliminary.train(network, noisy, noise_models=noise_models, **settings)
    if given.compiled:
        network._compiled_call_impl = None  # the test images have sizes of their own
    network.eval()
    print(f"{history[-1]['step']} steps in {history[-1]['seconds']:.0f} s, loss {history[-1]['loss']:.4f}")
    rows = {}
    for level in LEVELS:
        with torch.no_grad():
            results = [
                denoised(network, y, sigma, fabric.device)
                for y, sigma in zip(test_noisy[level], test_found[level], strict=True)
            ]
        for what in ("blind mean", "posterior"):
            values = [metrics.psnr_db(r[what].clamp(0, 1), x.pixels) for r, x in zip(results, tests, strict=True)]
            rows[f"{what} {level}"] = round(sum(values) / len(values), 3)
    print(rows)
    save_weights(
        given.out / "stage_1.safetensors",
        network,
        arguments=shape,
        note={"psnr_db": rows, "steps": history[-1]["step"], "levels_gray": LEVELS},
    )


if __name__ == "__main__":
    main()
