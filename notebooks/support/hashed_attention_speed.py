"""Times the hashed attention alone at NLSN's shape: the kernels and the sorted chunks against the gather / einsum form
of the public code. From the folder notebooks:

python -m support.hashed_attention_speed --device cuda --dtype bfloat16 --sides 48 96 192 256 --at-least triton 3
python -m support.hashed_attention_speed --device cuda --dtype bfloat16 --sides 48 --batch 16 --at-least triton 3

Each form is first compared with float64 in output and both gradients, in the same order of tokens. One that errs too
much is reported and not timed; if it is triton or that of --at-least, the exit code is 1, as where this form is not so
many times faster than gathered.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mptpn.attention import hashed_attention, rotations_from_seed
from mptpn.attention.hashed import attend, sorted_tokens
from mptpn.random import generator
from support import timing

NAMES = ("output", "gradient of match", "gradient of values")


def main() -> None:
    """One line a side, pass and form: ms, how many times faster than gathered, most memory beside the inputs, MiB."""
    given = read_arguments()
    rotations = rotations_from_seed(0, rounds=given.rounds, features=given.features // 4).to(given.device)
    settings, failures = {"rotations": rotations, "chunk_size": given.chunk_size}, []
    wanted, least = given.at_least
    for side in given.sides:
        inputs = random_inputs(given, side)
        wrong = inexact(*inputs, **settings, backends=given.backends)
        failures += [f"{side} px: {name} is inexact" for name in sorted(wrong & {"triton", wanted})]
        exact = [name for name in given.backends if name not in wrong]
        for title, backward in (("forward", False), ("forward and backward", True)):
            form = partial(run, *inputs, backward=backward)
            calls = {name: partial(form, partial(hashed_attention, **settings, backend=name)) for name in exact}
            times = timing.race(calls, device=given.device, seconds=given.seconds)
            times = {name: statistics.median(values) for name, values in times.items()}
            for name, time in times.items():
                memory = timing.peak_bytes(calls[name], device=given.device) / 2**20
                faster = f"{times['gathered'] / time:5.2f}x"
                where = f"{given.batch:3d} x {side:4d} px  {title:21s} {name:9s}"
                print(f"{where} {time:9.2f} ms {faster} {memory:9.0f} MiB", flush=True)
                if name == wanted and not times["gathered"] / time >= least:
                    failures += [f"{side} px, {title}: {name} is {faster} as fast as gathered, less than {least:g}"]
    if failures:
        sys.exit("\n".join(failures))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sides", type=int, nargs="+", default=[48, 96], help="of the low-resolution image, px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--chunk-size", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=2.0, help="about how long each comparison lasts")
    parser.add_argument("--backends", nargs="+", help="beside gathered; chunked, and on a GPU triton")
    parser.add_argument("--at-least", nargs=2, metavar=("BACKEND", "FACTOR"), default=("", "0"))
    given = parser.parse_args()
    if min(given.batch, given.chunk_size, given.rounds, *given.sides) < 1 or given.features < 4:
        parser.error("batch, chunk-size, rounds and sides start at 1, features at 4")
    given.backends = ["gathered", *(given.backends or ["chunked", *(["triton"] if given.device == "cuda" else [])])]
    if given.at_least[0] not in ("", *given.backends[1:]):
        parser.error(f"--at-least {given.at_least[0]}: timed are {', '.join(given.backends[1:])}")
    try:
        given.at_least = given.at_least[0], float(given.at_least[1])
    except ValueError:
        parser.error(f"--at-least {' '.join(given.at_least)}: give a number of times")
    return given


def random_inputs(given: argparse.Namespace, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Match, values and the gradient of the output, [B, N, features / 4 or features]."""
    widths = [given.features // 4, given.features, given.features]
    drawn = torch.randn(given.batch, side * side, sum(widths), generator=generator(side))
    drawn = drawn.to(given.device, getattr(torch, given.dtype))
    match, values, above = (part.contiguous() for part in drawn.split(widths, dim=-1))
    return match.requires_grad_(), values.requires_grad_(), above


def run(
    match: Tensor, values: Tensor, above: Tensor, attention: Callable[[Tensor, Tensor], Tensor], *, backward: bool
) -> list[Tensor]:
    """Output, and where backward the gradients of match and values."""
    with torch.set_grad_enabled(backward):
        out = attention(match, values)
        return [out, *torch.autograd.grad(out, (match, values), above.to(out.dtype))] if backward else [out]


def inexact(
    match: Tensor, values: Tensor, above: Tensor, *, rotations: Tensor, chunk_size: int, backends: list[str]
) -> set[str]:
    """Forms whose error against float64 is more than twice that of the gathered form in the same dtype, in output or a
    gradient.
    """
    # of the low precision: in another, tokens may change their bucket
    order = sorted_tokens(match, rotations=rotations, chunk_size=chunk_size)
    forms = {name: partial(attend, order=order, chunk_size=chunk_size, backend=name) for name in backends}
    double = [x.detach().double().requires_grad_() for x in (match, values)]
    chunked = partial(attend, order=order, chunk_size=chunk_size, backend="chunked")
    truth = [x.detach() for x in run(*double, above.double(), chunked, backward=True)]
    found, wrong = {}, set()
    for name, form in forms.items():
        results = run(match, values, above, form, backward=True)
        found[name] = [((x.double() - y).norm() / y.norm()).item() for x, y in zip(results, truth, strict=True)]
        pairs = zip(NAMES, found[name], found["gathered"], strict=True)
        worse = [of for of, ours, plain in pairs if not ours <= 2 * plain]  # NaN is worse
        verdict = f"; {', '.join(worse)} more than twice that of gathered: not timed" if worse else ""
        each = ", ".join(f"{of} {error:.1e}" for of, error in zip(NAMES, found[name], strict=True))
        print(f"          {name:9s} error {each}{verdict}", flush=True)
        wrong |= {name} if worse else set()
    return wrong


if __name__ == "__main__":
    main()
