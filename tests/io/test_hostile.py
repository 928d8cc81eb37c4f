"""Files that are broken or made to harm are refused: one sentence, little memory, little time, the others are done."""

import os
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from hostile_files import FILES

from mptpn.batch import Settings, denoise_files
from mptpn.io import open_scan

MEMORY, SECONDS = 300 * 2**20, 10


def make(folder, name):
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(FILES[name](folder.parent / "made" / name))
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_it_is_refused_in_one_sentence_with_little_memory_and_time(tmp_path, name):
    path = make(tmp_path / "in", name)
    settings = Settings(tmp_path / "out", model="small", progress=False, report="none")
    tracemalloc.start()
    started = time.monotonic()
    written, failures = denoise_files([path], settings)
    seconds, memory = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    message = failures[str(path)]
    assert not written and message.startswith(f"{path}") and "\n" not in message and len(message) < 500
    assert message.endswith(".") and "Traceback" not in message and "--debug" not in message
    assert memory < MEMORY and seconds < SECONDS, f"{memory / 2**20:.0f} MiB, {seconds:.1f} s"
    assert not list(tmp_path.glob("out/*"))


@pytest.mark.slow
def test_the_other_files_of_the_call_are_done_and_the_process_stays_small(tmp_path):
    def peak(folder):
        script = "import sys; from mptpn.__main__ import main\ncode = main(sys.argv[1:])\n"
        # ru_maxrss would start from that of the process that forked it
        script += "print(code, open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        command = ["denoise", folder, "--out", folder.with_name(folder.name + "_out"), "--report", "none"]
        done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, text=True)
        assert "Traceback" not in done.stderr
        code, size = map(int, done.stdout.splitlines()[-1].split())
        return code, size * 1024, done.stderr

    for folder in ("plain", "hostile"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "z.npy", np.random.default_rng(0).normal(100, 9, (64, 64)).astype("f4"))
    for name in FILES:
        make(tmp_path / "hostile", name)
    plain, hostile = peak(tmp_path / "plain"), peak(tmp_path / "hostile")
    assert plain[0] == 0 and hostile[0] == 1 and (tmp_path / "hostile_out/z.npy").exists()
    assert sum(line.startswith("mptpn denoise:") for line in hostile[2].splitlines()) == len(FILES)
    assert hostile[1] - plain[1] < MEMORY


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="pipe.png: is no regular file"):
        open_scan(tmp_path / "pipe.png")
    with pytest.raises(ValueError, match="/dev/zero: is no regular file"):
        open_scan("/dev/zero")


@pytest.mark.parametrize("closed", ["2>&-", "1>&- 2>&-", "2>/dev/full", "0<&- 2>&-"])
def test_a_closed_error_channel_stops_no_work_and_is_never_written_into_a_result(tmp_path, closed):
    clean = np.random.default_rng(0).normal(100, 9, (64, 64)).astype("f4")
    np.save(tmp_path / "a.npy", clean)
    command = f"{sys.executable} -m mptpn denoise {tmp_path}/a.npy --out {tmp_path}/out --strength 0 {closed}"
    assert subprocess.run(["bash", "-c", command], stdout=subprocess.DEVNULL).returncode == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out/a.npy"), clean)
