"""Few photons, with and without read noise: better than a blur, whatever was added to them."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import mptpn
from mptpn.inference.stabilise import photons_at
from mptpn.noise import CorrelatedGaussian, Poisson, PoissonGaussian, Rician

ROWS, COLUMNS = np.mgrid[:192, :193].astype(float)


def phantom() -> np.ndarray:
    image = 0.3 + 0.5 * COLUMNS / 193 + 0.6 * ((ROWS - 96) ** 2 + (COLUMNS - 96) ** 2 < 50**2)
    image[(ROWS - 40) ** 2 + (COLUMNS - 150) ** 2 < 10**2] += 0.8
    return image / image.max()


def beads() -> np.ndarray:
    random, image = np.random.default_rng(9), np.zeros(ROWS.shape)
    for _ in range(40):
        image[tuple(random.integers(8, 184, 2))] = random.uniform(0.4, 1)
    image = gaussian_filter(image, 2.5)
    return 0.02 + 0.98 * image / image.max()


# least gain over the best blur, chosen for the truth: measured -1.7 to 2.2 dB on the phantom, -2.7 to 0.3 on beads
LEAST = {"phantom": (phantom(), -2.5), "beads": (beads(), -3.5)}


@pytest.mark.parametrize("content", LEAST)
@pytest.mark.parametrize(
    ("peak", "read", "offset"), [(0.5, 0, 0), (1, 0, 0), (3, 0, 0), (1, 0.15, 0), (2, 0.4, 100), (5, 0.15, 0)]
)
def test_few_photons_are_denoised_about_as_well_as_by_the_best_blur(content, peak, read, offset):
    image, least = LEAST[content]
    clean, random = peak * image, np.random.default_rng(0)
    noisy = random.poisson(clean) + read * random.standard_normal(clean.shape)
    result = mptpn.denoise((noisy + offset).astype(np.float32)).image.astype(float) - offset
    error, best = (
        np.mean((result - clean) ** 2),
        min(np.mean((gaussian_filter(noisy, width) - clean) ** 2) for width in (1, 1.5, 2, 3, 4)),
    )
    assert 10 * np.log10(best / error) > least
    assert abs(result.mean() - noisy.mean()) < 0.02 * clean.mean() + 0.005


@pytest.mark.parametrize(
    ("model", "photons"),
    [
        (Poisson(0.0, gain=0.1), 5.0),
        (PoissonGaussian(0.2, gain=0.1), 9.0),
        (PoissonGaussian(0.2), np.inf),
        (Rician(0.1), np.inf),
    ],
)
def test_photons_are_the_variance_over_that_of_one(model, photons):
    assert photons_at(model, 0.5) == pytest.approx(photons)


def test_correlated_noise_counts_by_its_single_pixels():

    model = CorrelatedGaussian(
        PoissonGaussian(0.0, gain=0.25), torch.tensor([[0.0, 0.2, 0.0], [0.2, 1.0, 0.2], [0.0, 0.2, 0.0]])
    )
    assert photons_at(model, 1.0) == pytest.approx(4.0)
