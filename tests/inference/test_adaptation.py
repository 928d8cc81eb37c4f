"""A pretrained network that is adapted to noisy images: never worse by its own estimate, the same bytes each time."""

import warnings

import numpy as np
import pytest
import torch

import mptpn
from mptpn.__main__ import main
from mptpn.inference import NoisyImages, adaptation
from mptpn.inference.adaptation import adapt
from mptpn.inference.colour import prepare
from mptpn.inference.predictor import turned_told

ROWS, COLS = np.mgrid[:112, :128]
CLEAN = 100 + 60 * (((ROWS - 50) ** 2 + (COLS - 60) ** 2) < 900) + 20 * np.sin(COLS / 9)


def noisy(seed=0, *, correlated=False):
    noise = np.random.default_rng(seed).normal(0, 20, CLEAN.shape)
    if correlated:
        noise = (noise + np.roll(noise, 1, 1) + np.roll(noise, 1, 0)) / 3**0.5
    return CLEAN + noise


def error(denoiser, image):
    return float(((denoiser.predict(image, uncertainty=False).applied(image)[0] - CLEAN) ** 2).mean())


@pytest.mark.parametrize("correlated", [False, True])
def test_an_adapted_denoiser_is_not_worse_and_the_same_each_time(correlated):
    image = noisy(correlated=correlated)
    images = NoisyImages.of([image])
    start = images.prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [adapt(images, start, minutes=0.2, seed=0) for _ in range(2)]
    assert error(found[0], image) <= 1.005 * error(start, image)
    first, second = (one.predict(image).denoised for one in found)
    assert torch.equal(first, second)
    assert not torch.equal(first, start.predict(image).denoised)


def test_only_the_gains_of_the_normalisations_learn():
    images = NoisyImages.of([noisy()])
    start = images.prepare()
    kept = {name: x.clone() for name, x in start.predictor.network.state_dict().items()}
    after = adapt(images, start, minutes=0.2).predictor.network.state_dict()
    moved = {name for name, x in after.items() if not torch.equal(x, kept[name])}
    assert moved and all(name.endswith("norm.weight") for name in moved)
    assert all(torch.equal(x, kept[name]) for name, x in start.predictor.network.state_dict().items())


def test_a_network_that_learned_nothing_stays_and_it_is_said(monkeypatch):
    images = NoisyImages.of([noisy()])
    start = images.prepare()
    monkeypatch.setattr(adaptation, "RATE", 10.0)
    with pytest.warns(UserWarning, match="did not lower the estimated error"):
        found = adapt(images, start, minutes=0.2)
    assert found.predictor.network is start.predictor.network


def test_the_mean_over_orientations_turns_with_the_image():
    told = torch.zeros(1, 2, 3, 7, 7)
    told[0, 1, 2, 3, 4] = 1.0  # one to the right, in the lower right cell
    turned = turned_told(told, 1)
    assert turned.shape == (1, 3, 2, 7, 7)
    assert turned[0, 0, 1, 2, 3] == 1.0  # one up, in the upper right cell


@pytest.mark.parametrize(
    "given, words",
    [
        ({"adapt": 0}, "^adapt 0"),
        ({"adapt": float("nan")}, "^adapt nan"),
        ({"adapt": 1, "model": "self"}, "learns from the images already"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        mptpn.denoise(noisy(), **given)


def test_networks_and_images_that_cannot_be_adapted_are_refused():
    with pytest.raises(ValueError, match="too few pixels to adapt to"):
        mptpn.denoise(noisy()[:64, :64], adapt=1)
    colour = np.stack([noisy(seed) for seed in range(3)], -1)
    with pytest.raises(ValueError, match="three channels at once"):
        mptpn.denoise(colour, adapt=1)
    correlated = NoisyImages.of([noisy(correlated=True)])
    with pytest.raises(ValueError, match="not told"):
        prepare([correlated], mptpn.load("small"), adapting=1.0)


def test_a_file_is_refused_in_one_sentence(tmp_path, capsys):
    np.save(tmp_path / "small.npy", noisy()[:64, :64].astype(np.float32))
    code = main(["denoise", str(tmp_path / "small.npy"), "--out", str(tmp_path / "out"), "--adapt", "1"])
    err = capsys.readouterr().err
    assert code == 1 and "too few pixels to adapt to" in err and "Traceback" not in err
