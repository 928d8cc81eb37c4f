"""Level and correlation of the noise are told from place to place, and even noise is told to be even."""

import pytest
import torch

from mptpn.filters import center_crop
from mptpn.inference import NoisyImages
from mptpn.noise import CorrelatedGaussian, PoissonGaussian
from mptpn.noise.by_place import CELL, LocalNoise, NoiseByPlace, cell_energies
from mptpn.random import generator
from support import embedded

WHITE = torch.zeros(7, 7)
WHITE[3, 3] = 1
ACROSS = torch.tensor([[0.0, 0.0, 0.0], [0.5, 1.0, 0.5], [0.0, 0.0, 0.0]])
PHOTO = center_crop(embedded.natural("val")[0].pixels, side=256)


def by_place(stable: torch.Tensor, *, correlated: bool = False) -> NoiseByPlace:
    valid = torch.ones_like(stable, dtype=torch.bool)
    energies, mean = cell_energies(stable, valid=valid)
    return NoiseByPlace.of(energies, torch.ones_like(mean), WHITE if correlated else None)


@pytest.mark.parametrize("seed", range(3))
def test_even_noise_has_one_level(seed):
    noise = torch.randn(PHOTO.shape, generator=generator(seed))
    found = by_place(PHOTO * 12 + noise)
    assert (found.level - 1).abs().max() < 0.05 and found.correlation is None


def test_noise_four_times_stronger_on_one_side_is_found_there():
    factor = torch.where(torch.arange(256) < 128, 0.5, 2.0)
    found = by_place(PHOTO * 12 + factor * torch.randn(PHOTO.shape, generator=generator(1)))
    level, _ = found.at((slice(0, 256), slice(0, 256)))
    assert level.shape == PHOTO.shape
    assert 0.4 < level[..., :64].mean() < 0.65 and 1.7 < level[..., 192:].mean() < 2.2


def test_correlation_that_changes_from_place_to_place_is_told_there():
    clean = torch.zeros(1, 1, 256, 512)
    left, right = (
        CorrelatedGaussian(PoissonGaussian(1.0), x).sample(clean, generator=generator(2)) for x in (ACROSS, ACROSS.T)
    )
    found = by_place(torch.where(torch.arange(512) < 256, left, right), correlated=True).correlation
    assert found.shape == (1, 256 // CELL, 512 // CELL, 7, 7)
    first, second = found[0, :, 4:10].mean((0, 1)), found[0, :, 22:28].mean((0, 1))
    assert abs(first[3, 4] - 0.5) < 0.1 and abs(first[4, 3]) < 0.1
    assert abs(second[4, 3] - 0.5) < 0.1 and abs(second[3, 4]) < 0.1


def test_tiles_are_told_what_the_whole_image_is():
    found = by_place(PHOTO * 12 + torch.randn(PHOTO.shape, generator=generator(3)), correlated=True)
    whole, cells = found.at((slice(0, 256), slice(0, 256)))
    part, some = found.at((slice(64, 200), slice(128, 256)))
    assert torch.equal(part, whole[..., 64:200, 128:256]) and torch.equal(some, cells[:, 4:13, 8:])


def test_noise_of_a_place_is_drawn_with_its_level_and_its_correlation():
    cells = torch.zeros(1, 2, 2, 7, 7)
    cells[..., 2:5, 2:5] = ACROSS
    level = torch.full((1, 1, 1, 512), 3.0)
    model = LocalNoise(CorrelatedGaussian(PoissonGaussian(0.5), ACROSS.T), level, cells)
    noise = model.sample(torch.zeros(1, 1, 512, 512), generator=generator(4))
    assert noise.std().item() == pytest.approx(1.5, rel=0.02)
    assert (noise[..., 1:] * noise[..., :-1]).mean() / noise.var() == pytest.approx(0.5, abs=0.03)
    assert abs((noise[..., 1:, :] * noise[..., :-1, :]).mean() / noise.var()) < 0.03


def test_uneven_noise_is_denoised_by_the_level_of_each_side():
    clean = PHOTO[0, 0].double().numpy()
    factor = torch.where(torch.arange(256) < 128, 0.03, 0.12).numpy()
    noisy = clean + factor * torch.randn(256, 256, generator=generator(5)).numpy()
    prediction = NoisyImages.of([noisy]).prepare().predict(noisy, uncertainty=False)
    error = prediction.applied(noisy)[0] - clean
    assert (error[:, :112] ** 2).mean() < 0.7 * 0.03**2 and (error[:, 144:] ** 2).mean() < 0.2 * 0.12**2


@pytest.mark.parametrize("seed", range(3))
def test_structure_that_a_mask_cuts_is_no_noise(seed):
    rows, columns = torch.meshgrid(torch.arange(200.0), torch.arange(201.0), indexing="ij")
    body = ((rows - 100) / 75) ** 2 + ((columns - 100) / 88) ** 2 < 1
    image = -33.0 + 35.0 * body + torch.randn(200, 201, generator=generator(seed))
    valid = (rows > 30) & (rows < 150) & (columns > 20) & (columns < 170)
    energies, mean = cell_energies(image[None, None] * valid, valid=valid[None, None])
    level = NoiseByPlace.of(energies, torch.ones_like(mean), None).level[0, 0, 3:9, 2:10]
    assert 0.8 < float(level.min()) and float(level.max()) < 1.25
