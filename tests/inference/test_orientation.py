"""A turned or mirrored image gives the turned or mirrored result."""

import numpy as np
import pytest
import torch

import mptpn
from mptpn import filters
from mptpn.inference import NoisyImages, orientation
from mptpn.noise import CorrelatedGaussian, PoissonGaussian

TURNS = range(8)


def scene(*, correlated: bool, height: int = 90, width: int = 131) -> np.ndarray:
    """A bright disc off the middle under noise of standard deviation 10."""
    random = np.random.default_rng(3)
    row, column = np.mgrid[:height, :width]
    noise = random.normal(0, 10, (height, width))
    if correlated:
        noise = (noise + 0.8 * np.roll(noise, 1, 1)) / 1.28
    return 60 + 80.0 * (np.hypot(row - 30, column - 85) < 22) + noise


@pytest.mark.parametrize("correlated", [False, True])
def test_the_result_of_a_turned_image_is_the_turned_result(correlated):
    """To 1e-4 of the noise's standard deviation: the sums of the moments may round otherwise."""
    image = scene(correlated=correlated)
    valid = np.ones(image.shape, bool)
    valid[:12] = False
    first = mptpn.denoise(image, valid=valid)
    for turn in (1, 3, 6):
        seen = (orientation.turned(x, turn) for x in (image, valid))
        found = mptpn.denoise(next(seen), valid=next(seen))
        for name in ("image", "uncertainty"):
            expected = orientation.turned(getattr(first, name), turn)
            assert np.abs(getattr(found, name) - expected).max() < 1e-3
        assert found.noise.correlation.numpy() == pytest.approx(
            orientation.turned(first.noise.correlation.numpy(), turn), abs=1e-5
        )
        assert found.noise.half_size == (first.noise.half_size[::-1] if turn % 2 else first.noise.half_size)


def test_findings_name_the_axis_of_the_image_not_of_the_turned_one():
    image = scene(correlated=True)
    for turn in TURNS:
        found = mptpn.estimate_noise(np.ascontiguousarray(orientation.turned(image, turn)))
        words = next(finding for finding in found.findings if "correlate" in finding)
        down, across = (float(found.correlation[lag]) for lag in ((4, 3), (3, 4)))
        assert f"{down:.2f} down, {across:.2f} across" in words
        assert (across > down + 0.2) == (turn % 2 == 0)


@pytest.mark.parametrize("turn", TURNS)
def test_arrays_tensors_and_places_turn_alike_and_back(turn):
    image = np.arange(35).reshape(5, 7)
    seen = orientation.turned(image, turn)
    assert np.array_equal(seen, filters.turned(torch.from_numpy(image), turn).numpy())
    assert np.array_equal(orientation.turned_back(seen, turn), image)
    assert np.array_equal(filters.turned_back(torch.from_numpy(seen.copy()), turn).numpy(), image)
    place = (slice(1, 3), slice(2, 5))
    back = orientation.place_back(place, seen.shape, turn)
    assert np.array_equal(orientation.turned(image[back], turn), seen[place])


def test_every_turn_of_an_image_is_brought_into_one_orientation():
    image = scene(correlated=False)
    brought = [orientation.turned(image, turn) for turn in TURNS]
    brought = [orientation.turned(x, orientation.orientation([x], [None])) for x in brought]
    assert all(np.array_equal(x, brought[0]) for x in brought)


def test_gain_offset_and_masked_nan_do_not_change_the_orientation():
    image = scene(correlated=False)
    valid = np.ones(image.shape, bool)
    valid[:, :20] = False
    expected = orientation.orientation([image], [valid])
    masked = np.where(valid, 1e-6 * image + 1e3, np.nan)
    assert orientation.orientation([masked], [valid]) == expected


def test_the_correlation_of_a_noise_model_turns_with_its_images():
    """Neighbours across correlate by 0.4, neighbours down by 0.1; a quarter turn swaps them."""
    lags = torch.zeros(3, 3, dtype=torch.float64)
    lags[1, 1], lags[1, 0], lags[1, 2], lags[0, 1], lags[2, 1] = 1, 0.4, 0.4, 0.1, 0.1
    model = CorrelatedGaussian(PoissonGaussian(1.0), lags)
    assert model.turned_back(1).correlation[1] == (0.1, 1.0, 0.1)
    assert model.turned_back(2) == model and model.pointwise.turned_back(1) == model.pointwise


def test_tiles_lie_where_they_lie_in_the_image():
    image = scene(correlated=False, height=70, width=110)
    denoiser = NoisyImages.of([image]).prepare()
    whole = denoiser.predict(image, uncertainty=False).at()[0]
    out = np.zeros_like(whole)
    for place, part in denoiser.tiles(image, uncertainty=False):
        out[place] = part.at()[0]
    assert denoiser.turn != 0 and np.array_equal(out, whole)
