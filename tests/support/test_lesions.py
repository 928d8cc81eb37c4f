"""The identity recovers planted lesions in full, and noise has the spread that the formula says."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support import lesions

CLEAN = torch.rand(1, 1, 141, 173, generator=generator(3))
DIAMETERS = (3, 5, 9, 15)


def flat(height=141, width=173):
    return torch.full((1, 1, height, width), 0.5)


def test_lesions_lie_inside_and_apart_from_each_other():
    planted, found = lesions.plant(flat(), diameters=DIAMETERS, contrast=0.1, seed=1)
    assert {one.diameter for one in found} == set(DIAMETERS)
    assert {math.copysign(1, one.contrast) for one in found} == {-1, 1}
    reach = 15 / 2 + lesions.RING
    assert all(reach <= one.row <= 140 - reach and reach <= one.col <= 172 - reach for one in found)
    assert min(math.hypot(a.row - b.row, a.col - b.col) for a in found for b in found if a is not b) > 2 * reach
    # pixels whose centres lie within diameter / 2
    pixels = {3: 9, 5: 21, 9: 69, 15: 177}
    assert int((planted != flat()).sum()) == sum(pixels[one.diameter] for one in found)


def test_the_seed_and_not_the_contrast_decides_the_places():
    places = [
        [(x.row, x.col, x.diameter) for x in lesions.plant(CLEAN, diameters=DIAMETERS, contrast=c, seed=s)[1]]
        for c, s in ((0.1, 1), (0.0, 1), (0.1, 2))
    ]
    assert places[0] == places[1] != places[2]


def test_the_identity_recovers_the_whole_contrast():
    rows = lesions.detectability(lambda noisy, _: noisy, [CLEAN], sigma=0.1)
    assert [row["recovered"] for row in rows] == pytest.approx([1] * 16, abs=1e-4)  # float32 of up to 1.05


def test_a_constant_image_has_no_lesion_and_no_false_structure():
    rows = lesions.detectability(lambda noisy, _: flat(), [flat()], sigma=0.1, realisations=1)
    assert all(row["recovered"] == row["false_sd"] == row["false_rate"] == 0 for row in rows)


def test_a_blur_keeps_of_a_lesion_what_its_convolution_says():
    """A blur is linear, so the recovered share is the same in any noise; here it is summed over pairs of pixels."""
    width = 2.0

    def blur(noisy, _):
        return torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width), truncate=8))

    rows = lesions.detectability(blur, [CLEAN], sigma=0.1, realisations=1)
    around = np.arange(-20, 21)
    distance = np.hypot(around[:, None], around)
    tap = np.exp(-0.5 * (np.arange(-64, 65) / width) ** 2)
    tap[np.abs(np.arange(-64, 65)) > int(8 * width + 0.5)] = 0
    kernel = tap / tap.sum()
    for row in rows:
        edge = row["diameter"] / 2
        inside = np.argwhere(distance <= edge)
        blurred = sum(np.outer(kernel[64 + around + 20 - r], kernel[64 + around + 20 - c]) for r, c in inside)
        ring = (distance > edge + lesions.GAP) & (distance <= edge + lesions.RING)
        # float32 differences of 0.025 at intensities of 1: 1e-5 relative, over 9 pixels or more
        assert row["recovered"] == pytest.approx(blurred[distance <= edge].mean() - blurred[ring].mean(), abs=2e-4)
    assert {row["diameter"]: row["recovered"] for row in rows}[3] < 0.95  # a wrong width would be seen


def test_false_structure_of_the_identity_is_that_of_the_noise():
    """White noise through a difference of two means; 28 places x 60 draws give it to 1.7 %, 4 times that is allowed."""
    settings = {"sigma": 0.1, "contrasts": (0.5,), "realisations": 60}
    rows, places = lesions.detectability(lambda noisy, _: noisy, [flat(190, 230)], **settings), 28 * 60
    assert min(row["discs"] for row in rows) >= places // 4
    for row in rows:
        assert row["false_sd"] == pytest.approx(row["identity_sd"], rel=4 / math.sqrt(2 * places))
        chance = math.erfc(0.25 / row["identity_sd"] / math.sqrt(2))  # of |t| > half of 0.5 sigma
        assert row["false_rate"] == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / places) + 1e-3)
        assert row["detectability"] == pytest.approx(0.5 / row["false_sd"], rel=1e-3)
    ring = sum(3.5 < math.hypot(r, c) <= 5.5 for r in range(-6, 7) for c in range(-6, 7))
    assert lesions.noise_spread(3, sigma=2.0) == pytest.approx(2 * math.sqrt(1 / 9 + 1 / ring))


def test_a_denoiser_that_invents_a_texture_is_found():
    texture = PoissonGaussian(0.05).sample(torch.zeros(1, 1, 141, 173), generator=generator(5))
    rows = lesions.detectability(lambda y, _: flat() + texture, [flat()], sigma=0.1, contrasts=(1.0,))
    assert all(row["false_sd"] > 0.01 for row in rows)


def test_an_image_without_room_is_refused():
    with pytest.raises(ValueError, match=r"an image of \(30, 31\) px has 1 places 25 px apart"):
        lesions.plant(flat(30, 31), diameters=DIAMETERS, contrast=0.1, seed=0)
