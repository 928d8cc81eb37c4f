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


def bell(count=100_000, *, seed=2, tails=False):
    """Errors in sigmas, and shares; sigma is right where the share is 1 and twice too wide where it is 0."""
    draw = torch.Generator().manual_seed(seed)
    share = torch.rand(count, dtype=torch.float64, generator=draw)
    errors = torch.randn(count, dtype=torch.float64, generator=draw)
    return errors * (1 + share) / 2 * ((1 + 2 * (errors.abs() > 1.5)) if tails else 1), share


def five_errors(share: float, count: float) -> float:
    return 5 * (share * (1 - share) / count) ** 0.5


def test_half_widths_of_a_gaussian_posterior_are_its_quantiles():
    errors, share = bell()
    widths = calibrate(errors / (1 + share) * 2, share, bins=1)
    # standard error of a quantile: sqrt(p (1 - p) / n) / density, of |z| 0.487 at 68 % and 0.117 at 95 %
    assert widths.half_width_68[0] == pytest.approx(0.9945, abs=five_errors(0.68, 1e5) / 0.487)
    assert widths.half_width_95[0] == pytest.approx(1.9600, abs=five_errors(0.95, 1e5) / 0.117)


@pytest.mark.parametrize("tails", [False, True])
def test_calibrated_intervals_hold_their_share_of_new_errors_in_every_bin(tails):
    calibration, single = (calibrate(*bell(tails=tails), bins=bins) for bins in (5, 1))
    errors, share = bell(seed=3, tails=tails)
    parts = [(share >= low) & (share < low + 0.2) for low in (0.0, 0.2, 0.4, 0.6, 0.8)]
    for part in parts:
        inner, outer = coverage(errors[part], share[part], calibration=calibration)
        # 20,000 errors here and as many in the bin that set the width
        assert abs(inner - 0.68) < five_errors(0.68, 1e4) and abs(outer - 0.95) < five_errors(0.95, 1e4)
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
    draw, n = torch.Generator().manual_seed(1), 60_000
    mean, error, noise = (torch.randn(n, dtype=torch.float64, generator=draw) for _ in range(3))
    sigma_mu, sigma_n = torch.linspace(0.05, 0.4, n, dtype=torch.float64), torch.tensor(0.2)
    noisy = mean + sigma_mu * error + sigma_n * noise

    def check(mu, factor=1.0):
        sigmas = {"sigma_mu": factor * mu, "sigma_n": factor * sigma_n}
        return residual_check(standardised_residual(noisy, mean, **sigmas))

    right = check(sigma_mu)
    assert right == pytest.approx(
        {"variance": 1, "kurtosis": 3, "within_1": 0.6827, "within_2": 0.9545}, abs=5 * (24 / n) ** 0.5
    )
    halved = check(sigma_mu, 0.5)
    assert halved["variance"] == pytest.approx(4 * right["variance"]) and halved["within_2"] == right["within_1"]
    assert check(torch.tensor(0.25))["kurtosis"] > 3.2  # one spread for all pixels


def test_gaussian_half_widths_hold_normal_errors_and_not_doubled_ones():
    errors, share = torch.randn(100_000, generator=generator(3)), torch.rand(100_000, generator=generator(4))
    assert coverage(errors, share, calibration=GAUSSIAN) == pytest.approx((0.68, 0.95), abs=0.006)
    assert coverage(2 * errors, share, calibration=GAUSSIAN)[0] < 0.4


def test_of_several_coverages_the_worse_share_counts_each_for_itself():
    assert worse((0.70, 0.951), (0.67, 0.90)) == (0.70, 0.90)


def results(network, clean, *, seed):
    """Errors in sigmas, shares, and standardised residuals of all pixels of some images."""
    parts = []
    for i, (x, level) in enumerate(
        zip(clean, hidden_levels(len(clean), low=5 / 255, high=50 / 255, seed=seed), strict=True)
    ):
        model = PoissonGaussian(level)
        noisy = model.sample(x, generator=generator(seed, i))
        out = preliminary.denoise(network, noisy, noise_model=model)
        residual = standardised_residual(noisy, out["mean"], sigma_mu=out["sigma_mu"], sigma_n=out["sigma_n"])
        share = (out["sigma"] / out["sigma_n"]) ** 2
        parts.append(torch.stack([(out["denoised"] - x) / out["sigma"], share, residual]).flatten(1))
    return torch.cat(parts, 1)


@pytest.mark.slow
def test_intervals_and_residuals_of_a_trained_network_hold_on_images_that_calibrated_nothing():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = BlindSpotNetwork(width=8, depth=1, local_means=(3, 5, 7, 11))
    clean = [image.pixels for image in embedded.medical("train")]
    models = [PoissonGaussian(level) for level in hidden_levels(30, low=5 / 255, high=50 / 255, seed=1)]
    noisy = [m.sample(x, generator=generator(1, i)) for i, (m, x) in enumerate(zip(models, clean[::2], strict=True))]
    settings = {"steps": 300, "fabric": loop.launch(threads=1), "batch": 6, "patch": 40, "lr": 3e-3}
    preliminary.train(network, noisy, noise_models=models, **settings)
    others = [*clean[1::2], *(image.pixels for image in embedded.natural("train"))]
    errors, share, _ = results(network.eval(), [x[..., -160:, -160:] for x in others], seed=2)
    calibration = calibrate(errors, share, bins=5)
    held_out = [image for pool in (embedded.medical, embedded.natural) for image in pool("val")]
    held_out = [image.pixels[..., -160:, 11 - 160 :] for image in [*embedded.medical("test"), *held_out]]
    errors, share, residual = torch.cat([results(network, held_out, seed=seed) for seed in (3, 4, 5)], 1)
    assert coverage(errors, share, calibration=calibration) == pytest.approx((0.68, 0.95), abs=0.03)
    assert coverage(1.2 * errors, share, calibration=calibration) != pytest.approx((0.68, 0.95), abs=0.03)
    found = residual_check(residual)
    assert abs(found["within_1"] - 0.6827) < 0.03 and abs(found["within_2"] - 0.9545) < 0.02
