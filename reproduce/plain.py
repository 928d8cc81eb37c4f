"""Runs one notebook of a preset as a plain Python program, for a machine that has PyTorch but neither papermill nor
Jupyter.

    python reproduce/plain.py 03_profound_training --preset paper --variant both

The results go to the same folder as those of ./reproduce/run; figures are written, not shown; the value of a cell's
last line is printed.
"""

import argparse
import ast
import os
import sys
from pathlib import Path

import pandas

import plan


def main() -> int:
    """Exit code: 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(
        prog="python reproduce/plain.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebook", help="name without its ending")
    parser.add_argument("--preset", default="quick", help="whose parameters, default: quick")
    parser.add_argument("--variant", help="which of the preset's variants, where the notebook runs once a variant")
    parser.add_argument(
        "--runs", type=Path, default=plan.ROOT / "runs", metavar="FOLDER", help="where runs are written, default: runs/"
    )
    arguments = parser.parse_args()
    name = f"{arguments.notebook}-{arguments.variant}" if arguments.variant else arguments.notebook
    try:
        tasks = plan.tasks(arguments.preset)
        if name not in tasks:
            raise plan.Mistake(f"preset {arguments.preset} has no run {name!r}{plan.nearest(name, tasks)}.")
    except plan.Mistake as mistake:
        print(f"plain: {mistake}", file=sys.stderr)
        return 2
    os.environ["MPLBACKEND"] = "agg"
    sys.path.insert(0, str(plan.ROOT))
    pandas.set_option("display.width", 240, "display.max_columns", 40, "display.max_rows", 200)
    out = (arguments.runs / arguments.preset).resolve()
    os.chdir(plan.ROOT / "notebooks")
    run_cells(plan.notebook_cells(arguments.notebook), tasks[name].given | {"out": os.path.relpath(out)})
    return 0


def run_cells(cells: list[dict], given: dict) -> None:
    """Execute the code cells in one namespace, `given` over the parameters' defaults, as papermill injects them."""
    namespace = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        tree = ast.parse(source)
        shown = tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";")
        last = ast.Expression(tree.body.pop().value) if shown else None
        exec(compile(tree, "cell", "exec"), namespace)
        value = eval(compile(last, "cell", "eval"), namespace) if last else None
        if value is not None:
            print(value, flush=True)
        if "parameters" in cell["metadata"].get("tags", []):
            namespace.update(given)


if __name__ == "__main__":
    sys.exit(main())
