"""DICOM: pixels and tags come back, UIDs are new, a series is in its order."""

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

import mptpn.io.dicom_head
from file_makers import PATIENT, copied, same, samples, save_dicom, series
from mptpn.io import LeftOut, open_scan, open_scans, walk

DICOMS = {
    **{dtype: (dtype, {}) for dtype in ("u1", "i1", "u2", "i2", "u4", "i4")},
    "monochrome 1": ("u2", {"photometric": "MONOCHROME1"}),
    "12 bits with an overlay above": ("u2", {"bits": 12}),
    "12 signed bits": ("i2", {"bits": 12}),
    "implicit": ("i2", {"syntax": ImplicitVRLittleEndian}),
    "big endian": ("i2", {"syntax": ExplicitVRBigEndian}),
}
CHANGED = {"SOPInstanceUID", "SeriesInstanceUID", "ImageType", "DerivationDescription", "PixelData"}
CHANGED |= {"SeriesNumber", "SeriesDescription"}


@pytest.mark.parametrize("case", DICOMS)
def test_dicom_comes_back_with_its_tags(tmp_path, case):
    dtype, arguments = DICOMS[case]
    array = samples((5, 7), dtype)
    path = save_dicom(tmp_path / "a.dcm", array, RescaleSlope=2, RescaleIntercept=-1024, **arguments)
    private = pydicom.dcmread(path)
    private.private_block(0x7FE3, "after the pixels", create=True).add_new(1, "LO", "kept")
    private.save_as(path)
    scan = open_scan(path)
    assert (scan.unit, scan.slope, scan.intercept) == ("HU", 2, -1024)
    assert scan.bits == arguments.get("bits", 8 * array.dtype.itemsize)
    back, before = pydicom.dcmread(copied(scan, tmp_path / "out", note="by a test")), pydicom.dcmread(path)
    assert back.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    same(np.frombuffer(back.PixelData, array.dtype, count=array.size).reshape(5, 7), array)
    assert all(back[element.tag].value == element.value for element in before if element.keyword not in CHANGED)
    assert list(back.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert back.DerivationDescription == "denoised by mptpn by a test"
    assert back.SOPInstanceUID == back.file_meta.MediaStorageSOPInstanceUID != before.SOPInstanceUID
    assert back.SeriesInstanceUID != before.SeriesInstanceUID


def test_unused_bits_of_dicom_are_no_picture(tmp_path):
    array = samples((5, 7), "u2") & 0x0FFF
    scan = open_scan(save_dicom(tmp_path / "a.dcm", array | 0x8000, bits=12))
    same(scan.read(0).pixels, array.astype("f4"))
    assert (scan.low, scan.high) == (0, 4095)


def test_multi_frame_and_colour_dicom_come_back(tmp_path):
    frames, colours = samples((4, 5, 7), "u2"), samples((5, 7, 3), "u1")
    first = open_scan(save_dicom(tmp_path / "frames.dcm", frames, frames=True))
    second = open_scan(save_dicom(tmp_path / "rgb.dcm", colours))
    assert (first.slices, first.shape, second.slices, second.shape) == (4, (5, 7), 1, (5, 7, 3))
    same(pydicom.dcmread(copied(first, tmp_path / "out")).pixel_array, frames)
    same(pydicom.dcmread(copied(second, tmp_path / "out")).pixel_array, colours)


REAL = ["CT_small.dcm", "MR_small_RLE.dcm", "examples_ybr_color.dcm", "examples_jpeg2k.dcm", "MR_small_bigendian.dcm"]


@pytest.mark.parametrize("name", REAL)
def test_real_dicom_comes_back(tmp_path, name):
    path = get_testdata_file(name)
    same(pydicom.dcmread(copied(open_scan(path), tmp_path / "out")).pixel_array, pydicom.pixels.pixel_array(path))


def test_words_within_bytes_change_their_order_with_the_rest(tmp_path):
    overlay = np.arange(5, dtype=">u2")
    path = save_dicom(tmp_path / "a.dcm", samples((5, 7), "i2"), syntax=ExplicitVRBigEndian)
    data = pydicom.dcmread(path)
    data.add_new(0x60003000, "OW", overlay.tobytes())
    pydicom.dcmwrite(path, data)
    back = pydicom.dcmread(copied(open_scan(path), tmp_path / "out"))
    assert back[0x60003000].value == overlay.astype("<u2").tobytes()


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    class Absent:
        is_available = is_encapsulated = False

    monkeypatch.setattr(mptpn.io.dicom_head, "get_decoder", lambda _: Absent)
    with pytest.raises(ValueError, match=r"a\.dcm: .*decoder is not installed; pip install"):
        open_scan(save_dicom(tmp_path / "a.dcm", samples((5, 7), "u2")))


def test_each_slice_and_each_frame_has_its_own_slope(tmp_path):
    groups = []
    for number in (1, 2):
        tags = {"RescaleSlope": number * 1.5, "RescaleIntercept": 0, "Units": "BQML"}
        save_dicom(tmp_path / f"pet/{number}.dcm", samples((5, 7), "i2"), number=number, **tags)
        item, inner = Dataset(), Dataset()
        inner.RescaleSlope, inner.RescaleIntercept = number, -number
        item.PixelValueTransformationSequence = [inner]
        groups.append(item)
    scan = open_scans([tmp_path / "pet"])[0][0]
    assert [scan.read(index).slope for index in range(2)] == [1.5, 3.0] and scan.unit == "BQML"
    tags = {"frames": True, "PerFrameFunctionalGroupsSequence": groups}
    scan = open_scan(save_dicom(tmp_path / "frames.dcm", samples((2, 5, 7), "i2"), **tags))
    assert [(scan.read(index).slope, scan.read(index).intercept) for index in range(2)] == [(1, -1), (2, -2)]


def test_a_series_is_sorted_along_its_normal_and_comes_back_as_one_new_series(tmp_path):
    arrays = series(tmp_path / "ct", places=[5, -5, 0, 2.5, -2.5])
    (scan,), left_out = open_scans([tmp_path / "ct"])
    assert not left_out and (scan.slices, scan.name) == (5, "ct")
    places = {-5: 1, -2.5: 4, 0: 2, 2.5: 3, 5: 0}
    target = copied(scan, tmp_path / "out")
    out = [pydicom.dcmread(target / f"im{number}.dcm") for number in places.values()]
    assert [float(data.ImagePositionPatient[2]) for data in out] == [-5, -2.5, 0, 2.5, 5]
    (uid,) = {data.SeriesInstanceUID for data in out}
    assert len({data.SOPInstanceUID for data in out}) == 5 and uid != "1.2.3"
    for index, expected in enumerate([1, 4, 2, 3, 0]):
        same(scan.read(index).pixels, arrays[expected].astype("f4"))
        same(out[index].pixel_array, arrays[expected])


def test_a_series_without_positions_is_sorted_by_number(tmp_path):
    for number, array in ((2, 20), (10, 100), (1, 10)):
        save_dicom(tmp_path / "s" / f"{number}.dcm", np.full((5, 7), array, np.int16), number=number)
    (scan,), _ = open_scans([tmp_path / "s"])
    assert [scan.read(index).pixels[0, 0] for index in range(3)] == [10, 20, 100]


def test_two_series_in_a_folder_are_two_scans_with_two_names(tmp_path):
    series(tmp_path / "a", series="1.1", count=2)
    series(tmp_path / "b", series="1.2", count=3)
    for file in (tmp_path / "b").iterdir():
        file.rename(tmp_path / "a" / f"b{file.name}")
    found, left_out = open_scans([tmp_path / "a"])
    assert {(scan.slices, scan.name) for scan in found} == {(2, "a_2"), (3, "a_1")} and not left_out


def test_slices_at_one_place_are_kept_and_noted(tmp_path):
    arrays = series(tmp_path / "echoes", places=[0, 0, 1, 1, 2])
    (scan,), _ = open_scans([tmp_path / "echoes"])
    assert "at one place" in scan.note
    same(scan.read(1).pixels, arrays[1].astype("f4"))


@pytest.mark.parametrize(
    "shape, dtype, words", [((9, 4), "i2", "is 9 x 4 px, not 5 x 7"), ((5, 7), "u1", "of another")]
)
def test_a_slice_of_another_size_or_type_is_left_out_of_its_series_and_named(tmp_path, shape, dtype, words):
    series(tmp_path / "mixed", count=3)
    save_dicom(tmp_path / "mixed/a_scout.dcm", samples(shape, dtype), number=9, place=9)
    scan, left_out = sorted(walk([tmp_path / "mixed"]), key=lambda one: isinstance(one, LeftOut))
    assert scan.slices == 3 and words in left_out.message and left_out.path.name == "a_scout.dcm"
    assert not left_out.failed


def test_copies_and_damaged_slices_of_a_series_are_left_out_alone(tmp_path):
    series(tmp_path / "s", count=2)
    (tmp_path / "s/copy.dcm").write_bytes((tmp_path / "s/im0.dcm").read_bytes())
    save_dicom(tmp_path / "s/none.dcm", samples((5, 7), "i2"), number=9, Rows=0)
    (scan,), left_out = open_scans([tmp_path / "s"])
    assert scan.slices == 2 and {path[-8:] for path in left_out} == {"/im0.dcm", "none.dcm"}


def test_a_series_of_odd_bytes_is_padded_slice_by_slice(tmp_path):
    arrays = [samples((5, 7), "u1", seed) for seed in range(3)]
    for number, array in enumerate(arrays):
        save_dicom(tmp_path / "s" / f"{number}.dcm", array, number=number)
    target = copied(open_scans([tmp_path / "s"])[0][0], tmp_path / "out")
    for number, array in enumerate(arrays):
        data = pydicom.dcmread(target / f"{number}.dcm")
        assert len(data.PixelData) == 36
        same(data.pixel_array, array)


def test_a_file_alone_in_its_series_keeps_its_name(tmp_path):
    for name in ("left", "right"):
        save_dicom(tmp_path / "xray" / f"{name}.dcm", samples((5, 7), "u2"), series=f"1.{len(name)}")
    found, _ = open_scans([tmp_path / "xray"])
    assert [copied(scan, tmp_path / "out").name for scan in found] == ["left.dcm", "right.dcm"]


def test_new_uids_depend_on_the_old_ones_and_the_note_alone(tmp_path):
    scan = open_scan(save_dicom(tmp_path / "a.dcm", samples((5, 7), "u2")))
    notes = {"1": "a", "2": "a", "3": "größer\nand " * 200}
    first, again, other = (pydicom.dcmread(copied(scan, tmp_path / out, note=note)) for out, note in notes.items())
    assert first.SOPInstanceUID == again.SOPInstanceUID != other.SOPInstanceUID
    assert first.SeriesInstanceUID == again.SeriesInstanceUID != other.SeriesInstanceUID
    assert first.StudyInstanceUID == "1.2" and first.PatientName == PATIENT
    words = other.DerivationDescription
    assert words.startswith("denoised by mptpn gr??er and gr??er") and len(words) <= 1024
