"""Any known noise becomes white and of one level before a network for white noise, and intensities keep no bias."""

import pytest
import torch

import mptpn
from mptpn import metrics
from mptpn.filters import center_crop, gaussian_blur
from mptpn.inference import masked_image, predictor, predictor_of, stabilise
from mptpn.noise import EMCCD, CorrelatedGaussian, NoiseLevelFunction, NoiseModel, PoissonGaussian, Rician, Speckle
from mptpn.random import generator
from mptpn.stages import profound
from support import embedded

CLEAN = center_crop(embedded.medical("test")[2].pixels, side=128)
BLURRED = torch.tensor([[0.25, 0.5, 0.25], [0.5, 1.0, 0.5], [0.25, 0.5, 0.25]])  # a positive and a negative correlation
SHARPENED = torch.tensor([[0.0, -0.2, 0.0], [-0.1, 1.0, -0.1], [0.0, -0.2, 0.0]])
MODELS = {
    "white": PoissonGaussian(0.1),
    "Poisson": PoissonGaussian(0.02, gain=0.02),
    "dark camera": PoissonGaussian(0.03, gain=0.01, black=0.1),
    "electrons": EMCCD(0.05, gain=0.02, read=0.3),
    "free": NoiseLevelFunction((0.0, 0.3, 1.0), (0.001, 0.004, 0.002)),
    "speckle": Speckle(20.0),
    "Rice": Rician(0.1),
}


def denoised(noisy: torch.Tensor, model: NoiseModel) -> torch.Tensor:
    network = mptpn.load("small")
    return predictor_of(network, model, [masked_image(noisy[0, 0].numpy(), None, 1.0)]).mean(noisy)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("level", [0.15, 0.9])
def test_stabilised_noise_has_standard_deviation_1_and_its_mean_comes_back(name, level):
    clean = torch.full((1, 1, 300, 300), level)
    noisy = MODELS[name].sample(clean, generator=generator(1))
    transform = stabilise.VarianceStabilisingTransform.of(MODELS[name], low=float(noisy.min()), high=float(noisy.max()))
    stable = transform(noisy)
    assert float(stable.std()) == pytest.approx(1, rel=0.12)  # exact for small noise alone; f bends within the noise
    sigma = float(MODELS[name].variance(clean).mean().sqrt())
    assert float(transform.inverse(stable.mean().view(1))) == pytest.approx(level, abs=0.02 * sigma)


@pytest.mark.parametrize("highest", [40.0, 1000.0, 4095.0, 65535.0])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_one_bright_pixel_moves_no_dark_intensity(highest, unit):
    model = PoissonGaussian(0.1, gain=1.0).in_unit(unit)
    transform = stabilise.VarianceStabilisingTransform.of(model, low=0.0, high=highest * unit)
    for level in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 35.0):
        clean = torch.full((1, 1, 400, 500), level * unit, dtype=torch.float64)
        stable = transform(model.sample(clean, generator=generator(7)))
        sigma = float(model.variance(clean).mean().sqrt())
        assert float(transform.inverse(stable.mean().view(1))) == pytest.approx(level * unit, abs=0.02 * sigma)


@pytest.mark.parametrize("name", ["Rice", "speckle"])
@pytest.mark.parametrize("highest", [1.3, 4095.0])
def test_no_magnitude_becomes_negative(name, highest):
    model = MODELS[name]
    transform = stabilise.VarianceStabilisingTransform.of(model, low=0.0, high=highest)
    dark = transform.inverse(transform(torch.zeros(1)) - torch.tensor([0.0, 1.0, 10.0, 1000.0]))
    assert dark.tolist() == [0.0] * 4
    values = transform.inverse(transform(torch.linspace(0, highest, 1001)))
    assert float(values.min()) >= 0 and (values.diff() >= 0).all()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_level_of_a_masked_image_is_that_of_its_noise(share):
    noisy = PoissonGaussian(0.08).sample(torch.full((1, 1, 192, 192), 0.5), generator=generator(8))
    inside = (
        torch.hypot(*torch.meshgrid(*[torch.arange(192.0) - 96] * 2, indexing="ij")) < 192 * ((1 - share) / 3.14) ** 0.5
    )
    masked = masked_image(torch.where(inside, noisy, 0.0)[0, 0].numpy(), None, 1.0)
    predictor = predictor_of(mptpn.load("small"), PoissonGaussian(0.08), [masked])
    assert float(predictor.scale) == pytest.approx(1, rel=0.05)


def test_bias_of_rice_in_the_dark_is_taken_off():
    noisy = Rician(0.1).sample(torch.full((1, 1, 200, 200), 0.05), generator=generator(2))
    assert float(noisy.mean()) == pytest.approx(0.132, abs=0.002)
    transform = stabilise.VarianceStabilisingTransform.of(Rician(0.1), low=float(noisy.min()), high=float(noisy.max()))
    assert float(transform.inverse(transform(noisy).mean().view(1))) == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("lags", [BLURRED, SHARPENED])
def test_whitened_noise_is_white_at_the_stated_height(lags):
    model = CorrelatedGaussian(PoissonGaussian(1.0), lags)
    noise = model.sample(torch.zeros(1, 1, 256, 256), generator=generator(3))
    noise = noise + stabilise.cut(stabilise.whitening_noise(model, pairs=1), (7, 300), (256, 256))[:1]
    height = stabilise.HEIGHT * float(model.spectrum(64, 64).max())
    assert float(noise.var()) == pytest.approx(height, rel=0.03)
    for row, col in ((0, 1), (1, 0), (1, 1), (0, 2)):
        shifted = noise[..., row:, col:] * noise[..., : 256 - row, : 256 - col]
        assert float(shifted.mean()) / height == pytest.approx(0, abs=0.015)


def test_fields_cancel_in_pairs_repeat_without_a_seam_and_white_noise_gets_none():
    fields = stabilise.whitening_noise(CorrelatedGaussian(PoissonGaussian(1.0), BLURRED), pairs=3, side=64)
    assert torch.equal(fields[:3], -fields[3:]) and not torch.equal(fields[0], fields[1])
    wide = stabilise.cut(fields, (0, 0), (70, 150))
    assert torch.equal(stabilise.cut(fields, (60, 100), (10, 50)), wide[..., 60:, 100:])
    assert torch.equal(wide[..., 64:, :], wide[..., :6, :])
    plain = stabilise.cut(stabilise.whitening_noise(PoissonGaussian(1.0)), (3, 4), (20, 30))
    assert torch.equal(plain, torch.zeros(1, 1, 20, 30))


def test_white_noise_is_denoised_as_without_a_transform_but_for_its_local_mean():
    noisy = MODELS["white"].sample(CLEAN, generator=generator(4))
    plain = profound.denoise(mptpn.load("small"), noisy).detach()
    plain += gaussian_blur(noisy - plain, sigma=predictor.BRIGHTNESS)
    assert torch.allclose(denoised(noisy, MODELS["white"]), plain, atol=2e-3 * 0.1)


def test_an_outlier_moves_no_local_mean():
    noisy = MODELS["white"].sample(CLEAN, generator=generator(4))
    hot = noisy.clone()
    hot[..., 64, 64] += 1000.0
    near = torch.zeros_like(hot, dtype=torch.bool)
    near[..., 44:85, 44:85] = True
    own = predictor_of(mptpn.load("small"), MODELS["white"], [masked_image(noisy[0, 0].numpy(), None, 1.0)])
    change = (own.mean(noisy) - own.mean(hot)).abs()
    assert change[~near].quantile(0.99) < 0.02 * 0.1


@pytest.mark.parametrize(
    ("model", "gain"),
    [
        (CorrelatedGaussian(PoissonGaussian(0.08), BLURRED), 3.0),
        (EMCCD(0.02, gain=0.08, read=0.3), 0.5),
        (Rician(0.08), 0.5),
    ],
)
def test_knowing_the_noise_model_is_worth_decibels(model, gain):
    noisy = model.sample(CLEAN, generator=generator(5))
    with torch.no_grad():
        plain = metrics.psnr_db(profound.denoise(mptpn.load("small"), noisy), CLEAN)
    assert metrics.psnr_db(denoised(noisy, model), CLEAN) > plain + gain


def test_gain_and_offset_of_the_image_change_nothing():
    noisy = CorrelatedGaussian(PoissonGaussian(0.1), SHARPENED).sample(CLEAN, generator=generator(6))
    first = denoised(noisy, CorrelatedGaussian(PoissonGaussian(0.1), SHARPENED))
    moved = denoised(400 * noisy - 1000, CorrelatedGaussian(PoissonGaussian(40.0), SHARPENED))
    assert torch.allclose((moved + 1000) / 400, first, atol=1e-3)
