"""What a preset asks for: which notebooks run, with which parameters, each one checked before anything starts."""

import ast
import difflib
import json
from pathlib import Path
from typing import NamedTuple

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
KEYS = ("description", "cores", "notebooks", "variants")
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}


class UsageError(Exception):
    """A wrong input, in one sentence with the value and the remedy."""


class Task(NamedTuple):
    """One run of one notebook."""

    name: str  # stem of its log, its record and its executed notebook
    notebook: str
    variant: str  # empty where the notebook runs once
    given: dict  # the preset's parameters, which papermill injects over the notebook's defaults
    parameters: dict  # all of them but `out`, defaults included


def presets() -> dict[str, dict]:
    """Every preset by name: its description, cores, notebooks and variants."""
    return {p.stem: yaml.safe_load(p.read_text()) for p in sorted((REPOSITORY / "reproduce/presets").glob("*.yaml"))}


def load_preset(name: str) -> dict:
    """One preset; UsageError if there is none of that name or if it has an unknown key."""
    known = presets()
    if name not in known:
        raise UsageError(f"there is no preset {name!r}: choose one of {', '.join(known)}.")
    for key in known[name]:
        if key not in KEYS:
            raise UsageError(f"preset {name} has the unknown key {key!r}{nearest(key, KEYS)}.")
    return {"cores": 2, "notebooks": {}, "variants": {}} | known[name]


def tasks(preset_name: str) -> dict[str, Task]:
    """Every run that the preset asks for, by name; UsageError: an unknown notebook or parameter or type.

    A notebook with the parameter `variant` runs once for each variant, once without any; `variants` gets their names.
    """
    preset, found = load_preset(preset_name), {}
    for notebook, given in preset["notebooks"].items():
        declared = declared_parameters(notebook)
        if "variants" in declared:
            given = {"variants": list(preset["variants"])} | given
        for variant, own in (preset["variants"] if "variant" in declared else {}).items() or [("", {})]:
            mine = given | own | ({"variant": variant} if variant else {})
            name = f"{notebook}-{variant}" if variant else notebook
            check(mine, declared, f"preset {preset_name}, {name}")
            defaults = {parameter: default for parameter, (_, default) in declared.items() if parameter != "out"}
            found[name] = Task(name, notebook, variant, mine, defaults | mine)
    return found


def check(given: dict, declared: dict, where: str) -> None:
    """UsageError if a given parameter is unknown or ill-typed; an int passes for a float, a bool never for a number."""
    for name, value in given.items():
        if name not in declared:
            raise UsageError(f"{where} has no parameter {name!r} (given {value!r}){nearest(name, declared)}.")
        kind, found = declared[name][0], type(value).__name__
        if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("int", "float")):
            hint = " (in YAML 1e-3 is text: write 1.0e-3)" if kind == "float" else ""
            raise UsageError(f"{where}: {name} = {value!r} is {found}, the notebook wants {kind}{hint}.")


def nearest(name: str, known) -> str:
    """The end of a sentence: the known name that is most like this one, or all of them."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f": the nearest known name is {close[0]!r}" if close else f": the known names are {', '.join(sorted(known))}"


def notebook_cells(notebook: str) -> list[dict]:
    """The notebook's cells; UsageError if there is no such notebook."""
    path = REPOSITORY / f"notebooks/{notebook}.ipynb"
    if not path.exists():
        known = [other.stem for other in path.parent.glob("*.ipynb")]
        raise UsageError(f"there is no notebooks/{notebook}.ipynb{nearest(notebook, known)}.")
    return json.loads(path.read_text())["cells"]


def declared_parameters(notebook: str) -> dict[str, tuple[str, object]]:
    """Name -> (type, default), from the cell tagged `parameters`, whose lines are all `name: type = literal`.

    Read without papermill.inspect_notebook, which plain.py must do without.
    """
    cells = [cell for cell in notebook_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    lines = ast.parse("".join(cells[0]["source"])).body if cells else []
    for line in lines:
        if not isinstance(line, ast.AnnAssign) or ast.unparse(line.annotation) not in TYPES:
            raise UsageError(f"notebook {notebook}, parameters: {ast.unparse(line)!r} is not name: type = literal.")
    return {line.target.id: (line.annotation.id, ast.literal_eval(line.value)) for line in lines}
