"""What notebooks 01 to 04 need beside the method: scores, comparisons, the closing table, and the figures."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from skimage.restoration import denoise_nl_means
from torch import Tensor

from mptpn import metrics
from mptpn.noise import NoiseModel, PoissonGaussian
from mptpn.stages import PairSynthesis
from mptpn.stages.synthesis import TargetStatistics
from support import figures
from support.acquisition import Exposure
from support.figures import WIDTH
from support.scores import gaussian_oracle, paired_interval, tv_oracle
from support.spectra import radial_spectrum

STRENGTHS = (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2)  # of non-local means, h / sigma
CLASSICAL = ("Gaussian, oracle", "TV, oracle", "NLM, oracle")
BLUE, RED, GRAY = (figures.COLOURS[name] for name in ("stage 1", "stage 3", "noisy"))


def nlm_oracle(noisy: Tensor, clean: Tensor) -> Tensor:
    """Non-local means (Buades et al. 2005, patches of 5 px within 6 px) of the strength with the smallest error."""
    image, sigma = noisy[0, 0].double().numpy(), float((noisy - clean).std())
    shape = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    tried = [torch.from_numpy(denoise_nl_means(image, h=h * sigma, **shape))[None, None].to(clean) for h in STRENGTHS]
    return min(tried, key=lambda x: float(((x - clean) ** 2).mean()))


def classical(noisy: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Results of classical methods, each of the strength that is best for this very image by its truth (oracle)."""
    results = gaussian_oracle(noisy, clean)[0], tv_oracle(noisy, clean), nlm_oracle(noisy, clean)
    return dict(zip(CLASSICAL, results, strict=True))


def score(exposures: Sequence[Exposure], results: dict[str, Sequence[Tensor]]) -> pd.DataFrame:
    """Rows image, subject, method, psnr_db, ssim; results: method -> denoised images in the order of the exposures."""
    return pd.DataFrame(
        {
            "image": one.clean.name,
            "subject": one.clean.subject,
            "method": method,
            "psnr_db": metrics.psnr_db(x, one.clean.pixels),
            "ssim": metrics.ssim(x, one.clean.pixels),
        }
        for method, images in results.items()
        for one, x in zip(exposures, images, strict=True)
    )


def guessed_pairs(photos: list[Tensor], *, batch: int, seed: int) -> PairSynthesis:
    """Pairs that know nothing of the set: photographs as they are, Poisson-Gaussian noise of sixteen strengths."""
    models = [PoissonGaussian(s, gain=g) for s in (0.02, 0.05, 0.1, 0.2) for g in (0, 0.01, 0.05, 0.2)]
    targets = [TargetStatistics(model, 0.0, 1.0, 1.0, steps=(), noise=(), quantiles=()) for model in models]
    return PairSynthesis(photos, targets, match_content=False, batch=batch, seed=seed)


def differences(scores: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Mean of method - other in dB with its 95 % interval (bootstrap over subjects), one row a pair of methods."""
    wide = scores.pivot(index=["image", "subject"], columns="method", values="psnr_db")
    subjects = list(wide.index.get_level_values("subject"))
    rows = []
    for method, other in pairs:
        mean, low, high = paired_interval(list(wide[method] - wide[other]), subjects)
        rows.append({"method": method, "other": other, "mean_db": mean, "low_db": low, "high_db": high})
    return pd.DataFrame(rows)


def closing_table(summary: pd.DataFrame, compared: pd.DataFrame, *, images: int, subjects: int) -> str:
    """The result of the run in plain text of at most 80 columns."""
    lines = [f"{images} held-out images of {subjects} subjects, noise of one instrument, truth known", ""]
    lines += [f"{'method':46}{'PSNR, dB':>10}{'SSIM':>8}"]
    lines += [f"{row.method:46}{row.psnr_db:10.2f}{row.ssim:8.3f}" for row in summary.itertuples()]
    lines += ["", f"{'difference, dB':46}{'mean':>10}   95 % interval"]
    for row in compared.itertuples():
        words = f"{row.method} - {row.other}"
        lines.append(f"{words:46}{row.mean_db:+10.2f}   {row.low_db:+.2f} to {row.high_db:+.2f}")
    return "\n".join([*lines, "", "Intervals: bootstrap over subjects. Oracle: the best strength for each image.", ""])


def white_levels(table: pd.DataFrame) -> Figure:
    """Figure of notebook 01: true against estimated level, and the error, one dot an image."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4), layout="constrained")
    low, high = 0.9 * table.true_sigma_255.min(), 1.1 * table.true_sigma_255.max()
    left.plot([low, high], [low, high], "k-", lw=0.8)
    left.plot(table.true_sigma_255, table.estimated_sigma_255, "o", ms=4, color=BLUE)
    right.axhspan(-10, 10, color="0.93", zorder=0)
    right.axhline(0, color="k", lw=0.8)
    right.plot(table.true_sigma_255, table.error_percent, "o", ms=4, color=BLUE)
    figures.level_axis(left, "y")
    for ax in (left, right):
        figures.level_axis(ax)
        ax.set_xlabel("true noise level, gray levels of 255")
    left.set_ylabel("estimated noise level")
    right.set(ylabel="error of the estimate, %", ylim=(-20, 20))
    return fig


def instrument_noise(table: pd.DataFrame, true: Tensor, found: Tensor) -> Figure:
    """Figure of notebook 01: levels of the set's images, and the correlation of neighbours, true and estimated.

    Args:
        table: true_sigma_255, estimated_sigma_255. true, found: correlation maps at lags -3..3.
    """
    fig, (levels, *maps) = plt.subplots(1, 3, figsize=(WIDTH, 2.9), layout="constrained", width_ratios=(1.3, 1, 1))
    ends = [0.9 * table.true_sigma_255.min(), 1.1 * table.true_sigma_255.max()]
    levels.plot(ends, ends, "k-", lw=0.8)
    levels.plot(table.true_sigma_255, table.estimated_sigma_255, "o", ms=4, color=BLUE)
    levels.set(xlabel="true noise level, gray levels of 255", ylabel="estimated noise level")
    for ax, values, title in zip(maps, (true, found), ("true correlation", "estimated"), strict=True):
        picture = ax.imshow(values, vmin=-0.3, vmax=0.3, cmap="RdBu_r", extent=(-3.5, 3.5, 3.5, -3.5))
        ax.set(title=title, xlabel="column lag, px", ylabel="row lag, px", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
    fig.colorbar(picture, ax=maps, shrink=0.8, label="correlation (middle: 1)", extend="max")
    return fig


def blind_spots(seen: dict[str, np.ndarray]) -> Figure:
    """Figure of notebook 01: which neighbours a prediction depends on, within 8 px, for each blind spot."""
    fig, axes = plt.subplots(1, len(seen), figsize=(WIDTH, 3.4), layout="constrained", squeeze=False)
    for ax, (title, offsets) in zip(axes[0], seen.items(), strict=True):
        middle = len(offsets) // 2
        part = offsets[middle - 8 : middle + 9, middle - 8 : middle + 9]
        ax.imshow(part, cmap="Blues", vmin=0, vmax=1.6, extent=(-8.5, 8.5, 8.5, -8.5))
        ax.plot(0, 0, "x", color=RED)
        ax.set(title=title, xlabel="column offset, px", ylabel="row offset, px")
    return fig


def panels(rows: Sequence[dict[str, Tensor]], names: Sequence[str]) -> Figure:
    """Images side by side, a row each, every row over the gray range of its last panel (the truth)."""
    titles = list(rows[0])
    size = WIDTH, 0.3 + len(rows) * WIDTH / len(titles)
    fig, axes = plt.subplots(len(rows), len(titles), figsize=size, layout="constrained", squeeze=False)
    for title, ax in zip(titles, axes[0], strict=True):
        ax.set_title(title)
    for line, row, name in zip(axes, rows, names, strict=True):
        low, high = (float(list(row.values())[-1].quantile(q)) for q in (0.005, 0.995))
        for ax, title in zip(line, titles, strict=True):
            figures.show(ax, row[title], title=ax.get_title(), low=low, high=high)
        line[0].text(-0.04, 0.5, name, transform=line[0].transAxes, rotation=90, ha="right", va="center")
    return fig


def spread(chosen: Sequence, count: int) -> list:
    """At most `count` of them, evenly spread; all for 0."""
    return list(chosen)[:: -(-len(chosen) // count)] if count else list(chosen)


def center(image: Tensor, side: int = 128) -> Tensor:
    """The middle square of at most side px, of [..., H, W]."""
    height, width = image.shape[-2:]
    side = min(side, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[..., top : top + side, left : left + side]


def typical_spectrum(patches: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, and the median over patches of the power, as a share of each patch's variance.

    Every patch counts alike; a mean would follow the few patches of the highest contrast. Flat patches are left out.
    """
    told = patches[patches.flatten(1).std(1) > 0.01]
    powers = [radial_spectrum(patch[None])[1] for patch in told]
    return np.array(radial_spectrum(told[:1])[0]), np.median(np.array(powers), axis=0)


def squares(images: Sequence[Tensor], side: int) -> Tensor:
    """All squares of a grid over the images, [N, 1, side, side]."""
    each = [x.unfold(2, side, side).unfold(3, side, side).reshape(-1, 1, side, side) for x in images]
    return torch.cat(each)


def content_spectra(table: pd.DataFrame) -> Figure:
    """Figure of notebook 02: spectra of the set's content, of photographs and of matched ones, and their distances."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(WIDTH, 3.4), layout="constrained")
    colours = {"medical": "k", "photographs": GRAY, "matched photographs": RED}
    for name, colour in colours.items():
        left.loglog(table.frequency, table[name], color=colour, label=name)
    left.set(xlabel="frequency, cycles / px", ylabel="power, share of a patch's variance")
    left.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], labels=["0.02", "0.05", "0.1", "0.2", "0.5"])
    left.minorticks_off()
    left.legend(frameon=False)
    far = spectrum_distances(table)
    for offset, name in ((-0.2, "photographs"), (0.2, "matched photographs")):
        right.bar(np.arange(len(far)) + offset, far[name], width=0.38, color=colours[name])
    right.set_xticks(range(len(far)), far.index)
    right.set(xlabel="frequency, cycles / px", ylabel="distance from the medical spectrum, dB")
    return fig


def spectrum_distances(table: pd.DataFrame) -> pd.DataFrame:
    """Mean distance of each spectrum from the medical one in three bands of frequency, dB."""
    bands = pd.cut(table.frequency, (0, 0.1, 0.25, 0.51), labels=("0 - 0.1", "0.1 - 0.25", "0.25 - 0.5"))
    names = ["photographs", "matched photographs"]
    far = pd.DataFrame({name: 10 * np.log10(table[name] / table.medical).abs() for name in names})
    return far.groupby(bands, observed=True).mean()


def relative_levels(errors: Sequence[Tensor], models: Sequence[NoiseModel], contents: Sequence[Tensor]) -> list[float]:
    """Root mean square of each error over that of its noise model at this content: 1 where the model is right."""
    return [
        float(error.std()) / float(model.variance(content).mean().sqrt())
        for error, model, content in zip(errors, models, contents, strict=True)
    ]


def gains(scores: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Figure of notebook 04: gain over the noisy image, one dot an image, the bar is the mean."""
    noisy = scores[scores.method == "noisy"].set_index("image").psnr_db
    fig, ax = plt.subplots(figsize=(WIDTH, 0.5 * len(methods) + 1.0), layout="constrained")
    for row, method in enumerate(methods):
        part = scores[scores.method == method]
        gain = part.psnr_db.to_numpy() - part.image.map(noisy).to_numpy()
        colour = figures.COLOURS.get(method, GRAY)
        ax.barh(row, gain.mean(), color=colour, alpha=0.35, height=0.6)
        ax.plot(gain, row + np.linspace(-0.2, 0.2, len(gain)), "o", ms=4, color=colour)
        ax.text(0.1, row, f"{gain.mean():.2f} dB", va="center", fontsize=9)
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xlim=(0, None), xlabel="PSNR over that of the noisy image, dB (bar: mean, dot: one image)")
    return fig


def ablation(compared: pd.DataFrame) -> Figure:
    """Figure of notebook 04: what each part is worth, mean and 95 % interval, sorted."""
    rows = compared.sort_values("mean_db", ascending=False).reset_index(drop=True)
    fig, ax = plt.subplots(figsize=(WIDTH, 0.36 * len(rows) + 1.0), layout="constrained")
    for number, row in rows.iterrows():
        sure = row.low_db > 0 or row.high_db < 0
        colour = RED if sure else GRAY
        ax.plot([row.low_db, row.high_db], [number, number], "-", lw=2, color=colour)
        ax.plot(row.mean_db, number, "o", ms=5, color=colour)
    ax.axvline(0, color="k", lw=0.8)
    ax.set_yticks(range(len(rows)), rows.other)
    ax.invert_yaxis()
    ax.set(xlabel="stage 3 less the variant, dB (95 % interval; gray: it holds 0)")
    return fig


def level_of(model: NoiseModel, at: float = 0.5) -> float:
    """Standard deviation of a noise model at one intensity."""
    return float(model.variance(torch.tensor([at]))) ** 0.5


def correlation_map(value: float) -> Tensor:
    """The instrument's correlation at lags -3..3: `value` for neighbours along a row, [7, 7]."""
    lags = torch.zeros(7, 7)
    lags[3, 2:5] = torch.tensor([value, 1.0, value])
    return lags
