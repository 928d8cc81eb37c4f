"""The linked pictures of one denoised slice: the same region, seen as noisy, denoised, residual, uncertainty, spectrum
and line profile.
"""

import io
import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure

NOISY, DENOISED = "#8c8c8c", "#1f77b4"
LINE = "#ff9f1c"  # of the profile's row
PANELS = ("noisy", "denoised", "residual", "uncertainty", "spectrum", "profile")
DPI = 110
SIDES, PLACE = (3.5, 3.45), (0.12, 0.115, 0.74, 0.74 * 3.5 / 3.45)  # of a panel, inches; of its axes, shares of it


@dataclass(frozen=True, eq=False)
class View:
    """What is shown.

    Attributes:
        noisy: [H, W], in `unit`. denoised, uncertainty: same; None: there is no result.
        sigma: of the noise at each pixel, [H, W]; it sets the range of residual and uncertainty, which strength must
            not change.
        valid: [H, W] bool. window: gray range, (low, high). region: rows and columns that are shown. row: of the
            profile, px of the whole image.
        strength: 0..1. method: its name.
    """

    noisy: np.ndarray
    valid: np.ndarray
    window: tuple[float, float]
    region: tuple[slice, slice]
    row: int
    unit: str
    denoised: np.ndarray | None = None
    uncertainty: np.ndarray | None = None
    sigma: np.ndarray | None = None
    strength: float = 1.0
    method: str = ""

    def cut(self, array: np.ndarray) -> np.ndarray:
        """The region of an array, NaN where it is not valid."""
        return np.where(self.valid, array, np.nan)[self.region]

    @property
    def scale(self) -> float:
        """The noise's standard deviation where it is largest, but for 1 % of the pixels."""
        return float(np.quantile(self.sigma[self.valid], 0.99))


def draw(ax: Axes, name: str, view: View) -> None:
    """Draw one of PANELS."""
    missing = {
        "noisy": False,
        "profile": False,
        "uncertainty": view.uncertainty is None or not np.isfinite(view.uncertainty).any(),
    }
    if missing.get(name, view.denoised is None):
        words = "no result" if view.denoised is None else f"{view.method}\nstates no uncertainty"
        ax.text(0.5, 0.5, words, ha="center", va="center", color="0.4", fontsize=9, transform=ax.transAxes)
        ax.set_title(name, fontsize=9)
        ax.set_axis_off()
    elif name == "profile":
        _profile(ax, view)
    elif name == "spectrum":
        shown = spectrum(view.cut(view.noisy - view.denoised))
        drawn = ax.imshow(shown, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest", extent=(-0.5, 0.5, 0.5, -0.5))
        _bar(ax, drawn, ticks=(-1, 0, 1)).set_yticklabels(("0.1", "1", "10"))
        ax.set_title("power spectrum of the residual\n(over its mean; white noise: 1)", fontsize=9)
        ax.set_xlabel("cycles / px", fontsize=8)
        ax.set_xticks((-0.5, 0, 0.5))
        ax.set_yticks((-0.5, 0, 0.5))
        ax.tick_params(labelsize=7)
    else:
        _image(ax, name, view)


def _image(ax: Axes, name: str, view: View) -> None:
    low, high = view.window
    unit = "" if view.unit == "stored value" else f" {view.unit}"
    window = f"level {(low + high) / 2:.4g}, width {high - low:.4g}{unit}"
    array, least, most, title, colours = {
        "noisy": (lambda: (view.noisy, low, high, f"noisy\n{window}", "gray")),
        "denoised": (
            lambda: (view.denoised, low, high, f"denoised, strength {view.strength:.3g}\nsame window", "gray")
        ),
        "residual": (
            lambda: (
                view.noisy - view.denoised,
                -3 * view.scale,
                3 * view.scale,
                f"taken away (residual)\n±3σ = ±{3 * view.scale:.3g}",
                "gray",
            )
        ),
        "uncertainty": (
            lambda: (
                view.uncertainty,
                0,
                view.scale,
                f"uncertainty (s.d. of the error)\n0 to σ = {view.scale:.3g}",
                "magma",
            )
        ),
    }[name]()
    rows, columns = view.region
    extent = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    # a small uncertainty is seen too
    norm = PowerNorm(0.5, least, most) if name == "uncertainty" else Normalize(least, most)
    drawn = ax.imshow(view.cut(array), norm=norm, cmap=colours, extent=extent)
    ax.set_title(title, fontsize=9)
    ax.set_axis_off()
    if name in ("noisy", "denoised") and rows.start <= view.row < rows.stop:
        ax.axhline(view.row, color=LINE, lw=0.8, alpha=0.8)
    if name == "uncertainty":
        ticks = (0.0, view.scale / 4, view.scale)
        _bar(ax, drawn, ticks=ticks).set_yticklabels([f"{tick:.3g}" for tick in ticks])


def _bar(ax: Axes, drawn, *, ticks: tuple[float, ...]) -> Axes:
    """A colour bar beside the picture, which keeps its place."""
    bar = ax.inset_axes((1.03, 0.1, 0.04, 0.8))
    ax.get_figure(root=False).colorbar(drawn, cax=bar, ticks=ticks)
    bar.tick_params(labelsize=7)
    return bar


def _profile(ax: Axes, view: View) -> None:
    rows, columns = view.region
    at = np.arange(columns.start, columns.stop)
    line = np.where(view.valid, view.noisy, np.nan)[view.row, columns]
    ax.plot(at, line, color=NOISY, lw=0.8, label="noisy")
    if view.denoised is not None:
        line, error = (
            np.where(view.valid, array, np.nan)[view.row, columns] for array in (view.denoised, view.uncertainty)
        )
        ax.fill_between(at, line - 2 * error, line + 2 * error, color=DENOISED, alpha=0.25, lw=0)
        ax.plot(at, line, color=DENOISED, lw=1.2, label="denoised, ±2 s.d." if np.isfinite(error).any() else "denoised")
    low, high = view.window
    ax.set_ylim(low - 0.08 * (high - low), high + 0.08 * (high - low))
    ax.set_xlim(at[0], at[-1])
    ax.set_title(f"line profile, row {view.row}, {view.unit}", fontsize=9)
    ax.set_xlabel("column, px", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=7, loc="upper right")


def spectrum(residual: np.ndarray) -> np.ndarray:
    """Decimal logarithm of the power spectrum over its mean, zero frequency in the middle, in cells of 4 x 4
    frequencies; white noise is 0 everywhere.
    """
    filled = np.nan_to_num(residual - np.nanmean(residual))
    power = np.fft.fftshift(np.abs(np.fft.fft2(filled)) ** 2)
    side = 4 if min(power.shape) >= 64 else 1
    height, width = (n // side * side for n in power.shape)
    cells = power[:height, :width].reshape(height // side, side, width // side, side).mean((1, 3))
    return np.log10(np.maximum(cells, 1e-9 * cells.mean()) / cells.mean()) if cells.any() else cells


def sheet(view: View, *, words: str = "") -> bytes:
    """All PANELS and the report under them as one PNG, its doubts in red: what stays where no kernel is live."""
    lines = [
        ("#c00000" if line.startswith("DOUBT") else "black", part)
        for line in words.splitlines()
        for part in textwrap.wrap(line, 150)
    ]
    pictures, text = 2 * SIDES[1], 0.17 * (len(lines) + 1)
    figure = Figure(figsize=(3 * SIDES[0], pictures + text))
    top, bottom = figure.subfigures(2, 1, height_ratios=(pictures, text))
    for place, name in zip(top.subfigures(2, 3).flat, PANELS, strict=True):
        draw(place.add_axes(PLACE), name, view)
    for number, (colour, part) in enumerate(lines):
        bottom.text(0.04, 1 - 0.17 * number / text, part, va="top", fontsize=8, color=colour)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return png.getvalue()
