"""Files in, masks out, in the type and geometry of the input; and the command."""

import json

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image as Picture

from file_makers import save_dicom
from mptpn.__main__ import main
from mptpn.io import open_scan
from mptpn.segmentation import AskBack, Settings, segment_files
from segmentation_scenes import Bright, scene

TRUTH = scene() > 100


@pytest.fixture(scope="module")
def bright() -> Bright:
    return Bright()


def segmented(bright, tmp_path, *paths, prompt="nuclei", **settings):
    out = tmp_path / "out"
    found = list(segment_files(paths, bright, Settings(out, prompt, **settings)))
    said = {one.result.name: one.message for one in found if one.result}
    return out, said, {str(one.file): one.failure for one in found if not (one.result or one.passed_over)}


def png(tmp_path, name="a.png", array=None):
    Picture.fromarray(scene() if array is None else array).save(tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("kind", ["gray", "colour", "alpha", "sixteen"])
def test_the_mask_of_a_png_is_black_and_white_in_its_own_type(bright, tmp_path, kind):
    array = scene(np.uint16, 50_000) if kind == "sixteen" else scene()
    array = np.dstack([array] * 3) if kind in ("colour", "alpha") else array
    array = np.dstack([array, np.full_like(scene(), 255)]) if kind == "alpha" else array
    out, said, failures = segmented(bright, tmp_path, png(tmp_path, array=array))
    mask = np.asarray(Picture.open(out / "a.png"))
    assert not failures and mask.dtype == array.dtype and mask.shape == array.shape
    first = mask if mask.ndim == 2 else mask[..., 0]
    assert set(np.unique(first)) == {0, np.iinfo(array.dtype).max} and np.array_equal(first > 0, TRUTH)
    assert "2 pieces" in said["a.png"]


def test_overlay_instances_and_report_lie_beside_the_mask(bright, tmp_path):
    out, _, _ = segmented(bright, tmp_path, png(tmp_path), instances=True)
    report = json.loads((out / "a.png.segment.json").read_text())
    assert (report["understood"], report["count"], report["found"]) == ("nuclei", 2, True)
    assert report["area_px"] == TRUTH.sum() and report["certainty"] == 0.9 and report["inside"] == 255
    numbers = tifffile.imread(out / "a.png.instances.tif")
    assert numbers.dtype == np.uint16 and set(np.unique(numbers)) == {0, 1, 2}
    overlay = np.asarray(Picture.open(out / "a.png.overlay.png")).astype(int)
    red = overlay[..., 0] - overlay[..., 1]
    assert red[TRUTH].min() > 20 and red[~TRUTH].max() == 0


def test_a_volume_keeps_its_affine_and_each_slice_is_answered(bright, tmp_path):
    volume = np.stack([scene(np.int16), np.zeros_like(scene(np.int16)), scene(np.int16)], axis=2)
    affine = np.diag([0.5, 0.75, 2.0, 1.0])
    nibabel.Nifti1Image(volume, affine).to_filename(tmp_path / "v.nii.gz")
    out, said, failures = segmented(bright, tmp_path, tmp_path / "v.nii.gz")
    found = nibabel.load(out / "v.nii.gz")
    assert not failures and np.array_equal(found.affine, affine) and found.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(found.dataobj), (volume > 100).astype(np.int16))
    report = json.loads((out / "v.nii.gz.segment.json").read_text())
    assert report["slices_found"] == 2 and len(report["slices"]) == 3 and "2 of 3 slices" in said["v.nii.gz"]


def test_a_dicom_mask_is_a_dicom_file_of_its_size(bright, tmp_path):
    path = tmp_path / "a.dcm"
    save_dicom(path, scene(np.uint16, 2000), Modality="SM")
    out, _, failures = segmented(bright, tmp_path, path)
    assert not failures
    [written] = [p for p in out.iterdir() if p.suffix == ".dcm"]
    assert np.array_equal(open_scan(written).read(0).pixels == 1, TRUTH)


def test_a_dicom_file_of_a_modality_that_was_not_learned_from_gets_an_empty_mask(bright, tmp_path):
    save_dicom(tmp_path / "a.dcm", scene(np.uint16, 2000), Modality="CT")
    out, said, failures = segmented(bright, tmp_path, tmp_path / "a.dcm")
    assert not failures and "the file says that it is a CT (CT)" in said["a.dcm"]
    assert "learned from bright discs" in said["a.dcm"] and not open_scan(out / "a.dcm").read(0).pixels.any()


def test_not_found_is_a_result_with_an_empty_mask(bright, tmp_path):
    for prompt in ("vessels", "purple elephants"):
        out, said, failures = segmented(bright, tmp_path, png(tmp_path), prompt=prompt, overwrite=True)
        assert not failures and said["a.png"].startswith("not found: ")
        assert not np.asarray(Picture.open(out / "a.png")).any()
        report = json.loads((out / "a.png.segment.json").read_text())
        assert report["found"] is False and report["why"] and report["area_px"] == 0


def test_one_broken_file_does_not_stop_the_others(bright, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    _, said, failures = segmented(bright, tmp_path, tmp_path / "broken.png", png(tmp_path))
    assert list(said) == ["a.png"] and list(failures) == [str(tmp_path / "broken.png")]


def test_the_same_call_again_is_done_before_and_another_prompt_replaces_nothing(bright, tmp_path):
    _, first, _ = segmented(bright, tmp_path, png(tmp_path))
    _, again, failures = segmented(bright, tmp_path, png(tmp_path))
    assert again["a.png"] == f"done before; {first['a.png']}" and not failures
    _, said, failures = segmented(bright, tmp_path, png(tmp_path), prompt="large nuclei")
    assert not said and "exists already" in failures[str(tmp_path / "a.png")]


def test_a_folder_is_walked_one_scan_at_a_time_and_its_own_results_are_passed_over(bright, tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    png(folder), png(folder / "deep"), (folder / "words.txt").write_text("none")
    found = segment_files([folder], bright, Settings(folder, "nuclei"))
    assert next(found).result is None  # the result would be the input itself
    out, said, failures = segmented(bright, tmp_path, folder)
    assert (out / "deep" / "a.png").is_file() and len(said) == 1 and not failures
    left_out = list(segment_files([out], bright, Settings(tmp_path / "again", "nuclei")))
    assert all(one.passed_over for one in left_out[:-1]) and "a result of mptpn segment" in left_out[0].failure
    assert not list((tmp_path / "again").glob("*"))


def test_a_misspelt_prompt_writes_nothing(bright, tmp_path):
    with pytest.raises(AskBack, match="did you mean 'nuclei'"):
        segmented(bright, tmp_path, png(tmp_path), prompt="nuclie")
    assert not (tmp_path / "out").exists()


def test_the_image_is_denoised_before_it_is_asked(bright, tmp_path):
    out, _, _ = segmented(bright, tmp_path, png(tmp_path), denoise=lambda pixels: 255 - pixels)
    assert np.array_equal(np.asarray(Picture.open(out / "a.png")) > 0, ~TRUTH)
    assert json.loads((out / "a.png.segment.json").read_text())["denoised_first"] is True


def test_nan_pixels_are_passed_over(bright, tmp_path):
    array = scene(np.float32)
    array[0, 0] = np.nan
    np.save(tmp_path / "a.npy", array)
    out, _, failures = segmented(bright, tmp_path, tmp_path / "a.npy")
    mask = np.load(out / "a.npy")
    assert not failures and np.array_equal(mask == 1, TRUTH) and np.isnan(mask[0, 0])


def test_the_command_says_what_is_missing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("mptpn.segmentation.Segmenter.load", lambda model: Bright())
    assert main(["segment", str(png(tmp_path))]) == 1 and "--prompt" in capsys.readouterr().err
    assert main(["segment", "--prompts"]) == 0 and "vessels (bright lines)" in capsys.readouterr().out
    asked = ["segment", str(png(tmp_path)), "--out", str(tmp_path / "out"), "--prompt"]
    assert main([*asked, "nuclie"]) == 1 and "did you mean" in capsys.readouterr().err
    assert main([*asked, "vessels"]) == 0 and "not found" in capsys.readouterr().out


def test_the_command_passes_over_what_is_no_image_and_tells_where_a_fault_came_from(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("mptpn.segmentation.Segmenter.load", lambda model: Bright())
    monkeypatch.setattr(Bright, "presence", lambda *_, **__: 1 / 0)
    png(tmp_path), (tmp_path / "words.txt").write_text("none")
    asked = ["segment", str(tmp_path), "--out", str(tmp_path / "out"), "--prompt", "nuclei"]
    assert main(asked) == 1
    said = capsys.readouterr().err
    assert "(ZeroDivisionError); run it again with --debug" in said and "passed over: 1 that are no images" in said
    assert "Traceback" not in said and "line" not in said
    assert main([*asked, "--debug"]) == 1 and "in segment_scan" in capsys.readouterr().err


def test_no_such_weights_is_one_sentence(capsys, tmp_path):
    call = ["segment", str(png(tmp_path)), "--prompt", "nuclei", "--out", str(tmp_path), "--model", "none.safetensors"]
    assert main(call) == 1 and "none.safetensors: no such weights file" in capsys.readouterr().err
