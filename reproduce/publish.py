"""Publishes figures: copies those that figures.yaml declares from a finished run into figures/, after checking that
they are that run's.

It stamps each figure's json with the preset, the notebook's content hash and all parameters, by which `--check` later
tells a stale figure.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path

import yaml

import content
import plan

ENDS = (".png", ".csv", ".json")


def main() -> int:
    """Exit code: 0 published (or nothing wrong), 1 something is missing or stale, 2 wrong input."""
    parser = argparse.ArgumentParser(
        prog="./reproduce/publish", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--preset", default="quick", help="publish the figures that are declared with this preset, default: quick"
    )
    parser.add_argument(
        "--runs", type=Path, default=plan.ROOT / "runs", metavar="FOLDER", help="where the runs are, default: runs/"
    )
    parser.add_argument("--check", action="store_true", help="only tell what is wrong in figures/")
    arguments = parser.parse_args()
    try:
        plan.load_preset(arguments.preset)
        declared = declared_figures()
        wrong = (
            faults(declared)
            if arguments.check
            else publish(declared, arguments.preset, arguments.runs / arguments.preset)
        )
    except plan.Mistake as mistake:
        print(f"publish: {mistake}", file=sys.stderr)
        return 2
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    return 1 if wrong else 0


def declared_figures() -> dict[str, tuple[str, plan.Task]]:
    """Figure name -> (preset, run of the notebook that draws it), from figures.yaml; Mistake if there is no such run."""
    declared, known = {}, {}
    for name, entry in (yaml.safe_load((plan.ROOT / "reproduce/figures.yaml").read_text()) or {}).items():
        preset = entry.get("preset", "quick")
        known[preset] = known.get(preset) or plan.tasks(preset)
        task = f"{entry['notebook']}-{entry['variant']}" if "variant" in entry else entry["notebook"]
        if task not in known[preset]:
            raise plan.Mistake(
                f"figures.yaml, {name}: preset {preset} has no run {task!r}{plan.nearest(task, known[preset])}."
            )
        declared[name] = (preset, known[preset][task])
    return declared


def publish(declared: dict, preset: str, folder: Path) -> list[str]:
    """Copy the preset's declared figures, all or none; returns what forbids it."""
    mine = {name: task for name, (of, task) in declared.items() if of == preset}
    wrong = [sentence for name, task in mine.items() for sentence in not_of_this_run(name, task, folder)]
    if wrong:
        return [*wrong, f"Nothing was published: run ./reproduce/run --preset {preset} first."]
    (plan.ROOT / "figures").mkdir(exist_ok=True)
    for name, task in mine.items():
        about = json.loads((folder / f"figures/{name}.json").read_text())
        about |= {"preset": preset, "code": content.code_hash(task.notebook), "parameters": published_parameters(task)}
        replace(f"{name}.png", (folder / f"figures/{name}.png").read_bytes())
        replace(f"{name}.csv", (folder / f"figures/{name}.csv").read_bytes())
        replace(f"{name}.json", (json.dumps(about, indent=1) + "\n").encode())
        print(f"figures/{name}.png, .csv, .json")
    return []


def not_of_this_run(name: str, task: plan.Task, folder: Path) -> list[str]:
    """Why the figure in the run folder is not what the notebook as it stands now draws with the preset; empty if it is."""
    record = folder / f"done/{task.name}.json"
    if not record.exists():
        return [f"{name}: {task.name} has not run to its end."]
    ran = json.loads(record.read_text())
    if ran["code"] != content.code_hash(task.notebook):
        return [f"{name}: {task.name} ran with other code (hash {ran['code']})."]
    if ran["given"] != task.given:
        return [f"{name}: {task.name} ran with other parameters ({ran['given']})."]
    files = [f"figures/{name}{end}" for end in ENDS]
    return [
        f"{name}: {file} is not what {task.name} wrote in its last run."
        for file in files
        if not (folder / file).exists()
        or ran["files"].get(file) != hashlib.sha256((folder / file).read_bytes()).hexdigest()
    ]


def published_parameters(task: plan.Task) -> dict:
    return {name: value for name, value in task.parameters.items() if name != "out"}


def replace(name: str, data: bytes) -> None:
    """Write figures/NAME under a temporary name and rename it, so that a full disk or a kill leaves the old figure."""
    temporary = plan.ROOT / f"figures/.{name}.tmp"
    temporary.write_bytes(data)
    os.replace(temporary, plan.ROOT / f"figures/{name}")


def faults(declared: dict) -> list[str]:
    """What is wrong with the published figures, a sentence each."""
    folder, wrong = plan.ROOT / "figures", []
    for path in sorted(folder.glob("*")):
        if path.stem not in declared or path.suffix not in ENDS:
            wrong.append(f"figures/{path.name}: no experiment in reproduce/figures.yaml declares it.")
    for name, (preset, task) in declared.items():
        missing = [f"figures/{name}{end}" for end in ENDS if not (folder / f"{name}{end}").exists()]
        if missing:
            wrong.append(f"{name}: {', '.join(missing)} is missing.")
            continue
        about = json.loads((folder / f"{name}.json").read_text())
        if about.get("code") != content.code_hash(task.notebook):
            wrong.append(f"{name}: stale, notebook {task.notebook} or a module it uses has changed since it was drawn.")
        if (about.get("preset"), about.get("parameters")) != (preset, published_parameters(task)):
            wrong.append(
                f"{name}: stale, the parameters of {task.name} in preset {preset} have changed since it was drawn."
            )
    return wrong


if __name__ == "__main__":
    sys.exit(main())
