"""A small house for the tests of the reproduction: a copy of reproduce/ with stub modules and with notebooks that take
a second each.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).parents[1]
KNOBS = """
out: str = "../runs/notebooks"  # run folder
seed: int = 0  # seed of every generator
threads: int = 1  # processor cores
learning_rate: float = 0.1  # of the optimiser, per step
"""
WRITE = """
import os, time
from pathlib import Path
house = Path("..").resolve()
folder = Path(out, {folder})
folder.mkdir(parents=True, exist_ok=True)
with open(house / "ran.txt", "a") as file:
    print({folder}, os.getpid(), file=file)
while (house / "wait").exists():
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


def write_notebook(
    house: Path, name: str, imports: str, *, folder: str, knobs: str = "", body: str = "value = seed"
) -> None:
    new = nbformat.v4.new_code_cell
    parameters = new((KNOBS + knobs).strip(), metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell(f"# {name}"),
            parameters,
            new(imports),
            new(WRITE.format(folder=folder, body=body)),
        ]
    )
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, house / f"notebooks/{name}.ipynb")


def write_second_notebook(house: Path, body: str = "value = seed") -> None:
    write_notebook(house, "02_pair_synthesis", "from mptpn import synthesis", folder='"02_pair_synthesis"', body=body)


def make_house(house: Path) -> Path:
    """A copy of reproduce/ with stub notebooks and modules: 01 stands on noise by way of blind_spot, 02 on synthesis,
    03 on transformer.
    """
    shutil.copytree(ROOT / "reproduce", house / "reproduce", ignore=shutil.ignore_patterns("__pycache__", "presets"))
    for folder in ("reproduce/presets", "notebooks", "mptpn"):
        (house / folder).mkdir()
    (house / "reproduce/presets/quick.yaml").write_text(PRESET)
    (house / "reproduce/presets/single.yaml").write_text(
        "description: one notebook\nnotebooks: {02_pair_synthesis: {}}\n"
    )
    modules = {
        "__init__": "",
        "noise": "A = 1",
        "blind_spot": "def f():\n    from .noise import A",
        "synthesis": "B = 1",
        "transformer": "C = 1",
    }
    for name, source in modules.items():
        (house / f"mptpn/{name}.py").write_text(source + "\n")
    write_notebook(house, "01_noise_estimation", "import mptpn.blind_spot", folder='"01_noise_estimation"')
    write_second_notebook(house)
    knobs = 'variant: str = "both"  # name of the experiment\naccelerator: str = "cpu"  # or cuda'
    body = "assert seed != 13, 'planted'\nvalue = seed"
    write_notebook(
        house,
        "03_profound_training",
        "from mptpn.transformer import C",
        folder='"03_profound_training/" + variant',
        knobs=knobs,
        body=body,
    )
    return house


def start(house: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, str(house / "reproduce/drive.py"), *options]
    return subprocess.Popen(command, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(house: Path, *options: str) -> tuple[int, str, str]:
    process = start(house, *options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def ran(house: Path) -> list[str]:
    """Which notebooks have begun, in order."""
    return [line.rsplit(maxsplit=1)[0] for line in (house / "ran.txt").read_text().splitlines()]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came true"
        time.sleep(0.1)


def processes_of(house: Path, word: str) -> list[psutil.Process]:
    """Living processes of the house's runs with the word on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MPTPN_RUN", "").startswith(str(house)) and word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found
