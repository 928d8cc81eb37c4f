"""Hidden noise levels: evenly spread, in an order that the seed decides, one a copy."""

import numpy as np
import pytest
import torch

from support.hidden_levels import hidden_copies, hidden_levels


@pytest.mark.parametrize("count", [1, 2, 17])
def test_hidden_levels_cover_the_range_evenly_in_the_logarithm(count):
    levels = hidden_levels(count, low=5, high=50, seed=3)
    np.testing.assert_allclose(np.sort(levels), np.geomspace(5, 50, count), rtol=1e-12)


def test_the_seed_decides_only_the_order_of_the_levels():
    first, second = hidden_levels(30, low=5, high=50, seed=0), hidden_levels(30, low=5, high=50, seed=1)
    assert first != second and sorted(first) == sorted(second) and first == hidden_levels(30, low=5, high=50, seed=0)


@pytest.mark.parametrize("low, high", [(0, 5), (-1, 5), (6, 5), (float("nan"), 5)])
def test_levels_that_make_no_range_are_refused(low, high):
    with pytest.raises(ValueError, match=f"levels from {low} to {high}"):
        hidden_levels(3, low=low, high=high, seed=0)


def test_each_hidden_copy_has_its_own_level_and_noise():
    clean = [torch.zeros(1, 1, 120 + i, 90) for i in range(5)]
    noisy, levels = hidden_copies(clean, low=0.02, high=0.2, seed=4)
    for image, level in zip(noisy, levels, strict=True):
        # five standard errors of a deviation, 1 / sqrt(2 n)
        assert float(image.std()) == pytest.approx(level, rel=5 / (2 * 120 * 90) ** 0.5)
    first, second = noisy[0][..., :50, :50] / levels[0], noisy[1][..., :50, :50] / levels[1]
    assert abs(float((first * second).mean())) < 5 / 50
    again, _ = hidden_copies(clean, low=0.02, high=0.2, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(noisy, again, strict=True))
