"""Runs a preset's notebooks through Snakemake and papermill and prints where they are, at the end the table of results.

Stopped by Ctrl-C or killed, the same command goes on where it stopped; with nothing changed it does nothing. A notebook
runs again when its code, a module that it uses or its parameters changed, or when a notebook whose results it reads ran
again.
"""

import argparse
import contextlib
import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

import presets
from presets import UsageError

HERE = Path(__file__).resolve().parent
MARK = "MPTPN_RUN"  # environment variable that every process of a run carries: the run folder
REASONS = {"missing": "not done yet", "params changed": "its code or parameters changed"}


def main() -> int:
    """Exit code: 0 done, 1 a notebook failed or the preset is running already, 2 wrong input, 130 stopped."""
    arguments = read_arguments()
    try:
        tasks = presets.tasks(arguments.preset)
        profiles = sorted(profile.name for profile in (HERE / "profile").iterdir())
        if arguments.executor not in (None, *profiles):
            raise UsageError(f"there is no executor {arguments.executor!r}: choose one of {', '.join(profiles)}.")
        return run_alone(arguments, tasks, arguments.runs.resolve() / arguments.preset)
    except UsageError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2


def read_arguments() -> argparse.Namespace:
    known = "\n".join(f"  {name:<16}{preset['description']}" for name, preset in presets.presets().items())
    parser = argparse.ArgumentParser(
        prog="./reproduce/run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"presets (reproduce/presets/NAME.yaml):\n{known}",
    )
    add = parser.add_argument
    add("--preset", default="quick", metavar="NAME", help="which notebooks and parameters, default: quick")
    add("--dry-run", action="store_true", help="say what would run and why, and run nothing")
    add("--jobs", type=int, metavar="N", help="processor cores, or jobs at once on a cluster; default: the preset's")
    add("--executor", metavar="NAME", help="run on a cluster as reproduce/profile/NAME says, e.g. slurm")
    add("--runs", type=Path, default=HERE.parent / "runs", metavar="DIR", help="where runs are written, default: runs/")
    return parser.parse_args()


def run_alone(arguments: argparse.Namespace, tasks: dict, folder: Path) -> int:
    """Run the preset unless another process does, and end its processes when a signal asks to stop."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    again = f"./reproduce/run --preset {arguments.preset}"
    with open(folder / ".lock", "w") as lock:  # children do not inherit it: this process alone holds the lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"reproduce: preset {arguments.preset} is running already in {folder}.", file=sys.stderr)
            return 1
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        try:
            code = reproduce(arguments, tasks, folder)
        except KeyboardInterrupt:
            stop_processes(folder)
            code = 130
        if code:
            print(f"\nNot finished, see {os.path.relpath(folder)}/logs. The same command goes on from here: {again}")
        return code


def reproduce(arguments: argparse.Namespace, tasks: dict, folder: Path) -> int:
    """Run what is not up to date; returns the exit code."""
    stop_processes(folder)
    forget_lost_results(folder)
    command = snakemake_command(arguments, folder)
    environment = os.environ | {MARK: str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    pending = find_pending(command, environment)
    if not pending:
        print(f"Nothing to do: all {len(tasks)} notebook runs of preset {arguments.preset} are up to date.")
    for name, reason in pending.items():
        print(f"{'would run' if arguments.dry_run else 'to run:'} {name}: {reason}", flush=True)
    if arguments.dry_run:
        return 0
    if pending and not arguments.executor:
        check_gpu(arguments.preset, [tasks[name] for name in pending])
    if pending and run_snakemake(command, environment, folder, cluster=bool(arguments.executor)):
        return 1
    print_results(tasks, folder)
    return 0


def snakemake_command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    words = f"-m snakemake --config preset={arguments.preset} --rerun-triggers params input mtime"
    words += " --rerun-incomplete --nolock --keep-going --nocolor --scheduler greedy"  # the lock is ours
    words = [sys.executable, *words.split()]
    words += ["--snakefile", str(HERE / "Snakefile"), "--directory", str(folder), "--workflow-profile"]
    if arguments.executor:
        jobs = ["--jobs", str(arguments.jobs)] if arguments.jobs else []
        return [*words, str(HERE / "profile" / arguments.executor), *jobs]
    cores = arguments.jobs or min(presets.load_preset(arguments.preset)["cores"], os.cpu_count())
    return [*words, "none", "--cores", str(cores), "--resources", "gpu=1"]  # one notebook at a time on a GPU


def find_pending(command: list[str], environment: dict) -> dict[str, str]:
    """Names of the runs to do, with the reason for each."""
    done = subprocess.run([*command, "--summary"], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UsageError(f"snakemake --summary failed: {done.stderr.strip()[-1000:]}")
    rows = [r for r in csv.DictReader(done.stdout.splitlines(), delimiter="\t") if r["plan"] == "update pending"]
    return {Path(r["output_file"]).stem: REASONS.get(r["status"], "an earlier notebook runs again") for r in rows}


def run_snakemake(command: list[str], environment: dict, folder: Path, *, cluster: bool) -> int:
    """Run all that is pending, returns the exit code; the notebooks print their progress, Snakemake writes its log."""
    with open(folder / "logs/snakemake.log", "w") as log:
        quiet = {"stdin": subprocess.DEVNULL, "stderr": None if cluster else log, "start_new_session": True}
        process = subprocess.Popen(command, env=environment, **quiet)
    try:
        return process.wait()
    except KeyboardInterrupt:
        if cluster:  # Snakemake withdraws its jobs
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
        raise
    finally:
        stop_processes(folder)  # if Snakemake was killed, its notebooks still run


def check_gpu(preset: str, tasks: list) -> None:
    """UsageError if a notebook wants a GPU that this machine does not show."""
    if any(task.parameters.get("accelerator") == "cuda" for task in tasks):
        import torch  # takes two seconds

        if not torch.cuda.is_available():
            raise UsageError(f"preset {preset} wants a CUDA GPU: use a machine that has one, or --executor slurm.")


def stop_processes(folder: Path) -> None:
    """End every other process that carries the mark of this run: a killed run's, or our own children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone
            if process.environ().get(MARK) == str(folder) and process.pid != os.getpid():
                process.terminate()
                found.append(process)
    for process in psutil.wait_procs(found, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def forget_lost_results(folder: Path) -> None:
    """Remove the record of every run whose results were deleted, so that it runs again."""
    for record in folder.glob("done/*.json"):
        if not all((folder / name).exists() for name in json.loads(record.read_text())["files"]):
            record.unlink()


def print_results(tasks: dict, folder: Path) -> None:
    """Print the closing table, if a notebook left one, and where the executed notebooks and figures are."""
    ablation = folder / "04_ablation_figures"
    tables = [*folder.rglob("closing_table.txt"), ablation / "table.txt", ablation / "summary.csv"]
    for table in [table for table in tables if table.exists()][:1]:
        print(f"\n{table.read_text().rstrip()}")
    pages, figures = [folder / f"notebooks/{name}.ipynb" for name in tasks], sorted(folder.glob("figures/*.png"))
    for title, files in (("executed notebooks", pages), ("figures", figures)):
        print(f"\n{title}:", *(f"  {os.path.relpath(file)}" for file in files), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
