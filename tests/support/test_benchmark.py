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


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_growth_exponent_of_a_power_law_is_its_power(power):
    sizes = [32**2, 64**2, 128**2]
    assert timing.growth_exponent(sizes, [3e-7 * size**power for size in sizes]) == pytest.approx(power)


def test_the_slower_call_takes_longer_and_every_call_has_its_own_times():
    x = torch.randn(400, 400)
    times = timing.race({"one": lambda: x @ x, "ten": lambda: [x @ x for _ in range(10)]}, device="cpu", seconds=0.05)
    assert len(times["one"]) == len(times["ten"]) >= 3
    assert min(times["ten"]) > 3 * min(times["one"])  # ten times the work; a disturbed turn is not the least


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


def test_ceilings_are_plausible():
    limits = timing.ceilings("cpu", torch.float32)
    # from a slow shared core to the largest server
    assert 1e8 < limits["copy"] < 1e13 and 1e8 < limits["product"] < 1e15


@pytest.mark.parametrize("backward", [False, True])
def test_floors_of_the_attention_are_its_bytes_and_products(backward):
    for row in benchmark.time_attention(24, interval=2, backward=backward, **SMALL):
        tokens = 24**2 * 2 * 8
        assert row["copy_floor_ms"] == pytest.approx(1e-6 * 4 * tokens * (11 if backward else 4))
        assert row["arithmetic_floor_ms"] == pytest.approx(1e-6 * 2 * 16 * tokens * (7 if backward else 2))
        assert row["peak_mib"] >= row["floor_mib"] == 4 * tokens * (4 if backward else 1) / 2**20
        assert 0 < row["least_ms"] <= row["ms"] and 0 <= row["error_ratio"] <= 2


def test_every_backend_has_a_row_of_its_own():
    assert [row["backend"] for row in benchmark.time_attention(5, interval=3, **SMALL)] == ["reference", "sdpa"]


def test_whole_image_groups_are_measured_and_right():
    row = benchmark.time_whole_image(24, interval=2, window=4, heads=2, head_dim=8, seconds=0.0)
    assert row["ms"] > 0 and 0 <= row["error_ratio"] <= 2


def test_a_wrong_backend_is_not_timed(monkeypatch):
    right = retractable_torch._groups
    monkeypatch.setattr(
        retractable_torch,
        "_groups",
        lambda image, row, col, *grouping: right(image, row, col, *grouping).transpose(5, 6),
    )
    with pytest.raises(ArithmeticError, match="sdpa: its error .* Nothing is timed"):
        benchmark.time_attention(8, interval=1, **SMALL)


@pytest.mark.parametrize("ratio", [2.01, math.nan, math.inf])
def test_a_wrong_ratio_is_refused(ratio):
    with pytest.raises(ArithmeticError, match="up to 2"):
        benchmark.must_be_right(ratio, "planted")
    assert benchmark.must_be_right(2.0, "right") == 2.0


def test_a_fault_at_the_far_end_of_a_large_image_is_seen(monkeypatch):
    honest = benchmark.attend

    def spoiled(qkv, *arguments, **grouping):
        out, *gradients = honest(qkv, *arguments, **grouping)
        return out + (1e-3 * torch.ones_like(out)).index_fill(1, torch.arange(out.shape[1] - 1), 0.0) * (
            out.shape[1] > 80
        ), *gradients

    monkeypatch.setattr(benchmark, "attend", spoiled)
    with pytest.raises(ArithmeticError):
        benchmark.time_attention(97, interval=1, **SMALL)


@pytest.mark.parametrize("training", [False, True])
def test_networks_are_timed_with_their_floors(training, monkeypatch):
    monkeypatch.setitem(benchmark.NETWORKS, "tiny", TINY)
    rows = benchmark.time_network(
        "tiny", side=12, backends=["reference", "sdpa"], ceilings=LIMITS, training=training, seconds=0.0
    )
    for row in rows:
        assert row["ms"] > 0 and row["error_ratio"] <= 2 and row["copy_floor_ms"] > 0 and row["arithmetic_floor_ms"] > 0


def test_arithmetic_of_a_network_is_that_of_its_products(monkeypatch):
    """Counted by hand: convolutions, linear layers, and two products of 16 keys in each of two blocks; position biases
    have 49 offsets.
    """
    monkeypatch.setitem(benchmark.NETWORKS, "tiny", TINY)
    counted = benchmark.floors("tiny", size=(1, 1, 8, 8), dtype=torch.float32, training=False, ceilings=LIMITS)[
        "arithmetic_floor_ms"
    ]
    convolutions = 9 * (8 + 8 * 8 + 8 * 8 + 8)
    blocks = 2 * (8 * 24 + 8 * 8 + 2 * 8 * 32 + 2 * 16 * 8)
    biases = 2 * 49 * (2 * 11 + 2 * 11 * 11 + 11)
    assert counted == pytest.approx(2e-6 * (64 * (convolutions + blocks) + biases))


def test_floors_of_a_network_grow_with_the_pixels(monkeypatch):
    monkeypatch.setitem(benchmark.NETWORKS, "tiny", TINY)
    small, large = (
        benchmark.floors("tiny", size=(1, 1, n, n), dtype=torch.float32, training=True, ceilings=LIMITS)
        for n in (64, 128)
    )
    assert (
        3.8 < large["copy_floor_ms"] / small["copy_floor_ms"] < 4
        and 3.8 < large["arithmetic_floor_ms"] / small["arithmetic_floor_ms"] < 4
    )


def test_the_multi_scale_network_has_five_million_weights():
    assert sum(p.numel() for p in benchmark.network("multi-scale, 5 M", backend="auto").parameters()) == 5_013_181


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_kernel_is_timed_beside_its_floor():
    limits = timing.ceilings("cuda", torch.bfloat16)
    for backward in (False, True):
        (row,) = benchmark.time_attention(
            256,
            backends=["triton"],
            interval=8,
            ceilings=limits,
            backward=backward,
            dtype=torch.bfloat16,
            device="cuda",
        )
        assert row["ms"] > 0 and row["error_ratio"] <= 2
