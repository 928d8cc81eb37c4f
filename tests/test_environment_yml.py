"""environment.yml, pyproject.toml and constraints.txt: one list of dependencies, and all three can be installed."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
PIP = [line for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
REQUIREMENTS = [
    Requirement(text) for text in PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
]
PINS = dict(line.split("==") for line in (ROOT / "reproduce/constraints.txt").read_text().split())
IMPORT_ALL = "import ipywidgets, jupyterlab, lightning.fabric, matplotlib.pyplot, mptpn, nbval, papermill, seaborn, skimage.metrics, snakemake, torch"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages() -> set[str]:
    """Top-level names that the project's own code imports, notebooks included."""
    sources = [path.read_text() for room in ("mptpn", "reproduce", "tests") for path in (ROOT / room).glob("*.py")]
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        sources += [
            "".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"
        ]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names}


def test_conda_part_is_python_and_pip_only():
    assert [entry.split("=")[0] for entry in CONDA] == ["python", "pip"] and ENVIRONMENT["channels"] == ["conda-forge"]


def test_conda_python_satisfies_requires_python():
    assert CONDA[0].split("=")[1] in SpecifierSet(PROJECT["requires-python"])


def test_pip_part_is_the_project_itself():
    assert PIP == ["-e .[dev]"]


def test_named_packages_are_declared():
    assert {"torch", "jupyterlab", "ipywidgets", "matplotlib", "seaborn", "papermill", "nbval"} <= {
        r.name for r in REQUIREMENTS
    }


def test_every_imported_package_is_declared_with_a_lower_bound():
    ours = {path.stem for room in ("mptpn", "reproduce", "tests") for path in (ROOT / room).glob("*.py")} | {"mptpn"}
    owners = importlib.metadata.packages_distributions()
    elsewhere = {"careamics"}  # of reproduce/careamics_peer.py, which runs in an environment of its own
    foreign = imported_packages() - ours - set(sys.stdlib_module_names) - elsewhere
    declared = {canonical(requirement.name) for requirement in REQUIREMENTS}
    undeclared = {name for name in foreign if not {canonical(owner) for owner in owners.get(name, [name])} & declared}
    assert not undeclared
    assert all(any(part.operator in (">=", "==") for part in requirement.specifier) for requirement in REQUIREMENTS)


def test_constraints_pin_every_dependency_within_its_bounds_and_name_no_address():
    assert not re.search(r"://|--|@", (ROOT / "reproduce/constraints.txt").read_text())
    pins = {canonical(name): version for name, version in PINS.items()}
    # torch's CUDA build pins a triton of its own
    kernels = {Requirement(text).name for text in PROJECT["optional-dependencies"].get("kernels", [])}
    for requirement in REQUIREMENTS:
        if requirement.name not in kernels:
            assert pins[canonical(requirement.name)] in requirement.specifier, requirement


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What an installation reads, copied, so that the working tree's own .venv and metadata are left alone."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    for room in ("mptpn", "reproduce", "notebooks", "tests"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def uv_install(checkout: Path, *options: str) -> Path:
    """A new environment in the checkout with the options installed by uv; returns its python."""
    environment = dict(os.environ)
    if "PIP_FIND_LINKS" in environment:  # uv does not read pip's settings
        environment["UV_FIND_LINKS"] = environment["PIP_FIND_LINKS"].replace(" ", ",")
    python = checkout / "scratch/bin/python"
    subprocess.run(
        [sys.executable, "-m", "uv", "venv", "-q", "--python", sys.executable, checkout / "scratch"], check=True
    )
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", "-q", "--python", python, *options],
        cwd=checkout,
        env=environment,
        check=True,
    )
    return python


@pytest.mark.slow
def test_pip_part_installs(checkout):
    (checkout / "pip.txt").write_text("\n".join(PIP) + "\n")  # as conda does: the pip section, from the yml's folder
    python = uv_install(checkout, "-c", "reproduce/constraints.txt", "-r", "pip.txt")
    subprocess.run([python, "-c", IMPORT_ALL], cwd=checkout / "notebooks", check=True)


@pytest.mark.slow
def test_lower_bounds_install_and_work(checkout):
    """All direct dependencies at their lower bounds, but torch: index pages carry its old versions with CUDA only, so
    it is the one in use.
    """
    (checkout / "torch.txt").write_text(f"torch=={importlib.metadata.version('torch')}\n")
    python = uv_install(checkout, "--resolution", "lowest-direct", "-c", "torch.txt", "-e", ".[dev]")
    subprocess.run([python, "-c", IMPORT_ALL], cwd=checkout / "notebooks", check=True)
    quick = [
        f"tests/test_{name}.py"
        for name in ("images", "embedded", "noise", "metrics", "posterior", "figures", "synthesis", "content")
    ]
    quick = [name for name in quick if (checkout / name).exists()] + [
        "tests/test_resume.py::test_killed_run_goes_on_with_the_same_command[ipykernel]"
    ]
    subprocess.run([python, "-m", "pytest", "-q", "-x", "-m", "not slow", *quick], cwd=checkout, check=True)


@pytest.mark.slow
def test_set_up_that_was_killed_starts_anew(checkout):
    command = [checkout / "reproduce/bootstrap.sh"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True)
    end = time.time() + 300
    while not any(checkout.glob(".venv/lib/python*/site-packages/torch*")):  # in the middle of the installation
        assert process.poll() is None and time.time() < end
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert "removing an unfinished .venv" in again.stderr
    subprocess.run([checkout / ".venv/bin/python", "-c", "import mptpn, torch"], cwd=checkout / "notebooks", check=True)
    third = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert third.stderr == ""
