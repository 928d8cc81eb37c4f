"""The code hash of a notebook: its cells, every module of the repository that they import, and the weights that these
name. A result with another hash is stale.
"""

import ast
import hashlib
import json
import re
from functools import cache
from itertools import chain
from pathlib import Path

from presets import REPOSITORY, notebook_cells

CATALOGUE = "mptpn.networks.weights"  # it names all pretrained weights and needs none
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_hash(notebook: str) -> str:
    """16 hex digits of a sha256; texts, outputs, comments, docstrings, formatting, Python's version don't change it."""
    cells = "\n".join("".join(cell["source"]) for cell in notebook_cells(notebook) if cell["cell_type"] == "code")
    cells = re.sub(r"^([ \t]*)([%!].*)$", lambda m: f"{m[1]}magic({m[2]!r})", cells, flags=re.MULTILINE)
    modules = {"": read(cells, ""), **{name: read_module(name) for name in sorted(modules_behind(cells))}}
    stems = pairs(ast.parse(module_path(CATALOGUE).read_text())) if module_path(CATALOGUE) else {}
    strings = set().union(*(strings for name, (_, _, strings) in modules.items() if name != CATALOGUE))
    wanted = {str(stems.get(text, text)).removesuffix(".safetensors") for text in strings}
    weights = [file for file in sorted((REPOSITORY / "mptpn/weights").glob("*.safetensors")) if file.stem in wanted]
    parts = [[name, tree] for name, (tree, _, _) in modules.items()]
    parts += [hashlib.sha256(file.read_bytes()).hexdigest() for file in weights]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def modules_behind(source: str) -> set[str]:
    """Dotted names of the repository's modules that the code imports, those that these import, and so on."""
    found, todo = set(), [read(source, "")]
    while todo:
        new = set().union(*map(modules_of, todo.pop()[1])) - found
        found |= new
        todo += map(read_module, new)
    return found


@cache
def modules_of(full_name: str) -> set[str]:
    """The modules that a full name opens: its packages, itself if it is one, or that from which its package imports it
    lazily, by a dict in __init__ of name -> module.
    """
    package, _, name = full_name.rpartition(".")
    found = set(modules_of(package)) if package else set()
    if module_path(full_name):
        found.add(full_name)
    elif package in found and (lazy := pairs(ast.parse(module_path(package).read_text())).get(name)):
        found |= modules_of(str(lazy))
    return found


def module_path(name: str) -> Path | None:
    """Source file of a module or package of mptpn or of notebooks/support; None for all others."""
    roots = {"mptpn": REPOSITORY, "support": REPOSITORY / "notebooks"}
    base = roots.get(name.split(".")[0], Path("nowhere")) / name.replace(".", "/")
    return next((file for file in (base / "__init__.py", base.with_suffix(".py")) if file.exists()), None)


def read_module(name: str) -> tuple[str, set[str], set[str]]:
    path = module_path(name)
    return read(path.read_text(), name if path.name == "__init__.py" else name.rpartition(".")[0])


@cache
def read(source: str, package: str) -> tuple[str, set[str], set[str]]:
    """The structure of a source text, the full names that it imports anywhere, with `mptpn.NAME` that it uses, and its
    strings; package: where relative imports start.
    """
    nodes, names = list(ast.walk(ast.parse(source))), set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            names |= {".".join(filter(None, [*above, node.module, alias.name])) for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mptpn":
            names.add(f"mptpn.{node.attr}")
    strings = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return json.dumps(structure(nodes[0])), names, strings


def pairs(tree: ast.Module) -> dict:
    """Literal keys and values of all dicts."""
    dicts = [zip(node.keys, node.values, strict=True) for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    return {k.value: v.value for k, v in chain(*dicts) if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)}


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
