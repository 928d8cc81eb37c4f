"""Sets for super-resolution: high and low resolution that fit, numbers left out, the archive of DIV2K."""

import functools
import hashlib
import http.server
import os
import shutil
import threading
from types import SimpleNamespace

import pytest
import torch
from skimage.io import imsave

from mptpn.super_resolution.bicubic import as_floats, shrink
from support import super_resolution_sets as sets

real = pytest.mark.skipif(not os.environ.get("MPTPN_DATA"), reason="MPTPN_DATA names no folder of images")


def test_embedded_scenes_need_no_data_and_are_in_no_training(monkeypatch):
    monkeypatch.delenv("MPTPN_DATA", raising=False)
    for scene in sets.scenes("embedded", scale=3):
        assert scene.high.shape[2:] == tuple(3 * side for side in scene.low.shape[2:])
    assert not set(sets.EMBEDDED["train"].split()) & set(sets.EMBEDDED["test"].split())
    (images,) = sets.training_images("embedded")
    assert all(image.shape[:2] == (1, 3) and as_floats(image).max() <= 1 for image in images)


@real
@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize(
    ("name", "count"), [("Set5", 5), ("Set14", 14), ("Urban100", 20), ("ER_cells", 16), ("DIV2K_crops", 90)]
)
def test_test_sets_are_whole_and_fit_pixel_on_pixel(name, count, scale):
    found = sets.scenes(name, scale=scale)
    assert len(found) == count == len({scene.name for scene in found})
    for scene in found:
        assert scene.high.shape[2:] == tuple(scale * side for side in scene.low.shape[2:])
        if scale in (2, 4):
            # Set14's border is another, see bicubic
            assert ((shrink(scene.high, scale=scale) - scene.low)[..., 3:-3, 3:-3].abs() * 255).max() < 1.01


@real
def test_data_range_is_tested_and_not_trained_on():
    (images,) = sets.training_images("DIV2K_crops", data_range="881-900")
    held = sets.scenes("DIV2K_crops", scale=2, data_range="881-900")
    assert (len(images), len(held)) == (80, 10)
    assert not [1 for scene in held for image in images if torch.equal(scene.high, as_floats(image))]


@real
def test_natural_and_cell_images_are_mixed_as_two_sets():
    crops, cells = sets.training_images("DIV2K_crops/cell")
    assert (len(crops), len(cells)) == (90, 60) and all(image.shape[1] == 3 for image in (*crops, *cells))


def test_whole_div2k_is_found_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path))
    (tmp_path / "DIV2K_train_HR").mkdir()
    for number in (1, 800):
        imsave(tmp_path / f"DIV2K_train_HR/{number:04d}.png", (torch.rand(20, 24, 3) * 255).byte().numpy())
    assert [len(s) for s in sets.training_images.__wrapped__("DIV2K")] == [2]
    assert [len(s) for s in sets.training_images.__wrapped__("DIV2K", data_range="800-800")] == [1]


@pytest.fixture
def archive(monkeypatch, tmp_path):
    """A small DIV2K_train_HR.zip on a server of this machine, registered in the place of the real one."""
    (tmp_path / "source/DIV2K_train_HR").mkdir(parents=True)
    (tmp_path / "source/DIV2K_train_HR/0001.png").write_bytes(b"a photograph")
    shutil.make_archive(str(tmp_path / "DIV2K_train_HR"), "zip", tmp_path / "source")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    body = (tmp_path / "DIV2K_train_HR.zip").read_bytes()
    about = {"url": f"http://127.0.0.1:{httpd.server_port}/DIV2K_train_HR.zip", "size": len(body)}
    monkeypatch.setattr(sets, "DIV2K", about | {"sha256": hashlib.sha256(body).hexdigest()})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    yield tmp_path / "data"
    httpd.shutdown()
    httpd.server_close()


@pytest.mark.parametrize("empty_folder", [False, True])
def test_whole_div2k_is_downloaded_and_unpacked_where_it_is_missing(archive, empty_folder):
    if empty_folder:
        (archive / "DIV2K_train_HR").mkdir()
    assert [path.read_bytes() for path in sets._div2k()] == [b"a photograph"]
    assert [path.name for path in archive.iterdir()] == ["DIV2K_train_HR"]


def test_an_archive_with_other_bytes_or_without_an_answer_leaves_nothing(archive, monkeypatch):
    monkeypatch.setitem(sets.DIV2K, "sha256", "0" * 64)
    with pytest.raises(ValueError, match="DIV2K_train_HR.zip: sends other bytes than the registered ones"):
        sets._div2k()
    monkeypatch.setitem(sets.DIV2K, "url", "http://127.0.0.1:1/DIV2K_train_HR.zip")  # nobody may listen at port 1
    with pytest.raises(ConnectionError, match="DIV2K_train_HR.zip: not downloaded"):
        sets._div2k()
    assert list(archive.iterdir()) == []


def test_a_failure_in_unpacking_leaves_no_folder(archive, monkeypatch):
    def breaks(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zipfile.ZipFile.extractall", breaks)
    with pytest.raises(OSError, match="No space left on device"):
        sets._div2k()
    assert [path.name for path in archive.iterdir()] == ["DIV2K_train_HR.zip"]


def test_too_little_space_is_found_before_the_download(archive, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(OSError, match=r"data: 0\.0 GB are free, and DIV2K_train_HR.zip needs .*set MPTPN_DATA"):
        sets._div2k()
    assert list(archive.iterdir()) == []


def test_a_folder_of_other_files_is_not_written_over(archive):
    (archive / "DIV2K_train_HR").mkdir()
    (archive / "DIV2K_train_HR/notes.txt").write_text("mine")
    with pytest.raises(FileNotFoundError, match="no DIV2K images 0001.png to 0800.png there; .*DIV2K_crops"):
        sets.training_images.__wrapped__("DIV2K")


def test_odd_sizes_are_cut_and_unmatched_ones_refused():
    high = torch.rand(1, 1, 23, 31)
    made = sets.scene("odd", high, scale=4)
    assert made.low.shape[2:] == (5, 7) and torch.equal(made.high, high[:, :, :20, :28])
    assert sets.scene("given", high, scale=2, low=torch.rand(1, 1, 11, 15)).high.shape[2:] == (22, 30)
    for wrong in ((5, 7), (12, 15), (11, 14)):
        with pytest.raises(ValueError, match=f"bad: .*{wrong[0]} x {wrong[1]} px is not 1 / 2 of 22 x 30 px"):
            sets.scene("bad", high, scale=2, low=torch.rand(1, 1, *wrong))
    with pytest.raises(ValueError, match="3 x 31 px is less than one pixel at scale 4"):
        sets.scene("small", high[:, :, :3], scale=4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sets.training_images("DIV2k"), "'DIV2k': give some of DIV2K, DIV2K_crops"),
        (lambda: sets.training_images("embedded/embedded"), "each once"),
        (lambda: sets.training_images("embedded", data_range="801"), "'801' is no range"),
        (lambda: sets.training_images("embedded", data_range="900-801"), "'900-801'"),
        (lambda: sets.scenes("embedded", scale=5), "scale 5 is none of 2, 3 and 4"),
        (lambda: sets.scenes("Set6", scale=2), "'Set6' is unknown; choose one of Set5"),
        (lambda: sets.scenes("DIV2K_crops", scale=2, data_range="1-800"), "no image in data_range '1-800'"),
    ],
)
def test_a_wrong_name_or_range_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
