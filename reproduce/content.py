"""The content hash of a notebook: its code and that of every mptpn module it stands on. Results with another hash are
stale.
"""

import ast
import hashlib
import io
import json
import re
import tokenize

from plan import ROOT, notebook_cells

CATALOGUE = "weights"  # module that names all weights in the box
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_hash(notebook: str) -> str:
    """16 hex digits of the sha256 over the JSON of [code cells, [module name, module source, hash of its weights]],
    stripped.

    The modules come in alphabetical order, the weights that the cells name come last.

    Outputs, metadata, texts, comments, docstrings and file dates do not enter, so that opening a notebook or wording a
    docstring reruns nothing.
    """
    cells = ["".join(cell["source"]) for cell in notebook_cells(notebook) if cell["cell_type"] == "code"]
    library = [
        [name, stripped(module_source(name)), weights_hash(module_source(name), name=name)]
        for name in sorted(modules_behind(cells))
    ]
    library += [["", "", weights_hash(without_magics("\n".join(cells)))]]
    return hashlib.sha256(json.dumps([[stripped(cell) for cell in cells], library]).encode()).hexdigest()[:16]


def module_source(name: str) -> str:
    return (ROOT / f"mptpn/{name}.py").read_text()


def weights_hash(source: str, *, name: str = "") -> str:
    """Sha256 of the weights that ship beside a module under its name, and of each whose name is a string in the source;
    empty if there are none.

    The catalogue of all weights asks for none of them: a notebook that trains weights stands on it and must not go
    stale by what it has made.
    """
    strings = {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    wanted = {name} if name == CATALOGUE else {name, *strings}
    paths = sorted(path for path in (ROOT / "mptpn").glob("*.safetensors") if path.stem in wanted)
    return " ".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def modules_behind(sources: list[str]) -> set[str]:
    """Names of the mptpn modules that the sources import, those that these import, and so on."""
    found, todo = set(), list(sources)
    while todo:
        new = imported_modules(todo.pop()) - found
        found |= new
        todo += [module_source(name) for name in new]
    return found


def imported_modules(source: str) -> set[str]:
    """Names of the modules of mptpn that a piece of code imports, at its top or within a function; `__init__` is one of
    them.
    """
    names = []
    for node in ast.walk(ast.parse(without_magics(source))):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["mptpn"] * bool(node.level) + (node.module.split(".") if node.module else [])
            names += [[*package, alias.name] for alias in node.names]
    ours = [name[1:] for name in names if name[0] == "mptpn"]
    return {"__init__" for _ in ours} | {name[0] for name in ours if name and (ROOT / f"mptpn/{name[0]}.py").exists()}


def without_magics(source: str) -> str:
    """The source with IPython's lines of % and ! blanked, so that Python can read it."""
    return re.sub(r"^[ \t]*[%!].*$", "", source, flags=re.MULTILINE)


def stripped(source: str) -> str:
    """The source without comments, docstrings and blank lines.

    Lines are cut out of the text rather than printed from a syntax tree, so that every Python version gives the same
    hash.
    """
    if without_magics(source) != source:
        return source
    lines = dict(enumerate(source.splitlines(), start=1))
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0]] = lines[token.start[0]][: token.start[1]].rstrip()
        elif token.type not in NO_CODE:
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
            and ast.get_docstring(node) is not None
        ):
            text = node.body[0]
            if text.lineno > getattr(node, "lineno", 0):  # not on the line of its own def
                code -= set(range(text.lineno, text.end_lineno + 1))
    return "\n".join(lines[number] for number in sorted(code))
