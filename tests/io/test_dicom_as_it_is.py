"""DICOM as it really is: an empty, missing or odd attribute has the standard's default, or is named in a sentence."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from file_makers import PATIENT, copied, dataset, same, samples, save_dicom
from mptpn.io import Writer, open_scan

GRAY = samples((9, 7), "u2") & 0x0FFF


def file(path, *, without=(), **tags):
    data = dataset(GRAY, **tags)
    for keyword in without:
        delattr(data, keyword)
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize("slope", [None, "", "1"])
@pytest.mark.parametrize("intercept", [None, "", "0", "-1024"])
def test_a_missing_or_empty_slope_is_1_and_intercept_0(tmp_path, slope, intercept):
    given = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    tags = {name: value for name, value in given.items() if value is not None}
    scan = open_scan(file(tmp_path / "a.dcm", **tags))
    assert (scan.slope, scan.intercept) == (1.0, float(intercept or 0))
    assert scan.unit == ("HU" if intercept else "stored value")
    same(scan.in_unit(0), GRAY + float(intercept or 0))


EMPTY = "BitsStored HighBit PixelRepresentation SamplesPerPixel NumberOfFrames InstanceNumber PlanarConfiguration "
EMPTY += "PhotometricInterpretation ImagePositionPatient ImageOrientationPatient PixelPaddingValue Modality ImageType "
EMPTY += "SeriesInstanceUID SOPInstanceUID StudyInstanceUID RescaleType Units PixelPaddingRangeLimit SeriesNumber"


@pytest.mark.parametrize("keyword", EMPTY.split())
@pytest.mark.parametrize("how", ["empty", "missing"])
def test_an_empty_or_missing_attribute_has_its_default_and_the_pixels_come_back(tmp_path, keyword, how):
    path = file(tmp_path / "a.dcm", **{keyword: None})
    if how == "missing":
        data = pydicom.dcmread(path)
        delattr(data, keyword)
        data.save_as(path)
    scan = open_scan(path)
    same(scan.read(0).pixels, GRAY.astype("f4"))
    back = pydicom.dcmread(copied(scan, tmp_path / "out"))
    same(np.frombuffer(back.PixelData, "<u2", count=GRAY.size).reshape(GRAY.shape), GRAY)


@pytest.mark.parametrize("keyword", ["Rows", "Columns", "BitsAllocated"])
def test_an_attribute_without_default_is_named(tmp_path, keyword):
    with pytest.raises(ValueError, match=rf"a\.dcm: its attribute {keyword} is missing or empty"):
        open_scan(file(tmp_path / "a.dcm", **{keyword: None}))


def test_missing_rows_are_named_where_there_are_pixels(tmp_path):
    with pytest.raises(ValueError, match=r"a\.dcm: its attribute Rows is missing or empty"):
        open_scan(file(tmp_path / "a.dcm", without=["Rows"]))


ODD = {
    "RescaleSlope": ("0", "is 0"),
    "RescaleIntercept": (["1", "2"], "has 2 values"),
    "HighBit": (20, "does not fit"),
    "PixelRepresentation": (2, "is neither 0 nor 1"),
    "SamplesPerPixel": ([1, 1], "has 2 values"),
}


@pytest.mark.parametrize("keyword", ODD)
def test_an_impossible_value_is_named_by_its_attribute(tmp_path, keyword):
    value, words = ODD[keyword]
    with pytest.raises(ValueError, match=rf"its attribute {keyword} {words}.*; correct it"):
        open_scan(file(tmp_path / "a.dcm", **{"bits": 12, keyword: value}))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", ["abc", "1,5", "nan", "inf", PATIENT])
def test_a_slope_that_is_no_number_is_named_and_not_quoted(tmp_path, value):
    path = file(tmp_path / "a.dcm", RescaleSlope="1.25")
    size = len(value) + len(value) % 2
    text = b"DS" + size.to_bytes(2, "little") + value.ljust(size).encode()
    path.write_bytes(path.read_bytes().replace(b"DS\x04\x001.25", text))
    with pytest.raises(ValueError, match="its attribute RescaleSlope") as refusal:
        open_scan(path)
    assert value not in str(refusal.value).split("RescaleSlope")[1]


@pytest.mark.parametrize("high, shift", [(15, 4), (13, 2), (11, 0)])
@pytest.mark.parametrize("signed", [False, True])
def test_pixels_in_the_upper_bits_are_shifted_down_and_back(tmp_path, high, shift, signed):
    values = GRAY.astype("i2") - 2048 if signed else GRAY
    path = save_dicom(tmp_path / "a.dcm", values << shift, bits=12, HighBit=high)
    scan = open_scan(path)
    expected = values if signed is False else ((values.astype("i4") << 20 >> 20) if not shift else values)
    same(scan.read(0).pixels, expected.astype("f4"))
    assert (scan.low, scan.high) == ((-2048, 2047) if signed else (0, 4095))
    copied_back = pydicom.dcmread(copied(scan, tmp_path / "same"))
    same(np.frombuffer(copied_back.PixelData, values.dtype, count=GRAY.size), (values << shift).ravel())
    with Writer(open_scan(path), tmp_path / "other") as writer:
        writer.write(0, np.full(GRAY.shape, 100.0))
    back = np.frombuffer(pydicom.dcmread(writer.target).PixelData, values.dtype, count=GRAY.size)
    changed = expected.ravel() != 100
    assert (back[changed] == 100 << shift).all()


@pytest.mark.parametrize("signed", [False, True])
def test_an_overlay_in_the_bits_above_the_picture_stays(tmp_path, signed):
    overlay = np.tile(np.uint16([0, 0x1000, 0x8000]), 21).reshape(GRAY.shape)
    pixels = (GRAY | overlay).astype("<i2" if signed else "<u2")
    path = save_dicom(tmp_path / "a.dcm", pixels, bits=12)
    with Writer(open_scan(path), tmp_path / "out") as writer:
        writer.write(0, np.full(GRAY.shape, -3.0 if signed else 5.0))
    back = np.frombuffer(pydicom.dcmread(writer.target).PixelData, "<u2", count=GRAY.size).reshape(GRAY.shape)
    same(back, overlay | (0xFFD if signed else 5))


def test_pixels_that_do_not_fit_the_high_bit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="HighBit and BitsStored"):
        open_scan(file(tmp_path / "a.dcm", bits=12, HighBit=15)).read(0)


@pytest.mark.parametrize("value", [[5, 7], [5], [5, 7, 9]])
def test_each_of_several_padding_values_is_padding(tmp_path, value):
    pixels = GRAY.copy()
    pixels[0, :3] = 5, 6, 7
    scan = open_scan(save_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=value))
    valid = scan.read(0).valid
    same(valid, ~np.isin(pixels, value))


def test_a_padding_range_is_padding(tmp_path):
    pixels = GRAY.copy()
    pixels[0, :3] = 5, 6, 7
    scan = open_scan(save_dicom(tmp_path / "a.dcm", pixels, PixelPaddingValue=5, PixelPaddingRangeLimit=6))
    same(scan.read(0).valid, (pixels < 5) | (pixels > 6))


@pytest.mark.parametrize("kind", ["no preamble", "no meta", "implicit", "big endian", "DICM alone", "deflated"])
def test_the_file_may_lack_its_preamble_or_its_meta_information(tmp_path, kind):
    syntaxes = {"implicit": ImplicitVRLittleEndian, "big endian": ExplicitVRBigEndian}
    path = save_dicom(tmp_path / "a.dcm", GRAY, **({"syntax": syntaxes[kind]} if kind in syntaxes else {}))
    if kind == "deflated":
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)
    whole = path.read_bytes()
    after = 144 + int.from_bytes(whole[140:144], "little")
    cuts = {"no preamble": 132, "DICM alone": 128, "deflated": 0}
    path.write_bytes(whole[cuts.get(kind, after) :])
    scan = open_scan(path)
    same(scan.read(0).pixels, GRAY.astype("f4"))
    same(pydicom.dcmread(copied(scan, tmp_path / "out")).pixel_array, GRAY)


def test_slopes_of_frames_may_be_empty(tmp_path):
    groups = []
    for slope in ("2", "", None):
        item, inner = Dataset(), Dataset()
        if slope is not None:
            inner.RescaleSlope, inner.RescaleIntercept = slope, "-5" if slope else ""
        item.PixelValueTransformationSequence = [inner]
        groups.append(item)
    frames = np.stack([GRAY] * 3)
    path = save_dicom(tmp_path / "a.dcm", frames, frames=True, PerFrameFunctionalGroupsSequence=groups)
    scan = open_scan(path)
    assert [scan.scale(index) for index in range(3)] == [(2.0, -5.0), (1.0, 0.0), (1.0, 0.0)]
