"""The code hash of a notebook: its cells, every module of the repository that they import, and the weights that these
name. A result with another hash is stale.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from presets import REPOSITORY, notebook_cells

CATALOGUE = "mptpn.networks.weights"  # it names all pretrained weights and needs none


@cache
def code_hash(notebook: str) -> str:
    """16 hex digits of a sha256; texts, outputs, comments, docstrings, formatting, Python's version don't change it."""
    cells = "\n".join("".join(cell["source"]) for cell in notebook_cells(notebook) if cell["cell_type"] == "code")
    cells = ast.parse(re.sub(r"^([ \t]*)([%!].*)$", lambda m: f"{m[1]}magic({m[2]!r})", cells, flags=re.MULTILINE))
    modules = {name: ast.parse(module_path(name).read_text()) for name in sorted(modules_behind(cells))}
    trees = [cells, *(tree for name, tree in modules.items() if name != CATALOGUE)]
    parts = [structure(cells), {name: structure(tree) for name, tree in modules.items()}, weights(trees)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def structure(node) -> list | str:
    """A syntax tree as nested lists, without docstrings, positions and empty fields."""
    if isinstance(node, list):
        return [structure(part) for part in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
        fields["body"] = fields["body"][1:]
    return [type(node).__name__, *([key, structure(part)] for key, part in fields.items() if part not in (None, []))]


def modules_behind(tree: ast.Module) -> set[str]:
    """Dotted names of the repository's modules that the code imports, those that these import, and so on."""
    found, todo = set(), [("", tree)]
    while todo:
        new = {name for dotted in dotted_names(*todo.pop()) for name in modules_of(dotted)} - found
        found |= new
        todo += [(name, ast.parse(module_path(name).read_text())) for name in new]
    return found


def module_path(name: str) -> Path | None:
    """Source file of a module or package of mptpn or of notebooks/support; None for all others."""
    bases = [folder / name.replace(".", "/") for folder in (REPOSITORY, REPOSITORY / "notebooks")]
    files = [file for base in bases for file in (base / "__init__.py", base.with_suffix(".py")) if file.exists()]
    return files[0] if files and name.split(".")[0] in ("mptpn", "support") else None


def dotted_names(module: str, tree: ast.Module) -> Iterator[str]:
    """Full names of all that a module imports, anywhere in it, and of the attributes that it takes from its imports."""
    package = module.split(".") if module and module_path(module).name == "__init__.py" else module.split(".")[:-1]
    local = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            local |= {
                a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            local |= {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}
    yield from local.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in local:
            yield f"{local[node.value.id]}.{node.attr}"


def modules_of(dotted: str) -> set[str]:
    """The modules that a full name opens: each of its packages, itself if it is one, and where a package opens the name
    lazily, by a dict in its __init__ of name -> module, that module.
    """
    parts = dotted.split(".")
    found = {name for n in range(1, len(parts) + 1) if module_path(name := ".".join(parts[:n]))}
    package, name = ".".join(parts[:-1]), parts[-1]
    if package in found and dotted not in found and module_path(package).name == "__init__.py":
        lazy = string_dict(ast.parse(module_path(package).read_text())).get(name)
        found |= modules_of(lazy) | modules_of(f"{package}.{lazy.lstrip('.')}") if lazy else set()
    return found


def string_dict(tree: ast.Module) -> dict[str, str]:
    """All pairs of string literals, key and value, in the dicts of a module."""
    pairs = [
        pair
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for pair in zip(node.keys, node.values, strict=True)
    ]
    return {k.value: v.value for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)}


def weights(trees: list[ast.Module]) -> list[str]:
    """Sha256 of the pretrained weights that a string in the code names."""
    path = module_path(CATALOGUE)
    stems = string_dict(ast.parse(path.read_text())) if path else {}
    strings = {str(node.value) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    wanted = {stems.get(text, text.removesuffix(".safetensors")) for text in strings}
    files = sorted((REPOSITORY / "mptpn/weights").glob("*.safetensors"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.stem in wanted]
