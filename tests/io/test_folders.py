"""A folder's images are found, its tree is mirrored, and what is no image or a result is passed over."""

import os
import zipfile

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from file_makers import copied, samples, save_dicom, series
from mptpn.command_line.tables import add_result
from mptpn.io import LeftOut, folders, open_scan, open_scans, walk
from mptpn.io.outcomes import Outcome

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


def test_a_folder_that_may_not_be_read_is_a_failure_of_its_own(tmp_path, monkeypatch):
    for name in ("a", "locked", "unopened/below", "z"):
        (tmp_path / name).mkdir(parents=True)
        np.save(tmp_path / name / "x.npy", ARRAY)
    scandir, stat = os.scandir, os.stat

    def refuse(real, path, at, **given):  # root may read anything
        if str(path).startswith(tuple(f"{tmp_path}/{one}" for one in at)):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **given)

    monkeypatch.setattr(os, "scandir", lambda path: refuse(scandir, path, ["locked"]))
    monkeypatch.setattr(os, "stat", lambda path, **given: refuse(stat, path, ["locked/", "unopened/"], **given))
    scans, left = found(tmp_path)
    assert list(scans) == ["a/x.npy", "z/x.npy"] and sorted(left) == ["locked", "unopened"]
    for name, one in left.items():
        assert one.failed and one.message.startswith(f"{tmp_path / name}: cannot be searched (Permission denied)")


@pytest.mark.parametrize("name", ["x.nii.gz", "slices.npy", "README"])
def test_a_broken_link_is_named_and_is_a_failure_where_it_has_an_image_s_name(tmp_path, name):
    np.save(tmp_path / "a.npy", ARRAY)
    for one in (name, f"other_{name}"):
        (tmp_path / one).symlink_to("gone")
    scans, left = found(tmp_path)
    assert list(scans) == ["a.npy"] and sorted(left) == sorted([name, f"other_{name}"])
    for one, said in left.items():
        assert said.message.startswith(f"{tmp_path / one}: is a broken link") and said.failed == (name != "README")
    shares = [found(tmp_path, part=(number, 3))[1] for number in (1, 2, 3)]
    assert sum(name in share for share in shares) == (1 if left[name].failed else 3)


def test_a_link_to_a_folder_is_named_and_one_to_a_file_is_read(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere/a.npy", ARRAY)
    (tmp_path / "in/folder").symlink_to("../elsewhere")
    (tmp_path / "in/file.npy").symlink_to("../elsewhere/a.npy")
    (tmp_path / "in/.hidden").symlink_to("../elsewhere")
    scans, left = found(tmp_path / "in")
    assert list(scans) == ["file.npy"] and list(left) == ["folder"] and not left["folder"].failed
    assert "is a link to a folder, which is not followed: give it by name" in left["folder"].message


def test_documents_and_text_headers_are_no_images(tmp_path):
    for name, member in (("a.docx", "[Content_Types].xml"), ("b.xlsx", "xl/a.xml"), ("data.zip", "in/a.txt")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(member, "words")
    (tmp_path / "scene.hdr").write_text("ENVI\nsamples = 20\n" * 40)
    (tmp_path / "empty.hdr").write_text("")
    for name in ("b.npz", "c.dat"):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **{"long name " * 20: ARRAY})
    scans, left = found(tmp_path)
    assert sorted(scans) == ["b.npz", "c.dat.npz"] and left.pop("empty.hdr").failed
    assert sorted(left) == ["a.docx", "b.xlsx", "data.zip", "scene.hdr"]
    assert not any(one.failed for one in left.values())
    assert all("is no image of a known type" in one.message for one in left.values())


@pytest.mark.parametrize("gz", ["", ".gz"])
def test_an_image_in_two_files_is_read_by_the_name_of_its_header_too(tmp_path, gz):
    nibabel.save(nibabel.Nifti1Pair(samples((20, 21, 5), "i2"), np.eye(4)), tmp_path / f"v.img{gz}")
    assert open_scan(tmp_path / f"v.hdr{gz}").slices == open_scan(tmp_path / f"v.img{gz}").slices == 5


@pytest.mark.parametrize("given", ["folder", "file", "series"])
def test_an_image_that_does_not_fit_into_memory_is_its_own_failure(tmp_path, monkeypatch, given):
    np.save(tmp_path / "a.npy", ARRAY)
    series(tmp_path / "s", count=2)
    bad = tmp_path / ("s/im0.dcm" if given == "series" else "a.npy")
    real = folders.open_scan

    def full(path, **arguments):
        if path == bad:
            raise MemoryError
        return real(path, **arguments)

    monkeypatch.setattr(folders, "open_scan", full)
    scans, left = found(*([tmp_path / "a.npy", tmp_path / "s"] if given == "file" else [tmp_path]))
    assert len(scans) == (2 if given == "series" else 1) and list(left) == [bad.name] and left[bad.name].failed
    assert left[bad.name].message.startswith(f"{bad}: takes more memory than there is")


def test_a_result_of_a_name_that_is_no_unicode_is_known_by_the_table(tmp_path):
    name = os.fsdecode(b"caf\xe9.npy")
    for folder in ("in", "out"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / name, ARRAY)
    add_result(tmp_path / "out", Outcome(tmp_path / "in" / name, tmp_path / "out" / name))
    assert b"caf\xe9.npy,caf\xe9.npy" in (tmp_path / "out/results.trust.csv").read_bytes()
    scans, left = found(tmp_path)
    assert list(scans) == [f"in/{name}"] and not left[name].failed


def test_an_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", ARRAY)
    monkeypatch.chdir(tmp_path)
    assert list(found(".")[0]) == ["a.npy"]
    with pytest.raises(ValueError, match="an empty path"):
        found("a.npy", "")
