"""A run that is killed, stopped or started twice, on stub notebooks."""

import signal

import pytest

from stub_repository import make_repository, processes_of, ran, run, start, wait_until

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("victim", ["run.py", "snakemake", "ipykernel"])
def test_killed_run_goes_on_with_the_same_command(tmp_path, victim):
    repository = make_repository(tmp_path / "repository")
    (repository / "wait").touch()
    process = start(repository, "--preset", "single")
    wait_until((repository / "ran.txt").exists)
    kernels = processes_of(repository, "ipykernel")
    assert len(kernels) == 1
    (process if victim == "run.py" else processes_of(tmp_path, victim)[0]).kill()
    process.wait(timeout=120)  # its children may still hold its output
    assert process.returncode != 0 and not (repository / "runs/single/02_pair_synthesis/result.txt").exists()
    (repository / "wait").unlink()
    code, out, err = run(repository, "--preset", "single")
    assert code == 0, out + err
    assert ran(repository) == ["02_pair_synthesis", "02_pair_synthesis"]
    assert (repository / "runs/single/02_pair_synthesis/result.txt").read_text() == "0"
    assert not kernels[0].is_running() and processes_of(repository, "") == []


def test_second_run_beside_the_first_is_refused_and_ctrl_c_ends_the_first_cleanly(tmp_path):
    repository = make_repository(tmp_path / "repository")
    (repository / "wait").touch()
    first = start(repository, "--preset", "single")
    wait_until((repository / "ran.txt").exists)
    code, out, err = run(repository, "--preset", "single")
    assert code == 1 and out == "" and err.count("\n") == 1 and "running already" in err
    assert first.poll() is None and len(processes_of(repository, "ipykernel")) == 1
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=120)
    assert first.returncode == 130 and "./reproduce/run --preset single" in out and "Traceback" not in err
    assert processes_of(repository, "") == []
