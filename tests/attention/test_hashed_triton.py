"""The kernels of the hashed attention against the noise model: on a GPU where there is one, else in Triton's
interpreter, and as code for an H100.
"""

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402 - after the check that it is there

from mptpn.attention import hashed_kernels as kernels  # noqa: E402
from mptpn.attention import hashed_triton  # noqa: E402
from mptpn.attention.hashed import attend, hashed_attention, rotations_from_seed, sorted_tokens  # noqa: E402
from mptpn.random import generator  # noqa: E402
from triton_house import CUDA, DEVICE, DTYPES, INTERPRETED, code_for_an_h100, on_gpu, passes_in_the_interpreter, runs  # noqa: E402

interpreted = pytest.mark.skipif(not INTERPRETED, reason="compiled kernels do not see the planted fault")
# batch, tokens, C, D, chunk, rounds: one token, fewer than a chunk, chunks of 1, an unfilled last chunk, several
# blocks, widths that are no power of two
SIZES = [
    (1, 1, 4, 4, 3, 2),
    (2, 5, 8, 8, 16, 2),
    (1, 21, 16, 16, 1, 3),
    (2, 37, 20, 24, 8, 3),
    (1, 70, 8, 12, 1, 1),
    (2, 150, 20, 40, 24, 2),
]
SIZES += [(1, 131, 66, 16, 40, 1)]
if CUDA:
    SIZES += [(1, 1000, 64, 256, 144, 4), (2, 577, 256, 256, 144, 2)]


def case(batch, n, features, width, chunk, rounds, *, dtype=torch.float32):
    """match, values, the gradient above, order and chunk; among the tokens one of length 0 and one so short that 5e-5
    divides it.
    """
    drawn = torch.randn(batch, n, features + 2 * width, generator=generator(n, width)).to(dtype)
    match, values, above = (x.contiguous().to(DEVICE) for x in drawn.split([features, width, width], dim=-1))
    if n > 2:
        match[0, 1], match[0, 2] = 0, match[0, 2] * 1e-6
    order = sorted_tokens(
        match, rotations=rotations_from_seed(0, rounds=rounds, features=features).to(DEVICE), chunk_size=chunk
    )
    return match, values, above, order, chunk


def results(match, values, above, order, chunk, *, backend="triton"):
    """Output and both gradients."""
    match, values = match.detach().requires_grad_(), values.detach().requires_grad_()
    out = attend(match, values, order, chunk_size=chunk, backend=backend)
    return out.detach(), *torch.autograd.grad(out, (match, values), above)


def worst_ratio(size, dtype):
    """Largest error against the noise model in float64, of output and gradients, relative to twice that of the noise
    model in the same dtype and half a unit in the last place.

    Half a unit in the last place of a number as large as the result (in the root mean square) is what writing down the
    exact result may cost: that much is no error, and among a few hundred numbers of few terms the noise model may be
    lucky and err by little more itself.
    """
    match, values, above, order, chunk = case(*size, dtype=dtype)
    exact = results(match.double(), values.double(), above.double(), order, chunk, backend="reference")
    both = (results(match, values, above, order, chunk, backend=backend) for backend in ("triton", "reference"))
    # where the truth is 0 an error below 1e-6 is none: a single token's weights are 1, and its slopes differences of
    # equal sums
    slack = [1e-6 if truth.norm() < 1e-9 else torch.finfo(dtype).eps / 2 * truth.norm() for truth in exact]
    return max(
        (ours - truth).norm() / (2 * (noise_model - truth).norm() + s)
        for ours, noise_model, truth, s in zip(*both, exact, slack, strict=True)
    )


@pytest.mark.skipif(CUDA or INTERPRETED, reason="is what runs the others")
def test_kernels_are_right_in_the_interpreter():
    passes_in_the_interpreter(__file__)


@runs
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rounding_error_is_at_most_twice_that_of_the_law(size, dtype):
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
    torch.testing.assert_close(
        results(*images, torch.ones((), device=DEVICE).expand(above.shape), order, chunk), expected, rtol=0, atol=0
    )


@runs
def test_constant_values_come_back():
    match, values, _, order, chunk = case(1, 70, 8, 12, 16, 3)
    out = attend(match, torch.full_like(values, 3.0), order, chunk_size=chunk, backend="triton")
    # weights of at most 48 keys, each to 6e-8 of itself, times 3, and their sum alike; and three rounds of them
    torch.testing.assert_close(out, torch.full_like(out, 3.0), rtol=0, atol=4 * 48 * 3 * 6e-8)


@runs
def test_large_logits_do_not_overflow():
    match, values, above, order, chunk = case(1, 37, 8, 12, 8, 2)
    given = 300 * match, values, above, order, chunk  # logits to 1000; one key takes all but a few parts in a hundred
    exact = results(*(x.double() for x in given[:3]), order, chunk, backend="reference")
    for ours, truth in zip(results(*given), exact, strict=True):
        assert (ours - truth).norm() <= 1e-3 * truth.norm()  # a logit of 1000 is exact to 6e-5


@runs
def test_compiles_without_a_graph_break():
    match, values, above, order, chunk = case(1, 37, 8, 12, 8, 2)
    eager = results(match, values, above, order, chunk)
    compiled = torch.compile(
        lambda m, v: attend(m, v, order, chunk_size=chunk, backend="triton"), fullgraph=True, backend="aot_eager"
    )
    match, values = match.requires_grad_(), values.requires_grad_()
    out = compiled(match, values)
    torch.testing.assert_close((out, *torch.autograd.grad(out, (match, values), above)), eager, rtol=0, atol=0)


@runs
def test_operators_keep_the_rules_of_pytorch():
    match, values, above, order, chunk = case(1, 5, 8, 12, 2, 2)
    out, total = hashed_triton.hashed(match, values, order, chunk)
    torch.library.opcheck(
        torch.ops.mptpn.hashed_attention,
        (match.clone().requires_grad_(), values.clone().requires_grad_(), order, chunk),
    )
    torch.library.opcheck(torch.ops.mptpn.hashed_attention_backward, (above, match, values, order, out, total, chunk))


@runs
def test_autocast_computes_in_its_dtype_and_mixed_dtypes_in_the_wider():
    match, values, above, order, chunk = case(1, 5, 8, 12, 2, 2)
    with torch.autocast(DEVICE, torch.float16):
        given = match.half().requires_grad_(), values.clone().requires_grad_()
        out = attend(*given, order, chunk_size=chunk, backend="triton")
        grads = torch.autograd.grad(out, given, above.half())
    expected = results(match.half(), values.half(), above.half(), order, chunk)
    assert (
        torch.equal(out, expected[0])
        and torch.equal(grads[0], expected[1])
        and torch.equal(grads[1], expected[2].float())
    )
    assert attend(match.half(), values, order, chunk_size=chunk, backend="triton").dtype == torch.float32


@runs
def test_the_network_is_the_same_by_kernels():
    from mptpn.super_resolution.network import HashedAttention

    torch.manual_seed(0)
    part = HashedAttention(16, chunk_size=16, n_hashes=2, seed=0, number=0, res_scale=0.1, backend="triton").to(DEVICE)
    image = torch.randn(1, 16, 5, 9, generator=generator(0)).to(DEVICE)
    ours, part.backend = part(image), "reference"
    torch.testing.assert_close(ours, part(image), rtol=0, atol=1e-5)


right_span = kernels._span


@triton.jit
def all_seen(logits, most, row_chunks, column_chunks):
    return tl.exp(logits - most)


@triton.jit
def own_chunk_alone(block, tokens, chunk, BLOCK: tl.constexpr):
    first, stop = right_span(block, tokens, chunk, BLOCK)
    return tl.minimum(first + chunk, stop - 1), stop


@runs
@interpreted
@pytest.mark.parametrize(
    ("name", "fault"), [("_weights", all_seen), ("_span", own_chunk_alone)], ids=["no mask", "a chunk too late"]
)
def test_a_planted_fault_is_caught(name, fault, monkeypatch):
    monkeypatch.setattr(kernels, name, fault)
    assert worst_ratio((1, 45, 8, 8, 8, 1), torch.float32) > 100


@pytest.mark.skipif(CUDA or INTERPRETED, reason="the kernels run here")
def test_kernels_on_a_cpu_are_refused_with_a_reason():
    match, values, _, order, chunk = case(1, 5, 8, 12, 2, 2)
    with pytest.raises(RuntimeError, match="needs a GPU; match is on cpu, and TRITON_INTERPRET=1 was not set"):
        attend(match, values, order, chunk_size=chunk, backend="triton")


@runs
@pytest.mark.parametrize(
    ("features", "width", "dtype"), [(300, 8, torch.float32), (8, 257, torch.float32), (8, 8, torch.float64)]
)
def test_what_kernels_do_not_take_is_refused_and_auto_finds_another_way(features, width, dtype):
    match, values, _, order, chunk = case(1, 5, features, width, 2, 2, dtype=dtype)
    with pytest.raises(ValueError, match=f"up to 256 features; got .*{features} and {width}"):
        attend(match, values, order, chunk_size=chunk, backend="triton")
    assert attend(match, values, order, chunk_size=chunk).shape == values.shape


WIDTHS = [
    (torch.bfloat16, 64, 256),
    (torch.bfloat16, 20, 60),
    (torch.bfloat16, 256, 256),
    (torch.float32, 64, 256),
    (torch.float32, 16, 64),
]


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.parametrize(("dtype", "features", "width"), WIDTHS, ids=str)
def test_code_for_an_h100_fits_its_registers_and_memory(dtype, features, width):
    widths, launches = hashed_triton._options(
        *(torch.empty(1, 64, x, dtype=dtype, device="meta") for x in (features, width))
    )
    pointers = dict.fromkeys(("sums", "total", "means", "lengths"), torch.float32) | {"order": torch.int64}
    pointers |= dict.fromkeys(
        ("match", "values", "outs", "out", "grad", "grad_queries", "grad_keys", "grad_values"), dtype
    )
    for name, chosen in launches.items():
        options, launch = (
            widths | {key: chosen[key] for key in ("QUERIES", "KEYS")},
            {key: chosen[key] for key in ("num_warps", "num_stages")},
        )
        shared, spilled, log = code_for_an_h100(
            getattr(kernels, name), pointers=pointers, options=options, launch=launch
        )
        # bytes; an H100's multiprocessor has 228 KiB, of which 1 a program is reserved: two programs, or one of 256
        # features
        assert shared <= (113 * 1024 if features <= 64 else 227 * 1024), name
        # of a thread's 1020 bytes of registers; at C 64, D 256 nearly all lie outside the loops (nvdisasm); wrong
        # options spill 800 to 7000
        assert spilled <= 320, f"{name}: {log}"


@on_gpu
def test_a_large_image_in_bfloat16_is_as_exact_as_the_gathered_form():
    given = case(1, 96 * 96, 64, 256, 144, 4, dtype=torch.bfloat16)
    exact = results(*(x.double() for x in given[:3]), *given[3:], backend="chunked")
    both = (results(*given, backend=backend) for backend in ("triton", "gathered"))
    for ours, theirs, truth in zip(*both, exact, strict=True):
        assert (ours - truth).norm() <= 2 * (theirs - truth).norm()


@on_gpu
def test_memory_is_the_rounds_results_and_no_logits():
    match, values, _, order, chunk = case(1, 96 * 96, 64, 256, 144, 4, dtype=torch.bfloat16)
    attend(match, values, order, chunk_size=chunk, backend="triton")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    attend(match, values, order, chunk_size=chunk, backend="triton")
    assert torch.cuda.max_memory_allocated() - before <= 1.05 * 5 * values.nbytes


@on_gpu
def test_a_captured_graph_gives_the_same_bits():
    match, values, _, _, chunk = case(1, 48 * 48, 64, 256, 144, 4, dtype=torch.bfloat16)
    settings = {
        "rotations": rotations_from_seed(0, rounds=4, features=64).cuda(),
        "chunk_size": chunk,
        "backend": "triton",
    }
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        eager = hashed_attention(match, values, **settings)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = hashed_attention(match, values, **settings)
    graph.replay()
    assert torch.equal(out, eager)
