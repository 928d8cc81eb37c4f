"""The explorer without a browser: a control changes the pictures it should and nothing else; faults are sentences."""

import html
import re

import numpy as np
import pytest
import tifffile
import torch

from mptpn.explore import KEPT, MODEL, NOISES, STAGE_1, Explorer, Session, Settings, added_noise_model, explore
from mptpn.inference.quality_figure import PANELS
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.weights import save_weights
from mptpn.noise import PoissonGaussian
from mptpn.random import generator
from mptpn.stages import pipeline
from support import baselines, embedded

BLUR, WIDER = "Gaussian blur, 1 px", "Gaussian blur, 2 px"
CONTROLS = "method strength noise level slice channel window centre_row centre_col size row".split()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def head(rows: slice = slice(60, 157), columns: slice = slice(70, 151)) -> np.ndarray:
    """A part of a head MR with noise, 97 x 81 px, uint16."""
    image = embedded.medical("test")[0]
    noisy = PoissonGaussian(0.05).sample(image.pixels, generator=generator(0, 1))[0, 0, rows, columns].numpy()
    return np.clip(1000 + 4000 * noisy, 0, 65535).astype(np.uint16)


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Session:
    path = tmp_path_factory.mktemp("scan") / "head.tif"
    tifffile.imwrite(path, head())
    return Session(path, minutes=0.02, baselines=baselines.filters())


@pytest.fixture
def explorer(session, tmp_path) -> Explorer:
    return Explorer(session, method=BLUR, folder=tmp_path / "saved")


def shown(explorer: Explorer) -> dict[str, bytes]:
    return {name: bytes(picture.value) for name, picture in explorer.panels.items()}


def changed(explorer: Explorer, control: str, value) -> set[str]:
    """The panels that a control changes; no other control may move."""
    before, settings = shown(explorer), {name: getattr(explorer, name).value for name in CONTROLS}
    getattr(explorer, control).value = value
    after = shown(explorer)
    assert all(getattr(explorer, name).value == settings[name] for name in CONTROLS if name != control)
    return {name for name in PANELS if before[name] != after[name]}


def status(explorer: Explorer) -> str:
    return html.unescape(re.sub("<[^>]*>", "", explorer.status.value))


@pytest.mark.parametrize("kind", NOISES[1:])
def test_added_noise_has_its_level_at_the_brightest_intensity(kind):
    clean = torch.full((1, 1, 300, 301), 400.0, dtype=torch.float64)
    model = added_noise_model(kind, sigma=20.0, brightest=400.0)
    spread = float((model.sample(clean, generator=generator(0)) - model.mean(clean)).std())
    # five standard errors; Rice's spread is 0.1 % smaller here
    assert abs(spread / 20 - 1) < 5 / (2 * clean.numel()) ** 0.5 + 0.002


@pytest.mark.parametrize("kind", NOISES[1:])
def test_noise_can_be_added_to_a_scan_below_zero_and_the_error_is_reported(kind):
    result = Session(head() - 3000.0).run(Settings(BLUR, noise=kind, level=0.1))
    assert (result.noisy != result.before).mean() > 0.99 and "before noise was added" in result.report


def test_results_are_held_and_the_oldest_is_dropped(session):
    first = session.run(Settings(BLUR))
    assert first.noisy is first.before and (first.noisy == head()).all()
    assert session.run(Settings(BLUR, level=0.3)) is first  # the level of no noise does not matter
    for i in range(KEPT):
        session.run(Settings(BLUR, noise="Gaussian", level=0.1 + 0.05 * i))
    again = session.run(Settings(BLUR))
    assert again is not first and (again.at(1.0)[0] == first.at(1.0)[0]).all()


def test_strength_is_linear_and_leaves_the_result_as_it_was(session):
    result = session.run(Settings(STAGE_1))
    (full, sigma), half = result.at(1.0), result.at(0.5)[0]
    assert (result.at(0.0)[0] == result.noisy).all() and (sigma > 0).all()
    assert np.allclose(result.noisy - half, (result.noisy - full) / 2, atol=1e-3)  # float32 of 5000
    assert (result.at(1.0)[1] == sigma).all()


def test_a_baseline_is_a_method_and_states_no_uncertainty(session):
    assert np.isnan(session.run(Settings("NLM")).at(1.0)[1]).all()


@pytest.mark.parametrize("method, noise", [("median", "none"), (MODEL, "none"), (BLUR, "pink")])
def test_unknown_method_and_noise_are_refused(session, method, noise):
    with pytest.raises(ValueError, match="choose one of"):
        session.run(Settings(method, noise=noise, level=0.1))


@pytest.mark.parametrize("level", [0.0, 1.5])
def test_a_level_outside_its_range_is_refused(level):
    with pytest.raises(ValueError, match=f"level {level}: .*share of the brightest"):
        Settings(BLUR, noise="Gaussian", level=level)


def test_a_model_file_comes_first_and_a_missing_one_is_a_sentence(tmp_path):
    network = BlindSpotNetwork(**pipeline.BLIND | {"width": 8, "depth": 1})
    path = save_weights(tmp_path / "tiny.safetensors", network, arguments=network.arguments)
    opened = Session(head(), model=path)
    assert opened.methods[0] == MODEL and np.isfinite(opened.run(Settings(MODEL)).at(1.0)[0]).all()
    with pytest.raises(FileNotFoundError):
        Session(head(), model=tmp_path / "none.safetensors").run(Settings(MODEL))


def test_a_constant_scan_and_an_unknown_first_method_are_refused(session):
    with pytest.raises(ValueError, match="nothing to explore"):
        Session(np.full((40, 41), 3.0))
    with pytest.raises(ValueError, match="'median'"):
        Explorer(session, method="median", folder="")


def test_padding_stays_as_it_is(tmp_path):
    padded = head().astype(float)
    padded[:20] = np.nan
    opened = Session(padded)
    result = opened.run(Settings(BLUR, noise="Gaussian", level=0.1))
    assert not result.valid[:20].any() and result.valid[20:].all() and (result.noisy[:20] == 0).all()
    saved = np.load(opened.save(Settings(BLUR), strength=1.0, folder=tmp_path))
    assert np.isnan(saved[:20]).all() and (saved[20:] != padded[20:]).mean() > 0.99


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


def test_the_region_moves_inside_the_image(explorer):
    assert changed(explorer, "centre_row", 10) == set()  # the whole image has nowhere to go
    explorer.size.value = 30
    assert {"noisy", "denoised", "residual", "spectrum"} <= changed(explorer, "centre_col", 60)
    explorer.centre_row.value = explorer.centre_col.value = 80
    assert explorer.view.cut(explorer.view.noisy).shape == (30, 30)


def test_only_what_is_tried_runs_again_and_the_status_says_that_it_works(explorer, monkeypatch):
    runs, words = [], []
    explorer.status.observe(lambda change: words.append(change["new"]), names="value")
    monkeypatch.setattr(explorer.session, "_run", lambda settings: runs.append(settings) or explorer.result)
    for control, value in (("strength", 0.3), ("row", 3), ("size", 20), ("centre_row", 30)):
        getattr(explorer, control).value = value
    assert runs == []
    explorer.noise.value = "speckle"
    assert len(runs) == 1 and any("working" in said for said in words) and "ready" in words[-1]


def test_the_report_marks_doubts(explorer):
    explorer.method.value = WIDER
    assert "noise, sigma" in explorer.report.value and "DOUBT" in explorer.report.value
    assert "#c00000" in explorer.report.value


def test_save_writes_what_is_shown_and_at_strength_0_the_input(explorer, tmp_path):
    explorer.strength.value = 0.7
    explorer.save.click()
    assert status(explorer).startswith(f"saved {tmp_path / 'saved/head.tif'}")
    # float32 in between, halves to even
    assert (tifffile.imread(tmp_path / "saved/head.tif") == np.rint(explorer.view.denoised)).mean() > 0.999
    explorer.strength.value = 0.0
    explorer.save.click()
    assert "exists already" in status(explorer)
    explorer.overwrite.value = True
    explorer.save.click()
    assert (tifffile.imread(tmp_path / "saved/head.tif") == head()).all()


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
    assert sentence in status(explorer) and not explorer.save.disabled
    assert "Traceback" not in "".join(capsys.readouterr())


def test_a_method_that_fails_leaves_the_noisy_image_and_a_sentence(explorer, monkeypatch, capsys):
    def fails(settings):
        raise ValueError(f"{settings.method} <fails>.")

    monkeypatch.setattr(explorer.session, "_prepared", fails)
    monkeypatch.setattr(explorer.session, "_results", {})
    monkeypatch.setattr(explorer.session, "_denoisers", {})
    explorer.method.value = WIDER
    assert status(explorer) == f"{WIDER} <fails>." and explorer.result is None
    assert explorer.view.denoised is None and (explorer.view.noisy == head()).all()
    explorer.strength.value = 0.5  # still draws
    assert "Traceback" not in "".join(capsys.readouterr())


def test_slices_of_a_volume_are_shown_one_by_one_and_saved_all(tmp_path):
    volume = np.stack([head(), head(slice(40, 137)), np.full((97, 81), 7, np.uint16)])
    explorer = explore(volume, method=BLUR, folder=tmp_path)
    explorer.slice.value = 0
    assert {"noisy", "denoised", "residual", "profile"} <= changed(explorer, "slice", 1)
    explorer.slice.value = 2
    assert "holds no noise" in status(explorer) and explorer.view.denoised is None
    explorer.save.click()
    saved = np.load(tmp_path / "array.npy")
    assert saved.dtype == volume.dtype and (saved[2] == 7).all() and (saved[:2] != volume[:2]).any()


def test_colour_is_shown_channel_by_channel_and_a_still_picture_stays(tmp_path):
    colour = np.stack([head(), head(slice(40, 137)), head(slice(50, 147))], -1)
    explorer = explore(colour, method=BLUR, folder=tmp_path)
    assert {"noisy", "denoised"} <= changed(explorer, "channel", 2) and (explorer.view.noisy == colour[..., 2]).all()
    bundle = explorer._repr_mimebundle_(include=None, exclude=None)
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle
