"""Nothing is lost: whatever kills a call, whatever fills the disk, whatever changes the input, no result is wrong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from file_makers import save_dicom
from mptpn.__main__ import main
from mptpn.atomic import Lock, staged
from mptpn.batch import Settings, denoise_files, scans
from mptpn.command_line.tables import add_row
from mptpn.io import Writer, open_scan, open_scans
from mptpn.io.parts import Parts

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (48, 50)


def noisy(seed=0):
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    clean = 500 + 200 * ((rows - 20) ** 2 + (cols - 25) ** 2 < 150)
    return (clean + np.random.default_rng(seed).normal(0, 20, SHAPE)).round().astype(np.int16)


def make_series(folder, count):
    for number in range(count):
        save_dicom(folder / f"IM{number:03d}.dcm", noisy(number), number=number + 1, place=2.0 * number)
    return folder


def contents(folder):
    """Bytes of all that is no hidden file and no table."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".csv"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def command(*arguments):
    return [sys.executable, "-m", "mptpn", "denoise", *map(str, arguments), "--model", "small"]


@pytest.mark.slow
def test_a_series_that_is_killed_ten_times_equals_an_uninterrupted_one(tmp_path):
    source, draw, out = make_series(tmp_path / "ct", 60), random.Random(0), tmp_path / "out"
    given = (source, "--uncertainty", "--out")
    began = time.monotonic()
    assert subprocess.run(command(*given, tmp_path / "whole"), capture_output=True).returncode == 0
    whole, killed = time.monotonic() - began, 0
    while killed < 10:
        process = subprocess.Popen(command(*given, out), stdout=-3, stderr=-3)
        try:
            process.wait(draw.uniform(0.2, 0.9) * whole)
            assert contents(out) == contents(tmp_path / "whole")
            shutil.rmtree(out)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    assert subprocess.run(command(*given, out), capture_output=True).returncode == 0
    assert contents(out) == contents(tmp_path / "whole")
    assert "ct.uncertainty.npy" in contents(out)


KILLED = """
import os, signal, sys
from mptpn.__main__ import main
import {module} as module
count, real = [0], {call}
def killing(*arguments, **more):
    count[0] += 1
    if count[0] == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **more)
{call} = killing
sys.exit(main(sys.argv[2:]))
"""
CALLS = {  # what is interrupted: module, function, at which call
    "a slice": ("mptpn.io.parts", "module.Parts._write", 4),
    "a checksum": ("mptpn.io.parts", "module.Parts._write", 5),
    "the assembly": ("mptpn.io.dicom", "module.write_derived", 2),
    "the report": ("mptpn.batch.report", "module.strip", 1),
    "the first name": ("mptpn.atomic", "module._rename", 1),
    "the second name": ("mptpn.atomic", "module._rename", 2),
    "the last name": ("mptpn.atomic", "module._rename", 4),
    "between two names of a folder": ("os", "module.replace", 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("again", [False, True])
def test_a_kill_at_any_write_leaves_no_half_result_and_the_next_call_completes_it(tmp_path, name, again):
    module, call, count = CALLS[name]
    source = make_series(tmp_path / "ct", 3)
    given = ["denoise", str(source), "--model", "small", "--uncertainty", "--out"]
    assert main([*given, str(tmp_path / "whole")]) == 0
    out = tmp_path / "out"
    if again:  # an older result is replaced
        assert main([*given, str(out), "--strength", "0.5"]) == 0
        before = contents(out / "ct")
    given += [str(out), *(["--overwrite"] if again else [])]
    script = KILLED.format(module=module, call=call)
    done = subprocess.run([sys.executable, "-c", script, str(count), *given], capture_output=True, text=True)
    if done.returncode == -signal.SIGKILL and (out / "ct").exists():
        now = contents(out / "ct")
        assert now in ([before, contents(tmp_path / "whole/ct")] if again else [contents(tmp_path / "whole/ct")])
    assert main(given) == 0
    assert contents(out) == contents(tmp_path / "whole")


def settings(tmp_path, **more):
    return Settings(tmp_path / "out", **{"model": "small", "progress": False, "report": "none"} | more)


def test_an_input_that_is_replaced_while_it_is_read_gives_no_result(tmp_path, monkeypatch):
    path, other = save_dicom(tmp_path / "a.dcm", noisy()), save_dicom(tmp_path / "b/a.dcm", noisy(9), PatientID="OTHER")
    real = scans.denoise_slice

    def replacing(*arguments):
        os.replace(other, path)
        return real(*arguments)

    monkeypatch.setattr(scans, "denoise_slice", replacing)
    written, failures = denoise_files([path], settings(tmp_path))
    assert not written and "was changed or replaced while it was read" in failures[str(path)]
    assert not (tmp_path / "out/a.dcm").exists()


def test_an_input_that_is_replaced_between_header_and_start_gives_no_result(tmp_path):
    path, other = save_dicom(tmp_path / "a.dcm", noisy()), save_dicom(tmp_path / "b/a.dcm", noisy(9))
    scan = open_scan(path)
    os.replace(other, path)
    with pytest.raises(ValueError, match="was changed or replaced"):
        Writer(scan, tmp_path / "out")


def test_a_slice_that_was_damaged_on_the_disk_is_computed_again(tmp_path, monkeypatch):
    np.save(tmp_path / "v.npy", np.stack([noisy(seed) for seed in range(4)]))
    whole, _ = denoise_files([tmp_path / "v.npy"], settings(tmp_path, uncertainty=True))
    expected = contents(tmp_path / "out")
    real, count = scans.denoise_slice, []

    def stops(*arguments):
        count.append(1)
        if len(count) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(scans, "denoise_slice", stops)
    with pytest.raises(KeyboardInterrupt):
        denoise_files([tmp_path / "v.npy"], settings(tmp_path, uncertainty=True))
    for part in (tmp_path / "out").glob(".*.part"):
        data = bytearray(part.read_bytes())
        size = len(data) // 4
        data[size : 2 * size] = bytes(size)
        part.write_bytes(data)
    denoise_files([tmp_path / "v.npy"], settings(tmp_path, uncertainty=True))
    assert contents(tmp_path / "out") == expected and len(count) == 4 + 3


def test_a_piece_that_changes_before_the_end_is_an_error(tmp_path):
    parts = Parts(tmp_path / "a", size=4, count=2)
    parts.write(0, b"abcd")
    parts.write(1, b"efgh")
    parts.check()
    with (tmp_path / "a").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(OSError, match="piece 1 of 2"):
        parts.check()


def test_another_noise_model_begins_again(tmp_path):
    np.save(tmp_path / "v.npy", np.stack([noisy(), noisy(1)]))
    for text, done in (("a", 0), ("a", 1), ("b", 0)):
        scan = open_scan(tmp_path / "v.npy")
        with pytest.raises(KeyboardInterrupt), Writer(scan, tmp_path / "out") as writer:
            writer.bind(text)
            assert writer.done == done
            if not done:
                writer.write(0, scan.read(0).pixels)
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["a.npy", "a.npy.uncertainty.npy", "a.npy.trust.json"])
def test_no_write_follows_a_link_out_of_the_folder(tmp_path, name):
    np.save(tmp_path / "a.npy", noisy())
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(precious)
    given = {"uncertainty": True, "report": "short"}
    denoise_files([tmp_path / "a.npy"], settings(tmp_path, **given))
    denoise_files([tmp_path / "a.npy"], settings(tmp_path, overwrite=True, **given))
    assert precious.read_text() == "precious" and not (tmp_path / "out" / name).is_symlink()


def test_a_folder_that_is_a_link_out_of_the_results_is_refused(tmp_path):
    (tmp_path / "in/s").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    np.save(tmp_path / "in/s/a.npy", noisy())
    (tmp_path / "out/s").symlink_to(tmp_path / "elsewhere")
    _, failures = denoise_files([tmp_path / "in"], settings(tmp_path))
    assert "is a link that leaves the folder" in next(iter(failures.values()))
    assert not list((tmp_path / "elsewhere").iterdir())


def test_what_stood_beside_an_older_result_is_removed_with_it(tmp_path):
    np.save(tmp_path / "a.npy", noisy())
    denoise_files([tmp_path / "a.npy"], settings(tmp_path, uncertainty=True, report="short"))
    assert len(list((tmp_path / "out").iterdir())) == 4
    denoise_files([tmp_path / "a.npy"], settings(tmp_path, strength=0.5, overwrite=True))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.npy"]


def test_an_uncertainty_of_somebody_else_is_not_replaced_without_being_asked(tmp_path):
    np.save(tmp_path / "a.npy", noisy())
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.npy.uncertainty.npy").write_text("precious")
    _, failures = denoise_files([tmp_path / "a.npy"], settings(tmp_path, uncertainty=True))
    assert "exists already" in failures[str(tmp_path / "a.npy")]
    assert (tmp_path / "out/a.npy.uncertainty.npy").read_text() == "precious"
    assert len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.slow
def test_two_calls_into_one_folder_do_not_harm_each_other(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        np.save(tmp_path / f"in/{number}.npy", noisy(number))
    given = command(tmp_path / "in", "--out", tmp_path / "out")
    both = [subprocess.Popen(given, stdout=-3, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[1] for process in both]
    assert not any("Traceback" in words for words in said)
    assert main(["denoise", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", "small"]) == 0
    main(["denoise", str(tmp_path / "in"), "--out", str(tmp_path / "alone"), "--model", "small"])
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_a_target_that_another_process_writes_is_refused_in_a_sentence(tmp_path):
    np.save(tmp_path / "a.npy", noisy())
    (tmp_path / "out").mkdir()
    lock = Lock(tmp_path / "out/.a.npy.lock")
    _, failures = denoise_files([tmp_path / "a.npy"], settings(tmp_path))
    assert "another call writes it; wait" in failures[str(tmp_path / "a.npy")]
    lock.release()
    assert denoise_files([tmp_path / "a.npy"], settings(tmp_path))[0]


def test_a_call_that_is_repeated_passes_over_what_is_done(tmp_path, capsys):
    np.save(tmp_path / "a.npy", noisy())
    given = ["denoise", str(tmp_path / "a.npy"), "--model", "small", "--out", str(tmp_path / "out")]
    assert main(given) == 0
    stamp = (tmp_path / "out/a.npy").stat().st_mtime_ns
    capsys.readouterr()
    assert main(given) == 0 and "done before" in capsys.readouterr().out
    assert (tmp_path / "out/a.npy").stat().st_mtime_ns == stamp
    assert main([*given, "--strength", "0.5"]) == 1 and "exists already; choose" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b/a.npy", noisy(3))
    assert main(["denoise", str(tmp_path / "b/a.npy"), "--model", "small", "--out", str(tmp_path / "out")]) == 1


def test_files_that_are_staged_together_appear_together(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(OSError), staged() as stage:
        stage(tmp_path / "a", lambda path: path.write_text("new"))
        stage(tmp_path / "b", lambda path: (_ for _ in ()).throw(OSError("full")))
    assert contents(tmp_path) == {"a": b"old"}


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small disk takes root and mount")
@pytest.mark.parametrize("size", [12, 40, 80, 120, 200, 300])
def test_a_full_disk_is_a_sentence_and_nothing_half_written_has_a_name(tmp_path, size, capsys):
    source = make_series(tmp_path / "ct", 8)  # 38 kB of pixels, twice as much uncertainty
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mount is not allowed here")
    try:
        given = ["denoise", str(source), "--model", "small", "--uncertainty", "--out", str(disk / "out")]
        code, said = main(given), capsys.readouterr().err
        names = [path.name for path in (disk / "out").glob("[!.]*")] if (disk / "out").exists() else []
        if code:
            assert "No space left on device" in said or "cannot be written" in said
            assert not [name for name in names if not name.endswith(".csv")]
        else:
            assert len(list((disk / "out/ct").iterdir())) == 8
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="a small disk takes root and mount")
def test_a_row_that_does_not_fit_on_the_disk_is_a_sentence_and_the_table_stays_whole(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        table, rows = tmp_path / "a.csv", 0
        with pytest.raises(OSError, match=r"a\.csv: cannot be written \(No space left on device\)"):
            while True:
                add_row(table, ["name", "other"], {"name": "x" * 300, "other": rows})
                rows += 1
        lines = table.read_text().splitlines()
        assert len(lines) == rows + 1 > 5 and all(len(line) >= 302 for line in lines[1:])
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_table_that_cannot_be_written_stops_no_file(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name in "ab":
        np.save(tmp_path / f"in/{name}.npy", noisy())
    (tmp_path / "out/results.trust.csv").mkdir(parents=True)
    given = ["denoise", str(tmp_path / "in"), "--model", "small", "--report", "none", "--out", str(tmp_path / "out")]
    assert main(given) == 1
    assert capsys.readouterr().err.count("results.trust.csv: cannot be written") == 1
    assert (tmp_path / "out/a.npy").exists() and (tmp_path / "out/b.npy").exists()


def test_the_files_of_a_series_are_named_in_the_report(tmp_path):
    source = make_series(tmp_path / "in/ct", 2)
    main(["denoise", str(tmp_path / "in"), "--model", "small", "--out", str(tmp_path / "out")])
    about = json.loads((tmp_path / "out/ct.trust.json").read_text())
    assert about["source"] == "ct" and about["files"] == ["IM000.dcm", "IM001.dcm"]
    assert sorted(path.name for path in (tmp_path / "out/ct").iterdir()) == sorted(p.name for p in source.iterdir())
    assert open_scans([tmp_path / "in"])[0][0].label == "ct"
