"""The posterior: its limits, its honesty, and what the constrained likelihood does to sigma_mu."""

import math

import pytest
import torch
from mptpn.stages.posterior import constrained_negative_log_likelihood, fuse, negative_log_likelihood
from scipy.optimize import minimize_scalar


def example(seed=0, shape=(2, 1, 5, 7)):
    draw = torch.Generator().manual_seed(seed)
    noisy, mean, sigma_mu, sigma_n = (torch.rand(shape, dtype=torch.float64, generator=draw) + 0.05 for _ in range(4))
    return noisy, mean, sigma_mu, sigma_n


def test_without_noise_the_noisy_image_is_the_answer():
    noisy, mean, sigma_mu, sigma_n = example()
    denoised, sigma = fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=1e-9 * sigma_n)
    # the share of the mean is (sigma_n / sigma_mu)^2 <= (1e-9 * 21)^2 < 1e-15
    torch.testing.assert_close(denoised, noisy, rtol=0, atol=1e-14)
    assert sigma.max() < 2e-9


def test_with_a_sure_mean_the_mean_is_the_answer():
    noisy, mean, sigma_mu, sigma_n = example()
    denoised, sigma = fuse(noisy, mean, sigma_mu=1e-9 * sigma_mu, sigma_n=sigma_n)
    torch.testing.assert_close(denoised, mean, rtol=0, atol=1e-14)
    assert sigma.max() < 2e-9


def test_equal_spreads_meet_in_the_middle():
    noisy, mean, sigma, _ = example()
    denoised, error = fuse(noisy, mean, sigma_mu=sigma, sigma_n=sigma)
    torch.testing.assert_close(denoised, (noisy + mean) / 2)
    torch.testing.assert_close(error, sigma / math.sqrt(2))


def test_a_broadcast_level_is_the_same_as_a_full_one():
    noisy, mean, sigma_mu, _ = example()
    level = torch.tensor([0.1, 0.3], dtype=torch.float64).view(2, 1, 1, 1)
    full = fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=level.expand_as(noisy))
    torch.testing.assert_close(fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=level), full, rtol=0, atol=0)


def drawn(sigma_mu, sigma_n, count=60_000):
    draw = torch.Generator().manual_seed(1)
    mean, clean_from_mean, noise = (torch.randn(count, dtype=torch.float64, generator=draw) for _ in range(3))
    clean = mean + sigma_mu * clean_from_mean
    return clean, clean + sigma_n * noise, mean


@pytest.mark.parametrize("sigma_mu, sigma_n", [(0.3, 0.1), (0.05, 0.2), (0.2, 0.2)])
def test_the_posterior_s_sigma_is_the_error_it_makes(sigma_mu, sigma_n):
    clean, noisy, mean = drawn(sigma_mu, sigma_n)
    levels = {"sigma_mu": torch.tensor(sigma_mu), "sigma_n": torch.tensor(sigma_n)}
    denoised, sigma = fuse(noisy, mean, **levels)
    ratio = float((denoised - clean).square().mean().sqrt()) / float(sigma)
    assert abs(ratio - 1) < 5 / (2 * len(clean)) ** 0.5  # five standard errors of a standard deviation: 1.4 %
    planted, _ = fuse(noisy, mean, sigma_mu=2 * levels["sigma_mu"], sigma_n=levels["sigma_n"])
    # no other weights are as good
    assert float((planted - clean).square().mean().sqrt()) / float(sigma) - 1 > 5 / (2 * len(clean)) ** 0.5


def test_the_plain_likelihood_is_the_normal_density_up_to_its_constant():
    noisy, mean, sigma_mu, sigma_n = example()
    density = torch.distributions.Normal(mean, (sigma_mu**2 + sigma_n**2).sqrt()).log_prob(noisy)
    torch.testing.assert_close(
        negative_log_likelihood(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n), -density - 0.5 * math.log(2 * math.pi)
    )


def test_the_constrained_form_is_an_upper_bound():
    noisy, mean, sigma_mu, sigma_n = example(shape=(40, 1, 31, 17))
    sigmas = {"sigma_mu": sigma_mu, "sigma_n": sigma_n}
    assert (
        constrained_negative_log_likelihood(noisy, mean, **sigmas) > negative_log_likelihood(noisy, mean, **sigmas)
    ).all()


def test_the_bound_touches_where_sigma_mu_is_zero():
    noisy, mean, sigma_mu, sigma_n = example()
    zero = {"sigma_mu": 0 * sigma_mu, "sigma_n": sigma_n}
    torch.testing.assert_close(
        constrained_negative_log_likelihood(noisy, mean, **zero), negative_log_likelihood(noisy, mean, **zero)
    )


def optimum(likelihood, *, residual: float, sigma_n: float) -> float:
    """sigma_mu^2 that minimises the mean of a likelihood over pixels whose mean squared residual is `residual`."""
    noisy, mean = torch.tensor(residual**0.5, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    level = torch.tensor(sigma_n, dtype=torch.float64)

    def value(variance):
        return float(
            likelihood(noisy, mean, sigma_mu=torch.tensor(variance, dtype=torch.float64).sqrt(), sigma_n=level)
        )

    return float(minimize_scalar(value, bounds=(0, 10 * residual), method="bounded", options={"xatol": 1e-10}).x)


@pytest.mark.parametrize("residual, sigma_n", [(0.09, 0.1), (0.02, 0.1), (1.0, 0.3)])
def test_the_plain_optimum_is_the_true_spread(residual, sigma_n):
    # a minimum is found to about sqrt(2.2e-16) of its position
    assert optimum(negative_log_likelihood, residual=residual, sigma_n=sigma_n) == pytest.approx(
        residual - sigma_n**2, rel=1e-5
    )


@pytest.mark.parametrize("residual, sigma_n", [(0.09, 0.1), (0.02, 0.1), (1.0, 0.3)])
def test_the_constrained_optimum_is_smaller_and_known(residual, sigma_n):
    found = optimum(constrained_negative_log_likelihood, residual=residual, sigma_n=sigma_n)
    assert found == pytest.approx((sigma_n**2 * residual) ** 0.5 - sigma_n**2, rel=1e-5) and found < 0.8 * (
        residual - sigma_n**2
    )
