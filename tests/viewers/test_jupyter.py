"""The explorer without a browser: what each control changes, what it says, and what it writes."""

import html
import io
import re
import time

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

pytest.importorskip("anywidget", reason="anywidget is not installed: pip install mptpn[notebooks]")

import mptpn  # noqa: E402
from mptpn.viewers import controls, pictures, samples  # noqa: E402
from mptpn.viewers.session import FILE  # noqa: E402
from viewer_images import noisy  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """An explorer with its first result; tests leave it as it was."""
    path = tmp_path_factory.mktemp("scan") / "cells.tif"
    tifffile.imwrite(path, noisy())
    explorer = mptpn.explore(path, folder=path.parent / "saved")
    explorer.wait()
    return explorer


def said(widget) -> str:
    return html.unescape(re.sub("<[^>]*>", "", widget.value.replace("<br>", "\n")))


def shown(explorer) -> dict[str, np.ndarray]:
    """The pictures by the first word of their names."""
    return {
        one["name"].split(",")[0]: np.asarray(Image.open(io.BytesIO(one["png"]))) for one in explorer.canvas.pictures
    }


def test_it_opens_with_auto_and_says_noise_verdict_and_every_check(opened):
    result = opened.session.results["auto"]
    assert opened.chosen == ["auto"] and list(shown(opened)) == ["noisy", "auto", "removed", "uncertainty"]
    assert (result.denoised() == mptpn.denoise(noisy().astype(np.float32)).image).all()
    assert said(opened.noise) == f"noise: {str(result.noise).splitlines()[0]}"
    report = said(opened.reports[0]).splitlines()
    assert report[0].startswith(f"{result.assessment.verdict.upper()}: ")
    assert all(any(check.verdict in line for line in report) for check in result.assessment.quality.checks)


def test_without_a_scan_it_opens_a_real_one():
    explorer = mptpn.explore()
    explorer.wait()
    assert explorer.slices.scan.path == samples.sample("chest CT") and "USE" in said(explorer.reports[0])


def test_the_first_view_takes_at_most_two_seconds_and_does_not_wait_for_the_result():
    array = noisy((512, 512))
    started = time.thread_time()
    explorer = mptpn.explore(array)
    assert time.thread_time() - started < 2  # of this thread: others may have the core
    assert list(shown(explorer)) == ["noisy"] and explorer.session.results == {}
    explorer.halt()
    explorer.session.job.wait()


def test_a_slider_takes_at_most_three_tenths_of_a_second(opened):
    taken = []
    for value in (0.5, 0.25, 1.0):
        started = time.thread_time()
        opened.strength.value = value
        taken.append(time.thread_time() - started)
    assert max(taken) * 512**2 / (97 * 81) < 0.3 * 10  # this image is 33 times as small; a fixed part is the same
    assert max(taken) < 0.3


def test_strength_0_shows_the_input_and_leaves_the_noisy_picture(opened):
    before = shown(opened)
    opened.strength.value = 0.0
    after = shown(opened)
    assert (after["noisy"] == before["noisy"]).all() and (after["auto"] == after["noisy"]).all()
    assert (after["removed"] == after["removed"][0, 0]).all()  # nothing
    opened.strength.value = 1.0
    assert all((shown(opened)[name] == before[name]).all() for name in before)


@pytest.mark.parametrize(
    ("preset", "ends"), [("CT soft tissue (400 / 40)", (-160, 240)), ("CT lung (1500 / -600)", (-1350, 150))]
)
def test_presets_are_windows_of_level_and_width(opened, preset, ends):
    before = shown(opened)
    opened.preset.value = preset
    assert opened.window.value == ends and (shown(opened)["noisy"] != before["noisy"]).any()
    opened.preset.value = pictures.AUTO
    assert (shown(opened)["noisy"] == before["noisy"]).all()


def test_the_window_is_a_straight_line_of_grays():
    gray = pictures.eight_bits(np.array([[-200.0, -160.0, 60.0, 240.0, 300.0, np.nan]]), -160, 240)
    assert gray.tolist() == [[0, 0, 140, 255, 255, 0]]


def test_three_methods_are_compared_and_a_known_result_is_not_made_again(opened, monkeypatch):
    opened.methods[1].value = "small"
    opened.methods[2].value = "correlated"
    opened.wait()
    assert opened.chosen == ["auto", "small", "correlated"] == list(opened.session.results)
    assert list(shown(opened))[:4] == ["noisy", "auto", "small", "correlated"]
    assert [bool(report.value) for report in opened.reports] == [True] * 3
    monkeypatch.setattr(opened.session, "denoise", lambda method: pytest.fail("it ran again"))
    opened.methods[1].value = opened.methods[2].value = controls.NONE
    opened.methods[1].value = "small"
    opened.methods[1].value = controls.NONE
    assert list(shown(opened)) == ["noisy", "auto", "removed", "uncertainty"]


def test_swipe_is_told_to_the_canvas(opened):
    opened.mode.value = "swipe"
    assert (opened.canvas.mode, opened.canvas.pair) == ("swipe", [0, 1])
    opened.mode.value = "side by side"


def test_slices_and_channels_are_chosen_one_by_one():
    volume = np.stack([np.stack([noisy((40, 48), seed=4 * z + c) for c in range(2)]) for z in range(3)])
    explorer = mptpn.explore(volume)  # axes TCYX are guessed
    assert explorer.slices.scan.axes.names == "TCYX" and explorer.slice.max == 2 and len(explorer.channel.options) == 2
    explorer.slice.value, explorer.channel.value = 2, 1
    assert (explorer.session.region.array == volume[2, 1]).all()
    explorer.wait()
    assert (explorer.session.results["auto"].denoised() != volume[2, 1]).any()


def test_colour_is_shown_and_denoised_as_colour():
    colour = np.stack([noisy((48, 40), seed=i) for i in range(3)], -1)
    explorer = mptpn.explore(colour)
    explorer.wait()
    assert shown(explorer)["noisy"].shape == (48, 40, 3) and not explorer.channel.options[1:]
    same = mptpn.denoise(colour.astype(np.float32)).image
    assert (explorer.session.results["auto"].denoised() == same).all()


def test_padding_stays_as_it_is():
    padded = noisy().astype(np.float32)
    padded[:20] = np.nan
    explorer = mptpn.explore(padded)
    explorer.wait()
    result = explorer.session.results["auto"]
    assert (result.change[:20] == 0).all() and (result.change[20:] != 0).mean() > 0.99


def test_what_is_in_view_is_denoised_and_the_rest_stays_noisy():
    array = noisy((160, 200))
    explorer = mptpn.explore(array)
    explorer.halt()
    explorer.session.job.wait()
    explorer.canvas.visible = [20, 84, 30, 94]
    explorer.part.value = controls.VISIBLE
    explorer.wait()
    assert explorer.session.results["auto"].change.shape == (64, 64)
    before, after = shown(explorer)["noisy"], shown(explorer)["auto"]
    inside = np.zeros(array.shape, bool)
    inside[20:84, 30:94] = True
    assert (before[~inside] == after[~inside]).all() and (before[inside] != after[inside]).mean() > 0.5


def test_a_stop_keeps_what_is_there_and_nothing_waits(opened):
    opened.methods[1].value = "base"
    opened.halt()
    opened.session.job.wait()
    time.sleep(0.1)
    assert "stopped denoising (base); what was there before stays." == said(opened.status)
    assert "auto" in opened.session.results and "base" not in opened.session.results
    opened.methods[1].value = controls.NONE
    opened.wait()


def test_another_slice_replaces_what_runs():
    stack = np.stack([noisy((64, 64), seed=i) for i in range(5)])
    explorer = mptpn.explore(stack)
    explorer.slice.value = 0
    explorer.slice.value = 4
    explorer.wait()
    assert (explorer.session.results["auto"].region.array == stack[4]).all()


def test_both_prompts_are_answered_in_the_picture_that_is_chosen(opened):
    opened.prompts[0].value, opened.prompts[1].value = "nuclei", "vessels"
    opened.asked.value = "denoised"
    opened.ask()
    opened.wait()
    assert len(opened.masks.pictures) == 2 and opened.masks.size == [97, 81]
    assert said(opened.status).count("not found: ") == sum("not found" in one["name"] for one in opened.masks.pictures)
    for prompt in opened.prompts:
        prompt.value = ""
    opened.ask()
    assert said(opened.status).startswith("the prompt is empty")
    opened.asked.value = "noisy"


def test_a_mask_is_seen_over_the_picture():
    gray, mask = np.full((9, 9), 100, np.uint8), np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    over = pictures.with_mask(gray, mask)
    assert (over[~mask] == 100).all() and (over[mask] != 100).any(-1).all()


def test_save_writes_what_mptpn_denoise_writes_and_at_strength_0_the_input(opened, tmp_path):
    opened.folder.value, opened.strength.value = str(tmp_path / "saved"), 0.0
    opened.write()
    opened.session.job.wait()
    saved = tmp_path / "saved/cells.tif"
    assert said(opened.status) == f"saved {saved}" and (tifffile.imread(saved) == noisy()).all()
    opened.strength.value = 1.0
    opened.write()
    opened.session.job.wait()
    assert "exists" in said(opened.status)
    opened.overwrite.value = True
    opened.write()
    opened.session.job.wait()
    assert (tifffile.imread(saved) == opened.session.results["auto"].denoised().round()).mean() > 0.99
    opened.folder.value = "  "
    opened.write()
    assert said(opened.status) == "no folder is given; name one to save into."


@pytest.mark.parametrize(
    "name", ["nowhere.tif", "text.png", "empty.npy", "constant.npy", "complex.npy", "small.npy", ""]
)
def test_a_file_that_is_no_image_is_one_sentence_and_the_old_one_stays(opened, tmp_path, name, capfd):
    (tmp_path / "text.png").write_text("no image")
    arrays = {"empty": np.zeros((0, 9)), "constant": np.full((40, 41), 3.0), "complex": noisy() + 1j}
    for stem, array in (arrays | {"small": noisy((5, 6))}).items():
        np.save(tmp_path / f"{stem}.npy", array)
    before = opened.slices
    opened.choose(str(tmp_path / name) if name else "")
    assert said(opened.status) and "\n" not in said(opened.status) and opened.slices is before
    assert name in said(opened.status) and "Traceback" not in "".join(capfd.readouterr())


def test_a_weights_file_that_is_none_is_one_sentence_and_the_field_is_there_only_then(opened, tmp_path):
    assert opened.weights.layout.display == "none"
    (tmp_path / "notes.safetensors").write_text("no weights")
    opened.methods[1].value = FILE
    assert opened.weights.layout.display == ""
    opened.weights.value = str(tmp_path / "notes.safetensors")
    opened.wait()
    assert "not a safetensors file" in said(opened.status) and "auto" in shown(opened)
    opened.methods[1].value, opened.weights.value = controls.NONE, ""


def test_the_file_chooser_lists_samples_and_the_folder_that_is_typed(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "sub").mkdir()
    found = controls.choices(f"{tmp_path}/")
    assert found == ["sample: chest CT", "sample: abdominal MR", f"{tmp_path}/a.tif", f"{tmp_path}/sub/"]
    assert controls.choices("/nowhere/at/all") == found[:2]
    assert controls.path_of("sample: abdominal MR") == samples.sample("abdominal MR")


def test_a_still_picture_stays(opened):
    bundle = opened._repr_mimebundle_(include=None, exclude=None)
    assert bundle["image/png"].startswith(b"\x89PNG") and "application/vnd.jupyter.widget-view+json" in bundle


def test_an_unknown_scan_is_refused_at_the_door(tmp_path):
    with pytest.raises((ValueError, OSError), match="nowhere"):
        mptpn.explore(tmp_path / "nowhere.tif")
    with pytest.raises(ValueError, match="nothing to explore"):
        mptpn.explore(np.full((40, 41), 3.0))
