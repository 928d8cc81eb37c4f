"""Times the hashed attention alone at NLSN's shape: the kernels and the sorted chunks against the gather / einsum form
of the public code.

Each form is first compared with float64 in output and both gradients, in the same order of tokens; one that errs too
much is reported and not timed, and exits with 1 if it is triton. So does a form that is not `--at-least` so many times
faster than gathered. On a GPU times are of CUDA events.

python -m support.hashed_attention_speed --device cuda --dtype bfloat16 --sides 48 96 192 256 --at-least triton 3
python -m support.hashed_attention_speed --device cuda --dtype bfloat16 --sides 48 --batch 16 --at-least triton 3
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mptpn.attention.hashed import attend, hashed_attention, rotations_from_seed, sorted_tokens
from mptpn.random import generator

NAMES = ("output", "gradient of match", "gradient of values")


def milliseconds(call: Callable[[], object], *, device: str, repeats: int) -> float:
    """Median time of a call, ms, after three to warm up; on a GPU between CUDA events, so a wait for the CPU between
    kernels counts and the last one's not.
    """
    for _ in range(3):
        call()
    if device != "cuda":
        spent = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            spent.append(1e3 * (time.perf_counter() - start))
        return sorted(spent)[repeats // 2]
    spent = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        spent.append(start.elapsed_time(end))
    return sorted(spent)[repeats // 2]


def run(
    attention: Callable[[Tensor, Tensor], Tensor], match: Tensor, values: Tensor, above: Tensor, *, backward: bool
) -> list[Tensor]:
    """Output, and where backward the gradients of match and values."""
    with torch.set_grad_enabled(backward):
        out = attention(match, values)
        return [out, *torch.autograd.grad(out, (match, values), above.to(out.dtype))] if backward else [out]


def errors(found: list[Tensor], truth: list[Tensor]) -> list[float]:
    """|found - truth| / |truth| of each."""
    return [((x.double() - y).norm() / y.norm()).item() for x, y in zip(found, truth, strict=True)]


def inexact(
    match: Tensor, values: Tensor, above: Tensor, *, rotations: Tensor, chunk_size: int, backends: list[str]
) -> set[str]:
    """Forms whose error against float64 is more than twice that of the gathered form in the same dtype, in output or a
    gradient.
    """
    # of the low precision: in another, tokens may change their bucket
    order = sorted_tokens(match, rotations=rotations, chunk_size=chunk_size)
    double = [x.detach().double().requires_grad_() for x in (match, values)]
    truth = [
        x.detach()
        for x in run(
            partial(attend, order=order, chunk_size=chunk_size, backend="chunked"),
            *double,
            above.double(),
            backward=True,
        )
    ]
    found, wrong = {}, set()
    for backend in backends:
        one = run(
            partial(attend, order=order, chunk_size=chunk_size, backend=backend), match, values, above, backward=True
        )
        found[backend] = errors(one, truth)
        # NaN is worse
        worse = [
            name
            for name, ours, plain in zip(NAMES, found[backend], found["gathered"], strict=True)
            if not ours <= 2 * plain
        ]
        verdict = f"; {', '.join(worse)} more than twice that of gathered: not timed" if worse else ""
        each = ", ".join(f"{name} {error:.1e}" for name, error in zip(NAMES, found[backend], strict=True))
        print(f"          {backend:9s} error {each}{verdict}", flush=True)
        wrong |= {backend} if worse else set()
    return wrong


def main() -> None:
    """One line a side, pass and backend: ms, how many times faster than gathered, and on a GPU the most memory beside
    the inputs, MiB.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sides", type=int, nargs="+", default=[48, 96], help="of the low-resolution image, px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--chunk-size", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--backends", nargs="+", help="beside gathered; chunked, and on a GPU triton")
    parser.add_argument(
        "--at-least",
        nargs=2,
        metavar=("BACKEND", "FACTOR"),
        help="exit with 1 where a time of this form is not so many times shorter",
    )
    given = parser.parse_args()
    if min(given.batch, given.chunk_size, given.rounds, given.repeats, *given.sides) < 1 or given.features < 4:
        parser.error("batch, chunk-size, rounds, repeats and sides start at 1, features at 4")
    backends = ["gathered", *(given.backends or ["chunked", *(["triton"] if given.device == "cuda" else [])])]
    settings = {
        "rotations": rotations_from_seed(0, rounds=given.rounds, features=given.features // 4).to(given.device),
        "chunk_size": given.chunk_size,
    }
    widths, wrong, slow = [given.features // 4, given.features, given.features], set(), []
    wanted, least = given.at_least or ("", "0")
    if wanted and wanted not in backends[1:]:
        parser.error(f"--at-least {wanted}: timed are {', '.join(backends[1:])}")
    try:
        least = float(least)
    except ValueError:
        parser.error(f"--at-least {wanted} {least}: give a number of times")
    for side in given.sides:
        drawn = torch.randn(given.batch, side * side, sum(widths), generator=generator(side)).to(
            given.device, getattr(torch, given.dtype)
        )
        match, values, above = (x.contiguous() for x in drawn.split(widths, dim=-1))
        match, values = match.requires_grad_(), values.requires_grad_()
        here = inexact(match, values, above, **settings, backends=backends)
        wrong |= here
        times = {}
        for backend in [name for name in backends if name not in here]:
            for backward in (False, True):
                call = partial(
                    run, partial(hashed_attention, **settings, backend=backend), match, values, above, backward=backward
                )
                memory = ""
                if given.device == "cuda":
                    call()
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                    call()
                    memory = f"{(torch.cuda.max_memory_allocated() - before) / 2**20:9.0f} MiB"
                times[backend, backward] = milliseconds(call, device=given.device, repeats=given.repeats)
                name = "forward and backward" if backward else "forward"
                faster = times["gathered", backward] / times[backend, backward]
                print(
                    f"{given.batch:3d} x {side:4d} px  {name:21s} {backend:9s} {times[backend, backward]:9.2f} ms {faster:5.2f}x {memory}",
                    flush=True,
                )
                slow += [f"{side} px, {name}: {faster:.2f}x"] if backend == wanted and not faster >= least else []
    if slow:
        print(f"{wanted} is less than {least:g} times faster than gathered: {'; '.join(slow)}", file=sys.stderr)
    if "triton" in wrong or wanted in wrong or slow:
        sys.exit(1)


if __name__ == "__main__":
    main()
