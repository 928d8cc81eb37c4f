"""Counted photons and EMCCD noise: moments, distribution, and detection, which leaves Gaussian noise Gaussian."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from mptpn.noise.estimate import estimate_noise_model
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian
from mptpn.noise.photons import EMCCD, Poisson, count_step, detect_skew
from mptpn.random import generator
from support.two_sample import draw

LINE = PoissonGaussian(0.02, gain=0.03, black=0.05)


def content(*, key: int, height: int = 201, width: int = 263) -> torch.Tensor:
    """Smooth blobs on a dark ground, as cells are."""
    row, col = torch.meshgrid(torch.arange(height) / 17, torch.arange(width) / 23, indexing="ij")
    return (0.06 + 0.5 * (row.sin() * (col + key).cos()).clamp_min(0) ** 2)[None, None]


@pytest.mark.parametrize("read", [0.2, 1.0])
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


@pytest.mark.parametrize("clean", [0.05, 0.07])
@pytest.mark.parametrize("read", [0.1, 0.6])
def test_drawn_noise_is_that_of_a_poisson_number_of_exponential_electrons(clean, read):
    """Against NumPy's draws (Kolmogorov-Smirnov); with a quarter of the read noise they differ."""
    random, count = np.random.default_rng(4), 20_000
    rate = (0.03 * (clean - 0.05) + (1 - read) * 0.02**2) / (2 * 0.015**2)
    electrons = np.array([random.exponential(size=number).sum() for number in random.poisson(rate, count)])
    wanted = clean + 0.015 * (electrons - rate) + 0.02 * read**0.5 * random.standard_normal(count)

    def p_value(share: float) -> float:
        noise_model = EMCCD(0.02, gain=0.03, black=0.05, read=share)
        drawn = noise_model.sample(torch.full((count,), clean, dtype=torch.float64), generator=generator(4))
        return ks_2samp(drawn.numpy(), wanted).pvalue

    assert p_value(read) > 1e-3 > p_value(read / 4)


def test_an_estimate_in_another_unit_keeps_the_share_of_read_noise():
    found = estimate_noise_model([LINE.sample(content(key=0, height=64, width=71), generator=generator(5))])
    moved = replace(found, noise_model=EMCCD(0.02, gain=0.03, black=0.05, read=0.3)).in_unit(100.0, zero=-7.0)
    assert moved.noise_model == EMCCD(2.0, gain=3.0, black=-2.0, read=0.3)


@pytest.mark.parametrize("read", [0.1, 0.5])
@pytest.mark.parametrize("bits", [None, 255])
def test_the_share_of_read_noise_is_found_from_a_noisy_image(read, bits):
    """Within a step of READ_SHARES, from noise alone: recorded in floating point, or in 8 bits and cut off at 0."""
    noise_model = EMCCD(0.02, gain=0.03, black=0.05, read=read)
    noisy = draw([content(key=1)], noise_models=[noise_model], seed=1)[0]
    noisy = noisy if bits is None else (noisy * bits).round().clamp(0, bits) / bits
    found = detect_skew(noisy, noise_model=LINE)
    assert isinstance(found, EMCCD) and found.read == pytest.approx(read, abs=0.101)
    assert (found.sigma, found.gain, found.black) == (LINE.sigma, LINE.gain, LINE.black)


@pytest.mark.parametrize("key", range(3))
def test_gaussian_noise_of_the_same_variance_stays_gaussian(key):
    noisy = draw([content(key=key)], noise_models=[LINE], seed=key)[0]
    assert detect_skew(noisy, noise_model=LINE) is LINE
    assert detect_skew((noisy * 255).round().clamp(0, 255) / 255, noise_model=LINE) is LINE


def test_models_without_gain_or_with_correlation_are_left_alone():
    noisy = draw([content(key=1)], noise_models=[EMCCD(0.02, gain=0.03, black=0.05)], seed=1)[0]
    for noise_model in (
        PoissonGaussian(0.05),
        NoiseLevelFunction((0.0, 1.0), (0.01, 0.02)),
        CorrelatedGaussian(LINE, ((0.1, 0.2, 0.1), (0.2, 1.0, 0.2), (0.1, 0.2, 0.1))),
        EMCCD(0.02, gain=0.03),
    ):
        assert detect_skew(noisy, noise_model=noise_model) is noise_model


@pytest.mark.parametrize("numbers", [{"read": 0.0}, {"read": 1.2}, {"gain": 0.0}, {"sigma": 0.0}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="must be above 0"):
        EMCCD(**({"sigma": 0.1, "gain": 0.1, "read": 0.5} | numbers))


def cells(peak: float, *, background: float, key: int) -> torch.Tensor:
    return peak * (background + (1 - background) * (content(key=key) - 0.06) / 0.5)


@pytest.mark.parametrize("step", [1.0, 3 / 7, 257.0])
@pytest.mark.parametrize("peak", [1.0, 5.0, 50.0])
def test_counted_photons_are_told_by_their_values(peak, step):
    flat = [torch.full((1, 1, 100, 90), peak)] if peak < 10 else []  # with more photons no pixel has none
    for key, clean in enumerate([cells(peak, background=0.02, key=1), *flat]):
        counts = torch.poisson(clean.double(), generator=generator(10 + key))
        assert (counts == 0).any() and count_step((step * counts).float()) == pytest.approx(step, rel=1e-5)


@pytest.mark.parametrize("peak", [2.0, 8.0, 15.0])
def test_counted_photons_are_told_in_an_image_that_was_stretched_to_8_bits(peak):
    counts = torch.poisson(cells(peak, background=0.02, key=1).double(), generator=generator(15))
    stretched = (255 * counts / counts.max()).round().float()
    assert count_step(stretched) == pytest.approx(float(255 / counts.max()), rel=1e-5)


def disc(peak: float) -> torch.Tensor:
    """A disc of `peak` in one of 0.6 of it, on a background without light, [1, 1, 150, 161]."""
    rows, cols = torch.meshgrid(torch.arange(150), torch.arange(161), indexing="ij")
    radius = ((rows - 75) ** 2 + (cols - 70) ** 2).sqrt()
    return peak * torch.where(radius < 25, 1.0, torch.where(radius < 50, 0.6, 0.0))[None, None]


@pytest.mark.parametrize("peak", [0.5, 2.0, 5.0, 50.0, 300.0])
def test_counted_photons_are_told_beside_a_background_without_light(peak):
    """At its edge no mean of neighbours is that of a pixel, and most of its windows hold no photon at all."""
    counts = torch.poisson(disc(peak), generator=generator(16))
    assert (counts == 0).float().mean() > 0.6 and count_step(counts) == pytest.approx(1.0)
    found = estimate_noise_model([counts], from_zero=True)
    assert isinstance(found.noise_model, Poisson) and found.noise_model.counted


@pytest.mark.parametrize("peak", [5.0, 50.0, 300.0])
def test_counts_with_strong_read_noise_beside_a_background_without_light_are_not_photons_alone(peak):
    photons = torch.poisson(disc(peak), generator=generator(17))
    noisy = (photons + 5 * torch.randn(photons.shape, generator=generator(18))).round().clamp_min(0)
    assert count_step(noisy) == 0


@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("peak", [5.0, 50.0, 250.0])
def test_zeros_of_an_image_that_is_cut_off_are_no_counts(peak, sigma):
    clean = cells(peak, background=0.0, key=2)
    noisy = (clean + sigma * torch.randn(clean.shape, generator=generator(12))).round().clamp(0, 255)
    assert (noisy == 0).sum() > 100 and count_step(noisy) == 0


@pytest.mark.parametrize("peak", [0.3, 1.0, 2.0, 10.0, 100.0])
def test_noise_of_counts_is_the_root_of_their_mean(peak):
    clean = torch.full((1, 1, 200, 220), peak) if peak < 5 else cells(peak, background=0.02, key=3)
    found = estimate_noise_model([torch.poisson(clean, generator=generator(13))])
    assert found.kind == "poisson_gaussian" and isinstance(found.noise_model, Poisson)
    assert found.noise_model.counted and found.noise_model.gain == pytest.approx(1.0)


@pytest.mark.parametrize("numbers", [(0.0, 0.5, 0.1, 0.0), (0.3, 0.5, 0.1, 0.4), (1.0, 2.0, -3.0, 0.9)])
@pytest.mark.parametrize("over", [0.01, 0.4, 30.0, 500.0])
def test_poisson_quadrature_and_draws_have_the_stated_moments(numbers, over):
    model = Poisson(*numbers)
    clean = torch.tensor([model.black + over], dtype=torch.float64)
    values, weight = model.quadrature(clean)
    mean = float((values * weight).sum() / weight.sum())
    variance = float(((values - mean) ** 2 * weight).sum() / weight.sum())
    wanted = float(model.variance(clean))
    assert mean == pytest.approx(float(clean), abs=2e-3 * wanted**0.5) and variance == pytest.approx(wanted, rel=5e-3)
    drawn = model.sample(clean.expand(1, 1, 600, 700), generator=generator(14)) - clean
    third = model.gain * (wanted - model.read * model.sigma**2)
    assert float(drawn.mean()) == pytest.approx(0, abs=5 * wanted**0.5 / 648)
    assert float(drawn.square().mean()) == pytest.approx(wanted, rel=0.05)
    assert float((drawn**3).mean()) == pytest.approx(third, rel=0.15, abs=0.03 * wanted**1.5)
