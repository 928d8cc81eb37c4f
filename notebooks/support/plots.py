"""The figures of notebooks 05 to 10; those of 05, 07 and 10 are drawn from their published tables alone."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm
from torch import Tensor

from mptpn.noise import NoiseEstimate
from support import figures
from support.figures import COLOURS, SETS, WIDTH

BACKENDS = {  # colours
    "reference": "#8c8c8c",
    "reference compiled": "#c4a000",
    "sdpa": "#17becf",
    "auto": "#1f77b4",
    "triton": "#d62728",
    "whole image": "#2ca02c",
}


def attention_cost(table: pd.DataFrame, *, interval: int, head_dim: int) -> Figure:
    """Figure of notebook 05: time and memory of sparse attention against pixels, forward, beside their floors.

    Args:
        table: rows of benchmark.time_attention and time_whole_image.
    """
    fig, (time, memory) = plt.subplots(1, 2, figsize=(WIDTH, 3.6), layout="constrained")
    forward = table[(table.what == "attention") & (table["pass"] == "forward") & (table.interval == interval)]
    fixed = forward[(forward.window == 8) & (forward.head_dim == head_dim)]
    whole = forward[forward.backend == "whole image"]
    for backend, part in fixed.groupby("backend", sort=False):
        style = {"ms": 4, "color": BACKENDS.get(backend)}
        time.loglog(part.pixels, part.ms, "o-", label=f"fixed groups, backend {backend}", **style)
        memory.loglog(part.pixels, part.peak_mib, "o-", **style)
    style = {"ms": 4, "color": BACKENDS["whole image"]}
    time.loglog(whole.pixels, whole.ms, "s-", label="groups of the whole image (ART)", **style)
    memory.loglog(whole.pixels, whole.peak_mib, "s-", **style)
    floor = fixed.drop_duplicates("side")
    time.loglog(floor.pixels, floor.copy_floor_ms, "k--", lw=1, label="least time of copying")
    time.loglog(floor.pixels, floor.arithmetic_floor_ms, "k:", lw=1, label="least time of arithmetic")
    memory.loglog(floor.pixels, floor.floor_mib, "k--", lw=1)
    time.set(xlabel="pixels", ylabel=f"time of sparse attention, interval {interval}, ms")
    memory.set(xlabel="pixels", ylabel="peak memory beyond the inputs, MiB")
    time.legend(frameon=False, fontsize=7)
    return fig


def noise_functions(
    table: pd.DataFrame, estimates: dict[str, NoiseEstimate], correlated: dict[str, NoiseEstimate]
) -> Figure:
    """Figure of notebook 06: noise-level functions of single images beside pairs, and correlation maps of sets.

    Args:
        table: image, intensity, estimated, from_pairs, one row a bin.
        estimates: of the images to show, by name. correlated: of sets, by name.
    """
    columns = max(len(estimates), len(correlated))
    fig, axes = plt.subplots(2, columns, figsize=(WIDTH, 4.8), layout="constrained", squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    for ax, (name, found) in zip(axes[0], estimates.items(), strict=False):
        at, level, error = 255 * np.array(found.intensity), 255 * np.array(found.level), np.array(found.error)
        band = (level * (1 - 2 * error), level * (1 + 2 * error))
        ax.fill_between(at, *band, color=COLOURS["stage 3"], alpha=0.3, lw=0, label="one image, ± 2 standard errors")
        rows = table[table.image == name]
        ax.plot(255 * rows.intensity, 255 * rows.from_pairs, "k.", ms=5, label="average of many exposures")
        ax.set(visible=True, title=f"image {name.replace('_', ', frame ')}", xlabel="intensity, gray levels")
    axes[0, 0].set_ylabel("noise sigma, gray levels")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    for ax, (name, found) in zip(axes[1], correlated.items(), strict=False):
        radius = len(found.correlation) / 2
        extent = (-radius, radius, radius, -radius)
        drawn = ax.imshow(found.correlation, cmap="RdBu_r", vmin=-1, vmax=1, extent=extent)
        sides = " x ".join(str(2 * half + 1) for half in found.half_size)
        ax.set(visible=True, title=f"{SETS.get(name, name)}\nblind spot {sides} px", xlabel="column lag, px")
        ax.set(xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    axes[1, 0].set_ylabel("row lag, px")
    fig.colorbar(drawn, ax=axes[1], label="correlation of noise", shrink=0.8)
    return fig


def real_pairs(table: pd.DataFrame, *, title: str) -> Figure:
    """Figure of notebook 07: gain of every method over the noisy image, a dot an image, a bar the mean.

    Args:
        table: image, method, psnr_db.
    """
    gains = _gains(table, keys=["image"])
    methods = list(gains.method.unique())
    fig, ax = plt.subplots(figsize=(WIDTH, 0.27 * len(methods) + 1.1), layout="constrained")
    for place, method in enumerate(methods):
        _dots(ax, gains[gains.method == method], method, place)
    images = gains.image.nunique()
    ax.set_yticks(range(len(methods)), methods)
    ax.set(title=f"{title}: {images} test image{'s' * (images > 1)}", xlabel="gain in PSNR over the noisy image, dB")
    ax.set(xlim=(min(0, gains.gain_db.min() - 0.3), None), ylim=(len(methods) - 0.5, -0.5))
    ax.axvline(0, color="0.6", lw=0.8)
    return fig


def calibration(table: pd.DataFrame, residuals: dict[str, np.ndarray]) -> Figure:
    """Second figure of notebook 07: standardised residuals, and shares of the errors within intervals.

    Args:
        table: images, interval, "68 %", "95 %". residuals: of the real test images, by network.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 2.9), width_ratios=[1.5, 1], layout="tight")
    grid = np.linspace(-5, 5, 101)
    for name, values in residuals.items():
        colour = COLOURS["generic" if "1 px" in name else name]
        left.hist(values, bins=grid, density=True, histtype="step", color=colour, label=name)
    left.plot(grid, norm.pdf(grid), "k--", lw=1, label="standard normal")
    left.set(yscale="log", ylim=(1e-5, 1), xlabel="standardised residual, real test images", ylabel="density")
    left.legend(frameon=False, fontsize=7, loc="lower center")
    shares = {"68 %": (COLOURS["stage 1"], (65, 71)), "95 %": (COLOURS["learned"], (93, 97))}
    for kind, marker in (("Gaussian", "o"), ("calibrated", "s")):
        part = table[table.interval == kind]
        for share, (colour, _) in shares.items():
            style = {"color": colour, "mfc": "none" if kind == "Gaussian" else colour, "label": f"{share}, {kind}"}
            right.plot(part.images, 100 * part[share], marker, **style)
    for colour, wanted in shares.values():
        right.axhspan(*wanted, color=colour, alpha=0.15)
    low = min(50, 100 * table["68 %"].min() - 3)
    right.set(ylim=(low, 101), xlim=(-0.5, 1.5), ylabel="errors in the interval, %")
    right.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return fig


def _gains(table: pd.DataFrame, *, keys: list[str]) -> pd.DataFrame:
    """The table without its noisy rows, with the column gain_db, PSNR less that of the noisy image."""
    noisy = table[table.method == "noisy"][[*keys, "psnr_db"]].rename(columns={"psnr_db": "noisy_db"})
    gains = table[table.method != "noisy"].merge(noisy, on=keys)
    return gains.assign(gain_db=gains.psnr_db - gains.noisy_db)


def _dots(ax: Axes, rows: pd.DataFrame, method: str, place: float) -> None:
    colour = COLOURS.get(method, "0.3")
    ax.plot(rows.gain_db, np.full(len(rows), place), "o", ms=3.5, alpha=0.5, mew=0, color=colour)
    ax.plot(rows.gain_db.mean(), place, "|", ms=9, mew=2.4, color=colour, label=method)


def on_common_images(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of each test on the images that all its methods but Noise2Void ran on."""
    wide = table[table.method != "Noise2Void"].pivot(index=["test", "image"], columns="method", values="psnr_db")
    tests = [part.dropna(axis=1, how="all").dropna() for _, part in wide.groupby("test")]
    images = pd.MultiIndex.from_tuples([place for part in tests for place in part.index])
    return table[table.set_index(["test", "image"]).index.isin(images)]


def comparison(table: pd.DataFrame, *, groups: dict[str, Sequence[str]]) -> Figure:
    """Figure of notebook 10: gain of every method on every test, a dot an image, a bar the mean.

    Args:
        table: test, image, method, psnr_db, see on_common_images.
        groups: title -> tests of one panel.
    """
    gains = _gains(table, keys=["test", "image"])
    height = 0.95 * max(map(len, groups.values())) + 1.6
    fig, axes = plt.subplots(1, len(groups), figsize=(WIDTH, height), layout="constrained", squeeze=False)
    for ax, (title, tests) in zip(axes[0], groups.items(), strict=True):
        here = gains[gains.test.isin(tests)]
        methods = [method for method in COLOURS if method in set(here.method)]
        for line, test in enumerate(tests):
            rows = here[here.test == test]
            for place, method in enumerate(methods):
                shift = 0.8 * ((place + 0.5) / len(methods) - 0.5)
                one = rows[rows.method == method]
                if len(one):
                    _dots(ax, one, method, line + shift)
            ax.axhline(line + 0.5, color="0.9", lw=0.6)
        counts = here.groupby("test").image.nunique()
        ax.set_yticks(range(len(tests)), [f"{SETS.get(test, test)}\n{counts[test]} images" for test in tests])
        ax.set(ylim=(len(tests) - 0.5, -0.5), xlabel="gain in PSNR over the noisy image, dB", title=title)
        ax.axvline(0, color="0.6", lw=0.8)
    _legend(fig, axes[0], ncols=5)
    return fig


def _legend(fig: Figure, axes: Sequence[Axes], *, ncols: int) -> None:
    handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    order = [method for method in COLOURS if method in handles]
    fig.legend([handles[name] for name in order], order, loc="outside lower center", ncols=ncols, frameon=False)


def detectability(table: pd.DataFrame) -> Figure:
    """Figure of notebook 10: recovered contrast of lesions by diameter, and false structure where none was planted.

    Args:
        table: rows of lesions.detectability, with background and method.
    """
    contrasts, backgrounds = sorted(table.contrast.unique()), list(table.background.unique())
    size = (WIDTH, 2.3 * len(backgrounds) + 0.9)
    fig, axes = plt.subplots(
        len(backgrounds), len(contrasts) + 1, figsize=size, sharex=True, layout="constrained", squeeze=False
    )
    for line, background in zip(axes, backgrounds, strict=True):
        for method in table.method.unique():
            rows = table[(table.background == background) & (table.method == method)]
            style = {"ms": 3, "lw": 1.1, "color": COLOURS[method]}
            for ax, contrast in zip(line, contrasts, strict=False):
                one = rows[rows.contrast == contrast]
                error = one.recovered_sd / np.sqrt(one.discs)
                ax.errorbar(one.diameter, one.recovered, yerr=error, fmt="o-", elinewidth=0.7, label=method, **style)
            line[-1].plot(one.diameter, one.false_sd, "o-", **style)
        line[-1].plot(one.diameter, one.identity_sd, "k--", lw=0.8)
        line[-1].set(ylim=(0, None), ylabel="false structure, sigma")
        line[0].set_ylabel(f"{background}\nrecovered contrast")
        for ax in line[:-1]:
            ax.set_ylim(-0.05, 1.15)
            ax.label_outer()
    titles = [f"lesions of {contrast:g} sigma" for contrast in contrasts]
    for ax, title in zip(axes[0], [*titles, "no lesion"], strict=True):
        ax.set_title(title, fontsize=8)
    for ax in axes[-1]:
        figures.level_axis(ax, ticks=tuple(int(diameter) for diameter in sorted(table.diameter.unique())))
        ax.set_xlabel("diameter, px")
    _legend(fig, [axes[0, 0]], ncols=7)
    return fig


def super_resolution(table: pd.DataFrame, panels: dict[str, Tensor], *, title: str, side: int = 96) -> Figure:
    """Figure of notebook 08: gain over bicubic, a dot an image, a bar the mean, and the busiest window of an image.

    Args:
        table: image, method, psnr_db of one set.
        panels: title -> image [1, C, H, W], all of one size; one is "truth".
        side: of the window, px.
    """
    gains = table.pivot(index="image", columns="method", values="psnr_db")
    fig = plt.figure(figsize=(WIDTH, 3.4), layout="constrained")
    left, right = fig.subfigures(1, 2, width_ratios=[1.1, 1])
    ax = left.subplots()
    methods = [method for method in COLOURS if method in gains and method != "bicubic"]
    for place, method in enumerate(methods):
        _dots(ax, pd.DataFrame({"gain_db": gains[method] - gains.bicubic}), method, place)
    ax.set_yticks(range(len(methods)), methods)
    ax.set(title=f"{title}, {len(gains)} images", xlabel="gain in PSNR (luma) over bicubic, dB")
    ax.set(ylim=(len(methods) - 0.5, -0.5))
    ax.axvline(0, color="0.6", lw=0.8)
    truth = panels["truth"]
    side = min(side, *truth.shape[2:])
    steps = [range(0, length - side + 1, 8) for length in truth.shape[2:]]
    windows = [(..., slice(top, top + side), slice(at, at + side)) for top in steps[0] for at in steps[1]]
    window = max(windows, key=lambda one: float(truth[one].std()))
    white = float(truth[window].flatten().quantile(0.998))
    for panel, (name, image) in zip(right.subplots(2, 2).flat, panels.items(), strict=False):
        figures.show(panel, image[window], title=name, high=white)
    return fig
