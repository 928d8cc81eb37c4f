"""The noise of images is looked at again where it is not known; what was known stays."""

from dataclasses import replace

import numpy as np
import pytest

from mptpn.inference import looks, noisy_images
from mptpn.noise import PoissonGaussian


@pytest.mark.parametrize(
    "level, unknown, taken",
    [(1.1, 0.0, True), (0.9, 0.2, True), (5.0, 0.0, False), (0.5, 0.0, False), (1.0, 0.4, False)],
)
def test_a_second_look_counts_where_more_is_known_and_the_known_levels_stay(monkeypatch, level, unknown, taken):
    image = 10 + np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)
    first = replace(noisy_images.NoisyImages.of([image]).noise, unknown=0.3)
    sigma = first.sigma * level
    second = replace(first, sigma=sigma, noise_model=PoissonGaussian(sigma), unknown=unknown)
    found = iter([first, second, second])
    monkeypatch.setattr(looks, "estimate_from", lambda *_, **__: next(found))
    assert noisy_images.NoisyImages.of([image]).noise is (second if taken else first)


def test_known_noise_is_looked_at_once(monkeypatch):
    image, looked = 10 + np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32), []
    known = noisy_images.NoisyImages.of([image]).noise
    monkeypatch.setattr(looks, "estimate_from", lambda *_, **__: looked.append(1) or known)
    assert noisy_images.NoisyImages.of([image]).noise is known and len(looked) == 1
