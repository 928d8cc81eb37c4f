"""Called by the Snakefile when a notebook has ended well: writes its record, done/NAME.json, in the run folder (the
working directory), and tidies its page.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

import nbformat
from nbconvert.preprocessors import CoalesceStreamsPreprocessor


def record(task: str, notebook: str, variant: str, started: str, code: str, given: str) -> None:
    """Record code hash, parameters and the sha256 of each result written since `started` (seconds of the epoch).

    Results are all files in NOTEBOOK/ (or NOTEBOOK/VARIANT/) but checkpoints, and the figures whose json names this
    notebook and variant.
    """
    results = [
        path
        for path in Path(notebook, variant).rglob("*")
        if path.is_file() and not path.name.endswith(".checkpoint.pt")
    ]
    for about in Path("figures").glob("*.json"):
        entry = json.loads(about.read_text())
        if entry["notebook"] == notebook and entry["parameters"].get("variant", "") == variant:
            results += [about.with_suffix(end) for end in (".png", ".csv", ".json")]
    files = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results)
        if path.stat().st_mtime >= float(started)
    }
    temporary = Path(f"done/{task}.tmp")
    temporary.write_text(json.dumps({"code": code, "given": json.loads(given), "files": files}, indent=1) + "\n")
    os.replace(temporary, f"done/{task}.json")


def tidy(path: Path) -> None:
    """Of each progress bar in an executed notebook keep the last state alone: every one that was written over is an
    output of its own, a page long.
    """
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(nbformat.read(path, as_version=4), {})
    temporary = path.with_suffix(".tmp")
    nbformat.write(notebook, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    tidy(Path(f"notebooks/{sys.argv[1]}.ipynb"))
    record(*sys.argv[1:])
