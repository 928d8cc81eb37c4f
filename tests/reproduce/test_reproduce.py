"""The reproduction on stub notebooks that take a second each: bad input, staleness, failures. Each test works on a copy
of its own.
"""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
import torch

import plan
import record
from mptpn.networks.transformer import RetractableTransformer
from stub_house import ROOT, make_house, ran, run, write_second_notebook


def would_run(house: Path) -> list[str]:
    code, out, err = run(house, "--dry-run")
    assert code == 0, err
    return [line.split()[2].rstrip(":") for line in out.splitlines() if line.startswith("would run")]


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A house whose preset has run to its end; tests copy it and leave it alone."""
    house = make_house(tmp_path_factory.mktemp("finished") / "house")
    code, out, err = run(house)
    assert code == 0, out + err
    return house


@pytest.fixture
def done(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "house", symlinks=True))


@pytest.fixture
def house(tmp_path) -> Path:
    return make_house(tmp_path / "house")


def refusal(house: Path, *options: str) -> str:
    """The one sentence with which the run refuses; nothing may have run."""
    code, out, err = run(house, *options)
    assert code == 2 and not (house / "ran.txt").exists()
    assert out == "" and err.count("\n") == 1 and err.endswith(".\n") and "Traceback" not in err
    return err


def test_misspelt_parameter_is_refused_naming_the_nearest(house):
    preset = house / "reproduce/presets/quick.yaml"
    preset.write_text(preset.read_text().replace("learning_rate: 1", "learning_rat: 0.25"))
    sentence = refusal(house)
    assert (
        "'learning_rat'" in sentence
        and "0.25" in sentence
        and "'learning_rate'" in sentence
        and "03_profound_training" in sentence
    )


def test_misspelt_parameter_of_a_variant_is_refused(house):
    preset = house / "reproduce/presets/quick.yaml"
    preset.write_text(preset.read_text().replace("seed: 2", "sed: 2"))
    assert "'seed'" in refusal(house)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("seed: 1.5", "int"),
        ("seed: true", "int"),
        ("seed: [1]", "int"),
        ("learning_rate: fast", "float"),
        ("learning_rate: 1e-3", "write 0.001"),
    ],
)
def test_ill_typed_parameter_is_refused_with_value_and_type(house, given, kind):
    preset = house / "reproduce/presets/quick.yaml"
    preset.write_text(preset.read_text().replace("seed: 1}", given + "}"))
    sentence = refusal(house)
    assert kind in sentence and given.split(": ")[1].strip("[]").title() in sentence.title()


def test_unknown_preset_is_refused_with_the_names_of_those_there_are(house):
    sentence = refusal(house, "--preset", "quik")
    assert "'quik'" in sentence and "quick, single" in sentence


def test_unknown_notebook_and_unknown_key_are_refused(house):
    preset = house / "reproduce/presets/quick.yaml"
    good = preset.read_text()
    preset.write_text(good.replace("02_pair_synthesis", "02_pairs_synthesis"))
    assert "02_pair_synthesis" in refusal(house)
    preset.write_text(good.replace("variants:", "variant:"))
    assert "'variants'" in refusal(house)


def test_help_lists_the_presets(house):
    code, out, err = run(house, "--help")
    assert code == 0 and "quick" in out and "one notebook" in out


def test_every_variant_runs_once_with_its_own_parameters(finished):
    assert sorted(ran(finished)) == [
        "01_noise_estimation",
        "02_pair_synthesis",
        "03_profound_training/both",
        "03_profound_training/dense",
    ]
    results = {path.parent.name: path.read_text() for path in (finished / "runs/quick").rglob("result.txt")}
    assert results == {"01_noise_estimation": "1", "02_pair_synthesis": "0", "both": "0", "dense": "2"}
    executed = nbformat.read(finished / "runs/quick/notebooks/03_profound_training-dense.ipynb", as_version=4)
    assert any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)


def test_second_run_does_nothing_and_says_so(done):
    before = ran(done)
    code, out, err = run(done)
    assert code == 0 and "Nothing to do" in out and ran(done) == before


def test_opened_notebook_touched_file_and_reworded_comment_rerun_nothing(done):
    for path in [*(done / "notebooks").iterdir(), *(done / "mptpn").iterdir(), *(done / "reproduce").glob("*.py")]:
        path.touch()
    first = done / "notebooks/01_noise_estimation.ipynb"
    book = nbformat.read(first, as_version=4)
    book.cells[0].source = "# reworded"
    book.cells[2].outputs = [nbformat.v4.new_output("stream", text="seen")]
    book.metadata["widgets"] = {}
    nbformat.write(book, first)
    (done / "mptpn/noise.py").write_text('"""A docstring."""\n\nA = 1  # and a comment\n')
    assert would_run(done) == []


@pytest.mark.parametrize(
    ("module", "rerun"),
    [
        ("noise", ["01", "02", "03", "03"]),
        ("synthesis", ["02", "03", "03"]),
        ("transformer", ["03", "03"]),
        ("__init__", ["01", "02", "03", "03"]),
    ],
)
def test_changed_module_makes_exactly_its_dependants_stale(done, module, rerun):
    with open(done / f"mptpn/{module}.py", "a") as file:
        file.write("CHANGED = 1\n")
    assert [name[:2] for name in would_run(done)] == rerun


def test_changed_parameter_of_one_variant_makes_that_variant_stale(done):
    preset = done / "reproduce/presets/quick.yaml"
    preset.write_text(preset.read_text().replace("seed: 2", "seed: 3"))
    assert would_run(done) == ["03_profound_training-dense"]


def test_changed_default_or_code_cell_makes_the_notebook_stale(done):
    write_second_notebook(done, body="value = seed + 1")
    assert [name[:2] for name in would_run(done)] == ["02", "03", "03"]


def test_lost_result_is_made_again(done):
    (done / "runs/quick/03_profound_training/dense/result.txt").unlink()
    assert would_run(done) == ["03_profound_training-dense"]


def test_failed_run_shows_the_error_keeps_the_old_result_and_is_done_again(done):
    """Only the variant whose parameter changed runs, both times."""
    preset, before = done / "reproduce/presets/quick.yaml", ran(done)
    result, executed = (
        done / "runs/quick/03_profound_training/dense/result.txt",
        done / "runs/quick/notebooks/03_profound_training-dense.ipynb",
    )
    old = executed.read_bytes()
    preset.write_text(preset.read_text().replace("seed: 2", "seed: 13"))
    code, out, err = run(done)
    assert code == 1
    assert (
        "AssertionError: planted" in out and "assert seed != 13" in out and "logs/03_profound_training-dense.log" in out
    )
    assert result.read_text() == "2" and executed.read_bytes() == old
    preset.write_text(preset.read_text().replace("seed: 13", "seed: 5"))
    code, out, err = run(done)
    assert code == 0 and result.read_text() == "5", out + err
    assert ran(done) == [*before, "03_profound_training/dense", "03_profound_training/dense"]


@pytest.mark.parametrize(
    "said, code", [("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:48691')", 0), ("MemoryError", 1)]
)
def test_a_kernel_whose_port_was_taken_starts_again(house, tmp_path, said, code):
    """Jupyter chooses free ports before its kernel takes them; another kernel may be first."""
    starter = house / "reproduce/on_gpus"
    starter.write_text(
        f'#!/bin/sh\n[ -e {tmp_path}/once ] && shift && exec "$@"\ntouch {tmp_path}/once\necho "{said}"\nexit 1\n'
    )
    assert run(house, "--preset", "single")[0] == code


def test_slurm_profile_is_accepted(house):
    shutil.copytree(ROOT / "reproduce/profile", house / "reproduce/profile", dirs_exist_ok=True)
    code, out, err = run(house, "--executor", "slurm", "--dry-run")
    assert code == 0, err
    assert "would run 01_noise_estimation" in out and "notebook" in out and not (house / "ran.txt").exists()


def test_unknown_executor_is_refused(house):
    assert "slurm" in refusal(house, "--executor", "slrum")


def test_preset_for_gpus_is_refused_on_a_machine_without(house, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    preset = house / "reproduce/presets/quick.yaml"
    preset.write_text(preset.read_text().replace("learning_rate: 1", "accelerator: cuda"))
    assert "wants 1 CUDA GPU" in refusal(house)


def test_parameters_are_those_that_papermill_sees():
    from papermill import inspect_notebook  # takes two seconds

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert list(plan.declared_parameters(path.stem)) == list(inspect_notebook(path)), path.stem


def test_every_preset_fits_the_notebooks():
    for name in plan.presets():
        assert plan.tasks(name), name


@pytest.mark.parametrize("preset", ["quick", "tiny", "paper", "pretrained", "pretrained-cpu"])
def test_every_variant_of_a_preset_builds_its_network(preset):
    """On no device, so that the largest takes no time; every variant asks for a training of its own."""
    names = "widths intervals blocks head_dim unshuffle mlp_ratio bias attention window sparse_groups".split()
    tasks = [task for task in plan.tasks(preset).values() if "widths" in task.parameters]
    for task in tasks:
        with torch.device("meta"):
            RetractableTransformer(1, **{name: task.parameters[name] for name in names if name in task.parameters})
    assert len({json.dumps(task.parameters | {"variant": ""}, sort_keys=True) for task in tasks}) == len(tasks) > 0


def test_page_of_a_finished_notebook_keeps_the_last_state_of_a_progress_bar(tmp_path):
    page, output = tmp_path / "page.ipynb", nbformat.v4.new_output
    bars = [output("stream", name="stderr", text=f"\rstage 1: {share} %") for share in (0, 50, 100)]
    told = [
        output("stream", name="stdout", text="before\n"),
        *bars,
        output("stream", name="stderr", text="\nended\n"),
        output("display_data", data={}),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("fit()", outputs=told)]), page)
    record.tidy(page)
    kept = nbformat.read(page, as_version=4).cells[0].outputs
    assert [one.get("text") for one in kept] == ["before\n", "stage 1: 100 %\nended\n", None]
    assert list(tmp_path.iterdir()) == [page]


def test_record_lists_results_and_leaves_out_checkpoints(finished):
    record = json.loads((finished / "runs/quick/done/03_profound_training-both.json").read_text())
    assert list(record["files"]) == ["03_profound_training/both/result.txt"]
    assert record["given"] == {"learning_rate": 1, "variant": "both"} and len(record["code"]) == 16
