"""Retractable attention against its definition, written as loops over pixels."""

import itertools

import pytest
import torch

from mptpn.attention import DynamicPositionBias, RelativePositionBias, backend, retractable_attention, retractable_torch

# H, W, interval, window
SIZES = [(1, 9, 4, 4), (7, 13, 2, 4), (16, 8, 1, 4), (17, 11, 1, 8)]
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
    """Output and both gradients."""
    qkv, bias = qkv.detach().requires_grad_(), bias.detach().requires_grad_()
    out = retractable_attention(qkv, bias, **grouping)
    return out.detach(), *torch.autograd.grad(out, (qkv, bias), grad)


def upstream(qkv):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(qkv[:, :, :, 0].shape, dtype=torch.float64, generator=generator).to(qkv)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_and_gradients_follow_the_definition(size, backend):
    height, width, interval, window = size
    qkv, bias = (tensor.requires_grad_() for tensor in example(height, width, window))
    expected = by_definition(qkv, bias, interval=interval, window=window)
    expected = expected, *torch.autograd.grad(expected, (qkv, bias), upstream(qkv))
    got = gradients(qkv, bias, upstream(qkv), interval=interval, window=window, backend=backend)
    torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize(
    ("backend", "name", "fault", "size"),
    [
        ("reference", "_inside", lambda qkv, interval, window: torch.ones(1, window**2, dtype=bool), (7, 13, 2, 4)),
        ("sdpa", "_groups", lambda *given, right=retractable_torch._groups: right(*given).transpose(5, 6), SIZES[2]),
    ],
    ids=["missing mask", "swapped strides"],
)
def test_a_planted_fault_is_caught(monkeypatch, backend, name, fault, size):
    monkeypatch.setattr(retractable_torch, name, fault)
    with pytest.raises(AssertionError):
        test_output_and_gradients_follow_the_definition(size, backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rounding_error_is_at_most_twice_that_of_plain_pytorch(dtype):
    qkv, bias = example(41, 27, 8, head_dim=30, dtype=dtype)
    exact = gradients(qkv.double(), bias.double(), upstream(qkv).double(), interval=2, backend="reference")
    plain, fused = (gradients(qkv, bias, upstream(qkv), interval=2, backend=name) for name in ("reference", "sdpa"))
    for name, truth, theirs, ours in zip(("out", "qkv", "bias"), exact, plain, fused, strict=True):
        error, allowed = (ours - truth).square().mean().sqrt(), 2 * (theirs - truth).square().mean().sqrt()
        assert error <= allowed, f"{name}: {error:.2e} against {allowed:.2e}"


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_sparse_is_dense_after_regrouping(backend):
    window, interval = 4, 3
    qkv, bias = example(24, 12, window, dtype=torch.float32)
    # window, token, phase along h; along w
    pixels = torch.arange(24 * 12).view(2, window, interval, 1, window, interval)
    order = pixels.permute(0, 2, 1, 3, 5, 4).reshape(24, 12)  # every sparse group becomes a dense window
    sparse = retractable_attention(qkv, bias, interval=interval, window=window, backend=backend)
    dense = retractable_attention(qkv.flatten(1, 2)[:, order], bias, interval=1, window=window, backend=backend)
    assert torch.equal(sparse.flatten(1, 2)[:, order], dense)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_memory_beyond_the_edge_has_no_influence(backend):
    qkv, bias = example(13, 11, 4)
    frame = torch.full((2, 20, 20, 3, 3, 8), torch.nan, dtype=torch.float64)
    frame[:, 3:16, 5:16] = qkv
    got = retractable_attention(frame[:, 3:16, 5:16], bias, interval=2, window=4, backend=backend)
    torch.testing.assert_close(got, by_definition(qkv, bias, interval=2, window=4), **EXACT)


def test_a_pixel_outside_the_group_has_gradient_exactly_zero():
    qkv, bias = example(19, 17, 4)
    out = retractable_attention(qkv.requires_grad_(), bias, interval=2, window=4)
    (grad,) = torch.autograd.grad(out[:, 9, 3].sum(), qkv)
    expected = torch.zeros(19, 17, dtype=torch.bool)
    expected[9:16:2, 1:8:2] = True
    assert torch.equal(grad.abs().amax((0, 3, 4, 5)) > 0, expected)


@pytest.mark.slow
def test_operators_keep_the_rules_of_pytorch():
    qkv, bias = example(7, 5, 4, dtype=torch.float32)
    torch.library.opcheck(torch.ops.mptpn.sdpa_attention, (qkv.requires_grad_(), bias.requires_grad_(), 2, 4))
    torch.library.opcheck(torch.ops.mptpn.sdpa_attention_backward, (upstream(qkv), qkv.detach(), bias.detach(), 2, 4))


def test_autocast_computes_in_its_dtype():
    qkv, bias = example(9, 5, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = retractable_attention(qkv, bias, interval=1, window=4)
    assert torch.equal(out, retractable_attention(qkv.bfloat16(), bias, interval=1, window=4))


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
    # buffers are of one chunk of groups; only the last chunk's size may differ
    assert 0 < extra_bytes(256, 192) <= 1.1 * extra_bytes(128, 96)


def test_a_large_group_gives_the_same_with_its_heads_apart():
    """32 x 32 tokens make a million weights a head: more than one head at a time would leave the cache."""
    qkv, bias = example(33, 35, 32, batch=1)
    pieces = list(retractable_torch._chunks((qkv,), (bias,), 1, 32))
    at_once = max(part.shape[0] * (views.shape[5] * views.shape[6]) ** 2 for (views,), (part,) in pieces)
    assert at_once <= max(32**4, 2**19 * torch.get_num_threads())
    fused, plain = (
        gradients(qkv, bias, upstream(qkv), interval=1, window=32, backend=name) for name in ("sdpa", "reference")
    )
    # sums over 1024 numbers of size 1 to 10, float64: below 1024 * 10 * 2.2e-16
    torch.testing.assert_close(fused, plain, rtol=0, atol=2.3e-12)


@pytest.mark.parametrize(
    ("size", "gradient", "used"),
    [(32, True, "reference"), (32, False, "sdpa"), (30, True, "sdpa"), (128, True, "sdpa")],
)
def test_auto_keeps_the_weights_only_where_that_is_faster(monkeypatch, size, gradient, used):
    qkv, bias = example(size, size, 8, batch=1, heads=6, dtype=torch.float32)
    for name in ("reference", "sdpa"):
        monkeypatch.setattr(retractable_torch, name, lambda *_, name=name: name)
    assert retractable_attention(qkv.requires_grad_(gradient), bias, interval=1) == used


@pytest.mark.parametrize("kind", [RelativePositionBias, DynamicPositionBias])
def test_position_bias_depends_on_the_offset_alone(kind):
    module = kind(3, window=4)
    bias = module().view(3, 4, 4, 4, 4)  # head, query row, query col, key row, key col
    assert torch.equal(bias[:, 1:, :, 1:], bias[:, :-1, :, :-1])
    assert torch.equal(bias[:, :, 1:, :, 1:], bias[:, :, :-1, :, :-1])
    assert bias.flatten(1).unique(dim=1).shape[1] == 7**2  # and every offset has its own number
    assert all(grad.abs().sum() > 0 for grad in torch.autograd.grad(bias.square().sum(), list(module.parameters())))
    assert module.state_dict().keys() == dict(module.named_parameters()).keys()


QKV, BIAS = torch.zeros(1, 4, 4, 3, 2, 8), torch.zeros(2, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"qkv": QKV[0]}, r"\[4, 4, 3, 2, 8\]"),
        ({"qkv": QKV[:, :0]}, r"\[1, 0, 4, 3, 2, 8\]"),
        ({"qkv": QKV.int()}, "int32"),
        ({"qkv": QKV[..., :7]}, "7"),
        ({"bias": BIAS[:1]}, r"\[1, 64, 64\]"),
        ({"bias": BIAS.to("meta")}, "meta"),
        ({"window": 33}, "33"),
        ({"interval": 0}, "interval 0"),
        ({"backend": "flash"}, "'flash'"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        retractable_attention(**{"qkv": QKV, "bias": BIAS, "interval": 1, **arguments})


@pytest.mark.parametrize(("installed", "message"), [(False, "not installed"), (True, "qkv is on cpu")])
def test_triton_says_what_is_missing(monkeypatch, installed, message):
    monkeypatch.setattr(backend, "TRITON_INSTALLED", installed)
    monkeypatch.setattr(backend, "INTERPRETED", False)
    with pytest.raises(RuntimeError, match=message):
        retractable_attention(QKV, BIAS, interval=1, backend="triton")
