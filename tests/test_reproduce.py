"""The reproduction on stub notebooks that take a second each: bad input, resume, staleness, failures. Each test works on a copy of its own."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).parents[1]
KNOBS = """
out: str = "../runs/notebooks"  # run folder
seed: int = 0  # seed of every generator
threads: int = 1  # processor cores
learning_rate: float = 0.1  # of the optimiser, per step
"""
WRITE = """
import os, time
from pathlib import Path
house = Path("..").resolve()
folder = Path(out, {folder})
folder.mkdir(parents=True, exist_ok=True)
with open(house / "ran.txt", "a") as file:
    print({folder}, os.getpid(), file=file)
while (house / "wait").exists():
    time.sleep(0.1)
{body}
(folder / "new").write_text(str(value))
os.replace(folder / "new", folder / "result.txt")
"""
PRESET = """
description: stubs
cores: 2
notebooks:
  01_noise_estimation: {seed: 1}
  02_pair_synthesis: {}
  03_profound_training: {learning_rate: 1}
variants:
  both: {}
  dense: {seed: 2}
"""


def write_notebook(house: Path, name: str, imports: str, *, folder: str, knobs: str = "", body: str = "value = seed") -> None:
    new = nbformat.v4.new_code_cell
    parameters = new((KNOBS + knobs).strip(), metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {name}"), parameters, new(imports), new(WRITE.format(folder=folder, body=body))])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, house / f"notebooks/{name}.ipynb")


def write_second_notebook(house: Path, body: str = "value = seed") -> None:
    write_notebook(house, "02_pair_synthesis", "from mptpn import synthesis", folder='"02_pair_synthesis"', body=body)


def make_house(house: Path) -> Path:
    """A copy of reproduce/ with stub notebooks and modules: 01 stands on noise by way of blind_spot, 02 on synthesis, 03 on transformer."""
    shutil.copytree(ROOT / "reproduce", house / "reproduce", ignore=shutil.ignore_patterns("__pycache__", "presets"))
    for folder in ("reproduce/presets", "notebooks", "mptpn"):
        (house / folder).mkdir()
    (house / "reproduce/presets/quick.yaml").write_text(PRESET)
    (house / "reproduce/presets/single.yaml").write_text("description: one notebook\nnotebooks: {02_pair_synthesis: {}}\n")
    modules = {"__init__": "", "noise": "A = 1", "blind_spot": "def f():\n    from .noise import A", "synthesis": "B = 1", "transformer": "C = 1"}
    for name, source in modules.items():
        (house / f"mptpn/{name}.py").write_text(source + "\n")
    write_notebook(house, "01_noise_estimation", "import mptpn.blind_spot", folder='"01_noise_estimation"')
    write_second_notebook(house)
    knobs = 'variant: str = "both"  # name of the experiment\naccelerator: str = "cpu"  # or cuda'
    body = "assert seed != 13, 'planted'\nvalue = seed"
    write_notebook(house, "03_profound_training", "from mptpn.transformer import C", folder='"03_profound_training/" + variant', knobs=knobs, body=body)
    return house


def start(house: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, str(house / "reproduce/drive.py"), *options]
    return subprocess.Popen(command, cwd=house, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(house: Path, *options: str) -> tuple[int, str, str]:
    process = start(house, *options)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def ran(house: Path) -> list[str]:
    """Which notebooks have begun, in order."""
    return [line.rsplit(maxsplit=1)[0] for line in (house / "ran.txt").read_text().splitlines()]


def would_run(house: Path) -> list[str]:
    code, out, err = run(house, "--dry-run")
    assert code == 0, err
    return [line.split()[2].rstrip(":") for line in out.splitlines() if line.startswith("would run")]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came true"
        time.sleep(0.1)


def processes_of(house: Path, word: str) -> list[psutil.Process]:
    """Living processes of the house's runs with the word on their command line."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MPTPN_RUN", "").startswith(str(house)) and word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found


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
    assert "'learning_rat'" in sentence and "0.25" in sentence and "'learning_rate'" in sentence and "03_profound_training" in sentence


def test_misspelt_parameter_of_a_variant_is_refused(house):
    preset = house / "reproduce/presets/quick.yaml"
    preset.write_text(preset.read_text().replace("seed: 2", "sed: 2"))
    assert "'seed'" in refusal(house)


@pytest.mark.parametrize(
    ("given", "kind"),
    [("seed: 1.5", "int"), ("seed: true", "int"), ("seed: [1]", "int"), ("learning_rate: fast", "float"), ("learning_rate: 1e-3", "write 0.001")],
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
    assert sorted(ran(finished)) == ["01_noise_estimation", "02_pair_synthesis", "03_profound_training/both", "03_profound_training/dense"]
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
    [("noise", ["01", "02", "03", "03"]), ("synthesis", ["02", "03", "03"]), ("transformer", ["03", "03"]), ("__init__", ["01", "02", "03", "03"])],
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
    result, executed = done / "runs/quick/03_profound_training/dense/result.txt", done / "runs/quick/notebooks/03_profound_training-dense.ipynb"
    old = executed.read_bytes()
    preset.write_text(preset.read_text().replace("seed: 2", "seed: 13"))
    code, out, err = run(done)
    assert code == 1
    assert "AssertionError: planted" in out and "assert seed != 13" in out and "logs/03_profound_training-dense.log" in out
    assert result.read_text() == "2" and executed.read_bytes() == old
    preset.write_text(preset.read_text().replace("seed: 13", "seed: 5"))
    code, out, err = run(done)
    assert code == 0 and result.read_text() == "5", out + err
    assert ran(done) == [*before, "03_profound_training/dense", "03_profound_training/dense"]


@pytest.mark.parametrize("victim", ["drive.py", "snakemake", "ipykernel"])
def test_killed_run_goes_on_with_the_same_command(house, victim):
    (house / "wait").touch()
    process = start(house, "--preset", "single")
    wait_until(lambda: (house / "ran.txt").exists())
    kernels = processes_of(house, "ipykernel")
    assert len(kernels) == 1
    if victim == "drive.py":
        process.kill()
    else:
        processes_of(house, victim)[0].kill()
    process.communicate(timeout=60)
    assert process.returncode != 0 and not (house / "runs/single/02_pair_synthesis/result.txt").exists()
    (house / "wait").unlink()
    code, out, err = run(house, "--preset", "single")
    assert code == 0, out + err
    assert ran(house) == ["02_pair_synthesis", "02_pair_synthesis"]
    assert (house / "runs/single/02_pair_synthesis/result.txt").read_text() == "0"
    assert not kernels[0].is_running() and processes_of(house, "") == []


def test_second_run_beside_the_first_is_refused_and_ctrl_c_ends_the_first_cleanly(house):
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
    from papermill import inspect_notebook

    import plan

    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert list(plan.declared_parameters(path.stem)) == list(inspect_notebook(path)), path.stem


def test_every_preset_fits_the_notebooks():
    import plan

    for name in plan.presets():
        assert plan.tasks(name), name


def test_record_lists_results_and_leaves_out_checkpoints(finished):
    record = json.loads((finished / "runs/quick/done/03_profound_training-both.json").read_text())
    assert list(record["files"]) == ["03_profound_training/both/result.txt"]
    assert record["given"] == {"learning_rate": 1, "variant": "both"} and len(record["code"]) == 16

