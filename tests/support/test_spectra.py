"""The radial spectrum: flat for white noise, that of the content where noise is taken off."""

import math

import pytest
import torch

from mptpn.filters import gaussian_blur
from mptpn.random import generator
from support.spectra import radial_spectrum


@pytest.mark.parametrize("side", [32, 33])
def test_white_noise_has_a_flat_spectrum(side):
    frequency, power = radial_spectrum(torch.randn(200, 1, side, side, generator=generator(7)))
    assert frequency[0] == pytest.approx(1 / side) and frequency[-1] <= 0.5 and len(power) == side // 2
    # a ring of r cycles has about pi r independent values a patch (the taper ties neighbours together, twofold);
    # centring takes a part of the first
    for r, value in list(enumerate(power, 1))[1:]:
        assert abs(value - 1) < 5 * (2 / (math.pi * r * 200)) ** 0.5 + 0.02


def test_noise_taken_off_leaves_the_spectrum_of_the_content():
    content = torch.cat(
        [gaussian_blur(torch.randn(1, 1, 32, 32, generator=generator(9, i)), sigma=1.0) for i in range(300)]
    )
    noisy = content + 0.2 * torch.randn(content.shape, generator=generator(10))
    expected, found, raw = (
        torch.tensor(radial_spectrum(x, noise_variance=v)[1]) for x, v in ((content, 0.0), (noisy, 0.04), (noisy, 0.0))
    )
    # shares of a variance of about 0.08; 300 patches know each ring to about 3 %, of the noise's power (0.5 of the
    # content's mean) too
    assert (found - expected).abs().max() < 0.15 < (raw - expected).abs().max()
