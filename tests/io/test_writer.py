"""An interrupted write is resumed, memory is that of slices, no target is lost."""

import gzip
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from file_makers import copied, same, save_dicom, series, volume
from mptpn.io import Writer, open_scan, open_scans


def bytes_of(folder, unzip):
    return {path.relative_to(folder): unzip(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["npy", "nii", "nii.gz", "tif", "dcm", "series"])
def test_an_interrupted_write_is_resumed_and_equals_the_uninterrupted_one(tmp_path, kind):
    def denoised(index):
        return scan.read(index).pixels * 0.5

    (scan,), _ = open_scans([volume(tmp_path, kind)])
    with Writer(scan, tmp_path / "whole", note="a") as writer:
        for index in range(scan.slices):
            writer.write(index, denoised(index))
    with pytest.raises(KeyboardInterrupt), Writer(scan, tmp_path / "out", note="a") as broken:
        for index in range(3):
            broken.write(index, denoised(index))
        raise KeyboardInterrupt
    assert not broken.target.exists()
    (part,) = (tmp_path / "out").glob(".*.part")
    # what a killed process leaves
    size = part.stat().st_size // scan.slices
    with part.open("r+b") as file:
        file.seek(3 * size - 5 if kind == "npy" else 3 * size)
        file.write(b"half a sl")
    (scan,), _ = open_scans([scan.path])
    with pytest.raises(ValueError, match=f"0 of {scan.slices}"), Writer(scan, tmp_path / "out", note="b") as other:
        assert other.done == 0
    with Writer(scan, tmp_path / "out", note="a") as writer:
        assert writer.done == (2 if kind == "npy" else 3)
        for index in range(writer.done, scan.slices):
            writer.write(index, denoised(index))
    # no part file is left, not even of the other note
    assert [path.name for path in (tmp_path / "out").iterdir()] == [writer.target.name]
    unzip = gzip.decompress if kind == "nii.gz" else bytes  # gzip keeps the time
    whole, resumed = (bytes_of(tmp_path / name, unzip) for name in ("whole", "out"))
    assert whole == resumed


def begun(path, out, **arguments):
    """One slice written, then interrupted."""
    with pytest.raises(KeyboardInterrupt), Writer(scan := open_scan(path), out, **arguments) as writer:
        writer.write(0, scan.read(0).pixels)
        raise KeyboardInterrupt
    return writer


def done(path, out, **arguments):
    """Number of slices that the next call goes on from."""
    with pytest.raises(KeyboardInterrupt), Writer(open_scan(path), out, **arguments) as writer:
        raise KeyboardInterrupt
    return writer.done


def test_an_input_of_other_content_is_not_resumed_though_size_and_time_are_the_same(tmp_path):
    path, out = volume(tmp_path, "npy"), tmp_path / "out"
    begun(path, out)
    assert done(path, out) == 1
    before, data = path.stat(), bytearray(path.read_bytes())
    os.utime(path, (0, 0))
    assert done(path, out) == 1  # the content is the same
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert done(path, out) == 0


def test_missing_slices_are_named_and_nothing_appears(tmp_path):
    scan = open_scan(volume(tmp_path, "npy"))
    with pytest.raises(ValueError, match="1 of 5 slices are written"), Writer(scan, tmp_path / "out") as writer:
        writer.write(0, scan.read(0).pixels)
    assert not writer.target.exists()


@pytest.mark.parametrize("kind", ["npy", "nii", "nii.gz", "tif", "dcm"])
def test_memory_is_that_of_a_few_slices(tmp_path, kind):
    # 60 slices of 33 kB, 266 kB as float64
    array = np.random.default_rng(0).integers(0, 4, (60, 128, 130)).astype(np.int16)
    if kind == "npy":
        np.save(tmp_path / "v.npy", array)
    elif kind == "tif":
        tifffile.imwrite(tmp_path / "v.tif", array)
    elif kind == "dcm":
        save_dicom(tmp_path / "v.dcm", array, frames=True)
    else:
        nibabel.save(nibabel.Nifti1Image(array.transpose(1, 2, 0), np.eye(4)), tmp_path / f"v.{kind}")
    scan = open_scan(tmp_path / f"v.{kind}")
    scan.read(0)  # what libraries load once
    tracemalloc.start()
    copied(scan, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    one = 128 * 130 * 8
    assert peak < 12 * one, f"{peak / one:.1f} slices"  # the volume as stored is 15 of these slices, as float64 60


def test_the_input_is_never_the_target(tmp_path):
    path = volume(tmp_path, "npy")
    (tmp_path / "link.npy").symlink_to(path)
    os.link(path, tmp_path / "hard.npy")
    scans = dict.fromkeys(("v.npy", "link.npy", "hard.npy"), open_scan(path))
    scans["v"] = open_scans([volume(tmp_path, "series")])[0][0]
    for name, scan in scans.items():
        with pytest.raises(ValueError, match=f"{name}: is the input itself"):
            Writer(scan, tmp_path, name=name, overwrite=True)


@pytest.mark.parametrize("name", ["../x.npy", "/x.npy", "a/x.npy", "..", "", "a\\x.npy", "x.tif", "x"])
def test_a_name_that_leaves_the_folder_or_the_type_is_refused(tmp_path, name):
    scan = open_scan(volume(tmp_path, "npy"))
    with pytest.raises(ValueError, match="leaves the folder|another type's ending"):
        Writer(scan, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_an_existing_target_is_replaced_on_purpose_only(tmp_path):
    scan, target = open_scan(volume(tmp_path, "npy")), tmp_path / "out/v.npy"
    target.parent.mkdir()
    target.write_text("precious")
    with pytest.raises(FileExistsError, match="exists already; choose"):
        Writer(scan, tmp_path / "out")
    with Writer(scan, tmp_path / "out", overwrite=True) as writer:
        for index in range(5):
            writer.write(index, scan.read(index).pixels)
        assert target.read_text() == "precious"
    same(np.load(target), np.load(scan.path))
    assert list((tmp_path / "out").iterdir()) == [target]


def test_a_folder_is_replaced_only_where_it_is_an_earlier_result(tmp_path):
    (scan,), _ = open_scans([volume(tmp_path, "series")])
    target = copied(scan, tmp_path / "out")
    copied(scan, tmp_path / "out", overwrite=True)
    assert len(list(target.iterdir())) == 5
    (target / "im3.dcm").write_bytes((scan.path / "im0.dcm").read_bytes())
    with pytest.raises(FileExistsError, match="not an earlier result"):
        Writer(scan, tmp_path / "out", overwrite=True)
    assert len(list(target.iterdir())) == 5


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    scan = open_scan(volume(tmp_path, "npy"))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write anywhere
    with pytest.raises(PermissionError, match="out: may not be written; choose a folder"):
        Writer(scan, tmp_path / "out")


def test_a_full_disk_is_named_and_the_slices_stay(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path, out = volume(tmp_path, "npy"), tmp_path / "out"
    words = "cannot be written .No space left on device.; free space"
    with pytest.raises(OSError, match=words), Writer(scan := open_scan(path), out) as writer:
        writer.write(0, scan.read(0).pixels)
        with monkeypatch.context() as patch:
            patch.setattr("mptpn.io.parts.Parts._write", full)
            writer.write(1, scan.read(1).pixels)
    assert done(path, out) == writer.done == 1


@pytest.mark.parametrize(
    "index, pixels, words",
    [
        (1, np.zeros((6, 7)), "out of order; write slice 0 of 5 next"),
        (0, np.zeros((7, 6)), "does not fit"),
        (0, np.full((6, 7), np.nan), "42 pixels of slice 0 are NaN"),
    ],
)
def test_a_wrong_slice_is_refused_before_anything_is_written(tmp_path, index, pixels, words):
    with pytest.raises(ValueError, match=words), Writer(open_scan(volume(tmp_path, "npy")), tmp_path / "out") as writer:
        writer.write(index, pixels)
    assert writer.done == 0 and not list((tmp_path / "out").iterdir())


def nested(folder):
    """Two series, one below the other, and another image beside the first."""
    series(folder / "A", count=3)
    series(folder / "A/B", count=2, series="1.2.4")
    np.save(folder / "A/snap.npy", np.zeros((5, 7), np.uint8))
    return folder


def bytes_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("again", [False, True])
def test_a_series_shares_its_folder_with_other_results_in_any_order(tmp_path, order, again):
    scans, _ = open_scans([nested(tmp_path / "in")])
    assert sorted((scan.below / scan.name).as_posix() for scan in scans) == ["A", "A/B", "A/snap.npy"]
    for number in order:
        copied(scans[number], tmp_path / "out")
    if again:
        for number in order:
            copied(scans[number], tmp_path / "out", overwrite=True, note="other")
    written = bytes_below(tmp_path / "out")
    assert sorted(written) == sorted(bytes_below(tmp_path / "in"))
    for scan in scans:
        copied(scan, tmp_path / "alone" / scan.path.name, note="other" if again else "")
        for name, data in bytes_below(tmp_path / "alone" / scan.path.name).items():
            assert written[name] == data
        with pytest.raises(FileExistsError, match="exists already"):
            Writer(scan, tmp_path / "out")


def test_a_series_that_is_replaced_leaves_the_other_files_of_its_folder(tmp_path):
    scans = {scan.path.name: scan for scan in open_scans([nested(tmp_path / "in")])[0]}
    for scan in scans.values():
        copied(scan, tmp_path / "out")
    (tmp_path / "out/A/notes.txt").write_text("precious")
    before = bytes_below(tmp_path / "out")
    copied(scans["A"], tmp_path / "out", overwrite=True, note="other")
    after = bytes_below(tmp_path / "out")
    assert {name for name in before if after.get(name) != before[name]} == {f"A/im{number}.dcm" for number in range(3)}


@pytest.mark.parametrize("shared", [False, True])
def test_a_slice_that_the_series_has_no_longer_goes_with_its_earlier_result(tmp_path, shared):
    folder = volume(tmp_path, "series")
    target = copied(open_scans([folder])[0][0], tmp_path / "out")
    if shared:
        (target / "notes.txt").write_text("precious")
    (folder / "im4.dcm").unlink()
    copied(open_scans([folder])[0][0], tmp_path / "out", overwrite=True, note="other")
    kept = ["notes.txt"] * shared
    assert sorted(path.name for path in target.iterdir()) == [f"im{number}.dcm" for number in range(4)] + kept


def stopping(real, at):
    """A function that stops the process before it is called for the at-th time, from 0."""
    calls = iter(range(100))

    def stops(*arguments):
        if next(calls) == at:
            raise KeyboardInterrupt
        return real(*arguments)

    return stops


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("again", [False, True])
def test_a_series_that_is_stopped_between_two_names_is_whole_after_the_next_call(tmp_path, monkeypatch, shared, again):
    (scan,), _ = open_scans([volume(tmp_path, "series")])
    whole = bytes_below(copied(scan, tmp_path / "whole", note="new"))
    for at in range(12):
        out = tmp_path / f"out{at}"
        if again:
            copied(scan, out)
        (out / "v").mkdir(parents=True, exist_ok=True)
        if shared:
            (out / "v/notes.txt").write_text("precious")

        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", stopping(os.replace, at))
            copied(scan, out, note="new", overwrite=again)
        try:  # the call again, as it was given
            copied(scan, out, note="new", overwrite=again)
        except FileExistsError as error:
            assert "exists already" in str(error)
        assert bytes_below(out / "v") == whole | ({"notes.txt": b"precious"} if shared else {})
        assert [path.name for path in out.iterdir()] == ["v"]


def test_a_folder_of_a_series_that_is_a_link_out_of_the_results_is_refused(tmp_path):
    (scan,), _ = open_scans([volume(tmp_path, "series")])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/v").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a link that leaves the folder"):
        Writer(scan, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("there", [False, True])
def test_a_name_that_is_too_long_for_what_stands_beside_it_is_told_at_once(tmp_path, there):
    path = volume(tmp_path, "npy").rename(tmp_path / f"{'x' * 245}.npy")
    if there:
        (tmp_path / "out").mkdir()
    with pytest.raises(OSError, match="its name is too long") as caught:
        Writer(open_scan(path), tmp_path / "out")
    assert "free space" not in str(caught.value) and not list((tmp_path / "out").iterdir())


def test_a_name_that_is_no_unicode_is_written(tmp_path):
    path = volume(tmp_path, "npy").rename(tmp_path / os.fsdecode(b"caf\xe9.npy"))
    assert os.fsencode(copied(open_scan(path), tmp_path / "out").name) == b"caf\xe9.npy"


def test_without_a_report_it_is_said_that_what_exists_is_not_known(tmp_path):
    scan = open_scan(volume(tmp_path, "npy"))
    copied(scan, tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"exists already; .*without v\.npy\.trust\.json it is not known"):
        Writer(scan, tmp_path / "out")
