"""Enlarging: eight orientations, tiles whose seams are measured, gray and 16-bit images."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import mptpn
from mptpn.io.image import image_from_array
from mptpn.networks.weights import load_weights
from mptpn.random import generator
from mptpn.super_resolution import SuperResolutionNetwork, enlarge, resize
from support.super_resolution_scores import scores, seams
from support.super_resolution_sets import scenes

real = pytest.mark.skipif(not os.environ.get("MPTPN_DATA"), reason="MPTPN_DATA names no folder of images")


class Local(nn.Module):
    """A network that sees 2 px around each pixel, and no more: tiles must not show at all."""

    scale = 2

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.layer = nn.Conv2d(3, 12, 5, padding=2)

    def forward(self, low):
        return nn.functional.pixel_shuffle(self.layer(low), 2)


@pytest.fixture
def local():
    torch.manual_seed(0)
    return Local().eval()


@pytest.fixture
def hashing():
    torch.manual_seed(0)
    return SuperResolutionNetwork(2, n_resblocks=2, n_feats=8, chunk_size=16, n_hashes=2, res_scale=1.0).eval()


def image(height, width, channels=3):
    return torch.rand(1, channels, height, width, generator=generator(height, width))


@pytest.mark.parametrize(("tile", "self_ensemble"), [(1, False), (7, True), (40, False)])
def test_tiles_of_a_local_network_are_exact(local, tile, self_ensemble):
    whole = enlarge(local, image(23, 31), self_ensemble=self_ensemble)
    tiles = enlarge(local, image(23, 31), tile=tile, halo=2, self_ensemble=self_ensemble)
    assert torch.allclose(whole, tiles, atol=1e-6)


def test_a_halo_too_small_shows_as_a_seam_and_an_exact_tiling_as_none(local):
    low = image(40, 45)
    tiles = (enlarge(local, low, tile=10, halo=halo) for halo in (2, 0))
    exact, planted = (seams(result, enlarge(local, low), tile=10, scale=2) for result in tiles)
    assert exact["step"] < 1e-3 and exact["largest"] < 1e-3 and planted["step"] > 1.3 * planted["elsewhere"] > 0


def test_self_ensemble_does_not_care_how_the_image_is_turned(hashing):
    low = image(13, 18)
    out = enlarge(hashing, low, self_ensemble=True)
    for turned in (lambda x: x.flip(2), lambda x: x.rot90(1, (2, 3)), lambda x: x.mT):
        assert torch.allclose(turned(out), enlarge(hashing, turned(low), self_ensemble=True), atol=1e-5)
    assert not torch.allclose(out, enlarge(hashing, low), atol=1e-3)


def test_an_image_smaller_than_a_chunk_is_enlarged_and_clipped(hashing):
    out = enlarge(hashing, image(2, 3), tile=16)
    assert out.shape == (1, 3, 4, 6) and 0 <= out.min() and out.max() <= 1


def test_a_gray_image_passes_through_a_colour_network_and_comes_back_gray(hashing):
    low = image(9, 12, channels=1)
    colour = enlarge(hashing, low.expand(-1, 3, -1, -1))
    assert torch.allclose(enlarge(hashing, low), colour.mean(1, keepdim=True), atol=1e-6)


def test_an_image_in_double_precision_comes_back_in_it(hashing):
    low = image(9, 7)
    assert torch.equal(enlarge(hashing, low.double()), enlarge(hashing, low).double())


def test_a_16_bit_image_keeps_its_range_and_its_depth():
    levels = (np.arange(20 * 22).reshape(20, 22) * 100 + 7).astype(np.uint16)
    low = image_from_array(levels, name="scan", value_range=(0, 65535))
    net = SuperResolutionNetwork(2, n_resblocks=1, n_feats=8, bicubic_skip=True).eval()  # untrained: bicubic
    out = low.with_pixels(enlarge(net, low.pixels)).array
    assert out.shape == (40, 44) and len(np.unique(np.round(out))) > 1000  # 8 bits have 256
    # a ramp, a quarter of a pixel up and left
    assert np.abs(out[8:-8:2, 8:-8:2] - (levels - 100 * 22 / 4 - 100 / 4)[4:-4, 4:-4]).max() < 1


@real
@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 4])
def test_networks_of_the_package_score_on_set5_what_their_notes_say(scale):
    network, note = load_weights(f"x{scale}", SuperResolutionNetwork)
    for s in [s for s in scenes("Set5", scale=scale) if s.name in ("butterfly", "head")]:
        found = scores(enlarge(network, s.low), s.high, scale=scale)["psnr_db"]
        # on a GPU and on a CPU means were 0.001 dB apart: a token near the border of two buckets may change its bucket
        assert abs(found - note["set5_psnr_db"][s.name]) < 0.02
        assert found > scores(resize(s.low, scale=scale, eight_bit=True), s.high, scale=scale)["psnr_db"] + 1


LOW = torch.zeros(1, 3, 4, 4)


@pytest.mark.parametrize(
    ("low", "message"),
    [
        (torch.zeros(2, 3, 4, 4), r"\(2, 3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 4), r"\(1, 4, 4, 4\)"),
        (torch.zeros(1, 3, 0, 4), r"\(1, 3, 0, 4\)"),
        (LOW.byte(), "torch.uint8"),
        (LOW * torch.nan, "nan"),
        (LOW + 200, "200"),
    ],
)
def test_a_wrong_image_is_named(hashing, low, message):
    with pytest.raises(ValueError, match=message):
        enlarge(hashing, low)


def test_a_network_in_training_and_a_negative_tile_are_refused(hashing):
    with pytest.raises(ValueError, match="tile -1"):
        enlarge(hashing, LOW, tile=-1)
    with pytest.raises(ValueError, match="training=True"):
        enlarge(hashing.train(), LOW)


GRAY = np.arange(72.0).reshape(9, 8)


@pytest.mark.parametrize(
    ("low", "settings", "message"),
    [
        (GRAY, {"scale": 2.0}, "^scale 2.0: is no whole number; .* enlarge by 2 or 4"),
        (GRAY, {"scale": 3}, "^scale 3: "),
        (GRAY, {"tile": -1}, "^tile -1: give a number of pixels, 0 or more"),
        (GRAY, {"tile": "a"}, "^tile 'a': is no whole number"),
        (GRAY, {"tile": 33.5}, "^tile 33.5: is no whole number"),
        (0 * GRAY, {}, "every pixel is 0; a constant image shows nothing"),
        ([GRAY, GRAY], {}, "each of several alone"),
        ("folder", {}, "^'folder': enlarge takes an array; for files use `mptpn enlarge`"),
    ],
)
def test_what_cannot_be_enlarged_is_named_in_one_sentence(low, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mptpn.enlarge(low, **settings)
