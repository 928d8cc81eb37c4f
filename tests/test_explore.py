"""The explorer without a browser: each control changes the pictures it should and nothing else, and what fails is a
sentence.
"""

import html
import re

import numpy as np
import pytest
import tifffile
import torch

from mptpn.explore import Explorer, explore
from mptpn.inference.quality_figure import PANELS
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from mptpn.trials import Session
from support import embedded

BLUR, WIDER = "Gaussian blur, 1 px", "Gaussian blur, 2 px"
CONTROLS = (
    "method",
    "strength",
    "noise",
    "level",
    "slice",
    "channel",
    "window",
    "centre_row",
    "centre_col",
    "size",
    "row",
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def head(rows: slice = slice(60, 157), columns: slice = slice(70, 151)) -> np.ndarray:
    """A part of a head MR with noise, 97 x 81 px, uint16."""
    image = embedded.medical("test")[0]
    noisy = PoissonGaussian(0.05).sample(image.pixels, generator=generator(0, 1))[0, 0, rows, columns].numpy()
    return np.clip(1000 + 4000 * noisy, 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def trials(tmp_path_factory) -> Session:
    path = tmp_path_factory.mktemp("scan") / "head.tif"
    tifffile.imwrite(path, head())
    return Session(path, minutes=0.02)


@pytest.fixture
def explorer(trials, tmp_path) -> Explorer:
    return Explorer(trials, method=BLUR, folder=tmp_path / "saved")


def shown(explorer: Explorer) -> dict[str, bytes]:
    return {name: bytes(picture.value) for name, picture in explorer.panels.items()}


def changed(explorer: Explorer, control: str, value) -> set[str]:
    """The panels that a control changes; no other control may move."""
    before, settings = shown(explorer), {name: getattr(explorer, name).value for name in CONTROLS}
    getattr(explorer, control).value = value
    after = shown(explorer)
    assert {name: getattr(explorer, name).value for name in CONTROLS if name != control} == {
        k: v for k, v in settings.items() if k != control
    }
    return {name for name in PANELS if before[name] != after[name]}


def status(explorer: Explorer) -> str:
    return html.unescape(re.sub("<[^>]*>", "", explorer.status.value))


@pytest.mark.parametrize(
    ("control", "value", "panels"),
    [
        ("strength", 0.5, {"denoised", "residual", "profile"}),  # half a residual has the same spectrum over its mean
        ("window", (1500.0, 3000.0), {"noisy", "denoised", "profile"}),
        ("row", 20, {"noisy", "denoised", "profile"}),
        ("size", 40, set(PANELS) - {"uncertainty"}),  # a blur states none
        ("method", WIDER, {"denoised", "residual", "spectrum", "profile", "uncertainty"}),
        ("noise", "Gaussian", set(PANELS) - {"uncertainty"}),
        ("level", 20.0, set()),  # of no noise
    ],
)
def test_each_control_changes_the_pictures_it_should_and_moving_it_back_restores_them(explorer, control, value, panels):
    before, old = shown(explorer), getattr(explorer, control).value
    assert changed(explorer, control, value) == panels
    assert status(explorer) == "ready"
    getattr(explorer, control).value = old
    assert shown(explorer) == before


@pytest.mark.parametrize("control", ["centre_row", "centre_col"])
def test_region_moves_when_it_is_smaller_than_the_image(explorer, control):
    assert changed(explorer, control, 10) == set()  # the whole image has nowhere to go
    explorer.size.value = 40
    assert {"noisy", "denoised", "residual", "spectrum"} <= changed(explorer, control, 60)
    rows, columns = explorer.view.region
    assert rows.stop - rows.start == columns.stop - columns.start == 40


@pytest.mark.parametrize("at", [0, 80])
def test_region_stays_inside_the_image(explorer, at):
    explorer.size.value = 30
    explorer.centre_row.value = explorer.centre_col.value = at
    assert explorer.view.cut(explorer.view.noisy).shape == (30, 30)


def test_strength_0_shows_the_input_and_1_the_full_removal(explorer):
    explorer.strength.value = 0.0
    assert (explorer.view.denoised == explorer.view.noisy).all() and (explorer.view.noisy == head()).all()
    explorer.strength.value = 1.0
    assert (explorer.view.denoised == explorer.trial.at(1.0)[0]).all() and (
        explorer.view.denoised != explorer.view.noisy
    ).any()


def test_expensive_steps_run_only_when_what_is_tried_changes(explorer, monkeypatch):
    runs = []
    monkeypatch.setattr(explorer.trials, "_run", lambda choice: runs.append(choice) or explorer.trial)
    for control, value in (
        ("strength", 0.3),
        ("window", (1500.0, 3000.0)),
        ("row", 3),
        ("size", 20),
        ("centre_row", 30),
        ("centre_col", 30),
    ):
        getattr(explorer, control).value = value
    assert runs == []
    explorer.noise.value = "speckle"
    assert len(runs) == 1


def test_status_says_that_it_works_while_it_works(explorer, monkeypatch):
    said = []
    explorer.status.observe(lambda change: said.append(change["new"]), names="value")
    explorer.method.value = WIDER
    assert "working" in said[0] and "ready" in said[-1]


def test_report_names_the_noise_and_marks_doubts(explorer):
    explorer.method.value = WIDER
    assert (
        "noise, sigma" in explorer.report.value
        and "#c00000" in explorer.report.value
        and "DOUBT" in explorer.report.value
    )


def test_stage_1_states_an_uncertainty_that_grows_as_strength_falls(trials):
    explorer = Explorer(trials, method=trials.methods[0], folder="")
    full = explorer.view.uncertainty
    assert np.isfinite(full).all() and (full > 0).all()
    assert "uncertainty" in changed(explorer, "strength", 0.2)
    assert (explorer.view.uncertainty >= full * (1 - 1e-6)).all()


def test_save_at_strength_0_is_lossless_and_the_status_says_where(explorer, trials, tmp_path):
    explorer.strength.value = 0.0
    explorer.save.click()
    assert status(explorer).startswith(f"saved {tmp_path / 'saved/head.tif'}")
    assert (tifffile.imread(tmp_path / "saved/head.tif") == head()).all()


def test_save_writes_what_is_shown(explorer, tmp_path):
    explorer.strength.value = 0.7
    explorer.save.click()
    # float32 in between, halves to even
    assert (tifffile.imread(tmp_path / "saved/head.tif") == np.rint(explorer.view.denoised)).mean() > 0.999


@pytest.mark.parametrize(
    ("control", "value", "sentence"),
    [
        ("folder", "  ", "no folder is given"),
        ("folder", "/proc/nowhere", "/proc/nowhere"),
        ("noise", "Rician", "Rician noise was added"),
    ],
)
def test_what_cannot_be_saved_is_a_sentence_in_the_status(explorer, control, value, sentence, capsys):
    getattr(explorer, control).value = value
    explorer.save.click()
    assert (
        sentence in status(explorer) and "Traceback" not in "".join(capsys.readouterr()) and not explorer.save.disabled
    )


def test_earlier_result_is_kept_unless_overwriting_is_asked_for(explorer, tmp_path):
    explorer.save.click()
    old = (tmp_path / "saved/head.tif").read_bytes()
    explorer.strength.value = 0.0
    explorer.save.click()
    assert "exists already" in status(explorer) and (tmp_path / "saved/head.tif").read_bytes() == old
    explorer.overwrite.value = True
    explorer.save.click()
    assert (tifffile.imread(tmp_path / "saved/head.tif") == head()).all()


def test_method_that_fails_leaves_the_noisy_image_and_a_sentence(explorer, monkeypatch, capsys):
    monkeypatch.setattr(
        explorer.trials, "_prepared", lambda choice: (_ for _ in ()).throw(ValueError(f"{choice.method} <fails>."))
    )
    monkeypatch.setattr(explorer.trials, "_trials", {})
    monkeypatch.setattr(explorer.trials, "_denoisers", {})
    explorer.method.value = WIDER
    assert (
        status(explorer) == f"{WIDER} <fails>." and explorer.trial is None and explorer.report.value.count("<br>") == 0
    )
    assert explorer.view.denoised is None and (explorer.view.noisy == head()).all()
    explorer.strength.value = 0.5  # still draws
    assert "Traceback" not in "".join(capsys.readouterr())


def test_slices_of_a_volume_are_shown_one_by_one_and_saved_all(tmp_path):
    volume = np.stack([head(), head(slice(40, 137)), np.full((97, 81), 7, np.uint16)])
    explorer = explore(volume, method=BLUR, folder=tmp_path)
    explorer.slice.value = 0
    assert {"noisy", "denoised", "residual", "profile"} <= changed(explorer, "slice", 1) and (
        explorer.view.noisy == volume[1]
    ).all()
    explorer.slice.value = 2
    assert "holds no noise" in status(explorer) and explorer.view.denoised is None
    explorer.save.click()
    saved = np.load(tmp_path / "array.npy")
    assert (
        saved.shape == volume.shape
        and saved.dtype == volume.dtype
        and (saved[2] == 7).all()
        and (saved[:2] != volume[:2]).any()
    )


def test_colour_is_shown_channel_by_channel(tmp_path):
    colour = np.stack([head(), head(slice(40, 137)), head(slice(50, 147))], -1)
    explorer = explore(colour, method=BLUR, folder=tmp_path)
    assert {"noisy", "denoised"} <= changed(explorer, "channel", 2) and (explorer.view.noisy == colour[..., 2]).all()


def test_still_picture_stays_without_a_kernel(explorer):
    bundle = explorer._repr_mimebundle_(include=None, exclude=None)
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle


def test_unknown_method_is_refused(trials):
    with pytest.raises(ValueError, match="'median'"):
        Explorer(trials, method="median", folder="")
