"""figures/ holds what reproduce/figures.yaml declares, complete and fresh; each fault is planted once in a small house
to show that it is found.
"""

import json
from pathlib import Path

import nbformat
import pytest

import content
import plan
import publish
import record

PARAMETERS = 'out: str = "../runs/notebooks"  # run folder\nseed: int = 0  # of every generator\nthreads: int = 1  # processor cores'


def faults() -> list[str]:
    return publish.faults(publish.declared_figures())


def test_published_figures_are_declared_complete_and_fresh():
    assert faults() == []


def test_there_are_at_least_six_published_figures():
    assert len(publish.declared_figures()) >= 6


def write_notebook(house: Path, code: str) -> None:
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(code)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), house / "notebooks/01_noise_estimation.ipynb")


@pytest.fixture
def house(tmp_path, monkeypatch) -> Path:
    """One notebook, one module, one declared figure, a finished run of it; nothing published yet."""
    for module in (plan, content):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for folder in ("notebooks", "mptpn", "reproduce/presets", "figures", "runs/quick/figures", "runs/quick/done"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mptpn/__init__.py").touch()
    (tmp_path / "mptpn/noise.py").write_text("A = 1\n")
    (tmp_path / "reproduce/presets/quick.yaml").write_text(
        "description: stub\nnotebooks: {01_noise_estimation: {seed: 3}}\n"
    )
    (tmp_path / "reproduce/figures.yaml").write_text("levels: {notebook: 01_noise_estimation}\n")
    write_notebook(tmp_path, "from mptpn.noise import A")
    about = {"name": "levels", "notebook": "01_noise_estimation", "parameters": {"seed": 3}, "device": "cpu"}
    for end, text in ((".png", "picture"), (".csv", "numbers"), (".json", json.dumps(about))):
        (tmp_path / f"runs/quick/figures/levels{end}").write_text(text)
    monkeypatch.chdir(tmp_path / "runs/quick")
    record.record(
        "01_noise_estimation", "01_noise_estimation", "", "0", content.code_hash("01_noise_estimation"), '{"seed": 3}'
    )
    return tmp_path


@pytest.fixture
def published(house) -> Path:
    assert publish_quick(house) == [] == faults()
    return house


def publish_quick(house: Path) -> list[str]:
    return publish.publish(publish.declared_figures(), "quick", house / "runs/quick")


def test_published_json_carries_preset_code_and_all_parameters(published):
    about = json.loads((published / "figures/levels.json").read_text())
    assert about == {
        "name": "levels",
        "notebook": "01_noise_estimation",
        "parameters": {"seed": 3, "threads": 1},
        "device": "cpu",
        "preset": "quick",
        "code": content.code_hash("01_noise_estimation"),
    }
    assert (published / "figures/levels.png").read_text() == "picture" and (
        published / "figures/levels.csv"
    ).read_text() == "numbers"


def test_undeclared_figure_is_found(published):
    (published / "figures/stray.png").touch()
    assert len(faults()) == 1 and "stray.png" in faults()[0]


def test_declared_figure_that_is_missing_is_found(house):
    assert (
        len(faults()) == 1 and "figures/levels.png, figures/levels.csv, figures/levels.json is missing" in faults()[0]
    )


@pytest.mark.parametrize("end", [".png", ".csv", ".json"])
def test_figure_without_one_of_its_three_files_is_found(published, end):
    (published / f"figures/levels{end}").unlink()
    assert len(faults()) == 1 and f"levels{end} is missing" in faults()[0]


def test_figure_of_a_changed_notebook_is_stale(published):
    write_notebook(published, "from mptpn.noise import A\nA + 1")
    assert len(faults()) == 1 and "notebook 01_noise_estimation or a module" in faults()[0]


def test_figure_of_a_changed_module_is_stale_and_of_a_reworded_one_is_not(published):
    (published / "mptpn/noise.py").write_text('"""Reworded."""\nA = 1  # why\n')
    assert faults() == []
    (published / "mptpn/noise.py").write_text("A = 2\n")
    assert len(faults()) == 1 and "stale" in faults()[0]


def test_figure_of_changed_parameters_is_stale(published):
    (published / "reproduce/presets/quick.yaml").write_text(
        "description: stub\nnotebooks: {01_noise_estimation: {seed: 4}}\n"
    )
    assert len(faults()) == 1 and "parameters of 01_noise_estimation in preset quick" in faults()[0]


def test_figure_of_no_known_run_is_refused(house):
    (house / "reproduce/figures.yaml").write_text("levels: {notebook: 01_noise_estimatoin}\n")
    with pytest.raises(plan.Mistake, match="'01_noise_estimation'"):
        publish.declared_figures()


@pytest.mark.parametrize("fault", ["not run", "other code", "other parameters", "other file", "lost file"])
def test_what_is_not_of_the_run_as_it_stands_is_not_published_and_the_old_figure_stays(published, fault):
    old = (published / "figures/levels.png").read_bytes()
    match fault:
        case "not run":
            (published / "runs/quick/done/01_noise_estimation.json").unlink()
        case "other code":
            (published / "mptpn/noise.py").write_text("A = 2\n")
        case "other parameters":
            (published / "reproduce/presets/quick.yaml").write_text(
                "description: stub\nnotebooks: {01_noise_estimation: {}}\n"
            )
        case "other file":
            (published / "runs/quick/figures/levels.png").write_text("another picture")
        case "lost file":
            (published / "runs/quick/figures/levels.csv").unlink()
    assert "Nothing was published" in publish_quick(published)[-1]
    assert (published / "figures/levels.png").read_bytes() == old
