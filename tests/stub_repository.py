"""A small repository for the tests of the reproduction: a copy of reproduce/ with stub modules, and notebooks that take
a second each.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).parents[1]
PARAMETERS = """
out: str = "../runs/notebooks"  # run folder
seed: int = 0  # seed of every generator
threads: int = 1  # processor cores
learning_rate: float = 0.1  # of the optimiser, per step
"""
WRITE = """
import os, time
from pathlib import Path
repository = Path("..").resolve()
folder = Path(out, {folder})
folder.mkdir(parents=True, exist_ok=True)
with open(repository / "ran.txt", "a") as file:
    print({folder}, file=file)
while (repository / "wait").exists():
    time.sleep(0.1)
{body}
(folder / "new").write_text(str(value))
os.replace(folder / "new", folder / "result.txt")
"""
PRESET = """
description: stubs
cores: 2
notebooks:
  01_noise_estimation: {seed: 1}
  02_pair_synthesis: {}
  03_profound_training: {learning_rate: 1}
variants:
  both: {}
  dense: {seed: 2}
"""
MODULES = {
    "__init__": "",
    "noise/__init__": "",
    "noise/models": "A = 1",
    "blind_spot": "def f():\n    from .noise.models import A",
    "synthesis": "B = 1",
    "transformer": "C = 1",
}


def write_notebook(
    repository: Path, name: str, imports: str, *, folder: str, more: str = "", body: str = "value = seed"
):
    new = nbformat.v4.new_code_cell
    parameters = new((PARAMETERS + more).strip(), metadata={"tags": ["parameters"]})
    cells = [nbformat.v4.new_markdown_cell(name), parameters, new(imports), new(WRITE.format(folder=folder, body=body))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, repository / f"notebooks/{name}.ipynb")


def write_second_notebook(repository: Path, body: str = "value = seed") -> None:
    name = "02_pair_synthesis"
    write_notebook(repository, name, "from mptpn import synthesis", folder=f'"{name}"', body=body)


def make_repository(path: Path) -> Path:
    """Notebook 01 imports noise.models by way of blind_spot, 02 synthesis, 03 transformer."""
    shutil.copytree(ROOT / "reproduce", path / "reproduce", ignore=shutil.ignore_patterns("__pycache__", "presets"))
    for folder in ("reproduce/presets", "notebooks", "mptpn/noise"):
        (path / folder).mkdir(parents=True)
    (path / "reproduce/presets/quick.yaml").write_text(PRESET)
    (path / "reproduce/presets/single.yaml").write_text("description: one\nnotebooks: {02_pair_synthesis: {}}\n")
    for name, source in MODULES.items():
        (path / f"mptpn/{name}.py").write_text(source + "\n")
    write_notebook(path, "01_noise_estimation", "import mptpn.blind_spot", folder='"01_noise_estimation"')
    write_second_notebook(path)
    name, more = "03_profound_training", 'variant: str = "both"  # name\naccelerator: str = "cpu"  # or cuda'
    body = "assert seed != 13, 'planted'\nvalue = seed"
    imports = "from mptpn.transformer import C"
    write_notebook(path, name, imports, folder=f'"{name}/" + variant', more=more, body=body)
    return path


def start(repository: Path, *options: str, script: str = "run.py") -> subprocess.Popen:
    command = [sys.executable, str(repository / "reproduce" / script), *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it
    return subprocess.Popen(command, cwd=repository, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, **pipes)


def run(repository: Path, *options: str) -> tuple[int, str, str]:
    process = start(repository, *options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def ran(repository: Path) -> list[str]:
    """Which notebooks have begun, in order."""
    return (repository / "ran.txt").read_text().splitlines()


def wait_until(condition, seconds: float = 300) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came true"
        time.sleep(0.1)


def processes_of(repository: Path, word: str) -> list[psutil.Process]:
    """Living processes of the repository's runs with the word on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("MPTPN_RUN", "").startswith(str(repository))
            found += [process] * (marked and word in " ".join(process.cmdline()))
        except psutil.Error:
            pass
    return found
