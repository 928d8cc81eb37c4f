"""The code hash of a notebook: its cells, every module of the repository that they import, and the weights that these
name. A result with another hash is stale.
"""

import ast
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from presets import REPOSITORY, notebook_cells

CATALOGUE = "mptpn.networks.weights"  # it names all pretrained weights and needs none
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Code(NamedTuple):
    """What the hash takes from a source text."""

    structure: str  # its syntax tree
    names: set[str]  # full names that it imports, anywhere, and of the attributes that it takes from its imports
    strings: set[str]
    pairs: dict[str, str]  # string keys and string values of its dicts


def code_hash(notebook: str) -> str:
    """16 hex digits of a sha256; texts, outputs, comments, docstrings, formatting, Python's version don't change it."""
    cells = "\n".join("".join(cell["source"]) for cell in notebook_cells(notebook) if cell["cell_type"] == "code")
    cells = read(re.sub(r"^([ \t]*)([%!].*)$", lambda m: f"{m[1]}magic({m[2]!r})", cells, flags=re.MULTILINE), "")
    modules = {name: read_module(name) for name in sorted(modules_behind(cells))}
    names_of_weights = read_module(CATALOGUE).pairs if module_path(CATALOGUE) else {}
    strings = cells.strings.union(*(code.strings for name, code in modules.items() if name != CATALOGUE))
    wanted = {names_of_weights.get(text, text.removesuffix(".safetensors")) for text in strings}
    weights = [file for file in sorted((REPOSITORY / "mptpn/weights").glob("*.safetensors")) if file.stem in wanted]
    parts = [cells.structure, *([name, code.structure] for name, code in modules.items())]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def modules_behind(code: Code) -> set[str]:
    """Dotted names of the repository's modules that the code imports, those that these import, and so on."""
    found, todo = set(), [code]
    while todo:
        new = set().union(*map(modules_of, todo.pop().names)) - found
        found |= new
        todo += map(read_module, new)
    return found


def modules_of(full_name: str) -> set[str]:
    """The modules that a full name opens: each of its packages, itself if it is one, and where its package imports
    lazily, by a dict in its __init__ of name -> module, that module.
    """
    package, _, name = full_name.rpartition(".")
    found = {full_name} if module_path(full_name) else set()
    if package:
        found |= modules_of(package)
        lazy = read_module(package).pairs.get(name) if package in found and not module_path(full_name) else None
        found |= modules_of(lazy) | modules_of(f"{package}.{lazy.lstrip('.')}") if lazy else set()
    return found


def module_path(name: str) -> Path | None:
    """Source file of a module or package of mptpn or of notebooks/support; None for all others."""
    if name.split(".")[0] not in ("mptpn", "support"):
        return None
    bases = [folder / name.replace(".", "/") for folder in (REPOSITORY, REPOSITORY / "notebooks")]
    files = [file for base in bases for file in (base / "__init__.py", base.with_suffix(".py"))]
    return next((file for file in files if file.exists()), None)


def read_module(name: str) -> Code:
    path = module_path(name)
    return read(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


@cache
def read(source: str, package: str) -> Code:
    """Package: where relative imports start."""
    tree, local, names = ast.parse(source), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            local |= {alias.asname or alias.name.split(".")[0]: alias.name.split(".")[0] for alias in node.names}
            local |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            local |= {
                alias.asname or alias.name: ".".join(filter(None, [*above, node.module, alias.name]))
                for alias in node.names
            }
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    names |= {*local.values(), *(f"{local[node.value.id]}.{node.attr}" for node in taken if node.value.id in local)}
    strings = {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    items = [
        item
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for item in zip(node.keys, node.values, strict=True)
    ]
    pairs = {k.value: v.value for k, v in items if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)}
    return Code(json.dumps(structure(tree)), names, strings, pairs)


def structure(node) -> list | str:
    """A syntax tree as nested lists, without docstrings, positions and empty fields."""
    if isinstance(node, list):
        return [structure(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([key, structure(part)] for key, part in fields.items() if part not in (None, []))]
