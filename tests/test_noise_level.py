"""The estimator after a training of seconds: right on medical images it never saw, and it moves when the noise does."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from mptpn import embedded, noise_level, training
from mptpn.noise import SECOND_DIFFERENCE, PoissonGaussian, generator
from mptpn.noise_level import FILTERS, NoiseLevelNetwork, estimate, noise_level_function

LEVELS = (5, 12, 25, 50)  # gray levels of 255
SEEN_NEVER = [image.name for split in ("val", "test") for image in embedded.medical(split)]


@pytest.fixture(scope="module")
def network() -> NoiseLevelNetwork:
    torch.manual_seed(0)
    net = NoiseLevelNetwork()
    noise_level.train(net, [image.pixels for image in embedded.natural("train")], steps=200, patch=48, fabric=training.launch(threads=1))
    noise_level.calibrate(net, [image.pixels for image in embedded.natural("val")])
    return net


def clean(name):
    return next(image.pixels for split in ("val", "test") for image in embedded.medical(split) if image.name == name)


def noisy(name, level, *, draw=0):
    law = PoissonGaussian(level / 255)
    return law.sample(clean(name), generator=generator(9, draw, level))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SEEN_NEVER)
def test_a_hidden_level_is_found_within_ten_percent(network, name, level):
    assert 255 * estimate(network, noisy(name, level)).sigma == pytest.approx(level, rel=0.1)


@pytest.mark.parametrize("level", LEVELS)
def test_thirty_percent_more_noise_is_read_as_thirty_percent_more(network, level):
    for name in SEEN_NEVER:
        x, y = clean(name), noisy(name, level)
        moved = estimate(network, x + 1.3 * (y - x)).sigma / estimate(network, y).sigma
        # the same noise pattern, so that its chance cancels; what is left is structure, which counts for less beside more noise, most at the lowest level
        assert moved == pytest.approx(1.3, rel=0.08 if level == 5 else 0.04), name


def test_the_images_themselves_are_nearly_clean(network):
    """Noise that is there already would add to every level: sqrt(5^2 + 2.3^2) is 10 % more than 5."""
    levels = {name: 255 * estimate(network, clean(name)).sigma for name in SEEN_NEVER}
    assert all(level < 2.3 for level in levels.values()), levels


def test_scaling_an_image_scales_its_level(network):
    """The robust level takes the scale out, up to the network's two inputs that know it: mean and log level."""
    y = noisy("head_mr", 12)
    assert estimate(network, 1.5 * y).sigma / estimate(network, y).sigma == pytest.approx(1.5, rel=0.03)


@pytest.mark.parametrize("border", [(37, 60, 21, 50), (150, 150, 150, 150)], ids=str)
def test_a_zero_background_does_not_change_the_estimate(network, border):
    """Pixels whose windows touch the background are left out, a rim of about 4 px: the estimate moves by chance alone, well under 3 %."""
    for level in LEVELS:
        y = noisy("cell", level)
        assert estimate(network, pad(y, border)).sigma == pytest.approx(estimate(network, y).sigma, rel=0.03)


def test_a_background_that_counted_would_be_seen(network):
    """The planted fault: without the mask, a background with next to no noise of its own pulls the estimate down."""
    y = noisy("cell", 25)
    faint = pad(y, (150,) * 4) + 1e-4 * torch.randn(y.shape[2] + 300, y.shape[3] + 300, generator=generator(0))
    assert estimate(network, faint).sigma < 0.9 * estimate(network, y).sigma


def test_confidence_sums_to_one_and_is_nowhere_on_the_background(network):
    y = pad(noisy("chest_ct", 25), (40, 30, 20, 10))
    confidence, variance, mean = network(y)
    assert confidence.shape == variance.shape == mean.shape == y.shape
    assert confidence.detach().sum() == pytest.approx(1, abs=1e-5) and not confidence[..., :18, :].any() and not confidence[..., :, :38].any()


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 23)], ids=str)
def test_images_of_a_batch_do_not_see_each_other(network, size):
    batch = torch.randn(3, 1, *size, generator=generator(3)) * torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1, 1)
    together = noise_level.log_sigma(network, batch)
    torch.testing.assert_close(together, torch.cat([noise_level.log_sigma(network, x[None]) for x in batch]), rtol=0, atol=1e-4)


def test_forward_remembers_nothing(network):
    small, large = noisy("microaneurysms", 25), noisy("head_mr", 25)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = estimate(network, small), estimate(network, large)
    assert (estimate(network, small), estimate(network, large)) == first
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("sigma, gain", [(5 / 255, 0.01), (2 / 255, 0.02), (12 / 255, 0.0)])
@pytest.mark.parametrize("name", ["cell", "microaneurysms", "chest_ct"])
def test_a_poisson_gaussian_law_is_found(network, name, sigma, gain):
    """On images that are not mostly dark: on the head MR, half of it air, the confidence stays in the dark and the bright end reads 30 % too low."""
    law, x = PoissonGaussian(sigma, gain=gain), clean(name)
    found = estimate(network, law.sample(x, generator=generator(11)), law="poisson_gaussian")
    intensity = torch.linspace(float(x.quantile(0.1)), float(x.quantile(0.9)), 5)
    ratio = (found.law.variance(intensity) / law.variance(intensity)).sqrt()
    assert float((ratio.log() ** 2).mean().sqrt()) < 0.15, (found, ratio)  # 15 % of the level over the bulk of the intensities


def test_the_noise_level_function_has_weights_that_sum_to_one(network):
    intensity, variance, weight = noise_level_function(network, noisy("cell", 25))
    assert len(intensity) <= noise_level.BINS and (intensity.diff() > 0).all() and float(weight.sum()) == pytest.approx(1, abs=1e-5) and (variance > 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 15, 40), (1, 3, 40, 40), (2, 1, 40, 40), (1, 1, 40, 1)], ids=str)
def test_a_wrong_shape_is_refused_with_it(network, shape):
    with pytest.raises(ValueError, match=rf"\({shape[0]}, {shape[1]}, {shape[2]}, {shape[3]}\).*at least 16 x 16 px"):
        estimate(network, torch.rand(shape))


def test_an_unknown_law_is_refused_by_name(network):
    with pytest.raises(ValueError, match="'poisson'.*white or poisson_gaussian"):
        estimate(network, torch.rand(1, 1, 20, 20), law="poisson")


def test_nan_pixels_are_refused(network):
    with pytest.raises(ValueError, match="sigma nan"):
        estimate(network, torch.full((1, 1, 20, 31), math.nan))


def test_a_constant_image_has_no_noise(network):
    assert estimate(network, torch.full((1, 1, 20, 31), 0.3)).sigma < 1e-6


def test_filters_have_unit_gain_for_white_noise_and_are_blind_to_constants():
    assert FILTERS.square().sum((1, 2, 3)).tolist() == pytest.approx([1] * 4) and FILTERS.sum((1, 2, 3)).abs().max() < 1e-7
    assert torch.equal(FILTERS[0, 0], SECOND_DIFFERENCE)


def test_training_noise_is_a_function_of_keys_with_the_variance_it_states():
    photos = [image.pixels for image in embedded.natural("train")]
    first, again = (noise_level.draw(photos, batch=4, patch=33, keys=(0, 211, 5)) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    levels = 255 * first["variance"].mean((1, 2, 3)).sqrt()
    assert ((levels > 1.99) & (levels < 60 * 1.01)).all()


def test_stated_training_variance_is_the_true_one():
    """On flat photographs the noise is all there is: its variance over 20 x 33 x 33 px against the stated one, five standard errors; 10 % more is caught."""
    batch = noise_level.draw([torch.full((1, 1, 80, 90), 0.4)], batch=20, patch=33, keys=(0,))
    ratio = float(((batch["noisy"] - 0.4) ** 2 / batch["variance"]).mean())
    limit = 5 * (2 / batch["noisy"].numel()) ** 0.5
    assert abs(ratio - 1) < limit < 0.1


def test_calibration_takes_the_median_bias_off_photographs(network):
    rows = noise_level.calibrate(network, [image.pixels for image in embedded.natural("val")])
    assert np.median([math.log(row["estimated"] / row["sigma"]) for row in rows]) == pytest.approx(0, abs=1e-6)
    assert 0 < float(network.error) < 0.15 and estimate(network, noisy("cell", 25)).error == float(network.error)
