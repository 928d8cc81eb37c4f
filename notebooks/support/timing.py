"""How long calls take, how much memory they hold and move, what this machine can do at most, and how a cost grows."""

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def machine(device: str) -> dict:
    """What runs: device, threads, load of the machine (mean number of processes over the last minute), versions."""
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
    )
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": _version("triton")}
    return {"device": name, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)} | versions


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def race(calls: dict[str, Callable], *, device: str, seconds: float, least: int = 3) -> dict[str, list[float]]:
    """Durations of each call, ms; the calls take turns, so that whatever disturbs the machine meets them alike.

    Args:
        calls: functions without arguments, by name; each runs twice before any time counts.
        device: "cpu" (wall clock) or "cuda" (device events; the level-2 cache is emptied before each call).
        seconds: about how long the race lasts.
        least: turns, however long they take.
    """
    for call in calls.values():
        call()
    start = _clock(device)
    for call in calls.values():
        call()
    turns = max(least, min(1000, int(seconds / (_clock(device) - start))))
    names = [*calls] * turns
    durations = _on_gpu(names, calls) if device == "cuda" else _on_cpu(names, calls)
    return {name: durations[start :: len(calls)] for start, name in enumerate(calls)}


def _clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _on_cpu(names: list[str], calls: dict[str, Callable]) -> list[float]:
    durations = []
    for name in names:
        start = time.perf_counter()
        calls[name]()
        durations.append(1e3 * (time.perf_counter() - start))
    return durations


def _on_gpu(names: list[str], calls: dict[str, Callable]) -> list[float]:
    flush, events = torch.empty(2**28, dtype=torch.int8, device="cuda"), []
    for name in names:
        flush.zero_()
        events.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
        events[-1][0].record()
        calls[name]()
        events[-1][1].record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) for first, last in events]


def peak_bytes(call: Callable, *, device: str) -> int:
    """Most memory that a call holds at once beyond what was held before, as PyTorch gives it out; its results are
    counted, a library's own buffers not.
    """
    call()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler writes two lines at each start
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(steps, initial=0))


def ceilings(device: str, dtype: torch.dtype) -> dict[str, float]:
    """The most this machine does now: bytes a second in a large copy (read and written), operations a second in a
    matrix product of that dtype.
    """
    size, side = (2**31, 8192) if device == "cuda" else (2**27, 1024)
    source = torch.randint(127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    times = race({"copy": lambda: target.copy_(source), "product": lambda: left @ right}, device=device, seconds=0.5)
    seconds = {name: 1e-3 * statistics.median(values) for name, values in times.items()}
    return {"copy": 2 * size / seconds["copy"], "product": 2 * side**3 / seconds["product"]}


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write, each on its own; those that only look at a tensor in another way
    move none.
    """

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        looks_only = any(
            returned.alias_info and not returned.alias_info.is_write for returned in function._schema.returns
        )
        if function.namespace in ("aten", "mptpn") and not looks_only:
            self.total += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        return result


def growth_exponent(sizes, costs) -> float:
    """Exponent p of costs ~ sizes**p by least squares in the logarithm: 1 is proportional, 2 quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
