"""Training of the noise-level network: the noise drawn is the noise stated, the loss a likelihood."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from mptpn.filters import autocorrelation
from mptpn.networks.noise_level import (
    BANDS,
    LAGS,
    NoiseLevelNetwork,
    band_factors,
    band_squares,
    pretrained_noise_level,
)
from mptpn.random import generator
from mptpn.training import loop
from support import embedded, noise_level_training
from support.noise_level_training import QUARTERS, draw, errors, random_kernel

PHOTOS = [image.pixels for image in embedded.natural("val")]


@pytest.fixture(scope="module")
def network() -> NoiseLevelNetwork:
    return pretrained_noise_level()


def rounded(batch: dict) -> Tensor:
    levels = batch["noisy"] * 255
    return ((levels - levels.round()).abs() < 1e-3).flatten(1).all(1)


def test_training_noise_is_a_function_of_its_keys():
    first, again, other = (
        draw(PHOTOS, batch=4, patch=33, keys=keys) for keys in ((0, 211, 5), (0, 211, 5), (0, 211, 6))
    )
    assert all(torch.equal(first[key], again[key]) for key in first) and not any(
        torch.equal(first[key], other[key]) for key in first
    )
    assert [tuple(first[key].shape) for key in ("noisy", "variance", "factor")] == [
        (4, 1, 33, 33),
        (4, 1, 33, 33),
        (4, BANDS),
    ]


@pytest.fixture(scope="module")
def drawn() -> dict:
    """On flat photographs the noise is all there is; the background that is cut off stays flat."""
    return draw([torch.full((1, 1, 140, 150), 0.4)], batch=160, patch=48, keys=(5,))


def test_stated_variance_times_factor_is_the_energy_of_training_noise_in_every_band(drawn):
    """Over crops that are not rounded. Five standard errors of the crops' mean ratio, below 8 %; taken for white, the
    bands are further off.
    """
    noisy = drawn["noisy"][~rounded(drawn)]
    squares, counts = (torch.cat(x, 1) for x in zip(*band_squares(noisy, torch.ones_like(noisy)), strict=True))
    wanted = (counts * drawn["variance"][~rounded(drawn)]).sum((2, 3))  # a band sees no border
    ratio = squares.sum((2, 3)) / wanted / drawn["factor"][~rounded(drawn)]
    error = ratio.std(0) / len(ratio) ** 0.5
    assert len(noisy) > 100 and ((ratio.mean(0) - 1).abs() < 5 * error).all() and (5 * error < 0.08).all()
    as_white = squares.sum((2, 3)) / wanted
    assert ((as_white.mean(0) - 1).abs() > 5 * as_white.std(0) / len(ratio) ** 0.5).any()


def test_the_error_is_the_log_of_the_estimated_over_the_true_level(network):
    """A true variance four times as large moves each error by -log 2 exactly, and no precision."""
    batch = draw(PHOTOS, batch=3, patch=48, keys=(1,))
    error, precision = errors(network, batch)
    more, same = errors(network, batch | {"variance": 4 * batch["variance"]})
    assert error.shape == precision.shape == (3, BANDS, 1 + QUARTERS)
    # 1e-9 is added to the energies: 0.6 % of the least, noise of 2 / 255 in a band that holds 0.3 % of it
    torch.testing.assert_close(more, error - math.log(2), rtol=0, atol=0.006)
    assert torch.equal(same, precision)


def test_the_loss_is_the_likelihood_of_students_t(network):
    batch = draw(PHOTOS, batch=3, patch=48, keys=(3,))
    error, precision = (x.detach().double() for x in errors(network, batch))
    density = torch.from_numpy(stats.t.logpdf((error * precision.sqrt()).numpy(), 4)) + 0.5 * precision.log()
    wanted = -(density - float(stats.t.logpdf(0, 4))) * torch.tensor([2.0, 1, 1, 1, 1])
    assert noise_level_training.loss(network, batch).item() == pytest.approx(float(wanted.mean()), rel=1e-4)


@pytest.mark.slow
def test_calibration_takes_off_the_bias_that_it_finds(monkeypatch):
    """True levels that are all 10 % lower than stated are a bias of 10 % more; it is found to the last digit, and comes
    off the energies.
    """
    net, noisy = pretrained_noise_level(), torch.randn(1, 1, 40, 40, generator=generator(2))
    settings = {"photos": PHOTOS, "batches": 3, "seed": 4}
    first, before, energy = noise_level_training.calibrate(net, **settings), net.log_bias.clone(), net(noisy)[1]
    monkeypatch.setattr(
        noise_level_training,
        "draw",
        lambda *args, **kwargs: (batch := draw(*args, **kwargs)) | {"variance": batch["variance"] / 1.21},
    )
    again = noise_level_training.calibrate(net, **settings)
    # 1e-9 is added to the variances
    torch.testing.assert_close(net.log_bias, before + math.log(1.1), rtol=0, atol=1e-3)
    torch.testing.assert_close(net(noisy)[1], energy / 1.21, rtol=2e-3, atol=0)
    assert again["largest_bias"] == pytest.approx(float((before + math.log(1.1)).abs().max()), abs=1e-3)
    assert again["spread"] == pytest.approx(first["spread"], rel=1e-2) and again["tail"] == pytest.approx(
        first["tail"], rel=1e-2
    )


@pytest.mark.slow
def test_stated_errors_of_the_pretrained_network_hold_what_they_say(network):
    """On photographs, crops and draws that it never saw: 68 % of the errors within one stated error, 95 % within `tail`
    of them. 24 images x 27 bands x 5 parts depend on each other within an image: 24 independent shares of spread 0.25
    have a mean within 0.15 of the truth (three standard errors).
    """
    with torch.no_grad():
        error, precision = errors(network, draw(PHOTOS, batch=24, patch=128, keys=(77,)))
    scores = (error.abs() * precision.sqrt())[precision > 25]
    assert scores.numel() > 1000
    assert (
        abs(float((scores < 1).float().mean()) - 0.68) < 0.15
        and abs(float((scores < network.tail).float().mean()) - 0.95) < 0.05
    )


@pytest.mark.slow
def test_a_short_training_teaches_what_is_noise():
    """Eighty small steps: the loss on 48 crops of photographs that it does not see falls."""
    torch.manual_seed(0)
    net, held_out = NoiseLevelNetwork(width=16), draw(PHOTOS, batch=48, patch=64, keys=(8,))
    with torch.no_grad():
        before = noise_level_training.loss(net, held_out).item()
    noise_level_training.train(
        net,
        [image.pixels for image in embedded.natural("train")],
        steps=80,
        batch=4,
        patch=64,
        fabric=loop.launch(threads=1),
    )
    with torch.no_grad():
        assert noise_level_training.loss(net, held_out).item() < before - 0.3


def test_kernels_have_unit_energy_and_correlate_from_hardly_to_much():
    kernels = [random_kernel(generator(13, key)) for key in range(200)]
    assert all(
        kernel.shape == (9, 9) and float(kernel.square().sum()) == pytest.approx(1, abs=1e-5) for kernel in kernels
    )
    neighbours = torch.stack([1 - band_factors(autocorrelation(kernel))[1 + LAGS.index((0, 1))] for kernel in kernels])
    assert neighbours.min() < -0.05 and neighbours.quantile(0.1) < 0.1 and neighbours.max() > 0.75
