"""Fit of noise models: exact ones are given back, stated errors are those of repeated draws."""

import numpy as np
import pytest
import torch

from mptpn.noise import fit
from mptpn.noise.fit import fit_noise_model
from mptpn.noise.models import PoissonGaussian, Rician, Speckle

BINS = np.linspace(0.05, 0.95, 18)
EXACT = {
    "gaussian": PoissonGaussian(0.1),
    "poisson_gaussian": PoissonGaussian(0.05, gain=0.02),
    "speckle": Speckle(9.0),
    "rician": Rician(0.2),
}
every_kind = pytest.mark.parametrize("kind", EXACT)


def bins_of(kind: str) -> np.ndarray:
    return BINS + 0.25 if kind == "rician" else BINS  # Rice's mean is 1.25 sigma at least


def variance_of(noise_model, at: np.ndarray) -> np.ndarray:
    if isinstance(noise_model, Rician):
        return fit._rician_variance(at, noise_model.sigma)
    return noise_model.variance(torch.from_numpy(at)).numpy()


@every_kind
def test_a_model_without_error_is_given_back(kind):
    at, wanted = bins_of(kind), variance_of(EXACT[kind], bins_of(kind))
    found, noise_model, parameters, misfit = fit_noise_model(at, wanted, np.full(18, 0.02), from_zero=True)
    assert found == kind and misfit < 1e-3
    np.testing.assert_allclose(variance_of(noise_model, at), wanted, rtol=1e-3)
    assert all(type(number) is float for pair in parameters.values() for number in pair)


@pytest.mark.parametrize("kind", [k if k != "rician" else pytest.param(k, marks=pytest.mark.slow) for k in EXACT])
def test_stated_errors_of_parameters_are_those_of_repeated_draws(kind):
    """300 draws: the spread of 300 scores has a standard error of 4 %; 15 % is nearly four. Half the error would double
    the scores.
    """
    noise_model, error, random = EXACT[kind], np.full(18, 0.03), np.random.default_rng(3)
    powers = {"gaussian": (0,), "poisson_gaussian": (0, 1), "speckle": (2,)}.get(kind)
    at, scores = bins_of(kind), []
    for _ in range(300):
        variance = variance_of(noise_model, at) * (1 + error * random.standard_normal(18)) ** 2
        fitted = fit._fit_linear(at, variance, error, powers=powers) if powers else fit._fit_rician(at, variance, error)
        numbers = fitted[1].items()
        scores.append([(value - getattr(noise_model, name)) / spread for name, (value, spread) in numbers if spread])
    assert np.sqrt(np.mean(np.square(scores), axis=0)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(
    "noise_model", [PoissonGaussian(0.05, gain=0.02, black=-4.0), PoissonGaussian(0.02, gain=0.02, black=-0.3)], ids=str
)
def test_a_line_at_negative_intensities_is_followed(noise_model):
    at = BINS * 4 - 3.9 if noise_model.black == -4 else BINS - 0.3
    kind, found, parameters, misfit = fit_noise_model(at, variance_of(noise_model, at), np.full(18, 0.02))
    assert kind == "poisson_gaussian" and misfit < 1e-6 and parameters["gain"][0] == pytest.approx(0.02, rel=1e-3)
    np.testing.assert_allclose(variance_of(found, at), variance_of(noise_model, at), rtol=1e-4)


def test_bins_that_the_noise_of_a_flat_background_sorted_do_not_hide_the_line():
    """One level at seven intensities around 0, which a line of this gain would change by a third."""
    truth, dark = PoissonGaussian(4, gain=8.5), np.array([-0.9, -0.5, -0.2, 0.0, 0.2, 0.5, 0.9])
    intensity = np.append(dark, [140.0, 180.0, 220.0])
    variance = np.append(np.full(len(dark), 16.0), variance_of(truth, intensity[len(dark) :]))
    kind, found, _, misfit = fit_noise_model(intensity, variance, np.full(len(variance), 0.02))
    assert kind == "poisson_gaussian" and misfit < 1
    assert (found.sigma, found.gain) == pytest.approx((4, 8.5), rel=0.02)


@pytest.mark.parametrize("width", [0.2, 0.4])
def test_a_line_ends_at_the_level_of_a_flat_background(width):
    """Behind an offset of 100; bins sorted by the noise would draw it farther down, to half the level and less."""
    truth = PoissonGaussian(2, gain=8.5, black=100)
    dark, light = 100 + width * np.linspace(-1, 1, 5), np.linspace(150, 350, 12)
    intensity = np.append(dark, light)
    variance = np.append(np.full(5, 4.0), 1.1 * variance_of(truth, light))
    kind, found, _, _ = fit_noise_model(intensity, variance, np.append(np.full(5, 0.013), np.full(12, 0.02)))
    assert kind == "poisson_gaussian" and (found.black, found.sigma) == pytest.approx((100, 2), rel=0.02)
    assert found.gain == pytest.approx(8.5 * 1.1, rel=0.05)


def test_bins_of_one_intensity_whose_levels_differ_by_more_than_their_errors_are_not_joined():
    level = np.tile([0.8, 1.0, 1.2], 4)
    intensity = np.append(np.linspace(-0.2, 0.2, 6), np.linspace(200, 202, 6))
    variance = (level * np.where(intensity > 100, 40, 4)) ** 2
    assert fit_noise_model(intensity, variance, np.full(12, 0.02))[0] == "free"


def test_a_level_at_a_single_intensity_is_gaussian_noise():
    bins = np.array([0.5]), np.array([0.04]), np.array([0.1])
    kind, noise_model, parameters, _ = fit_noise_model(*bins, from_zero=True)
    assert kind == "gaussian" and noise_model.gain == 0 and noise_model.sigma == pytest.approx(0.2)
    assert parameters["sigma"] == pytest.approx((0.2, 0.02))


def test_a_hump_fits_no_model_and_is_given_as_a_table():
    variance = 0.01 + 0.05 * np.exp(-(((BINS - 0.5) / 0.1) ** 2))
    kind, noise_model, parameters, misfit = fit_noise_model(BINS, variance, np.full(18, 0.05), from_zero=True)
    assert kind == "free" and parameters == {} and misfit > fit.MAX_MISFIT
    assert noise_model.variances == tuple(variance) and noise_model.intensities == tuple(BINS)


@pytest.mark.parametrize("signal, share, found", [(0.0, 0.3, True), (0.6, 0.3, False), (0.0, 0.02, False)])
def test_a_background_gives_the_sigma_of_rician_noise_if_it_has_no_signal(signal, share, found):
    """Levels are 4 % low; beside the background there are means of all intensities."""
    random, sigma, windows = np.random.default_rng(4), 0.2, 4000
    dark = Rician(sigma).mean(torch.tensor([signal * sigma], dtype=torch.float64)).item()
    number = int(share * windows)
    means = np.concatenate(
        [dark + 0.05 * sigma * random.standard_normal(number), random.uniform(1, 3, windows - number)]
    )
    bins = np.linspace(1, 3, 9), variance_of(Rician(0.96 * sigma), np.linspace(1, 3, 9)), np.full(9, 0.03)
    level = fit.background_sigma(means, 0.95 * sigma, *bins)
    assert level == pytest.approx(sigma, rel=0.01) if found else level is None
