"""The picture of a trust report: noisy, denoised, what was taken away, how sure, and the checks in words."""

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mptpn.images import write_atomically
from mptpn.trust import Trust

SHOWN = 512  # px, side of the part that is shown of a larger image: its middle


def draw(noisy: np.ndarray, denoised: np.ndarray, uncertainty: np.ndarray, *, trust: Trust, said: str, valid: np.ndarray, unit: str, title: str) -> Figure:
    """One image and its report.

    Args:
        noisy, denoised, uncertainty: [H, W], in `unit`. valid: [H, W] bool, the pixels that count.
        said: further lines under the checks.
    """
    middle = tuple(slice(max(0, (side - SHOWN) // 2), max(0, (side - SHOWN) // 2) + SHOWN) for side in noisy.shape)
    noisy, denoised, uncertainty, valid = (np.where(valid, x, np.nan)[middle] if x.dtype != bool else x[middle] for x in (noisy, denoised, uncertainty, valid))
    residual = noisy - denoised
    low, high = np.nanquantile(denoised, [0.002, 0.998])
    far, sure = np.nanquantile(np.abs(residual), 0.995) or 1.0, np.nanquantile(uncertainty, 0.995) or 1.0
    figure = Figure(figsize=(15, 5.2))
    grid = figure.add_gridspec(2, 5, height_ratios=(3, 1.9), hspace=0.04, wspace=0.06)
    pictures = (
        (f"noisy, {low:.4g} to {high:.4g} {unit}", noisy, low, high, "gray"),
        ("denoised, same range", denoised, low, high, "gray"),
        (f"taken away, ±{far:.3g}", residual, -far, far, "gray"),
        (f"uncertainty (s.d.), 0 to {sure:.3g}", uncertainty, 0, sure, "magma"),
        ("spectrum of what was taken away", spectrum(residual), -1, 1, "RdBu_r"),
    )
    for column, (name, array, least, most, colours) in enumerate(pictures):
        ax = figure.add_subplot(grid[0, column])
        ax.imshow(array, vmin=least, vmax=most, cmap=colours, interpolation="nearest")
        ax.set_title(name, fontsize=9)
        ax.set_axis_off()
    words = figure.add_subplot(grid[1, :])
    words.set_axis_off()
    lines = [(said, "black")] + [(f"{'ok' if check.passed else 'DOUBT'} · {check.verdict}", "black" if check.passed else "#c00000") for check in trust.checks]
    at = 1.0
    for line, colour in lines:
        for part in line.splitlines():
            wrapped = textwrap.fill(part, 190)
            words.text(0, at, wrapped, va="top", fontsize=9, color=colour, transform=words.transAxes)
            at -= 0.12 * (1 + wrapped.count("\n"))
    figure.suptitle(title, fontsize=10)
    return figure


def spectrum(residual: np.ndarray) -> np.ndarray:
    """Decimal logarithm of the power spectrum over its mean, zero frequency in the middle, in cells of 4 x 4 frequencies; white noise is 0 everywhere."""
    filled = np.nan_to_num(residual - np.nanmean(residual))
    power = np.fft.fftshift(np.abs(np.fft.fft2(filled)) ** 2)
    side = 4 if min(power.shape) >= 64 else 1
    height, width = (n // side * side for n in power.shape)
    cells = power[:height, :width].reshape(height // side, side, width // side, side).mean((1, 3))
    return np.log10(np.maximum(cells, 1e-9 * cells.mean()) / cells.mean()) if cells.any() else cells


def write(path: Path, figure: Figure) -> Path:
    """Write as PNG; an older file survives a failed write."""
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", bbox_inches="tight", dpi=110))
