"""The reproduction on stub notebooks that take a second each: bad input, staleness, failures."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import torch

import presets
from mptpn.networks.transformer import RetractableTransformer
from stub_repository import ROOT, make_repository, ran, run, start, write_second_notebook


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    path = make_repository(tmp_path / "repository")
    monkeypatch.setattr(presets, "REPOSITORY", path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A repository whose preset has run to its end; tests copy it and leave it alone."""
    path = make_repository(tmp_path_factory.mktemp("finished") / "repository")
    code, out, err = run(path)
    assert code == 0, out + err
    assert all(words in out for words in ("01_noise_estimation", "cell 1 of 5", "done", "executed notebooks:"))
    return path


@pytest.fixture
def done(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "repository", symlinks=True))


def edit(repository: Path, old: str, new: str) -> None:
    preset = repository / "reproduce/presets/quick.yaml"
    assert old in preset.read_text()
    preset.write_text(preset.read_text().replace(old, new))


def would_run(repository: Path) -> list[str]:
    code, out, err = run(repository, "--dry-run")
    assert code == 0, err
    return [line.split()[2].rstrip(":") for line in out.splitlines() if line.startswith("would run")]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("learning_rate: 1", "learning_rat: 0.25", ["'learning_rat'", "0.25", "'learning_rate'", "03_profound"]),
        ("seed: 2", "sed: 2", ["'sed'", "'seed'", "dense"]),
        ("seed: 1", "seed: 1.5", ["1.5", "int"]),
        ("seed: 1", "seed: true", ["True", "int"]),
        ("learning_rate: 1", "learning_rate: 1e-3", ["'1e-3'", "float", "1.0e-3"]),
        ("02_pair_synthesis", "02_pairs_synthesis", ["'02_pair_synthesis'"]),
        ("variants:", "variant:", ["'variants'"]),
    ],
)
def test_a_wrong_preset_is_refused_naming_the_value_and_the_nearest(repository, old, new, words):
    edit(repository, old, new)
    with pytest.raises(presets.UsageError) as error:
        presets.tasks("quick")
    assert all(word in str(error.value) for word in words) and str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--preset", "quik"], "'quik': choose one of quick, single"),
        (["--executor", "slrum"], "'slrum': choose one of slurm"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_runs(repository, options, words):
    code, out, err = run(repository, *options)
    assert code == 2 and out == "" and words in err and err.count("\n") == 1
    assert not (repository / "ran.txt").exists()


@pytest.mark.slow
def test_a_preset_for_gpus_is_refused_on_a_machine_without(repository):
    edit(repository, "learning_rate: 1", "accelerator: cuda")
    code, out, err = run(repository)
    assert code == 2 and "wants a CUDA GPU" in err and not (repository / "ran.txt").exists()


@pytest.mark.slow
def test_every_variant_runs_once_and_a_second_run_does_nothing(done):
    names = ["01_noise_estimation", "02_pair_synthesis", "03_profound_training/both", "03_profound_training/dense"]
    assert sorted(ran(done)) == names
    results = {path.parent.name: path.read_text() for path in (done / "runs/quick").rglob("result.txt")}
    assert results == {"01_noise_estimation": "1", "02_pair_synthesis": "0", "both": "0", "dense": "2"}
    executed = nbformat.read(done / "runs/quick/notebooks/03_profound_training-dense.ipynb", as_version=4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    record = json.loads((done / "runs/quick/done/03_profound_training-both.json").read_text())
    assert list(record["files"]) == ["03_profound_training/both/result.txt"] and len(record["code"]) == 16
    (done / "runs/quick/04_ablation_figures").mkdir()
    (done / "runs/quick/04_ablation_figures/table.txt").write_text("method  dB\n")
    code, out, err = run(done)
    assert code == 0 and "Nothing to do" in out and "method  dB" in out and len(ran(done)) == 4


@pytest.mark.slow
def test_what_changes_code_or_parameters_or_results_runs_again_and_nothing_else(done):
    for path in [*(done / "notebooks").iterdir(), *(done / "mptpn").rglob("*.py"), *(done / "reproduce").glob("*.py")]:
        path.touch()
    (done / "mptpn/noise/models.py").write_text('"""A docstring."""\n\nA = 1  # and a comment\n')
    assert would_run(done) == []
    edit(done, "seed: 2", "seed: 3")
    assert would_run(done) == ["03_profound_training-dense"]
    edit(done, "seed: 3", "seed: 2")
    (done / "runs/quick/03_profound_training/both/result.txt").unlink()
    assert would_run(done) == ["03_profound_training-both"]
    write_second_notebook(done, body="value = seed + 1")
    assert [name[:2] for name in would_run(done)] == ["02", "03", "03"]
    (done / "mptpn/noise/models.py").write_text("A = 2\n")
    assert [name[:2] for name in would_run(done)] == ["01", "02", "03", "03"]


@pytest.mark.slow
def test_a_failed_run_shows_the_error_keeps_the_old_result_and_is_done_again(done):
    result = done / "runs/quick/03_profound_training/dense/result.txt"
    executed = done / "runs/quick/notebooks/03_profound_training-dense.ipynb"
    old, before = executed.read_bytes(), ran(done)
    edit(done, "seed: 2", "seed: 13")
    code, out, err = run(done)
    assert code == 1 and "AssertionError: planted" in out and "logs/03_profound_training-dense.log" in out
    assert result.read_text() == "2" and executed.read_bytes() == old
    edit(done, "seed: 13", "seed: 5")
    code, out, err = run(done)
    assert code == 0 and result.read_text() == "5", out + err
    assert ran(done) == [*before, "03_profound_training/dense", "03_profound_training/dense"]


@pytest.mark.slow
def test_the_slurm_profile_is_accepted(repository):
    code, out, err = run(repository, "--executor", "slurm", "--dry-run")
    assert code == 0 and "would run 01_noise_estimation" in out and not (repository / "ran.txt").exists()


def test_a_notebook_runs_as_plain_python_to_the_same_results(repository):
    process = start(repository, "03_profound_training", "--variant", "dense", script="plain.py")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert (repository / "runs/quick/03_profound_training/dense/result.txt").read_text() == "2"
    process = start(repository, "03_profound_training", "--variant", "sparse", script="plain.py")
    assert "has no run '03_profound_training-sparse'" in process.communicate(timeout=100)[1]


def test_parameters_are_those_that_papermill_sees():
    from papermill import inspect_notebook  # takes two seconds

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        seen = {name: about["inferred_type_name"] for name, about in inspect_notebook(path).items()}
        assert {name: kind for name, (kind, _) in presets.declared_parameters(path.stem).items()} == seen, path.stem


@pytest.mark.parametrize("preset", presets.presets())
def test_every_preset_fits_the_notebooks_and_each_of_its_networks_can_be_built(preset):
    """On no device, so that the largest takes no time; every variant asks for a training of its own."""
    names = "widths intervals blocks head_dim unshuffle mlp_ratio bias attention window sparse_groups".split()
    tasks = presets.tasks(preset)
    networks = [task for task in tasks.values() if "widths" in task.parameters]
    for task in networks:
        with torch.device("meta"):
            RetractableTransformer(1, **{name: task.parameters[name] for name in names if name in task.parameters})
    own = {json.dumps(task.parameters | {"variant": ""}, sort_keys=True) for task in networks}
    assert tasks and len(own) == len(networks)
