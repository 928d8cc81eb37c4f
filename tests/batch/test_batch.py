"""The command denoises files and folders: the same type comes out, one file's fault is its own, an interrupted call
goes on, a report is beside the result.
"""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partialmethod
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image as Picture

from file_makers import PATIENT, save_dicom
from mptpn.__main__ import main
from mptpn.batch import Settings, denoise_files, report, scans
from mptpn.inference import NoisyImages, quality_figure, sampling
from mptpn.io import Writer, open_scan
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import save_weights
from mptpn.random import generator

SMALL = {
    "channels": 1,
    "widths": (8, 8),
    "intervals": ((2,), (2,)),
    "blocks": 1,
    "head_dim": 8,
    "unshuffle": 2,
    "mlp_ratio": 1.0,
    "bias": "relative",
}
pytestmark = pytest.mark.filterwarnings("ignore")  # an untrained network is loudly doubted


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Random weights: they change every pixel, which is all that these tests need."""
    torch.manual_seed(0)
    network = RetractableTransformer(**SMALL)
    for weights in network.parameters():
        torch.nn.init.normal_(weights, std=0.1)
    return save_weights(tmp_path_factory.mktemp("model") / "small.safetensors", network, arguments=SMALL)


@pytest.fixture(autouse=True)
def all_is_applied(request, monkeypatch):
    """Random weights are a sure loss, of which nothing would be applied."""
    if "safeguard" not in request.keywords:
        monkeypatch.setattr("mptpn.batch.scans.common_share", lambda _: 1.0)


def noisy(shape=(65, 70), *, seed=0, level=6.0) -> np.ndarray:
    """Discs and noise around 100, float64."""
    rows, cols = torch.arange(shape[-2])[:, None], torch.arange(shape[-1])
    clean = 100 + 40.0 * ((rows - 30) ** 2 + (cols - 25) ** 2 < 300)
    return (clean + level * torch.randn(shape, generator=generator(seed))).double().numpy()


def rounded(array, dtype):
    return array.round().astype(dtype)


def make(folder, kind: str):
    """A file of this kind, three slices where it can hold them; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    volume = noisy((3, 65, 70))
    if kind == "dicom, signed 12 bit":
        return save_dicom(
            folder / "a.dcm",
            rounded(volume[0], "i2"),
            bits=12,
            RescaleSlope=2,
            RescaleIntercept=-1024,
            RescaleType="HU",
        )
    if kind == "dicom series":
        for number, pixels in enumerate(volume):
            save_dicom(folder / f"s/{number}.dcm", rounded(pixels, "u2"), number=number + 1, place=2.0 * number)
        return folder / "s"
    if kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(rounded(volume, "i2").T, np.diag([1, 2, 3, 1])), folder / "a.nii.gz")
        return folder / "a.nii.gz"
    if kind == "tiff, 16 bit pages":
        tifffile.imwrite(folder / "a.tif", rounded(volume, "u2"), photometric="minisblack")
        return folder / "a.tif"
    if kind == "tiff, float":
        tifffile.imwrite(folder / "a.tif", volume[0].astype("f4"))
        return folder / "a.tif"
    if kind in ("png, 8 bit", "png, 16 bit"):
        Picture.fromarray(rounded(volume[0], "u1" if "8" in kind else "u2")).save(folder / "a.png")
        return folder / "a.png"
    if kind == "png, colour":
        Picture.fromarray(rounded(volume.transpose(1, 2, 0), "u1")).save(folder / "a.png")
        return folder / "a.png"
    np.save(folder / "a.npy", volume.astype(kind.split()[1]))
    return folder / "a.npy"


KINDS = (
    "dicom, signed 12 bit",
    "dicom series",
    "nifti",
    "tiff, 16 bit pages",
    "tiff, float",
    "png, 8 bit",
    "png, 16 bit",
    "png, colour",
    "npy f8",
    "npy i4",
)


def stored(path) -> list[np.ndarray]:
    from mptpn.io import open_scans

    (scan,), _ = open_scans([path])
    return [scan.samples(i).copy() for i in range(scan.slices)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_type_comes_back_and_strength_0_changes_nothing(kind, model, tmp_path):
    path = make(tmp_path / "in", kind)
    for strength, equal in ((0.0, True), (1.0, False)):
        written, failures = denoise_files(
            [path], Settings(tmp_path / f"out{strength}", model=model, strength=strength, report="none")
        )
        assert not failures and len(written) == 1
        before, after = stored(path), stored(written[0])
        assert [x.dtype.newbyteorder("=") for x in before] == [x.dtype.newbyteorder("=") for x in after]
        assert all(np.array_equal(a, b) == equal for a, b in zip(before, after, strict=True))


def test_the_result_is_a_better_image_when_a_network_learns_from_the_scan_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mptpn.inference.noisy_images.NoisyImages.fit", partialmethod(NoisyImages.fit, steps=80)
    )  # and not the clock's
    clean = noisy(level=0.0)
    np.save(tmp_path / "a.npy", noisy().astype("f4"))
    (path,), failures = denoise_files([tmp_path / "a.npy"], Settings(tmp_path / "out", model="self", minutes=9.0))
    assert not failures and np.square(np.load(path) - clean).mean() < 0.5 * np.square(noisy() - clean).mean()


def test_the_report_has_the_noise_in_the_scan_s_unit_and_no_patient(model, tmp_path, capfd):
    path = make(tmp_path / "in", "dicom, signed 12 bit")
    (out,), _ = denoise_files([path], Settings(tmp_path / "out", model=model))
    about = json.loads((tmp_path / "out/a.dcm.trust.json").read_text())
    low, high = about["noise"][0]["sigma_interval"]
    assert about["unit"] == "HU" and low < 12 < high  # 6 stored levels of 2 HU
    assert {"shift", "size", "whiteness", "structure", "model"} <= set(about["judged"][0]["checks"])
    assert Picture.open(tmp_path / "out/a.dcm.trust.png").size[0] > 800
    said = (tmp_path / "out/a.dcm.trust.json").read_text() + "".join(capfd.readouterr())
    assert PATIENT not in said and "JANE" not in said


def test_uncertainty_is_written_slice_by_slice_and_grows_as_the_strength_falls(model, tmp_path):
    path = make(tmp_path / "in", "tiff, 16 bit pages")
    found = {}
    for strength in (0.0, 1.0):
        denoise_files([path], Settings(tmp_path / f"out{strength}", model=model, strength=strength, uncertainty=True))
        found[strength] = np.load(tmp_path / f"out{strength}/a.tif.uncertainty.npy")
    assert found[0.0].shape == (3, 65, 70) and found[0.0].dtype == np.float32
    assert np.median(found[0.0]) == pytest.approx(6, rel=0.15) and (found[0.0] >= found[1.0]).all()


def test_a_failure_half_way_keeps_what_is_done_and_the_next_call_goes_on(model, tmp_path, monkeypatch):
    path = make(tmp_path / "in", "tiff, 16 bit pages")
    whole, _ = denoise_files([path], Settings(tmp_path / "whole", model=model))
    asked, real = [], scans.denoise_slice

    def failing(slice, *rest):
        asked.append(len(asked))
        if len(asked) == 3:
            raise ValueError("the third slice is a bad one")
        return real(slice, *rest)

    monkeypatch.setattr(scans, "denoise_slice", failing)
    settings = Settings(tmp_path / "out", model=model)
    written, failures = denoise_files([path], settings)
    assert (
        not written
        and failures == {str(path): f"{path}: the third slice is a bad one"}
        and not (tmp_path / "out/a.tif").exists()
    )
    asked.append("and only the third is asked for again")
    written, failures = denoise_files([path], settings)
    assert not failures and len(asked) == 5
    assert all(np.array_equal(a, b) for a, b in zip(stored(written[0]), stored(whole[0]), strict=True))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_an_interrupted_scan_keeps_the_network_that_it_learned(tmp_path, monkeypatch):
    """Learned again, the slices after the interruption would not match those before."""
    path = make(tmp_path / "in", "tiff, 16 bit pages")
    learned, fit = [], NoisyImages.fit
    monkeypatch.setattr(
        NoisyImages, "fit", lambda self, **settings: learned.append(1) or fit(self, minutes=1.0, steps=5, seed=0)
    )
    own, count = scans.denoise_slice, []

    def fails_once(*arguments):
        count.append(1)
        if len(count) == 2:
            raise OSError("disk")
        return own(*arguments)

    monkeypatch.setattr(scans, "denoise_slice", fails_once)
    settings, kept = Settings(tmp_path / "out", model="self"), tmp_path / "out"
    assert denoise_files([path], settings)[1] and list(kept.glob(".a.tif.*.network.safetensors"))
    assert not denoise_files([path], settings)[1] and learned == [1]
    assert [file.name[:5] for file in kept.iterdir()] == ["a.tif"] * 3


def test_one_bad_file_does_not_stop_the_others(model, tmp_path, capsys):
    make(tmp_path / "in", "png, 8 bit")
    (tmp_path / "in/b.png").write_text("no picture")
    np.save(tmp_path / "in/c.npy", np.full((40, 40), 7.0))
    code = main(["denoise", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", str(model)])
    said = capsys.readouterr()
    assert code == 1 and f"{tmp_path / 'out/a.png'}: do not use; no estimate of the gain: only " in said.out
    lines = [line for line in said.err.replace("\r", "\n").splitlines() if line.startswith("mptpn denoise:")]
    assert len(lines) == 2 and "b.png" in lines[0] and "c.npy: no slice of at least 16 x 16 px holds noise" in lines[1]
    names = ["a.png", "a.png.trust.json", "a.png.trust.png", "results.trust.csv"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names


def pickle_as_weights(folder):
    path = folder / "w.safetensors"
    torch.save({"a": torch.ones(1)}, path)
    return path


WRONG = {
    "no such model": (
        lambda folder, image, model: ["--model", folder / "none.safetensors"],
        r"none.safetensors: no such weights file; give one",
    ),
    "a pickle as model": (
        lambda folder, image, model: ["--model", pickle_as_weights(folder)],
        r"w.safetensors: not a safetensors file .*pickled",
    ),
    "the input's own folder": (
        lambda folder, image, model: ["--model", model, "--out", image.parent],
        r"a.png: is the input itself; choose another",
    ),
    "too little memory": (
        lambda folder, image, model: ["--model", model, "--memory", "20M"],
        r"memory of 20 MiB is too little, .* holds [0-9]+ MiB already",
    ),
    "no budget": (
        lambda folder, image, model: ["--model", "self", "--minutes", "0"],
        r"minutes 0.*: give a finite budget above 0",
    ),
    "out is a file": (lambda folder, image, model: ["--model", model, "--out", model], r"small.safetensors"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_in_one_sentence(name, model, tmp_path, capsys):
    image = make(tmp_path / "in", "png, 8 bit")
    given, said = WRONG[name]
    before = image.read_bytes(), model.read_bytes()
    code = main([str(x) for x in ("denoise", image, "--out", tmp_path / "out", *given(tmp_path, image, model))])
    lines = [
        line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("mptpn denoise:")
    ]
    import re

    assert code == 1 and len(lines) == 1 and re.search(said, lines[0]), lines
    assert (image.read_bytes(), model.read_bytes()) == before
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


@pytest.mark.parametrize(
    "given",
    [("--strength", "1.1"), ("--strength", "nan"), ("--memory", "much"), ("--memory", "0"), ("--report", "long"), ()],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_done(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["denoise", str(tmp_path), *([] if not given else ["--out", str(tmp_path / "o")]), *given])
    assert stop.value.code == 2 and not (tmp_path / "o").exists() and capsys.readouterr().err


def test_an_earlier_result_is_replaced_on_demand_alone(model, tmp_path):
    path = make(tmp_path / "in", "png, 8 bit")
    first, _ = denoise_files([path], Settings(tmp_path / "out", model=model, report="none"))
    kept = first[0].read_bytes()
    weaker = Settings(tmp_path / "out", model=model, report="none", strength=0.5)
    written, failures = denoise_files([path], weaker)
    assert not written and "exists already" in failures[str(path)] and first[0].read_bytes() == kept
    written, failures = denoise_files(
        [path], Settings(tmp_path / "out", model=model, report="none", strength=0.5, overwrite=True)
    )
    assert not failures and written[0].read_bytes() != kept


def test_slices_of_nothing_stay_as_they_are(model, tmp_path):
    volume = np.stack([np.zeros((65, 70)), noisy(), np.zeros((65, 70))]).astype("f4")
    np.save(tmp_path / "v.npy", volume)
    settings = Settings(tmp_path / "out", model=model, report="none")
    (path,), failures = denoise_files([tmp_path / "v.npy"], settings)
    after = np.load(path)
    assert not failures and (after[[0, 2]] == 0).all() and not np.array_equal(after[1], volume[1])


@pytest.mark.safeguard
@pytest.mark.parametrize("report", ["none", "short"])
def test_a_sure_loss_is_not_applied_whatever_the_report(model, tmp_path, report):
    np.save(tmp_path / "a.npy", noisy())
    (path,), _ = denoise_files([tmp_path / "a.npy"], Settings(tmp_path / "out", model=model, report=report))
    assert np.abs(np.load(path) - noisy()).max() < 0.05 * 6


def test_a_series_does_not_flicker(tmp_path, monkeypatch):
    """Six slices of one scene under fresh noise: their means, and their distances from the scene, stay alike. A noise
    model for each slice alone would move them.
    """
    monkeypatch.setattr("mptpn.inference.noisy_images.NoisyImages.fit", partialmethod(NoisyImages.fit, steps=40))
    volume = np.stack([noisy(seed=i) for i in range(6)])
    np.save(tmp_path / "v.npy", volume.astype("f4"))
    (path,), _ = denoise_files([tmp_path / "v.npy"], Settings(tmp_path / "out", model="self", minutes=9.0))
    after = np.load(path).astype("f8")
    assert np.ptp((after - volume).mean((1, 2))) < 0.05 * 6 and after.mean((1, 2)) == pytest.approx(
        volume.mean((1, 2)), abs=0.5
    )
    errors = np.square(after - noisy(level=0.0)).mean((1, 2)) ** 0.5
    assert np.ptp(errors) < 0.35 * errors.mean()


def test_ctrl_c_leaves_no_half_written_file_and_the_next_call_goes_on(model, tmp_path):
    shot = noisy((200, 220))
    np.save(tmp_path / "v.npy", np.stack([shot + i for i in range(400)]).astype("f4"))
    command = [
        sys.executable,
        "-m",
        "mptpn",
        "denoise",
        str(tmp_path / "v.npy"),
        "--out",
        str(tmp_path / "out"),
        "--model",
        str(model),
    ]
    # a job in the background inherits that it is ignored
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **heard)
    part, until = None, time.monotonic() + 120
    while time.monotonic() < until and not (part and part.stat().st_size > 6 * 16) and process.poll() is None:
        part = next((tmp_path / "out").glob(".v.npy.*.part.sums"), None)
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped; give the same command again and it goes on" in said
    assert not (tmp_path / "out/v.npy").exists() and part.stat().st_size > 0
    done = part.stat().st_size // 16 - 1
    scan, note = open_scan(tmp_path / "v.npy"), Settings(tmp_path / "out", model=model).note
    with Writer(scan, tmp_path / "out", note=note) as writer:
        assert writer.done == done > 0
        for i in range(done, 400):
            writer.write(i, np.zeros((200, 220)))
    assert np.load(tmp_path / "out/v.npy").shape == (400, 200, 220)


def test_noise_of_a_volume_is_that_of_its_slices_in_its_unit(tmp_path, capsys):
    make(tmp_path / "in", "dicom, signed 12 bit")
    assert main(["noise", str(tmp_path / "in"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["unit"] == "HU" and found["sigma_interval"][0] < 12 < found["sigma_interval"][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["noise", str(tmp_path / "in/a.dcm"), str(tmp_path / "none.png")]) == 1
    said = capsys.readouterr()
    assert "a.dcm: " in said.out and "none.png: no such file" in said.err


def test_the_verdict_is_one_line_a_file_and_strict_exits_with_3(model, tmp_path, capsys):
    image = make(tmp_path / "in", "png, 8 bit")
    common = ["denoise", str(image), "--model", str(model), "--out"]
    assert main([*common, str(tmp_path / "first")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{tmp_path / 'first/a.png'}: do not use; no estimate of the gain: only ")
    assert main([*common, str(tmp_path / "second"), "--strict"]) == 3
    about = json.loads((tmp_path / "first/a.png.trust.json").read_text())
    assert about["verdict"] == "do not use" and next(iter(about)) == "verdict"


@pytest.mark.parametrize(("kind", "files"), [("none", 1), ("short", 3), ("full", 3)])
def test_the_report_is_as_long_as_asked(model, tmp_path, kind, files):
    image = make(tmp_path / "in", "png, 8 bit")
    _, failures = denoise_files([image], Settings(tmp_path / "out", model=model, report=kind))
    assert not failures and len(list((tmp_path / "out").iterdir())) == files


def test_the_short_report_shows_three_pictures_and_the_verdict(model, tmp_path):
    image = make(tmp_path / "in", "png, 8 bit")
    denoise_files([image], Settings(tmp_path / "out", model=model))
    with Picture.open(tmp_path / "out/a.png.trust.png") as shown:
        pixels = np.asarray(shown.convert("L"))
    assert pixels.shape[1] > 1000 and pixels.std() > 20


@pytest.mark.parametrize("kind", ["short", "full"])
@pytest.mark.parametrize(("strength", "share"), [(0.0, 1.0), (1.0, 0.0), (0.5, 0.6)])
def test_what_the_report_shows_as_removed_was_removed_from_the_written_image(
    model, tmp_path, monkeypatch, kind, strength, share
):
    image, shown = noisy(), []
    np.save(tmp_path / "a.npy", image)
    gray, sheet = report._gray, quality_figure.sheet

    def seen(view, *, words):
        shown.extend((view.noisy, view.denoised, view.noisy - view.denoised))
        return sheet(view, words=words)

    monkeypatch.setattr(scans, "common_share", lambda _: share)
    monkeypatch.setattr(report, "_gray", lambda array, *ends: shown.append(array) or gray(array, *ends))
    monkeypatch.setattr(quality_figure, "sheet", seen)
    settings = Settings(tmp_path / "out", model=model, strength=strength, report=kind)
    (path,), _ = denoise_files([tmp_path / "a.npy"], settings)
    written = np.load(path)
    for array, wanted in zip(shown, (image, written, image - written), strict=True):
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-9)
    assert (written == image).all() == (strength * share == 0)
    about = json.loads(path.with_name("a.npy.trust.json").read_text())
    assert about["written_share"] == [round(strength * share, 4)]


def test_the_report_says_that_gain_and_checks_are_of_more_than_is_written():
    one = SimpleNamespace(assessment=SimpleNamespace(message="estimated gain 3.0 dB"))
    assert report._message(one, 1.0) == "estimated gain 3.0 dB"
    assert report._message(one, 0.3).endswith("are of the full removal, 30 % of it is written")


def test_a_large_slice_whose_middle_is_constant_is_denoised_without_a_report(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "PIXELS", 100 * 100)
    monkeypatch.setattr(sampling, "PIECE", 64)
    monkeypatch.setattr(scans, "MIDDLE", 64)
    image = noisy((192, 193))
    image[60:140, 60:140] = 7.0
    np.save(tmp_path / "a.npy", image)
    (path,), failures = denoise_files([tmp_path / "a.npy"], Settings(tmp_path / "out", model=model))
    assert not failures and not np.array_equal(np.load(path), image)
    assert sorted((tmp_path / "out").iterdir()) == [path]
