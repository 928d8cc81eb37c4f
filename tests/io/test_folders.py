"""A folder's images are found, its tree is mirrored, and what is no image or a result is passed over."""

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from file_makers import copied, samples, save_dicom, series
from mptpn.io import LeftOut, open_scans, walk

ARRAY = samples((20, 21), "u2")


def found(*paths, **arguments):
    """Scans by their place below the results, and what was left out by name."""
    everything = list(walk(list(paths), **arguments))
    scans = [one for one in everything if not isinstance(one, LeftOut)]
    left = {one.path.name: one for one in everything if isinstance(one, LeftOut)}
    return {(scan.below / scan.default_name()).as_posix(): scan for scan in scans}, left


def object_without_pixels(path, kind):
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = kind
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3.4"
    data.PatientName = "DOE^JANE"
    data.save_as(path, enforce_file_format=True)


OBJECTS = {
    "DICOMDIR": "1.2.840.10008.1.3.10",
    "report.dcm": "1.2.840.10008.5.1.4.1.1.88.11",
    "structures.dcm": "1.2.840.10008.5.1.4.1.1.481.3",
    "document.dcm": "1.2.840.10008.5.1.4.1.1.104.1",
    "state.dcm": "1.2.840.10008.5.1.4.1.1.11.1",
}


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_without_pixels_is_passed_over_and_named(tmp_path, name):
    series(tmp_path / "ct", count=3)
    object_without_pixels(tmp_path / "ct" / name, OBJECTS[name])
    scans, left = found(tmp_path / "ct")
    assert [scan.slices for scan in scans.values()] == [3] and list(left) == [name]
    assert not left[name].failed and "holds no picture" in left[name].message and "JANE" not in left[name].message


@pytest.mark.parametrize("name", ["README", "a.json", "dwi.bval", "participants.tsv", "LICENSE", "empty", ".txt"])
def test_a_file_that_is_no_image_is_no_failure_and_an_image_s_name_is(tmp_path, name):
    (tmp_path / name).write_text("" if name == "empty" else "words")
    (tmp_path / "broken.png").write_text("words")
    np.save(tmp_path / "a.npy", ARRAY)
    scans, left = found(tmp_path)
    assert list(scans) == ["a.npy"] and left.pop("broken.png").failed
    assert not any(one.failed for one in left.values())


def test_a_copy_of_a_slice_is_passed_over_and_another_image_of_its_uid_is_a_failure(tmp_path):
    series(tmp_path / "s", count=3)
    (tmp_path / "s/x.dcm").write_bytes((tmp_path / "s/im0.dcm").read_bytes())
    save_dicom(tmp_path / "s/y.dcm", samples((5, 7), "i2", 9), number=1, place=0)
    scans, left = found(tmp_path / "s")
    assert scans["s"].slices == 3
    assert {name: one.failed for name, one in left.items()} == {"x.dcm": False, "y.dcm": True}


@pytest.mark.parametrize("shape", [(64, 64), (5, 7)])
def test_a_localizer_is_left_out_of_its_series_by_size_or_by_its_type(tmp_path, shape):
    series(tmp_path / "s", count=3)
    tags = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "number": 99, "place": -50.0}
    save_dicom(tmp_path / "s/scout.dcm", samples(shape, "i2"), **tags)
    scans, left = found(tmp_path / "s")
    assert scans["s"].slices == 3 and not left["scout.dcm"].failed


def test_images_of_several_sizes_without_a_majority_are_all_kept(tmp_path):
    for number, side in enumerate((20, 21, 22, 22)):
        save_dicom(tmp_path / f"x/{number}.dcm", samples((side, 20), "u2"), number=number)
    scans, left = found(tmp_path / "x")
    assert sorted(scan.slices for scan in scans.values()) == [1, 1, 2] and not left


def test_the_tree_is_mirrored_and_a_new_folder_moves_no_name(tmp_path):
    for subject in ("b", "c"):
        (tmp_path / subject / "anat").mkdir(parents=True)
        np.save(tmp_path / subject / "anat/t1.npy", ARRAY)
    assert list(found(tmp_path)[0]) == ["b/anat/t1.npy", "c/anat/t1.npy"]
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a/t1.npy", ARRAY)
    assert list(found(tmp_path)[0]) == ["a/t1.npy", "b/anat/t1.npy", "c/anat/t1.npy"]
    assert list(found(tmp_path / "b", tmp_path / "c")[0]) == ["b/anat/t1.npy", "c/anat/t1.npy"]
    files = [tmp_path / "b/anat/t1.npy", tmp_path / "c/anat/t1.npy"]
    assert list(found(*files)[0]) == ["b/anat/t1.npy", "c/anat/t1.npy"]
    assert list(found(files[0])[0]) == ["t1.npy"]


def test_images_that_become_one_type_keep_their_own_names(tmp_path):
    for name in ("a.jpg", "a.bmp", "a.png", "b.jpg"):
        Image.fromarray(samples((20, 21), "u1")).save(tmp_path / name)
    scans, _ = found(tmp_path)
    assert {name: scan.path.name for name, scan in scans.items()} == {
        "a.bmp.png": "a.bmp",
        "a.jpg.png": "a.jpg",
        "a.png": "a.png",
        "b.png": "b.jpg",
    }


def test_slices_of_a_series_keep_their_names_and_folders(tmp_path):
    for number in range(4):
        save_dicom(tmp_path / f"dir/D{number // 2}/IM{number % 2}", samples((5, 7), "i2", number), number=number)
    scans, _ = found(tmp_path / "dir")
    target = copied(scans["dir"], tmp_path / "out")
    names = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert names == ["D0/IM0", "D0/IM1", "D1/IM0", "D1/IM1"]
    read = open_scans([target])[0][0]
    for index in range(4):
        np.testing.assert_array_equal(read.read(index).pixels, scans["dir"].read(index).pixels)


def test_results_and_what_stands_beside_them_are_passed_over(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    series(tmp_path / "ct", count=2)
    for scan in found(tmp_path)[0].values():
        copied(scan, tmp_path / "out")
    for name in ("a.npy.trust.json", "a.npy.trust.png", "a.npy.uncertainty.npy"):
        (tmp_path / "out" / name).write_text("{}")
    scans, left = found(tmp_path)
    assert list(scans) == ["a.npy", "ct"] and not any(one.failed for one in left.values()) and len(left) == 6


def test_results_without_reports_are_known_by_the_table(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    (tmp_path / "out/sub").mkdir(parents=True)
    np.save(tmp_path / "out/sub/b.npy", ARRAY)
    np.save(tmp_path / "out/sub/own.npy", ARRAY)
    (tmp_path / "out/results.trust.csv").write_text("file,result\nx,sub/b.npy\n")
    assert list(found(tmp_path)[0]) == ["a.npy", "out/sub/own.npy"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shares_together_are_the_whole_with_the_same_names(tmp_path, count):
    for number in range(5):
        (tmp_path / f"s{number}").mkdir()
        np.save(tmp_path / f"s{number}/a.npy", ARRAY)
    series(tmp_path / "ct", count=2)
    series(tmp_path / "ct2", count=3, series="1.9")
    for file in (tmp_path / "ct2").iterdir():
        file.rename(tmp_path / "ct" / f"other_{file.name}")
    save_dicom(tmp_path / "frames.dcm", samples((3, 5, 7), "i2"), frames=True, series="1.7")
    (tmp_path / "broken.png").write_text("words")
    (tmp_path / "README").write_text("words")
    whole, left = found(tmp_path)
    shares = [found(tmp_path, part=(number, count)) for number in range(1, count + 1)]
    names = [name for scans, _ in shares for name in scans]
    assert sorted(names) == sorted(whole) and len(names) == len(set(names)) == 8
    assert sum("broken.png" in left for _, left in shares) == 1 and "README" in left
    assert max(len(scans) for scans, _ in shares) - min(len(scans) for scans, _ in shares) <= 2


def test_the_first_scan_of_a_folder_comes_before_the_last_file_is_opened(tmp_path, monkeypatch):
    for number in range(50):
        np.save(tmp_path / f"{number:02d}.npy", ARRAY)
    from mptpn.io import folders

    opened, real = [], folders.open_scan
    monkeypatch.setattr(folders, "open_scan", lambda path, **given: opened.append(path) or real(path, **given))
    next(walk([tmp_path]))
    assert len(opened) == 1


@pytest.mark.parametrize("name", ["README", "a.npy.trust.json", None])
def test_a_folder_without_an_image_is_a_failure(tmp_path, name):
    if name:
        (tmp_path / name).write_text("words")
    scans, left = found(tmp_path)
    assert not scans and left[tmp_path.name].failed and "holds no image" in left[tmp_path.name].message
