"""Times and memory of calls, what this machine can do at most, and how a cost grows."""

import itertools
import os
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.benchmark import Timer


def machine(device: str) -> dict:
    """Device, threads, load (mean number of processes over the last minute), versions."""
    cpu = f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}"
    name = torch.cuda.get_device_name() if device == "cuda" else cpu
    versions = {"python": platform.python_version(), "torch": torch.__version__, "triton": _version("triton")}
    return {"device": name, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 2)} | versions


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def race(calls: dict[str, Callable], *, device: str, seconds: float, least: int = 3) -> dict[str, list[float]]:
    """Durations of each call, ms; the calls take turns, so that a disturbance meets them alike.

    Args:
        calls: functions without arguments, by name.
        device: "cpu" (torch.utils.benchmark.Timer) or "cuda" (device events; the level-2 cache is emptied before).
        seconds: about how long the race lasts.
        least: turns, however long they take.
    """
    rounds = _on_gpu(calls) if device == "cuda" else _on_cpu(calls)
    next(rounds)  # what is compiled or cached at first
    first = next(rounds)
    runs = 1 if device == "cuda" else 3  # the Timer warms up twice
    turns = max(least, min(1000, int(1e3 * seconds / (runs * sum(first)))))
    return dict(zip(calls, zip(*itertools.islice(rounds, turns), strict=True), strict=True))


def _on_cpu(calls: dict[str, Callable]):
    """The durations of each call in turn, ms, round after round."""
    threads = torch.get_num_threads()
    timers = [Timer("call()", globals={"call": call}, num_threads=threads) for call in calls.values()]
    while True:
        yield [1e3 * timer.timeit(1).mean for timer in timers]


def _on_gpu(calls: dict[str, Callable]):
    """As _on_cpu, by events: a Timer would count the launch of a kernel too."""
    flush = torch.empty(2**28, dtype=torch.int8, device="cuda")
    while True:
        events = []
        for call in calls.values():
            flush.zero_()
            events.append([torch.cuda.Event(enable_timing=True) for _ in range(2)])
            events[-1][0].record()
            call()
            events[-1][1].record()
        torch.cuda.synchronize()
        yield [start.elapsed_time(end) for start, end in events]


def peak_bytes(call: Callable, *, device: str) -> int:
    """Most memory that a call holds at once, its results included; a library's own buffers are not seen."""
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
    """The most this machine does now: bytes a second in a large copy, operations a second in a matrix product."""
    size, side = (2**31, 8192) if device == "cuda" else (2**27, 1024)
    source = torch.randint(127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    times = race({"copy": lambda: target.copy_(source), "product": lambda: left @ right}, device=device, seconds=0.5)
    seconds = {name: 1e-3 * statistics.median(values) for name, values in times.items()}
    return {"copy": 2 * size / seconds["copy"], "product": 2 * side**3 / seconds["product"]}


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write, each operator alone; a view moves none."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        returned = [value.alias_info for value in function._schema.returns]
        view = any(alias and not alias.is_write for alias in returned)
        if function.namespace in ("aten", "mptpn") and not view:
            self.total += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        return result


def growth_exponent(sizes, costs) -> float:
    """Exponent p of costs ~ sizes**p by least squares in the logarithm: 1 is proportional, 2 quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
