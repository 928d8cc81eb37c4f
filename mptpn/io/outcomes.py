"""Scans one after the other, and what became of each."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mptpn import faults
from mptpn.io.folders import LeftOut
from mptpn.io.scan import Scan
from mptpn.io.writer import DoneBefore

MANY = 10000  # slices from which a scan is announced


@dataclass(frozen=True)
class Outcome:
    """What became of one file or series; a row of the table.

    Attributes:
        file: the input. result: what was written; None where nothing was.
        verdict, message: the worst verdict, and one line on the noise and the gain; "" where none is wanted.
        gain: estimated gain in PSNR, dB; None: not known. level: standard deviation of the noise, in unit.
        failure: one sentence; "" where the result is there. trace: where it failed, for --debug.
        passed_over: the file is no image that is wanted, and the sentence says why; it is no failure.
        waits: this share of a large scan is done, and its result appears when the other shares are.
    """

    file: Path
    result: Path | None = None
    verdict: str = ""
    message: str = ""
    gain: float | None = None
    level: float | None = None
    unit: str = ""
    seconds: float = 0.0
    failure: str = ""
    trace: str = ""
    passed_over: bool = False
    waits: bool = False


def each(
    scans: Iterable[Scan | LeftOut], treat: Callable[[Scan], Outcome], before: Callable[[Scan, DoneBefore], Outcome]
) -> Iterator[Outcome]:
    """What became of every scan, one after the other; a fault of one is its own, in one sentence.

    Args:
        treat: one scan. before: what is told of one that was done by an earlier call.
    """
    for scan in scans:
        if isinstance(scan, LeftOut):
            yield Outcome(scan.path, failure=scan.message, passed_over=not scan.failed)
            continue
        started = time.monotonic()
        if scan.slices > MANY:
            warnings.warn(f"{scan.path}: has {scan.slices} slices, one after the other; this takes long.", stacklevel=2)
        for words in filter(None, (scan.axes.guess, scan.note)):
            warnings.warn(f"{scan.path}: {words}", stacklevel=2)
        try:
            outcome = treat(scan)
        except DoneBefore as error:
            outcome = before(scan, error)
        except Exception as error:
            outcome = Outcome(scan.path, failure=faults.sentence(error, str(scan.path)), trace=faults.trace(error))
        finally:
            scan.close()
        yield replace(outcome, seconds=round(time.monotonic() - started, 3))
