"""Where the time of a pretrained network goes on one CPU thread, and what other runtimes gain;
from the folder notebooks: python -m support.network_profile [NAME [SIDE [ROUNDS]]].
"""

import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mptpn.inference import runtime
from mptpn.networks import RetractableTransformer, load
from mptpn.networks.block import Block
from mptpn.stages.profound import UNIT


def seconds(function: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def peaks() -> dict[str, float]:
    """What this processor reaches in a large matrix product and a large convolution, float32, GFLOP/s."""
    side, channels, pixels = 2048, 256, 128
    left, right = torch.randn(side, side), torch.randn(side, side)
    image = torch.randn(1, channels, pixels, pixels).to(memory_format=torch.channels_last)
    layer = nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
    best = [min(seconds(call) for _ in range(5)) for call in (lambda: left @ right, lambda: layer(image))]
    return {"matrix": 2 * side**3 / best[0] / 1e9, "convolution": 18 * channels**2 * pixels**2 / best[1] / 1e9}


def kinds(network: nn.Module) -> dict[nn.Module, str]:
    """The parts of a network that are timed, each with its name in the table."""
    named: dict[nn.Module, str] = {}
    for block in (part for part in network.modules() if isinstance(part, Block)):
        named |= {block.qkv: "qkv", block.merge: "merge", block.mlp[0]: "MLP, first", block.mlp[2]: "MLP, second"}
        named |= {block.attention_norm: "norms", block.mlp_norm: "norms", block.mlp[1]: "GELU", block: "whole block"}
    convolutions = (part for part in network.modules() if isinstance(part, nn.Conv2d))
    return named | dict.fromkeys(convolutions, "convolutions")


def profile(network: nn.Module, noisy: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Processor seconds and floating-point operations of each kind of part, in one pass."""
    spent, work, starts = defaultdict(float), defaultdict(float), {}

    def before(part, inputs) -> None:
        starts[part] = time.process_time()

    def after(part, inputs, output) -> None:
        spent[named[part]] += time.process_time() - starts[part]
        weight = getattr(part, "weight", None)
        if isinstance(part, nn.Linear | nn.Conv2d):
            work[named[part]] += 2 * weight.numel() * output.numel() / weight.shape[0]

    named = kinds(network)
    hooks = [
        hook for part in named for hook in (part.register_forward_pre_hook(before), part.register_forward_hook(after))
    ]
    whole = seconds(lambda: network(noisy))
    for hook in hooks:
        hook.remove()
    inside = sum(value for name, value in spent.items() if name not in ("whole block", "convolutions"))
    spent["attention and moves"] = spent.pop("whole block") - inside
    spent["rest"] = whole - sum(spent.values())
    return dict(spent) | {"all": whole}, dict(work)


def runtimes(name: str, noisy: Tensor) -> dict[str, Callable[[], Tensor]]:
    """The same network by PyTorch, in less precision, and by OpenVINO where it is installed."""
    network = load(name)
    half = load(name).half()

    def autocast() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return network(noisy)

    contiguous, whole = load(name).to(memory_format=torch.contiguous_format), load(name)
    for block in (part for part in whole.modules() if isinstance(part, Block)):
        block.backend = "sdpa"
    calls = {"PyTorch": lambda: network(noisy), "PyTorch, each step on the whole image": lambda: whole(noisy)}
    calls |= {"PyTorch, not channels-last": lambda: contiguous(noisy)}
    calls |= {"PyTorch, float16": lambda: half(noisy.half()), "PyTorch, bfloat16 (autocast)": autocast}
    for chosen, precision in runtime.PRECISIONS.items():
        compiled = runtime.Compiled(network, precision)
        calls[chosen] = lambda compiled=compiled: compiled(noisy)
    return calls


@torch.no_grad()
def main(name: str = "small", side: str = "512", rounds: str = "7") -> None:
    torch.set_num_threads(1)
    network: RetractableTransformer = load(name)
    noisy = UNIT * torch.randn(1, network.channels, int(side), int(side), generator=torch.Generator().manual_seed(0))
    pixels, wanted = noisy.numel() / 1e6, network(noisy)
    peak = peaks()
    print("measured peaks, GFLOP/s:", {kind: round(value) for kind, value in peak.items()})
    taken = [profile(network, noisy) for _ in range(int(rounds))]
    for part in taken[0][0]:
        time_of, work = statistics.median(spent[part] for spent, _ in taken), taken[0][1].get(part, 0)
        of = peak["convolution" if part == "convolutions" else "matrix"]
        share = f"{100 * work / time_of / 1e9 / of:.0f} %" if work else ""
        print(f"| {part} | {1e3 * time_of / pixels:.0f} | {share} |")
    calls = runtimes(name, noisy)
    errors = {label: (call().float() - wanted) / UNIT for label, call in calls.items()}
    times = {label: [] for label in calls}
    for _ in range(int(rounds)):  # in turn: a busy machine slows all alike
        for label, call in calls.items():
            times[label].append(seconds(call))
    for label, error in errors.items():
        gain = statistics.median(a / b for a, b in zip(times["PyTorch"], times[label], strict=True))
        rms, most = float(error.square().mean().sqrt()), float(error.abs().max())
        print(f"| {label} | {statistics.median(times[label]):.2f} | {gain:.2f} | {rms:.1e} | {most:.1e} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
