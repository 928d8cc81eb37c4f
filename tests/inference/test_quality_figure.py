"""The pictures of a full report: the stated ranges, and nothing drawn of a result that is not there."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from mptpn.inference.quality_figure import PANELS, View, draw, sheet


@pytest.fixture
def view() -> View:
    random = np.random.default_rng(0)
    clean = 100 + np.add.outer(np.arange(45.0), np.arange(70.0))
    sigma = np.full(clean.shape, 5.0)
    noisy, valid = clean + random.normal(0, 5, clean.shape), np.ones(clean.shape, bool)
    region = (slice(5, 35), slice(10, 40))
    return View(
        noisy,
        valid,
        (90.0, 220.0),
        region,
        20,
        "HU",
        denoised=clean,
        uncertainty=sigma / 3,
        sigma=sigma,
        method="a method",
    )


def drawn(name: str, view: View):
    ax = Figure().add_subplot()
    draw(ax, name, view)
    return ax


def test_same_view_gives_the_same_bytes(view):
    assert sheet(view, words="a\nb") == sheet(view, words="a\nb")


def test_pictures_show_the_region_over_the_stated_ranges(view):
    for name, array, limits in (
        ("noisy", view.noisy, view.window),
        ("denoised", view.denoised, view.window),
        ("residual", view.noisy - view.denoised, (-15.0, 15.0)),
        ("uncertainty", view.uncertainty, (0.0, 5.0)),
    ):
        (image,) = drawn(name, view).images
        assert image.get_clim() == limits and (image.get_array() == array[5:35, 10:40]).all(), name


def test_range_of_residual_does_not_follow_the_strength(view):
    weaker = replace(view, denoised=(view.noisy + view.denoised) / 2)
    assert drawn("residual", weaker).images[0].get_clim() == drawn("residual", view).images[0].get_clim()


def test_profile_is_the_row_of_the_whole_image_within_the_regions_columns(view):
    noisy, denoised = drawn("profile", view).lines
    assert (noisy.get_ydata() == view.noisy[20, 10:40]).all() and (
        denoised.get_ydata() == view.denoised[20, 10:40]
    ).all()


def test_row_is_marked_only_inside_the_region(view):
    assert len(drawn("noisy", view).lines) == 1 and len(drawn("noisy", replace(view, row=40)).lines) == 0


def test_invalid_pixels_are_left_blank(view):
    view.valid[5:10] = False
    assert drawn("noisy", view).images[0].get_array().mask[:5].all() and np.isnan(view.cut(view.noisy)[:5]).all()


def test_without_a_result_only_the_noisy_image_is_drawn(view):
    bare = replace(view, denoised=None, uncertainty=None, sigma=None)
    assert [name for name in PANELS if drawn(name, bare).images] == ["noisy"]
    assert "no result" in drawn("denoised", bare).texts[0].get_text()
    unsure = replace(view, uncertainty=np.full(view.noisy.shape, np.nan))
    assert "states no uncertainty" in drawn("uncertainty", unsure).texts[0].get_text()
