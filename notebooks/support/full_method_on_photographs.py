"""The full method on the standard test: noise learned from noisy photographs alone, put on other photographs, a student
from random weights, BSD68. From the folder notebooks:

python -m support.full_method_on_photographs OUT --steps 600                                      # CPU, a beginning
python -m support.full_method_on_photographs OUT --accelerator cuda --precision bf16-mixed --seconds 240 --images 478 --batch 32

Half of the photographs are seen noisy alone, once each, at 15, 25 or 50 gray levels of 255; the other half clean alone.
`learned` knows nothing of the noise; the supervised `upper_bound`, the same network for as many steps, has the true
noise models and levels, and clean versions of the noisy half in half of its pairs.
"""  # noqa: E501

import argparse
import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from mptpn.atomic import write_atomically
from mptpn.noise import PoissonGaussian
from mptpn.random import generator
from mptpn.stages import PairSynthesis, pipeline, synthesis
from mptpn.training import loop
from support import datasets
from support.photographs import white_copies
from support.pretraining import psnrs
from support.scores import paired_interval

LEVELS = (15, 25, 50)  # gray levels of 255


def main() -> None:
    """Trains both, prints the mean PSNR by level with the paired difference, and writes OUT/full_method.json."""
    given = read_arguments()
    pool, tests = datasets.natural("train"), datasets.awgn("bsd68")[: given.tests]
    chosen = [image.pixels for image in pool[:: max(1, len(pool) // given.images)]][: given.images]
    pairs, about = training_pairs(chosen[::2], chosen[1::2], batch=given.batch, patch=given.patch, seed=given.seed)
    fabric = loop.launch(accelerator=given.accelerator, precision=given.precision, threads=given.threads)
    budget = {"steps": given.steps, "seconds": given.seconds, "fabric": fabric, "ema": 0.99, "seed": given.seed}
    students = {
        name: pipeline.stage_3(one, title=name, network=pipeline.STUDENT, **budget).to(fabric.device)
        for name, one in pairs.items()
    }
    rows = [compare(students, tests, level=level, seed=given.seed) for level in LEVELS]
    settings = {name: value for name, value in vars(given).items() if name != "out" and value != math.inf}
    about = {"rows": rows, **about, **settings}
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out / "full_method.json", lambda path: path.write_text(json.dumps(about, indent=1)))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of each training")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=90, help="photographs, noisy and clean ones together")
    parser.add_argument("--tests", type=int, default=68, help="test images")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def training_pairs(
    hidden: list[Tensor], photos: list[Tensor], *, batch: int, patch: int, seed: int
) -> tuple[dict[str, PairSynthesis], dict]:
    """Pairs of `learned` and of `upper_bound`, and how well the noise was learned.

    Args:
        hidden: photographs that `learned` sees noisy alone. photos: clean ones. Each [1, 1, H, W].
    """
    true = [PoissonGaussian(LEVELS[i % 3] / 255) for i in range(len(hidden))]
    streams = [generator(seed, "method check", i) for i in range(len(hidden))]
    drawn = zip(true, hidden, streams, strict=True)
    noisy = [model.sample(clean, generator=stream) for model, clean, stream in drawn]
    noise, middle = pipeline.estimate_set(noisy), torch.tensor(0.5)
    models = list(zip(noise.noise_models, true, strict=True))
    ratios = [float(model.variance(middle) / truth.variance(middle)) ** 0.5 for model, truth in models]
    print(f"{noise.whole}\nlevel found over the true one: {min(ratios):.3f} to {max(ratios):.3f}")
    settings = {"batch": batch, "patch": patch, "seed": seed}
    targets = [synthesis.target_statistics(y, noise_model=model) for y, model in zip(noisy, true, strict=True)]
    both = {"pairs_a": list(zip(noisy, hidden, strict=True)), "share_a": 0.5, "weight_a": 1.0, "levels": (1.0, 1.0)}
    learned = pipeline.stage_2(noisy, photos, noise=noise, **settings)
    pairs = {"learned": learned, "upper_bound": PairSynthesis(photos, targets, **both, **settings)}
    return pairs, {"level_ratios": ratios, "noise": noise.whole.kind}


def compare(students: dict[str, nn.Module], tests: list, *, level: int, seed: int) -> dict:
    """Mean PSNR of each student at one level, gray levels of 255, and the interval of their paired difference, dB."""
    clean = [image.pixels for image in tests]
    copies = white_copies(clean, level=level / 255, seed=seed, purpose=932)
    psnr = {name: psnrs(student, copies, clean) for name, student in students.items()}
    gaps = [a - b for a, b in zip(psnr["learned"], psnr["upper_bound"], strict=True)]
    mean, low, high = paired_interval(gaps, [image.name for image in tests])
    row = {"level": level, **{name: sum(values) / len(values) for name, values in psnr.items()}}
    row |= {"difference": mean, "low": low, "high": high}
    print({key: round(value, 3) for key, value in row.items()}, flush=True)
    return row


if __name__ == "__main__":
    main()
