"""Tables of many files, as CSV: one row a file, written as soon as the file is done."""

import csv
import fcntl
import os
from collections.abc import Sequence
from errno import ENOSPC
from io import StringIO
from pathlib import Path

from mptpn.io.folders import TABLE
from mptpn.io.outcomes import Outcome
from mptpn.io.writer import writing
from mptpn.metrics import NORMAL_95
from mptpn.noise import NoiseEstimate

NOISE = (
    "file unit sigma sigma_low sigma_high at_intensity kind gain gain_low gain_high read_noise read_noise_low "
    "read_noise_high read_noise_electrons correlation_rows correlation_cols findings failure"
).split()
RESULTS = "file result verdict gain_db level unit seconds failure".split()


def add_row(path: Path, columns: Sequence[str], row: dict) -> None:
    """Append a row, whole or not at all; the first one writes the names too. Several processes may write one table.

    Raises:
        OSError: one sentence.
    """
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    with writing(path), path.open("ab", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        start = file.seek(0, 2)
        if start == 0:
            writer.writeheader()
        writer.writerow({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()})
        data = text.getvalue().encode(errors="surrogateescape")  # names of files as they are
        try:
            if file.write(data) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError:
            file.truncate(start)
            raise


def add_result(out: Path, outcome: Outcome) -> None:
    """The row of one file in the table of a folder of results, see folders.TABLE."""
    about = {"file": outcome.file, "verdict": outcome.verdict, "gain_db": outcome.gain, "level": outcome.level}
    about |= {"unit": outcome.unit, "seconds": outcome.seconds, "failure": outcome.failure}
    about["result"] = outcome.result.relative_to(out).as_posix() if outcome.result else ""
    with writing(out / TABLE):
        out.mkdir(parents=True, exist_ok=True)
    add_row(out / TABLE, RESULTS, about)


def noise_row(file: str, unit: str, estimate: NoiseEstimate) -> dict:
    """Level, gain, read noise, kind and correlation of one file, with 95 % intervals; empty where there is none."""
    low, high = estimate.sigma_interval
    row = {"file": file, "unit": unit, "kind": estimate.kind, "sigma": estimate.sigma, "sigma_low": low}
    row |= {"sigma_high": high, "at_intensity": estimate.mean, "findings": " ".join(estimate.findings)}
    middle = len(estimate.correlation) // 2
    row["correlation_rows"] = float(estimate.correlation[middle + 1, middle])
    row["correlation_cols"] = float(estimate.correlation[middle, middle + 1])
    for name, column in (("gain", "gain"), ("sigma", "read_noise")):
        if name in estimate.parameters:
            value, error = estimate.parameters[name]
            row |= {column: value, f"{column}_low": max(0.0, value - NORMAL_95 * error)}
            row |= {f"{column}_high": value + NORMAL_95 * error}
    if row.get("gain") and "read_noise" in row:
        row["read_noise_electrons"] = row["read_noise"] / row["gain"]
    return row
