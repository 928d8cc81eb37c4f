"""mptpn.denoise: any array in, the same kind of array out, with its uncertainty, its noise and a judgement."""

import json
import shutil
import warnings
from importlib.resources import files

import numpy as np
import pytest
import torch

import mptpn
from mptpn import tiling
from mptpn.api import Denoised, denoise, estimate_noise
from mptpn.filters import robust_level
from mptpn.inference import NoisyImages, load_network
from mptpn.inference.masks import constant_areas, inpaint
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import save_weights
from mptpn.noise import CorrelatedGaussian, PoissonGaussian
from mptpn.random import generator
from mptpn.stages import pipeline, profound
from mptpn.training import loop

TINY = {"width": 8, "depth": 1, "local_means": (3, 5, 7)}
STUDENT = pipeline.STUDENT | {"widths": (16, 16), "blocks": 1, "intervals": ((1,), (1,)), "window": 4}
SIGMA = 12.0
PAIR = ((0.0, 0.0, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 0.0))
KINDS = ("blind", "student")


def scene(height: int = 90, width: int = 111) -> np.ndarray:
    rows, cols = np.mgrid[:height, :width]
    return 120 + 50 * np.sin(rows / 15) * np.cos(cols / 19) + 30 * ((rows // 30 + cols // 37) % 2)


def noisy(height: int = 90, width: int = 111, *, key: int = 0) -> np.ndarray:
    return scene(height, width) + SIGMA * np.random.default_rng(key).normal(size=(height, width))


def correlated() -> np.ndarray:
    clean = torch.from_numpy(scene(120, 150)).float()[None, None]
    model = CorrelatedGaussian(PoissonGaussian(SIGMA), PAIR)
    return model.sample(clean, generator=generator(4))[0, 0].numpy()


def rms(array: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def result_of(model, array: np.ndarray, *, series=None, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    denoiser = NoisyImages.of(series or [array]).prepare(load_network(model))
    change, sigma = denoiser.predict(array).at(strength)
    return array + change, sigma


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of both kinds of network, trained for steps, not seconds: the same on every machine."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("weights")
    tensors = [torch.from_numpy(noisy(key=key) / 255).float()[None, None] for key in (1, 2)]
    noise, fabric = pipeline.estimate_set(tensors), loop.launch(threads=1)
    small = {"half_size": (0, 0), "network": TINY, "patch": 32}
    blind = pipeline.stage_1(tensors, noise=noise, steps=120, fabric=fabric, ema=0.9, **small)
    save_weights(out / "blind.safetensors", blind, arguments=blind.arguments)
    photos = [torch.from_numpy(scene(96, 96) / 255).float()[None, None]]
    pairs = pipeline.stage_2(tensors, photos, noise=noise, batch=4, patch=32)
    student = pipeline.stage_3(pairs, steps=150, fabric=fabric, network=STUDENT, ema=0.9)
    save_weights(out / "student.safetensors", student, arguments=student.arguments)
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_brings_the_image_nearer_to_the_truth_and_says_by_how_much(folder, kind):
    """A gain of 3 dB is half the noise's variance; the stated uncertainty is within a factor of two of the true error,
    of three for stage 1, whose small networks state too little.
    """
    y = noisy()
    result = denoise(y, model=folder / f"{kind}.safetensors")
    error, stated = rms(result.image - scene()), rms(result.uncertainty)
    assert isinstance(result, Denoised) and error < SIGMA / 2**0.5
    assert (0.5 if kind == "student" else 0.33) < stated / error < 2
    assert 0 < float(result.uncertainty.min()) and float(result.uncertainty.max()) < 1.2 * SIGMA
    best, (low, high) = result.psnr_gain
    assert low < 20 * np.log10(rms(y - scene()) / error) < high and low <= best <= high
    assert result.noise.sigma == pytest.approx(SIGMA, rel=0.1) and result.trust["size"].passed
    json.dumps(result.trust.as_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_strength_goes_from_the_input_to_the_posterior_mean(folder, kind):
    y = noisy()
    denoiser = NoisyImages.of([y]).prepare(load_network(folder / f"{kind}.safetensors"))
    prediction = denoiser.predict(y)
    (none, at_0), (half, at_half), (full, at_1) = (prediction.at(t) for t in (0.0, 0.5, 1.0))
    assert not none.any() and np.allclose(half, full / 2, atol=1e-6)
    noise = denoiser.noise.noise_model.variance(torch.from_numpy(y + full)).sqrt().numpy()
    assert np.allclose(at_0, noise, rtol=1e-4)
    assert np.allclose(at_half**2, at_1**2 + 0.25 * (at_0**2 - at_1**2), rtol=1e-4)
    assert np.array_equal(prediction.at(1.0)[1], at_1)  # reading it changes nothing


@pytest.mark.parametrize("number", [np.uint8, np.int16, np.int32, np.uint64, np.float16, np.float32, np.float64])
def test_the_type_and_shape_of_the_input_are_kept_and_strength_0_is_the_input(folder, number):
    y = np.clip(np.rint(noisy(47, 66)), 0, 255).astype(number)
    full, none = (denoise(y, model=folder / "blind.safetensors", strength=t) for t in (1.0, 0.0))
    assert full.image.dtype == none.image.dtype == y.dtype and full.image.shape == y.shape
    assert full.uncertainty.dtype == np.float32 and full.uncertainty.shape == y.shape
    assert np.array_equal(none.image, y) and not np.array_equal(full.image, y)


def test_integers_are_rounded_and_clipped_and_large_ones_lose_no_digit_where_nothing_moves(folder):
    y = np.clip(np.rint(noisy() + 80), 0, 255).astype(np.uint8)  # much of it at 255
    as_float, as_integer = (denoise(x, model=folder / "blind.safetensors").image for x in (y.astype(np.float32), y))
    assert np.array_equal(as_integer, np.clip(np.rint(as_float), 0, 255).astype(np.uint8))
    y = np.rint(noisy()).astype(np.int64) * 2**40 + 7
    y[:40, :50] = 2**62 + 1  # no float64
    valid = np.arange(90)[:, None] + np.zeros(111) >= 40
    result = denoise(y, model=folder / "blind.safetensors", valid=valid)
    assert np.array_equal(result.image[:40], y[:40]) and not np.array_equal(result.image[40:], y[40:])


@pytest.mark.slow
def test_learning_from_the_image_itself_denoises_it_and_does_not_see_the_padding():
    """A few dozen steps: less than 3 dB may be reached, more than 2.5 is."""
    y = np.where(np.arange(111) < 37, -2000.0, noisy())
    result = denoise(y, model="self", minutes=4 / 60)
    assert rms((result.image - scene())[:, 37:]) < 0.75 * SIGMA
    assert rms((result.image - scene())[:, 37:42]) < 0.85 * SIGMA


@pytest.mark.parametrize("settings", [{"model": "tiny"}, {"model": "self", "minutes": 0.001}, {"adapt": 0.1}])
def test_the_caller_s_own_random_numbers_stay_as_they_were(settings):
    before = torch.get_rng_state()
    denoise(noisy(112, 128), **settings)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_a_series_are_treated_alike(folder, kind):
    """The same image gives the same result whatever image of the series comes before it; alone it has another mean."""
    first, second, model = noisy(key=3), 0.8 * noisy(key=4), folder / f"{kind}.safetensors"
    denoiser = NoisyImages.of([first, second]).prepare(load_network(model))
    once = denoiser.predict(first).at()
    denoiser.predict(second)
    assert all(np.array_equal(a, b) for a, b in zip(once, denoiser.predict(first).at(), strict=True))
    assert not np.array_equal(first + once[0], result_of(model, first)[0])


def test_the_same_weights_by_name_by_path_and_from_python_give_the_same_result(tmp_path):
    """No behaviour by spelling: a copy under another name knows that it is for white noise."""
    y, own = correlated(), files("mptpn") / "weights" / "small.safetensors"
    shutil.copy(str(own), tmp_path / "mine.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ways = "small", str(own), tmp_path / "mine.safetensors", mptpn.load("small")
        first, *others = (denoise(y, model=way).image for way in ways)
    assert all(np.array_equal(first, other) for other in others)


def test_padding_does_not_change_the_level_and_is_given_back(folder):
    """A third of the image at -2000, found without a mask: the border is denoised as well as without the padding."""
    y, clean = noisy(120, 150), scene(120, 150)
    padded = np.where(np.arange(150) < 50, -2000.0, y)
    whole, cut = (denoise(x, model=folder / "blind.safetensors") for x in (padded, y[:, 50:].copy()))
    assert np.array_equal(whole.image[:, :50], padded[:, :50])
    # of 12 000: in float32 a correction is exactly 0 now and then
    assert (whole.image[:, 50:] == padded[:, 50:]).sum() <= 3
    assert whole.noise.sigma == pytest.approx(cut.noise.sigma, rel=0.05) == pytest.approx(SIGMA, rel=0.1)
    border = [rms(image - clean[:, 50:60]) for image in (whole.image[:, 50:60], cut.image[:, :10])]
    # 1200 errors: chance of their root mean square is 2 %, and what they share is less
    assert border[0] < 1.1 * border[1] and whole.trust["shift"].passed


def test_masked_pixels_come_back_untouched_even_nan_and_their_neighbours_do_not_notice(folder):
    y = noisy()
    valid = np.random.default_rng(5).random(y.shape) > 0.03
    valid[:30, :40] = False
    settings = {"model": folder / "student.safetensors", "valid": valid}
    first, second = (denoise(np.where(valid, y, other), **settings) for other in (np.nan, 4000.0))
    assert np.isnan(first.image[~valid]).all() and (second.image[~valid] == 4000).all()
    assert np.array_equal(first.image[valid], second.image[valid]) and np.isfinite(first.uncertainty).all()
    assert first.noise.sigma == pytest.approx(SIGMA, rel=0.1)


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_masked_pixels_that_lie_scattered_do_not_raise_the_level(share):
    """At 0.05 the level was 1.7 times too high, with edges around each of them."""
    y = noisy(128, 140)
    valid = np.random.default_rng(6).random(y.shape) >= share
    valid[100:, :30] = False
    assert estimate_noise(np.where(valid, y, np.nan), valid=valid).sigma == pytest.approx(SIGMA, rel=0.1)


def test_colour_is_denoised_channel_by_channel_and_alpha_and_a_constant_channel_stay(folder):
    clean = np.stack([scene(), 0.5 * scene(), scene()[::-1, ::-1]], -1)
    levels, random = np.array([6.0, 10.0, 14.0]), np.random.default_rng(9)
    alpha = random.integers(0, 256, scene().shape)
    y = np.clip(np.rint(clean + levels * random.normal(size=clean.shape)), 0, 255)
    image = np.concatenate([y, alpha[..., None]], -1).astype(np.uint8)
    result = denoise(image, model=folder / "blind.safetensors")
    assert result.image.dtype == np.uint8 and result.image.shape == image.shape == result.uncertainty.shape
    assert np.array_equal(result.image[..., 3], alpha) and not result.uncertainty[..., 3].any()
    for i in range(3):
        assert rms(result.image[..., i] - clean[..., i]) < 0.8 * levels[i]
        assert result.uncertainty[..., i].max() < 1.3 * levels[i]
    assert {check.name.split()[-1] for check in result.trust.checks} == {"0", "1", "2"}
    gray = np.repeat(image[..., :1], 3, 2)
    gray[..., 2] = 7
    assert (denoise(gray, model=folder / "blind.safetensors").image[..., 2] == 7).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40)), "constant"),
        (np.ones((5, 7)), "5 x 7 pixels are too few"),
        (np.zeros((0, 20)), "empty"),
        (np.where(np.eye(40) > 0, np.nan, 1.0), "40 of 1600 pixels are NaN"),
        (np.eye(40) > 0, "bool"),
        (np.eye(40) * 1j, "complex"),
        (np.zeros((4, 40, 40)), "list"),
        (np.zeros(40), "shape"),
        (None, "object"),
    ],
)
def test_what_cannot_be_denoised_is_refused_by_name(image, message):
    with pytest.raises(ValueError, match=message):
        denoise(image, model="self", minutes=0.01)


def test_wrong_settings_are_refused(folder):
    student = folder / "student.safetensors"
    too_little = "a memory of 1 MiB is too little, for the process holds [0-9]+ MiB already"
    for settings, message in (
        ({"strength": 1.5}, "strength 1.5"),
        ({"model": "self", "minutes": 0}, "minutes 0"),
        ({"valid": np.ones((3, 3), bool)}, "mask"),
        ({"model": student, "memory": 10**6}, too_little),
        ({"model": "colour"}, "three channels of colour, and this image has one"),
    ):
        with pytest.raises(ValueError, match=message):
            denoise(noisy(), **settings)
    with pytest.raises(FileNotFoundError, match="none.safetensors: no such weights file"):
        denoise(noisy(), model=folder / "none.safetensors")


Y = np.random.default_rng(0).normal(100, 10, (40, 41))


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        ("scan.dcm", {}, "^'scan.dcm': denoise takes an array; for files use `mptpn denoise`, or mptpn.io.open_scan"),
        ([Y] * 5, {}, "where it is a list of images, give each of them alone"),
        ([Y, Y[1:]], {}, "parts have different shapes"),
        (np.ma.masked_greater(Y, 110), {}, "a masked array: .* the mask as valid=~image.mask"),
        (Y, {"model": None}, "^model None: is no denoiser"),
        (Y, {"model": 3}, "^model 3: is no denoiser"),
        (Y, {"model": torch.nn.Linear(2, 2)}, "^model Linear.*: is no denoiser"),
        (Y, {"axes": 5}, "^axes 5: is no text; give one letter an axis"),
        (Y, {"channel_axis": "C"}, "^channel_axis 'C': is no whole number"),
        (Y, {"strength": "1"}, "^strength '1': is no number"),
        (Y, {"minutes": "3"}, "^minutes '3': is no number"),
        (Y, {"adapt": -1}, "^adapt -1: give a finite number of minutes above 0, or None"),
        (Y, {"memory": "1G"}, "^memory '1G': is no number; give bytes"),
        (Y, {"memory": -1}, "^memory -1: give a number of bytes above 0"),
        (Y, {"memory": np.nan}, "^memory nan: give a number of bytes above 0"),
        (Y, {"valid": Y > 1e9}, "no pixel is valid"),
        (Y, {"valid": (Y > 0).astype(int)}, "the mask is int64; give bool"),
    ],
)
def test_a_wrong_argument_is_named_in_one_sentence(image, settings, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        denoise(image, **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (np.stack([Y] * 3), {"channel_axis": 9}, r"^channel_axis 9 is no axis of a picture of shape \(3, 40, 41\)"),
        (Y, {"channel_axis": 9}, r"^channel_axis 9 is no axis of a picture of shape \(40, 41\)"),
        (Y, {"channel_axis": "C"}, "^channel_axis 'C': is no whole number"),
        (Y, {"sigma": "a"}, "^sigma 'a': is no number"),
        ("a.png", {}, "denoise takes an array"),
    ],
)
def test_denoise_image_names_a_wrong_argument(image, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mptpn.denoise_image(image, **settings)


@pytest.mark.parametrize("kind", [*KINDS, "small"])
def test_tiles_give_what_the_whole_image_gives(folder, kind, monkeypatch):
    """In tiles of at most 32 px; the added noise of `small` is one field, whatever the tiles. A halo of 128 px leaves
    the transformer of the package a little to see.
    """
    y = noisy(150, 203) if kind != "small" else np.tile(correlated(), (1, 2))[:, :260]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        denoiser = NoisyImages.of([y]).prepare(
            load_network("small" if kind == "small" else folder / f"{kind}.safetensors")
        )
    whole, sigma = denoiser.predict(y).at()
    sizes = []
    monkeypatch.setattr(tiling, "default_budget", lambda: 0)  # nothing is free
    monkeypatch.setattr(tiling, "tile_side", lambda *_, multiple, **__: sizes.append(multiple) or max(32, multiple))
    parts, in_parts = denoiser.predict(y).at()
    assert sizes and np.abs(parts - whole).max() < (0.05 * SIGMA if kind == "small" else 1e-3)
    assert rms(in_parts) == pytest.approx(rms(sigma), rel=1e-4 if kind == "blind" else 0.1)


def test_nothing_removed_is_loud(folder):
    """An untrained transformer is the identity: its last layer is 0."""
    save_weights(folder / "idle.safetensors", RetractableTransformer(**STUDENT), arguments=STUDENT)
    with pytest.warns(UserWarning, match="output equals the input"):
        result = denoise(noisy(), model=folder / "idle.safetensors")
    assert not result.trust["size"].passed and np.abs(result.image - noisy()).max() < 1e-3  # rounding of float32
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        denoise(noisy(), model=folder / "blind.safetensors")


def test_areas_of_one_value_are_padding_and_noise_is_not():
    y = torch.from_numpy(noisy(60, 71)).float()[None, None]
    assert not constant_areas(y).any()
    y[..., 20:29, 30:39] = 5.0
    y[..., 50:55, 3:8] = 6.0  # 5 x 5: could be chance
    wanted = torch.zeros_like(y, dtype=torch.bool)
    wanted[..., 20:29, 30:39] = True
    assert torch.equal(constant_areas(y), wanted)


def test_inpainting_continues_what_is_valid():
    y = torch.full((1, 1, 37, 50), 3.0)
    valid = torch.ones_like(y, dtype=torch.bool)
    valid[..., 5:30, 7:41] = False
    assert torch.allclose(inpaint(torch.where(valid, y, 99.0), valid), y)
    rough = inpaint(y, valid, noise_model=PoissonGaussian(0.5), generator=generator(1))
    assert torch.equal(rough[valid], y[valid]) and float(rough[~valid].std()) == pytest.approx(0.5, rel=0.1)


def test_a_network_that_does_not_fit_the_noise_is_loud():
    images = NoisyImages.of([correlated()])
    with pytest.warns(UserWarning, match="blind spot"):
        images.prepare(BlindSpotNetwork(**TINY).eval())
    with pytest.warns(UserWarning, match="is for white noise, and this noise is correlated"):
        images.prepare(mptpn.load("small"))


def test_a_pretrained_network_takes_correlated_noise_and_states_its_error():
    clean, y = scene(120, 150), correlated()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = denoise(y, model="small")
    with torch.no_grad():
        plain = profound.denoise(mptpn.load("small"), torch.from_numpy(y).float()[None, None])[0, 0].numpy()
    assert rms(result.image - clean) < 0.75 * rms(plain - clean) and rms(plain - clean) < SIGMA
    assert 0.4 < rms(result.uncertainty) / rms(result.image - clean) < 1.6


def test_a_pretrained_network_takes_noise_that_grows_with_intensity():
    clean, model = scene(120, 150), PoissonGaussian(3.0, gain=SIGMA**2 / 60, black=50.0)
    y = model.sample(torch.from_numpy(clean).float()[None, None], generator=generator(5))[0, 0].numpy()
    denoiser = NoisyImages.of([y]).prepare(mptpn.load("small"))
    stable = denoiser.predictor.transform(torch.from_numpy(y / denoiser.unit).float()[None, None])
    assert float(robust_level(stable)) == pytest.approx(1, rel=0.2)
    assert rms(y + denoiser.predict(y).at()[0] - clean) < 0.35 * rms(y - clean)


@pytest.mark.parametrize(("sigma", "below"), [(1, 3.0), (3, 2.5), (10, 2.0), (10, 2.5)])
@pytest.mark.parametrize("end", ["light", "dark"])
def test_level_beside_saturation_is_right_and_the_same_in_both_calls(sigma, below, end):
    y, x = np.mgrid[:256, :256]
    clean = 120 + 40 * np.sin(x / 40) * np.cos(y / 50)
    clean[:, :96] = 255 - below * sigma if end == "light" else below * sigma
    image = np.clip(np.rint(clean + np.random.default_rng(3).normal(0, sigma, clean.shape)), 0, 255).astype(np.uint8)
    images = NoisyImages.of([image])
    found, own = estimate_noise(image), images.estimate
    assert found.sigma == own.sigma == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("hot", [None, 4095, 65535])
def test_means_of_counted_photons_are_kept_whatever_one_hot_pixel_says(hot):
    clean = np.kron(np.array([[2.0, 5.0], [10.0, 20.0]]), np.ones((64, 64)))
    image = np.random.default_rng(11).poisson(clean).astype(np.float32)
    if hot:
        image[70, 20] = hot
    result = denoise(image, model="small")
    assert result.noise.kind == "poisson_gaussian" and result.image.min() >= 0
    for rows, cols in ((0, 0), (0, 64), (64, 0), (64, 64)):
        inside = (slice(rows + 10, rows + 54), slice(cols + 10, cols + 54))
        keep = image[inside] != hot
        level = clean[rows, cols]
        assert result.image[inside][keep].mean() == pytest.approx(image[inside][keep].mean(), abs=0.1 * level**0.5)


@pytest.mark.parametrize("sigma", [0.05, 0.1, 0.2])
def test_dark_background_of_a_magnitude_image_is_not_below_zero(sigma):
    y, x = np.mgrid[:160, :160]
    radius, random = np.hypot(y - 80, x - 80), np.random.default_rng(12)
    clean = np.select([radius < 25, radius < 50], [1.0, 0.6], 0.0)
    image = np.hypot(*(sigma * random.normal(size=(2, 160, 160)) + np.stack([clean, 0 * clean]))).astype(np.float32)
    result = denoise(image, model="small")
    assert result.noise.kind == "rician" and result.image.min() >= -1e-6  # the last digit of float32
    assert rms(result.image[radius > 58]) < 0.7 * rms(image[radius > 58])
