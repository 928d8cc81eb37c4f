"""Time and memory of the attention and of whole networks, beside the floors of memory traffic and arithmetic.

Every call is first compared with float64, and only timed if its error is that of rounding.
"""

import itertools
import math
import statistics
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mptpn.attention import DynamicPositionBias, retractable_attention, whole_image_attention
from mptpn.networks import RetractableTransformer
from mptpn.networks.block import Block
from mptpn.random import seeded
from support import timing

# a backend's second word, as in "triton graphs": how torch.compile treats it
COMPILE_MODES = {"compiled": "default", "graphs": "reduce-overhead"}
NETWORKS = {  # arguments of RetractableTransformer
    "ART": {},
    "ART, thin": {"widths": (32,), "intervals": ((8, 4),), "blocks": 2, "head_dim": 16},
    "multi-scale, 5 M": {"widths": (48, 96, 192), "intervals": ((8, 4), (4, 2), (2,)), "blocks": 4, "head_dim": 24},
}
MIB = 2**20
CORNER = 32  # px, least side of the corner that is compared with float64


def attend(
    qkv: Tensor, bias: Tensor, grad: Tensor | None = None, *, backend: str, interval: int, window: int
) -> tuple[Tensor, ...]:
    """Output of one backend and, given the gradient of the output, those of qkv and bias."""
    name, _, how = backend.partition(" ")
    function = _compiled(how) if how else retractable_attention
    out = function(qkv, bias, interval=interval, window=window, backend=name)
    return (out,) if grad is None else (out, *torch.autograd.grad(out, (qkv, bias), grad))


@cache
def _compiled(how: str) -> Callable:
    return torch.compile(retractable_attention, mode=COMPILE_MODES[how], fullgraph=True, dynamic=False)


def error_ratio(qkv: Tensor, bias: Tensor, grad: Tensor, *, backend: str, interval: int, window: int) -> float:
    """Largest error against float64, of output and gradients, over that of the reference in the same dtype.

    Compared is the last corner of the image, at least 32 px wide, in whole groups; grad is taken as 0 outside it, so
    that this corner alone reaches the bias. Arguments as in `attend`.
    """
    side, grouping = window * interval, {"interval": interval, "window": window}
    corner = (slice(None), *(slice(max(0, length - CORNER) // side * side, length) for length in qkv.shape[1:3]))
    above = torch.zeros_like(grad)
    above[corner] = grad[corner]
    leaves = [tensor.detach().requires_grad_() for tensor in (qkv, bias)]
    out, grad_qkv, grad_bias = attend(*leaves, above, backend=backend, **grouping)
    plain, exact = (
        attend(
            *(tensor.detach().to(dtype).requires_grad_() for tensor in (qkv[corner], bias)),
            grad[corner].to(dtype),
            backend="reference",
            **grouping,
        )
        for dtype in (qkv.dtype, torch.float64)
    )
    return _worst((out[corner], grad_qkv[corner], grad_bias), plain, exact)


def _worst(ours: tuple[Tensor, ...], plain: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> float:
    """Largest of the errors of ours over that of plain; an error below 1e-12 is none."""
    ratios = [
        (a - c).square().mean().sqrt() / ((b - c).square().mean().sqrt() + 1e-12)
        for a, b, c in zip(ours, plain, exact, strict=True)
    ]
    return torch.stack(ratios).max().item()


def must_be_right(ratio: float, what: str) -> float:
    """The ratio of errors; ArithmeticError if it is NaN or above 2, the most that rounding explains."""
    if not ratio <= 2:
        wrong = f"its error against float64 is {ratio:.3g} times that of the reference; up to 2 is right"
        raise ArithmeticError(f"{what}: {wrong}. Nothing is timed.")
    return ratio


def time_attention(
    side: int,
    *,
    backends: list[str],
    interval: int,
    ceilings: dict[str, float],
    backward: bool = False,
    window: int = 8,
    heads: int = 6,
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 0.2,
    seed: int = 0,
) -> list[dict]:
    """Attention alone on [1, side, side, 3, heads, head_dim]: a row a backend, with time, peak memory and floors.

    The copy floor: q, k, v are read once and the output is written; backward reads these and the output's gradient and
    writes theirs. The arithmetic floor: two products forward, and five more backward. A backend that needs more memory
    than there is has NaN for its numbers.
    """
    draw = partial(torch.randn, generator=torch.Generator(device).manual_seed(seed), device=device)
    qkv, grad = draw(1, side, side, 3, heads, head_dim, dtype=dtype), draw(1, side, side, heads, head_dim, dtype=dtype)
    bias, grouping = draw(heads, window**2, window**2), {"interval": interval, "window": window}
    inputs = (qkv.detach().requires_grad_(), bias.requires_grad_(), grad) if backward else (qkv, bias)
    torch.compiler.reset()  # else the eighth size would run uncompiled
    calls = {backend: partial(attend, *inputs, backend=backend, **grouping) for backend in backends}
    checks = {backend: partial(error_ratio, qkv, bias, grad, backend=backend, **grouping) for backend in backends}
    floors = {
        "copy_floor_ms": 1e3 * (11 if backward else 4) * grad.nbytes / ceilings["copy"],
        "arithmetic_floor_ms": 1e3 * (14 if backward else 4) * window**2 * grad.numel() / ceilings["product"],
        "floor_mib": (4 if backward else 1) * grad.nbytes / MIB,
    }
    what = {"what": "attention", "pass": "forward + backward" if backward else "forward", "side": side}
    what |= {"pixels": side**2, **grouping, "heads": heads, "head_dim": head_dim, "dtype": _name(dtype)}
    return [what | row | floors for row in _measure(calls, checks, device=device, seconds=seconds)]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _measure(calls: dict[str, Callable], checks: dict[str, Callable], *, device: str, seconds: float) -> list[dict]:
    """Check every call, then its memory, then the time of all of them in turn."""
    rows, fitting = {}, {}
    for name, call in calls.items():
        try:
            ratio = must_be_right(checks[name](), name)
            peak = timing.peak_bytes(call, device=device) / MIB
            rows[name], fitting[name] = {"backend": name, "error_ratio": ratio, "peak_mib": peak}, call
        except torch.OutOfMemoryError:
            rows[name] = {"backend": name} | dict.fromkeys(("error_ratio", "peak_mib", "ms", "least_ms"), math.nan)
    for name, times in timing.race(fitting, device=device, seconds=seconds).items() if fitting else ():
        rows[name] |= {"ms": statistics.median(times), "least_ms": min(times)}
    return list(rows.values())


def time_whole_image(
    side: int,
    *,
    interval: int,
    window: int = 8,
    heads: int = 6,
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 0.2,
    seed: int = 0,
) -> dict:
    """ART's own sparse groups, of the whole image, forward: a row as of `time_attention`.

    On window * interval pixels squared, where both kinds of groups are the same, it is compared with the reference.
    """
    with seeded(seed):
        bias = DynamicPositionBias(heads, window=window).to(device)
    draw = partial(torch.randn, generator=torch.Generator(device).manual_seed(seed), device=device, dtype=dtype)
    images = [draw(1, n, n, 3, heads, head_dim) for n in (window * interval, side)]
    with torch.no_grad():
        fixed = partial(attend, backend="reference", interval=interval, window=window)
        plain, exact = (fixed(images[0].to(number), bias().to(number)) for number in (dtype, torch.float64))
        small, large = (partial(whole_image_attention, image, bias.network, interval=interval) for image in images)
        checks = {"whole image": lambda: _worst((small(),), plain, exact)}
        (row,) = _measure({"whole image": large}, checks, device=device, seconds=seconds)
    return {"what": "attention", "pass": "forward", "side": side, "pixels": side**2, "interval": interval} | row


def network(name: str, *, backend: str, channels: int = 1, seed: int = 0) -> nn.Module:
    """One of NETWORKS, its last layer drawn too (a new one's is 0, which would hide every fault)."""
    with seeded(seed):
        net = RetractableTransformer(channels, backend=backend, **NETWORKS[name])
        nn.init.normal_(net.head.weight, std=0.1)
    return net


def training_step(net: nn.Module, noisy: Tensor, *, optimizer: torch.optim.Optimizer, low: torch.dtype) -> None:
    """Forward by autocast in the dtype low, mean squared output, backward, one step of the optimiser."""
    with torch.autocast(noisy.device.type, low, enabled=low != torch.float32):
        loss = net(noisy).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def floors(
    name: str, *, size: tuple[int, int, int, int], dtype: torch.dtype, training: bool, ceilings: dict[str, float]
) -> dict[str, float]:
    """Least times of a network, ms: every operator's bytes at the copy rate, none fused, and its products."""
    products = {
        torch.ops.mptpn.sdpa_attention: lambda qkv, bias, *_, **__: 4 * math.prod(qkv) // 3 * bias[-1],
        torch.ops.mptpn.sdpa_attention_backward: lambda grad, qkv, bias, *_, **__: 10 * math.prod(grad) * bias[-1],
    }
    counter = FlopCounterMode(display=False, custom_mapping=products)
    with FakeTensorMode(), counter, timing.Traffic() as traffic:  # gradients are on: each operator on whole images
        net = RetractableTransformer(size[1], **NETWORKS[name]).requires_grad_(training)
        noisy, traffic.total = torch.empty(size), 0  # drawing the weights is not counted
        out = net(noisy)
        if training:
            out.square().mean().backward()
    moved = traffic.total * dtype.itemsize / torch.float32.itemsize
    copying, arithmetic = moved / ceilings["copy"], counter.get_total_flops() / ceilings["product"]
    return {"copy_floor_ms": 1e3 * copying, "arithmetic_floor_ms": 1e3 * arithmetic}


def time_network(
    name: str,
    *,
    side: int,
    backends: list[str],
    ceilings: dict[str, float],
    training: bool = False,
    batch: int = 1,
    channels: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 0.5,
    seed: int = 0,
) -> list[dict]:
    """A whole network on [batch, channels, side, side], forward or one training step: rows as of `time_attention`.

    Forward runs with weights and image in dtype, training by autocast with float32 weights.
    """
    torch.compiler.reset()
    size, low = (batch, channels, side, side), dtype if training else torch.float32  # low: what autocast computes in
    draw = torch.Generator(device).manual_seed(seed)
    noisy = torch.randn(size, generator=draw, device=device).to(torch.float32 if training else dtype)
    calls, checks = {}, {}
    for backend in backends:
        kind, _, how = backend.partition(" ")
        made = partial(network, name, channels=channels, seed=seed)
        net = made(backend=kind).to(device, noisy.dtype).train(training).requires_grad_(training)
        step = _compiled_network(net, how)
        # a compiled network is checked at the size that it is compiled for, against the same one in more digits
        exactly = (kind, torch.float32) if how and dtype != torch.float32 else ("reference", torch.float64)
        plain = made(backend=kind if how else "reference").to(device, noisy.dtype)
        exact = made(backend=exactly[0]).to(device, exactly[1])
        checks[backend] = partial(_network_ratio, step, plain, exact, noisy if how else noisy[:1, :, :40, :56], low=low)
        calls[backend] = partial(step, noisy)
        if training:
            optimizer = torch.optim.Adam(net.parameters(), lr=1e-6, fused=True)
            calls[backend] = partial(training_step, step, noisy, optimizer=optimizer, low=low)
    what = {"what": name, "pass": "training step" if training else "forward", "side": side, "batch": batch}
    what |= {"pixels": batch * side**2, "dtype": _name(dtype)}
    what |= floors(name, size=size, dtype=dtype, training=training, ceilings=ceilings)
    return [what | row for row in _measure(calls, checks, device=device, seconds=seconds)]


def _compiled_network(net: nn.Module, how: str) -> nn.Module:
    """The network with each of its blocks compiled (each kind once), or as a whole for CUDA graphs."""
    for block in [module for module in net.modules() if isinstance(module, Block)] if how == "compiled" else []:
        block.compile(mode=COMPILE_MODES[how], fullgraph=True, dynamic=False)
    return torch.compile(net, mode=COMPILE_MODES[how], dynamic=False) if how == "graphs" else net


def _network_ratio(ours: nn.Module, plain: nn.Module, exact: nn.Module, noisy: Tensor, *, low: torch.dtype) -> float:
    """Error, against `exact`, of the residual that `ours` adds to an image, over that of `plain`."""
    wide = next(exact.parameters()).dtype
    with torch.autocast(noisy.device.type, low, enabled=low != torch.float32):
        residuals = [((net(noisy).detach() - noisy).to(wide),) for net in (ours, plain)]
    with torch.no_grad():
        truth = exact(noisy.to(wide)) - noisy.to(wide)
    return _worst(*residuals, (truth,))


def sweep_launches(
    *,
    side: int = 1024,
    head_dims: tuple[int, ...] = (32, 30),
    intervals: tuple[int, ...] = (1, 8, 16),
    seconds: float = 0.1,
) -> list[dict]:
    """Kernel times of every launch option on this GPU, bfloat16: rows as of `time_attention`, with the options."""
    from mptpn.attention import retractable_triton  # here: Triton is optional

    usual, rows, limits = retractable_triton._launch, [], timing.ceilings("cuda", torch.bfloat16)
    timed = partial(time_attention, side, backends=["triton"], ceilings=limits, seconds=seconds)
    try:
        for warps, stages, registers in itertools.product((4, 8), (1, 2, 3), (None, 168, 128)):
            options = {"num_warps": warps, "num_stages": stages} | ({"maxnreg": registers} if registers else {})
            retractable_triton._launch = partial(_launch_with, usual, options)
            for head_dim, interval, backward in itertools.product(head_dims, intervals, (False, True)):
                shape = {"interval": interval, "head_dim": head_dim, "backward": backward}
                (row,) = timed(**shape, dtype=torch.bfloat16, device="cuda")
                rows.append(row | options | {"share": row["copy_floor_ms"] / row["ms"]})
                print(f"{shape} {options}: {row['ms']:.3f} ms, {rows[-1]['share']:.0%} of the copy rate", flush=True)
    finally:
        retractable_triton._launch = usual
    return rows


def _launch_with(usual: Callable, options: dict[str, int], *arguments) -> tuple[int, int, dict[str, int]]:
    groups, blocks, chosen = usual(*arguments)
    return groups, blocks, chosen | options
