"""Values are rounded and clipped to the type; padding and NaN are marked and restored."""

import numpy as np
import pydicom
import pytest

from file_makers import copied, same, samples, save_dicom, volume
from mptpn.io import Writer, open_scan


def test_values_are_rounded_half_to_even_and_clipped(tmp_path):
    np.save(tmp_path / "a.npy", np.full((2, 4), 7, np.uint8))
    with Writer(open_scan(tmp_path / "a.npy"), tmp_path / "out") as writer:
        writer.write(0, np.array([[0.5, 1.5, 2.5, -3], [254.5, 255.5, 1e9, 6.9]]))
    assert np.load(writer.target).tolist() == [[0, 2, 2, 0], [254, 255, 255, 7]]


@pytest.mark.parametrize("dtype", ["i8", "u8", "i4", "f2"])
def test_what_is_far_outside_the_type_does_not_wrap(tmp_path, dtype):
    np.save(tmp_path / "a.npy", np.full((2, 4), 7, dtype))
    with Writer(open_scan(tmp_path / "a.npy"), tmp_path / "out") as writer:
        writer.write(0, np.array([[1e30, -1e30, 7, 7]] * 2))
    back = np.load(writer.target)
    assert back[0, 0] > 6e4 and back[0, 1] == back.min() <= 0 and np.isfinite(back.astype(float)).all()


def test_twelve_bits_are_clipped_at_twelve(tmp_path):
    scan = open_scan(save_dicom(tmp_path / "a.dcm", samples((5, 7), "u2") & 0xFFF, bits=12))
    with Writer(scan, tmp_path / "out") as writer:
        writer.write(0, np.full((5, 7), 1e5))
    assert (pydicom.dcmread(writer.target).pixel_array == 4095).all()


@pytest.mark.parametrize(
    "tags",
    [{"PixelPaddingValue": -2000}, {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1999}],
    ids=["value", "range"],
)
def test_padding_is_invalid_and_restored(tmp_path, tags):
    array = np.arange(35, dtype=np.int16).reshape(5, 7)
    array[0, :3], array[1, 0] = -2000, -1999
    scan = open_scan(save_dicom(tmp_path / "a.dcm", array, **tags))
    invalid = (array == -2000) | ((array == -1999) & ("PixelPaddingRangeLimit" in tags))
    same(scan.read(0).valid, ~invalid)
    with Writer(scan, tmp_path / "out") as writer:
        writer.write(0, np.where(invalid, np.nan, 5.0))
    same(pydicom.dcmread(writer.target).pixel_array, np.where(invalid, array, 5).astype(np.int16))


def test_nan_is_invalid_zero_and_restored(tmp_path):
    array = samples((5, 7), "f4")
    array[0, 1], array[2, 2], array[3, 3] = np.nan, np.inf, -np.inf
    np.save(tmp_path / "a.npy", array)
    scan = open_scan(tmp_path / "a.npy")
    slice = scan.read(0)
    same(slice.valid, np.isfinite(array))
    assert (slice.pixels[~slice.valid] == 0).all()
    with Writer(scan, tmp_path / "out") as writer:
        writer.write(0, np.full((5, 7), 3.0))
    same(np.load(writer.target), np.where(np.isfinite(array), np.float32(3), array))


def test_an_empty_slice_of_a_volume_is_invalid_and_one_of_an_image_refused(tmp_path):
    array = samples((3, 5, 7), "f4")
    array[1] = np.nan
    np.save(tmp_path / "v.npy", array)
    np.save(tmp_path / "i.npy", array[1])
    scan = open_scan(tmp_path / "v.npy")
    assert not scan.read(1).valid.any()
    same(np.load(copied(scan, tmp_path / "out")), array)
    with pytest.raises(ValueError, match="i.npy: every pixel is padding, NaN or infinite"):
        open_scan(tmp_path / "i.npy").read(0)


def test_reading_and_then_writing_a_slice_decodes_it_once(tmp_path, monkeypatch):
    np.save(tmp_path / "v.npy", samples((3, 5, 7), "u2"))
    scan, decoded = open_scan(tmp_path / "v.npy"), []
    stored = scan.stored
    monkeypatch.setattr(scan, "stored", lambda index: decoded.append(index) or stored(index))
    copied(scan, tmp_path / "out")
    assert decoded == [0, 1, 2]


def test_a_slice_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(IndexError, match="slice 5 does not exist; choose 0 to 4"):
        open_scan(volume(tmp_path, "npy")).read(5)


def test_a_part_of_a_slice_does_not_hold_the_rest_of_it(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(64 * 64, dtype=np.float32).reshape(64, 64))
    part = open_scan(tmp_path / "a.npy").read_part(0, (slice(8, 16), slice(0, 4)))
    assert part.pixels.shape == part.valid.shape == (8, 4)
    assert part.pixels.base is None and part.valid.base is None
