"""Publishes figures: copies those that figures.yaml declares from a finished run into figures/, after checking that
they are that run's and were drawn by committed code.

Each figure's json gets the preset, the notebook's code hash and all parameters, by which --check finds a stale figure.
After a change that cannot change results (a move, a renaming), --restamp writes the new code hash and the proof.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from code_hash import code_hash
from presets import REPOSITORY, Task, UsageError, load_preset, nearest, tasks

ENDS = (".png", ".csv", ".json")


def main() -> int:
    """Exit code: 0 published (or nothing wrong), 1 something is missing or stale, 2 wrong input."""
    parser = argparse.ArgumentParser(prog="./reproduce/publish", description=__doc__)
    add = parser.add_argument
    add("--preset", default="quick", metavar="NAME", help="publish this preset's figures, default: quick")
    add("--runs", type=Path, default=REPOSITORY / "runs", metavar="DIR", help="where the runs are, default: runs/")
    add("--check", action="store_true", help="only say what is wrong in figures/")
    add("--restamp", nargs="+", metavar="PRESET", help="write the new code hash into these presets' figures")
    add("--reason", metavar="TEXT", help="for --restamp: the proof that the results are the same")
    given = parser.parse_args()
    if bool(given.restamp) != bool(given.reason):
        parser.error("--restamp and --reason go together")
    try:
        for preset in given.restamp or [given.preset]:
            load_preset(preset)
        wrong = restamp(given.restamp, given.reason) if given.restamp else []
        wrong += faults() if given.check else [] if given.restamp else publish(given.preset, given.runs)
    except UsageError as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    print("".join(f"{sentence}\n" for sentence in wrong), file=sys.stderr, end="")
    return int(bool(wrong))


def declared_figures() -> dict[str, tuple[str, Task]]:
    """Figure name -> (preset, run of the notebook that draws it); UsageError if there is no such run."""
    declared, known = {}, {}
    for name, entry in (yaml.safe_load((REPOSITORY / "reproduce/figures.yaml").read_text()) or {}).items():
        preset = entry.get("preset", "quick")
        known[preset] = known.get(preset) or tasks(preset)
        task = "-".join(filter(None, (entry["notebook"], entry.get("variant"))))
        if task not in known[preset]:
            raise UsageError(f"figures.yaml, {name}: {preset} has no run {task!r}{nearest(task, known[preset])}.")
        declared[name] = (preset, known[preset][task])
    return declared


def publish(preset: str, runs: Path) -> list[str]:
    """Copy the preset's declared figures, all or none; returns what forbids it."""
    folder, mine = runs / preset, {name: task for name, (of, task) in declared_figures().items() if of == preset}
    wrong = [sentence for name, task in mine.items() for sentence in not_of_this_run(name, task, folder)]
    if wrong:
        return [*wrong, f"Nothing was published: run ./reproduce/run --preset {preset} on committed code first."]
    for name, task in mine.items():
        for end in (".png", ".csv"):
            shutil.copyfile(folder / f"figures/{name}{end}", REPOSITORY / f"figures/{name}{end}")
        about = json.loads((folder / f"figures/{name}.json").read_text())
        stamp(name, about | {"preset": preset, "code": code_hash(task.notebook), "parameters": task.parameters})
    return []


def not_of_this_run(name: str, task: Task, folder: Path) -> list[str]:
    """Why the run's figure is not what the committed notebook draws with the preset; empty if it is."""
    record = folder / f"done/{task.name}.json"
    ran = json.loads(record.read_text()) if record.exists() else {}
    if (ran.get("code"), ran.get("given")) != (code_hash(task.notebook), task.given):
        return [f"{name}: {task.name} has not run to its end with this code and these parameters."]
    for file in [folder / f"figures/{name}{end}" for end in ENDS]:
        data = file.read_bytes() if file.exists() else b""
        if ran["files"].get(f"figures/{file.name}") != hashlib.sha256(data).hexdigest():
            return [f"{name}: {file.name} is not what {task.name} wrote in its last run."]
    return uncommitted(name, json.loads((folder / f"figures/{name}.json").read_text()))


def uncommitted(name: str, about: dict) -> list[str]:
    """git describe ends with + where the working tree differs from the commit."""
    commit = about.get("commit") or "+"
    return [f"{name}: drawn by code that was not committed ({commit})."] if commit.endswith("+") else []


def restamp(presets: list[str], proof: str) -> list[str]:
    """Write the code hash as it is now, and the proof, into the figures; returns those to draw again."""
    wrong, now = [], commit()
    for name, (_, task) in ((n, figure) for n, figure in declared_figures().items() if figure[0] in presets):
        about = json.loads((REPOSITORY / f"figures/{name}.json").read_text())
        if about["parameters"] == task.parameters:
            drawn = about.get("restamped", {}).get("from", about["commit"])
            restamped = {"from": drawn, "proof": proof}
            new = {"commit": now, "code": code_hash(task.notebook), "restamped": restamped}
            stamp(name, about | new)
        else:
            wrong.append(f"{name}: not stamped, the parameters of {task.name} have changed: draw it again.")
    return wrong


def commit() -> str:
    """The commit whose code is stamped, with a + where the working tree differs."""
    describe = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    return subprocess.run(describe, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def stamp(name: str, about: dict) -> None:
    print(f"figures/{name}")
    (REPOSITORY / f"figures/{name}.json").write_text(json.dumps(about, indent=1) + "\n")


def faults() -> list[str]:
    """What is wrong with the published figures, a sentence each."""
    folder, declared = REPOSITORY / "figures", declared_figures()
    stray = [path for path in sorted(folder.glob("*")) if path.stem not in declared or path.suffix not in ENDS]
    wrong = [f"figures/{path.name}: no experiment in reproduce/figures.yaml declares it." for path in stray]
    for name, (preset, task) in declared.items():
        missing = [f"figures/{name}{end}" for end in ENDS if not (folder / f"{name}{end}").exists()]
        if missing:
            wrong.append(f"{name}: {', '.join(missing)} is missing.")
            continue
        about = json.loads((folder / f"{name}.json").read_text())
        wrong += uncommitted(name, about)
        if about.get("code") != code_hash(task.notebook):
            wrong.append(f"{name}: stale, notebook {task.notebook} or a module it uses has changed since.")
        if (about.get("preset"), about.get("parameters")) != (preset, task.parameters):
            wrong.append(f"{name}: stale, the parameters of {task.name} in preset {preset} have changed since.")
    return wrong


if __name__ == "__main__":
    sys.exit(main())
