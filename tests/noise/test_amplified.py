"""Multiplied electrons: moments and density are those that are stated, the share of read noise is found, Gaussian noise
stays Gaussian.
"""

import math

import pytest
import torch
from scipy.stats import kstest

from mptpn.noise.emccd import EMCCD, detect_emccd
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian
from mptpn.random import generator
from support.two_sample import draw

LAW = PoissonGaussian(0.02, gain=0.03, black=0.05)


def content(*, key: int, height: int = 201, width: int = 263) -> torch.Tensor:
    """Smooth blobs on a dark ground, as cells are."""
    row, col = torch.meshgrid(torch.arange(height) / 17, torch.arange(width) / 23, indexing="ij")
    return (0.06 + 0.5 * (row.sin() * (col + key).cos()).clamp_min(0) ** 2)[None, None]


@pytest.mark.parametrize("read", [0.2, 0.5, 1.0])
def test_drawn_noise_has_the_moments_that_are_stated(read):
    noise_model, clean = EMCCD(0.02, gain=0.03, black=0.05, read=read), torch.full((1, 1, 701, 700), 0.25)
    noise = noise_model.sample(clean, generator=generator(2)).double() - 0.25
    variance = 0.03 * 0.2 + 0.02**2
    # relative errors of n = 490 700 draws: sqrt((kurtosis - 1) / n) = 0.25 %, and about sqrt(15 + ...) / (skewness
    # sqrt(n)) = 1.2 %; four of each
    assert abs(float(noise.mean())) < 4 * math.sqrt(variance) / 700
    assert float((noise**2).mean()) == pytest.approx(variance, rel=0.01)
    assert float(noise_model.variance(clean).mean()) == pytest.approx(variance, rel=1e-5)
    assert float((noise**3).mean()) == pytest.approx(1.5 * 0.03 * (variance - read * 0.02**2), rel=0.05)
    scaled = noise_model.scaled(1.3).sample(clean, generator=generator(3)).double() - 0.25
    assert float((scaled**2).mean()) == pytest.approx(1.69 * variance, rel=0.01)


@pytest.mark.parametrize("clean", [0.05, 0.07, 0.6])
@pytest.mark.parametrize("read", [0.1, 0.6])
def test_likelihood_is_a_density_and_that_of_the_draws(clean, read):
    """It integrates to 1, and its integral is the draws' distribution (Kolmogorov-Smirnov); with a quarter of the read
    noise it is not.
    """
    noise_model = EMCCD(0.02, gain=0.03, black=0.05, read=read)
    grid = torch.linspace(clean - 0.7, clean + 1.2, 60_001, dtype=torch.float64)[None, None, None]
    drawn = (
        noise_model.sample(torch.full((1, 1, 100, 201), clean, dtype=torch.float64), generator=generator(4))
        .flatten()
        .numpy()
    )

    def p_value(other: EMCCD) -> tuple[float, float]:
        below = other.log_likelihood(grid, torch.full_like(grid, clean)).exp().flatten().cumsum(0) * float(
            grid[0, 0, 0, 1] - grid[0, 0, 0, 0]
        )
        places = torch.from_numpy(drawn)
        at = torch.searchsorted(grid.flatten(), places).clamp_max(grid.numel() - 1)
        return float(below[-1]), kstest(below[at].numpy(), "uniform").pvalue

    total, fits = p_value(noise_model)
    assert total == pytest.approx(1, abs=2e-3) and fits > 1e-3
    # in the bright all shares are alike
    assert clean > 0.5 or p_value(EMCCD(0.02, gain=0.03, black=0.05, read=read / 4))[1] < 1e-3


@pytest.mark.parametrize("read", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("bits", [None, 255])
def test_share_of_read_noise_is_found_from_a_noisy_image(read, bits):
    """Within a step of READS, from noise alone: recorded in floating point, or in 8 bits and cut off at 0."""
    noise_model = EMCCD(0.02, gain=0.03, black=0.05, read=read)
    noisy = draw([content(key=1)], noise_models=[noise_model], seed=1)[0]
    noisy = noisy if bits is None else (noisy * bits).round().clamp(0, bits) / bits
    found = detect_emccd(noisy, noise_model=LAW)
    assert isinstance(found, EMCCD) and found.read == pytest.approx(read, abs=0.101)
    assert (found.sigma, found.gain, found.black) == (LAW.sigma, LAW.gain, LAW.black)


@pytest.mark.parametrize("key", range(4))
def test_gaussian_noise_of_the_same_variance_stays_gaussian(key):
    noisy = draw([content(key=key)], noise_models=[LAW], seed=key)[0]
    assert detect_emccd(noisy, noise_model=LAW) is LAW
    assert detect_emccd((noisy * 255).round().clamp(0, 255) / 255, noise_model=LAW) is LAW


def test_laws_without_electrons_are_left_alone():
    noisy = draw([content(key=1)], noise_models=[EMCCD(0.02, gain=0.03, black=0.05)], seed=1)[0]
    for noise_model in (
        PoissonGaussian(0.05),
        NoiseLevelFunction((0.0, 1.0), (0.01, 0.02)),
        CorrelatedGaussian(LAW, ((0.1, 0.2, 0.1), (0.2, 1.0, 0.2), (0.1, 0.2, 0.1))),
        EMCCD(0.02, gain=0.03),
    ):
        assert detect_emccd(noisy, noise_model=noise_model) is noise_model


@pytest.mark.parametrize("numbers", [{"read": 0.0}, {"read": 1.2}, {"gain": 0.0}, {"sigma": 0.0}])
def test_impossible_numbers_stop_at_the_door(numbers):
    with pytest.raises(ValueError, match="must be above 0"):
        EMCCD(**({"sigma": 0.1, "gain": 0.1, "read": 0.5} | numbers))
