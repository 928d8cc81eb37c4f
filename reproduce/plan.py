"""What a preset asks for: which notebooks run, with which parameters, each one checked before anything starts."""

import ast
import difflib
import json
import re
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
PRESET_KEYS = ("description", "cores", "notebooks", "variants")
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict, "None": type(None)}


class Mistake(Exception):
    """A wrong input, told in one sentence with the value and the remedy."""


class Task(NamedTuple):
    """One run of one notebook; its name is the stem of its log, its record and its executed notebook."""

    name: str
    notebook: str
    variant: str | None
    given: dict  # the preset's parameters, which papermill injects over the notebook's defaults
    parameters: dict  # all of them, defaults included

    def gpus(self) -> int:
        """How many GPUs the run asks for."""
        return self.parameters.get("devices", 1) if self.parameters.get("accelerator") == "cuda" else 0


def presets() -> dict[str, dict]:
    """Every preset by name: its description, cores, notebooks and variants."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "reproduce/presets").glob("*.yaml"))}


def load_preset(name: str) -> dict:
    """One preset; Mistake if there is none of that name or if it has a key that nobody reads."""
    known = presets()
    if name not in known:
        raise Mistake(f"there is no preset {name!r}: choose one of {', '.join(known)}.")
    for key in known[name]:
        if key not in PRESET_KEYS:
            raise Mistake(f"preset {name} has the unknown key {key!r}{nearest(key, PRESET_KEYS)}.")
    preset = {"cores": 2, "notebooks": {}, "variants": {}} | known[name]
    return preset | {key: {k: v or {} for k, v in preset[key].items()} for key in ("notebooks", "variants")}


def tasks(preset_name: str) -> dict[str, Task]:
    """Every run that the preset asks for, by name.

    A notebook with the parameter `variant` runs once for each of the preset's variants, once where it has none; one
    with `variants` is given their names.
    Mistake: an unknown notebook, an unknown parameter (naming the nearest known one) or a value of another type.
    """
    preset = load_preset(preset_name)
    found = []
    for notebook, given in preset["notebooks"].items():
        where = f"preset {preset_name}, notebook {notebook}"
        declared = declared_parameters(notebook)
        if "variants" in declared:
            given = {"variants": list(preset["variants"])} | given
        if "variant" not in declared or not preset["variants"]:
            found.append(Task(notebook, notebook, None, given, full_parameters(given, declared, where)))
            continue
        for variant, own in preset["variants"].items():
            mine = given | own | {"variant": variant}
            found.append(
                Task(
                    f"{notebook}-{variant}",
                    notebook,
                    variant,
                    mine,
                    full_parameters(mine, declared, f"{where}, variant {variant}"),
                )
            )
    return {task.name: task for task in found}


def full_parameters(given: dict, declared: dict, where: str) -> dict:
    """The notebook's defaults with the given values over them; Mistake if a given one is unknown or ill-typed."""
    for name, value in given.items():
        if name not in declared:
            raise Mistake(
                f"{where}: the notebook has no parameter {name!r} (given {value!r}){nearest(name, declared)}."
            )
        annotation = declared[name][0]
        if not fits(value, annotation):
            kind = ast.unparse(annotation)
            hint = f": write {float(value)!r}" if kind == "float" and is_number_without_dot(value) else ""
            raise Mistake(
                f"{where}: {name} = {value!r} is {type(value).__name__}, but the notebook wants {kind}{hint}."
            )
    return {name: default for name, (_, default) in declared.items()} | given


def nearest(name: str, known) -> str:
    """The end of a Mistake's sentence: the known name that is most like this one, or all of them."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f": the nearest known name is {close[0]!r}" if close else f": the known names are {', '.join(sorted(known))}"


def fits(value, annotation: ast.expr) -> bool:
    """Whether a value is of the annotated type; an int passes for a float, a bool never for a number."""
    match annotation:
        case ast.BinOp(left=left, right=right, op=ast.BitOr()):
            return fits(value, left) or fits(value, right)
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return isinstance(value, list) and all(fits(v, item) for v in value)
    kind = ast.unparse(annotation)
    if kind not in TYPES:
        raise Mistake(
            f"a notebook's parameter is annotated with the type {kind!r}: use {', '.join(TYPES)}, list[...] or A | B."
        )
    return isinstance(value, TYPES[kind]) and not (isinstance(value, bool) and kind in ("int", "float"))


def is_number_without_dot(value) -> bool:
    """True for the likes of 1e-3, which YAML reads as text."""
    return isinstance(value, str) and re.fullmatch(r"[-+]?\d+[eE][-+]?\d+", value) is not None


def notebook_cells(notebook: str) -> list[dict]:
    """The notebook's cells; Mistake if there is no such notebook."""
    path = ROOT / f"notebooks/{notebook}.ipynb"
    if not path.exists():
        raise Mistake(
            f"there is no notebooks/{notebook}.ipynb{nearest(notebook, [p.stem for p in path.parent.glob('*.ipynb')])}."
        )
    return json.loads(path.read_text())["cells"]


def declared_parameters(notebook: str) -> dict[str, tuple[ast.expr, object]]:
    """Name -> (annotation, default), from the cell tagged `parameters`, whose lines are all `name: type = literal`."""
    cell = next((c for c in notebook_cells(notebook) if "parameters" in c["metadata"].get("tags", [])), None)
    if cell is None:
        raise Mistake(f"notebook {notebook} has no cell tagged 'parameters': tag the one that sets its knobs.")
    found = {}
    for line in ast.parse("".join(cell["source"])).body:
        if not isinstance(line, ast.AnnAssign):
            raise Mistake(
                f"notebook {notebook} has {ast.unparse(line)!r} in its parameters cell: write name: type = literal."
            )
        found[line.target.id] = (line.annotation, ast.literal_eval(line.value))
    return found
