"""The full method on the standard test: noise learned from noisy photographs alone, put on other photographs, a student
from random weights, BSD68.

python reproduce/full_method_on_photographs.py OUT --steps 600                                     # CPU, a beginning
python reproduce/full_method_on_photographs.py OUT --accelerator cuda --precision bf16-mixed --seconds 240 --images 478
--batch 32

Half of the photographs are seen noisy alone, once each, at 15, 25 or 50 gray levels of 255; the other half clean alone.
`learned` is told nothing of the noise; the supervised `ceiling`, the same network for as many steps, has the true noise
models and levels, and clean versions of the noisy half in half of its pairs.
"""

import argparse
import json
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from mptpn import metrics
from mptpn.atomic import write_atomically  # noqa: E402
from mptpn.noise.models import PoissonGaussian  # noqa: E402
from mptpn.random import generator
from mptpn.stages import pipeline, profound, synthesis
from mptpn.training import loop
from support import datasets  # noqa: E402
from support.photographs import white_copies  # noqa: E402
from support.scores import paired_interval  # noqa: E402

LEVELS = (15, 25, 50)  # gray levels of 255


def main() -> None:
    """Trains both, prints the mean PSNR by level with the paired difference, and writes OUT/full_method.json."""
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
    given = parser.parse_args()
    pool, tests = datasets.natural("train"), datasets.awgn("bsd68")[: given.tests]
    chosen = [image.pixels for image in pool[:: max(1, len(pool) // given.images)]][: given.images]
    hidden, photos = chosen[::2], chosen[1::2]
    true = [PoissonGaussian(LEVELS[i % 3] / 255) for i in range(len(hidden))]
    noisy = [
        noise_model.sample(clean, generator=generator(given.seed, "method check", i))
        for i, (noise_model, clean) in enumerate(zip(true, hidden, strict=True))
    ]
    fabric = loop.launch(accelerator=given.accelerator, precision=given.precision, threads=given.threads)
    noise = pipeline.estimate_set(noisy)
    middle = torch.tensor(0.5)
    ratios = [
        float(noise_model.variance(middle) / told.variance(middle)) ** 0.5
        for noise_model, told in zip(noise.noise_models, true, strict=True)
    ]
    print(f"{noise.whole}\nlevel found over the true one: {min(ratios):.3f} to {max(ratios):.3f}")
    drawn = {"batch": given.batch, "patch": given.patch, "seed": given.seed}
    learned = pipeline.stage_2(noisy, photos, noise=noise, **drawn)
    targets = [
        synthesis.target_statistics(y, noise_model=noise_model) for y, noise_model in zip(noisy, true, strict=True)
    ]
    both = list(zip(noisy, hidden, strict=True))
    ceiling = synthesis.PairSynthesis(
        photos, targets, pairs_a=both, share_a=0.5, weight_a=1.0, levels=(1.0, 1.0), **drawn
    )
    common = {
        "steps": given.steps,
        "seconds": given.seconds,
        "fabric": fabric,
        "network": pipeline.STUDENT,
        "ema": 0.99,
        "seed": given.seed,
    }
    students = {
        name: pipeline.stage_3(pairs, title=name, **common)
        for name, pairs in {"learned": learned, "ceiling": ceiling}.items()
    }
    students = {name: student.to(fabric.device) for name, student in students.items()}
    rows = []
    for level in LEVELS:
        copies = white_copies([image.pixels for image in tests], level=level / 255, seed=given.seed, purpose=932)
        psnr = {}
        for name, student in students.items():
            with torch.no_grad():
                denoised = [profound.denoise(student, y.to(fabric.device)).cpu().clamp(0, 1) for y in copies]
            psnr[name] = [metrics.psnr_db(x, image.pixels) for x, image in zip(denoised, tests, strict=True)]
        gaps = [a - b for a, b in zip(psnr["learned"], psnr["ceiling"], strict=True)]
        mean, low, high = paired_interval(gaps, [image.name for image in tests])
        rows.append(
            {
                "level": level,
                **{name: sum(x) / len(x) for name, x in psnr.items()},
                "difference": mean,
                "low": low,
                "high": high,
            }
        )
        print({key: round(value, 3) for key, value in rows[-1].items()}, flush=True)
    settings = {name: value for name, value in vars(given).items() if name != "out" and value != math.inf}
    about = {"rows": rows, "level_ratios": ratios, "noise": noise.whole.kind, **settings}
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomically(given.out / "full_method.json", lambda path: path.write_text(json.dumps(about, indent=1)))


if __name__ == "__main__":
    main()
