"""Runs a preset's notebooks through Snakemake and papermill, shows their progress, and prints the table of results.

Stopped by Ctrl-C or killed, the same command goes on where it stopped; with nothing changed it does nothing. A notebook
runs again when its code cells, a module that it uses or its parameters changed, or when a notebook whose results it
reads ran again.
"""

import argparse
import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

import plan
import show

HERE = Path(__file__).resolve().parent
MARK = "MPTPN_RUN"  # environment variable that every process of a run carries: the run folder
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WHY = {
    "missing": "not done yet",
    "params changed": "its code or parameters changed",
    "updated input files": "an earlier notebook ran again",
}


class Interrupted(Exception):
    """A signal asked to stop; its number is the argument."""


def main() -> int:
    """Exit code: 0 done, 1 a notebook failed or the preset is running already, 2 wrong input, 128 + signal when
    stopped.
    """
    try:
        return run_alone(read_arguments())
    except plan.Mistake as mistake:
        print(f"reproduce: {mistake}", file=sys.stderr)
        return 2


def run_alone(arguments) -> int:
    """Run the preset unless another process does, and end its processes when a signal asks to stop."""
    tasks = plan.tasks(arguments.preset)
    profiles = sorted(profile.name for profile in (HERE / "profile").iterdir())
    if arguments.executor not in [None, *profiles]:
        raise plan.Mistake(
            f"there is no profile for the executor {arguments.executor!r}: reproduce/profile has {', '.join(profiles)}."
        )
    folder = arguments.runs.resolve() / arguments.preset
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:  # Python's files are not inherited: this process alone holds the lock
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"reproduce: preset {arguments.preset} is running already in {show.path(folder)}: wait for that run or stop it.",
                file=sys.stderr,
            )
            return 1
        for number in STOPPING:
            signal.signal(number, interrupt)
        try:
            return reproduce(arguments, tasks, folder)
        except Interrupted as stopped:
            for number in STOPPING:
                signal.signal(number, signal.SIG_IGN)
            stop_processes(folder)
            print(
                f"\nStopped. The same command goes on from here: ./reproduce/run --preset {arguments.preset}",
                flush=True,
            )
            return 128 + stopped.args[0]


def interrupt(number, frame):
    raise Interrupted(number)


def read_arguments() -> argparse.Namespace:
    known = plan.presets()
    width = max(map(len, known)) + 2
    presets = "\n".join(f"  {name:<{width}}{preset['description']}" for name, preset in known.items())
    parser = argparse.ArgumentParser(
        prog="./reproduce/run",
        description=textwrap.fill(" ".join(__doc__.split()), 79),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"presets (reproduce/presets/NAME.yaml):\n{presets}",
    )
    parser.add_argument("--preset", default="quick", help="which notebooks and parameters, default: quick")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and why, and run nothing")
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processor cores to use, or jobs at once on a cluster; default: the preset's or profile's",
    )
    parser.add_argument(
        "--executor",
        metavar="NAME",
        help="run on a cluster as reproduce/profile/NAME says, e.g. slurm; default: on this machine",
    )
    parser.add_argument(
        "--runs", type=Path, default=plan.ROOT / "runs", metavar="FOLDER", help="where runs are written, default: runs/"
    )
    return parser.parse_args()


def reproduce(arguments, tasks: dict, folder: Path) -> int:
    """Run what is not up to date; returns the exit code."""
    stop_processes(folder)
    forget_lost_results(folder)
    snakemake = Snakemake(arguments, folder)
    if any(folder.glob(".snakemake/locks/*")):  # of a killed run: ours is the only one, see main
        snakemake.call("--unlock")
    pending = snakemake.pending()
    if arguments.dry_run:
        print(
            "\n".join(f"would run {name}: {why}" for name, why in pending.items())
            or f"Nothing to do: all {len(tasks)} runs are up to date."
        )
        if arguments.executor:
            print(snakemake.call(*snakemake.where, "--dry-run", "--quiet", "rules"))
        return 0
    if not pending:
        print(f"Nothing to do: all {len(tasks)} notebook runs of preset {arguments.preset} are up to date.\n")
        return estimate(tasks, folder)
    wanted = max(tasks[name].gpus() for name in pending)
    if wanted > len(visible_gpus()) and not arguments.executor:
        raise plan.Mistake(
            f"preset {arguments.preset} wants {wanted} CUDA GPU at once and this machine shows {len(visible_gpus())}: "
            "run it where there is one, on a cluster (--executor slurm), or take a preset for the CPU (quick)."
        )
    if not watch(snakemake, pending):
        print(
            f"What is done is kept; the same command goes on from here: ./reproduce/run --preset {arguments.preset}",
            file=sys.stderr,
        )
        return 1
    return estimate(tasks, folder)


class Snakemake:
    """The workflow engine on this run folder; its processes carry the mark of the run."""

    def __init__(self, arguments, folder: Path):
        cores = arguments.jobs or min(plan.load_preset(arguments.preset)["cores"], os.cpu_count())
        self.folder, self.executor = folder, arguments.executor
        self.environment = os.environ | {
            MARK: str(folder),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.command = [
            sys.executable,
            "-m",
            "snakemake",
            "--snakefile",
            str(HERE / "Snakefile"),
            "--directory",
            str(folder),
        ]
        self.command += ["--config", f"preset={arguments.preset}", "--rerun-triggers", "params", "input", "mtime"]
        self.command += ["--rerun-incomplete", "--keep-going", "--scheduler", "greedy", "--nocolor"]
        gpus = visible_gpus()
        self.where = ["--workflow-profile", "none", "--cores", str(cores), "--resources", f"gpu={len(gpus)}"]
        if not arguments.executor:
            self.environment["MPTPN_GPUS"] = ",".join(gpus)
        else:
            self.where = ["--workflow-profile", str(HERE / "profile" / arguments.executor)] + [
                "--jobs",
                str(arguments.jobs),
            ] * bool(arguments.jobs)

    def call(self, *options: str) -> str:
        """What Snakemake prints when it only looks; Mistake with its last words if it fails."""
        done = subprocess.run(
            [*self.command, *options], env=self.environment, capture_output=True, text=True, start_new_session=True
        )
        if done.returncode:
            raise plan.Mistake(f"snakemake {' '.join(options)} failed: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def pending(self) -> dict[str, str]:
        """Names of the runs to do, with the reason for each."""
        rows = [
            row
            for row in csv.DictReader(self.call("--summary").splitlines(), delimiter="\t")
            if row["plan"] == "update pending"
        ]
        return {Path(row["output_file"]).stem: WHY.get(row["status"], "an earlier notebook runs again") for row in rows}

    def start(self) -> subprocess.Popen:
        with open(self.folder / "logs/snakemake.log", "w") as log:
            quiet = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            return subprocess.Popen([*self.command, *self.where], env=self.environment, start_new_session=True, **quiet)


def watch(snakemake: Snakemake, pending: dict[str, str]) -> bool:
    """Run the pending notebooks and show them until Snakemake ends; True if all went well."""
    progress = show.Progress(snakemake.folder, pending)
    process = snakemake.start()
    try:
        while process.poll() is None:
            progress.look()
            time.sleep(0.2)
    except Interrupted:
        process.send_signal(signal.SIGINT)
        if snakemake.executor:  # leave it the time to withdraw its jobs from the cluster
            process.wait(timeout=60)
        raise
    stop_processes(snakemake.folder)  # if Snakemake was killed, its notebooks still run
    progress.close(failed=process.returncode > 0)
    if process.returncode < 0:
        print(
            f"Snakemake was killed by signal {-process.returncode}; the notebooks that ran were stopped.",
            file=sys.stderr,
        )
    elif process.returncode and not progress.failed:
        words = (snakemake.folder / "logs/snakemake.log").read_text()
        print(f"Snakemake failed, see its log {show.path(snakemake.folder / 'logs/snakemake.log')}:", file=sys.stderr)
        print(
            words[words.find("Error in rule") :][:1500] if "Error in rule" in words else words[-1500:], file=sys.stderr
        )
    return process.returncode == 0


def visible_gpus() -> list[str]:
    """The devices that CUDA would show: those of CUDA_VISIBLE_DEVICES if it is set, else all that nvidia-smi lists."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [device for device in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if device]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], check=False, capture_output=True, text=True).stdout
    return [str(number) for number, _ in enumerate(line for line in listed.splitlines() if line.startswith("GPU "))]


def stop_processes(folder: Path) -> None:
    """End every process that carries the mark of this run: a dead run's left-overs, or our own children."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder) and process.pid != os.getpid():
                found.append(process)
        except psutil.Error:  # another user's, or gone
            pass
    for process in found:
        try:
            process.terminate()
        except psutil.NoSuchProcess:
            pass
    for process in psutil.wait_procs(found, timeout=5)[1]:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            pass
    psutil.wait_procs(found, timeout=5)


def forget_lost_results(folder: Path) -> None:
    """Remove the record of every run whose results somebody deleted, so that it runs again."""
    for record in folder.glob("done/*.json"):
        lost = [name for name in json.loads(record.read_text())["files"] if not (folder / name).exists()]
        if lost:
            print(f"{show.path(folder / lost[0])} is gone: {record.stem} runs again.")
            record.unlink()


def estimate(tasks: dict, folder: Path) -> int:
    """Print the results of the run and where its files are; returns the exit code 0."""
    if "04_ablation_figures" in tasks:
        print(show.results_table(folder))
    for title, files in (
        ("executed notebooks", [folder / f"notebooks/{name}.ipynb" for name in tasks]),
        ("figures", sorted(folder.glob("figures/*.png"))),
    ):
        print(f"\n{title}:")
        for path in files:
            print(f"  {show.path(path)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
