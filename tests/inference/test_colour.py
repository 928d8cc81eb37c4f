"""Three channels at once where their noise allows it."""

import numpy as np
import pytest
from skimage import data

import mptpn
from mptpn import metrics, tiling
from mptpn.inference import colour, orientation
from mptpn.inference.colour import ColourPredictor

SIGMA = 25.0


def photograph() -> np.ndarray:
    return data.astronaut()[40:168, 160:320].astype(np.float64)


def noisy(clean: np.ndarray, *, levels=(SIGMA, SIGMA, SIGMA), shared: float = 0.0) -> np.ndarray:
    """White noise of each channel's level; shared: its correlation between channels."""
    random = np.random.default_rng(1)
    own, common = random.normal(size=clean.shape), random.normal(size=clean.shape[:2] + (1,))
    return clean + np.array(levels) * ((1 - shared) ** 0.5 * own + shared**0.5 * common)


def prepared(image: np.ndarray):
    planes = [image[..., i] for i in range(3)]
    return colour.prepare(colour.of_groups([[(plane, None)] for plane in planes], size=3))


def psnr(image: np.ndarray, clean: np.ndarray) -> float:
    return metrics.psnr_from_mse(float(np.mean((image - clean) ** 2)), peak=255)


def test_three_channels_at_once_gain_half_a_decibel_over_one_by_one():
    clean = photograph()
    image = noisy(clean)
    together = mptpn.denoise(image).image
    alone = np.stack([mptpn.denoise(image[..., i]).image for i in range(3)], -1)
    assert psnr(together, clean) > psnr(alone, clean) + 0.5


@pytest.mark.parametrize(
    "image",
    [
        noisy(photograph(), shared=0.5),
        noisy(photograph(), levels=(8, 40, 8)),
        np.repeat(noisy(photograph())[..., :1], 3, -1),
    ],
    ids=["shared noise", "unequal levels", "gray as colour"],
)
def test_channels_whose_noise_is_shared_or_unequal_are_denoised_one_by_one(image):
    assert not any(isinstance(one.predictor, ColourPredictor) for one in prepared(image))


def test_tiles_give_what_the_whole_image_gives(monkeypatch):
    image = noisy(photograph())
    planes = [(image[..., i], None) for i in range(3)]
    denoisers = colour.beside(prepared(image), planes)
    assert all(isinstance(one.predictor, ColourPredictor) for one in denoisers)
    whole = [one.predict(plane, uncertainty=False).at()[0] for one, (plane, _) in zip(denoisers, planes, strict=True)]
    monkeypatch.setattr(tiling, "default_budget", lambda: 0)
    monkeypatch.setattr(tiling, "tile_side", lambda *_, multiple, **__: max(32, multiple))
    parts = [one.predict(plane, uncertainty=False).at()[0] for one, (plane, _) in zip(denoisers, planes, strict=True)]
    assert np.abs(np.array(whole) - np.array(parts)).max() < 0.05 * SIGMA  # the halo is 128 px


def test_a_turned_colour_image_gives_the_turned_result():
    image = noisy(photograph())
    first = mptpn.denoise(image).image
    for turn in (1, 4):
        seen = np.stack([orientation.turned(image[..., i], turn) for i in range(3)], -1)
        expected = np.stack([orientation.turned(first[..., i], turn) for i in range(3)], -1)
        assert np.abs(mptpn.denoise(seen).image - expected).max() < 1e-3 * SIGMA


def test_a_masked_rim_changes_little_beside_it_and_stays():
    image = noisy(photograph())
    valid = np.ones(image.shape[:2], bool)
    valid[:, :24] = False
    found = mptpn.denoise(image, valid=valid).image
    assert np.array_equal(found[:, :24], image[:, :24])
    assert np.abs(found - mptpn.denoise(image).image)[:, 60:].mean() < 0.1 * SIGMA


def test_the_colour_network_refuses_gray_images_and_correlated_noise():
    with pytest.raises(ValueError, match="three channels of colour, and this image has one"):
        mptpn.denoise(noisy(photograph())[..., 0], model="colour")
    image = noisy(photograph())
    with pytest.raises(ValueError, match="this noise is correlated"):
        mptpn.denoise((image + np.roll(image, 1, 1)) / 2, model="colour")
