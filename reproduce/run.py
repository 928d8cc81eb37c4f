"""Runs a preset's notebooks through Snakemake and papermill and prints where they are, at the end the table of results.

Stopped by Ctrl-C or killed, the same command goes on where it stopped; with nothing changed it does nothing. A notebook
runs again when its code, a module that it uses or its parameters changed, or when one whose results it reads ran again.
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


def main() -> int:
    """Exit code: 0 done, 1 a notebook failed or the preset is running already, 2 wrong input, 130 stopped."""
    arguments = read_arguments()
    folder, code = arguments.runs.resolve() / arguments.preset, 130
    try:
        tasks = presets.tasks(arguments.preset)
        profiles = sorted(profile.name for profile in (HERE / "profile").iterdir())
        if arguments.executor not in (None, *profiles):
            raise UsageError(f"there is no executor {arguments.executor!r}: choose one of {', '.join(profiles)}.")
        with contextlib.suppress(KeyboardInterrupt), alone(folder):
            code = reproduce(arguments, tasks, folder)
    except (UsageError, BlockingIOError) as error:
        running = f"preset {arguments.preset} is running already in {folder}."
        print(f"reproduce: {error if isinstance(error, UsageError) else running}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    if code:
        again = f"The same command goes on from here: ./reproduce/run --preset {arguments.preset}"
        print(f"\nNot finished, see {os.path.relpath(folder)}/logs. {again}")
    return code


def read_arguments() -> argparse.Namespace:
    known = "\n".join(f"  {name:<16}{preset['description']}" for name, preset in presets.presets().items())
    how = {"formatter_class": argparse.RawDescriptionHelpFormatter, "epilog": f"presets:\n{known}"}
    parser = argparse.ArgumentParser(prog="./reproduce/run", description=__doc__, **how)
    add = parser.add_argument
    add("--preset", default="quick", metavar="NAME", help="which notebooks and parameters, default: quick")
    add("--dry-run", action="store_true", help="say what would run and why, and run nothing")
    add("--jobs", type=int, metavar="N", help="processor cores, or jobs at once on a cluster; default: the preset's")
    add("--executor", metavar="NAME", help="run on a cluster as reproduce/profile/NAME says, e.g. slurm")
    add("--runs", type=Path, default=HERE.parent / "runs", metavar="DIR", help="where runs are written, default: runs/")
    return parser.parse_args()


@contextlib.contextmanager
def alone(folder: Path):
    """Hold the run folder, and end the processes of its killed runs before and our own after.

    BlockingIOError: another process holds it. SIGTERM and SIGHUP raise KeyboardInterrupt.
    """
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:  # children do not inherit it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
        try:
            stop_processes(folder)
            yield
        finally:
            stop_processes(folder)


def stop_processes(folder: Path) -> None:
    """End every other process that carries the mark of this run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # another user's, or gone
            if process.environ().get(MARK) == str(folder) and process.pid != os.getpid():
                process.terminate()
                found.append(process)
    for process in psutil.wait_procs(found, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def reproduce(arguments: argparse.Namespace, tasks: dict, folder: Path) -> int:
    """Run what is not up to date; returns the exit code."""
    for record in folder.glob("done/*.json"):  # where a result was deleted, the notebook runs again
        if not all((folder / name).exists() for name in json.loads(record.read_text())["files"]):
            record.unlink()
    command = snakemake_command(arguments, folder)
    environment = os.environ | {MARK: str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    pending = find_pending(command, environment)
    for name, status in pending.items():
        print(f"{'would run' if arguments.dry_run else 'to run:'} {name}: {status}", flush=True)
    if not pending:
        print(f"Nothing to do: all {len(tasks)} notebook runs of preset {arguments.preset} are up to date.")
    if arguments.dry_run:
        return 0
    if not arguments.executor and any(tasks[name].parameters.get("accelerator") == "cuda" for name in pending):
        import torch  # takes two seconds

        if not torch.cuda.is_available():
            raise UsageError(f"preset {arguments.preset} wants a CUDA GPU: use another machine or --executor slurm.")
    if pending:  # the notebooks print their progress, Snakemake writes its log
        with open(folder / "logs/snakemake.log", "w") as log:
            quiet = {"stdin": subprocess.DEVNULL, "stderr": None if arguments.executor else log}
            process = subprocess.Popen(command, env=environment, start_new_session=True, **quiet)
        try:
            if process.wait():
                return 1
        except KeyboardInterrupt:
            if arguments.executor:  # Snakemake withdraws its jobs from the cluster
                process.send_signal(signal.SIGINT)
                process.wait(timeout=60)
            raise
    print_results(tasks, folder)
    return 0


def find_pending(command: list[str], environment: dict) -> dict[str, str]:
    """Names of the runs to do, with the reason for each."""
    look = subprocess.run([*command, "--summary"], env=environment, capture_output=True, text=True)
    if look.returncode:
        raise UsageError(f"snakemake --summary failed: {look.stderr.strip()[-1000:]}")
    rows = csv.DictReader(look.stdout.splitlines(), delimiter="\t")
    pending = {Path(r["output_file"]).stem: r["status"] for r in rows if r["plan"] == "update pending"}
    return {name: status.replace("ok", "an earlier notebook runs again") for name, status in pending.items()}


def snakemake_command(arguments: argparse.Namespace, folder: Path) -> list[str]:
    options = (
        "--rerun-triggers params input mtime --rerun-incomplete --keep-going --nocolor --nolock --scheduler greedy"
    )
    words = [sys.executable, "-m", "snakemake", *options.split(), "--config", f"preset={arguments.preset}"]
    words += ["--snakefile", str(HERE / "Snakefile"), "--directory", str(folder), "--workflow-profile"]
    if arguments.executor:
        jobs = ["--jobs", str(arguments.jobs)] if arguments.jobs else []
        return [*words, str(HERE / "profile" / arguments.executor), *jobs]
    cores = arguments.jobs or min(presets.load_preset(arguments.preset)["cores"], os.cpu_count())
    return [*words, "none", "--cores", str(cores), "--resources", "gpu=1"]  # one notebook at a time on a GPU


def print_results(tasks: dict, folder: Path) -> None:
    """Print the closing table, if a notebook left one, and where the executed notebooks and figures are."""
    tables = [*folder.rglob("closing_table.txt"), *folder.glob("04_ablation_figures/table.txt")]
    for table in [*tables, *folder.glob("04_ablation_figures/summary.csv")][:1]:
        print(f"\n{table.read_text().rstrip()}")
    pages, figures = [folder / f"notebooks/{name}.ipynb" for name in tasks], sorted(folder.glob("figures/*.png"))
    for title, files in (("executed notebooks", pages), ("figures", figures)):
        print(f"\n{title}:", *(f"  {os.path.relpath(file)}" for file in files), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
