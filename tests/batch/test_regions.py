"""Large OME-Zarr images, tile by tile: the bytes depend on no chunks and no shares, and no share waits for another."""

import numpy as np
import pytest

from mptpn.batch import Settings, denoise_files
from mptpn.inference import sampling
from mptpn.io import ome_zarr, walk

zarr = pytest.importorskip("zarr", reason="zarr is not installed (pip install mptpn[formats])")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch):
    monkeypatch.setattr(ome_zarr, "LARGE", 0)
    monkeypatch.setattr(ome_zarr, "BLOCK", 96)
    monkeypatch.setattr(sampling, "PIXELS", 2**16)


def noisy(shape):
    rows, cols = np.mgrid[: shape[-2], : shape[-1]]
    clean = 800 + 200 * np.sin(rows / 31) * np.cos(cols / 23)
    return (clean + np.random.default_rng(0).normal(0, 30, shape)).round().astype(np.uint16)


def write(path, array, *, chunk):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name, step in (("0", 1), ("1", 2)):
        level = np.ascontiguousarray(array[..., ::step, ::step])
        group.create_array(name, data=level, chunks=(1,) * (array.ndim - 2) + (chunk, chunk))
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"[3 - array.ndim :]]
    datasets = [{"path": name, "coordinateTransformations": []} for name in "01"]
    group.attrs["multiscales"] = [{"axes": axes, "datasets": datasets, "version": "0.4"}]
    return path


def done(path, out, **more):
    found = []
    settings = Settings(out, model="small", report="short", progress=False, **more)
    denoise_files([path], settings, found.append)
    return found


def result(out, name="a.zarr"):
    group = zarr.open(out / name, mode="r")
    return [group[level][:] for level in "01"]


def test_the_result_depends_on_no_chunks_and_no_shares_and_is_that_of_a_file(tmp_path, monkeypatch):
    array = noisy((1000, 50))
    source, other = (write(tmp_path / f"{chunk}/a.zarr", array, chunk=chunk) for chunk in (64, 333))
    (outcome,) = done(source, tmp_path / "one", uncertainty=True)
    assert outcome.result == tmp_path / "one/a.zarr" and outcome.verdict
    for part in ((2, 2), (1, 2)):
        (outcome,) = done(other, tmp_path / "parts", uncertainty=True, part=part)
        assert outcome.waits == (part == (2, 2)) and not outcome.failure
    monkeypatch.setattr(ome_zarr, "LARGE", 2**30)
    done(source, tmp_path / "whole", uncertainty=True)
    for name in ("parts", "whole"):
        for first, second in zip(result(tmp_path / "one"), result(tmp_path / name), strict=True):
            np.testing.assert_array_equal(first, second)
    error, parts = (tmp_path / name / "a.zarr.uncertainty.npy" for name in ("one", "parts"))
    assert error.read_bytes() == parts.read_bytes() and np.load(error).shape == (1, 1000, 50)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        f"a.zarr{ending}" for ending in ("", ".trust.json", ".trust.png", ".uncertainty.npy")
    ]


def test_a_stopped_call_goes_on_from_whole_tiles(tmp_path):
    source = write(tmp_path / "a.zarr", noisy((1000, 50)), chunk=64)
    assert done(source, tmp_path / "out", part=(1, 2))[0].waits
    (tile,) = (tmp_path / "out").rglob("*.pixels.0.0")
    whole = tile.read_bytes()
    tile.write_bytes(whole[:-20] + bytes(20))
    (outcome,) = done(source, tmp_path / "out", part=(2, 2))
    assert "a tile of it was changed on the disk; repeat the call" in outcome.failure
    assert not tile.exists() and not (tmp_path / "out/a.zarr").exists()
    assert done(source, tmp_path / "out")[0].result
    stored = np.frombuffer(whole[:-16], np.uint16).reshape(-1, 50)
    found = result(tmp_path / "out")[0]  # the image is turned inside
    assert any(np.array_equal(part, stored) for part in (found[: len(stored)], found[-len(stored) :]))


def test_channels_have_a_noise_model_each_and_an_empty_one_stays(tmp_path):
    array = np.stack([noisy((300, 280)), np.full((300, 280), 7, np.uint16)])
    source = write(tmp_path / "a.zarr", array, chunk=100)
    assert done(source, tmp_path / "out")[0].result
    first, second = result(tmp_path / "out")
    np.testing.assert_array_equal(first[1], array[1])
    assert 20 < np.std(first[0] - array[0].astype(float)) < 40
    change = (first[0] - array[0].astype(float)).reshape(150, 2, 140, 2).mean((1, 3))
    np.testing.assert_allclose(second[0] - array[0, ::2, ::2].astype(float), change, atol=0.51)


def test_strength_0_gives_the_pixels_back(tmp_path):
    array = noisy((300, 280))
    done(write(tmp_path / "a.zarr", array, chunk=77), tmp_path / "out", strength=0.0)
    for level, step in zip(result(tmp_path / "out"), (1, 2), strict=True):
        np.testing.assert_array_equal(level, array[::step, ::step])


def test_too_little_memory_for_a_tile_is_a_sentence(tmp_path):
    source = write(tmp_path / "a.zarr", noisy((300, 280)), chunk=77)
    (outcome,) = done(source, tmp_path / "out", memory=2**20)
    assert "memory" in outcome.failure and "give at least" in outcome.failure


def test_a_disk_that_is_too_small_is_told_before_any_tile(tmp_path, monkeypatch):
    monkeypatch.setattr("mptpn.io.tile_writer.shutil.disk_usage", lambda _: type("", (), {"free": 1000}))
    source = write(tmp_path / "a.zarr", noisy((300, 280)), chunk=77)
    (outcome,) = done(source, tmp_path / "out")
    assert "1000 are free" in outcome.failure and not list((tmp_path / "out").iterdir())


def test_a_large_image_belongs_to_all_shares_and_others_to_one(tmp_path):
    write(tmp_path / "in/a.zarr", noisy((64, 64)), chunk=64)
    for name in "bcd":
        np.save(tmp_path / f"in/{name}.npy", noisy((64, 64)))
    found = [[scan.name for scan in walk([tmp_path / "in"], part=(i, 2), divided=True)] for i in (1, 2)]
    assert found == [["a.zarr", "c.npy"], ["a.zarr", "b.npy", "d.npy"]]
    assert [scan.name for scan in walk([tmp_path / "in"], part=(2, 2))] == ["b.npy", "d.npy"]
