"""A run that is killed, stopped or started twice. On stub notebooks, each test in a house of its own."""

import signal

import pytest

from stub_house import make_house, processes_of, ran, run, start, wait_until


@pytest.mark.parametrize("victim", ["drive.py", "snakemake", "ipykernel"])
def test_killed_run_goes_on_with_the_same_command(tmp_path, victim):
    house = make_house(tmp_path / "house")
    (house / "wait").touch()
    process = start(house, "--preset", "single")
    wait_until(lambda: (house / "ran.txt").exists())
    kernels = processes_of(house, "ipykernel")
    assert len(kernels) == 1
    if victim == "drive.py":
        process.kill()
    else:
        processes_of(tmp_path, victim)[0].kill()
    process.communicate(timeout=60)
    assert process.returncode != 0 and not (house / "runs/single/02_pair_synthesis/result.txt").exists()
    (house / "wait").unlink()
    code, out, err = run(house, "--preset", "single")
    assert code == 0, out + err
    assert ran(house) == ["02_pair_synthesis", "02_pair_synthesis"]
    assert (house / "runs/single/02_pair_synthesis/result.txt").read_text() == "0"
    assert not kernels[0].is_running() and processes_of(house, "") == []


def test_second_run_beside_the_first_is_refused_and_ctrl_c_ends_the_first_cleanly(tmp_path):
    house = make_house(tmp_path / "house")
    (house / "wait").touch()
    first = start(house, "--preset", "single")
    wait_until(lambda: (house / "ran.txt").exists())
    code, out, err = run(house, "--preset", "single")
    assert code == 1 and out == "" and err.count("\n") == 1 and "running already" in err
    assert first.poll() is None and len(processes_of(house, "ipykernel")) == 1
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130 and "./reproduce/run --preset single" in out and "Traceback" not in err
    assert processes_of(house, "") == []
