"""One look for every figure, and one way to write it: picture, numbers, and where they come from."""

import io
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import ipywidgets
import numpy as np
import pandas as pd
import seaborn
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mptpn.atomic import write_atomically

COLOURS = {
    "noisy": "#8c8c8c",
    "Gaussian, oracle": "#c4a000",
    "stage 1": "#1f77b4",
    "stage 3": "#d62728",
    "supervised ceiling": "#2ca02c",
}
DPI = 150


def look() -> None:
    """Set the one look: seaborn's ticks, small sans-serif type, images in gray."""
    seaborn.set_theme(
        context="paper",
        style="ticks",
        rc={
            "figure.dpi": 100,
            "savefig.dpi": DPI,
            "image.cmap": "gray",
            "axes.spines.top": False,
            "axes.spines.right": False,
        },
    )


def show(axes: Axes, image, *, title: str = "", low: float = 0.0, high: float = 1.0, cmap: str = "gray"):
    """Draw one image [1, C, H, W], [C, H, W] (C = 1 or 3), [H, W] or [H, W, 3] without axes, over the stated range;
    returns the mappable.
    """
    array = np.asarray(image.detach() if isinstance(image, torch.Tensor) else image).squeeze()
    if array.ndim == 3:  # colour is not scaled by Matplotlib
        array = ((np.moveaxis(array, 0, -1) if array.shape[0] == 3 else array) - low) / (high - low)
        array = array.clip(0, 1)
    drawn = axes.imshow(array, vmin=low, vmax=high, cmap=cmap, interpolation="nearest")
    axes.set_title(title)
    axes.set_axis_off()
    return drawn


def browse(pictures: dict[str, dict[str, torch.Tensor]]) -> ipywidgets.VBox:
    """A widget to look at images one by one: which image, and the gray range that is shown.

    Without a live kernel (an executed notebook, a page) it stays a still picture of the first image.

    Args:
        pictures: image name -> title -> [1, 1, H, W], shown side by side.
    """
    # not an Output widget: executing a notebook in a batch could wait for it for ever
    picture = ipywidgets.Image(format="png")
    image = ipywidgets.Dropdown(options=list(pictures), description="image")
    gray = ipywidgets.FloatRangeSlider(
        value=(0.0, 1.0), min=-0.2, max=1.2, step=0.05, description="gray range", continuous_update=False
    )

    def draw(_change=None) -> None:
        panels = pictures[image.value]
        figure = Figure(figsize=(3.2 * len(panels), 3.2))
        for ax, (title, pixels) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            show(ax, pixels, title=title, low=gray.value[0], high=gray.value[1])
        png = io.BytesIO()
        figure.savefig(png, format="png", bbox_inches="tight", dpi=100)
        picture.value = png.getvalue()

    for control in (image, gray):
        control.observe(draw, names="value")
    draw()
    return ipywidgets.VBox([ipywidgets.HBox([image, gray]), picture])


def level_axis(axes: Axes, axis: str = "x", *, ticks: tuple[int, ...] = (5, 10, 20, 50)) -> None:
    """Logarithmic axis of noise levels, gray levels of 255, with plain numbers on it; axis is "x" or "y"."""
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}ticks")(ticks, labels=[str(tick) for tick in ticks])
    getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())


def save_figure(
    figure: Figure, name: str, *, table: pd.DataFrame, notebook: str, parameters: dict, out: str | Path
) -> Path:
    """Write NAME.png, NAME.csv (the figure's numbers) and NAME.json (its origin) under out/figures; older files survive
    a failed write.

    Args:
        figure: a finished figure.
        name: file name without an ending.
        table: every number the figure shows.
        notebook: name of the notebook, without its ending.
        parameters: the notebook's parameters; `out` is left out, it names a place and not a result.
        out: folder of the run.
    """
    folder = Path(out) / "figures"
    origin = {
        "name": name,
        "notebook": notebook,
        "parameters": {key: value for key, value in parameters.items() if key != "out"},
        "commit": _commit(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads, {platform.machine()}",
        "versions": {
            package: version(package) for package in ("torch", "lightning", "numpy", "scikit-image", "matplotlib")
        }
        | {"python": platform.python_version()},
    }
    write_atomically(folder / f"{name}.csv", lambda path: table.to_csv(path, index=False, float_format="%.6g"))
    write_atomically(
        folder / f"{name}.json", lambda path: path.write_text(json.dumps(origin, indent=1, sort_keys=True) + "\n")
    )
    return write_atomically(
        folder / f"{name}.png",
        lambda path: figure.savefig(path, format="png", bbox_inches="tight", metadata={"Software": None}),
    )


def _commit() -> str | None:
    """The commit of the code that runs, with a + when the working tree differs; None outside a git checkout."""
    here = Path(__file__).parent
    answer = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty=+"], cwd=here, capture_output=True, text=True
    )
    return answer.stdout.strip() or None if answer.returncode == 0 else None
