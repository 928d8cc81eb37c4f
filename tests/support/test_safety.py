"""Planted discs are found again in full by the identity, and what is measured elsewhere has the spread that the formula
says.
"""

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


def test_discs_lie_on_the_lattice_apart_from_each_other_and_inside():
    planted, discs = lesions.plant(flat(), diameters=DIAMETERS, contrast=0.1, seed=1)
    assert {disc.diameter for disc in discs} == set(DIAMETERS) and {
        math.copysign(1, disc.contrast) for disc in discs
    } == {-1, 1}
    reach = 15 / 2 + lesions.RING
    assert all(reach <= disc.row <= 140 - reach and reach <= disc.col <= 172 - reach for disc in discs)
    assert min(math.hypot(a.row - b.row, a.col - b.col) for a in discs for b in discs if a is not b) > 2 * reach
    # pixels whose centres lie within diameter / 2: 9, 21, 69 and 177 of them
    pixels = {3: 9, 5: 21, 9: 69, 15: 177}
    assert int((planted != flat()).sum()) == sum(pixels[disc.diameter] for disc in discs)


def test_places_are_the_seed_s_and_not_the_contrast_s():
    places = [
        [(d.row, d.col, d.diameter) for d in lesions.plant(CLEAN, diameters=DIAMETERS, contrast=c, seed=s)[1]]
        for c, s in ((0.1, 1), (0.0, 1), (0.1, 2))
    ]
    assert places[0] == places[1] != places[2]


def test_identity_keeps_contrast_1():
    planted, discs = lesions.plant(CLEAN, diameters=DIAMETERS, contrast=0.05, seed=1)
    shares = lesions.measure(planted - CLEAN, discs) / [disc.contrast for disc in discs]
    assert shares == pytest.approx(1, abs=1e-5)  # float32 of intensities up to 1.05
    rows = lesions.trial(lambda noisy, _: noisy, [CLEAN], sigma=0.1)
    assert [row["recovered"] for row in rows] == pytest.approx([1] * 16, abs=1e-4)


def test_constant_image_gives_0():
    _, discs = lesions.plant(flat(), diameters=DIAMETERS, contrast=0.05, seed=1)
    assert np.abs(lesions.measure(flat(), discs)).max() < 1e-12
    rows = lesions.trial(lambda noisy, _: flat(), [flat()], sigma=0.1, realisations=1)
    assert all(row["recovered"] == row["false_sd"] == row["false_rate"] == 0 for row in rows)


@pytest.mark.parametrize("width", [0.7, 2.0])
def test_blur_loses_of_a_disc_what_its_convolution_says(width):
    """A blur is linear, so the kept share is the same in any noise; here summed over pairs of pixels, without a filter."""
    rows = lesions.trial(
        lambda noisy, _: torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, width, width), truncate=8)),
        [CLEAN],
        sigma=0.1,
        realisations=1,
    )
    around = np.arange(-20, 21)
    distance = np.hypot(around[:, None], around)
    tap = np.exp(-0.5 * (np.arange(-64, 65) / width) ** 2)
    tap[np.abs(np.arange(-64, 65)) > int(8 * width + 0.5)] = 0
    kernel = tap / tap.sum()
    for row in rows:
        edge = row["diameter"] / 2
        inside = np.argwhere(distance <= edge)
        blurred = sum(np.outer(kernel[64 + around + 20 - r], kernel[64 + around + 20 - c]) for r, c in inside)
        wanted = (
            blurred[distance <= edge].mean()
            - blurred[(distance > edge + lesions.GAP) & (distance <= edge + lesions.RING)].mean()
        )
        # float32 differences of 0.025 at intensities of 1: 1e-5 relative, over 9 pixels or more
        assert row["recovered"] == pytest.approx(wanted, abs=2e-4)
    assert {row["diameter"]: row["recovered"] for row in rows}[3] < 0.95  # and a planted wrong width would be seen


def test_false_structure_of_the_identity_is_that_of_the_noise():
    """White noise through a difference of two means: sigma sqrt(1 / n + 1 / m); at least 28 places x 60 draws give it
    to 1.7 %, four times that is allowed.
    """
    rows = lesions.trial(lambda noisy, _: noisy, [flat(190, 230)], sigma=0.1, contrasts=(0.5,), realisations=60)
    assert min(row["discs"] for row in rows) >= 28 // 4 * 60
    for row in rows:
        places = 28 * 60
        assert row["false_sd"] == pytest.approx(row["identity_sd"], rel=4 / math.sqrt(2 * places))
        chance = math.erfc(0.25 / row["identity_sd"] / math.sqrt(2))  # of |t| > half of 0.5 sigma
        assert row["false_rate"] == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / places) + 1e-3)
        assert row["detectability"] == pytest.approx(0.5 / row["false_sd"], rel=1e-3)
    disc = lesions.Disc(0, 0, 3, 0.0)
    ring = sum(3.5 < math.hypot(r, c) <= 5.5 for r in range(-6, 7) for c in range(-6, 7))
    assert lesions.noise_spread(disc, sigma=2.0) == pytest.approx(2 * math.sqrt(1 / 9 + 1 / ring))


def test_a_denoiser_that_invents_a_texture_is_found():
    texture = PoissonGaussian(0.05).sample(torch.zeros(1, 1, 141, 173), generator=generator(5))
    honest, inventor = (
        lesions.trial(f, [flat()], sigma=0.1, contrasts=(1.0,))
        for f in (lambda y, _: flat(), lambda y, _: flat() + texture)
    )
    assert all(a["false_sd"] == 0 < 0.01 < b["false_sd"] for a, b in zip(honest, inventor, strict=True))


def test_image_without_room_is_refused():
    with pytest.raises(ValueError, match=r"an image of \(30, 31\) px has 1 places 25 px apart"):
        lesions.plant(flat(30, 31), diameters=DIAMETERS, contrast=0.1, seed=0)
