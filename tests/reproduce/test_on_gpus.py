"""Runs side by side get different GPUs. No GPU is needed: only the device numbers are handed out."""

import os
import subprocess
import time
from pathlib import Path

import pytest

ON_GPUS = str(Path(__file__).parents[2] / "reproduce/on_gpus")


@pytest.fixture
def environment(tmp_path) -> dict:
    return {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "MPTPN_GPUS": "3,5"}


def start(environment: dict, count: int, command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [ON_GPUS, str(count), "bash", "-c", command], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_runs_get_two_devices_and_a_third_waits_for_both(environment):
    first = start(environment, 1, "echo $CUDA_VISIBLE_DEVICES; sleep 2")
    second = start(environment, 1, "echo $CUDA_VISIBLE_DEVICES; sleep 1")
    time.sleep(0.5)
    begun = time.time()
    third = start(environment, 2, "echo $CUDA_VISIBLE_DEVICES")
    devices = [process.communicate(timeout=30)[0].split()[-1] for process in (first, second, third)]
    assert sorted(devices[:2]) == ["3", "5"] and devices[2] == "3,5" and time.time() - begun > 1


def test_device_is_held_until_the_last_process_of_a_run_has_ended(environment):
    environment["MPTPN_GPUS"] = "3"
    first = start(environment, 1, "sleep 1.5 >/dev/null &")  # its child outlives it
    first.communicate(timeout=30)
    begun = time.time()
    start(environment, 1, "true").communicate(timeout=30)
    assert time.time() - begun > 0.5


def test_run_without_gpu_and_run_on_a_cluster_start_at_once_with_devices_untouched(environment):
    assert start(environment, 0, "echo [$CUDA_VISIBLE_DEVICES]").communicate(timeout=30)[0] == "[]\n"
    cluster = environment | {"MPTPN_GPUS": "", "CUDA_VISIBLE_DEVICES": "1"}
    assert start(cluster, 1, "echo [$CUDA_VISIBLE_DEVICES]").communicate(timeout=30)[0] == "[1]\n"
