"""Triton kernels of hashed attention against the definition: on a GPU, else interpreted; and as code for an H100."""

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402 - after the check that it is there
from triton_house import CUDA, DEVICE, DTYPES, INTERPRETED, code_for_an_h100, on_gpu, runs  # noqa: E402

from mptpn.attention import hashed_triton, rotations_from_seed  # noqa: E402
from mptpn.attention.hashed import attend, sorted_tokens  # noqa: E402
from mptpn.random import generator  # noqa: E402

# batch, tokens, C, D, chunk, rounds: fewer tokens than a chunk, chunks of 1, an unfilled last chunk, several blocks
SIZES = [(2, 5, 8, 8, 16, 2), (1, 21, 16, 16, 1, 3), (2, 37, 20, 24, 8, 3), (1, 131, 66, 16, 40, 1)]
if CUDA:
    SIZES += [(1, 1000, 64, 256, 144, 4), (2, 577, 256, 256, 144, 2)]


def case(batch, n, features, width, chunk, rounds, *, dtype=torch.float32):
    """match, values, the gradient above, order and chunk; one token has length 0, one is shorter than 5e-5."""
    drawn = torch.randn(batch, n, features + 2 * width, generator=generator(n, width)).to(dtype)
    match, values, above = (x.contiguous().to(DEVICE) for x in drawn.split([features, width, width], dim=-1))
    match[0, 1], match[0, 2] = 0, match[0, 2] * 1e-6
    rotations = rotations_from_seed(0, rounds=rounds, features=features).to(DEVICE)
    return match, values, above, sorted_tokens(match, rotations=rotations, chunk_size=chunk), chunk


def results(match, values, above, order, chunk, *, backend="triton"):
    """Output and both gradients."""
    match, values = match.detach().requires_grad_(), values.detach().requires_grad_()
    out = attend(match, values, order, chunk_size=chunk, backend=backend)
    return out.detach(), *torch.autograd.grad(out, (match, values), above)


def worst_ratio(size, dtype):
    """Largest error against float64, of output and gradients, relative to what is allowed.

    That is twice the error of the definition in the same dtype, and half a unit in the last place of a number as large
    as the result, which is what writing down the exact result may cost.
    """
    match, values, above, order, chunk = case(*size, dtype=dtype)
    exact = results(match.double(), values.double(), above.double(), order, chunk, backend="reference")
    both = (results(match, values, above, order, chunk, backend=backend) for backend in ("triton", "reference"))
    return max(
        (ours - truth).norm() / (2 * (theirs - truth).norm() + torch.finfo(dtype).eps / 2 * truth.norm())
        for ours, theirs, truth in zip(*both, exact, strict=True)
    )


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rounding_error_is_at_most_twice_that_of_the_definition(size, dtype):
    assert worst_ratio(size, dtype) <= 1


@runs
def test_the_same_call_gives_the_same_bits():
    given = case(2, 150, 20, 40, 24, 2, dtype=torch.float16)
    assert all(torch.equal(first, again) for first, again in zip(results(*given), results(*given), strict=True))


@runs
def test_views_and_expanded_gradients_are_read_right():
    match, values, above, order, chunk = case(2, 37, 8, 16, 8, 2)
    images = [x.mT.contiguous().mT for x in (match, values)]  # as convolutions give them
    expected = results(match, values, torch.ones_like(above), order, chunk)
    found = results(*images, torch.ones((), device=DEVICE).expand(above.shape), order, chunk)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@runs
def test_large_logits_do_not_overflow():
    match, values, above, order, chunk = case(1, 37, 8, 12, 8, 2)
    given = 300 * match, values, above  # logits to 1000; one key takes all but a few parts in a hundred
    exact = results(*(x.double() for x in given), order, chunk, backend="reference")
    for ours, truth in zip(results(*given, order, chunk), exact, strict=True):
        assert (ours - truth).norm() <= 1e-3 * truth.norm()  # a logit of 1000 is exact to 6e-5


@runs
def test_operators_keep_the_rules_of_pytorch():
    match, values, above, order, chunk = case(1, 5, 8, 12, 2, 2)
    out, total = hashed_triton.hashed(match, values, order, chunk)
    given = [x.clone().requires_grad_() for x in (match, values)]
    torch.library.opcheck(torch.ops.mptpn.hashed_attention, (*given, order, chunk))
    torch.library.opcheck(torch.ops.mptpn.hashed_attention_backward, (above, match, values, order, out, total, chunk))


@runs
def test_autocast_computes_in_its_dtype_and_mixed_dtypes_in_the_wider():
    match, values, above, order, chunk = case(1, 5, 8, 12, 2, 2)
    with torch.autocast(DEVICE, torch.float16):
        given = match.half().requires_grad_(), values.clone().requires_grad_()
        out = attend(*given, order, chunk_size=chunk, backend="triton")
        found = out, *torch.autograd.grad(out, given, above.half())
    expected = results(match.half(), values.half(), above.half(), order, chunk)
    assert all(torch.equal(ours, theirs.to(ours.dtype)) for ours, theirs in zip(found, expected, strict=True))
    assert attend(match.half(), values, order, chunk_size=chunk, backend="triton").dtype == torch.float32


right_span = hashed_triton._span


@triton.jit
def all_seen(logits, most, row_chunks, column_chunks):
    return tl.exp(logits - most)


@triton.jit
def own_chunk_alone(block, tokens, chunk, BLOCK: tl.constexpr):
    first, stop = right_span(block, tokens, chunk, BLOCK)
    return tl.minimum(first + chunk, stop - 1), stop


@pytest.mark.skipif(not INTERPRETED, reason="compiled kernels do not see the planted fault")
@pytest.mark.parametrize(("name", "fault"), [("_weights", all_seen), ("_span", own_chunk_alone)])
def test_a_planted_fault_is_caught(name, fault, monkeypatch):
    monkeypatch.setattr(hashed_triton, name, fault)
    assert worst_ratio((1, 45, 8, 8, 8, 1), torch.float32) > 100


@pytest.mark.skipif(CUDA or INTERPRETED, reason="the kernels run here")
def test_kernels_on_a_cpu_are_refused_with_a_reason():
    match, values, _, order, chunk = case(1, 5, 8, 12, 2, 2)
    with pytest.raises(RuntimeError, match="match is on cpu"):
        attend(match, values, order, chunk_size=chunk, backend="triton")


@runs
@pytest.mark.parametrize(("features", "width", "dtype"), [(300, 8, torch.float32), (8, 8, torch.float64)])
def test_what_kernels_do_not_take_is_refused_and_auto_finds_another_way(features, width, dtype):
    match, values, _, order, chunk = case(1, 5, features, width, 2, 2, dtype=dtype)
    with pytest.raises(ValueError, match=f"{dtype}.* {features} and {width}"):
        attend(match, values, order, chunk_size=chunk, backend="triton")
    assert attend(match, values, order, chunk_size=chunk).shape == values.shape


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(
    ("dtype", "features", "width"), [(torch.bfloat16, 64, 256), (torch.bfloat16, 256, 256), (torch.float32, 64, 256)]
)
def test_code_for_an_h100_fits_its_registers_and_memory(dtype, features, width):
    rows = (torch.empty(1, 64, x, dtype=dtype, device="meta") for x in (features, width))
    widths, launches = hashed_triton._options(*rows)
    pointers = dict.fromkeys(("sums", "total", "means", "lengths"), torch.float32) | {"order": torch.int64}
    names = ("match", "values", "outs", "out", "grad", "grad_queries", "grad_keys", "grad_values")
    for name, chosen in launches.items():
        shared, spilled, log = code_for_an_h100(
            getattr(hashed_triton, name), pointers=pointers | dict.fromkeys(names, dtype), options=widths | chosen
        )
        # bytes; an H100's multiprocessor has 228 KiB, 1 a program is reserved: two programs, or one of 256 features
        assert shared <= (113 * 1024 if features <= 64 else 227 * 1024), name
        # of a thread's 1020 bytes of registers; at C 64, D 256 nearly all outside the loops; wrong options spill 800
        assert spilled <= 320, f"{name}: {log}"


@on_gpu
def test_a_large_image_in_bfloat16_is_as_exact_as_the_gathered_form():
    given = case(1, 96 * 96, 64, 256, 144, 4, dtype=torch.bfloat16)
    exact = results(*(x.double() for x in given[:3]), *given[3:], backend="chunked")
    both = (results(*given, backend=backend) for backend in ("triton", "gathered"))
    for ours, theirs, truth in zip(*both, exact, strict=True):
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm()
