"""Stage 3 works in units of the noise: gain and offset go through it unchanged."""

import pytest
import torch
from torch import nn

from mptpn.filters import robust_level
from mptpn.networks.transformer import RetractableTransformer
from mptpn.random import generator
from mptpn.stages import profound


def network() -> RetractableTransformer:
    torch.manual_seed(0)
    net = RetractableTransformer(1, widths=(8, 16), intervals=((2,), (2,)), blocks=2, head_dim=8, window=4)
    nn.init.normal_(net.head.weight, std=0.1)
    return net.double().eval()


def noisy(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=generator(seed))


@pytest.mark.parametrize("gain, offset", [(50.0, 3.0), (0.02, -7.0)])
@pytest.mark.parametrize("size", [(2, 3), (33, 20)], ids=str)
def test_denoising_is_equivariant_to_gain_and_offset(size, gain, offset):
    y = noisy(2, 1, *size)
    expected = gain * profound.denoise(network(), y) + offset
    # float64 with offsets up to 350 times the noise: 1e-16 * 350 through a few hundred operations
    torch.testing.assert_close(profound.denoise(network(), gain * y + offset), expected, rtol=1e-10, atol=1e-10)


def test_a_network_that_saw_the_level_would_not_be():
    net = network()
    assert (net(3 * noisy(1, 1, 13, 9)) - 3 * net(noisy(1, 1, 13, 9))).abs().max() > 1e-3


def test_the_network_sees_noise_of_one_size():
    seen = []

    class Watch(nn.Module):
        def forward(self, x):
            seen.append(float(x.std()))
            return x

    for level in (0.01, 1.0, 30.0):
        profound.denoise(Watch(), 4 + level * noisy(1, 1, 120, 91))
    # white noise's robust level is its deviation, to about 2 * 1.17 / sqrt(n) = 2 %; five of them
    assert seen == pytest.approx([profound.UNIT] * 3, rel=0.1) and max(seen) == pytest.approx(min(seen))


def test_images_of_a_batch_do_not_see_each_other():
    y, net = torch.cat([noisy(1, 1, 13, 9), 20 * noisy(1, 1, 13, 9, seed=1) + 5]), network()
    torch.testing.assert_close(
        profound.denoise(net, y), torch.cat([profound.denoise(net, x[None]) for x in y]), rtol=0, atol=1e-10
    )


def test_a_part_is_seen_in_the_unit_of_its_whole():
    """In the middle of a tile with a halo, far from every edge, a window-attention network gives the same only if it is
    given the whole's mean and level.
    """
    whole, middle = (
        noisy(1, 1, 40, 40) * torch.linspace(0.2, 3, 40, dtype=torch.float64),
        nn.Conv2d(1, 1, 3, padding=1, bias=False).double(),
    )
    unit = {"offset": whole.mean().view(1, 1, 1, 1), "scale": robust_level(whole)}
    relu = nn.Sequential(middle, nn.ReLU())  # not linear: the unit matters
    expected, tile = profound.denoise(relu, whole)[..., 4:12, 4:12], whole[..., 2:14, 2:14]
    torch.testing.assert_close(profound.denoise(relu, tile, **unit)[..., 2:10, 2:10], expected)
    assert (profound.denoise(relu, tile)[..., 2:10, 2:10] - expected).abs().max() > 1e-3


def batch_of(size=(13, 9)):
    clean = noisy(3, 1, *size, seed=2)
    level = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64).view(3, 1, 1, 1)
    weight = torch.tensor([0.1, 1.0, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    offset = torch.tensor([0.0, 0.3, -1.0], dtype=torch.float64).view(3, 1, 1, 1)
    return {
        "noisy": clean + level * noisy(3, 1, *size, seed=3),
        "clean": clean,
        "scale": level,
        "offset": offset,
        "weight": weight,
    }


def test_the_loss_is_the_weighted_error_in_units_of_the_noise():
    batch = batch_of()
    denoised = profound.denoise(network(), batch["noisy"], offset=batch["offset"], scale=batch["scale"])
    error = (denoised - batch["clean"]).square().mean((1, 2, 3))
    expected = (0.1 * error[0] / 0.01 + error[1] / 0.04 + error[2] / 0.16) / 3
    torch.testing.assert_close(profound.loss(network(), batch), expected)
