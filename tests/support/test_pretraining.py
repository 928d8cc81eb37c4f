"""Training of the blind denoisers of the package: a colour network starts as the gray one that it comes from."""

import pytest
import torch

from mptpn.networks import load
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support.pretraining import in_colour


def test_a_colour_network_starts_by_denoising_the_mean_of_the_channels_as_the_gray_one_does():
    """With noise of one level in each channel; differences between the channels pass as they are. Odd sizes, so that
    pixels are padded.
    """
    gray = load("small")
    network = in_colour(gray).eval()
    noisy = PoissonGaussian(0.25).sample(
        torch.nn.functional.interpolate(torch.rand(1, 3, 7, 8, generator=generator(6)), size=(51, 70)),
        generator=generator(7),
    )
    mean, root = noisy.mean(1, keepdim=True), 3**0.5
    with torch.no_grad():
        found, expected = network(noisy), gray(mean * root) / root
    torch.testing.assert_close(found - found.mean(1, keepdim=True), noisy - mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.mean(1, keepdim=True), expected, rtol=0, atol=1e-5)
    assert network.arguments == gray.arguments | {"channels": 3} and (expected - mean).std() > 0.05
    with pytest.raises(ValueError, match="for 3 channels cannot start one for colour"):
        in_colour(network)
