"""What a notebook may hold, and one rule for signatures."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
COLUMNS = 100
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@each_notebook
def test_notebook_defines_no_function_and_no_class(path):
    for cell in code_cells(path):
        source = re.sub(r"^[ \t]*[%!].*$", "", "".join(cell["source"]), flags=re.MULTILINE)
        definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, definitions)]


@each_notebook
def test_lines_of_code_cells_have_at_most_100_columns(path):
    lines = [line for cell in code_cells(path) for line in "".join(cell["source"]).splitlines()]
    assert [line for line in lines if len(line) > COLUMNS] == []


def test_notebooks_are_stripped_but_for_the_outputs_that_nbval_compares():
    keys = "metadata.papermill metadata.widgets cell.metadata.papermill metadata.language_info.version"
    strip = [sys.executable, "-m", "nbstripout", "--verify", "--keep-id", "--keep-count", "--extra-keys", keys]
    subprocess.run([*strip, *map(str, NOTEBOOKS)], check=True)
    for cell in (cell for path in NOTEBOOKS for cell in code_cells(path)):
        compared = "NBVAL_CHECK_OUTPUT" in "".join(cell["source"])
        assert compared == ("keep_output" in cell["metadata"].get("tags", []))
        # nbval compares nothing in a cell without a count
        assert compared == bool(cell["outputs"]) == (cell["execution_count"] is not None)


def test_no_function_of_the_package_takes_any_keyword():
    for path in (ROOT / "mptpn").rglob("*.py"):
        functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.FunctionDef, ast.Lambda))]
        assert not [function for function in functions if function.args.kwarg], path
