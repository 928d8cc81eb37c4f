"""Not a byte depends on the number of threads: shares of an archive, done on many machines, fit together."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

import mptpn
from mptpn.filters import one_thread
from mptpn.networks.noise_level import pretrained_noise_level

SIDE = 224  # px: sums over fewer than 2^15 pixels are not split


@pytest.fixture
def threads():
    """Sets the number of threads, and sets back what it was."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def scene(*channels: int) -> np.ndarray:
    photo = data.astronaut()[:SIDE, 100 : 100 + SIDE].astype(np.float32)
    return photo if channels else photo.mean(-1)


def white(clean, random):
    return clean + 20 * random.standard_normal(clean.shape)


def correlated(clean, random):
    noise = gaussian_filter(random.standard_normal(clean.shape), 0.8)
    return clean + 20 * noise / noise.std()


def magnitude(clean, random):
    return np.hypot(white(clean, random), 20 * random.standard_normal(clean.shape))


def masked(clean, random):
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return np.where(np.hypot(rows, columns) < 0.45 * SIDE, white(clean, random), 0)


NOISES = [
    (scene(), white),
    (scene(), correlated),
    (scene(), lambda clean, random: random.poisson(clean / 10)),
    (scene(), magnitude),
    (scene(), masked),
    (scene(3), white),
]


@pytest.mark.parametrize(("clean", "noise"), NOISES, ids=["white", "correlated", "counts", "Rice", "masked", "colour"])
def test_image_uncertainty_gain_and_verdict_are_the_same_for_any_number_of_threads(clean, noise, threads):
    noisy = noise(clean, np.random.default_rng(0)).astype(np.float32)
    found = []
    for count in (1, 2):
        threads(count)
        found.append(mptpn.denoise(noisy))
        assert torch.get_num_threads() == count
    for other in found[1:]:
        assert np.array_equal(other.image, found[0].image) and np.array_equal(other.uncertainty, found[0].uncertainty)
        assert other.psnr_gain == found[0].psnr_gain and other.trust == found[0].trust


def test_noise_level_network_gives_the_same_bits_for_any_number_of_threads(threads):
    noisy = torch.from_numpy(white(np.zeros((1, 1, 512, 512)), np.random.default_rng(1)).astype(np.float32))
    found = []
    for count in (1, 2, 3, 4):
        threads(count)
        with torch.no_grad():
            found.append(torch.cat(pretrained_noise_level()(noisy), 1))
    assert all(torch.equal(other, found[0]) for other in found[1:])


def test_one_thread_sets_back_what_it_was_after_an_error_too(threads):
    threads(3)
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 3
