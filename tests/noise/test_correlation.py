"""Correlation from band energies, and the blind spot that it requires."""

import math

import numpy as np
import pytest
import torch

from mptpn.filters import autocorrelation
from mptpn.networks.noise_level import FAR, LAGS, RADIUS, band_factors
from mptpn.noise.bands import Bands
from mptpn.noise.correlation import blind_spot_half_size, correlation_map, neighbours_correlate


def bands_with(down: float, *, wrong: float = 0.0, rim: float = 0.0) -> Bands:
    """One bin of noise of variance 1 that correlates by `down` at (1, 0); the two kinds of windows differ by `wrong`
    there, one lag of the rim by `rim`.
    """
    energy = torch.ones(27, 2, dtype=torch.float64)
    place, edge = 1 + LAGS.index((1, 0)), 1 + LAGS.index((0, 3))
    energy[place], energy[edge] = torch.tensor([1 - down - wrong / 2, 1 - down + wrong / 2]), 1 - rim
    own, common = energy.split(1, 1)
    same, count = torch.full((27, 1), 0.02, dtype=torch.float64), torch.tensor([1000])
    return Bands(own, common, intensity=same, error=same, count=count, level_spread=1.0, mean=0.5, valid_share=1.0)


def test_the_map_is_the_planted_correlation():
    correlation, error = correlation_map(bands_with(0.3))
    wanted = torch.zeros(7, 7, dtype=torch.float64)
    wanted[RADIUS - 1 : RADIUS + 2, RADIUS] = torch.tensor([0.3, 1.0, 0.3])
    torch.testing.assert_close(correlation, wanted)
    assert bool((error >= 0).all())


def test_subjects_agree_on_a_correlation_that_they_do_not_show_together():
    """As on OCT: 0.06 where either kind of windows may be 0.03 wrong, image by image 0.04 to 0.08; not where images
    scatter about 0.04, nor where they agree on a lag at the rim.
    """
    unsure = bands_with(0.06, wrong=0.05, rim=0.01)
    agreeing = [bands_with(x) for x in (0.04, 0.05, 0.06, 0.07, 0.08, 0.06)]
    scattered = [bands_with(x) for x in (-0.06, 0.0, 0.04, 0.06, 0.09, 0.12)]
    assert neighbours_correlate(unsure, subjects=agreeing) and not neighbours_correlate(unsure, subjects=scattered)
    assert not neighbours_correlate(unsure) and not neighbours_correlate(unsure, subjects=agreeing[:5])
    assert not neighbours_correlate(unsure, subjects=[bands_with(0.0, rim=0.06)] * 6)
    assert neighbours_correlate(bands_with(0.06, wrong=0.02, rim=0.01))
    assert not neighbours_correlate(bands_with(0.045, wrong=0.02), subjects=agreeing)


@pytest.mark.parametrize("half_size", [(0, 0), (0, 3), (2, 1), (3, 3)])
def test_a_blind_spot_covers_what_correlates_and_no_more(half_size):
    lags = torch.full((7, 7), 0.19)
    lags[2:5, 2:5] = 0.045
    lags[3 - half_size[0] : 4 + half_size[0], 3 - half_size[1] : 4 + half_size[1]] = -0.21
    lags[3, 3] = 1
    assert blind_spot_half_size(lags) == half_size


@pytest.mark.parametrize(("lag", "half_size"), [((0, 1), (0, 1)), ((1, 0), (1, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 0))])
def test_a_blind_spot_covers_weak_correlation_of_neighbours_alone(lag, half_size):
    lags = torch.zeros(7, 7)
    lags[3 + lag[0], 3 + lag[1]] = lags[3 - lag[0], 3 - lag[1]] = -0.06
    lags[3, 3] = 1
    assert blind_spot_half_size(lags) == half_size


@pytest.mark.parametrize("box", [(1, 2), (3, 2)])
def test_the_band_factors_of_a_map_are_those_of_its_kernel(box):
    kernel = torch.zeros(3, 3)
    kernel[: box[0], : box[1]] = 1 / math.prod(box) ** 0.5
    lags = [(1 - torch.arange(-RADIUS, RADIUS + 1).abs() / side).clamp_min(0).double() for side in box]
    wanted = band_factors(autocorrelation(kernel))
    np.testing.assert_allclose(band_factors(torch.outer(*lags)).numpy(), wanted.numpy(), atol=1e-5)
    assert len(wanted) == 1 + len(LAGS + FAR)
