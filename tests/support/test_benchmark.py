"""The measurements: counts that are known in advance come out, and a wrong result is never timed."""

import math

import pytest
import torch

from mptpn.attention import retractable_torch
from support import benchmark, timing

# bytes and operations a second: floors in ms are then megabytes and mega-operations
LIMITS = {"copy": 1e9, "product": 1e9}
SMALL = {"backends": ["reference", "sdpa"], "ceilings": LIMITS, "window": 4, "heads": 2, "head_dim": 8, "seconds": 0.0}
TINY = {"widths": (8,), "intervals": ((2,),), "blocks": 2, "head_dim": 8, "window": 4}


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(benchmark.NETWORKS, "tiny", TINY)


def test_the_growth_exponent_of_a_power_law_is_its_power():
    sizes = [32**2, 64**2, 128**2]
    assert timing.growth_exponent(sizes, [3e-7 * size**1.5 for size in sizes]) == pytest.approx(1.5)


def test_the_slower_call_takes_longer_and_calls_take_turns():
    x, order = torch.randn(400, 400), []
    calls = {"one": lambda: (order.append(1), x @ x), "ten": lambda: (order.append(10), [x @ x for _ in range(10)])}
    times = timing.race(calls, device="cpu", seconds=0.05)
    assert len(times["one"]) == len(times["ten"]) >= 3
    assert min(times["ten"]) > 3 * min(times["one"])  # ten times the work; a disturbed turn is not the least
    turns = [number for number, last in zip(order, [None, *order], strict=False) if number != last]
    assert turns == [1, 10] * (len(turns) // 2) and len(turns) >= 6


@pytest.mark.parametrize("kept", [False, True])
def test_peak_memory_of_known_tensors(kept):
    def call():
        first = torch.empty(2**20, dtype=torch.uint8)
        second = torch.empty(2**21, dtype=torch.uint8)
        del first
        return second if kept else torch.empty(2**10, dtype=torch.uint8)

    assert timing.peak_bytes(call, device="cpu") == 2**20 + 2**21


def test_traffic_counts_what_is_read_and_written_and_no_views():
    x, weight = torch.randn(100, 50), torch.randn(50, 30)
    with timing.Traffic() as traffic:
        (x.view(50, 100).view(100, 50).T.T @ weight) + 1
    assert traffic.total == 4 * (100 * 50 + 50 * 30 + 100 * 30 + 2 * 100 * 30)


@pytest.mark.parametrize("backward", [False, True])
def test_floors_of_the_attention_are_its_bytes_and_products(backward):
    rows, tokens = benchmark.time_attention(23, interval=2, backward=backward, **SMALL), 23**2 * 2 * 8
    assert [row["backend"] for row in rows] == ["reference", "sdpa"]
    for row in rows:
        assert row["copy_floor_ms"] == pytest.approx(1e-6 * 4 * tokens * (11 if backward else 4))
        assert row["arithmetic_floor_ms"] == pytest.approx(1e-6 * 2 * 16 * tokens * (7 if backward else 2))
        assert row["peak_mib"] >= row["floor_mib"] == 4 * tokens * (4 if backward else 1) / 2**20
        assert 0 < row["least_ms"] <= row["ms"] and 0 <= row["error_ratio"] <= 2


def test_whole_image_groups_are_measured_and_right():
    row = benchmark.time_whole_image(24, interval=2, window=4, heads=2, head_dim=8, seconds=0.0)
    assert row["ms"] > 0 and 0 <= row["error_ratio"] <= 2


def test_a_wrong_backend_is_not_timed(monkeypatch):
    right = retractable_torch._groups

    def wrong(image, row, col, *grouping):
        return right(image, row, col, *grouping).transpose(5, 6)

    monkeypatch.setattr(retractable_torch, "_groups", wrong)
    with pytest.raises(ArithmeticError, match="sdpa: its error .* Nothing is timed"):
        benchmark.time_attention(8, interval=1, **SMALL)


def test_a_ratio_above_2_or_nan_is_refused():
    for ratio in (2.01, math.nan, math.inf):
        with pytest.raises(ArithmeticError, match="up to 2"):
            benchmark.must_be_right(ratio, "planted")
    assert benchmark.must_be_right(2.0, "right") == 2.0


def test_a_fault_at_the_far_end_of_a_large_image_is_found(monkeypatch):
    honest = benchmark.attend

    def spoiled(qkv, *arguments, **grouping):
        out, *gradients = honest(qkv, *arguments, **grouping)
        fault = (1e-3 * torch.ones_like(out)).index_fill(1, torch.arange(out.shape[1] - 1), 0.0)
        return out + fault * (out.shape[1] > 80), *gradients

    monkeypatch.setattr(benchmark, "attend", spoiled)
    with pytest.raises(ArithmeticError):
        benchmark.time_attention(97, interval=1, **SMALL)


@pytest.mark.parametrize("training", [False, True])
def test_networks_are_timed_with_their_floors(training, tiny):
    settings = {"backends": ["reference", "sdpa"], "ceilings": LIMITS, "seconds": 0.0}
    for row in benchmark.time_network("tiny", side=12, training=training, **settings):
        assert row["ms"] > 0 and row["error_ratio"] <= 2 and row["copy_floor_ms"] > 0 and row["arithmetic_floor_ms"] > 0


def floors(side: int, *, training: bool) -> dict[str, float]:
    size = (1, 1, side, side)
    return benchmark.floors("tiny", size=size, dtype=torch.float32, training=training, ceilings=LIMITS)


def test_arithmetic_of_a_network_is_that_of_its_products(tiny):
    """Counted by hand: convolutions, linear layers, two products of 16 keys in each of two blocks, position biases."""
    convolutions = 9 * (8 + 8 * 8 + 8 * 8 + 8)
    blocks = 2 * (8 * 24 + 8 * 8 + 2 * 8 * 32 + 2 * 16 * 8)
    biases = 2 * 49 * (2 * 11 + 2 * 11 * 11 + 11)
    wanted = 2e-6 * (64 * (convolutions + blocks) + biases)
    assert floors(8, training=False)["arithmetic_floor_ms"] == pytest.approx(wanted)


def test_floors_of_a_network_grow_with_the_pixels(tiny):
    small, large = (floors(side, training=True) for side in (64, 128))
    assert all(3.8 < large[name] / small[name] < 4 for name in ("copy_floor_ms", "arithmetic_floor_ms"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernel_is_timed_beside_its_floor():
    settings = {"backends": ["triton"], "interval": 8, "dtype": torch.bfloat16, "device": "cuda"}
    limits = timing.ceilings("cuda", torch.bfloat16)
    for backward in (False, True):
        (row,) = benchmark.time_attention(256, ceilings=limits, backward=backward, **settings)
        assert row["ms"] > 0 and row["error_ratio"] <= 2
