"""What comes in goes out again, and what carries no picture is refused with its name and value."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from mptpn.atomic import write_atomically
from mptpn.io import gray_array, image_from_array, photographs, read_image, write_image

RAMP = np.arange(35.0).reshape(5, 7)
LARGE = np.arange(400.0).reshape(20, 20)


@pytest.mark.parametrize("ending", [".npy", ".NPY", ".tif", ".TIFF"])
@pytest.mark.parametrize("shape", [(5, 7), (7, 5, 3)], ids=str)
def test_what_is_written_is_read_back(tmp_path, shape, ending):
    array = np.random.default_rng(0).uniform(-1000, 2000, shape).astype(np.float32)
    image = image_from_array(array, name="x", value_range=(-1024, 3071))
    back = read_image(write_image(tmp_path / f"new/x{ending}", image))
    # float32 keeps 0..1 to 2^-25 and 2000 to 2^-14: each of the ways in and out adds at most 4095 * 2^-25 + 2^-14
    np.testing.assert_allclose(back.array, array, rtol=0, atol=4 * (4095 * 2**-25 + 2**-14))
    assert list((tmp_path / "new").iterdir()) == [tmp_path / f"new/x{ending}"]
    with pytest.raises(ValueError, match=r"x\.png: "):
        write_image(tmp_path / "x.png", image)


def test_inside_an_image_is_float32_with_its_range_beside_it():
    array = RAMP - 10
    image = image_from_array(array, name="ramp", value_range=(-10, 24))
    assert image.pixels.dtype == torch.float32 and image.pixels.shape == (1, 1, 5, 7)
    assert image.pixels[0, 0, 0, 0] == 0 and image.pixels[0, 0, -1, -1] == 1 and image.value_range == (-10, 24)
    image.pixels.zero_()
    np.testing.assert_array_equal(array, RAMP - 10)  # the caller's array stays


def test_eight_bits_keep_the_range_of_their_type_and_alpha_is_dropped():
    assert image_from_array(np.array([[3, 9]], dtype=np.uint8), name="x").value_range == (0, 255)
    array = np.random.default_rng(0).integers(0, 255, (5, 7, 4), dtype=np.uint8)
    assert image_from_array(array, name="x").sha256 == image_from_array(array[..., :3], name="x").sha256


def test_equal_pixels_have_equal_hashes_and_others_do_not():
    image = image_from_array(RAMP, name="a")
    assert image.sha256 == image.with_pixels(image.pixels.mT.contiguous().mT).sha256
    assert image.sha256 != image.with_pixels(image.pixels + 1e-6).sha256


BAD = {
    "empty": (np.zeros((0, 7)), r"empty, shape \(0, 7\)"),
    "one pixel": (np.zeros((1, 1)), "1x1"),
    "constant": (np.full((5, 7), 3.5), "3.5"),
    "one colour": (np.ones((5, 7, 3)) * [1, 2, 3], "1, 2, 3"),
    "NaN": (np.where(RAMP == 4, np.nan, RAMP), "1 of 35"),
    "infinite": (np.where(RAMP > 32, np.inf, RAMP), "2 of 35"),
    "NaN in one channel": (np.dstack([RAMP, RAMP, np.where(RAMP == 4, np.nan, RAMP)]), "1 of 35"),
    "complex": (RAMP + 1j, "complex128"),
    "objects": (RAMP.astype(object), "object"),
    "text": (np.array([["a", "b"]]), "U1"),
    "mask": (RAMP > 3, "bool"),
    "nothing": (None, "object"),
    "one number": (np.array(3.0), r"\(\)"),
    "a row": (np.arange(5.0), r"\(5,\)"),
    "two channels": (np.zeros((5, 7, 2)), r"\(5, 7, 2\)"),
    "four axes": (torch.zeros(2, 5, 7, 3), r"\(2, 5, 7, 3\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_picture_is_refused_by_name_and_value(case):
    array, value = BAD[case]
    with pytest.raises(ValueError, match=rf"^somewhere\.png: .*{value}"):
        image_from_array(array, name="somewhere.png")


BAD_WITH = {
    "colour": (np.dstack([LARGE] * 3), {}, r"\(20, 20, 3\)"),
    "few pixels": (LARGE[:15], {"smallest": 16}, "15 x 20"),
    "a mask of another shape": (LARGE, {"valid": LARGE[1:] > 3}, r"mask is bool \(19, 20\)"),
    "a mask of numbers": (LARGE, {"valid": np.ones((20, 20))}, "mask is float64"),
    "a mask without a valid pixel": (LARGE, {"valid": LARGE < 0}, "mask is bool"),
    "a constant inside": (LARGE, {"valid": LARGE == 7}, "7"),
    "NaN inside": (np.where(LARGE == 4, np.nan, LARGE), {"valid": LARGE < 5, "remedy": "mask"}, "1 of 5 .*; mask them"),
    "constant luminance": (np.full((20, 20, 3), 8.0), {"colour": "luminance"}, "8"),
}


@pytest.mark.parametrize("case", BAD_WITH)
def test_what_carries_no_noise_is_refused_by_name_and_value(case):
    array, arguments, value = BAD_WITH[case]
    with pytest.raises(ValueError, match=rf"^image 3: .*{value}"):
        gray_array(array, name="image 3", **arguments)


def test_pixels_outside_the_mask_may_hold_anything():
    array = np.where(LARGE < 5, np.nan, LARGE)
    assert gray_array(array, name="x", valid=LARGE > 4) is array
    colours = np.dstack([array] * 4)
    assert gray_array(colours, name="x", valid=LARGE > 4, colour="kept").shape == (20, 20, 3)


def test_half_precision_of_torch_becomes_float32_and_colour_luminance():
    same = gray_array(torch.arange(12).reshape(3, 4).bfloat16(), name="x")
    assert same.dtype == np.float32 and same[2, 3] == 11
    colours = np.dstack([RAMP, 2 * RAMP, 3 * RAMP, RAMP])
    expected = RAMP * (0.299 + 2 * 0.587 + 3 * 0.114)
    np.testing.assert_allclose(gray_array(colours, name="x", colour="luminance"), expected, rtol=1e-12)


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, 1.0), (0.0, np.nan), (-1.7e308, 1.7e308)], ids=str)
def test_a_range_that_spans_nothing_is_refused(value_range):
    with pytest.raises(ValueError, match="value_range"):
        image_from_array(RAMP, name="x", value_range=value_range)


def test_photographs_are_gray_and_disjoint_between_splits():
    train, val, test = map(photographs.natural, photographs.SPLITS)
    names = [image.name for image in (*train, *val, *test)]
    assert (len(train), len(val), len(test)) == (11, 2, 0) and len(set(names)) == 13
    assert all(image.pixels.shape[1] == 1 and image.value_range == (0, 255) for image in train)
    with pytest.raises(ValueError, match="split 'all' is unknown"):
        photographs.natural("all")


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
