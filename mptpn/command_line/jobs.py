"""Many files: shares of them for several processes of this machine or of others, one outcome after the other."""

import multiprocessing
import os
import queue
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mptpn import faults
from mptpn.api import estimate_noise
from mptpn.batch import Settings, outcomes
from mptpn.command_line.tables import add_result
from mptpn.inference.sampling import measured_together
from mptpn.io import LeftOut, Scan, walk
from mptpn.io.folders import TABLE
from mptpn.io.outcomes import Outcome
from mptpn.noise import NoiseEstimate

WAIT = 0.5  # seconds between two looks at whether a process still lives
BEFORE = 64  # outcomes that wait to be told at most


def denoise_with(jobs: int, paths: Sequence[Path], settings: Settings) -> Iterator[Outcome]:
    """Denoise files and folders with several processes; where a folder is given, a table of its files is kept in out.

    The written bytes do not depend on the number of processes, nor on the shares.

    Args:
        jobs: number of processes. settings: its share is divided among them.
    Raises:
        FileNotFoundError: no such model.
    """
    found = outcomes(paths, settings) if jobs == 1 else _side_by_side(jobs, paths, settings)
    table = any(Path(path).is_dir() for path in paths)
    for outcome in found:
        lost = ""
        if table and not (outcome.passed_over or outcome.waits):
            try:
                add_result(settings.out, outcome)
            except OSError as error:  # the files are done without it
                table, lost = False, str(error)
        yield outcome
        if lost:
            yield Outcome(settings.out / TABLE, failure=lost)


def _side_by_side(jobs: int, paths: Sequence[Path], settings: Settings) -> Iterator[Outcome]:
    context, (first, shares) = multiprocessing.get_context("spawn"), settings.part
    told = context.Queue(BEFORE)
    own = [replace(settings, part=(first + shares * job, shares * jobs)) for job in range(jobs)]
    own[1:] = [replace(one, progress=False) for one in own[1:]]  # the bar of the first share stands for all
    cores = max(1, len(os.sched_getaffinity(0)) // jobs)
    processes = [context.Process(target=_work, args=(told, paths, one, cores), daemon=True) for one in own]
    for process in processes:
        process.start()
    try:
        yield from _told(told, processes)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _told(told: multiprocessing.Queue, processes: list) -> Iterator[Outcome]:
    """What the processes tell until all have ended; what several of them say of one file is told once."""
    known: set[tuple] = set()
    waiting: dict[Path, Outcome] = {}
    while True:
        alive = any(process.is_alive() for process in processes)
        try:
            outcome = told.get(timeout=WAIT if alive else 0.01)
        except queue.Empty:
            if not alive:
                break
            continue
        if isinstance(outcome, str):
            raise RuntimeError(outcome)
        if outcome.waits:
            waiting[outcome.file] = outcome
        elif (said := (outcome.file, outcome.result, outcome.failure)) not in known:
            known.add(said)
            yield outcome
    yield from (outcome for file, outcome in waiting.items() if file not in {one[0] for one in known})
    if ended := [process.exitcode for process in processes if process.exitcode]:
        raise RuntimeError(
            f"{len(ended)} of {len(processes)} processes were stopped (exit code {ended[0]}), perhaps for want of "
            "memory; repeat the command with fewer --jobs, it goes on."
        )


def _work(told: multiprocessing.Queue, paths: Sequence[Path], settings: Settings, threads: int) -> None:
    """In a process of its own."""
    import torch

    torch.set_num_threads(threads)
    try:
        for outcome in outcomes(paths, settings):
            told.put(outcome)
    except KeyboardInterrupt:
        sys.exit(0)  # the parent tells of it
    except Exception as error:
        told.put(faults.sentence(error))


@dataclass(frozen=True)
class Noise:
    """The noise of one file or series, or of several together.

    Attributes:
        file: its path, or words for several. estimate: None where it failed, or where it is passed over.
        failure, trace, passed_over: as in Outcome.
    """

    file: str
    unit: str = ""
    estimate: NoiseEstimate | None = None
    failure: str = ""
    trace: str = ""
    passed_over: bool = False


def noise_files(paths: Sequence[Path], *, together: bool = False, axes: str | None = None) -> Iterator[Noise]:
    """The noise of files and folders, each as it is found, one for each channel that lies in its own slices.

    together: one estimate for all scans of one unit. axes: as in mptpn.io.open_scan.
    """
    scans: list[Scan] = []
    for scan in walk(paths, axes=axes):
        if isinstance(scan, LeftOut):
            yield Noise(str(scan.path), failure=scan.message, passed_over=not scan.failed)
        elif together:
            scans.append(scan)
        else:
            yield from _noise([scan])
    if scans:
        yield from _noise(scans)


def _noise(group: Sequence[Scan]) -> Iterator[Noise]:
    name = f"{group[0].path}{f' and {len(group) - 1} more' if len(group) > 1 else ''}"
    try:
        if group[0].axes.guess:
            warnings.warn(f"{name}: {group[0].axes.guess}", stacklevel=2)
        for channel, of_scans in measured_together(group):
            subjects = [number for number, images in enumerate(of_scans) for _ in images]
            images, valid = (list(x) for x in zip(*sum(of_scans, []), strict=True))
            found = estimate_noise(images, valid=valid, subjects=subjects)
            yield Noise(name + channel, group[0].unit, found)
    except Exception as error:  # a fault of one file is its own
        yield Noise(name, failure=faults.sentence(error, name), trace=faults.trace(error))
    finally:
        for scan in group:
            scan.close()
