"""What a run shows on the terminal: live lines, a failed notebook's error, the closing table."""

import csv
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# tqdm: the drawn bar between the percent and the count
BAR = re.compile(r"^(?P<label>.*?)(?P<percent>\d+%)\|.*\|\s*(?P<rest>\d+/\d+ \[.*)$")
RATE = re.compile(r",\s*[\d.?]+\s?(it/s|s/it)")  # left out, so that time left and loss fit on a line of 80


class Progress:
    """The state of the runs to do, read from their logs and records, and its picture on the terminal."""

    def __init__(self, folder: Path, pending: dict[str, str]):
        self.folder, self.pending = folder, pending
        self.began, self.ended, self.failed = {}, set(), set()  # name -> time; names; names
        self.start = time.time() - 1  # file systems may keep whole seconds
        self.live = LiveLines()
        self.live.say(
            f"{len(pending)} notebook runs to do:\n" + "\n".join(f"  {name:<40} {why}" for name, why in pending.items())
        )

    def look(self) -> None:
        """Tell what began, ended or failed since the last look, and repaint the lines of the running notebooks."""
        for name in self.pending:
            if name not in self.began and self.is_new(f"logs/{name}.log"):
                self.began[name] = time.time()
                self.live.say(f"{self.step(name)} started")
            if name in self.running() and self.is_new(f"done/{name}.json"):
                self.ended.add(name)
                self.live.say(
                    f"{self.step(name)} done in {clock(time.time() - self.began[name])}, {len(self.pending) - len(self.ended)} runs to go"
                )
            if name in self.running() and self.is_new(f"logs/{name}.failed"):
                self.fail(name)
        self.live.paint(
            [f"{self.step(n)} {clock(time.time() - self.began[n])} {position(self.folder, n)}" for n in self.running()]
        )

    def close(self, *, failed: bool) -> None:
        """The last look; a notebook that is running still, though nothing runs any more, counts as failed if Snakemake
        says so.
        """
        self.look()
        self.live.wipe()
        for name in self.running() if failed else []:
            self.fail(name)

    def running(self) -> list[str]:
        return [name for name in self.began if name not in self.ended | self.failed]

    def fail(self, name: str) -> None:
        self.failed.add(name)
        log, unfinished = (
            path(self.folder / f"logs/{name}.log"),
            path(self.folder / f"notebooks/{name}.unfinished.ipynb"),
        )
        self.live.say(
            f"{self.step(name)} FAILED:\n{error_of(self.folder, name)}\n  log: {log}\n  notebook as far as it came: {unfinished}"
        )

    def is_new(self, file: str) -> bool:
        """Whether the file has been written during this run; an empty log is that of a job that waits in a cluster's
        queue.
        """
        found = self.folder / file
        return (
            found.exists()
            and found.stat().st_mtime >= self.start
            and (found.stat().st_size > 0 or found.suffix == ".failed")
        )

    def step(self, name: str) -> str:
        return f"[{list(self.began).index(name) + 1}/{len(self.pending)}] {name}"


class LiveLines:
    """One line a running notebook: repainted in place on a terminal, printed every ten seconds elsewhere."""

    def __init__(self):
        self.terminal = sys.stdout.isatty()
        self.every = 0.5 if self.terminal else 10.0
        self.painted, self.last = 0, time.monotonic()

    def say(self, text: str) -> None:
        """Print lines that stay."""
        self.wipe()
        print(text, flush=True)

    def wipe(self) -> None:
        sys.stdout.write("\x1b[1A\x1b[2K" * self.painted)
        self.painted = 0

    def paint(self, lines: list[str]) -> None:
        """Show the lines, if it is time to."""
        if time.monotonic() - self.last < self.every:
            return
        self.last = time.monotonic()
        self.wipe()
        width = shutil.get_terminal_size().columns - 1 if self.terminal else 1000
        for line in lines:
            print(line[:width], flush=True)
        self.painted = len(lines) if self.terminal else 0


def position(folder: Path, name: str) -> str:
    """Where a running notebook is, from papermill's log: the cell, and its bar, or its last words if it has none."""
    try:
        text = (folder / f"logs/{name}.log").read_text(errors="replace")
        cells = len(json.loads((folder / f"notebooks/{name}.unfinished.ipynb").read_text())["cells"])
    except (OSError, ValueError):  # not written yet, or being written
        return "starting"
    before, mark, after = text.rpartition("Executing Cell ")
    if not mark:
        return "starting"
    cell, *said = [part.strip() for part in re.split(r"[\r\n]+", CONTROL.sub("", after)) if part.strip()]
    words = [word for word in said if not word.startswith("Ending Cell ")]
    bars = [bar for bar in map(BAR.match, words) if bar]
    if bars:
        return f"{bars[-1]['label']}{bars[-1]['percent']} {RATE.sub('', bars[-1]['rest'])}"
    return f"cell {cell.rstrip('-')} of {cells}  {(words or [''])[-1]}".rstrip()


def error_of(folder: Path, name: str, lines: int = 12) -> str:
    """The end of the traceback of a failed notebook's cell, or of its log if no cell raised anything (its kernel was
    killed, the disk is full).
    """
    try:
        cells = json.loads((folder / f"notebooks/{name}.unfinished.ipynb").read_text())["cells"]
    except (OSError, ValueError):  # killed before papermill saved it
        cells = []
    errors = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    text = "\n".join(errors[-1]["traceback"]) if errors else (folder / f"logs/{name}.log").read_text(errors="replace")
    words = [line for line in CONTROL.sub("", text).splitlines() if line.strip() and not BAR.match(line.strip())]
    return "\n".join("    " + line for line in words[-lines:])


def results_table(folder: Path) -> str:
    """PSNR and SSIM of every method (mean ± spread over images), and true against estimated noise levels."""
    lines = [f"\n{'method':<28}{'PSNR, dB':>16}{'SSIM':>18}{'images':>9}"]
    with open(folder / "04_ablation_figures/summary.csv", newline="") as file:
        for row in csv.DictReader(file):
            psnr = f"{float(row['psnr_mean']):.2f} ± {float(row['psnr_std']):.2f}"
            ssim = f"{float(row['ssim_mean']):.3f} ± {float(row['ssim_std']):.3f}"
            lines.append(f"{row['method']:<28}{psnr:>16}{ssim:>18}{row['images']:>9}")
    lines.append(f"\n{'noise level (sigma of 255)':<28}{'true':>10}{'estimated':>12}{'error, %':>12}")
    with open(folder / "04_ablation_figures/levels.csv", newline="") as file:
        for row in csv.DictReader(file):
            true, estimated, error = (
                float(row[key]) for key in ("true_sigma_255", "estimated_sigma_255", "error_percent")
            )
            lines.append(f"{row['image']:<28}{true:>10.2f}{estimated:>12.2f}{error:>+12.1f}")
    return "\n".join(lines)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def path(file: Path) -> str:
    """The path as one would type it from here."""
    return os.path.relpath(file)
