"""The attention against its definition, written as loops over pixels."""

import itertools
import time

import pytest
import torch

from mptpn.attention import retractable
from mptpn.attention.retractable import DynamicPositionBias, RelativePositionBias, retractable_attention

# H, W, interval, window
SIZES = [(1, 1, 1, 4), (1, 9, 4, 4), (7, 13, 2, 4), (16, 8, 1, 4), (9, 5, 3, 2), (17, 11, 1, 8), (10, 6, 16, 4)]
# float64 rounding of sums over at most 64 numbers of size 1-10: below 64 * 10 * 2.2e-16
EXACT = {"rtol": 0, "atol": 1.4e-13}


def by_definition(qkv, bias, *, interval, window):
    """Every pixel looks up the pixels of its group, one by one."""
    height, width, side = *qkv.shape[1:3], window * interval
    group = {(h, w): (h // side, h % interval, w // side, w % interval) for h in range(height) for w in range(width)}
    place = {(h, w): h % side // interval * window + w % side // interval for h, w in group}
    out = torch.empty_like(qkv[:, :, :, 0])
    for (h, w), name in group.items():
        mates = [pixel for pixel, other in group.items() if other == name]
        keys, values = (torch.stack([qkv[:, i, j, part] for i, j in mates], 2) for part in (1, 2))
        logits = (qkv[:, h, w, 0, :, None] * keys).sum(-1) * qkv.shape[-1] ** -0.5
        logits = logits + torch.stack([bias[:, place[h, w], place[pixel]] for pixel in mates], -1)
        out[:, h, w] = (logits.softmax(-1)[..., None] * values).sum(2)
    return out


def example(height, width, window, *, batch=2, heads=3, head_dim=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, height, width, 3, heads, head_dim, dtype=torch.float64, generator=generator)
    bias = torch.randn(heads, window**2, window**2, dtype=torch.float64, generator=generator)
    return qkv.to(dtype), bias.to(dtype)


def gradients(qkv, bias, grad, **grouping):
    qkv, bias = qkv.detach().requires_grad_(), bias.detach().requires_grad_()
    out = retractable_attention(qkv, bias, **grouping)
    return out.detach(), *torch.autograd.grad(out, (qkv, bias), grad)


def upstream(qkv):
    return torch.randn(qkv[:, :, :, 0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).to(
        qkv.dtype
    )


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_and_gradients_follow_the_definition(size, backend):
    height, width, interval, window = size
    qkv, bias = (tensor.requires_grad_() for tensor in example(height, width, window))
    expected = by_definition(qkv, bias, interval=interval, window=window)
    expected = expected, *torch.autograd.grad(expected, (qkv, bias), upstream(qkv))
    got = gradients(qkv, bias, upstream(qkv), interval=interval, window=window, backend=backend)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(41, 27, 2, 8), (32, 32, 1, 4)], ids=str)
def test_rounding_error_is_at_most_twice_that_of_plain_pytorch(size, dtype):
    height, width, interval, window = size
    qkv, bias = example(height, width, window, head_dim=30, dtype=dtype)
    arguments = {"interval": interval, "window": window}
    exact = gradients(qkv.double(), bias.double(), upstream(qkv).double(), **arguments, backend="reference")
    plain = gradients(qkv, bias, upstream(qkv), **arguments, backend="reference")
    fused = gradients(qkv, bias, upstream(qkv), **arguments, backend="sdpa")
    for name, truth, theirs, ours in zip(("out", "qkv", "bias"), exact, plain, fused, strict=True):
        error, allowed = (ours - truth).square().mean().sqrt(), 2 * (theirs - truth).square().mean().sqrt()
        assert error <= allowed, f"{name}: {error:.2e} against {allowed:.2e}"


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_sparse_is_dense_after_regrouping(backend):
    window, interval = 4, 3
    qkv, bias = example(24, 12, window, dtype=torch.float32)
    gather = torch.arange(24 * 12).view(1, 24, 12, 1)
    # rows, phase, cols, phase
    gather = retractable._partition(gather, interval, window)[0].view(2, interval, 1, interval, window, window)
    order = gather.permute(0, 1, 4, 2, 3, 5).reshape(24, 12)  # every sparse group becomes a dense window
    sparse = retractable_attention(qkv, bias, interval=interval, window=window, backend=backend)
    dense = retractable_attention(qkv.flatten(1, 2)[:, order], bias, interval=1, window=window, backend=backend)
    assert torch.equal(sparse.flatten(1, 2)[:, order], dense)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_constant_values_come_back(size, backend):
    height, width, interval, window = size
    qkv, bias = example(height, width, window)
    qkv[:, :, :, 2] = 3.0
    out = retractable_attention(qkv, bias, interval=interval, window=window, backend=backend)
    torch.testing.assert_close(out, torch.full_like(out, 3.0), **EXACT)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_memory_beyond_the_edge_has_no_influence(backend):
    qkv, bias = example(13, 11, 4)
    frame = torch.full((2, 20, 20, 3, 3, 8), torch.nan, dtype=torch.float64)
    frame[:, 3:16, 5:16] = qkv
    got = retractable_attention(frame[:, 3:16, 5:16], bias, interval=2, window=4, backend=backend)
    torch.testing.assert_close(got, by_definition(qkv, bias, interval=2, window=4), **EXACT)


def test_a_pixel_outside_the_group_has_gradient_exactly_zero():
    qkv, bias = example(19, 17, 4)
    qkv.requires_grad_()
    out = retractable_attention(qkv, bias, interval=2, window=4)
    (grad,) = torch.autograd.grad(out[:, 9, 3].sum(), qkv)
    touched = grad.abs().amax((0, 3, 4, 5)) > 0
    expected = torch.zeros(19, 17, dtype=torch.bool)
    expected[9:16:2, 1:8:2] = True
    assert torch.equal(touched, expected)


def test_nothing_is_remembered_from_a_smaller_image():
    (small, bias), (large, _) = example(5, 3, 4), example(37, 21, 4)
    first = retractable_attention(large, bias, interval=4, window=4)
    retractable_attention(small, bias, interval=4, window=4)
    assert torch.equal(retractable_attention(large, bias, interval=4, window=4), first)


def test_spans_meet_every_position_exactly_once():
    for length, interval, window in itertools.product(range(1, 60), (1, 2, 3, 5, 16), (2, 3, 4)):
        seen = [
            start + group * window * interval + phase + token * interval
            for start, groups, phases, tokens in retractable._spans(length, interval, window)
            for group, phase, token in itertools.product(range(groups), range(phases), range(tokens))
        ]
        assert sorted(seen) == list(range(length))


def test_a_missing_mask_is_caught(monkeypatch):
    monkeypatch.setattr(
        retractable, "_inside", lambda qkv, interval, window: torch.ones(1, window**2, dtype=torch.bool)
    )
    with pytest.raises(AssertionError):
        test_output_and_gradients_follow_the_definition((7, 13, 2, 4), "reference")


def test_swapped_strides_are_caught(monkeypatch):
    right = retractable._groups
    monkeypatch.setattr(
        retractable, "_groups", lambda image, row, col, *grouping: right(image, row, col, *grouping).transpose(5, 6)
    )
    with pytest.raises(AssertionError):
        test_output_and_gradients_follow_the_definition((16, 8, 1, 4), "sdpa")


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_compiles_without_a_graph_break(backend):
    qkv, bias = example(13, 7, 4, dtype=torch.float32)
    grouping = {"interval": 2, "window": 4, "backend": backend}
    eager = gradients(qkv, bias, upstream(qkv), **grouping)
    compiled = torch.compile(lambda q, b: retractable_attention(q, b, **grouping), fullgraph=True, backend="aot_eager")
    qkv, bias = qkv.requires_grad_(), bias.requires_grad_()
    out = compiled(qkv, bias)
    # the same kernels on the same numbers; a few float32 roundings where the order differs
    torch.testing.assert_close(
        (out, *torch.autograd.grad(out, (qkv, bias), upstream(qkv))), eager, rtol=1e-5, atol=1e-6
    )


def test_operators_keep_the_rules_of_pytorch():
    qkv, bias = example(7, 5, 4, dtype=torch.float32)
    torch.library.opcheck(torch.ops.mptpn.sdpa_attention, (qkv.requires_grad_(), bias.requires_grad_(), 2, 4))
    torch.library.opcheck(torch.ops.mptpn.sdpa_attention_backward, (upstream(qkv), qkv.detach(), bias.detach(), 2, 4))


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_autocast_computes_in_its_dtype(backend):
    qkv, bias = example(9, 5, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = retractable_attention(qkv, bias, interval=1, window=4, backend=backend)
    assert torch.equal(out, retractable_attention(qkv.bfloat16(), bias, interval=1, window=4, backend=backend))


def extra_bytes(height, width):
    """Peak memory of a forward and backward pass beyond what it returns, bytes."""
    qkv, bias = example(height, width, 8, batch=1, dtype=torch.float32)
    with torch.profiler.profile(profile_memory=True) as profile:
        kept = gradients(qkv, bias, torch.ones(()).expand(qkv[:, :, :, 0].shape), interval=4, backend="sdpa")
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(steps)) - sum(tensor.nbytes for tensor in kept)


def test_working_memory_does_not_grow_with_the_image(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the buffers grow with it
    small, large = extra_bytes(128, 96), extra_bytes(256, 192)
    # buffers are of one chunk of groups; only the last chunk's size may differ
    assert 0 < large <= 1.1 * small


def test_a_large_group_gives_the_same_with_its_heads_apart(monkeypatch):
    """32 x 32 tokens make a million weights a head: more than one head at a time would leave the cache."""
    qkv, bias = example(33, 35, 32, batch=1)
    pieces = list(retractable._chunks((qkv,), (bias,), 1, 32))
    assert max(part.shape[0] * (views.shape[5] * views.shape[6]) ** 2 for (views,), (part,) in pieces) <= max(
        32**4, 2**19 * torch.get_num_threads()
    )
    plain = gradients(qkv, bias, upstream(qkv), interval=1, window=32, backend="reference")
    # sums over 1024 numbers of size 1 to 10, float64: below 1024 * 10 * 2.2e-16
    torch.testing.assert_close(
        gradients(qkv, bias, upstream(qkv), interval=1, window=32, backend="sdpa"), plain, rtol=0, atol=2.3e-12
    )


@pytest.mark.parametrize(
    ("size", "gradient", "used"),
    [(32, True, "reference"), (32, False, "sdpa"), (30, True, "sdpa"), (128, True, "sdpa")],
    ids=str,
)
def test_auto_keeps_the_weights_only_where_that_is_faster(monkeypatch, size, gradient, used):
    qkv, bias = example(size, size, 8, batch=1, heads=6, dtype=torch.float32)
    called = []
    for name in ("reference", "sdpa"):
        function = getattr(retractable, f"_{name}")
        monkeypatch.setattr(
            retractable,
            f"_{name}",
            lambda *arguments, name=name, function=function: called.append(name) or function(*arguments),
        )
    retractable_attention(qkv.requires_grad_(gradient), bias, interval=1)
    assert called == [used]


def cpu_seconds(backend, *, side, window):
    qkv, bias = example(side, side, window, batch=1, dtype=torch.float32)
    grad, seconds = upstream(qkv), []
    for _ in range(3):
        start = time.thread_time()
        gradients(qkv, bias, grad, interval=1, window=window, backend=backend)
        seconds.append(time.thread_time() - start)
    return min(seconds)


@pytest.mark.parametrize(("side", "window"), [(96, 8), (64, 32)])
def test_sdpa_is_never_slower_than_plain_pytorch(side, window):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the time of this thread, which other processes do not stretch
    try:
        # measured: 0.4 to 0.6 of it
        assert cpu_seconds("sdpa", side=side, window=window) <= cpu_seconds("reference", side=side, window=window)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "module", [RelativePositionBias(3, window=4), DynamicPositionBias(3, window=4, dim=6)], ids=["relative", "dynamic"]
)
def test_position_bias_depends_on_the_offset_alone(module):
    bias = module().view(3, 4, 4, 4, 4)  # head, query row, query col, key row, key col
    assert torch.equal(bias[:, 1:, :, 1:], bias[:, :-1, :, :-1])
    assert torch.equal(bias[:, :, 1:, :, 1:], bias[:, :, :-1, :, :-1])
    assert bias.flatten(1).unique(dim=1).shape[1] == 7**2  # and every offset has its own number
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(bias.square().sum(), list(module.parameters())))
    assert module.state_dict().keys() == dict(module.named_parameters()).keys()


QKV, BIAS = torch.zeros(1, 4, 4, 3, 2, 8), torch.zeros(2, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"qkv": QKV[0]}, r"got \[4, 4, 3, 2, 8\]"),
        ({"qkv": QKV[:, :0]}, r"got \[1, 0, 4, 3, 2, 8\]"),
        ({"qkv": QKV.int()}, "got torch.int32"),
        ({"qkv": QKV[..., :7]}, "8 to 128; got 7"),
        ({"bias": BIAS[:1]}, r"\[2, 64, 64\], .* got \[1, 64, 64\]"),
        ({"bias": BIAS.to("meta")}, "cpu; got meta"),
        ({"window": 33}, "got window 33"),
        ({"interval": 0}, "interval 0"),
        ({"backend": "flash"}, "got 'flash'"),
    ],
)
def test_a_wrong_argument_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        retractable_attention(**{"qkv": QKV, "bias": BIAS, "interval": 1, **arguments})


@pytest.mark.parametrize(
    ("installed", "said"), [(False, "package triton is not installed"), (True, "needs a GPU; qkv is on cpu")]
)
def test_triton_says_what_is_missing(monkeypatch, installed, said):
    monkeypatch.setattr(retractable, "TRITON_INSTALLED", installed)
    monkeypatch.setattr(retractable, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match=said):
        retractable_attention(QKV, BIAS, interval=1, backend="triton")
