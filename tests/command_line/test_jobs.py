"""Many files: the bytes do not depend on the number of processes or shares, and a table holds a row a file."""

import csv
import io
import json
import os
import sys

import numpy as np
import pytest

from file_makers import PATIENT, save_dicom
from mptpn.__main__ import main
from mptpn.io.folders import TABLE

pytestmark = pytest.mark.filterwarnings("ignore")


def noisy(seed=0, level=20.0, shape=(64, 66)):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    clean = 500 + 200 * ((rows - 20) ** 2 + (cols - 25) ** 2 < 150)
    return clean + np.random.default_rng(seed).normal(0, level, shape)


def archive(folder):
    for number in range(3):
        (folder / f"s{number}").mkdir(parents=True)
        np.save(folder / f"s{number}/a.npy", noisy(number).astype("f4"))
    for number in range(3):
        save_dicom(folder / f"ct/{number}.dcm", noisy(number).astype("i2"), number=number, place=2.0 * number)
    (folder / "broken.png").write_text("words")
    (folder / "README").write_text("words")
    return folder


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != TABLE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_shares_and_processes_give_the_same_bytes_and_the_same_rows(tmp_path, capfd):
    source = archive(tmp_path / "in")
    given = ["denoise", str(source), "--model", "small", "--out"]
    assert main([*given, str(tmp_path / "one")]) == 1  # broken.png
    capfd.readouterr()
    assert main([*given, str(tmp_path / "jobs"), "--jobs", "2"]) == 1
    assert "100%" in capfd.readouterr().err  # one of the processes shows how far it is
    codes = [main([*given, str(tmp_path / "parts"), "--part", f"{number}/3"]) for number in (1, 2, 3)]
    assert sorted(codes) == [0, 0, 1]
    whole = contents(tmp_path / "one")
    assert len(whole) == 4 * 2 + 3 + 3
    assert contents(tmp_path / "jobs") == whole and contents(tmp_path / "parts") == whole
    for name in ("one", "jobs", "parts"):
        found = {row["result"]: row for row in rows(tmp_path / name / TABLE)}
        assert set(found) == {"s0/a.npy", "s1/a.npy", "s2/a.npy", "ct", ""}
        assert "no image of a known type" in found[""]["failure"] and found["ct"]["verdict"]
        assert 15 < float(found["s0/a.npy"]["level"]) < 25 and float(found["ct"]["seconds"]) > 0


def test_the_table_of_noise_has_a_row_a_file_with_intervals(tmp_path, capsys):
    source = archive(tmp_path / "in")
    assert main(["noise", str(source), "--csv", str(tmp_path / "noise.csv")]) == 1
    found = {row["file"].rsplit("/", 1)[1]: row for row in rows(tmp_path / "noise.csv")}
    assert len(rows(tmp_path / "noise.csv")) == 5 and "known type" in found["broken.png"]["failure"]
    one = found["ct"]
    assert one["kind"] and one["unit"] == "stored value" and not one["failure"]
    assert float(one["sigma_low"]) < 20 < float(one["sigma_high"]) and abs(float(one["correlation_rows"])) < 0.5
    assert "README" not in found and "files passed over: 1 that are no images" in capsys.readouterr().err


def test_gain_and_read_noise_are_told_with_their_intervals_and_in_electrons(tmp_path):
    random = np.random.default_rng(0)
    rows_, cols = np.mgrid[:256, :256]
    clean = 40 + 360 * (rows_ + cols) / 512  # electrons
    pixels = 2.0 * (random.poisson(clean) + random.normal(0, 5, clean.shape)) + 100
    np.save(tmp_path / "a.npy", pixels.round().astype(np.uint16))
    assert main(["noise", str(tmp_path / "a.npy"), "--csv", str(tmp_path / "noise.csv")]) == 0
    (row,) = rows(tmp_path / "noise.csv")
    assert row["kind"] == "poisson_gaussian"
    assert float(row["gain_low"]) < 2.0 < float(row["gain_high"]) and float(row["gain_low"]) > 1
    assert float(row["read_noise_electrons"]) == pytest.approx(float(row["read_noise"]) / float(row["gain"]), rel=1e-4)


def test_a_row_is_written_before_the_next_file_is_begun(tmp_path, monkeypatch, capsys):
    source = archive(tmp_path / "in")
    main(["denoise", str(source), "--model", "small", "--report", "none", "--out", str(tmp_path / "out")])
    assert [row["file"].split("/")[-2:] for row in rows(tmp_path / "out" / TABLE)][0] == ["in", "broken.png"]
    capsys.readouterr()
    assert main(["denoise", str(source), "--report", "none", "--out", str(source / "again")]) == 1
    capsys.readouterr()
    assert main(["noise", str(source), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 4  # results without reports are known by the table


@pytest.mark.parametrize("given", ["--jobs 0", "--part 3/2", "--part 0/2", "--part 1", "--jobs x"])
def test_shares_that_make_no_sense_are_refused(given, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["denoise", str(tmp_path), "--out", str(tmp_path / "o"), *given.split()])
    assert stop.value.code == 2 and "give" in capsys.readouterr().err


def test_the_unforeseen_is_a_sentence_and_debug_shows_where_without_the_words(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "a.npy", noisy())
    np.save(tmp_path / "b.npy", noisy(1))
    from mptpn.batch import scans

    real = scans.denoise_slice

    def fails(slice, *rest):
        if abs(float(slice.pixels[0, 0]) - noisy()[0, 0]) < 1e-3:
            raise KeyError(PATIENT)
        return real(slice, *rest)

    monkeypatch.setattr(scans, "denoise_slice", fails)
    given = ["denoise", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--model", "small", "--out"]
    assert main([*given, str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "a.npy: cannot be done (KeyError); run it again with --debug" in said and "JANE" not in said
    assert (tmp_path / "out/b.npy").exists() and "Traceback" not in said
    assert main([*given, str(tmp_path / "out2"), "--debug"]) == 1
    said = capsys.readouterr().err
    assert "KeyError at" in said and "denoise_slice" in said and "JANE" not in said


@pytest.mark.parametrize("shares", [("2/2", "1/2"), ("1/1", "1/2"), pytest.param(("jobs",), marks=pytest.mark.slow)])
def test_a_series_beside_and_above_other_images_is_done_whatever_the_shares(tmp_path, capsys, shares):
    for number in range(3):
        save_dicom(tmp_path / f"in/A/{number}.dcm", noisy(number).astype("i2"), number=number, place=2.0 * number)
        save_dicom(tmp_path / f"in/A/B/{number}.dcm", noisy(number + 3).astype("i2"), number=number, series="1.2.9")
    np.save(tmp_path / "in/A/snap.npy", noisy().astype("f4"))
    given = ["denoise", str(tmp_path / "in"), "--model", "tiny", "--out"]
    assert main([*given, str(tmp_path / "one")]) == 0
    whole = contents(tmp_path / "one")
    assert len(whole) == 7 + 3 * 2 and not list((tmp_path / "one").rglob(".*"))
    for share in shares:
        more = ["--jobs", "2"] if share == "jobs" else ["--part", share, "--overwrite"]
        assert main([*given, str(tmp_path / "shares"), *more]) == 0
    assert contents(tmp_path / "shares") == whole
    capsys.readouterr()
    assert main([*given, str(tmp_path / "shares")]) == 0 and capsys.readouterr().out.count("done before") == 3


def test_a_name_that_is_no_unicode_has_its_bytes_in_the_tables(tmp_path, monkeypatch):
    path = tmp_path / "in" / os.fsdecode(b"caf\xe9.npy")
    path.parent.mkdir()
    np.save(path, noisy().astype("f4"))
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    given = ["--model", "tiny", "--report", "none", "--out", str(tmp_path / "out")]
    assert main(["denoise", str(tmp_path / "in"), str(path), *given]) == 0
    assert main(["noise", str(tmp_path / "in"), "--csv", str(tmp_path / "noise.csv")]) == 0
    assert b"caf\xe9.npy,caf\xe9.npy," in (tmp_path / "out" / TABLE).read_bytes()
    assert b"in/caf\xe9.npy,stored value" in (tmp_path / "noise.csv").read_bytes()
