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
    stems = read_module(CATALOGUE).pairs if module_path(CATALOGUE) else {}
    strings = cells.strings.union(*(code.strings for name, code in modules.items() if name != CATALOGUE))
    wanted = {stems.get(text, text.removesuffix(".safetensors")) for text in strings}
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


@cache
def modules_of(full_name: str) -> set[str]:
    """The modules that a full name opens: its packages, itself if it is one, or that from which its package imports it
    lazily, by a dict in __init__ of name -> module.
    """
    package, _, name = full_name.rpartition(".")
    found = modules_of(package) if package else set()
    if module_path(full_name):
        found.add(full_name)
    elif package in found and (lazy := read_module(package).pairs.get(name)):
        found |= modules_of(lazy) | modules_of(f"{package}.{lazy.lstrip('.')}")
    return found


def module_path(name: str) -> Path | None:
    """Source file of a module or package of mptpn or of notebooks/support; None for all others."""
    roots = {"mptpn": REPOSITORY, "support": REPOSITORY / "notebooks"}
    base = roots.get(name.split(".")[0], Path("nowhere")) / name.replace(".", "/")
    return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.exists()), None)


def read_module(name: str) -> Code:
    path = module_path(name)
    return read(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


@cache
def read(source: str, package: str) -> Code:
    """Package: where relative imports start."""
    nodes, local, names, pairs = list(ast.walk(ast.parse(source))), {}, set(), {}
    for node in nodes:
        for alias in node.names if isinstance(node, (ast.Import, ast.ImportFrom)) else []:
            origin = alias.name
            if isinstance(node, ast.ImportFrom):
                above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
                origin = ".".join(filter(None, [*above, node.module, alias.name]))
            names.add(origin)
            whole = isinstance(node, ast.ImportFrom) or alias.asname
            local[alias.asname or alias.name.split(".")[0]] = origin if whole else origin.split(".")[0]
        if isinstance(node, ast.Dict):
            constants = [getattr(part, "value", None) for part in (*node.keys, *node.values)]
            pairs |= dict(zip(constants[: len(node.keys)], constants[len(node.keys) :], strict=True))
    taken = [node for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    names |= {f"{local[node.value.id]}.{node.attr}" for node in taken if node.value.id in local}
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    pairs = {key: value for key, value in pairs.items() if isinstance(key, str) and isinstance(value, str)}
    return Code(json.dumps(structure(nodes[0])), names, strings, pairs)


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
