"""Tables and the picture of the runs of `support.text_worth`: one row a run, and paired intervals."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from support.figures import WIDTH
from support.scores import paired_interval
from support.text_worth_sets import LEVELS, TEXTS

RUN = ["experiment", "variant", "seed", "steps", "batch", "parameters", "seconds", "test"]
TITLES = {
    "drawn": "drawn cells: the sentence decides",
    "text": "MoNuSeg: text at training / at test",
    "network": "MoNuSeg: the network",
    "ladder": "BUSI: prompts written from the truth",
    "encoder": "white cells: unseen wording, nothing refuses",
}
Pair = tuple[str, str, pd.DataFrame, pd.DataFrame]  # experiment, what is compared, and rows of the one and the other


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """One row a run and text at test: mean Dice over its images, and its budget (steps, batch, CPU seconds)."""
    found = table.groupby(RUN, sort=False).dice.agg(["mean", "count"]).reset_index()
    return found.rename(columns={"mean": "dice", "count": "images"})


def intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Paired differences of Dice with 95 % intervals over images (bootstrap, an image with all its seeds).

    Rows experiment, comparison, difference, low, high, dice (of the first), other, images, seeds. Only seeds that
    both sides have are compared.
    """
    rows = []
    for experiment, comparison, one, other in _pairs(table):
        both = one.merge(other, on=["image", "seed"], suffixes=("", "_other"))
        if both.empty:
            continue
        gaps = both.dice - both.dice_other
        mean, low, high = paired_interval(list(gaps), list(both.image))
        row = {"experiment": experiment, "comparison": comparison, "difference": mean, "low": low, "high": high}
        row |= {"dice": both.dice.mean(), "other": both.dice_other.mean()}
        rows.append(row | {"images": both.image.nunique(), "seeds": both.seed.nunique()})
    return pd.DataFrame(rows)


def together(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Runs and differences in one table, with a column `kind`."""
    return pd.concat([found.assign(kind="difference"), table.assign(kind="run")], ignore_index=True)


def _pairs(table: pd.DataFrame) -> Iterator[Pair]:
    """Every comparison that the table has rows for."""

    def of(experiment: str, variant: str, test: str = "") -> pd.DataFrame:
        found = table[(table.experiment == experiment) & (table.variant == variant)]
        return found[found.test == test] if test else found

    for experiment in ("drawn", "text"):
        own = of(experiment, "own", "own")
        for text in TEXTS[1:]:
            yield experiment, f"own / own - own / {text}", own, of(experiment, "own", text)
        for text in TEXTS[1:]:
            yield experiment, f"own / own - {text} / {text}", own, of(experiment, text, text)
    own = of("text", "own", "own")
    for variant in table[table.experiment == "network"].variant.unique():
        yield "network", f"{variant} - repaired", of("network", variant, "own"), own
    equal = of("network", "repaired, as many parameters", "own")
    yield "network", "repaired, as many parameters - published", equal, of("network", "published", "own")
    for before, level in zip(LEVELS, LEVELS[1:], strict=False):
        one, other = of("ladder", level), of("ladder", before)
        lesions = ~one.image.str.startswith("normal")
        yield "ladder", f"{level} - {before}, lesion images", one[lesions], other
        yield "ladder", f"{level} - {before}, all images", one, other
    for encoder in table[table.experiment == "encoder"].variant.unique():
        name = of("encoder", encoder, "name").assign(target=_target)
        for kind in ("paraphrase", "typo"):
            asked = of("encoder", encoder, kind).assign(target=_target)
            known = asked.drop(columns="dice").merge(name[["target", "seed", "dice"]], on=["target", "seed"])
            yield "encoder", f"{encoder}: {kind} - name", asked, known


def _target(table: pd.DataFrame) -> pd.Series:
    return table.image.str.split(":").str[0]


def picture(found: pd.DataFrame) -> Figure:
    """Every difference with its interval, an experiment after the other; 0 is no difference."""
    height = 1.0 + 0.19 * (len(found) + 2 * found.experiment.nunique())
    fig, ax = plt.subplots(figsize=(WIDTH, height), layout="constrained")
    at, ticks, names = 0.0, [], []
    for experiment, part in found.groupby("experiment", sort=False):
        ax.text(0.0, at, f" {TITLES[experiment]}", transform=ax.get_yaxis_transform(), weight="bold", va="center")
        for row in part.itertuples():
            at += 1
            certain = row.low > 0 or row.high < 0
            ax.plot([row.low, row.high], [at, at], color="black" if certain else "0.6", lw=1)
            ax.plot(row.difference, at, "o", color="black" if certain else "0.6", ms=3)
            ticks.append(at)
            names.append(f"{row.comparison} ({row.seeds} x {row.images})")
        at += 2
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="difference of Dice, paired, with 95 % interval; in brackets: seeds x images", ylim=(at - 1, -1))
    ax.set_yticks(ticks, names, fontsize=7)
    return fig
