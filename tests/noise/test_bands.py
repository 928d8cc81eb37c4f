"""Measurements of band energies: tiles, bins, places and units."""

import math

import pytest
import torch
from torch.nn import functional as F

from mptpn.networks.noise_level import band_factors
from mptpn.noise import bands
from mptpn.noise.models import CorrelatedGaussian, PoissonGaussian
from mptpn.random import generator


def noisy_waves(height: int, width: int, *, sigma: float = 0.1) -> torch.Tensor:
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    clean = (0.5 + 0.4 * torch.sin(rows / 25) * torch.cos(cols / 31))[None, None]
    return PoissonGaussian(sigma).sample(clean, generator=generator(0))


CORRELATION = F.pad(torch.tensor([[0.2, 0.5, 0.2], [0.4, 1.0, 0.4], [0.2, 0.5, 0.2]]), (2,) * 4)


@pytest.mark.parametrize("correlation", [None, CORRELATION], ids=["white", "correlated"])
def test_levels_by_place_are_relative_to_the_noise_model_where_they_are_known(correlation):
    """Three squares of ten windows, at 1.5 times the noise model's level, at 0.5, and at a level that nobody knows."""
    noise_model = PoissonGaussian(0.1, gain=0.01)
    place, mean = torch.arange(30) // 10, torch.linspace(0, 1, 30, dtype=torch.float64)
    factor = torch.ones(27, 1) if correlation is None else band_factors(correlation)[:, None]
    energy = factor.double() * noise_model.variance(mean) * torch.tensor([1.5, 0.5, 9.0])[place].square()
    precision = torch.tensor([3.0, 3.0, -3.0], dtype=torch.float64)[place].expand(27, -1)
    found, error = bands.levels_by_place(
        bands.Measurement(precision, energy, mean, place),
        noise_model if correlation is None else CorrelatedGaussian(noise_model, correlation),
    )
    assert found.tolist() == pytest.approx([1.5, 0.5], rel=1e-5)
    # ten windows of log precision 3, and the network's own floor and spread
    assert (error > (10 * math.exp(3)) ** -0.5).all() and (error < 0.12).all()


def test_places_are_squares_of_64_px_of_every_tile():
    place = bands.measure(noisy_waves(130, 200)).place.view(33, 50)
    assert [int(place[row, col]) for row, col in ((0, 0), (15, 15), (0, 16), (16, 0), (32, 49))] == [0, 0, 1, 4, 11]
    wide = bands.measure(noisy_waves(64, 2100)).place
    assert len(wide) == 16 * 525 and wide.unique().tolist() == list(range(33))


@pytest.mark.parametrize("scale, zero", [(255.0, 0.0), (0.5, -3.0)])
def test_a_measurement_in_another_unit_is_that_of_the_image_in_this_unit(scale, zero):
    image = noisy_waves(64, 80)
    moved, again = bands.measure(image).in_unit(scale, zero=zero), bands.measure(image * scale + zero)
    for name in ("precision", "mean"):
        torch.testing.assert_close(getattr(moved, name), getattr(again, name), rtol=1e-3, atol=1e-3 * scale)
    torch.testing.assert_close(moved.energy, again.energy, rtol=1e-3, atol=1e-5 * scale**2)


def test_the_level_spread_of_images_whose_intensities_overlap_little_is_found():
    """Levels 1 : 3, intensities 0 to 0.6 and 0.4 to 1; windows of equal precision whose energies are exact."""
    mean = torch.cat([torch.linspace(0, 0.6, 400), torch.linspace(0.4, 1, 400)]).double()
    energy = torch.cat([torch.full((1, 400), 1.0), torch.full((1, 400), 9.0)], 1).double()
    image = torch.arange(800) // 400
    ratio = bands._energy_ratio(torch.ones(1, 800, dtype=torch.float64), energy, bands._bins(mean), image)
    # between the quantiles of 5 and 95 %
    assert bands._level_spread(ratio[0], image) == pytest.approx(3 ** (1 - 0.1), rel=0.05)
    assert float(ratio[0, -1] / ratio[0, 0]) == pytest.approx(9, rel=0.02)


@pytest.mark.parametrize("shape", [(1024, 1024), (1536, 1535), (1700, 2300), (16, 5000)], ids=str)
def test_tiles_cover_an_image_once(shape):
    """None is so small that its own quantiles say little, unless the image is."""
    index = torch.arange(shape[0] * shape[1]).view(shape)
    tiles = [index[place] for place in bands._tiles(shape)]
    assert torch.equal(torch.cat([tile.flatten() for tile in tiles]).sort().values, index.flatten())
    for tile in tiles:
        assert all(min(512, n) <= length <= 1536 for length, n in zip(tile.shape, shape, strict=True))


def test_of_a_huge_image_twelve_tiles_spread_over_it_are_measured():
    tiles = list(bands._tiles((9000, 7000)))
    assert len(tiles) <= 12 and (0, 0) in [(rows.start, cols.start) for rows, cols in tiles]
    assert max(rows.stop * 7000 + cols.stop for rows, cols in tiles) > 0.8 * 9000 * 7000


@pytest.mark.parametrize("count", [1, 5, 45, 400])
def test_no_intensity_bin_is_empty_or_holds_under_a_hundredth_of_the_windows(count):
    """Edges are themselves means of windows: which side an equal one falls on must not matter."""
    means = torch.rand(count, generator=generator(28), dtype=torch.float64)
    for mean in (means, torch.arange(count).double() // 3, torch.zeros(count).double()):
        sizes = torch.bincount(bands._bins(mean))
        assert sizes.sum() == count and sizes.min() >= max(1, 0.01 * count)


def test_a_part_measured_on_its_own_has_its_own_windows_and_leaves_the_others():
    """Noise of 1 in the left half and of 30 in the right one, whose mean is higher by 200."""
    light = (torch.arange(1700) % 850 >= 650).float().expand(1, 1, 161, 1700)  # two tiles
    noisy = 200 * light + (1 + 29 * light) * torch.randn(light.shape, generator=generator(5))
    whole, part = bands.measure(noisy), bands.measure(noisy, between=(150, math.inf))
    left, middle, right = ((whole.mean < 20), (whole.mean - 100).abs() < 60, (whole.mean > 190))
    assert not part.valid[left].any() and not part.valid[middle].any() and part.valid[right].double().mean() > 0.9
    known = part.valid
    assert part.precision[0, known].exp().median() > 10 * whole.precision[0, known].exp().median()
    joined = whole.with_part(part)
    assert torch.equal(joined.energy[:, ~known], whole.energy[:, ~known])
    assert torch.equal(joined.precision[:, known], part.precision[:, known])
    nothing = bands.measure(noisy, between=(1e6, math.inf))
    assert not nothing.valid.any() and torch.equal(whole.with_part(nothing).energy, whole.energy)
