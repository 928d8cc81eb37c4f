"""Figures: three files with one name that survive a failed write, and plots that are drawn from published tables."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from support import figures, plots

TABLE = pd.DataFrame({"level": [5, 12], "error_percent": [1 / 3, -2.5]})
PUBLISHED = Path(__file__).parents[2] / "figures"


@pytest.fixture
def figure():
    fig, ax = plt.subplots(figsize=(2, 1.5))
    ax.plot(TABLE.level, TABLE.error_percent)
    yield fig
    plt.close("all")


def save(figure, out, **parameters):
    about = {"notebook": "03_profound_training", "parameters": {"out": str(out), "seed": 0, **parameters}}
    return figures.save_figure(figure, "03_x", table=TABLE, out=out, **about)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_figure_is_a_picture_a_table_and_an_origin(tmp_path, figure):
    picture = save(figure, tmp_path, steps=7)
    assert sorted(contents(picture.parent)) == ["03_x.csv", "03_x.json", "03_x.png"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    pd.testing.assert_frame_equal(pd.read_csv(picture.with_suffix(".csv")), TABLE, rtol=1e-5)  # six digits are written
    origin = json.loads(picture.with_suffix(".json").read_text())
    assert (origin["name"], origin["notebook"]) == ("03_x", "03_profound_training")
    assert origin["parameters"] == {"seed": 0, "steps": 7}
    assert origin["commit"] is None or len(origin["commit"].rstrip("+")) >= 12


def test_the_same_figure_gives_the_same_bytes_wherever_it_is_written(tmp_path, figure):
    first, second = (save(figure, tmp_path / place).parent for place in ("here", "there"))
    assert contents(first) == contents(second)


def test_a_failed_write_keeps_the_old_files_and_leaves_nothing_behind(tmp_path, figure, monkeypatch):
    folder = save(figure, tmp_path).parent
    before = contents(folder)
    with pytest.raises(TypeError):
        save(figure, tmp_path, network=object())
    assert contents(folder) == before

    def disk_full(path, **settings):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(figure, "savefig", disk_full)
    with pytest.raises(OSError, match="no space"):
        save(figure, tmp_path)
    assert contents(folder) == before


def test_parameters_are_those_of_the_cell_with_their_values_now():
    values = dict.fromkeys(("out", "seed", "threads", "awgn", "images", "levels", "pairs", "others", "bins"), 0)
    assert figures.parameters("06_real_noise", values | {"seed": 3, "other": 1}) == values | {"seed": 3}


@pytest.mark.parametrize("image", [torch.eye(5, 7)[None, None].requires_grad_(), np.eye(5, 7)], ids=["batch", "array"])
def test_an_image_is_shown_over_the_stated_range_without_axes(image, figure):
    ax = figure.axes[0]
    drawn = figures.show(ax, image, low=-1, high=2)
    assert drawn.get_clim() == (-1, 2) and drawn.get_array().shape == (5, 7) and not ax.axison


@pytest.mark.parametrize("form", ["[1, 3, H, W]", "[H, W, 3]"])
def test_colour_is_shown_over_the_stated_range_too(form, figure):
    image = torch.linspace(-1, 3, 3 * 5 * 4).reshape(1, 3, 5, 4)
    shown = image if form == "[1, 3, H, W]" else image[0].permute(1, 2, 0)
    drawn = np.asarray(figures.show(figure.axes[0], shown, low=0, high=2).get_array())
    np.testing.assert_allclose(drawn, (image[0].permute(1, 2, 0) / 2).clamp(0, 1), atol=1e-6)


def test_a_level_axis_is_logarithmic_with_plain_numbers(figure):
    ax = figure.axes[0]
    figures.level_axis(ax, "y")
    figure.canvas.draw()
    assert ax.yaxis.get_scale() == "log" and not len(ax.yaxis.get_minorticklocs())
    assert [label.get_text() for label in ax.yaxis.get_ticklabels()] == ["5", "10", "20", "50"]


@pytest.mark.parametrize("name", ["w2s", "oct", "ldct_d45f", "ldct_b30f"])
def test_gains_of_real_pairs_are_drawn_from_their_table_with_a_dot_an_image(name, figure):
    table = pd.read_csv(PUBLISHED / f"07_real_pairs_{name}.csv", dtype={"image": str})
    (ax,) = plots.real_pairs(table, title=name).axes
    noisy = table[table.method == "noisy"].set_index("image").psnr_db
    for method, line in zip([m for m in table.method.unique() if m != "noisy"], ax.lines[::2], strict=False):
        rows = table[table.method == method].set_index("image").psnr_db
        assert sorted(line.get_xdata()) == pytest.approx(sorted(rows - noisy[rows.index]))
    assert ax.get_xlim()[0] <= 0


def test_the_comparison_is_drawn_from_its_table_on_the_images_that_all_methods_ran_on(figure):
    table = pd.read_csv(PUBLISHED / "10_comparison.csv")
    common = plots.on_common_images(table[table.note.isna()])
    counts = common[common.method != "Noise2Void"].groupby(["test", "method"]).image.nunique()
    assert counts.groupby("test").nunique().eq(1).all() and counts.loc["BSD68, 25"].eq(4).all()
    fig = plots.comparison(common, groups={"drawn": ["BSD68, 25"], "real": ["w2s", "oct"]})
    assert len(fig.axes) == 2 and len(fig.legends[0].get_texts()) == common.method.nunique() - 1


def test_detectability_is_drawn_from_its_table(figure):
    fig = plots.detectability(pd.read_csv(PUBLISHED / "10_safety.csv"))
    assert len(fig.axes) == 2 * 5
