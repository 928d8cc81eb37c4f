"""Noise: its variance noise model, its density, and that it is a function of keys."""

import numpy as np
import pytest
import torch
from scipy import stats

from mptpn.filters import constant, robust_level
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support.hidden_levels import hidden_copies, hidden_levels

DRAWS = 40_000
LAWS = [PoissonGaussian(0.1), PoissonGaussian(0.02, gain=0.05), PoissonGaussian(0.0, gain=0.1)]


def variance_is(noise_model: PoissonGaussian, claimed: PoissonGaussian, *, intensity: float) -> bool:
    """Chi-squared test of the variance of DRAWS samples at one intensity; false alarm 1e-6, and 10 % off is missed with
    less than 1e-20.
    """
    clean = torch.full((1, 1, 200, DRAWS // 200), intensity, dtype=torch.float64)
    residual = (noise_model.sample(clean, generator=generator(1, int(1000 * intensity))) - clean).numpy()
    total = (residual**2).sum() / float(claimed.variance(clean[:, :, :1, :1]))
    return stats.chi2.ppf(5e-7, DRAWS) < total < stats.chi2.ppf(1 - 5e-7, DRAWS)


@pytest.mark.parametrize("intensity", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("noise_model", LAWS, ids=str)
def test_sampled_variance_is_gain_times_intensity_plus_sigma_squared(noise_model, intensity):
    assert variance_is(noise_model, PoissonGaussian(noise_model.sigma, gain=noise_model.gain), intensity=intensity)


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("noise_model", LAWS, ids=str)
def test_a_variance_ten_percent_off_is_caught(noise_model, factor):
    assert not variance_is(
        noise_model, PoissonGaussian(noise_model.sigma * factor**0.5, gain=noise_model.gain * factor), intensity=0.5
    )


def test_moments_are_those_of_a_normal_distribution():
    clean = torch.full((1, 1, 200, DRAWS // 200), 0.5, dtype=torch.float64)
    noise_model = LAWS[1]
    values = noise_model.sample(clean, generator=generator(2)).flatten().numpy()
    assert (
        stats.kstest(values, stats.norm(0.5, float(noise_model.variance(clean[0, 0, 0, 0])) ** 0.5).cdf).pvalue > 1e-6
    )
    # the planted fault
    assert (
        stats.kstest(values, stats.norm(0.5, 1.1 * float(noise_model.variance(clean[0, 0, 0, 0])) ** 0.5).cdf).pvalue
        < 1e-6
    )


def test_gaussian_approximation_has_the_moments_of_poisson_plus_gaussian():
    """Foi's noise model: photons / 20 is Poisson noise of gain 1/20; its first two moments are ours exactly."""
    photons, gain, sigma = 20 * 0.7, 1 / 20, 0.03
    mean, variance = stats.poisson(photons).stats("mv")
    ours = PoissonGaussian(sigma, gain=gain).variance(torch.tensor(0.7, dtype=torch.float64))
    assert float(ours) == pytest.approx(gain**2 * variance + sigma**2, rel=1e-12) and gain * mean == pytest.approx(0.7)


@pytest.mark.parametrize("noise_model", LAWS, ids=str)
def test_log_likelihood_is_the_normal_density(noise_model):
    draw = generator(3)
    clean, noisy = (
        torch.rand(2, 1, 5, 7, dtype=torch.float64, generator=draw) + 0.1,
        torch.rand(2, 1, 5, 7, dtype=torch.float64, generator=draw),
    )
    expected = stats.norm.logpdf(
        noisy.numpy(), clean.numpy(), np.sqrt(noise_model.gain * clean.numpy() + noise_model.sigma**2)
    )
    np.testing.assert_allclose(noise_model.log_likelihood(noisy, clean).numpy(), expected, rtol=1e-12)


def test_negative_intensities_are_dark():
    assert PoissonGaussian(0.1, gain=1.0).variance(torch.tensor([-3.0, 0.0])).tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize(
    "sigma, gain", [(-0.1, 0.0), (0.1, -1.0), (0.0, 0.0), (float("nan"), 0.0), (0.1, float("inf"))]
)
def test_an_impossible_law_is_refused_with_its_values(sigma, gain):
    with pytest.raises(ValueError, match=f"sigma {sigma} and gain {gain}"):
        PoissonGaussian(sigma, gain=gain)


def test_sampling_never_clips_and_keeps_the_clean_image():
    clean = torch.zeros(1, 1, 31, 17)
    noisy = PoissonGaussian(0.5).sample(clean, generator=generator(0))
    assert noisy.min() < 0 and not clean.any() and noisy.dtype == clean.dtype


def test_equal_keys_draw_equal_numbers_and_others_do_not():
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0), (7, 101, 3), (7, 3, 101), (-1,), (2**31, 1)]
    draws = {key: torch.rand(3, generator=generator(*key)).tolist() for key in keys}
    assert all(torch.rand(3, generator=generator(*key)).tolist() == draw for key, draw in draws.items())
    assert len({tuple(draw) for draw in draws.values()}) == len(keys)


def test_generators_leave_the_global_one_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    hidden_copies([torch.zeros(1, 1, 5, 7)], low=1, high=2, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_numbers_of_neighbouring_keys_do_not_correlate():
    draws = np.array([torch.randn(2000, generator=generator(0, "pairs", step)).numpy() for step in range(20)])
    correlation = np.corrcoef(draws) - np.eye(20)
    # 190 coefficients of standard deviation 1 / sqrt(2000); six of them: 4e-7
    assert np.abs(correlation).max() < 6 / 2000**0.5


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


@pytest.mark.parametrize("sigma", [0.01, 0.2])
@pytest.mark.parametrize("shape", [(1, 1, 64, 57), (2, 1, 201, 160)], ids=str)
def test_robust_level_is_right_on_a_slope(shape, sigma):
    slope = torch.linspace(0, 1, shape[2])[:, None] + torch.linspace(0, 2, shape[3])
    level = robust_level(PoissonGaussian(sigma).sample(slope.expand(shape), generator=generator(6)))
    # the median of n correlated |normals|: standard error about 1.17 / sqrt(n), twice that for the overlap of
    # neighbours; five of them
    assert level.flatten().tolist() == pytest.approx(
        [sigma] * shape[0], rel=5 * 2 * 1.17 / (shape[2] * shape[3]) ** 0.5
    )


def test_robust_level_does_not_count_a_zeroed_background():
    """Without the mask for constant surroundings the median would be 0: three quarters of the image are padding."""
    noisy = PoissonGaussian(0.1).sample(torch.zeros(1, 1, 101, 120), generator=generator(7))
    padded = torch.nn.functional.pad(noisy, (60, 60, 50, 51))
    assert constant(padded).float().mean() > 0.7
    # a rim of 2 px of 101 x 120, 3.6 % of the windows, sees half its noise: it shifts the median by less than 2 %
    assert float(robust_level(padded)) == pytest.approx(float(robust_level(noisy)), rel=0.02)


def test_robust_level_grows_with_the_noise():
    noisy = PoissonGaussian(0.1).sample(torch.zeros(1, 1, 51, 60), generator=generator(8))
    assert float(robust_level(1.3 * noisy)) == pytest.approx(1.3 * float(robust_level(noisy)), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 1, 9), (3, 1, 40, 21)], ids=str)
def test_an_image_without_noise_has_the_smallest_level(shape):
    assert robust_level(torch.full(shape, 0.3)).flatten().tolist() == pytest.approx([1e-6] * shape[0])


def test_constant_marks_exactly_the_pixels_that_equal_their_neighbours():
    image = torch.zeros(1, 1, 7, 9)
    image[..., 3, 4] = 1
    expected = torch.ones(1, 1, 7, 9, dtype=torch.bool)
    expected[..., 2:5, 3:6] = False
    assert torch.equal(constant(image), expected)
