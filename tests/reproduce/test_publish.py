"""figures/ holds what reproduce/figures.yaml declares, complete and fresh. Each fault is planted once."""

import json
from pathlib import Path

import pytest

import code_hash
import execute
import presets
import publish
from stub_repository import make_repository, write_second_notebook

NAME = "02_pair_synthesis"


def faults() -> list[str]:
    return publish.faults()


def test_published_figures_are_declared_complete_and_fresh():
    assert faults() == [] and len(publish.declared_figures()) >= 6


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository with one declared figure and a finished run of its notebook; nothing published yet."""
    make_repository(tmp_path)
    for module in (presets, code_hash, publish):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    monkeypatch.setattr(code_hash, "modules_of", code_hash.modules_of.__wrapped__)  # not those of this repository
    for folder in ("figures", "runs/single/figures", "runs/single/done"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "reproduce/figures.yaml").write_text(f"levels: {{notebook: {NAME}, preset: single}}\n")
    about = {"name": "levels", "notebook": NAME, "parameters": {}, "commit": "0123abc"}
    for end, text in ((".png", "picture"), (".csv", "numbers"), (".json", json.dumps(about))):
        (tmp_path / f"runs/single/figures/levels{end}").write_text(text)
    monkeypatch.chdir(tmp_path / "runs/single")
    record(tmp_path)
    return tmp_path


def record(repository: Path) -> None:
    files = execute.results(NAME, "", since=0)
    text = json.dumps({"code": code_hash.code_hash(NAME), "given": {}, "files": files})
    (repository / f"runs/single/done/{NAME}.json").write_text(text)


@pytest.fixture
def published(repository) -> Path:
    assert publish_single(repository) == [] == faults()
    return repository


def publish_single(repository: Path) -> list[str]:
    return publish.publish("single", repository / "runs")


def test_published_json_carries_preset_code_and_all_parameters(published):
    about = json.loads((published / "figures/levels.json").read_text())
    assert about["parameters"] == {"seed": 0, "threads": 1, "learning_rate": 0.1} and about["commit"] == "0123abc"
    assert about["preset"] == "single" and about["code"] == code_hash.code_hash(NAME)


@pytest.mark.parametrize("end", [".png", ".csv", ".json"])
def test_a_stray_and_a_missing_file_are_found(published, end):
    (published / f"figures/levels{end}").rename(published / f"figures/stray{end}")
    assert len(faults()) == 2 and f"stray{end}" in faults()[0] and f"levels{end} is missing" in faults()[1]


def test_a_figure_of_changed_code_or_parameters_is_stale(published):
    (published / "mptpn/synthesis.py").write_text('"""Reworded."""\nB = 1  # why\n')
    assert faults() == []
    (published / "mptpn/synthesis.py").write_text("B = 2\n")
    assert len(faults()) == 1 and f"stale, notebook {NAME}" in faults()[0]
    (published / "reproduce/presets/single.yaml").write_text(f"description: one\nnotebooks: {{{NAME}: {{seed: 4}}}}\n")
    assert len(faults()) == 2 and "stale, the parameters" in faults()[1]


def test_restamped_figures_are_fresh_and_carry_the_proof_and_those_of_other_parameters_stay_stale(
    published, monkeypatch
):
    monkeypatch.setattr(publish, "commit", lambda: "89abcde")
    write_second_notebook(published, body="value = 1 * seed")
    assert publish.restamp(["single"], "the same bytes") == []
    assert publish.restamp(["single"], "the same bytes") == [] == faults()
    about = json.loads((published / "figures/levels.json").read_text())
    assert about["commit"] == "89abcde"
    assert about["restamped"] == {"from": "0123abc", "proof": "the same bytes"}
    (published / "reproduce/presets/single.yaml").write_text(f"description: one\nnotebooks: {{{NAME}: {{seed: 4}}}}\n")
    assert "draw it again" in publish.restamp(["single"], "none")[0] and len(faults()) == 1


def test_a_figure_of_no_known_run_is_refused(repository):
    (repository / "reproduce/figures.yaml").write_text("levels: {notebook: 01_noise_estimatoin}\n")
    with pytest.raises(presets.UsageError, match="'01_noise_estimation'"):
        publish.declared_figures()


@pytest.mark.parametrize(
    "fault", ["not run", "other code", "other parameters", "other file", "lost file", "uncommitted"]
)
def test_what_is_not_of_the_run_as_it_stands_is_not_published_and_the_old_figure_stays(published, fault):
    old, drawn = (published / "figures/levels.png").read_bytes(), published / "runs/single/figures"
    match fault:
        case "not run":
            (published / f"runs/single/done/{NAME}.json").unlink()
        case "other code":
            (published / "mptpn/synthesis.py").write_text("B = 2\n")
        case "other parameters":
            (published / "reproduce/presets/single.yaml").write_text(
                f"description: 1\nnotebooks: {{{NAME}: {{seed: 1}}}}"
            )
        case "other file":
            (drawn / "levels.png").write_text("another picture")
        case "lost file":
            (drawn / "levels.csv").unlink()
        case "uncommitted":
            about = json.loads((drawn / "levels.json").read_text())
            (drawn / "levels.json").write_text(json.dumps(about | {"commit": "0123abc+"}))
            record(published)
    assert "Nothing was published" in publish_single(published)[-1]
    assert (published / "figures/levels.png").read_bytes() == old
