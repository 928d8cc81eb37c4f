"""Executes one notebook with papermill in the run folder, prints where it is, and records what it wrote. The Snakefile
calls it; the notebook's own words go to stderr, its log.
"""

import hashlib
import json
import logging
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import papermill
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from presets import REPOSITORY, notebook_cells

EVERY = 10  # seconds between two lines of progress
ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
BAR = re.compile(r"^(.*?\d+%)\|.*\|\s*(\d+/\d+ .*)$")  # tqdm's


def main(task: str, notebook: str, variant: str, code: str, given: str) -> int:
    """Exit code: 0 done, 1 the notebook failed."""
    started, page, given = time.time(), Path(f"notebooks/{task}.unfinished.ipynb"), json.loads(given)
    for folder in ("notebooks", "figures"):
        Path(folder).mkdir(exist_ok=True)
    progress = Progress(task, len(notebook_cells(notebook)))
    papermill.log.logger.setLevel(logging.INFO)
    papermill.log.logger.handlers = [progress, logging.StreamHandler()]
    try:
        execute(REPOSITORY / f"notebooks/{notebook}.ipynb", page, given)
    except Exception as error:
        lines = [f"\n    {line}" for line in ANSI.sub("", str(error)).splitlines() if line.strip()]
        progress.say(f"FAILED:{''.join(lines[-12:])}\n  log: logs/{task}.log\n  notebook as far as it came: {page}")
        return 1
    tidy = CoalesceStreamsPreprocessor().preprocess  # of each progress bar it keeps the last state alone
    nbformat.write(tidy(nbformat.read(page, as_version=4), {})[0], page)
    page.replace(f"notebooks/{task}.ipynb")
    record = {"code": code, "given": given, "files": results(notebook, variant, since=started)}
    Path(f"done/{task}.json").write_text(json.dumps(record, indent=1) + "\n")
    progress.say("done")
    return 0


def execute(notebook: Path, page: Path, given: dict, *, tries: int = 2) -> None:
    """Run the notebook; a second try where another program took the port that Jupyter chose for its kernel."""
    folder = REPOSITORY / "notebooks"
    where = {"cwd": folder, "kernel_name": "python3", "start_timeout": 300, "log_output": True, "progress_bar": False}
    try:
        papermill.execute_notebook(notebook, page, given | {"out": os.path.relpath(Path.cwd(), folder)}, **where)
    except RuntimeError as error:
        if "died before replying" not in str(error) or tries == 1:
            raise
        execute(notebook, page, given, tries=tries - 1)


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
    """Sha256 of each file that the run wrote: its folder's, but checkpoints, and its figures'."""
    files = [file for file in Path(notebook, variant).rglob("*") if not file.name.endswith(".checkpoint.pt")]
    for about in Path("figures").glob("*.json"):
        origin = json.loads(about.read_text())
        if origin["notebook"] == notebook and origin["parameters"].get("variant", "") == variant:
            files += [about.with_suffix(end) for end in (".png", ".csv", ".json")]
    files = [file for file in sorted(files) if file.is_file() and file.stat().st_mtime >= since - 1]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
