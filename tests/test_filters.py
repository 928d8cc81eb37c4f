"""Filters: the robust noise level, where noise is visible, and autocovariances."""

import pytest
import torch
from torch.nn import functional as F

from mptpn.filters import autocorrelation, autocovariance, constant, has_noise, lagged, mean_intensity, robust_level
from mptpn.random import generator


def white(*shape: int, key: int = 7) -> torch.Tensor:
    return torch.randn(shape, generator=generator(key))


@pytest.mark.parametrize("sigma", [0.01, 0.2])
def test_the_robust_level_is_right_on_a_slope(sigma):
    slope = torch.linspace(0, 1, 201)[:, None] + torch.linspace(0, 2, 160)
    level = robust_level(slope + sigma * white(2, 1, 201, 160))
    # the median of n correlated |normals|: standard error about 1.17 / sqrt(n), twice that for the overlap of
    # neighbours; five of them
    assert level.flatten().tolist() == pytest.approx([sigma] * 2, rel=5 * 2 * 1.17 / (201 * 160) ** 0.5)


def test_a_zeroed_background_does_not_count():
    """Without the mask for constant surroundings the median would be 0: three quarters of the image are padding."""
    noisy = 0.5 + 0.1 * white(1, 1, 101, 120)
    padded = F.pad(noisy, (60, 60, 50, 51))
    assert constant(padded).float().mean() > 0.7 and not has_noise(padded)[..., :40, :50].any()
    # a rim of 2 px of 101 x 120, 3.6 % of the windows, sees half its noise: it shifts the median by less than 2 %
    assert float(robust_level(padded)) == pytest.approx(float(robust_level(noisy)), rel=0.02)
    # two pixels of the rim are background that counts: 7 %
    assert float(mean_intensity(padded)) == pytest.approx(0.5, rel=0.08)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 40, 21)], ids=str)
def test_an_image_without_noise_has_the_smallest_level_and_counts_everywhere(shape):
    image = torch.full(shape, 0.3)
    assert robust_level(image).flatten().tolist() == pytest.approx([1e-6] * shape[0]) and has_noise(image).all()


def test_constant_marks_exactly_the_pixels_that_equal_their_neighbours():
    image = torch.zeros(1, 1, 7, 9)
    image[..., 3, 4] = 1
    expected = torch.ones(1, 1, 7, 9, dtype=torch.bool)
    expected[..., 2:5, 3:6] = False
    assert torch.equal(constant(image), expected)


@pytest.mark.parametrize("lag", [(1, 0), (0, 2), (2, -1)])
def test_the_autocovariance_is_the_mean_product_over_valid_pairs(lag):
    images = [white(1, 1, 13, 17, key=1), white(1, 1, 9, 20, key=2)]
    valid = [white(*image.shape, key=3) > -1 for image in images]
    found = autocovariance(images, radius=2, valid=valid)
    products = pairs = 0.0
    for image, mask in zip(images, valid, strict=True):
        (first, second), (one, other) = lagged(image.double(), *lag), lagged(mask, *lag)
        products, pairs = products + (first * second)[one & other].sum(), pairs + (one & other).sum()
    assert float(found[2 + lag[0], 2 + lag[1]]) == pytest.approx(float(products / pairs), abs=1e-12)
    torch.testing.assert_close(found, found.flip(0, 1))


def test_filtered_white_noise_has_the_autocorrelation_of_its_kernel():
    """Standard error of a lag, Bartlett: at most sqrt(2 * 40) / 600 = 0.015 here; five of them."""
    kernel = torch.tensor([[0.0, 1.0, 0.5], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    noise = F.conv2d(white(1, 1, 602, 602), kernel[None, None])
    wanted = autocorrelation(kernel)
    torch.testing.assert_close(autocovariance([noise], radius=2).float(), wanted, rtol=0, atol=0.15)
    assert float(wanted[2, 2]) == pytest.approx(6.25)
