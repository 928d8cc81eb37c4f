"""The blind spot, proved by gradients: exactly 0 at the centre, and everywhere else what was computed."""

import numpy as np
import pytest
import torch
from torch import nn

from mptpn.networks.blind_spot import BlindSpotNetwork, MaskedConv2d, blind_average, leak, reach, visible_offsets
from mptpn.random import generator

SIZES = [(1, 1), (13, 10)]
KINDS = [{"depth": 2}, {"depth": 1, "local_means": (3, 5, 7, 11)}, {"depth": 3, "local_means": (11,), "channels": 2}]
LARGER = [
    {"depth": 1, "half_size": (0, 1)},
    {"depth": 2, "half_size": (2, 1), "local_means": (3, 11)},
    {"depth": 1, "half_size": (1, 3), "local_means": (5,)},
]


def network(*, seed=0, width=6, **kind) -> BlindSpotNetwork:
    torch.manual_seed(seed)
    return BlindSpotNetwork(width=width, **kind)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_centre_pixel_has_no_influence(size, kind, mode):
    assert (
        leak(network(**kind).train(mode == "train"), (1, kind.get("channels", 1), *size), generator=generator(1)) == 0.0
    )


@pytest.mark.parametrize("kind", LARGER, ids=str)
@pytest.mark.parametrize("size", [(1, 6), (13, 10)], ids=str)
def test_no_pixel_of_a_larger_blind_spot_has_influence(size, kind):
    blind, shape = network(**kind), (1, 1, *size)
    assert leak(blind, shape, generator=generator(1), half_size=kind["half_size"]) == 0.0
    if size == (13, 10):  # and the next pixel has
        assert (
            leak(blind, shape, generator=generator(1), half_size=(kind["half_size"][0], kind["half_size"][1] + 1))
            > 1e-6
        )


def test_centre_pixel_has_no_influence_at_large_weights():
    large = network(depth=2, local_means=(3, 5))
    for weight in large.parameters():
        weight.data.mul_(3)
    assert leak(large, (1, 1, 7, 5), generator=generator(1)) == 0.0


def unmasked(blind):
    for layer in blind.modules():
        if isinstance(layer, MaskedConv2d):
            layer.mask.fill_(1)


def reflecting(blind):
    for layer in blind.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            layer.padding_mode = "reflect"


@pytest.mark.parametrize("fault", [unmasked, reflecting], ids=lambda f: f.__name__)
def test_a_planted_leak_is_caught(fault):
    blind = network(depth=1)
    fault(blind)
    assert leak(blind, (1, 1, 13, 10), generator=generator(1)) > 1e-4


def test_a_window_that_fills_a_gap_is_refused():
    for side in (13, 4, 1):
        with pytest.raises(ValueError, match=rf"local_means \(3, {side}\)"):
            BlindSpotNetwork(width=4, depth=1, local_means=(3, side))


@pytest.mark.parametrize("half_size", [(-1, 0), (1,), (0, 1, 0)], ids=str)
def test_a_blind_spot_that_is_none_is_refused(half_size):
    with pytest.raises(ValueError, match="half_size .* must be half height"):
        BlindSpotNetwork(width=4, depth=1, half_size=half_size)


def seen_by_gradient(blind, *, depth) -> np.ndarray:
    """Offsets with a gradient, in an image with a margin beyond the reach, [2 r + 3, 2 r + 3]."""
    r = reach(depth=depth, half_size=blind.half_size) + 1
    shape = (2 * r + 1 + 4, 2 * r + 1 + 7)
    noisy = torch.rand(1, 1, *shape, generator=generator(2)).requires_grad_()
    row, col = r + 2, r + 3
    (gradient,) = torch.autograd.grad(sum(output[0, 0, row, col] for output in blind(noisy)), noisy)
    return (gradient != 0)[0, 0, row - r : row + r + 1, col - r : col + r + 1].numpy()


@pytest.mark.parametrize(
    "depth, kind",
    [(0, {"half_size": (1, 2)}), (1, {"local_means": (3, 11)}), (2, {"half_size": (0, 1)}), (4, {})],
    ids=str,
)
def test_visible_neighbours_are_the_computed_ones(depth, kind):
    """Union over seeds, because a ReLU can close a path; 8 features leave hundreds of paths to each neighbour. Nothing
    may lie outside the reach.
    """
    seen = np.any(
        [seen_by_gradient(network(seed=seed, width=8, depth=depth, **kind), depth=depth) for seed in range(3)], axis=0
    )
    np.testing.assert_array_equal(
        seen, np.pad(visible_offsets(depth=depth, half_size=kind.get("half_size", (0, 0))), 1)
    )


@pytest.mark.parametrize("depth", [1, 8])
def test_gaps_lie_on_a_lattice_of_six_and_beyond_the_small_branch_of_three(depth):
    near, far = 1 + 4 * depth, 2 + 6 * depth  # radii of the branches with k = 3 and k = 5
    offset = np.arange(-far, far + 1)
    lattice = {d: (offset[:, None] % d == 0) & (offset % d == 0) for d in (3, 6)}
    distance = np.maximum(np.abs(offset)[:, None], np.abs(offset))
    np.testing.assert_array_equal(~visible_offsets(depth=depth), np.where(distance <= near, lattice[6], lattice[3]))


def test_the_paper_s_network_reaches_fifty_pixels():
    assert reach(depth=8) == reach() == 50 and visible_offsets().shape == (101, 101)


def test_the_paper_s_network_has_six_point_six_one_million_parameters():
    paper = BlindSpotNetwork()
    spread = sum(p.numel() for p in paper.spread.parameters())
    assert sum(p.numel() for p in paper.parameters()) - spread == 6_612_289  # D-BSN: 6.61 M
    assert spread == 2 * (96 * 96 + 96) + 97  # the spread's head, three 1x1 layers


@pytest.mark.parametrize("local_means", [(), (3, 5, 7, 11)], ids=str)
def test_a_tile_with_a_halo_of_the_reach_is_exact_and_one_pixel_less_is_not(local_means):
    blind, halo = network(depth=1, local_means=local_means).double(), reach(depth=1)
    noisy = torch.rand(1, 1, 41, 47, dtype=torch.float64, generator=generator(3))
    whole = torch.cat(blind(noisy))[..., 15:22, 17:28]
    tile, short = (
        torch.cat(blind(noisy[..., 15 - h : 22 + h, 17 - h : 28 + h]))[..., h : h + 7, h : h + 11]
        for h in (halo, halo - 1)
    )
    # sums of at most 10^4 terms of size 1 in float64
    assert (tile - whole).abs().max() < 1e-11 < 1e-7 < (short - whole).abs().max()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_gives_finite_means_and_positive_spreads(size):
    mean, spread = network(depth=2, local_means=(3, 5, 7, 11))(torch.randn(2, 1, *size, generator=generator(5)))
    assert mean.shape == spread.shape == (2, 1, *size) and torch.isfinite(mean).all() and spread.min() >= 1e-3


def test_a_frozen_mean_gets_no_gradient_and_keeps_its_value():
    blind = network(depth=1, local_means=(3, 5))
    noisy = torch.rand(1, 1, 7, 9, generator=generator(6))
    free, (frozen, spread) = blind(noisy), blind(noisy, mean_frozen=True)
    assert torch.equal(free[0], frozen) and torch.equal(free[1], spread)
    (frozen.sum() + spread.sum()).backward()
    assert {name.split(".")[0] for name, p in blind.named_parameters() if p.grad is not None} == {"spread"}


@pytest.mark.parametrize("side", [3, 7])
@pytest.mark.parametrize("size", [(1, 4), (12, 11)], ids=str)
def test_the_blind_average_is_the_mean_of_the_window_without_its_centre(size, side):
    noisy = torch.rand(2, 1, *size, dtype=torch.float64, generator=generator(7))
    found, half = blind_average(noisy, side=side), side // 2
    for row, col in np.ndindex(*size):
        window = noisy[:, 0, max(0, row - half) : row + half + 1, max(0, col - half) : col + half + 1]
        count = window[0].numel() - 1
        expected = (window.sum((1, 2)) - noisy[:, 0, row, col]) / count
        torch.testing.assert_close(found[:, 0, row, col], expected)
