"""The code hash: what changes it and what does not."""

import importlib

import nbformat
import pytest

import code_hash
import presets

NOTEBOOK = "from mptpn.noise import models\nimport mptpn\nmptpn.denoise(models)"
FILES = {
    "mptpn/__init__": 'PUBLIC = {"denoise": "mptpn.api", "other": "mptpn.other"}',
    "mptpn/api": "def denoise(x):\n    from .networks import weights",
    "mptpn/other": "A = 1",
    "mptpn/noise/__init__": '"""Noise."""',
    "mptpn/noise/models": "import numpy\nfrom . import fit\nB = 1",
    "mptpn/noise/fit": 'from support import sets\ndef f():\n    """Does."""\n    return 1  # why',
    "mptpn/networks/__init__": "",
    "mptpn/networks/weights": 'NAMES = {"small": "small", "x2": "enlarger_x2"}',
    "notebooks/support/__init__": "",
    "notebooks/support/sets": 'START = "x2"',
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A notebook on a small package; `repository(file=text)` writes a file and returns the hash."""
    for module in (presets, code_hash):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(code_hash, "modules_of", code_hash.modules_of.__wrapped__)  # not those of this repository

    def write(**files: str) -> str:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return code_hash.code_hash("n")

    new = nbformat.v4.new_code_cell
    (tmp_path / "notebooks").mkdir()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[new("%matplotlib inline"), new(NOTEBOOK)]), tmp_path / "notebooks/n.ipynb"
    )
    write(**{f"{name}.py": text for name, text in FILES.items()})
    write(**{f"mptpn/weights/{name}.safetensors": "1" for name in ("small", "enlarger_x2")})
    return write


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("mptpn/noise/fit.py", 'from support import sets\ndef f():\n    """Does."""\n    return 2'),
        ("mptpn/noise/__init__.py", "A = 1"),
        ("mptpn/api.py", "def denoise(x): return x"),
        ("notebooks/support/sets.py", 'START = "x2", 1'),
        ("mptpn/weights/enlarger_x2.safetensors", "2"),
    ],
)
def test_a_change_in_what_the_notebook_stands_on_changes_it(repository, file, text):
    before = repository()
    assert repository(**{file: text}) != before


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("mptpn/noise/fit.py", 'from support import (sets)\n\ndef f():\n    """Reworded."""\n    return (1)\n'),
        ("mptpn/other.py", "A = 2"),
        ("mptpn/weights/small.safetensors", "2"),
    ],
)
def test_a_reworded_docstring_another_format_and_what_is_not_used_do_not(repository, file, text):
    before = repository()
    assert repository(**{file: text}) == before


def test_every_public_name_leads_to_the_module_that_defines_it():
    package = importlib.import_module("mptpn")
    behind = code_hash.modules_behind("import mptpn\nmptpn.denoise")
    assert package.denoise.__module__ in behind and len(behind) > 10


def test_it_does_not_depend_on_the_notebooks_that_were_hashed_before():
    names = [path.stem for path in (presets.REPOSITORY / "notebooks").glob("*.ipynb")]
    forth = {name: code_hash.code_hash(name) for name in names}
    code_hash.modules_of.cache_clear()
    assert {name: code_hash.code_hash(name) for name in reversed(names)} == forth
