"""Denoise, then segment: what noise costs a mask, and what a cure gives back.

python -m support.denoise_then_segment OUT.csv
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from mptpn.filters import turned
from mptpn.segmentation import Crops, Example, Segmenter
from mptpn.segmentation.training import PromptLoss, with_own_statistics
from mptpn.training import fit, launch
from support import prompt_scenes, segmentation_sets
from support.figures import WIDTH, write_table
from support.folds import UNET, untrained
from support.scores import paired_interval
from support.segmentation_scores import classic, denoise_first, picture

Segment = Callable[[np.ndarray], np.ndarray]  # [H, W, 3], 0..1 -> [H, W], bool
CLEAN, NOISY, CLASSIC = "U-Net, trained clean", "U-Net, trained noisy", "classic"
BOX, ALONE = "mptpn segment", "mptpn segment, nothing refused"
NETWORKS = (BOX, ALONE, CLEAN)
FIXED = (*NETWORKS, CLASSIC)  # segmenters that were not made for these levels of noise
OURS, NOTHING, ALL = "mptpn denoise", "noisy", "all"
CURES = (NOTHING, "blur 1 px", "blur 2 px", "NLM", OURS, "clean")
SIGMAS = (25, 50)  # gray levels of 255
COLOURS = dict(zip(CURES, ("#8c8c8c", "#c4a000", "#8c564b", "#17becf", "#d62728", "#2ca02c"), strict=True))


class NuclearCrops(Crops):
    """Crops asked for their nuclei, turned and exposed in other ways, with white noise of one of `sigmas`.

    Otherwise than `Crops`, which adds some noise to three crops in ten, sigmas = (0,) adds nothing.

    Args:
        examples, settings: see Crops.
        sigmas: standard deviations of the noise, gray levels of 255; each crop has one of them.
    """

    def __init__(self, examples: Sequence[Example], *, sigmas: Sequence[float], **settings):
        super().__init__(examples, prompts=[segmentation_sets.NUCLEI], absent=0, **settings)
        self.sigmas = sigmas

    def _draw(self, draw: torch.Generator) -> dict[str, Tensor]:
        group = self.groups[int(torch.multinomial(self.shares, 1, generator=draw))]
        number, turn, level = (int(torch.randint(n, (1,), generator=draw)) for n in (len(group), 8, len(self.sigmas)))
        example = group[number]
        image, mask = self._crop(example, example.masks[segmentation_sets.NUCLEI].float(), draw)
        gray = bool((image[:, 0] - image[:, 1]).abs().max() < 1e-3)
        gain = 0.85 + 0.3 * torch.rand((1, 1 if gray else 3, 1, 1), generator=draw)
        noise = torch.randn((1, 1 if gray else 3, *image.shape[2:]), generator=draw)
        image = turned(image, turn) * gain + self.sigmas[level] / 255 * noise
        one = {"reduced": image[0], "asked": torch.tensor(0), "present": torch.ones(1)}
        return {"image": image[0], "mask": turned(mask, turn)[0]} | one


def nuclei(split: str) -> list[Example]:
    """Nuclei of MoNuSeg and DSB 2018 in their own size: 24 and 44 images train, 6 and 16 validate."""
    return [*segmentation_sets.monuseg(split), *segmentation_sets.dsb(split)]


def drawn(split: str, count: int) -> list[Example]:
    """Drawn cells, 64 x 64 px."""
    cells = [prompt_scenes.drawn("cells", number, split=split, shape=(64, 64)) for number in range(count)]
    return [replace(e, masks={segmentation_sets.NUCLEI: e.masks[prompt_scenes.NUCLEI]}) for e in cells]


def trained(
    examples: Sequence[Example], *, sigmas: Sequence[float], seed: int, steps: int, side: int, path: Path
) -> nn.Module:
    """The U-Net of notebook 14, trained on noise of these levels; the file of `path` is read where there is one."""
    net = untrained(UNET, seed)
    if path.is_file():
        net.load_state_dict(torch.load(path, weights_only=True))
        return net.eval()
    weights = {name: segmentation_sets.WEIGHTS.get(name, 1.0) for name in {e.group for e in examples}}
    crops = NuclearCrops(examples, sigmas=sigmas, weights=weights, batch=4, side=side, seed=seed)
    module, kept = PromptLoss(net.to(memory_format=torch.channels_last), torch.zeros(1, 1, 1)).train(), []

    def watch(averaged: PromptLoss) -> dict:
        kept[:] = [with_own_statistics(averaged, crops)]
        return {}

    settings = {"steps": steps, "lr": 4e-3, "ema": 0.95, "watch": watch, "watch_seconds": 1e9, "title": path.stem}
    fabric = launch(precision="bf16-mixed", threads=1)
    fit(module, loss=lambda learner, data, _: learner(**data), batches=crops, fabric=fabric, **settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(kept[0].float().state_dict(), path)
    return kept[0].float().eval()


def u_nets(
    examples: Sequence[Example], folder: Path, *, seeds: int, steps: int, side: int
) -> dict[tuple[str, int], Segment]:
    """Two U-Nets a seed, which differ in the noise of their training alone: (name, seed) -> mask of an image.

    Each is two networks, one for gray images and one for coloured ones: with both in a batch, the statistics of batch
    normalisation are those of neither.
    """
    kinds, found = {}, {}
    for example in examples:
        kinds.setdefault(segmentation_sets.is_gray(picture(example)), []).append(replace(example, scales=(0.8, 1.3)))
    for seed in range(seeds):
        for name, sigmas in {CLEAN: (0,), NOISY: SIGMAS}.items():
            nets = {}
            for gray, images in kinds.items():
                kind = "gray" if gray else "coloured"
                path = folder / f"{name.split()[-1]}_{kind}_{steps}_steps_seed_{seed}.pt"
                nets[gray] = trained(images, sigmas=sigmas, seed=seed, steps=steps, side=side, path=path)
            found[name, seed] = asked(nets)
    return found


def asked(nets: dict[bool, nn.Module]) -> Segment:
    """U-Nets for gray images (True) and coloured ones (False) as a segmenter of images of any size."""

    @torch.no_grad()
    def segment(image: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        height, width = tensor.shape[2:]
        padded = nn.functional.pad(tensor, (0, -width % 8, 0, -height % 8), mode="replicate")
        return (nets[segmentation_sets.is_gray(image)](padded)[0, 0, :height, :width] > 0).numpy()

    return segment


def box(weights: str = "segmentation") -> dict[tuple[str, int], Segment]:
    """The package's weights asked for nuclei: as `mptpn segment` answers, and the mask where nothing refuses."""
    segmenter = Segmenter.load(weights)
    (target,) = (target for target in segmenter.targets if target.words == segmentation_sets.NUCLEI)

    def alone(image: np.ndarray) -> np.ndarray:
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        return (segmenter.probability(tensor, target) >= target.threshold)[0, 0].numpy()

    return {(BOX, 0): lambda image: segmenter.ask(image, target.name).mask, (ALONE, 0): alone}


def run(
    segmenters: dict[tuple[str, int], Segment],
    examples: Sequence[Example],
    path: Path,
    *,
    sigmas: Sequence[int] = SIGMAS,
    tell: Callable[[str], object] = print,
) -> pd.DataFrame:
    """Noise, cure, segment: rows sigma, cure, segmenter, seed, set, image, dice.

    An image that the table of `path` holds is not done again.
    """
    segmenters = {(CLASSIC, 0): classic, **segmenters}
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    done = set(table.image) if len(table) else set()
    for number, example in enumerate(examples):
        if example.name in done:
            continue
        new = denoise_first(segmenters, [example], sigmas=sigmas, seed=number)
        new[["segmenter", "seed"]] = list(new.segmenter)
        table = pd.concat([table, new], ignore_index=True)
        write_table(path, table)
        tell(f"{example.group}, {example.name}: {new.groupby('cure').dice.mean().round(3).to_dict()}")
    return table


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Paired over images with 95 % intervals (bootstrap, an image with all its seeds), of all images and of each set.

    Rows set, sigma, segmenter, comparison, difference, low, high, images, seeds: ours over every other cure, and the
    network that was trained noisy and asked without a cure over those that were trained clean and see ours.
    """
    rows = []
    for name in (ALL, *table["set"].unique()):
        part = table if name == ALL else table[table["set"] == name]
        for sigma in table.sigma.unique():
            rows += [{"set": name, "sigma": sigma} | row for row in _of_level(part[part.sigma == sigma])]
    return pd.DataFrame(rows)


def _of_level(table: pd.DataFrame) -> list[dict]:
    """The comparisons within one set at one level of noise."""
    mean, names = table.groupby(["segmenter", "cure", "seed", "image"]).dice.mean(), list(table.segmenter.unique())
    rows = []
    for segmenter in names:
        for cure in CURES:
            if cure != OURS:
                rows.append(_paired(segmenter, f"{OURS} - {cure}", mean[segmenter, OURS], mean[segmenter, cure]))
    for segmenter in (fixed for fixed in FIXED if fixed in names):
        rows.append(_paired(NOISY, f"no cure - {segmenter} with {OURS}", mean[NOISY, NOTHING], mean[segmenter, OURS]))
    return rows


def _paired(segmenter: str, comparison: str, one: pd.Series, other: pd.Series) -> dict:
    """One row; a segmenter without seeds stands beside every seed of the other."""
    if one.index.get_level_values("seed").nunique() != other.index.get_level_values("seed").nunique():
        one, other = (x.groupby("image").mean() for x in (one, other))
    gap = (one - other).dropna().rename("gap").reset_index()
    mean, low, high = paired_interval(list(gap.gap), list(gap.image))
    row = {"segmenter": segmenter, "comparison": comparison, "difference": mean, "low": low}
    seeds = gap.seed.nunique() if "seed" in gap else 1
    return row | {"high": high, "images": gap.image.nunique(), "seeds": seeds}


def together(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Masks and differences in one table, with a column `kind`."""
    return pd.concat([found.assign(kind="difference"), table.assign(kind="mask")], ignore_index=True)


def drawing(table: pd.DataFrame) -> Figure:
    """Mean Dice of every segmenter after every cure, a panel a level of noise."""
    sigmas, names = list(table.sigma.unique()), list(table.segmenter.unique())
    fig, axes = plt.subplots(1, len(sigmas), figsize=(WIDTH, 2.9), sharey=True, squeeze=False, layout="constrained")
    for ax, sigma in zip(axes[0], sigmas, strict=True):
        for cure in CURES:
            found = table[(table.sigma == sigma) & (table.cure == cure)].groupby("segmenter").dice.mean()
            mark = "|" if cure == "clean" else "o"
            ax.plot(found[names], range(len(names)), mark, color=COLOURS[cure], ms=6, label=cure)
        ax.set(xlabel="Dice, mean over images", title=f"noise of sigma {sigma} of 255", ylim=(len(names) - 0.5, -0.5))
        ax.grid(axis="y", color="0.9")
    axes[0][0].set_yticks(range(len(names)), names)
    fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=len(CURES), frameon=False)
    return fig


if __name__ == "__main__":
    place = Path(sys.argv[1])
    both = box() | u_nets(nuclei("train"), place.parent, seeds=3, steps=450, side=128)
    print(differences(run(both, nuclei("val"), place)).round(3))
