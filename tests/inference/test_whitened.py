"""Noise of any noise model becomes even and white before a network for white noise sees it, and the intensities come
back without a bias.
"""

import pytest
import torch
from torch import nn

import mptpn
from mptpn import metrics
from mptpn.filters import center_crop
from mptpn.inference import stabilise
from mptpn.noise.emccd import EMCCD
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian, Rician, Speckle
from mptpn.random import generator
from mptpn.stages import profound
from support import embedded

CLEAN = center_crop(embedded.medical("test")[2].pixels, side=128)
BLURRED = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])  # a positive and a negative correlation
SHARPENED = torch.tensor([[0.0, -0.2, 0.0], [-0.1, 1.0, -0.1], [0.0, -0.2, 0.0]])
LAWS = {
    "white": PoissonGaussian(0.1),
    "Poisson": PoissonGaussian(0.02, gain=0.02),
    "dark camera": PoissonGaussian(0.03, gain=0.01, black=0.1),
    "electrons": EMCCD(0.05, gain=0.02, read=0.3),
    "free": NoiseLevelFunction((0.0, 0.3, 1.0), (0.001, 0.004, 0.002)),
    "speckle": Speckle(20.0),
    "Rice": Rician(0.1),
}


class Mean(nn.Module):
    """The best denoiser of a constant image, and of nothing else."""

    def forward(self, noisy):
        return noisy.mean((2, 3), keepdim=True).expand_as(noisy)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("level", [0.15, 0.4, 0.9])
def test_noise_of_every_law_has_standard_deviation_1_and_its_mean_comes_back(name, level):
    clean = torch.full((1, 1, 300, 300), level)
    noisy = LAWS[name].sample(clean, generator=generator(1))
    transform = stabilise.VarianceStabilisingTransform.of(LAWS[name], low=float(noisy.min()), high=float(noisy.max()))
    stable = transform(noisy)
    assert float(stable.std()) == pytest.approx(1, rel=0.12)  # exact for small noise alone; f bends within the noise
    sigma = float(LAWS[name].variance(clean).mean().sqrt())
    assert float(transform.inverse(stable.mean().view(1))) == pytest.approx(level, abs=0.02 * sigma)


def test_bias_of_rice_in_the_dark_is_taken_off():
    noisy = Rician(0.1).sample(torch.full((1, 1, 200, 200), 0.05), generator=generator(2))
    assert float(noisy.mean()) == pytest.approx(0.132, abs=0.002)
    denoised = stabilise.denoise(Mean(), noisy, noise_model=Rician(0.1))
    assert float(denoised.mean()) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("lags", [BLURRED, SHARPENED])
def test_filled_noise_is_white_at_the_stated_height(lags):
    noise_model = CorrelatedGaussian(PoissonGaussian(1.0), lags)
    noise = (
        noise_model.sample(torch.zeros(1, 1, 256, 256), generator=generator(3))
        + stabilise.whitening_noise(noise_model, (256, 256), pairs=1)[:1]
    )
    height = stabilise.HEIGHT * float(noise_model.spectrum(64, 64).max())
    assert float(noise.var()) == pytest.approx(height, rel=0.03)
    for lag in ((0, 1), (1, 0), (1, 1), (0, 2)):
        shifted = noise[..., lag[0] :, lag[1] :] * noise[..., : 256 - lag[0], : 256 - lag[1]]
        assert float(shifted.mean()) / height == pytest.approx(0, abs=0.015)


def test_fields_come_in_pairs_that_cancel_and_white_noise_gets_none():
    fields = stabilise.whitening_noise(CorrelatedGaussian(PoissonGaussian(1.0), BLURRED), (20, 30), pairs=3)
    assert (
        fields.shape == (6, 1, 20, 30)
        and torch.equal(fields[:3], -fields[3:])
        and not torch.equal(fields[0], fields[1])
    )
    assert torch.equal(stabilise.whitening_noise(PoissonGaussian(1.0), (20, 30)), torch.zeros(1, 1, 20, 30))


def test_white_noise_is_denoised_as_ever():
    noisy = LAWS["white"].sample(CLEAN, generator=generator(4))
    plain, found = (
        profound.denoise(mptpn.load("small"), noisy),
        stabilise.denoise(mptpn.load("small"), noisy, noise_model=LAWS["white"]),
    )
    assert torch.allclose(found, plain.detach(), atol=2e-3 * 0.1)


@pytest.mark.parametrize(
    ("noise_model", "gain"),
    [
        (CorrelatedGaussian(PoissonGaussian(0.08), BLURRED), 3.0),
        (EMCCD(0.02, gain=0.08, read=0.3), 0.5),
        (Rician(0.08), 0.5),
    ],
)
def test_what_the_law_says_is_worth_decibels(noise_model, gain):
    noisy = noise_model.sample(CLEAN, generator=generator(5))
    network = mptpn.load("small")
    with torch.no_grad():
        plain = metrics.psnr_db(profound.denoise(network, noisy), CLEAN)
    assert metrics.psnr_db(stabilise.denoise(network, noisy, noise_model=noise_model), CLEAN) > plain + gain


def test_the_seed_decides_and_gain_and_offset_of_the_image_change_nothing():
    noise_model = CorrelatedGaussian(PoissonGaussian(0.1), SHARPENED)
    noisy, network = noise_model.sample(CLEAN, generator=generator(6)), mptpn.load("small")
    first, again, other = (
        stabilise.denoise(network, noisy, noise_model=noise_model, pairs=1, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    moved = stabilise.denoise(
        network, 400 * noisy - 1000, noise_model=noise_model.__class__(PoissonGaussian(40.0), SHARPENED), pairs=1
    )
    assert torch.allclose((moved + 1000) / 400, first, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "pairs"), [((1, 3, 20, 20), 1), ((2, 1, 20, 20), 1), ((20, 20), 1), ((1, 1, 20, 20), 0)]
)
def test_other_shapes_and_no_pair_are_refused(shape, pairs):
    with pytest.raises(ValueError, match="give one gray image"):
        stabilise.denoise(Mean(), torch.rand(shape), noise_model=PoissonGaussian(0.1), pairs=pairs)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        stabilise.denoise(Mean(), torch.full((1, 1, 20, 20), torch.nan), noise_model=PoissonGaussian(0.1))
