"""Drawn noise against real noise: planted faults are found, a second draw of one noise model is not."""

import os
from functools import cache

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from mptpn.noise.models import CorrelatedGaussian, PoissonGaussian, Rician, Speckle
from mptpn.noise.photons import EMCCD
from mptpn.random import generator
from mptpn.stages.pipeline import estimate_set
from support import two_sample
from support.datasets import available, pairs
from support.scores import fitted
from support.two_sample import add_correlation, classifier_test, compare, draw, scale_gain, standardise

MODEL = PoissonGaussian(0.02, gain=0.03, black=0.05)
GAUSS = PoissonGaussian(0.1)


@cache
def contents() -> tuple[Tensor, ...]:
    """Smooth random images, 0.05..0.95, of an odd and not square size."""
    white = torch.randn(10, 201, 263, generator=generator(1)).numpy()
    blurred = torch.from_numpy(gaussian_filter(white, (0, 8, 8)))
    low, high = blurred.amin((1, 2), keepdim=True), blurred.amax((1, 2), keepdim=True)
    return tuple((0.05 + 0.9 * (blurred - low) / (high - low))[:, None, None])


def drawn(model, *, seed: int) -> list[Tensor]:
    return draw(contents(), noise_models=[model] * 10, seed=seed)


def accuracy(first, second, *, model=MODEL) -> float:
    return classifier_test(first, second, contents(), noise_models=[model] * 10).accuracy


@pytest.mark.parametrize("fault", [scale_gain, add_correlation])
def test_a_planted_fault_is_found(fault):
    assert accuracy(drawn(fault(MODEL), seed=1), drawn(MODEL, seed=2)) >= 0.85


@pytest.mark.parametrize("model", [MODEL, CorrelatedGaussian(GAUSS, ((0.1, 0.3, 0.1), (0.3, 1, 0.3), (0.1, 0.3, 0.1)))])
def test_two_draws_of_one_model_are_not_separated(model):
    # 10 images of 12 patches, were they independent: a standard error of sqrt(0.25 / 240) = 0.032
    assert abs(accuracy(drawn(model, seed=1), drawn(model, seed=2), model=model) - 0.5) < 4 * 0.032


def test_the_classifier_finds_skewness_that_the_variance_does_not_show():
    skewed = drawn(EMCCD(0.02, gain=0.03, black=0.05), seed=1)
    found = compare(skewed, drawn(MODEL, seed=2), contents(), noise_models=[MODEL] * 10)
    assert found.variance_ratio == pytest.approx(1, abs=0.02)
    assert found.test.accuracy > 0.95 and found.kl > 10 * found.kl_chance


def test_subjects_that_differ_either_way_are_found():
    models = [MODEL.scaled(1.15)] * 5 + [MODEL.scaled(0.87)] * 5  # no threshold on the variance finds these
    assert accuracy(draw(contents(), noise_models=models, seed=1), drawn(MODEL, seed=2)) > 0.8


def test_rounding_is_found_unless_it_is_copied():
    real, models = [(y * 31).round().clamp(0, 31) / 31 for y in drawn(MODEL, seed=1)], [MODEL] * 10
    assert accuracy(real, draw(contents(), noise_models=models, seed=2)) > 0.95
    assert accuracy(real, draw(contents(), noise_models=models, like=real, seed=2)) < 0.6


def test_the_variance_ratio_is_the_planted_one():
    # 10 * 201 * 263 pixels: a relative standard error of sqrt(2 / n) = 0.002 in each variance
    found = compare(drawn(scale_gain(GAUSS), seed=1), drawn(GAUSS, seed=2), contents(), noise_models=[GAUSS] * 10)
    assert found.variance_ratio == pytest.approx(1.2, abs=0.02) and found.kl > 10 * found.kl_chance


@pytest.mark.parametrize("model", [MODEL, Speckle(4.0), Rician(0.1), add_correlation(GAUSS)])
def test_scale_gain_raises_the_variance_by_its_factor(model):
    clean = torch.full((1, 1, 1, 1), 5.0)  # bright: Rice's variance is sigma**2 there
    dark = model.sigma**2 if model is MODEL else 0
    before, after = (float(one.variance(clean)) - dark for one in (model, scale_gain(model)))
    assert after == pytest.approx(1.2 * before, rel=2e-3)


def test_add_correlation_keeps_the_variance_and_adds_up():
    assert add_correlation(MODEL).variance(contents()[0]).equal(MODEL.variance(contents()[0]))
    twice = torch.tensor(add_correlation(add_correlation(MODEL)).correlation)
    assert twice.allclose(torch.tensor([[0, 0.4, 0], [0.4, 1, 0.4], [0, 0.4, 0]]))


def test_standardised_noise_has_no_bias_of_a_magnitude():
    clean = torch.full((1, 1, 300, 300), 0.05)
    noise = standardise(Rician(0.1).sample(clean, generator=generator(4)), clean, noise_model=Rician(0.1))
    assert abs(float(noise.mean())) < 4 / 300 and float(noise.var()) == pytest.approx(1, rel=0.03)


def test_the_interval_is_as_wide_as_the_subjects_differ():
    right, subjects = torch.arange(200).remainder(4).gt(0).numpy(), torch.arange(2).repeat_interleave(100).numpy()
    apart = right.copy()
    apart[:100], apart[100:150] = True, True
    apart[150:] = False
    wide, narrow = (two_sample._interval(one, subjects) for one in (apart, right))
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    assert narrow == pytest.approx((0.686, 0.805), abs=1e-3)  # Wilson's of 150 of 200: these subjects agree


def test_wrong_calls_are_refused():
    noisy, settings = drawn(MODEL, seed=1), {"noise_models": [MODEL] * 10}
    for first, given, message in (
        (noisy[:9], {}, r"\[9, 10, 10, 10, 9\]"),
        (noisy, {"subjects": ["a"] * 10}, "1 different"),
        (noisy, {"side": 512}, "512 px"),
        ([y.transpose(2, 3) for y in noisy], {}, "image 0"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier_test(first, noisy, contents(), **settings, **given)


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("MPTPN_DATA") or not available("w2s"), reason="the set w2s is not here")
def test_noise_drawn_for_fluorescence_is_hardly_separated_and_gaussian_noise_is():
    both = pairs("w2s", "train")[:12] + pairs("w2s", "test")
    real, subjects = [pair.noisy.pixels for pair in both], [pair.noisy.subject for pair in both]
    clean = [fitted(pair.clean.pixels, pair.noisy.pixels) for pair in both]
    models = list(estimate_set(real).noise_models)
    assert all(isinstance(model, EMCCD) for model in models)
    gaussian = [PoissonGaussian(model.sigma, model.gain, model.black) for model in models]
    ours, plain = (
        compare(real, draw(clean, noise_models=m, like=real), clean, noise_models=models, subjects=subjects)
        for m in (models, gaussian)
    )
    assert ours.test.accuracy <= 0.6 and ours.kl < 1e-3 and plain.test.accuracy > 0.95
