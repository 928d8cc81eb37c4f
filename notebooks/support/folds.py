"""Networks without words in five folds of MoNuSeg at 224 px: python -m support.folds OUT.csv."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.metrics import dice
from mptpn.networks.segmentation import double
from mptpn.random import seeded
from mptpn.segmentation import Example
from support import prompt_scenes, text_worth_sets
from support.figures import WIDTH, write_table
from support.scores import paired_interval
from support.segmentation_scores import classic, picture
from support.text_worth import Job, counted, learn, network, numbers, overlap

OURS, BEFORE, UNET, CLASSIC = "repaired", "repaired, overview and linear patches", "U-Net", "classic"
STEPS = {UNET: 700, OURS: 200, BEFORE: 200}  # about a minute of one core each
TURNS = {"one orientation": 1, "eight orientations": 8}
COMPARED = ((OURS, BEFORE), (UNET, OURS), (OURS, CLASSIC), (UNET, CLASSIC))


class UNet(nn.Module):
    """A U-Net of four scales without a prompt (Ronneberger et al. 2015; widths 8, 16, 32, 64: 122 k parameters).

    It reads an image [B, 3, H, W], H and W multiples of 8, and gives the logits of its mask, [B, 1, H, W]. Text is
    taken and not read, so that `PromptLoss` trains it.
    """

    vectors = None

    def __init__(self, width: int = 8):
        super().__init__()
        widths = [width * 2**scale for scale in range(4)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nn.ModuleList(double(a, b) for a, b in [(3, width), *pairs])
        self.up = nn.ModuleList(double(below + skip, skip) for skip, below in reversed(pairs))
        self.logit = nn.Conv2d(width, 1, 1)

    def look(self, image: Tensor) -> None:
        """It judges no presence."""

    def forward(self, image: Tensor, text: Tensor | None = None, look: Tensor | None = None) -> Tensor:
        maps = [x := self.down[0](image)]
        for block in self.down[1:]:
            maps.append(x := block(F.max_pool2d(x, 2)))
        for block, skip in zip(self.up, reversed(maps[:-1]), strict=True):
            x = block(torch.cat([F.interpolate(x, size=skip.shape[2:], mode="bilinear"), skip], 1))
        return self.logit(x)


def untrained(name: str, seed: int) -> nn.Module:
    """A network by its name in STEPS, with weights drawn from the seed."""
    if name == UNET:
        with seeded(seed):
            return UNet()
    before = name == BEFORE
    return network(("nuclei",), seed, overview=before, linear_patches=before)


def drawn(count: int = 8) -> list[list[Example]]:
    """Drawn cells in two folds, asked for their nuclei without words."""
    cells = [prompt_scenes.drawn("cells", number, shape=(64, 64)) for number in range(count)]
    cells = [text_worth_sets.asked(e, (), e.masks[prompt_scenes.NUCLEI]) for e in cells]
    return [cells[::2], cells[1::2]]


def run(
    folds: Sequence[Sequence[Example]],
    path: Path,
    *,
    steps: dict[str, int],
    seed: int = 0,
    batch: int = 4,
    side: int = 128,
    tell: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Train each network once a fold on the others, and ask it for the images of the fold; nothing chooses a step.

    What the table of `path` holds is not done again.

    Args:
        folds: images with the one prompt (). steps: of each network. side: px of a crop.
    Returns:
        rows network, fold, seed, steps, batch, parameters, seconds (of the processor), orientations, image, dice.
    """
    table = pd.read_csv(path) if path.is_file() else _classic(folds)
    for fold, test in enumerate(folds):
        others = [replace(e, scales=(0.8, 1.3)) for f in folds if f is not test for e in f]
        for name, count in steps.items():
            done = (table.network == name) & (table.fold == fold) & (table.seed == seed) & (table.steps == count)
            if done.any():
                continue
            new = _fold(Job("fold", name, seed, count, batch), others, test, side)
            table = pd.concat([table, new.assign(fold=fold)], ignore_index=True)
            write_table(path, table)
            tell(f"{name}, fold {fold}: {new.groupby('orientations').dice.mean().round(3).to_dict()}")
    return table


def _classic(folds: Sequence[Sequence[Example]]) -> pd.DataFrame:
    """Stain unmixing and Otsu's threshold."""
    rows = [(n, e.name, dice(classic(picture(e)), e.masks[()][0, 0].numpy())) for n, f in enumerate(folds) for e in f]
    about = {"network": CLASSIC, "seed": 0, "steps": 0, "batch": 0, "parameters": 0, "seconds": 0.0}
    return pd.DataFrame(rows, columns=["fold", "image", "dice"]).assign(**about, orientations="one orientation")


def _fold(job: Job, training: Sequence[Example], test: Sequence[Example], side: int) -> pd.DataFrame:
    start, net = time.process_time(), untrained(job.variant, job.seed)
    without = net.vectors is None
    asked = torch.zeros(1, 1, 1) if without else numbers([()], net, 1)
    net = learn(net, training, [()], asked, job, side=side)
    seconds = round(time.process_time() - start, 1)
    text = asked if without else net.read(asked)
    rows = [
        (orientations, e.name, overlap(net, e, text, e.masks[()], turns=turns))
        for orientations, turns in TURNS.items()
        for e in test
    ]
    about = {"network": job.variant, "seed": job.seed, "steps": job.steps, "batch": job.batch, "seconds": seconds}
    return pd.DataFrame(rows, columns=["orientations", "image", "dice"]).assign(**about, parameters=counted(net))


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Paired over images, with 95 % intervals (bootstrap): rows comparison, difference, low, high, images."""
    wide, turned = (
        table[table.orientations == name].pivot_table(index="image", columns="network", values="dice") for name in TURNS
    )
    pairs = [(f"{a} - {b}", wide[a] - wide[b]) for a, b in COMPARED if {a, b} <= {*wide.columns}]
    pairs += [(f"{name}, eight orientations - one", turned[name] - wide[name]) for name in turned.columns]
    rows = [(name, *paired_interval(list(gap), list(gap.index)), len(gap)) for name, gap in pairs]
    return pd.DataFrame(rows, columns=["comparison", "difference", "low", "high", "images"])


def drawing(table: pd.DataFrame) -> Figure:
    """Dice of every image by network, one orientation, and the mean of each."""
    fig, ax = plt.subplots(figsize=(WIDTH, 2.6), layout="constrained")
    once = table[table.orientations == "one orientation"]
    names = list(once.network.unique())
    for at, name in enumerate(names):
        found = once[once.network == name]
        ax.plot(found.dice, at + 0.03 * (found.fold - found.fold.mean()), "o", color="0.6", ms=3)
        ax.plot(found.dice.mean(), at, "|", color="#d62728", ms=16, mew=2)
    ax.set(xlabel="Dice of an image that no training of its network saw; red: the mean", ylim=(len(names) - 0.5, -0.5))
    ax.set_yticks(range(len(names)), names)
    return fig


if __name__ == "__main__":
    print(differences(run(text_worth_sets.folds(), Path(sys.argv[1]), steps=STEPS)).round(3))
