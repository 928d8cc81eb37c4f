"""Tiles: the same image as in one piece, in less memory."""

import subprocess
import sys
import textwrap

import pytest
import torch

from mptpn import tiling
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from mptpn.stages import pipeline, preliminary, profound
from mptpn.tiling import tile_side, tiled

SMALL = {"width": 8, "depth": 2, "local_means": (3, 7, 11)}
HOLES = [(0, 0), (1, 3)]


def image(height: int, width: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A wave under noise of 20 gray levels of 255."""
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    clean = (0.5 + 0.3 * torch.sin(rows / 17) * torch.cos(cols / 23))[None, None]
    return PoissonGaussian(20 / 255).sample(clean, generator=generator(1)).to(dtype)


def blind(half_size: tuple[int, int]) -> BlindSpotNetwork:
    torch.set_num_threads(1)
    torch.manual_seed(3)
    return BlindSpotNetwork(**SMALL, half_size=half_size).eval()


def student(**other) -> RetractableTransformer:
    """Untrained but not silent: the last layer, which starts at 0, gets numbers."""
    torch.set_num_threads(1)
    torch.manual_seed(4)
    network = RetractableTransformer(**pipeline.STUDENT | other).eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    return network


def stage_1(network: BlindSpotNetwork, whole: torch.Tensor):
    """Stage 1 with the mean and the noise model's table of the whole image."""
    offset, noise_model = whole.mean().view(1, 1, 1, 1), preliminary.tabulated(PoissonGaussian(0.05, gain=0.01), whole)

    @torch.no_grad()
    def function(crop: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(
            zip(
                ("mean", "sigma_mu", "sigma_n"),
                preliminary.predict(network, crop, offset=offset, noise_model=noise_model),
                strict=True,
            )
        )

    return function


# an image that spans 1: rounding, a few hundred terms deep
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("half_size", HOLES)
@pytest.mark.parametrize(("height", "width"), [(101, 67), (30, 143)])
def test_tiles_of_the_blind_spot_network_equal_the_whole_image(height, width, half_size, dtype, most):
    network, noisy = blind(half_size).to(dtype), image(height, width, dtype=dtype)
    function = stage_1(network, noisy)
    whole, parts = function(noisy), tiled(function, noisy, tile=29, halo=network.halo)
    assert set(whole) == set(parts)
    for name in whole:
        assert parts[name].shape == noisy.shape and float((parts[name] - whole[name]).abs().max()) < most, name


@pytest.mark.parametrize("half_size", HOLES)
def test_a_halo_one_pixel_too_small_is_seen(half_size):
    """The farthest pixel speaks through one chain of weights, about 0.01 of a near one; float64 sees 1e-10 of it."""
    network, noisy = blind(half_size).double(), image(90, 97, dtype=torch.float64)
    function = stage_1(network, noisy)
    difference = tiled(function, noisy, tile=29, halo=network.halo - 1)["mean"] - function(noisy)["mean"]
    assert float(difference.abs().max()) > 1e-8


def test_statistics_of_a_tile_instead_of_the_image_are_seen():
    network, noisy = blind((0, 0)).double(), image(90, 97, dtype=torch.float64)
    wrong = tiled(lambda crop: stage_1(network, crop)(crop), noisy, tile=29, halo=network.halo)["mean"]
    assert float((wrong - stage_1(network, noisy)(noisy)["mean"]).abs().max()) > 1e-6


def test_wide_local_means_widen_the_halo_of_a_shallow_network():
    """Depth 0 reaches 2 px, a window of 11 px 5, and half a hole more."""
    for half_size, wanted in (((0, 0), 5), ((1, 3), 8)):
        network = BlindSpotNetwork(width=8, depth=0, local_means=(11,), half_size=half_size).double().eval()
        noisy = image(40, 51, dtype=torch.float64)
        assert network.halo == wanted
        function = stage_1(network, noisy)
        error = [
            float((tiled(function, noisy, tile=13, halo=halo)["mean"] - function(noisy)["mean"]).abs().max())
            for halo in (wanted, wanted - 1)
        ]
        assert error[0] < 1e-10 and error[1] > 1e-8


def transform(network: RetractableTransformer, whole: torch.Tensor):
    offset, scale = whole.mean().view(1, 1, 1, 1), torch.full((1, 1, 1, 1), 0.08).to(whole)
    return torch.no_grad()(lambda crop: profound.denoise(network, crop, offset=offset, scale=scale))


def test_the_student_lies_in_squares_of_64_px_and_reaches_256():
    """Both scales: 8 tokens at stride 4 of 2 px, 8 at stride 2 of 4 px. Three times attention after a convolution, and
    a convolution before.
    """
    assert (student().alignment, student().halo) == (64, 256)
    assert student(intervals=((3,), (2,))).alignment == 192  # squares of 16, 48, 32 and 64 px


NARROW = {"intervals": ((2,), (1,)), "window": 2}  # squares of 8 px: the reach is short enough to test it


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_tiles_of_the_transformer_equal_the_whole_image_at_its_alignment_and_halo(dtype, most):
    network, noisy = student(**NARROW).to(dtype), image(93, 123, dtype=dtype)
    function = transform(network, noisy)
    halo = network.halo
    assert (network.alignment, halo) == (8, 32)
    assert float((tiled(function, noisy, tile=16, halo=halo) - function(noisy)).abs().max()) < most


def test_a_square_less_of_halo_or_origins_between_the_squares_are_seen():
    network, noisy = student(**NARROW).double(), image(93, 123, dtype=torch.float64)
    function = transform(network, noisy)
    for tile, halo in ((16, 16), (16, 30), (20, 32)):
        assert float((tiled(function, noisy, tile=tile, halo=halo) - function(noisy)).abs().max()) > 1e-9, (tile, halo)


def test_whole_image_groups_are_refused():
    with pytest.raises(ValueError, match="whole_image"):
        _ = student(sparse_groups="whole_image", bias="dynamic").halo


def test_tiles_that_hold_the_image_are_one_call_and_small_ones_many_with_progress():
    seen, calls = [], []

    def function(crop):
        calls.append(tuple(crop.shape))
        return crop * 2

    noisy = image(31, 45)
    assert torch.equal(tiled(function, noisy, tile=45, halo=3), noisy * 2) and calls == [(1, 1, 31, 45)]
    assert torch.equal(tiled(function, noisy, tile=20, halo=0, progress=seen.append), noisy * 2)
    assert len(calls) == 7 and seen == pytest.approx([i / 6 for i in range(1, 7)])
    with pytest.raises(ValueError, match="tile 0"):
        tiled(function, noisy, tile=0, halo=0)


def test_the_tile_fills_the_memory_and_no_more():
    assert tile_side(1000 * 300**2, bytes_per_pixel=1000, halo=20) == 260
    assert tile_side(1000 * 300**2 - 1, bytes_per_pixel=1000, halo=20) == 259
    assert tile_side(1000 * 300**2, bytes_per_pixel=1000, halo=64, multiple=64) == 128  # 172 px fit
    with pytest.raises(ValueError, match=r"36864000 bytes|36864000"):
        tile_side(10**6, bytes_per_pixel=1000, halo=64, multiple=64)


@pytest.mark.parametrize(("kind", "side"), [("blind", 512), ("student", 512), ("student", 768)])
def test_the_stated_bytes_hold_the_peak_and_are_not_thrice_too_many(kind, side):
    """In a process of its own, by VmHWM: ru_maxrss would start from that of the process that forked it. A call on 64 x
    64 px first: threads and libraries are no part of a pixel's price.
    """
    code = """
        import re, torch
        from mptpn.networks.blind_spot import BlindSpotNetwork
        from mptpn.networks.transformer import RetractableTransformer
        from mptpn.stages import pipeline

        def peak():
            return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

        torch.set_num_threads(1)
        blind = "KIND" == "blind"
        network = BlindSpotNetwork(**pipeline.BLIND) if blind else RetractableTransformer(**pipeline.STUDENT)
        network.eval()
        with torch.no_grad():
            network(torch.rand(1, 1, 64, 64))
            before = peak()
            network(torch.rand(1, 1, SIDE, SIDE))
        print((peak() - before) * 1024)
    """
    code = textwrap.dedent(code.replace("KIND", kind).replace("SIDE", str(side)))
    peak = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    stated = (BlindSpotNetwork(**pipeline.BLIND) if kind == "blind" else student()).peak_bytes(side**2)
    assert stated / 3 < peak <= stated


def test_the_default_budget_is_what_is_held_and_half_of_what_is_free():
    import psutil

    held, free = tiling.resident(), psutil.virtual_memory().available
    assert held > 50e6 and tiling.default_budget() == pytest.approx(held + free / 2, rel=0.2)
