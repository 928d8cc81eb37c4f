"""Fine texture is not taken away as if it were noise, and noise is taken away as before."""

import numpy as np
import pytest
import skimage.data
import torch
from scipy import ndimage

import mptpn
from mptpn.inference import NoisyImages, assess
from mptpn.inference.texture import NOISE, TEXTURE, applied_share, check_texture
from mptpn.metrics import psnr_db
from mptpn.networks.noise_share import SMALLEST, NoiseShareNetwork, pretrained_noise_share
from mptpn.random import generator


def photograph(name: str, side: int = 256) -> np.ndarray:
    image = getattr(skimage.data, name)().astype(float)
    image = image if image.ndim == 2 else image[..., :3] @ [0.299, 0.587, 0.114]
    return image[:side, :side]


def noise(shape: tuple[int, int], *, sigma: float, blur: float = 0.0, seed: int = 0) -> np.ndarray:
    field = np.random.default_rng(seed).standard_normal(shape)
    field = ndimage.gaussian_filter(field, blur, mode="wrap") if blur else field
    return sigma * field / field.std()


def gain(noisy: np.ndarray, clean: np.ndarray) -> tuple[float, mptpn.inference.Assessment]:
    """Gain in PSNR of the product's own result, dB, and what it says."""
    denoiser = NoisyImages.of([noisy]).prepare()
    prediction = denoiser.predict(noisy, uncertainty=False)
    found = assess(denoiser, noisy, prediction)
    result, _ = prediction.applied(noisy, found.share)
    before, after = (np.mean((x - clean) ** 2) for x in (noisy, result))
    return 10 * np.log10(before / after), found


@pytest.mark.parametrize("name", ["camera", "brick", "coffee", "coins"])
@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_a_photograph_with_hardly_any_noise_is_not_harmed(name, sigma):
    clean = photograph(name)
    gained, found = gain(clean + noise(clean.shape, sigma=sigma), clean)
    assert gained > -0.1
    assert found.share < 1


def test_an_image_without_noise_stays_as_it_is_and_the_report_says_why():
    clean = photograph("camera")
    with pytest.warns(UserWarning, match="fine texture: the image stays as it is"):
        result = mptpn.denoise(clean)
    np.testing.assert_array_equal(result.image, clean)
    assert result.psnr_gain is None and not result.trust["texture"].passed


@pytest.mark.parametrize("blur", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("name", ["camera", "coffee"])
def test_noise_on_a_photograph_is_taken_away(name, blur):
    clean = photograph(name)
    gained, found = gain(clean + noise(clean.shape, sigma=25, blur=blur), clean)
    assert found.quality["texture"].passed and gained > 2


@pytest.mark.parametrize("blur", [0.0, 0.5, 1.0, 1.5])
def test_pure_noise_is_noise(blur):
    image = 100 + noise((200, 150), sigma=10, blur=blur)
    _, found = gain(image, np.full(image.shape, 100.0))
    assert found.quality["texture"].passed and found.quality["texture"].value > 0.9


def test_the_share_does_not_depend_on_unit_or_orientation():
    clean = photograph("brick")
    noisy = clean + noise(clean.shape, sigma=0.5)
    first = gain(noisy, clean)[1].quality["texture"].value
    for other in (1000 * noisy, noisy[::-1], noisy.T):
        assert gain(other, clean)[1].quality["texture"].value == pytest.approx(first, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "applied"),
    [
        (1.0, 1.0),
        (NOISE, 1.0),
        ((NOISE + TEXTURE) / 2, (NOISE - TEXTURE) / 2 / (1 - TEXTURE)),
        (TEXTURE, 0.0),
        (0.1, 0.0),
    ],
)
def test_less_is_applied_where_the_share_is_smaller(value, applied):
    image, ones = torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 40, 40)
    check = check_texture(image, image, variance=ones, valid=ones > 0)  # too small to be judged
    assert check.passed and applied_share(check) == 1
    assert applied_share(type(check)("texture", value, NOISE, value >= NOISE, "")) == pytest.approx(applied)


def test_the_network_does_not_see_the_level_of_the_residual():
    network, random = pretrained_noise_share(), generator(0, "residual")
    residual, denoised = (torch.randn(2, 1, SMALLEST, 60, generator=random) for _ in range(2))
    torch.testing.assert_close(network(residual, denoised), network(7 * residual, denoised), atol=1e-4, rtol=0)
    assert network(residual, denoised).shape == (2,)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 1, 47, 60), (1, 1, 47, 60)), ((1, 1, 50, 50), (1, 1, 50, 51)), ((1, 2, 50, 50),) * 2]
)
def test_other_shapes_are_refused(first, second):
    with pytest.raises(ValueError, match="sides of at least 48 px"):
        NoiseShareNetwork()(torch.zeros(first), torch.zeros(second))


def test_a_perfect_result_keeps_its_noise_share():
    """<n, r> / <r, r> is 1 where the residual is the noise: the network knows it on content that it has not seen."""
    clean = torch.from_numpy(photograph("coffee"))[None, None].float()
    added = torch.from_numpy(noise((256, 256), sigma=12)).float()[None, None]
    denoised = ndimage.gaussian_filter(clean[0, 0].numpy(), 1.0)
    found = check_texture(
        clean + added, clean, variance=torch.full_like(clean, 144.0), valid=torch.ones_like(clean) > 0
    )
    blurred = torch.from_numpy(denoised)[None, None]
    lost = check_texture(clean, blurred, variance=torch.full_like(clean, 144.0), valid=torch.ones_like(clean) > 0)
    assert found.value > NOISE > TEXTURE > lost.value and psnr_db(blurred, clean, peak=255.0) < 40


@pytest.mark.parametrize("peak", [0.5, 2.0])
def test_an_empty_background_does_not_hold_back_the_change_of_few_photons(peak):
    """The change of a background without a photon is no noise: judged with it, the image would stay as it is."""
    rows, cols = np.mgrid[:192, :192]
    clean = peak * np.select([np.hypot(rows - 96, cols - 90) < radius for radius in (30, 60)], [1.0, 0.6], 0.0)
    noisy = np.random.default_rng(39).poisson(clean).astype(np.float32)
    found = mptpn.denoise(noisy)
    assert np.mean((found.image - clean) ** 2) < 0.1 * np.mean((noisy - clean) ** 2)


def body(seed: int) -> np.ndarray:
    """A section in HU with organs, in air, smoothed by 0.6 px."""
    rows, columns = np.mgrid[:200, :200].astype(float)
    random, image = np.random.default_rng(seed + 50), np.full(rows.shape, -1000.0)
    image[((rows - 100) / 75) ** 2 + ((columns - 100) / 88) ** 2 < 1] = 40
    for _ in range(8):
        (row, column), size = random.uniform(50, 150, 2), random.uniform(5, 18)
        organ = ((rows - row) / size) ** 2 + ((columns - column) / size / 1.3) ** 2 < 1
        image[organ] = random.choice([-800, -90, 60, 120, 700])
    return ndimage.gaussian_filter(image, 0.6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("sigma", [0.0, 0.2, 0.5])
def test_an_image_without_noise_among_constant_areas_stays(seed, sigma):
    image = body(seed)
    stored = np.rint(image + sigma * np.random.default_rng(1).standard_normal(image.shape)).astype(np.int16)
    found = mptpn.denoise(stored)
    assert (found.image == stored).all() and found.psnr_gain is None
