"""The uncertainty of DICOM as a Parametric Map: its values, its references, and no error that the source has not."""

import shutil
import sys

import numpy as np
import pydicom
import pytest

from file_makers import samples, save_dicom
from mptpn.io import LeftOut, Writer, open_scan, walk

sys.path.insert(0, __file__.rsplit("/", 1)[0])
from test_dicom_conformance import PLANE, errors, saved

pytest.importorskip("highdicom", reason="highdicom is not installed (pip install mptpn[dicom])")
KINDS = ("CT", "MR", "PET", "enhanced MR")


def placed(path, name):
    """A source that has a frame of reference."""
    data = pydicom.dcmread(saved(path, name))
    data.FrameOfReferenceUID, data.PositionReferenceIndicator = "1.2.77", ""
    data.save_as(path)
    return path


def written(scan, folder):
    sigma = np.random.default_rng(0).random((scan.slices, *scan.shape)).astype("f4")
    with Writer(scan, folder, note="(strength 1)", uncertainty=True, parametric_map=True) as writer:
        for index in range(scan.slices):
            writer.write(index, scan.read(index).pixels, sigma[index])
    return writer.target.with_name(f"{writer.target.name}.uncertainty.dcm"), sigma


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("name", KINDS)
def test_no_new_error(tmp_path, name):
    path = placed(tmp_path / "a.dcm", name)
    assert errors(written(open_scan(path), tmp_path / "out")[0]) - errors(path) == set()


@pytest.mark.parametrize("name", KINDS)
def test_it_holds_the_uncertainty_in_the_unit_of_the_scan_and_refers_to_the_source(tmp_path, name):
    path = placed(tmp_path / "a.dcm", name)
    before, (target, sigma) = pydicom.dcmread(path), written(open_scan(path), tmp_path / "out")
    back = pydicom.dcmread(target)
    found = np.frombuffer(back.FloatPixelData, "<f4").reshape(sigma.shape)
    for plane, frame in zip(found, back.PerFrameFunctionalGroupsSequence, strict=True):  # in an order of its own
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        np.testing.assert_array_equal(plane, sigma[source.get("ReferencedFrameNumber", 1) - 1])
    assert back.SOPClassUID == "1.2.840.10008.5.1.4.1.1.30" and back.SeriesNumber == 2003
    assert back.StudyInstanceUID == before.StudyInstanceUID and back.PatientID == before.PatientID
    mapping = back.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    unit = {"CT": "[hnsf'U]"}.get(name, "1")
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == unit and mapping.RealWorldValueSlope == 1
    frame = back.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert frame.ReferencedSOPInstanceUID == before.SOPInstanceUID


def test_slices_of_a_series_keep_their_places_and_the_bytes_depend_on_the_input_alone(tmp_path):
    for number in range(3):
        where = PLANE | {"ImagePositionPatient": [0, 0, -2.5 * number]}
        save_dicom(tmp_path / f"in/{number}.dcm", samples((20, 24), "i2", number), number=number, **where)
    found = [written(next(walk([tmp_path / "in"])), tmp_path / out)[0] for out in ("first", "second")]
    assert found[0].name == "in.uncertainty.dcm" and found[0].read_bytes() == found[1].read_bytes()
    frames = pydicom.dcmread(found[0]).PerFrameFunctionalGroupsSequence
    places = [frame.PlanePositionSequence[0].ImagePositionPatient[2] for frame in frames]
    assert sorted(places) == [-5.0, -2.5, 0.0]
    assert all(
        isinstance(one, LeftOut) and not one.failed for one in walk([tmp_path / "first"]) if one.path == found[0]
    )


@pytest.mark.parametrize("name, words", [("CR", "which a projection has not"), ("US", "which a projection has not")])
def test_an_image_without_a_place_in_the_patient_is_refused_before_any_work(tmp_path, name, words):
    scan = open_scan(saved(tmp_path / "a.dcm", name))
    with pytest.raises(ValueError, match=words):
        Writer(scan, tmp_path / "out", uncertainty=True, parametric_map=True)
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named_with_what_installs_it(tmp_path, monkeypatch):
    scan = open_scan(placed(tmp_path / "a.dcm", "CT"))
    monkeypatch.setattr("mptpn.io.parametric_map.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="pip install highdicom"):
        Writer(scan, tmp_path / "out", uncertainty=True, parametric_map=True)


def test_other_files_keep_the_array_alone(tmp_path):
    np.save(tmp_path / "a.npy", samples((20, 24), "i2"))
    scan = open_scan(tmp_path / "a.npy")
    with Writer(scan, tmp_path / "out", uncertainty=True, parametric_map=True) as writer:
        writer.write(0, scan.read(0).pixels, np.ones((20, 24), "f4"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.npy", "a.npy.uncertainty.npy"}
