"""Executes one notebook with papermill in the run folder, prints where it is, and records what it wrote. The Snakefile
calls it; the notebook's own words go to stderr, its log.
"""

import hashlib
import json
import logging
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from traitlets import Unicode

from presets import REPOSITORY, notebook_cells

EVERY = 10  # seconds between two lines of progress
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BAR = re.compile(r"^(.*?\d+%)\|.*\|\s*(\d+/\d+ .*)$")  # tqdm's


def main(task: str, code: str, given: str) -> int:
    """Exit code: 0 done, 1 the notebook failed."""
    started, page, given = time.time(), Path(f"notebooks/{task}.unfinished.ipynb"), json.loads(given)
    notebook = task.partition("-")[0]
    for folder in ("notebooks", "figures"):
        Path(folder).mkdir(exist_ok=True)
    progress = Progress(task, len(notebook_cells(notebook)) + 1)  # papermill adds one with the parameters
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[progress, logging.StreamHandler()])
    given_and_out = given | {"out": os.path.relpath(".", REPOSITORY / "notebooks")}
    how = {"cwd": REPOSITORY / "notebooks", "kernel_name": "python3", "kernel_manager_class": KernelOnFiles}
    how |= {"start_timeout": 300, "log_output": True, "progress_bar": False}
    try:
        papermill.execute_notebook(REPOSITORY / f"notebooks/{notebook}.ipynb", page, given_and_out, **how)
    except Exception as error:
        lines = [f"\n    {line}" for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
        progress.say(f"FAILED:{''.join(lines[-12:])}\n  log: logs/{task}.log\n  notebook as far as it came: {page}")
        return 1
    tidy = CoalesceStreamsPreprocessor().preprocess  # of each progress bar it keeps the last state alone
    nbformat.write(tidy(nbformat.read(page, as_version=4), {})[0], page)
    page.replace(f"notebooks/{task}.ipynb")
    record = {"code": code, "given": given, "files": results(notebook, given.get("variant", ""), since=started)}
    Path(f"done/{task}.json").write_text(json.dumps(record, indent=1) + "\n")
    progress.say("done")
    return 0


class KernelOnFiles(AsyncKernelManager):
    """Talks to its kernel by sockets in files: a port that Jupyter chose could be taken before the kernel takes it."""

    transport = Unicode("ipc")
    ip = Unicode(f"{tempfile.gettempdir()}/mptpn-{os.getpid()}")  # where: a path of this process alone


class Progress(logging.Handler):
    """Prints where the notebook is, from papermill's log: task, time, cell, and the progress bar of a long cell."""

    def __init__(self, task: str, cells: int):
        super().__init__()
        self.task, self.cells, self.started, self.printed, self.cell = task, cells, time.time(), 0.0, ""

    def emit(self, record: logging.LogRecord) -> None:
        bar, text = "", ANSI.sub("", record.getMessage())
        for line in text.splitlines():
            if line.startswith("Executing Cell "):
                self.cell = f"cell {line.split()[2].rstrip('-')} of {self.cells}  "
            bar = " ".join(found.groups()) if (found := BAR.match(line.strip())) else bar
        if self.cell and time.time() - self.printed > EVERY:
            self.say(self.cell + bar)

    def say(self, words: str) -> None:
        self.printed, seconds = time.time(), int(time.time() - self.started)
        print(f"{self.task:<28} {seconds // 60}:{seconds % 60:02d}  {words}", flush=True)


def results(notebook: str, variant: str, *, since: float) -> dict[str, str]:
    """Sha256 of each file that the run wrote: its folder's, but checkpoints, and the notebook's figures."""
    files = [file for file in Path(notebook, variant).rglob("*") if not file.name.endswith(".checkpoint.pt")]
    drawn = [
        about.stem for about in Path("figures").glob("*.json") if json.loads(about.read_text())["notebook"] == notebook
    ]
    files += [file for file in Path("figures").iterdir() if file.stem in drawn]
    files = [file for file in sorted(files) if file.is_file() and file.stat().st_mtime >= since - 1]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
