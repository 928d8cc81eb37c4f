"""Bicubic resizing: MATLAB's, to one gray level on the low-resolution files of Set5 and Set14."""

import os

import pytest
import torch

from mptpn.io.files import read_image
from mptpn.random import generator
from mptpn.super_resolution import bicubic
from support import datasets

real = pytest.mark.skipif(not os.environ.get("MPTPN_DATA"), reason="MPTPN_DATA names no folder of images")
BORDER = {"set5": "symmetric", "set14": "replicate"}


def files(name, scale):
    """High and low resolution of each picture, cut to the low one's size."""
    rows = {row["image"]: file for (owner, file), row in datasets.FILES.items() if owner == name}
    for image in [image for image in rows if image.endswith(f"_x{scale}")]:
        subject = image.rsplit("_", 1)[0]
        high = next(rows[n] for n in (f"{subject}_mod{scale}", f"{subject}_mod4", subject) if n in rows)
        low, high = (read_image(datasets.fetch(name, file)).pixels.double() for file in (rows[image], high))
        yield high[:, :, : low.shape[2] * scale, : low.shape[3] * scale], low


@real
@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("name", "count"), [("set5", 5), ("set14", 14)])
def test_low_resolution_files_are_met_to_one_gray_level(name, count, scale):
    pairs = list(files(name, scale))
    assert len(pairs) == count
    for high, low in pairs:
        levels = ((bicubic.shrink(high, scale=scale, border=BORDER[name]) - low).abs() * 255).round()
        # without the rounding between rows and columns: 2 levels, 14 % of the pixels
        assert levels.max() <= 1 and (levels > 0).double().mean() < 0.01


@pytest.mark.parametrize("scale", [2, 3, 1.5])
def test_a_ramp_stays_a_ramp_where_nothing_is_mirrored(scale):
    def ramp(rows, cols):
        return 0.3 * rows[:, None] - 0.2 * cols + 5

    image = ramp(*(torch.arange(n, dtype=torch.float64) for n in (9, 13)))
    up = bicubic.resize(image[None, None], scale=scale)[0, 0]
    places = ((torch.arange(n, dtype=torch.float64) + 0.5) / scale - 0.5 for n in up.shape)
    inside = slice(2 * int(scale) + 2, -2 * int(scale) - 2)
    assert (up - ramp(*places))[inside, inside].abs().max() < 1e-12


@pytest.mark.parametrize("scale", [3, 1 / 3])
def test_a_constant_stays_and_sizes_are_matlabs(scale):
    up = bicubic.resize(torch.full((2, 3, 13, 31), 0.7, dtype=torch.float64), scale=scale)
    assert up.shape[2:] == (-(-13 * scale // 1), -(-31 * scale // 1)) and (up - 0.7).abs().max() < 1e-12


def test_thirds_of_many_sizes_are_not_one_too_large():
    assert all(bicubic.resize(torch.zeros(1, 1, 1, 3 * n), scale=1 / 3).shape[3] == n for n in range(1, 100))


def test_shrinking_removes_what_the_small_grid_cannot_carry():
    stripes = (torch.arange(64) % 2).double().expand(1, 1, 64, 64)
    # the symmetric kernel weighs black and white alike; without antialiasing one of them stays, an error of 0.5
    for scale in (0.5, 0.25):
        assert (bicubic.resize(stripes, scale=scale)[..., 2:-2] - 0.5).abs().max() < 1e-12


@pytest.mark.parametrize(
    ("function", "image", "arguments", "message"),
    [
        (bicubic.resize, torch.zeros(3, 4, 4), {"scale": 2}, r"\(3, 4, 4\)"),
        (bicubic.resize, torch.zeros(1, 1, 4, 4, dtype=torch.uint8), {"scale": 2}, "uint8"),
        (bicubic.resize, torch.zeros(1, 1, 4, 4), {"scale": 0}, "scale 0"),
        (bicubic.resize, torch.zeros(1, 1, 4, 4), {"scale": 2, "border": "zeros"}, "'zeros'"),
        (bicubic.shrink, torch.zeros(1, 1, 9, 8), {"scale": 2}, "9 x 8 px"),
        (bicubic.crop_to_multiple, torch.zeros(1, 1, 3, 8), {"scale": 4}, "3 x 8 px"),
    ],
)
def test_a_wrong_argument_is_named(function, image, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(image, **arguments)


def test_bytes_are_taken_where_8_bits_hold_the_image_and_come_back_equal():
    shallow, deep = torch.arange(256).view(1, 1, 16, 16) / 255, torch.rand(1, 1, 16, 16, generator=generator(2))
    as_bytes = bicubic.as_bytes(shallow)
    assert as_bytes.dtype == torch.uint8 and torch.equal(bicubic.as_floats(as_bytes), shallow)
    assert torch.equal(bicubic.as_bytes(deep), deep) and torch.equal(bicubic.as_bytes(shallow + 1), shallow + 1)


def test_the_crop_keeps_the_upper_left():
    image = torch.rand(1, 1, 11, 14)
    assert torch.equal(bicubic.crop_to_multiple(image, scale=4), image[:, :, :8, :12])
