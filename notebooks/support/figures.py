"""One look for every figure, and one way to write it: picture, numbers, and where they come from."""

import ast
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mptpn.atomic import write_atomically

COLOURS = {  # of every method, in all notebooks
    "noisy": "#8c8c8c",
    "Gaussian, oracle": "#c4a000",
    "TV, oracle": "#8c564b",
    "NLM": "#17becf",
    "BM3D": "#c5b0d5",
    "BM3D, spectrum": "#9467bd",
    "BM3D, known sigma": "#9467bd",
    "BM3D, estimated": "#c5b0d5",
    "small": "#ffbb78",
    "base": "#9ecae1",
    "small, pretrained": "#ffbb78",
    "small, estimated": "#e6550d",
    "base, estimated": "#08519c",
    "Noise2Void": "#bcbd22",
    "stage 1": "#1f77b4",
    "stage 1, blind spot of 1 px": "#6baed6",
    "generic": "#ff7f0e",
    "first network 1": "#e7969c",
    "first network 2": "#d6616b",
    "learned": "#d62728",
    "learned + A": "#ff9896",
    "stage 3": "#d62728",
    "supervised upper bound": "#2ca02c",
    "supervised ceiling": "#2ca02c",
    "bicubic": "#8c8c8c",
    "ours": "#d62728",
    "eight orientations": "#ff9896",
}
SETS = {  # names for people
    "w2s": "fluorescence (W2S)",
    "oct": "OCT, retina",
    "ldct_d45f": "CT, sharp kernel",
    "ldct_b30f": "CT, smooth kernel",
    "m4raw_t1": "MR, T1 (M4Raw)",
    "embedded": "embedded images",
    "ER_cells": "cells",
}
WIDTH = 8.3  # inches: 830 px at 100 dpi
DPI = 150


def look() -> None:
    """Set the one look: seaborn's ticks, small sans-serif type, images in gray."""
    spines = {"axes.spines.top": False, "axes.spines.right": False}
    style = {"figure.dpi": 100, "savefig.dpi": DPI, "image.cmap": "gray", **spines}
    seaborn.set_theme(context="paper", style="ticks", rc=style)


def parameters(notebook: str, values: dict) -> dict:
    """The notebook's parameters, by the names in its cell tagged `parameters`; values: its globals()."""
    book = json.loads((Path(__file__).parents[1] / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    (cell,) = [cell for cell in book["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    return {line.target.id: values[line.target.id] for line in ast.parse("".join(cell["source"])).body}


def show(axes: Axes, image, *, title: str = "", low: float = 0.0, high: float = 1.0, cmap: str = "gray"):
    """Draw an image [1, C, H, W], [C, H, W], [H, W] or [H, W, 3] without axes over the range; returns the mappable."""
    array = np.asarray(image.detach() if isinstance(image, torch.Tensor) else image).squeeze()
    if array.ndim == 3:  # colour is not scaled by Matplotlib
        array = ((np.moveaxis(array, 0, -1) if array.shape[0] == 3 else array) - low) / (high - low)
        array = array.clip(0, 1)
    drawn = axes.imshow(array, vmin=low, vmax=high, cmap=cmap, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()
    return drawn


def level_axis(axes: Axes, axis: str = "x", *, ticks: tuple[int, ...] = (5, 10, 20, 50)) -> None:
    """Logarithmic axis, "x" or "y", with plain numbers on it, such as noise levels in gray levels of 255."""
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}ticks")(ticks, labels=[str(tick) for tick in ticks])
    getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as csv; an older file survives a failed write."""
    write_atomically(path, lambda part: table.to_csv(part, index=False))


def save_figure(
    figure: Figure, name: str, *, table: pd.DataFrame, notebook: str, parameters: dict, out: str | Path
) -> Path:
    """Write NAME.png, NAME.csv (the figure's numbers) and NAME.json (its origin) under out/figures.

    Older files survive a failed write.

    Args:
        figure: a finished figure. name: file name without an ending. table: every number the figure shows.
        notebook: its name, without its ending. parameters: of the notebook; `out` is left out, it names a place.
        out: folder of the run.
    """
    folder = Path(out) / "figures"
    cpu = f"CPU, {torch.get_num_threads()} threads, {platform.machine()}"
    packages = ("torch", "lightning", "numpy", "scikit-image", "matplotlib")
    origin = {
        "name": name,
        "notebook": notebook,
        "parameters": {key: value for key, value in parameters.items() if key != "out"},
        "commit": _commit(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else cpu,
        "versions": {package: version(package) for package in packages} | {"python": platform.python_version()},
    }
    words = json.dumps(origin, indent=1, sort_keys=True) + "\n"
    write_atomically(folder / f"{name}.csv", lambda path: table.to_csv(path, index=False, float_format="%.6g"))
    write_atomically(folder / f"{name}.json", lambda path: path.write_text(words))
    picture = {"format": "png", "bbox_inches": "tight", "metadata": {"Software": None}}
    return write_atomically(folder / f"{name}.png", lambda path: figure.savefig(path, **picture))


def _commit() -> str | None:
    """The commit of the code that runs, with a + when the working tree differs; None outside a git checkout."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    answer = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return answer.stdout.strip() or None if answer.returncode == 0 else None
