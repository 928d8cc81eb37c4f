"""A fine periodic pattern is found and is no noise; photographs and noise hold none."""

import numpy as np
import pytest
import torch

import mptpn
from mptpn.noise.lattice import lattice
from mptpn.random import generator
from support import embedded

ROWS, COLUMNS = np.mgrid[:256, :256]
PATTERNS = {
    "sine": 0.2 * np.sin(2 * np.pi * COLUMNS / 8) * np.sin(2 * np.pi * ROWS / 8),
    "squares": 0.2 * ((COLUMNS // 2 + ROWS // 2) % 2 * 2 - 1),
    "oblique": 0.1 * np.cos(2 * np.pi * (0.17 * COLUMNS + 0.09 * ROWS)),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_a_pattern_stays_and_the_noise_is_right(name, sigma):
    clean = 0.5 + PATTERNS[name]
    noisy = (clean + sigma * torch.randn(256, 256, generator=generator(1)).numpy()).astype(np.float32)
    found = mptpn.denoise(noisy)
    pattern = clean - clean.mean()
    kept = ((found.image - found.image.mean()) * pattern).sum() / (pattern**2).sum()
    assert kept > 0.9 and np.square(found.image - clean).mean() < np.square(noisy - clean).mean()
    assert found.noise.sigma == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("image", [*embedded.natural("val"), *embedded.medical("test")], ids=lambda image: image.name)
def test_images_hold_none(image):
    noisy = image.pixels + 0.05 * torch.randn(image.pixels.shape, generator=generator(2))
    assert not lattice(noisy).any() and not lattice(image.pixels).any()


def test_noise_holds_none_and_small_images_are_left_alone():
    assert not any(lattice(torch.randn(1, 1, 300, 200, generator=generator(3, seed))).any() for seed in range(20))
    assert not lattice(torch.from_numpy(PATTERNS["sine"][:20, :20])[None, None].float()).any()
