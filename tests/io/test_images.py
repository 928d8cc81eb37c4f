"""The doors: what comes in goes out again, and what carries no picture stays outside with a sentence that names it."""

import os
import signal
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from PIL import Image as Picture

from file_makers import dataset
from mptpn.atomic import write_atomically
from mptpn.io import Writer, open_scan, read_image, spread_images
from mptpn.io.image import image_from_array, write_image

DICOM = files("pydicom") / "data" / "test_files"
RAMP = np.arange(35.0).reshape(5, 7)


@pytest.mark.parametrize("ending", [".npy", ".NPY", ".tif", ".TIFF"])
@pytest.mark.parametrize("shape", [(5, 7), (2, 3), (7, 5, 3)], ids=str)
def test_what_is_written_is_read_back(tmp_path, shape, ending):
    array = np.random.default_rng(0).uniform(-1000, 2000, shape).astype(np.float32)
    image = image_from_array(array, name="x", value_range=(-1024, 3071))
    back = read_image(write_image(tmp_path / f"x{ending}", image))
    low, high = back.value_range
    # float32 keeps 0..1 to 2^-25 and 2000 to 2^-14: each crossing of the door adds at most 4095 * 2^-25 + 2^-14
    again = back.pixels[0].permute(1, 2, 0).double().numpy().squeeze() * (high - low) + low
    np.testing.assert_allclose(again, array, rtol=0, atol=4 * (4095 * 2**-25 + 2**-14))
    assert list(tmp_path.iterdir()) == [tmp_path / f"x{ending}"]


def test_inside_an_image_is_float32_with_its_range_beside_it():
    image = image_from_array(RAMP - 10, name="ramp", value_range=(-10, 24))
    assert image.pixels.dtype == torch.float32 and image.pixels.shape == (1, 1, 5, 7)
    assert image.pixels[0, 0, 0, 0] == 0 and image.pixels[0, 0, -1, -1] == 1
    assert image.value_range == (-10, 24)


def test_eight_bits_keep_the_range_of_their_type():
    assert image_from_array(np.array([[3, 9]], dtype=np.uint8), name="x").value_range == (0, 255)


def test_alpha_is_dropped():
    array = np.random.default_rng(0).integers(0, 255, (5, 7, 4), dtype=np.uint8)
    torch.testing.assert_close(
        image_from_array(array, name="x").pixels, image_from_array(array[..., :3], name="x").pixels, rtol=0, atol=0
    )


def test_the_caller_s_array_is_left_alone():
    array = RAMP.copy()
    image_from_array(array, name="x").pixels.zero_()
    np.testing.assert_array_equal(array, RAMP)


BAD = {
    "empty": (np.zeros((0, 7)), "empty"),
    "one pixel": (np.zeros((1, 1)), "1x1"),
    "constant": (np.full((5, 7), 3.5), "3.5"),
    "one colour": (np.ones((5, 7, 3)) * [1, 2, 3], "constant"),
    "NaN": (np.where(RAMP == 4, np.nan, RAMP), "1 of 35"),
    "infinite": (np.where(RAMP > 32, np.inf, RAMP), "2 of 35"),
    "complex": (RAMP + 1j, "complex128"),
    "objects": (RAMP.astype(object), "object"),
    "text": (np.array([["a", "b"]]), "U1"),
    "mask": (RAMP > 3, "bool"),
    "one number": (np.array(3.0), r"\(\)"),
    "a row": (np.arange(5.0), r"\(5,\)"),
    "two channels": (np.zeros((5, 7, 2)), r"\(5, 7, 2\)"),
    "four axes": (np.zeros((2, 5, 7, 3)), r"\(2, 5, 7, 3\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_is_refused_by_name_and_value(case):
    array, value = BAD[case]
    with pytest.raises(ValueError, match=rf"^somewhere\.png: .*{value}"):
        image_from_array(array, name="somewhere.png")


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (-1.7e308, 1.7e308)], ids=str)
def test_a_range_that_spans_nothing_is_refused(value_range):
    with pytest.raises(ValueError, match="value_range"):
        image_from_array(RAMP, name="x", value_range=value_range)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png: no such file"):
        read_image(tmp_path / "nowhere.png")


def truncated_dicom():
    return (DICOM / "CT_small.dcm").read_bytes()[:30000]


NO_IMAGES = {
    "notes.png": lambda: b"not a picture\n",
    "empty.png": lambda: b"",
    "half.dcm": truncated_dicom,
    "x.npy": lambda: b"\x93NUMPY",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", NO_IMAGES)
def test_a_file_that_is_no_image_is_refused_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(NO_IMAGES[name]())
    with pytest.raises(ValueError, match=f"{name}: (is|cannot)") as refusal:
        read_image(tmp_path / name)
    assert "\n" not in str(refusal.value) and str(refusal.value).startswith(str(tmp_path))


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "o.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled objects, which are never loaded"):
        read_image(tmp_path / "o.npy")


def test_dicom_comes_in_rescaled():
    image = read_image(str(DICOM / "CT_small.dcm"))
    assert image.pixels.shape == (1, 1, 128, 128)
    # stored 128..2191, rescale intercept -1024
    assert image.value_range == (128 - 1024, 2191 - 1024) and image.unit == "HU"


def test_a_colour_series_gives_its_middle_frame():
    image = read_image(str(DICOM / "examples_ybr_color.dcm"))
    assert image.pixels.shape == (1, 3, 240, 320)


def test_a_volume_gives_its_middle_slice(tmp_path):
    import nibabel

    volume = np.random.default_rng(0).random((6, 7, 5, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii.gz")
    image = read_image(tmp_path / "v.nii.gz")
    low, high = image.value_range
    assert (low, high) == (volume[:, :, 2, 0].min(), volume[:, :, 2, 0].max()) and image.pixels.shape == (1, 1, 6, 7)


def test_sixteen_bit_png_keeps_its_values(tmp_path):
    array = np.random.default_rng(0).integers(0, 65535, (5, 7)).astype(np.uint16)
    Picture.fromarray(array).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png").value_range == (array.min(), array.max())


@pytest.mark.parametrize(("ending", "settings"), [("tif", {"compression": "tiff_lzw"}), ("bmp", {})])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5, 3)], ids=str)
def test_lzw_and_bmp_are_read_and_have_the_range_of_bytes(tmp_path, shape, ending, settings):
    array = np.random.default_rng(0).integers(3, 99, shape, dtype=np.uint8)
    Picture.fromarray(array).save(tmp_path / f"x.{ending}", **settings)
    image = read_image(tmp_path / f"x.{ending}")
    assert image.value_range == (0, 255) and image.name == f"x.{ending}"
    np.testing.assert_allclose(image.array, array, atol=1e-4)


def test_words_that_begin_like_a_bmp_are_no_image(tmp_path):
    (tmp_path / "bmi.csv").write_text("BMI,age,sex\n21,50,f\n")
    with pytest.raises(ValueError, match=r"bmi\.csv: is no image of a known type"):
        open_scan(tmp_path / "bmi.csv")


def test_bmp_is_written_as_png(tmp_path):
    Picture.fromarray(np.arange(35, dtype=np.uint8).reshape(5, 7)).save(tmp_path / "x.bmp")
    scan = open_scan(tmp_path / "x.bmp")
    with Writer(scan, tmp_path / "out") as writer:
        writer.write(0, scan.read(0).pixels)
    assert writer.target.name == "x.png" and scan.note == "BMP is written as PNG, which keeps every pixel."
    np.testing.assert_array_equal(Picture.open(writer.target), np.arange(35).reshape(5, 7))


def test_padding_has_the_smallest_value_of_the_others_and_does_not_set_the_range(tmp_path):
    array = np.arange(100, 135, dtype=np.int16).reshape(5, 7)
    array[:2] = -2000
    dataset(array, PixelPaddingValue=-2000, RescaleSlope=2, RescaleIntercept=-1000).save_as(
        tmp_path / "x.dcm", enforce_file_format=True
    )
    image = read_image(tmp_path / "x.dcm")
    assert image.value_range == (2 * 114 - 1000, 2 * 134 - 1000) and (image.pixels[0, 0, :2] == 0).all()
    dataset(np.full((5, 7), -2000, np.int16), PixelPaddingValue=-2000).save_as(
        tmp_path / "y.dcm", enforce_file_format=True
    )
    with pytest.raises(ValueError, match="y.dcm: every pixel of slice 1 is padding"):
        read_image(tmp_path / "y.dcm")


def test_pixels_that_are_no_numbers_are_refused_by_their_number(tmp_path):
    np.save(tmp_path / "x.npy", np.where(RAMP == 4, np.nan, RAMP))
    with pytest.raises(ValueError, match=r"x\.npy: 1 of 35 pixels are NaN"):
        read_image(tmp_path / "x.npy")


def test_slices_are_spread_over_a_scan_and_empty_ones_are_passed_over(tmp_path):
    volume = np.random.default_rng(0).random((40, 5, 7)).astype(np.float32)
    volume[[1, 4]] = 3
    np.save(tmp_path / "v.npy", volume)
    images = spread_images(open_scan(tmp_path / "v.npy"))
    numbers = [int(image.name.removeprefix("v.npy slice ")) for image in images]
    assert (
        len(images) == 16
        and numbers[0] == 3
        and not {2, 5} & set(numbers)
        and set(np.diff(numbers)) <= {2, 3, 4}
        and numbers[-1] == 40
    )
    for number, image in zip(numbers, images, strict=True):
        np.testing.assert_allclose(image.array, volume[number - 1], atol=1e-6)
    np.save(tmp_path / "v.npy", np.full((3, 5, 7), 2.0))
    with pytest.raises(ValueError, match=r"v\.npy: none of its 3 slices can be learned from: every pixel is 2"):
        spread_images(open_scan(tmp_path / "v.npy"))


def test_float_pixels_are_not_written_as_png(tmp_path):
    with pytest.raises(ValueError, match="x.png"):
        write_image(tmp_path / "x.png", image_from_array(RAMP, name="x"))


def test_equal_pixels_have_equal_hashes_and_others_do_not():
    image = image_from_array(RAMP, name="a")
    assert (
        image.sha256
        == image.with_pixels(image.pixels.clone()).sha256
        == image.with_pixels(image.pixels.mT.contiguous().mT).sha256
    )
    assert image.sha256 != image.with_pixels(image.pixels + 1e-6).sha256


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "result.txt"
    write_atomically(target, lambda path: path.write_text("old"))

    def disk_full(path):
        path.write_text("half of the n")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        write_atomically(target, disk_full)
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_killed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "result.txt"
    target.write_text("old")
    script = "import os, signal, sys; from mptpn.atomic import write_atomically\n"
    script += "def half(path): path.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    script += "write_atomically(sys.argv[1], half)"
    killed = subprocess.run([sys.executable, "-c", script, str(target)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL and target.read_text() == "old"


def test_folders_are_made_on_the_way(tmp_path):
    assert write_image(tmp_path / "a" / "b" / "x.npy", image_from_array(RAMP, name="x")).is_file()
