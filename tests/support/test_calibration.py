"""Calibrated intervals hold what they say, on images that calibrated nothing."""

import pytest
import torch

from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from mptpn.stages import preliminary
from mptpn.training import loop
from support import embedded
from support.calibration import GAUSSIAN, calibrate, coverage, residual_check, standardised_residual, worse
from support.hidden_levels import hidden_levels


def drawn(sigma_mu, sigma_n, count=60_000):
    draw = torch.Generator().manual_seed(1)
    mean, clean_from_mean, noise = (torch.randn(count, dtype=torch.float64, generator=draw) for _ in range(3))
    clean = mean + sigma_mu * clean_from_mean
    return clean, clean + sigma_n * noise, mean


def bell(count=100_000, *, seed=2, tails=False):
    """Errors in sigmas and shares of pixels whose sigma is right where the share is 1 and twice too wide where it is 0;
    with heavy tails on demand.
    """
    draw = torch.Generator().manual_seed(seed)
    share, errors = (
        torch.rand(count, dtype=torch.float64, generator=draw),
        torch.randn(count, dtype=torch.float64, generator=draw),
    )
    return errors * (1 + share) / 2 * ((1 + 2 * (errors.abs() > 1.5)) if tails else 1), share


def test_half_widths_of_a_gaussian_posterior_are_its_quantiles():
    errors = bell()[0] / (1 + bell()[1]) * 2
    widths = calibrate(errors, bell()[1], bins=1)
    # standard error of a quantile: sqrt(p (1 - p) / n) / density, density of |z| 0.487 at 68 % and 0.117 at 95 %; five
    # of them
    assert widths.half_width_68[0] == pytest.approx(0.9945, abs=5 * (0.68 * 0.32 / 1e5) ** 0.5 / 0.487)
    assert widths.half_width_95[0] == pytest.approx(1.9600, abs=5 * (0.95 * 0.05 / 1e5) ** 0.5 / 0.117)


@pytest.mark.parametrize("tails", [False, True])
def test_calibrated_intervals_hold_their_share_of_new_errors_in_every_bin(tails):
    calibration, single = calibrate(*bell(tails=tails), bins=5), calibrate(*bell(tails=tails), bins=1)
    errors, share = bell(seed=3, tails=tails)
    parts = [(share >= low) & (share < low + 0.2) for low in (0.0, 0.2, 0.4, 0.6, 0.8)]
    for part in parts:
        held = coverage(errors[part], share[part], calibration=calibration)
        # 20,000 errors here and as many in the bin that set the width: five standard errors
        assert (
            abs(held[0] - 0.68) < 5 * (2 * 0.68 * 0.32 / 2e4) ** 0.5
            and abs(held[1] - 0.95) < 5 * (2 * 0.95 * 0.05 / 2e4) ** 0.5
        )
    # planted: one width for all
    assert abs(coverage(errors[parts[4]], share[parts[4]], calibration=single)[0] - 0.68) > 0.05


def test_what_cannot_be_calibrated_is_refused():
    errors, share = bell(1000)
    for wrong, message in (
        ((errors[:999], share), "999"),
        ((errors[:900], share[:900]), "200 pixels for each of 5 bins"),
        ((errors / 0, share), "infinite"),
    ):
        with pytest.raises(ValueError, match=message):
            calibrate(*wrong)


def test_the_residual_of_a_right_likelihood_is_standard_normal_and_a_wrong_sigma_shows():
    clean, noisy, mean = drawn(torch.linspace(0.05, 0.4, 60_000, dtype=torch.float64), 0.2)
    sigma_mu, sigma_n = torch.linspace(0.05, 0.4, 60_000, dtype=torch.float64), torch.tensor(0.2)
    right = residual_check(standardised_residual(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n))
    # five standard errors of each: sqrt(2 / n), sqrt(24 / n), sqrt(p (1 - p) / n)
    assert right == pytest.approx(
        {"variance": 1, "kurtosis": 3, "within_1": 0.6827, "within_2": 0.9545}, abs=5 * (24 / 60_000) ** 0.5
    )
    assert (
        abs(right["variance"] - 1) < 0.029
        and abs(right["within_1"] - 0.6827) < 0.0095
        and abs(right["within_2"] - 0.9545) < 0.0043
    )
    halved = residual_check(standardised_residual(noisy, mean, sigma_mu=sigma_mu / 2, sigma_n=sigma_n / 2))
    assert halved["variance"] == pytest.approx(4 * right["variance"]) and halved["within_2"] == right["within_1"]
    level = residual_check(standardised_residual(noisy, mean, sigma_mu=torch.tensor(0.25), sigma_n=sigma_n))
    # one spread for all pixels: the variance is right, the shape is not
    assert level["kurtosis"] > 3.2 and abs(level["variance"] - 1) < 0.1


CROP, BINS = 160, 5


@pytest.fixture(scope="module")
def trained() -> BlindSpotNetwork:
    """A small blind-spot network, trained on one noisy copy of half of the medical training images."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = BlindSpotNetwork(width=8, depth=1, local_means=(3, 5, 7, 11))
    noisy, noise_models = noisy_set([image.pixels for image in embedded.medical("train")[::2]], seed=1)
    preliminary.train(
        network, noisy, noise_models=noise_models, steps=300, fabric=loop.launch(threads=1), batch=6, patch=40, lr=3e-3
    )
    return network.eval()


def noisy_set(clean, *, seed):
    levels = hidden_levels(len(clean), low=5 / 255, high=50 / 255, seed=seed)
    noise_models = [PoissonGaussian(level) for level in levels]
    return [
        noise_model.sample(x, generator=generator(seed, i))
        for i, (noise_model, x) in enumerate(zip(noise_models, clean, strict=True))
    ], noise_models


def results(network, clean, *, seed):
    """Errors in sigmas, shares, and standardised residuals of all pixels of some images."""
    parts = []
    for x, noisy, noise_model in zip(clean, *noisy_set(clean, seed=seed), strict=True):
        out = preliminary.denoise(network, noisy, noise_model=noise_model)
        residual = standardised_residual(noisy, out["mean"], sigma_mu=out["sigma_mu"], sigma_n=out["sigma_n"])
        parts.append(
            torch.stack([(out["denoised"] - x) / out["sigma"], (out["sigma"] / out["sigma_n"]) ** 2, residual]).flatten(
                1
            )
        )
    return torch.cat(parts, 1)


@pytest.fixture(scope="module")
def calibration_and_held_out(trained):
    """A calibration learned on images that did not train the network, and the results on yet other images."""
    others = [*embedded.medical("train")[1::2], *embedded.natural("train")]
    errors, share, _ = results(trained, [image.pixels[:, :, -CROP:, -CROP:] for image in others], seed=2)
    held_out = [
        image.pixels[:, :, -CROP:, 11 - CROP :]
        for image in (*embedded.medical("test"), *embedded.medical("val"), *embedded.natural("val"))
    ]
    # planted: sigma 17 % too small
    calibrations = [calibrate(factor * errors, share, bins=BINS) for factor in (1.0, 1.2)]
    return calibrations[0], torch.cat([results(trained, held_out, seed=seed) for seed in (3, 4, 5)], 1), calibrations[1]


def test_gaussian_half_widths_hold_normal_errors_and_no_halved_ones():
    errors = torch.randn(100_000, generator=torch.Generator().manual_seed(3))
    share = torch.rand(100_000, generator=torch.Generator().manual_seed(4))
    assert coverage(errors, share, calibration=GAUSSIAN) == pytest.approx((0.68, 0.95), abs=0.006)
    assert coverage(2 * errors, share, calibration=GAUSSIAN)[0] < 0.4


def test_of_several_coverages_the_worse_share_counts_each_for_itself():
    assert worse((0.70, 0.951), (0.67, 0.90)) == (0.70, 0.90)
    assert worse((0.68, 0.95)) == (0.68, 0.95)


def holds(held: tuple[float, float]) -> bool:
    return abs(held[0] - 0.68) < 0.03 and abs(held[1] - 0.95) < 0.02


def test_a_trained_network_s_intervals_hold_on_images_that_calibrated_nothing(calibration_and_held_out):
    calibration, (errors, share, _), of_too_small = calibration_and_held_out
    assert holds(coverage(errors, share, calibration=calibration))
    assert not holds(coverage(1.2 * errors, share, calibration=calibration)) and holds(
        coverage(1.2 * errors, share, calibration=of_too_small)
    )
    assert coverage(2 * errors, share, calibration=calibration)[0] < 0.5  # planted: sigma halved


def test_a_trained_network_s_residuals_are_nearly_standard_normal(calibration_and_held_out):
    residual = calibration_and_held_out[1][2]
    found, halved = residual_check(residual), residual_check(2 * residual)  # planted: both sigmas halved
    # tails: so short a training
    assert abs(found["within_1"] - 0.6827) < 0.03 and abs(found["within_2"] - 0.9545) < 0.02 and found["kurtosis"] > 3
    assert abs(halved["within_1"] - 0.6827) > 0.2 and abs(halved["within_2"] - 0.9545) > 0.2
