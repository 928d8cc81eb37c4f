"""Figures: three files with one name, that tell where they come from and survive a failed write."""

import io
import json

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from support import figures

TABLE = pd.DataFrame({"level": [5, 12], "error_percent": [1 / 3, -2.5]})


@pytest.fixture
def figure():
    fig, ax = plt.subplots(figsize=(2, 1.5))
    ax.plot(TABLE.level, TABLE.error_percent)
    yield fig
    plt.close(fig)


def save(figure, out, *, name="03_x", table=TABLE, **parameters):
    return figures.save_figure(
        figure,
        name,
        table=table,
        notebook="03_profound_training",
        parameters={"out": str(out), "seed": 0, **parameters},
        out=out,
    )


def test_a_figure_is_a_picture_a_table_and_an_origin(tmp_path, figure):
    picture = save(figure, tmp_path, steps=7)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == ["03_x.csv", "03_x.json", "03_x.png"]
    assert picture == tmp_path / "figures" / "03_x.png" and picture.read_bytes().startswith(b"\x89PNG")
    pd.testing.assert_frame_equal(pd.read_csv(picture.with_suffix(".csv")), TABLE, rtol=1e-5)  # six digits are written
    origin = json.loads(picture.with_suffix(".json").read_text())
    assert origin["name"] == "03_x" and origin["notebook"] == "03_profound_training"
    assert origin["parameters"] == {"seed": 0, "steps": 7}
    assert (
        origin["versions"]["torch"] == torch.__version__.split("+")[0]
        or origin["versions"]["torch"] == torch.__version__
    )
    assert origin["commit"] is None or len(origin["commit"].rstrip("+")) >= 12
    assert origin["device"]


def test_the_place_of_a_run_is_no_part_of_its_origin(tmp_path, figure):
    texts = [save(figure, tmp_path / place).with_suffix(".json").read_text() for place in ("here", "there")]
    assert texts[0] == texts[1] and "here" not in texts[0]


def test_the_same_figure_gives_the_same_bytes(tmp_path, figure):
    first, second = (save(figure, tmp_path / place) for place in ("a", "b"))
    for ending in (".png", ".csv"):
        assert first.with_suffix(ending).read_bytes() == second.with_suffix(ending).read_bytes()


def test_a_failed_picture_keeps_the_old_one_and_leaves_nothing_behind(tmp_path, figure, monkeypatch):
    picture = save(figure, tmp_path)
    before = picture.read_bytes()

    def disk_full(path, **settings):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(figure, "savefig", disk_full)
    with pytest.raises(OSError, match="no space"):
        save(figure, tmp_path)
    assert picture.read_bytes() == before and len(list((tmp_path / "figures").iterdir())) == 3


def test_a_table_or_parameters_that_cannot_be_written_keep_the_old_files(tmp_path, figure):
    picture = save(figure, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    with pytest.raises(TypeError):
        save(figure, tmp_path, network=object())
    assert {path.name: path.read_bytes() for path in picture.parent.iterdir()} == before


@pytest.mark.parametrize(
    "image",
    [torch.eye(5, 7)[None, None].requires_grad_(), torch.eye(5, 7), np.eye(5, 7)],
    ids=["batch", "tensor", "array"],
)
def test_an_image_is_shown_over_the_stated_range_without_axes(image):
    fig, ax = plt.subplots()
    drawn = figures.show(ax, image, title="noisy", low=-1, high=2)
    assert (
        drawn.get_clim() == (-1, 2)
        and drawn.get_array().shape == (5, 7)
        and not ax.axison
        and ax.get_title() == "noisy"
    )
    plt.close(fig)


@pytest.mark.parametrize("form", ["[1, 3, H, W]", "[3, H, W]", "[H, W, 3]"])
def test_colour_is_shown_over_the_stated_range_too(form):
    image = torch.linspace(-1, 3, 3 * 5 * 4).reshape(1, 3, 5, 4)
    _, ax = plt.subplots()
    shown = {"[1, 3, H, W]": image, "[3, H, W]": image[0], "[H, W, 3]": image[0].permute(1, 2, 0)}[form]
    drawn = np.asarray(figures.show(ax, shown, low=0, high=2).get_array())
    np.testing.assert_allclose(drawn, (image[0].permute(1, 2, 0) / 2).clamp(0, 1), atol=1e-6)


def test_every_method_has_a_colour_of_its_own():
    assert len(set(figures.COLOURS.values())) == len(figures.COLOURS)


def test_the_look_is_set_for_every_figure_after_it():
    with matplotlib.rc_context():
        figures.look()
        assert matplotlib.rcParams["image.cmap"] == "gray" and not matplotlib.rcParams["axes.spines.top"]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_level_axis_is_logarithmic_with_plain_numbers(axis):
    fig, ax = plt.subplots()
    figures.level_axis(ax, axis)
    fig.canvas.draw()
    side = getattr(ax, f"{axis}axis")
    assert (
        side.get_scale() == "log"
        and [label.get_text() for label in side.get_ticklabels()] == ["5", "10", "20", "50"]
        and not len(side.get_minorticklocs())
    )
    plt.close(fig)


def test_moving_a_control_redraws_the_picture():
    dark, bright = torch.zeros(1, 1, 9, 13), torch.ones(1, 1, 9, 13)
    widget = figures.browse({"dark": {"noisy": dark}, "bright": {"noisy": bright}})
    (image, gray), picture = widget.children[0].children, widget.children[1]
    seen = [picture.value]
    image.value = "bright"
    seen.append(picture.value)
    gray.value = (0.0, 1.2)
    seen.append(picture.value)
    middle = [plt.imread(io.BytesIO(png))[..., 0] for png in seen]
    height, width = middle[0].shape
    levels = [float(pixels[height * 2 // 3, width // 2]) for pixels in middle]
    # black, then white, then white at 1 / 1.2 of the range; 8-bit pictures
    assert levels == pytest.approx([0, 1, 1 / 1.2], abs=0.01)
