"""Parts of the prompt network switched off or exchanged, and its pretraining, at equal steps.

python -m support.segmentation_ablations OUT.csv [STEPS]
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mptpn.networks import SegmentationNetwork
from mptpn.segmentation import Example
from mptpn.segmentation.pretraining import pretrain
from mptpn.training import launch
from support import datasets, denoise_then_segment, segmentation_sets, text_worth_sets
from support.figures import WIDTH, write_table
from support.scores import paired_interval
from support.text_worth import LENGTH, Job, counted, learn, network, numbers, overlap

REPAIRED, PUBLISHED, EQUAL = "repaired", "published", "repaired, as many parameters"
IMAGES, CAPTIONS = "pretrained on images", "pretrained on images and captions"
VARIANTS = {  # what differs from the network of the package; all at width 8 where nothing else stands
    REPAIRED: {},
    PUBLISHED: {"published": True},
    EQUAL: {"width": 27, "text_width": 48},
    IMAGES: {},
    CAPTIONS: {},
    "without fusion": {"fusion": False},
    "without gates": {"gates": False},
}
COMPARED = (*((name, REPAIRED) for name in VARIANTS if name != REPAIRED), (EQUAL, PUBLISHED), (CAPTIONS, IMAGES))
PRETRAINING = {"steps": 200, "batch": 8}  # squares of 96 px
PHOTOGRAPHS = 60
STEPS, BATCH = 100, 2  # whole images of a step
FOLDS = 3
KEYS = ["variant", "seed", "steps", "batch"]


def folds() -> list[list[Example]]:
    """The 30 MoNuSeg images at 224 x 224 px, as `published` needs them, in three folds, every third by name."""
    ordered = sorted((e for fold in text_worth_sets.folds() for e in fold), key=lambda example: example.name)
    ordered = [replace(e, masks={segmentation_sets.NUCLEI: e.masks[()]}) for e in ordered]
    return [ordered[fold::FOLDS] for fold in range(FOLDS)]


def drawn(count: int = 8) -> list[list[Example]]:
    """Drawn cells of 64 x 64 px in two folds."""
    cells = denoise_then_segment.drawn("train", count)
    return [cells[::2], cells[1::2]]


def untrained(variant: str, seed: int) -> SegmentationNetwork:
    """A network of VARIANTS that knows the word of the nuclei, with weights drawn from the seed."""
    settings = {"overview": False, "linear_patches": False} | VARIANTS[variant]
    return network(segmentation_sets.NUCLEI, seed, **settings)


def pretrained(net: SegmentationNetwork, *, captions: bool, seed: int) -> float:
    """Pretrain in place on photographs; the least spread of a scale at the end: 0 is a collapse, 1 none."""
    photographs = [image.array for image in datasets.natural("train", colour=True)[:PHOTOGRAPHS]]
    photographs = [segmentation_sets.as_input(np.asarray(a).squeeze()).float() for a in photographs]
    settings = {"captions": captions, "seed": seed, "fabric": launch(precision="bf16-mixed", threads=1)}
    last = pretrain(net, photographs, **PRETRAINING, **settings)[-1]
    return min(value for name, value in last.items() if name.startswith("spread"))


def run(
    groups: Sequence[Sequence[Example]],
    path: Path,
    *,
    variants: Sequence[str] = tuple(VARIANTS),
    steps: int = STEPS,
    batch: int = BATCH,
    tell: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Train every variant once a fold on the others, and ask it for the images of the fold; nothing chooses a step.

    The number of the fold is the seed of weights and batches. What the table of `path` holds is not done again.

    Args:
        groups: folds of square images of one size. steps, batch: of a training; a crop is a whole image.
    Returns:
        rows variant, seed, steps, batch, parameters, seconds (of the processor, with pretraining), spread, image, dice.
    """
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=KEYS)
    done = set(table[KEYS].itertuples(index=False, name=None))
    for variant in variants:
        for seed, test in enumerate(groups):
            others = [e for group in groups if group is not test for e in group]
            job = Job("ablation", variant, seed, steps, batch)
            if job.key[1:] in done:
                continue
            new = _trained(job, others, test)
            table = pd.concat([table, new], ignore_index=True) if len(table) else new
            write_table(path, table)
            tell(f"{variant}, seed {seed}: {new.dice.mean():.3f}, {new.seconds.iloc[0]:.0f} s")
    return table


def _trained(job: Job, training: Sequence[Example], test: Sequence[Example]) -> pd.DataFrame:
    start, net, spread = time.process_time(), untrained(job.variant, job.seed), np.nan
    if job.variant in (IMAGES, CAPTIONS):
        spread = pretrained(net, captions=job.variant == CAPTIONS, seed=job.seed)
    prompt = segmentation_sets.NUCLEI
    asked = numbers([prompt], net, LENGTH)
    net = learn(net, training, [prompt], asked, job, side=training[0].image.shape[2])
    about = dict(zip(KEYS, job.key[1:], strict=True)) | {"parameters": counted(net), "spread": spread}
    about["seconds"] = round(time.process_time() - start, 1)
    text = net.read(asked)
    rows = [(e.name, overlap(net, e, text, e.masks[prompt])) for e in test]
    return pd.DataFrame(rows, columns=["image", "dice"]).assign(**about)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Paired over images, with 95 % intervals (bootstrap over images).

    Rows comparison, difference, low, high, least_seed, most_seed (differences of single folds, each with its seed),
    images, seeds.
    """
    rows = []
    for one, other in COMPARED:
        pair = [table[table.variant == name].set_index(["image", "seed"]).dice for name in (one, other)]
        gap = (pair[0] - pair[1]).dropna().rename("gap").reset_index()
        if gap.empty:
            continue
        mean, low, high = paired_interval(list(gap.gap), list(gap.image))
        by_seed = gap.groupby("seed").gap.mean()
        row = {"comparison": f"{one} - {other}", "difference": mean, "low": low, "high": high}
        row |= {"least_seed": by_seed.min(), "most_seed": by_seed.max()}
        rows.append(row | {"images": gap.image.nunique(), "seeds": gap.seed.nunique()})
    return pd.DataFrame(rows)


def drawing(found: pd.DataFrame) -> Figure:
    """Every difference with its interval, and the range of single seeds as a thin line; 0 is no difference."""
    fig, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.3 * len(found)), layout="constrained")
    for at, row in enumerate(found.itertuples()):
        colour = "black" if row.low > 0 or row.high < 0 else "0.6"
        ax.plot([row.low, row.high], [at, at], color=colour, lw=3, alpha=0.5)
        ax.plot([row.least_seed, row.most_seed], [at, at], color=colour, lw=0.8)
        ax.plot(row.difference, at, "o", color=colour, ms=4)
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="difference of Dice; thick: 95 % interval over images; thin: single seeds", ylim=(len(found), -1))
    ax.set_yticks(range(len(found)), found.comparison)
    return fig


if __name__ == "__main__":
    budget = int(sys.argv[2]) if len(sys.argv) > 2 else STEPS
    print(differences(run(folds(), Path(sys.argv[1]), steps=budget)).round(3))
