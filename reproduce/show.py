"""What a run shows on the terminal: live lines, a failed notebook's error, the closing table."""

import csv
import json
import re
import shutil
import sys
import time
from pathlib import Path

CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BAR = re.compile(r"\d+/\d+ \[")  # the part of a tqdm line that carries count, time taken and time left


class LiveLines:
    """One line a running notebook: repainted in place on a terminal, printed every ten seconds elsewhere."""

    def __init__(self, every: float = 10.0):
        self.terminal = sys.stdout.isatty()
        self.every = 0.5 if self.terminal else every
        self.painted, self.last = 0, time.monotonic()

    def say(self, text: str) -> None:
        """Print a line that stays."""
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


def progress(folder: Path, name: str) -> str:
    """Where a running notebook is, from papermill's log: the cell, and its bar (or its last words) if it has any."""
    try:
        text = (folder / f"logs/{name}.log").read_text(errors="replace")
        cells = len(json.loads((folder / f"notebooks/{name}.failed.ipynb").read_text())["cells"])
    except (OSError, ValueError):  # not written yet, or being written
        return "starting"
    words = [part.strip() for part in re.split(r"[\r\n]+", CONTROL.sub("", text)) if part.strip()]
    marks = [(at, int(word.split()[2].rstrip("-"))) for at, word in enumerate(words) if word.startswith("Executing Cell ")]
    at, cell = marks[-1] if marks else (0, 0)
    spoken = [word for word in words[at + 1 :] if not word.startswith("Ending Cell")]
    bars = [word for word in spoken if BAR.search(word)]
    return f"cell {cell} of {cells}  {(bars or spoken or [''])[-1]}".rstrip()


def error_of(folder: Path, name: str, lines: int = 12) -> str:
    """The end of the traceback of a failed notebook's cell, or of its log if no cell raised anything."""
    try:
        cells = json.loads((folder / f"notebooks/{name}.failed.ipynb").read_text())["cells"]
    except (OSError, ValueError):  # killed before papermill saved it
        cells = []
    errors = [output for cell in cells for output in cell.get("outputs", []) if output["output_type"] == "error"]
    text = "\n".join(errors[-1]["traceback"]) if errors else (folder / f"logs/{name}.log").read_text(errors="replace")
    words = [line for line in CONTROL.sub("", text).splitlines() if line.strip() and not BAR.search(line)]
    return "\n".join("    " + line for line in words[-lines:])


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def results_table(folder: Path) -> str:
    """Tables of the run in `folder`: PSNR and SSIM of every method (mean ± spread over images), and true against estimated noise levels."""
    text = []
    with open(folder / "04_ablation_figures/summary.csv", newline="") as file:
        text.append(f"{'method':<28}{'PSNR, dB':>16}{'SSIM':>18}{'images':>9}")
        for row in csv.DictReader(file):
            psnr = f"{float(row['psnr_mean']):.2f} ± {float(row['psnr_std']):.2f}"
            ssim = f"{float(row['ssim_mean']):.3f} ± {float(row['ssim_std']):.3f}"
            text.append(f"{row['method']:<28}{psnr:>16}{ssim:>18}{row['images']:>9}")
    with open(folder / "04_ablation_figures/levels.csv", newline="") as file:
        text.append(f"\n{'noise level (of 255)':<28}{'true':>10}{'estimated':>12}{'error, %':>12}")
        for row in csv.DictReader(file):
            true, estimated, error = (float(row[key]) for key in ("true_sigma_255", "estimated_sigma_255", "error_percent"))
            text.append(f"{row['image']:<28}{true:>10.2f}{estimated:>12.2f}{error:>12.1f}")
    return "\n".join(text)
