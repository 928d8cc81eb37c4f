"""Hot and dead pixels are found alone and in small groups, stay as they are, and spoil nothing around them."""

import numpy as np
import pytest
import skimage.data
import torch

import mptpn
from mptpn.inference.hot_pixels import hot_pixels
from mptpn.random import generator

SIGMA = 8.0
ROWS, COLUMNS = np.mgrid[:193, :160].astype(float)


def phantom() -> np.ndarray:
    disc = (ROWS - 90) ** 2 + (COLUMNS - 80) ** 2 < 45**2
    return 60 + 0.3 * COLUMNS + 40 * disc


CONTENT = {"phantom": phantom(), "photograph": skimage.data.camera()[100:293, 150:310].astype(float)}


def noisy_and_hot(clean: np.ndarray, *, number: int, sigmas: float, side: int = 1) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(number)
    noisy, hot = clean + SIGMA * random.standard_normal(clean.shape), np.zeros(clean.shape, bool)
    for _ in range(number):
        row, column = (random.integers(8, side - 8) for side in clean.shape)
        hot[row : row + side, column : column + side] = True
    noisy[hot] = clean[hot] + SIGMA * sigmas
    return noisy, hot


def gain(result: np.ndarray, noisy: np.ndarray, clean: np.ndarray, where: np.ndarray) -> float:
    before, after = (np.mean((x - clean)[where] ** 2) for x in (noisy, result))
    return 10 * np.log10(before / after)


@pytest.mark.parametrize("content", CONTENT)
@pytest.mark.parametrize(
    ("number", "sigmas", "side"), [(1, 300, 1), (1, 1e5, 1), (20, -1e3, 1), (300, 400, 1), (3, 1e4, 2)]
)
def test_an_image_with_hot_pixels_gains_as_much_as_without(content, number, sigmas, side):
    clean = CONTENT[content]
    noisy, hot = noisy_and_hot(clean, number=number, sigmas=sigmas, side=side)
    healthy = np.where(hot, clean, noisy)
    found, alone = mptpn.denoise(noisy), mptpn.denoise(healthy)
    assert gain(found.image, noisy, clean, ~hot) > gain(alone.image, healthy, clean, ~hot) - 0.3
    assert (found.image[hot] == noisy[hot]).all()
    assert abs(found.noise.sigma / SIGMA - 1) < 0.1
    assert "stay as they are" in found.trust["hot pixels"].verdict and found.trust["texture"].passed


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_a_pixel_at_the_end_of_an_integer_type_harms_nothing(dtype):
    clean = CONTENT["phantom"]
    noisy = np.rint(clean + SIGMA * np.random.default_rng(5).standard_normal(clean.shape)).astype(dtype)
    noisy[70, 20] = np.iinfo(dtype).max
    hot = noisy == np.iinfo(dtype).max
    assert gain(mptpn.denoise(noisy).image.astype(float), noisy, clean, ~hot) > 15


@pytest.mark.parametrize("rate", [0.05, 0.5, 3.0, 30.0])
def test_photons_are_not_hot(rate):
    counts = torch.poisson(torch.full((1, 1, 700, 701), rate), generator=generator(1))
    assert not hot_pixels(counts).any()
    assert not hot_pixels(counts, sigma=lambda at: at.clamp_min(0).sqrt()).any()


@pytest.mark.parametrize("name", ["gaussian", "one look"])
def test_noise_with_tails_is_hardly_ever_hot(name):
    draw = torch.rand(1, 1, 1000, 1001, generator=generator(2)).clamp_min(1e-30)
    noise = -draw.log() if name == "one look" else torch.erfinv(2 * draw - 1).clamp(-6, 6)
    # exp(-12 * 1.1) a pixel of one look, 1.1 being the fourth largest deviation of 24
    assert int(hot_pixels(noise).sum()) <= (40 if name == "one look" else 0)


def test_lines_beads_and_edges_are_structure():
    image = torch.randn(1, 1, 200, 201, generator=generator(3))
    image[..., 50, 20:180] += 300  # a line of one pixel
    image[..., 100:, :] += 300
    rows, columns = torch.meshgrid(torch.arange(200.0), torch.arange(201.0), indexing="ij")
    image += 1000 * torch.exp(-((rows - 150) ** 2 + (columns - 60) ** 2) / 2 / 1.3**2)  # a bead of 3 px
    inner = torch.ones_like(image, dtype=torch.bool)
    inner[..., 48:53, [*range(17, 23), *range(177, 183)]] = False  # the ends of the line
    assert not (hot_pixels(image) & inner).any()


def test_a_tile_finds_what_the_whole_finds():
    image = torch.randn(1, 1, 120, 121, generator=generator(4))
    image[..., 60, 60], image[..., 64:66, 57:59] = 500.0, 900.0
    sigma = torch.ones_like
    whole, tile = hot_pixels(image, sigma=sigma), hot_pixels(image[..., 40:84, 40:84], sigma=sigma)
    assert int(whole.sum()) == 5 and (whole[..., 56:68, 56:68] == tile[..., 16:28, 16:28]).all()


@pytest.mark.parametrize("side", [1, 3, 5])
def test_an_image_of_few_pixels_has_none(side):
    assert not hot_pixels(torch.zeros(1, 1, side, 9)).any()
