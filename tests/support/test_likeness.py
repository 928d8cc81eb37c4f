"""Drawn noise against real noise: planted faults are found, a second draw of one noise model is not, and what real
fluorescence shows.
"""

import math
import os
from functools import cache

import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from mptpn.noise.emccd import EMCCD
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian, Rician, Speckle
from mptpn.noise.statistics import divergence, quantise_like
from mptpn.random import generator
from mptpn.stages.pipeline import estimate_set
from support import two_sample
from support.datasets import available, pairs
from support.scores import fitted
from support.two_sample import add_correlation, compare, draw, scale_gain, standardised, tell_apart

LAW = PoissonGaussian(0.02, gain=0.03, black=0.05)
GAUSS = PoissonGaussian(0.1)


@cache
def contents(count: int = 10, height: int = 201, width: int = 263) -> tuple[Tensor, ...]:
    """Smooth random images, 0.05..0.95, of an odd and not square size."""
    white = torch.randn(count, height, width, generator=generator(1)).numpy()
    blurred = torch.from_numpy(gaussian_filter(white, (0, 8, 8)))
    low, high = blurred.amin((1, 2), keepdim=True), blurred.amax((1, 2), keepdim=True)
    return tuple((0.05 + 0.9 * (blurred - low) / (high - low))[:, None, None])


def drawn(noise_model, *, seed: int) -> list[Tensor]:
    clean = contents()
    return draw(clean, noise_models=[noise_model] * len(clean), seed=seed)


def verdict(first, second, *, noise_model=LAW, **settings) -> two_sample.Verdict:
    clean = contents()
    return tell_apart(first, second, clean, noise_models=[noise_model] * len(clean), **settings)


@pytest.mark.parametrize("fault", [scale_gain, add_correlation])
def test_planted_fault_is_found(fault):
    assert verdict(drawn(fault(LAW), seed=1), drawn(LAW, seed=2)).accuracy >= 0.85


@pytest.mark.parametrize(
    "noise_model", [LAW, GAUSS, CorrelatedGaussian(GAUSS, ((0.1, 0.3, 0.1), (0.3, 1, 0.3), (0.1, 0.3, 0.1)))]
)
def test_second_draw_of_one_law_is_not_told_apart(noise_model):
    # 10 images of 12 patches: a standard error of sqrt(0.25 / 240) = 0.032 where the patches were independent; a 95 %
    # interval may miss one time in twenty
    found = verdict(drawn(noise_model, seed=1), drawn(noise_model, seed=2), noise_model=noise_model)
    assert abs(found.accuracy - 0.5) < 4 * 0.032 and found.accuracy < 0.6


def test_classifier_finds_what_variance_and_correlation_do_not_show():
    found = compare(
        drawn(EMCCD(0.02, gain=0.03, black=0.05), seed=1), drawn(LAW, seed=2), contents(), noise_models=[LAW] * 10
    )
    assert all(abs(ratio - 1) < 4 * error for ratio, error in found.variance_ratio)
    assert found.verdict.accuracy > 0.95 and found.kl > 10 * found.kl_chance
    # 1.5 gain / sigma: 0.57 at a clean 0.25, 0.28 at 0.9
    assert all(real > 0.2 and abs(gaussian) < 0.05 for real, gaussian in found.skewness)


def test_subjects_that_differ_either_way_are_found():
    half = len(contents()) // 2
    # no threshold on the variance alone tells these from LAW
    noise_models = [LAW.scaled(1.15)] * half + [LAW.scaled(0.87)] * half
    assert verdict(draw(contents(), noise_models=noise_models, seed=1), drawn(LAW, seed=2)).accuracy > 0.8


def test_rounding_is_found_unless_it_is_copied():
    real = [(y * 31).round().clamp(0, 31) / 31 for y in drawn(LAW, seed=1)]
    clean, noise_models = contents(), [LAW] * len(contents())
    assert verdict(real, draw(clean, noise_models=noise_models, seed=2)).accuracy > 0.95
    assert verdict(real, draw(clean, noise_models=noise_models, like=real, seed=2)).accuracy < 0.6


def test_recorded_takes_the_nearest_value_that_the_real_image_holds():
    real = torch.tensor([0.0, 0.1, 0.4, 0.1]).view(1, 1, 2, 2)
    noisy = torch.tensor([-1.0, 0.24, 0.26, 9.0]).view(1, 1, 2, 2)
    assert quantise_like(noisy, like=real).flatten().tolist() == pytest.approx([0, 0.1, 0.4, 0.4])
    fine = torch.linspace(0, 1, two_sample.LEVELS + 1)[None, None, None]
    noisy = torch.tensor([-1.0, 0.12345678, 2.0]).view(1, 1, 1, 3)
    assert quantise_like(noisy, like=fine).equal(noisy.clamp(0, 1))


def test_divergence_is_zero_for_equal_and_known_for_gaussians():
    n = 2_000_000
    z = torch.randn(2, n, generator=generator(3))
    assert divergence(z[0], z[0]) == 0
    # chance alone: (bins - 1) / n = 5e-5 nats; bins of 0.1 sigma lose the share 0.1**2 / 12 of the divergence
    assert divergence(z[0], z[1]) < 1e-4
    assert divergence(z[0], z[1] + 0.5) == pytest.approx(0.5**2 / 2, rel=0.01)
    assert divergence(z[0], 1.2 * z[1]) == pytest.approx(math.log(1.2) + 1 / (2 * 1.2**2) - 0.5, rel=0.02)
    # real from drawn is not drawn from real
    assert divergence(z[0], 1.3 * z[1]) != pytest.approx(divergence(1.3 * z[0], z[1]), rel=0.1)


def test_compare_measures_the_planted_fault():
    clean = contents()
    same, more, near = (
        compare(drawn(fault, seed=1), drawn(GAUSS, seed=2), clean, noise_models=[GAUSS] * 10)
        for fault in (GAUSS, scale_gain(GAUSS), add_correlation(GAUSS))
    )
    assert all(abs(ratio - 1) < 4 * error for ratio, error in same.variance_ratio)
    assert all(abs(ratio - 1.2) < 4 * error and ratio > 1 + 4 * error for ratio, error in more.variance_ratio)
    assert len(more.intensity) == two_sample.BINS and list(more.intensity) == sorted(more.intensity)
    for lag, (real, drawn_, error) in near.autocorrelation.items():
        assert abs(real - drawn_ - (0.2 if lag in ((0, 1), (1, 0)) else 0)) < 4 * error
    assert same.kl < 2 * same.kl_chance and more.kl > 10 * more.kl_chance


@pytest.mark.parametrize(
    "noise_model",
    [LAW, GAUSS, Speckle(4.0), Rician(0.1), NoiseLevelFunction((0, 1), (0.01, 0.02)), add_correlation(GAUSS)],
)
def test_stronger_raises_the_variance_by_its_factor(noise_model):
    clean = torch.full((1, 1, 1, 1), 5.0)  # bright: Rice's variance is sigma**2 there
    dark = noise_model.sigma**2 if noise_model is LAW else 0
    assert float(scale_gain(noise_model).variance(clean)) - dark == pytest.approx(
        1.2 * (float(noise_model.variance(clean)) - dark), rel=2e-3
    )


def test_neighbourly_keeps_the_variance_and_adds_to_a_correlation():
    assert add_correlation(LAW).variance(contents()[0]).equal(LAW.variance(contents()[0]))
    assert torch.tensor(add_correlation(add_correlation(LAW)).correlation).allclose(
        torch.tensor([[0, 0.4, 0], [0.4, 1, 0.4], [0, 0.4, 0]])
    )


def test_standardised_noise_subtracts_the_bias_of_a_magnitude():
    clean = torch.full((1, 1, 300, 300), 0.05)
    noise = standardised(Rician(0.1).sample(clean, generator=generator(4)), clean, noise_model=Rician(0.1))
    assert abs(float(noise.mean())) < 4 / 300 and float(noise.var()) == pytest.approx(1, rel=0.03)


def test_interval_is_as_wide_as_the_subjects_differ():
    few, many = (
        torch.tensor([1.0] * 50 + [0.5] * 50, dtype=torch.float64),
        torch.tensor([1.0, 0.5] * 50, dtype=torch.float64),
    )
    owner = torch.arange(2).repeat_interleave(50)
    wide, narrow = (two_sample._interval(right, owner) for right in (few, many))
    assert wide[1] - wide[0] > 3 * (narrow[1] - narrow[0])
    # subjects that agree: Wilson's interval of 150 out of 200
    assert narrow == pytest.approx((0.686, 0.805), abs=1e-3)


def test_same_call_gives_the_same_verdict_and_the_images_stay_as_they_were():
    first, second = drawn(LAW, seed=1), drawn(LAW, seed=2)
    before = [y.clone() for y in first]
    assert verdict(first, second) == verdict(first, second)
    assert all(y.equal(b) for y, b in zip(first, before, strict=True))


def test_wrong_calls_say_what_is_wrong():
    clean, noisy = contents(), drawn(LAW, seed=1)
    with pytest.raises(ValueError, match=r"\[9, 10, 10, 10, 9\]"):
        verdict(noisy[:9], noisy)
    with pytest.raises(ValueError, match="1 different"):
        verdict(noisy, noisy, subjects=["a"] * 10)
    with pytest.raises(ValueError, match="512 px"):
        verdict(noisy, noisy, side=512)
    with pytest.raises(ValueError, match="image 0"):
        tell_apart([y.transpose(2, 3) for y in noisy], noisy, clean, noise_models=[LAW] * 10)


fluorescence = pytest.mark.skipif(
    not os.environ.get("MPTPN_DATA") or not available("w2s"),
    reason="MPTPN_DATA names no folder with the set w2s: real noise is not there",
)


@cache
def real_fluorescence() -> tuple[list[Tensor], list[Tensor], list, list[str]]:
    both = pairs("w2s", "train")[:12] + pairs("w2s", "test")
    noisy = [pair.noisy.pixels for pair in both]
    return (
        noisy,
        [fitted(pair.clean.pixels, pair.noisy.pixels) for pair in both],
        list(estimate_set(noisy).noise_models),
        [pair.noisy.subject for pair in both],
    )


@fluorescence
def test_real_fluorescence_has_the_variance_and_independence_of_its_law_but_is_skewed():
    real, clean, noise_models, subjects = real_fluorescence()
    noise_models = [
        PoissonGaussian(noise_model.sigma, noise_model.gain, noise_model.black) for noise_model in noise_models
    ]
    found = compare(
        real, draw(clean, noise_models=noise_models, like=real), clean, noise_models=noise_models, subjects=subjects
    )
    # in the dark, Gaussian noise is cut off at 0 more than the real one
    assert all(abs(ratio - 1) < 0.1 for ratio, _ in found.variance_ratio[-4:])
    assert all(abs(a - b) < 0.01 for a, b, _ in found.autocorrelation.values())
    assert found.skewness[3][0] > found.skewness[3][1] + 0.5
    assert found.verdict.accuracy > 0.95


@fluorescence
def test_planted_faults_are_found_on_real_content_and_a_second_draw_is_not():
    real, clean, skewed, subjects = real_fluorescence()
    noise_models = [PoissonGaussian(noise_model.sigma, noise_model.gain, noise_model.black) for noise_model in skewed]
    ours = draw(clean, noise_models=noise_models, like=real)
    for fault in (scale_gain, add_correlation):
        other = draw(clean, noise_models=[fault(noise_model) for noise_model in noise_models], like=real, seed=1)
        assert tell_apart(other, ours, clean, noise_models=noise_models, subjects=subjects).accuracy >= 0.85
    again = draw(clean, noise_models=noise_models, like=real, seed=1)
    assert tell_apart(again, ours, clean, noise_models=noise_models, subjects=subjects).accuracy < 0.6


@fluorescence
def test_noise_drawn_for_fluorescence_is_not_told_apart():
    """Its camera multiplies electrons; how much of the dark is read noise is found from each noisy image alone."""
    real, clean, noise_models, subjects = real_fluorescence()
    assert all(isinstance(noise_model, EMCCD) for noise_model in noise_models)
    found = compare(
        real, draw(clean, noise_models=noise_models, like=real), clean, noise_models=noise_models, subjects=subjects
    )
    assert found.verdict.accuracy <= 0.6
    assert found.kl < 1e-3
    assert all(abs(a - b) < 0.15 for a, b in found.skewness)
