"""The noise-level network: its energies are right for any weights, its levels for the pretrained ones."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import autocorrelation
from mptpn.networks import noise_level
from mptpn.networks.noise_level import (
    BANDS,
    FAR,
    LAGS,
    NoiseLevelNetwork,
    band_factors,
    band_squares,
    band_sums,
    pretrained_noise_level,
    quantiles_of,
    stated_precision,
    window_sums,
)
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support import embedded
from support.noise_level_training import random_kernel

SIZES = [(16, 16), (41, 22)]


@pytest.fixture(scope="module")
def network() -> NoiseLevelNetwork:
    return pretrained_noise_level()


def any_weights(seed: int = 0) -> NoiseLevelNetwork:
    """A network that was not trained, whose last layer is not 0."""
    torch.manual_seed(seed)
    net = NoiseLevelNetwork()
    torch.nn.init.normal_(net.layers[-1].weight, std=0.2)
    net.log_bias.normal_(std=0.1)
    return net


def structured(*size: int, key: int = 0, sigma: float = 0.1) -> Tensor:
    """Waves, an edge, a zeroed corner and noise, [1, 1, *size], float64."""
    rows, cols = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in size), indexing="ij")
    scene = 0.5 + 0.3 * torch.sin(rows / 3) * torch.cos(cols / 5) + 0.2 * (cols > size[1] / 2)
    noisy = scene + sigma * torch.randn(size, dtype=torch.float64, generator=generator(key, *size))
    noisy[: size[0] // 3, : size[1] // 3] = 0
    return noisy[None, None]


def white(*shape: int, key: int = 0, sigma: float = 1.0) -> Tensor:
    return sigma * torch.randn(shape, generator=generator(key, *shape))


@torch.no_grad()
def level(net: NoiseLevelNetwork, noisy: Tensor, band: int = 0) -> float:
    """Square root of a band's energy, averaged by the stated precision over the image."""
    precision, energy, _ = net(noisy)
    weight = precision[0, band].exp()
    return math.sqrt(float((weight * energy[0, band]).sum() / weight.sum()))


def scene(name: str) -> Tensor:
    return next(image.pixels for split in ("val", "test") for image in embedded.medical(split) if image.name == name)


@pytest.mark.parametrize("gain, offset", [(37.0, -5.0), (1e-3, 0.7), (-2.0, 3.0)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_gain_and_offset_scale_the_energies_and_change_no_precision(size, gain, offset):
    """Float64: rounding is 1e-16 of the intensity, and 1e-10 of the least energy."""
    net, noisy = any_weights().double(), structured(*size)
    precision, energy, mean = net(noisy)
    again = net(gain * noisy + offset)
    assert precision.std() > 0.1  # something that could change
    torch.testing.assert_close(again[0], precision, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again[1], gain**2 * energy, rtol=1e-9, atol=0)
    torch.testing.assert_close(again[2], gain * mean + offset * (mean != 0).double(), rtol=1e-9, atol=1e-9)


def test_a_large_offset_costs_no_more_than_the_rounding_of_its_pixels(network):
    """Hounsfield units + 1000 with noise of 20: float32 near 2000 has steps of 1.2e-4, whose variance is 1e-12 of the
    noise's; at 1e8 steps are 8.
    """
    tissue = 20 * white(1, 1, 61, 74, key=4) + 1000 * (torch.arange(74) > 40)
    wanted = level(network, tissue)
    assert level(network, tissue + 1e3) == pytest.approx(wanted, rel=1e-4)
    assert level(network, tissue + 1e8) != pytest.approx(wanted, rel=1e-3)  # the planted fault


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_images_of_a_batch_do_not_see_each_other(size, mode):
    net = any_weights().double().train(mode)
    batch = torch.cat(
        [
            structured(*size, key=1),
            100 * white(1, 1, *size, key=2).double(),
            torch.ones(1, 1, *size, dtype=torch.float64),
        ]
    )
    for together, alone in zip(net(batch), zip(*(net(x[None]) for x in batch), strict=True), strict=True):
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 15, 40), (1, 1, 40, 15), (1, 3, 40, 40), (1, 40, 40), (40, 40)], ids=str)
def test_a_wrong_shape_is_refused_with_it(network, shape):
    with pytest.raises(
        ValueError, match=rf"shape \({', '.join(map(str, shape))}\): give gray images .* at least 16 x 16 px\.$"
    ):
        network(torch.rand(shape))


def test_white_noise_has_the_same_energy_in_every_band():
    torch.testing.assert_close(band_factors(autocorrelation(torch.ones(1, 1))), torch.ones(BANDS), rtol=0, atol=1e-6)
    centred = F.pad(torch.full((1, 1), 3.0), (4,) * 4)
    torch.testing.assert_close(band_factors(autocorrelation(centred)), torch.full((BANDS,), 9.0), rtol=1e-6, atol=0)


def filter_of(*rows: list[float]) -> Tensor:
    """A square kernel of unit energy."""
    kernel = F.pad(torch.tensor(rows), (0, 0, 0, len(rows[0]) - len(rows)))
    return kernel / kernel.square().sum().sqrt()


def test_two_pixels_averaged_across_have_the_energies_that_a_pencil_gives():
    """Correlation 1/2 at lag (0, 1) alone; [1, -2, 1] * [1, 1] = [1, -1, -1, 1] has 4 for 6 as sum of squares, and the
    averaging halves it.
    """
    lags = [0.5 if lag == (0, 1) else 1.0 for lag in LAGS + FAR]
    torch.testing.assert_close(
        band_factors(autocorrelation(filter_of([1.0, 1.0]))), torch.tensor([1 / 3, *lags]), rtol=1e-5, atol=0
    )


def filtered(kernel: Tensor, *shape: int, key: int) -> Tensor:
    """White noise through a kernel, [N, 1, *shape]."""
    count, height, width = shape
    return F.conv2d(white(count, 1, height + len(kernel) - 1, width + len(kernel) - 1, key=key), kernel[None, None])


# the last one differs between its diagonals
KERNELS = [random_kernel(generator(11, key)) for key in range(3)] + [filter_of([1.0, 0.0], [0.0, 1.0])]


@pytest.mark.parametrize("kernel", KERNELS, ids=["a", "b", "c", "diagonal"])
def test_band_factors_are_the_energies_of_filtered_noise(kernel):
    """24 independent fields; the standard error of their mean comes from their spread; five of them, for the largest of
    27 values.
    """
    noise = filtered(kernel, 24, 131, 96, key=1)
    squares, counts = (torch.cat(x, 1) for x in zip(*band_squares(noise, torch.ones_like(noise)), strict=True))
    energy = squares.sum((2, 3)) / counts.sum((2, 3))
    error = energy.std(0) / 24**0.5
    assert (((energy.mean(0) - band_factors(autocorrelation(kernel))).abs() / error) < 5).all() and (error < 0.03).all()
    assert (((energy.mean(0) - 1).abs() / error) > 5).any()  # the planted fault: taken for white


@pytest.mark.parametrize("size", [*SIZES, (131, 96)], ids=str)
@pytest.mark.parametrize("lost", [0, 1, 400])
def test_sums_over_windows_are_those_of_every_pixel_to_the_last_bit(size, lost):
    """An image without masked pixels takes another way, which counts no pixel."""
    noisy, valid = white(2, 1, *size), torch.ones(2, 1, *size)
    valid.flatten()[torch.randperm(valid.numel(), generator=generator(lost))[:lost]] = 0
    wanted = [torch.cat([window_sums(one) for one in x], 1) for x in zip(*band_squares(noisy, valid), strict=True)]
    squares, numbers = band_sums(noisy, valid)
    assert torch.equal(squares, wanted[0]) and torch.equal(numbers.expand_as(wanted[1]), wanted[1])


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantiles_are_those_of_pytorch(share):
    """Rows with another number of NaN each: from none to all."""
    values = white(2, 12, 101)
    for row in range(12):  # 110 of the last: all
        values[:, row, : 10 * row] = math.nan
    assert torch.equal(quantiles_of(values, (share,))[:, 0], values.nanquantile(share, dim=2).nan_to_num())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_energies_of_a_flat_image_are_the_variance_in_every_window_up_to_the_border(size):
    """600 images; a window's energy is a mean of correlated squares of at least 7 x 7 px, less by the lag: 5.5 standard
    errors, from the images' spread, hold some 1500 windows. The planted fault: 10 % more, of which the windows on
    average show far more than 5.5 errors.
    """
    net, sigma = NoiseLevelNetwork(), 0.3
    with torch.no_grad():
        energy = net(5 + white(600, 1, *size, sigma=sigma))[1] / sigma**2
    error = energy.std(0) / 600**0.5
    assert ((energy.mean(0) - 1).abs() < 5.5 * error).all()
    assert not ((1.1 * energy.mean(0) - 1).abs() < 5.5 * error).all()


@pytest.mark.parametrize("sigma_255", [5, 50])
@pytest.mark.parametrize("border", [(37, 60, 21, 50), (150, 150, 150, 150)], ids=str)
def test_a_zero_background_does_not_move_the_level(network, border, sigma_255):
    """A rim of a few pixels is lost and the network's view of the quantiles changes: well under 2 %. A background that
    counted would be seen, next test.
    """
    noisy = scene("cell")[:, :, 60:260, 40:240] + white(1, 1, 200, 200, sigma=sigma_255 / 255)
    assert level(network, F.pad(noisy, border)) == pytest.approx(level(network, noisy), rel=0.02)


def test_a_background_that_counted_would_move_the_level(network):
    """The planted fault: noise of a ten-thousandth makes it count, and it is the smoothest part of the picture."""
    noisy = scene("cell")[:, :, 60:260, 40:240] + white(1, 1, 200, 200, sigma=0.1)
    faint = F.pad(noisy, (150,) * 4) + white(1, 1, 500, 500, key=1, sigma=1e-5)
    assert level(network, faint) < 0.5 * level(network, noisy)


def test_a_saturated_region_does_not_move_the_level(network, monkeypatch):
    """A third of the image is five deviations above the limit, the rest three below: noise is whole or gone."""
    cols = torch.linspace(0.3, 1.2, 180).expand(1, 1, 120, 180)
    noisy = torch.where(cols > 0.85, 1.25, cols) + white(1, 1, 120, 180, key=6, sigma=0.05)
    clipped, wanted = noisy.clamp_max(1.0), level(network, noisy)
    assert wanted == pytest.approx(0.05, rel=0.03)
    # 40 % of the windows are lost and with them as much of the evidence: the level moves by its own standard error of
    # about 1 %
    assert level(network, clipped) == pytest.approx(wanted, rel=0.03)
    monkeypatch.setattr(
        noise_level,
        "valid_masks",
        lambda x, valid, counts: (torch.ones_like(x), torch.ones_like(noise_level.window_sums(x), dtype=torch.bool)),
    )
    assert level(network, clipped) < 0.9 * wanted  # the planted fault: the saturated region counts


def test_a_window_with_more_than_one_clipped_pixel_in_twenty_has_no_say(network):
    """A ramp through the limit, so that windows of every share exist."""
    clipped = (torch.linspace(0.3, 1.05, 180) + white(1, 1, 120, 180, key=6, sigma=0.05)).clamp_max(1.0)
    share = F.avg_pool2d((clipped == 1).float(), 13, 4, padding=6, count_include_pad=False)[0, 0]
    precision, constant = network(clipped)[0][0], F.max_pool2d((share == 1).float()[None], 9, 1, 4)[0] > 0
    barely, hardly = (share > 0.0501) & ~constant, (share > 0) & (share < 0.0499)
    assert barely.any() and (precision[:, barely] == -30).all() and hardly.any() and (precision[:, hardly] > -30).all()


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1, 1, 16, 19),
        torch.full((1, 1, 40, 31), 1e4),
        (torch.arange(16 * 33).view(1, 1, 16, 33) % 2).float(),
        F.pad(torch.ones(1, 1, 1, 1), (8, 9, 8, 7)),
    ],
    ids=["zeros", "constant", "checkerboard", "one pixel"],
)
def test_an_image_without_noise_gives_numbers(network, image):
    precision, energy, mean = network(image)
    assert all(x.isfinite().all() for x in (precision, energy, mean)) and (energy >= 0).all()


def test_stated_precision_is_that_of_a_sum_of_windows_above_a_floor():
    net = NoiseLevelNetwork()
    net.log_floor.data.fill_(math.log(0.01))
    net.spread.fill_(2.0)
    total = torch.tensor([1e-3, 1.0, 100.0, 1e12]).expand(1, BANDS, 4)
    # the error is twice what the network says, and never below 10 % of its own
    wanted = [1 / (0.01 + 1 / t) / 4 for t in (1e-3, 1.0, 100.0, 1e12)]
    torch.testing.assert_close(stated_precision(net, total)[0, 0], torch.tensor(wanted), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("sigma_255", [5, 15, 50])
@pytest.mark.parametrize("name", ["microaneurysms", "head_mr", "cell", "chest_ct", "skull_ct"])
def test_the_pretrained_network_knows_the_level_of_medical_images(network, name, sigma_255):
    """Never seen in training. The stated error has a floor of 1.5 % for one band; at 5 levels the images' own noise, 1
    to 2 levels, adds up to 6 %.
    """
    noisy = PoissonGaussian(sigma_255 / 255).sample(scene(name), generator=generator(9, sigma_255))
    assert 255 * level(network, noisy) == pytest.approx(sigma_255, rel=0.1 if sigma_255 == 5 else 0.04)
