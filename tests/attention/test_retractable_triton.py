"""Kernels of retractable attention against the reference: on a GPU, else interpreted; and as code for an H100."""

import math

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402 - after the check that it is there
from test_retractable import example, gradients, upstream  # noqa: E402
from triton_house import CUDA, DEVICE, DTYPES, INTERPRETED, code_for_an_h100, on_gpu, runs  # noqa: E402

from mptpn.attention import retractable_attention, retractable_triton  # noqa: E402

# H, W, interval, window, head_dim; groups of more than 64 tokens have several blocks
SIZES = [(1, 9, 2, 4, 16), (8, 8, 1, 8, 72), (7, 13, 2, 4, 30), (17, 11, 1, 8, 30), (11, 9, 1, 9, 8)]
CASES = [(size, dtype) for size in SIZES for dtype in DTYPES] + [((13, 16, 1, 16, 32), DTYPES[-1])]


def case(height, width, interval, window, head_dim, *, dtype=torch.float32):
    few = 1 if window > 8 else 2
    qkv, bias = example(height, width, window, batch=2 if height == 1 else 1, heads=few, head_dim=head_dim, dtype=dtype)
    return qkv.to(DEVICE), bias.float().to(DEVICE), {"interval": interval, "window": window, "backend": "triton"}


def worst_ratio(size, dtype):
    """Largest error against float64, of output and gradients, relative to twice that of the reference in one dtype."""
    qkv, bias, arguments = case(*size, dtype=dtype)
    plain, grad = {**arguments, "backend": "reference"}, upstream(qkv)
    exact = gradients(qkv.double(), bias.double(), grad.double(), **plain)
    results = zip(gradients(qkv, bias, grad, **arguments), gradients(qkv, bias, grad, **plain), exact, strict=True)
    # an error below 1e-12 is none
    return max(
        (ours - truth).square().mean().sqrt() / (2 * (theirs - truth).square().mean().sqrt() + 1e-12)
        for ours, theirs, truth in results
    )


@runs
@pytest.mark.parametrize(("size", "dtype"), CASES, ids=str)
def test_rounding_error_is_at_most_twice_that_of_plain_pytorch(size, dtype):
    assert worst_ratio(size, dtype) <= 1


@runs
@pytest.mark.parametrize("size", [(9, 12, 1, 4, 16), (18, 9, 1, 9, 16)], ids=str)
def test_walking_over_groups_gives_the_same_bits(size, monkeypatch):
    qkv, bias, arguments = case(*size, dtype=torch.float16)
    first, again = (gradients(qkv, bias, upstream(qkv), **arguments) for _ in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, again, strict=True))
    monkeypatch.setattr(retractable_triton, "PROGRAMS", 1)  # now one program has all groups of a head
    walked = gradients(qkv, bias, upstream(qkv), **arguments)
    assert torch.equal(walked[0], first[0]) and torch.equal(walked[1], first[1])
    torch.testing.assert_close(walked[2], first[2], rtol=1e-5, atol=1e-5)  # another order of at most 9 float32 terms


@runs
def test_views_and_expanded_gradients_are_read_right():
    qkv, bias, arguments = case(20, 20, 2, 4, 16)
    crop, grad = qkv[:, 3:16, 5:16], torch.ones((), device=DEVICE).expand(1, 13, 11, 2, 16)
    expected = gradients(crop.contiguous(), bias, grad.contiguous(), **arguments)
    torch.testing.assert_close(gradients(crop, bias, grad, **arguments), expected, rtol=0, atol=0)


@runs
def test_operators_keep_the_rules_of_pytorch():
    qkv, bias, _ = case(5, 3, 1, 4, 16)
    given, operators = (qkv.detach(), bias.detach(), 1, 4), torch.ops.mptpn
    torch.library.opcheck(operators.strided_attention, (qkv.requires_grad_(), bias.requires_grad_(), 1, 4))
    torch.library.opcheck(operators.strided_attention_backward, (upstream(qkv), *given))


@runs
def test_autocast_computes_in_its_dtype():
    qkv, bias, arguments = case(9, 5, 1, 4, 16)
    with torch.autocast(DEVICE, torch.float16):
        out = retractable_attention(qkv, bias, **arguments)
    assert torch.equal(out, retractable_attention(qkv.half(), bias, **arguments))


right_pixels = retractable_triton._pixels


@triton.jit
def swapped_pixels(group, block, height, width, interval, WINDOW: tl.constexpr, BLOCK: tl.constexpr):
    pixel, exists = right_pixels(group, block, width, height, interval, WINDOW, BLOCK)
    return pixel % height * width + pixel // height, exists


@triton.jit
def unmasked_logits(q, k, bias, exists, D: tl.constexpr):
    return tl.dot(q, tl.trans(k)) * (1.4426950408889634 * D**-0.5) + bias


@runs
@pytest.mark.skipif(CUDA, reason="compiled kernels do not see the planted fault")
@pytest.mark.parametrize(("name", "fault"), [("_logits", unmasked_logits), ("_pixels", swapped_pixels)])
def test_a_planted_fault_is_caught(name, fault, monkeypatch):
    monkeypatch.setattr(retractable_triton, name, fault)
    assert worst_ratio((7, 13, 2, 4, 30), torch.float32) > 100


@triton.jit
def last_pixel(out, side, WINDOW: tl.constexpr):
    group = (side // WINDOW) * (side // WINDOW) - 1
    pixel, _ = right_pixels(group, 0, side, side, 1, WINDOW, WINDOW * WINDOW)
    tl.store(out + tl.arange(0, WINDOW * WINDOW), pixel)


@runs
@pytest.mark.skipif(CUDA, reason="the interpreter's part; on a GPU a large image is run")
def test_pixel_numbers_are_64_bit():
    out = torch.empty(64, dtype=torch.int64)
    last_pixel[1,](out, 2**17, WINDOW=8)
    assert out[-1] == 2**34 - 1 and out[0] == (2**17 - 8) * (2**17 + 1)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(
    ("dtype", "window", "head_dim"),
    [(torch.bfloat16, 8, 32), (torch.bfloat16, 8, 128), (torch.bfloat16, 16, 32), (torch.float32, 16, 64)],
)
def test_code_for_an_h100_fits_its_registers_and_memory(dtype, window, head_dim):
    example = torch.empty(1, 64, 64, 3, 6, head_dim, dtype=dtype, device="meta")
    _, blocks, options = retractable_triton._launch(example, 1, window)
    passes = ["backward"] if blocks == 1 else ["backward_queries", "backward_keys", "backward_bias"]
    for name in ["forward", *passes]:
        pointers = dict.fromkeys(("qkv", "out", "grad", "grad_qkv"), dtype)
        pointers |= dict.fromkeys(("bias", "grad_bias", "sums", "means"), torch.float32)
        shared, spilled, log = code_for_an_h100(getattr(retractable_triton, name), pointers=pointers, options=options)
        assert shared <= 100 * 1024, name  # bytes; consumer GPUs have 99 KiB, an H100 227
        # of 65536 registers' 262144 bytes; wrong launch options spill 10 to 100 times as much
        assert spilled <= 160, f"{name}: {log}"


@on_gpu
@pytest.mark.parametrize("interval", [1, 8])
def test_images_beyond_two_to_the_31_numbers_are_right_at_their_end(interval):
    side = 8 * interval
    height = width = math.ceil(2200 / side) * side
    if torch.cuda.mem_get_info()[0] < 24e9:
        pytest.skip("needs 24 GB")
    qkv = torch.randn(1, height, width, 3, 6, 32, device="cuda", dtype=torch.bfloat16)
    bias, arguments = torch.randn(6, 64, 64, device="cuda"), {"interval": interval, "backend": "triton"}
    assert qkv.numel() > 2**31
    corner = slice(None), slice(height - side, height), slice(width - side, width)
    grad = torch.zeros_like(qkv[:, :, :, 0])
    grad[corner] = 1
    out, grad_qkv, _ = gradients(qkv, bias, grad, **arguments)
    small = gradients(qkv[corner], bias, grad[corner], **arguments)
    assert torch.equal(out[corner], small[0]) and torch.equal(grad_qkv[corner], small[1])
