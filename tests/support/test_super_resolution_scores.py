"""The scores that super-resolution papers print."""

import os

import numpy as np
import pytest
import torch

from mptpn.random import generator
from mptpn.super_resolution import resize, to_eight_bit
from support.super_resolution_scores import luma, scores
from support.super_resolution_sets import scenes

real = pytest.mark.skipif(not os.environ.get("MPTPN_DATA"), reason="MPTPN_DATA names no folder of images")


def test_luma_is_matlabs():
    colours = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0]], dtype=torch.float64).T[None, :, :, None]
    assert torch.allclose(luma(colours).flatten() * 255, torch.tensor([16, 235, 81.481, 144.553], dtype=torch.float64))


def test_scores_of_a_known_error_leave_out_the_border_and_round_to_8_bits():
    high = to_eight_bit(torch.rand(1, 3, 40, 41, generator=generator(40, 41)))
    worse = high.clone()
    worse[..., :3, :] = 0  # within a border of 3
    assert scores(worse, high, scale=3)["psnr_db"] == np.inf > scores(worse, high, scale=2)["psnr_db"]
    assert scores(high + 0.4 / 255, high, scale=2)["psnr_db"] == np.inf
    shifted = to_eight_bit(high * 0.8)
    gray = scores(shifted + 10 / 255, shifted, scale=2)  # 10 levels in R, G and B are 10 * 219 / 255 of Y
    assert abs(gray["psnr_db"] - 20 * np.log10(255 / (10 * 219 / 255))) < 1e-4


@real
@pytest.mark.slow
@pytest.mark.parametrize(("scale", "psnr_db", "ssim"), [(2, 33.66, 0.9299), (4, 28.42, 0.8104)])
def test_bicubic_on_the_files_of_set5_scores_as_published(scale, psnr_db, ssim):
    """Within 0.02 dB and 0.001: the published floor resized Y alone, the files are colour."""
    pairs = [(resize(s.low.double(), scale=scale, eight_bit=True), s.high) for s in scenes("Set5", scale=scale)]
    found = [scores(*pair, scale=scale) for pair in pairs]
    assert len(found) == 5 and abs(np.mean([f["psnr_db"] for f in found]) - psnr_db) < 0.02
    assert abs(np.mean([f["ssim"] for f in found]) - ssim) < 0.001


@pytest.mark.parametrize(
    ("size", "scale", "message"),
    [((42, 40), 2, "40 x 40 px and 42 x 40 px"), ((40, 40), 0, "scale 0"), ((40, 40), 15, "scale 15")],
)
def test_scores_of_images_that_do_not_fit_are_refused(size, scale, message):
    with pytest.raises(ValueError, match=message):
        scores(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, *size), scale=scale)


def test_scores_need_what_ssim_needs_inside_the_border():
    with pytest.raises(ValueError, match="14 x 40 px"):
        scores(torch.zeros(1, 3, 14, 40), torch.zeros(1, 3, 14, 40), scale=2)
