"""The gain that is told without truth, for noise of every kind."""

import numpy as np
import pytest
import torch

import mptpn
from mptpn.inference import NoisyImages
from mptpn.inference.gain import BLOCK, passing, rehearsed, residual_excess, squared_noise
from mptpn.noise import PoissonGaussian, Rician, Speckle
from mptpn.random import generator


def scene() -> np.ndarray:
    row, column = np.mgrid[:160, :192]
    return 100 + 60.0 * (np.hypot(row - 70, column - 90) < 35) + 20 * np.sin(column / 11) * np.cos(row / 13)


def rice(clean: np.ndarray, random: np.random.Generator, sigma: float) -> np.ndarray:
    return np.hypot(*(part + random.normal(0, sigma, clean.shape) for part in (clean, 0)))


NOISE = {
    "Rice, dark": lambda clean, random: rice(clean, random, 25),
    "Rice, darkest": lambda clean, random: rice(clean, random, 30),
    "speckle of 10 looks": lambda clean, random: clean * random.gamma(10, 0.1, clean.shape),
    "speckle of 60 looks": lambda clean, random: clean * random.gamma(60, 1 / 60, clean.shape),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", NOISE)
def test_the_interval_of_the_gain_holds_where_noise_is_not_gaussian(kind, seed):
    clean = scene() - 60 * kind.startswith("Rice")
    noisy = NOISE[kind](clean, np.random.default_rng(seed))
    result = mptpn.denoise(noisy)
    gain = 10 * np.log10(np.mean((noisy - clean) ** 2) / np.mean((result.image - clean) ** 2))
    best, (low, high) = result.psnr_gain
    assert gain > 4 and low < gain < high and low < best < high and result.noise.kind in ("rician", "speckle")


def test_rehearsal_and_small_noise_find_the_same_where_noise_is_gaussian():
    """The share that passes, from the same squares; of two ways neither is told of the other."""
    noisy = scene() + np.random.default_rng(0).normal(0, 15, scene().shape)
    denoiser = NoisyImages.of([noisy]).prepare()
    prediction = denoiser.predict(noisy, uncertainty=False)
    place = (..., slice(16, 144), slice(32, 160))
    one, other = (measure(denoiser.predictor, prediction, place) for measure in (passing, rehearsed))
    assert one.shape == other.shape == ((128 // BLOCK) ** 2, 3)
    (p, kept, size), (q, kept_too, size_too) = one.sum(0), other.sum(0)
    assert 0.01 < float(q / size_too) < 0.1 and float(p / size) == pytest.approx(float(q / size_too), abs=0.015)
    assert float(kept / size) == pytest.approx(float(kept_too / size_too), abs=0.015)


@pytest.mark.parametrize("model", [Rician(12.0), Speckle(20.0), PoissonGaussian(5.0, gain=2.0)], ids=lambda m: m.label)
def test_a_perfect_result_has_no_excess_and_its_noise_is_known(model):
    """A million pixels; five standard errors. With a level 10 % too high there is a lack of 17 %, or more."""
    clean = torch.linspace(30, 200, 1000).expand(1, 1, 1000, 1000)
    noisy = model.sample(clean, generator=generator(3))
    for factor, right in ((1.0, True), (1.1, False)):
        own = model.scaled(factor)
        found = residual_excess(noisy - own.mean(clean), clean, noise_model=own) / own.variance(clean).mean()
        assert (abs(float(found.mean())) < 5 * float(found.std()) / 1000) == right
    wanted = float((noisy - clean).double().square().mean())
    assert float(squared_noise(clean, noise_model=model).double().mean()) == pytest.approx(wanted, rel=0.01)


def test_the_dark_of_a_magnitude_says_nothing_by_its_residual():
    dark = torch.zeros(1, 1, 64, 64)
    noisy = Rician(1.0).sample(dark, generator=generator(1))
    assert (residual_excess(noisy - dark, dark, noise_model=Rician(1.0)) == 0).all()
    assert (residual_excess(noisy - dark, dark, noise_model=PoissonGaussian(1.0)) != 0).any()
