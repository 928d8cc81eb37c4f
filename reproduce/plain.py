"""Runs one notebook of a preset as a plain Python program, where there is PyTorch but neither papermill nor Jupyter.

    python reproduce/plain.py 03_profound_training --preset paper --variant both

Results go to the folder of ./reproduce/run; figures are written, not shown; the value of a cell's last line is printed.
"""

import argparse
import ast
import os
import sys

from presets import REPOSITORY, nearest, notebook_cells, tasks

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("notebook")
parser.add_argument("--preset", default="quick")
parser.add_argument("--variant", default="")
parser.add_argument("--runs", default=REPOSITORY / "runs", help="where runs are written")
arguments = parser.parse_args()
known, name = tasks(arguments.preset), "-".join(filter(None, (arguments.notebook, arguments.variant)))
if name not in known:
    sys.exit(f"plain: preset {arguments.preset} has no run {name!r}{nearest(name, known)}.")
out = os.path.abspath(os.path.join(arguments.runs, arguments.preset))
os.environ["MPLBACKEND"] = "agg"
os.chdir(REPOSITORY / "notebooks")
sys.path[:0] = [str(REPOSITORY), os.getcwd()]
namespace = {"__name__": "__main__"}
for cell in [cell for cell in notebook_cells(arguments.notebook) if cell["cell_type"] == "code"]:
    body = ast.parse(source := "".join(cell["source"])).body
    if body and isinstance(body[-1], ast.Expr) and not source.rstrip().endswith(";"):
        shown = ast.Call(ast.Name("print", ast.Load()), [body[-1].value], [])
        body[-1] = ast.fix_missing_locations(ast.copy_location(ast.Expr(shown), body[-1]))
    exec(compile(ast.Module(body, []), "cell", "exec"), namespace)
    if "parameters" in cell["metadata"].get("tags", []):
        namespace |= known[name].given | {"out": os.path.relpath(out)}
