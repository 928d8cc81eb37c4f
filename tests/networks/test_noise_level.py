"""The noise-level network: what it measures is true for any weights, what it says is noise is noise for the weights in
the box.
"""

import math
from statistics import NormalDist

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import autocorrelation
from mptpn.networks import noise_level
from mptpn.networks.noise_level import (
    BANDS,
    FAR,
    LAGS,
    QUARTERS,
    NoiseLevelNetwork,
    band_factors,
    band_squares,
    draw,
    errors,
    pretrained_paths,
    random_kernel,
    stated_precision,
)
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from mptpn.training import loop
from support import embedded

SIZES = [(16, 16), (17, 31), (41, 22)]
PHOTOS = [image.pixels for image in embedded.natural("val")]


@pytest.fixture(scope="module")
def network() -> NoiseLevelNetwork:
    return pretrained_paths()


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


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
def test_forward_remembers_nothing(mode):
    net, small, large = any_weights().train(mode), structured(17, 31).float(), structured(50, 43).float()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = [net(small), net(large)]
    for was, now in zip(first, [net(small), net(large)], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(was, now, strict=True))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_there_is_one_window_for_every_four_pixels(network, size):
    grid = tuple(-(-side // 4) for side in size)
    assert [tuple(x.shape) for x in network(white(2, 1, *size))] == [
        (2, BANDS, *grid),
        (2, BANDS, *grid),
        (2, 1, *grid),
    ]


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
    squares, counts = band_squares(noise, torch.ones_like(noise))
    energy = squares.sum((2, 3)) / counts.sum((2, 3))
    error = energy.std(0) / 24**0.5
    assert (((energy.mean(0) - band_factors(autocorrelation(kernel))).abs() / error) < 5).all() and (error < 0.03).all()
    assert (((energy.mean(0) - 1).abs() / error) > 5).any()  # the planted fault: taken for white


def test_noise_is_white_again_at_the_lags_that_are_called_far():
    """The kernels have 9 px, so that up to three taps still meet at a lag of 6: 6 % of the variance at most, 3 % of the
    level, and 0.5 % on average.
    """
    far = torch.stack(
        [band_factors(autocorrelation(random_kernel(generator(12, key))))[-len(FAR) :] for key in range(300)]
    )
    assert (far - 1).abs().max() < 0.06 and (far - 1).abs().mean() < 0.005


def test_kernels_have_unit_energy_and_correlate_from_hardly_to_much():
    kernels = [random_kernel(generator(13, key)) for key in range(200)]
    assert all(
        kernel.shape == (9, 9) and float(kernel.square().sum()) == pytest.approx(1, abs=1e-5) for kernel in kernels
    )
    neighbours = torch.stack([1 - band_factors(autocorrelation(kernel))[1 + LAGS.index((0, 1))] for kernel in kernels])
    assert neighbours.min() < -0.05 and neighbours.quantile(0.1) < 0.1 and neighbours.max() > 0.75


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


@pytest.mark.parametrize("border", [(36, 60, 20, 52), (152, 148, 152, 148)], ids=str)
def test_a_zero_background_has_no_say_and_changes_no_energy_inside(network, border):
    """Padding by multiples of 4 keeps the grid. A window that sees the background's rim (a pixel whose neighbourhood
    touches it) averages fewer pixels; the others are the same to float32's rounding.
    """
    noisy = scene("cell")[:, :, 60:260, 40:240] + white(1, 1, 200, 200, sigma=0.08)
    left, _, top, _ = border
    (_, energy, mean), (precision, padded, padded_mean) = network(noisy), network(F.pad(noisy, border))
    rows, cols = (slice(start // 4 + 3, start // 4 + 50 - 3) for start in (top, left))
    torch.testing.assert_close(padded[:, :, rows, cols], energy[:, :, 3:-3, 3:-3], rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(padded_mean[:, :, rows, cols], mean[:, :, 3:-3, 3:-3], rtol=1e-4, atol=1e-6)
    inside = torch.zeros_like(precision[0, 0], dtype=torch.bool)
    inside[top // 4 - 1 : top // 4 + 52, left // 4 - 1 : left // 4 + 52] = True
    assert (precision[:, :, ~inside] == -30).all() and precision[:, :, rows, cols].min() > -30


@pytest.mark.parametrize("sigma_255", [5, 25, 50])
@pytest.mark.parametrize("border", [(37, 60, 21, 50), (150, 150, 150, 150)], ids=str)
def test_a_zero_background_does_not_move_the_level(network, border, sigma_255):
    """A rim of a few pixels is lost and the network's view of the quantiles changes: well under 2 %. A background that
    counted would be seen, next test.
    """
    noisy = scene("cell")[:, :, 60:260, 40:240] + white(1, 1, 200, 200, sigma=sigma_255 / 255)
    assert level(network, F.pad(noisy, border)) == pytest.approx(level(network, noisy), rel=0.02)


@pytest.mark.parametrize("name", ["cell", "skull_ct"])
def test_the_quantiles_that_the_network_sees_are_of_the_windows_that_count(network, name):
    """Padding makes five of six windows empty. Those on the rim hold fewer pixels: the quantiles of log energy, -0.3 to
    0.3, move by 0.015.
    """
    seen = []
    hook = network.layers.register_forward_pre_hook(lambda _, features: seen.append(features[0][0, BANDS:, 0, 0]))
    noisy = scene(name)[..., :200, :200] + white(1, 1, 200, 200, sigma=0.1)
    network(noisy)
    network(F.pad(noisy, (152, 148, 152, 148)))
    hook.remove()
    torch.testing.assert_close(seen[1], seen[0], rtol=0, atol=0.05)
    assert seen[0].abs().max() > 0.2  # the planted fault: empty windows that count as 0


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
        "counted",
        lambda x: (torch.ones_like(x), torch.ones_like(noise_level._windows(x), dtype=torch.bool)),
    )
    assert level(network, clipped) < 0.9 * wanted  # the planted fault: the saturated region counts


def test_a_window_with_more_than_one_clipped_pixel_in_twenty_has_no_say(network):
    """A ramp through the limit, so that windows of every share exist."""
    clipped = (torch.linspace(0.3, 1.05, 180) + white(1, 1, 120, 180, key=6, sigma=0.05)).clamp_max(1.0)
    share = F.avg_pool2d((clipped == 1).float(), 13, 4, padding=6, count_include_pad=False)[0, 0]
    precision, constant = network(clipped)[0][0], F.max_pool2d((share == 1).float()[None], 9, 1, 4)[0] > 0
    barely, hardly = (share > 0.0501) & ~constant, (share > 0) & (share < 0.0499)
    assert barely.any() and (precision[:, barely] == -30).all() and hardly.any() and (precision[:, hardly] > -30).all()


def test_windows_with_many_clipped_pixels_say_nothing_and_a_few_clipped_pixels_count(network):
    """A saturated patch of 30 x 30 px changes no energy that counts, whatever its value; of noise that is cut off at
    the 3 % quantile the variance is that of the cut-off noise, 0.945 sigma^2, and not that of the pixels that are left,
    0.85 sigma^2.
    """
    noisy = white(1, 1, 120, 180, key=8)

    def told(value: float) -> tuple[Tensor, Tensor]:
        held = noisy.clamp(-4, 4)
        held[..., 40:70, 60:90] = value
        precision, energy, _ = network(held)
        return precision[0, 0] > -20, energy[0, 0]

    (known, first), (same, second) = told(60.0), told(600.0)
    assert known.equal(same) and not known.all() and torch.equal(first[known], second[known])
    low = NormalDist().inv_cdf(0.03)
    cut = white(1, 1, 300, 310, key=9).clamp_min(low)
    precision, energy, _ = network(cut)
    counts = precision[0, 0] > -20
    expected = float(white(1, 1, 2000, 2000, key=10).clamp_min(low).var())
    left_out = float(cut[cut > low].var())
    found = float(energy[0, 0][counts].mean())
    assert counts.float().mean() > 0.8
    # 93 000 px; windows of 5 % and more are left out, which takes 2 % off
    assert abs(found / expected - 1) < 0.04 and abs(left_out / expected - 1) > 0.08


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
    squares, counts = band_squares(noisy, torch.ones_like(noisy))
    wanted = (counts * drawn["variance"][~rounded(drawn)]).sum((2, 3))  # a band sees no border
    ratio = squares.sum((2, 3)) / wanted / drawn["factor"][~rounded(drawn)]
    error = ratio.std(0) / len(ratio) ** 0.5
    assert len(noisy) > 100 and ((ratio.mean(0) - 1).abs() < 5 * error).all() and (5 * error < 0.08).all()
    as_white = squares.sum((2, 3)) / wanted
    assert ((as_white.mean(0) - 1).abs() > 5 * as_white.std(0) / len(ratio) ** 0.5).any()


def test_training_noise_is_what_its_docstring_says(drawn):
    """Shares of 160 crops within four standard errors of what was asked for."""
    variance = drawn["variance"]
    uniform = variance.flatten(1).std(1) < 1e-6 * variance.flatten(1).mean(1)
    correlated = (drawn["factor"] - 1).abs().amax(1) > 1e-6

    def share(seen: Tensor, wanted: float) -> bool:
        return abs(float(seen.float().mean()) - wanted) < 4 * (wanted * (1 - wanted) / len(seen)) ** 0.5

    assert share(correlated, 0.5) and share(rounded(drawn), 0.15) and share(~uniform, 0.35)
    levels = 255 * variance[uniform].mean((1, 2, 3)).sqrt()
    # at most 80; dark surroundings of a signal-dependent noise model have less than 2
    assert levels.max() <= 80.01 and levels.median() > 4 and levels.max() > 40 and levels[levels > 1.999].min() < 4


def test_the_error_is_the_log_of_the_estimated_over_the_true_level(network):
    """A true variance four times as large moves each error by -log 2 exactly, and no precision."""
    batch = draw(PHOTOS, batch=3, patch=48, keys=(1,))
    error, precision = errors(network, batch)
    more, same = errors(network, batch | {"variance": 4 * batch["variance"]})
    assert error.shape == precision.shape == (3, BANDS, 1 + QUARTERS)
    # 1e-9 is added to the energies: 0.6 % of the least, noise of 2 / 255 in a band that holds 0.3 % of it
    torch.testing.assert_close(more, error - math.log(2), rtol=0, atol=0.006)
    assert torch.equal(same, precision)


def test_quarters_are_the_windows_by_intensity_and_each_gets_its_own_error():
    """Windows in random order: those of the q-th quarter of the intensities have q times the true level, and one log
    precision of 0 each.
    """

    class Told(NoiseLevelNetwork):
        def forward(self, noisy):
            rank = torch.randperm(12 * 16, generator=generator(1)).view(1, 1, 12, 16)
            energy = (1 + rank * QUARTERS // rank.numel()).float().square()
            return torch.zeros(1, BANDS, 12, 16), energy.expand(-1, BANDS, -1, -1), 7 + 0.1 * rank

    told = Told()
    told.log_floor.data.fill_(-40.0)
    error, precision = errors(
        told, {"noisy": torch.zeros(1, 1, 48, 64), "variance": torch.ones(1, 1, 48, 64), "factor": torch.ones(1, BANDS)}
    )
    wanted = torch.tensor([math.sqrt((1 + 4 + 9 + 16) / 4), 1.0, 2.0, 3.0, 4.0]).log()
    torch.testing.assert_close(error, wanted.expand(1, BANDS, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(precision, torch.tensor([192.0, 48, 48, 48, 48]).expand(1, BANDS, 5), rtol=1e-5, atol=0)


def test_stated_precision_is_that_of_a_sum_of_windows_above_a_floor():
    net = NoiseLevelNetwork()
    net.log_floor.data.fill_(math.log(0.01))
    net.spread.fill_(2.0)
    total = torch.tensor([1e-3, 1.0, 100.0, 1e12]).expand(1, BANDS, 4)
    # the error is twice what the network says, and never below 10 % of its own
    wanted = [1 / (0.01 + 1 / t) / 4 for t in (1e-3, 1.0, 100.0, 1e12)]
    torch.testing.assert_close(stated_precision(net, total)[0, 0], torch.tensor(wanted), rtol=1e-5, atol=0)


def test_the_loss_is_the_likelihood_of_students_t(network):
    batch = draw(PHOTOS, batch=3, patch=48, keys=(3,))
    error, precision = (x.detach().double() for x in errors(network, batch))
    density = torch.from_numpy(stats.t.logpdf((error * precision.sqrt()).numpy(), 4)) + 0.5 * precision.log()
    wanted = -(density - float(stats.t.logpdf(0, 4))) * torch.tensor([2.0, 1, 1, 1, 1])
    assert noise_level.loss(network, batch).item() == pytest.approx(float(wanted.mean()), rel=1e-4)


def test_calibration_takes_off_the_bias_that_it_finds(monkeypatch):
    """True levels that are all 10 % lower than stated are a bias of 10 % more; it is found to the last digit, and comes
    off the energies.
    """
    net, noisy = pretrained_paths(), white(1, 1, 40, 40)
    settings = {"photos": PHOTOS, "batches": 3, "seed": 4}
    first, before, energy = noise_level.calibrate(net, **settings), net.log_bias.clone(), net(noisy)[1]
    monkeypatch.setattr(
        noise_level,
        "draw",
        lambda *args, **kwargs: (batch := draw(*args, **kwargs)) | {"variance": batch["variance"] / 1.21},
    )
    again = noise_level.calibrate(net, **settings)
    # 1e-9 is added to the variances
    torch.testing.assert_close(net.log_bias, before + math.log(1.1), rtol=0, atol=1e-3)
    torch.testing.assert_close(net(noisy)[1], energy / 1.21, rtol=2e-3, atol=0)
    assert again["largest_bias"] == pytest.approx(float((before + math.log(1.1)).abs().max()), abs=1e-3)
    assert again["spread"] == pytest.approx(first["spread"], rel=1e-2) and again["tail"] == pytest.approx(
        first["tail"], rel=1e-2
    )


def test_stated_errors_of_the_network_in_the_box_hold_what_they_say(network):
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


@pytest.mark.parametrize("sigma_255", [5, 15, 50])
@pytest.mark.parametrize("name", ["microaneurysms", "head_mr", "cell", "chest_ct", "skull_ct"])
def test_the_network_in_the_box_knows_the_level_of_medical_images(network, name, sigma_255):
    """Never seen in training. The stated error has a floor of 1.5 % for one band; at 5 levels the images' own noise, 1
    to 2 levels, adds up to 6 %.
    """
    noisy = PoissonGaussian(sigma_255 / 255).sample(scene(name), generator=generator(9, sigma_255))
    assert 255 * level(network, noisy) == pytest.approx(sigma_255, rel=0.1 if sigma_255 == 5 else 0.04)


def test_the_network_in_the_box_is_small_and_set_to_use(network):
    values = sum(value.numel() for value in network.state_dict().values())
    assert (
        not network.training
        and all(value.isfinite().all() for value in network.state_dict().values())
        and values < 50_000
    )
    assert network.log_bias.abs().max() < 0.03 and 0.8 < network.spread < 1.5 and 1.9 < network.tail < 4


def test_a_short_training_teaches_what_is_noise():
    """Eighty small steps: the loss on 48 crops of photographs that it does not see falls."""
    torch.manual_seed(0)
    net, held_out = NoiseLevelNetwork(width=16), draw(PHOTOS, batch=48, patch=64, keys=(8,))
    with torch.no_grad():
        before = noise_level.loss(net, held_out).item()
    noise_level.train(
        net,
        [image.pixels for image in embedded.natural("train")],
        steps=80,
        batch=4,
        patch=64,
        fabric=loop.launch(threads=1),
    )
    with torch.no_grad():
        assert noise_level.loss(net, held_out).item() < before - 0.3
