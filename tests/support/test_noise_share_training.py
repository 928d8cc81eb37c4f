"""Training of the network that tells noise from texture: its examples are what they say, and it learns from them."""

import pytest
import torch

from mptpn.networks.noise_share import SIDE, NoiseShareNetwork
from mptpn.random import generator
from mptpn.training import loop
from support import embedded, noise_share_training
from support.noise_share_training import CROP, draw, drawn, example, loss, measured, train

PHOTOS = [image.pixels for image in embedded.natural("val")]


def crops(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return drawn(PHOTOS, generator(seed, "crops"))


def flat(sigma: float, texture: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A gray area with a texture that the noise model takes for noise, and its noisy copy."""
    random = generator(0, "flat")
    clean = 100 + texture * torch.randn(1, 1, CROP, CROP, generator=random)
    return clean + sigma * torch.randn(1, 1, CROP, CROP, generator=random), clean


def test_a_drawn_crop_is_a_function_of_its_keys():
    (first, clean), (again, same), (other, _) = crops(1), crops(1), crops(2)
    assert first.shape == clean.shape == (1, 1, CROP, CROP)
    assert torch.equal(first, again) and torch.equal(clean, same) and not torch.equal(first, other)


def test_a_real_crop_lies_in_its_image():
    image = torch.arange(200.0 * 190).view(1, 1, 200, 190) / 255
    crop = measured([image], generator(3))
    assert crop.shape == (1, 1, CROP, CROP)
    assert torch.allclose(crop.diff(dim=3), torch.ones(1, 1, CROP, CROP - 1), atol=0.02)


@pytest.mark.parametrize(("sigma", "texture", "share"), [(10.0, 0.0, 1.0), (0.5, 10.0, 0.0025)])
def test_the_share_is_that_of_the_noise(sigma, texture, share):
    residual, denoised, found = example(*flat(sigma, texture))
    assert residual.shape == denoised.shape == (1, SIDE, SIDE)
    assert float(found) == pytest.approx(share, abs=0.02)
    assert float(residual.square().mean()) == pytest.approx(1, abs=0.1)  # in standard deviations of what is found


def test_real_noise_counts_as_noise_and_a_constant_image_as_nothing():
    assert float(example(flat(10.0, 0.0)[0], None)[2]) == 1
    assert example(torch.full((1, 1, CROP, CROP), 7.0), None) is None


def test_it_learns_to_tell_smooth_residuals_from_white_ones(tmp_path):
    random = generator(0, "learns")
    white = torch.randn(40, 1, SIDE, SIDE, generator=random)
    smooth = torch.nn.functional.avg_pool2d(white, 5, 1, 2)
    examples = [
        (one[i], torch.zeros(1, SIDE, SIDE), torch.tensor(float(kind)))
        for kind, one in enumerate((smooth, white))
        for i in range(40)
    ]
    whole = [torch.stack(column) for column in zip(*examples, strict=True)]
    batch = draw(whole, batch=16, random=generator(5))
    assert batch["residual"].shape == batch["denoised"].shape and batch["residual"].shape[0] == 16
    torch.manual_seed(0)
    network = NoiseShareNetwork(width=4)
    before = float(loss(network, batch).detach())
    train(network, examples, steps=60, fabric=loop.launch(threads=1), lr=1e-2)
    assert float(loss(network.eval(), batch).detach()) < 0.3 < before
    assert noise_share_training.EDGE * 2 + SIDE == CROP
