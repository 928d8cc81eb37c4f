"""Times the hashed attention alone at NLSN's shape: sorted chunks against the gather / einsum form of the public code, each first compared in float64.

python reproduce/hashed_attention_speed.py --device cuda --dtype bfloat16 --sides 48 96 192 256
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from mptpn.hashed_attention import hashed_attention, rotations_from_seed  # noqa: E402
from mptpn.noise import generator  # noqa: E402


def milliseconds(call, *, device: str, repeats: int) -> float:
    """Median wall time of a call, ms, after one to warm up."""
    spent = []
    for _ in range(repeats + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(1e3 * (time.perf_counter() - start))
    return sorted(spent[1:])[repeats // 2]


def attend(match: torch.Tensor, values: torch.Tensor, *, backward: bool, settings: dict) -> None:
    """One call, with gradients of both inputs where backward."""
    with torch.set_grad_enabled(backward):
        out = hashed_attention(match, values, **settings)
        if backward:
            torch.autograd.grad(out.sum(), (match, values))


def main() -> None:
    """One line a side, pass and backend: ms, and on a GPU the most memory, MiB."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--sides", type=int, nargs="+", default=[48, 96], help="of the low-resolution image, px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--chunk-size", type=int, default=144)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rotations = rotations_from_seed(0, rounds=given.rounds, features=given.features // 4).to(given.device)
    for side in given.sides:
        drawn = torch.randn(given.batch, side * side, given.features * 5 // 4, generator=generator(side)).to(given.device, getattr(torch, given.dtype))
        match, values = (x.contiguous().requires_grad_() for x in drawn.split([given.features // 4, given.features], dim=-1))
        settings = {"rotations": rotations, "chunk_size": given.chunk_size}
        with torch.no_grad():
            exact = [hashed_attention(match.double(), values.double(), backend=b, **settings) for b in ("chunked", "gathered")]
        assert (exact[0] - exact[1]).abs().max() < 1e-10
        times = {}
        for backend in ("gathered", "chunked"):
            for backward in (False, True):
                call = partial(attend, match, values, backward=backward, settings=settings | {"backend": backend})
                if given.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                times[backend, backward] = milliseconds(call, device=given.device, repeats=given.repeats)
                memory = f"{torch.cuda.max_memory_allocated() / 2**20:9.0f} MiB" if given.device == "cuda" else ""
                name = "forward and backward" if backward else "forward"
                faster = f"{times['gathered', backward] / times[backend, backward]:5.2f}x"
                print(f"{side:5d} px  {name:21s} {backend:9s} {times[backend, backward]:9.2f} ms {faster} {memory}", flush=True)


if __name__ == "__main__":
    main()
