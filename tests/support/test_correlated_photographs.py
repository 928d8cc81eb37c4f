"""Pairs that the told network learns from: noise of known power, told as the package would measure it."""

import pytest
import torch

from mptpn.noise.bands import bands_of, measure, pretrained_network
from mptpn.noise.correlation import correlation_map
from mptpn.random import generator
from mptpn.stages.profound import UNIT
from support import embedded
from support.correlated_photographs import CorrelatedPhotographs, random_power, structures, told

PHOTOS = [image.pixels for image in embedded.natural("train") if min(image.pixels.shape[2:]) >= 128]


def measured(power: torch.Tensor, seed: int) -> torch.Tensor:
    white = torch.randn(512, 512, generator=generator(seed, "white"))
    noise = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    return correlation_map(bands_of([measure(noise[None, None])], network=pretrained_network()))[0].float()


def test_what_is_told_is_what_the_package_measures():
    """Of noise of very long range the package finds less."""
    errors = []
    for seed in range(12):
        power = random_power(512, generator(seed))
        correlation, share = told(power)
        errors.append(float((measured(power, seed) - correlation).abs().max()))
        assert power.mean().item() == pytest.approx(1.0, rel=1e-4) and 0.3 < share < 1.3
    assert sorted(errors)[9] < 0.05


def test_batches_are_a_function_of_seed_and_step_and_their_noise_has_the_told_level():
    pairs = CorrelatedPhotographs(PHOTOS, batch=3, patch=64)
    first, again, other = pairs(5), CorrelatedPhotographs(PHOTOS, batch=3, patch=64)(5), pairs(6)
    assert all(torch.equal(first[name], again[name]) and not torch.equal(first[name], other[name]) for name in first)
    assert first["noisy"].shape == (3, 1, 64, 64) and first["correlation"].shape == (3, 7, 7)
    levels = torch.cat([(pairs(i)["noisy"] - pairs(i)["clean"]).flatten(1).std(1) for i in range(20)])
    assert levels.median().item() == pytest.approx(UNIT, rel=0.1)
    assert torch.allclose(first["correlation"], first["correlation"].flip(1, 2))


def test_structures_are_small_and_of_either_sign():
    drawn = torch.stack([structures(96, generator(seed)) for seed in range(30)])
    assert drawn.amax() > 1 and drawn.amin() < -1 and (drawn.abs() > 0.2).float().mean() < 0.3
