"""The training loop: the same weights after a crash, a kill, or on two processes; it stops rather than train on NaN."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mptpn.random import generator
from mptpn.training import code_hash, launch, learning_rate, loop

STEPS = 12


def linear(seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))


def batches(step, seed=0):
    draw = generator(seed, step)
    clean = torch.rand(4, 1, 7, 9, generator=draw)
    return {"clean": clean, "noisy": clean + 0.1 * torch.randn(clean.shape, generator=draw)}


def loss(module, batch, fraction):
    return (module(batch["noisy"]) - batch["clean"]).square().mean()


class Crash(Exception):
    pass


def crashing_at(step):
    def crash(now):
        if now == step:
            raise Crash
        return batches(now)

    return crash


def train(module, *, data=batches, objective=loss, **settings) -> list[dict]:
    settings = {"steps": STEPS, "lr": 0.01, "ema": 0.9, "checkpoint_seconds": 0.0} | settings
    return loop.fit(module, loss=objective, batches=data, fabric=launch(threads=1), **settings)


def crashed(checkpoint: Path, *, at=7, **settings) -> Path:
    with pytest.raises(Crash):
        train(linear(), data=crashing_at(at), checkpoint=checkpoint, **settings)
    return checkpoint


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def without_time(history: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history]


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[torch.Tensor, list[dict]]:
    module = linear()
    history = train(module)
    return weights(module), history


@pytest.mark.parametrize("step, ema", [(1, 0.9), (7, 0.0), (STEPS - 1, 0.9)])
def test_a_crashed_training_resumes_to_the_same_bits(tmp_path, step, ema):
    checkpoint = crashed(tmp_path / "x.checkpoint.pt", at=step, ema=ema)
    expected = train(whole := linear(), ema=ema)
    history = train(resumed := linear(), checkpoint=checkpoint, ema=ema)
    assert torch.equal(weights(resumed), weights(whole)) and without_time(history) == without_time(expected)


@pytest.mark.parametrize("forgotten", ["optimizer", "average"])
def test_a_resume_that_forgets_would_be_seen(tmp_path, uninterrupted, forgotten):
    saved = torch.load(checkpoint := crashed(tmp_path / "x.checkpoint.pt"))
    moments = [state["exp_avg"] for state in saved["optimizer"]["state"].values()]
    averages = [value for name, value in saved["average"].items() if name != "n_averaged"]
    for value in {"optimizer": moments, "average": averages}[forgotten]:
        value.zero_()
    torch.save(saved, checkpoint)
    train(module := linear(), checkpoint=checkpoint)
    assert not torch.equal(weights(module), uninterrupted[0])


# Importing Lightning takes seconds: one program serves both tests that need processes of their own.
PROGRAM = """
import os, signal, sys
from test_training import *

folder = sys.argv[1]
if "LOCAL_RANK" not in os.environ and not os.fork():  # forked before there is any thread
    def killed(step):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return batches(step)

    train(linear(), data=killed, checkpoint=folder + "/killed.checkpoint.pt")
fabric = launch(devices=2, threads=1)
module = linear().double()
loop.fit(module, loss=loss, batches=double, fabric=fabric, steps=STEPS, lr=0.01, ema=0.9)
if fabric.is_global_zero:
    torch.save(weights(module), folder + "/two.pt")
    assert os.waitstatus_to_exitcode(os.wait()[1]) == -signal.SIGKILL
"""


def double(step, *, every=1):
    return {key: value[::every].double() for key, value in batches(step).items()}


@pytest.fixture(scope="module")
def other_processes(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "program.py").write_text(PROGRAM)
    paths = os.pathsep.join([str(Path(loop.__file__).parents[2]), str(Path(__file__).parent)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-W", "ignore", str(folder / "program.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_bits(other_processes, uninterrupted):
    checkpoint = other_processes / "killed.checkpoint.pt"
    assert torch.load(checkpoint)["step"] == 7
    train(module := linear(), checkpoint=checkpoint)
    assert torch.equal(weights(module), uninterrupted[0])


@pytest.mark.slow
def test_two_processes_train_to_the_weights_of_one(other_processes):
    """Each takes half of every batch and the gradients are averaged: equal but for the order of sums in float64."""
    train(one := linear().double(), data=double)
    train(half := linear().double(), data=lambda step: double(step, every=2))
    # 12 steps of Adam amplify 1e-16 by about lr / sqrt(v), a few: under 1e-12; half of each batch alone is far off
    torch.testing.assert_close(torch.load(other_processes / "two.pt"), weights(one), rtol=0, atol=1e-12)
    assert (weights(half) - weights(one)).abs().max() > 1e-5


def test_a_finished_training_does_nothing_again(tmp_path, uninterrupted):
    checkpoint, seen = tmp_path / "x.checkpoint.pt", []
    history = train(linear(), checkpoint=checkpoint)
    again = train(module := linear(), data=lambda k: seen.append(k) or batches(k), checkpoint=checkpoint)
    assert set(seen) == {0} and again == history  # step 0 is looked at to know the data
    assert torch.equal(weights(module), uninterrupted[0])


OTHERS = {
    "data": {"data": lambda step: batches(step, seed=1)},
    "steps": {"steps": STEPS + 1},
    "learning rate": {"lr": 0.02},
    "average": {"ema": 0.5},
    "clipping": {"clip": 0.5},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path, capsys, what):
    train(resumed := linear(), checkpoint=crashed(tmp_path / "x.checkpoint.pt"), **OTHERS[what])
    assert "x.checkpoint.pt belongs to another training" in capsys.readouterr().err
    train(plain := linear(), **OTHERS[what])
    assert torch.equal(weights(resumed), weights(plain))


def test_a_checkpoint_of_other_weights_or_code_is_not_resumed(tmp_path, capsys, monkeypatch):
    checkpoint = crashed(tmp_path / "x.checkpoint.pt")
    kept = checkpoint.read_bytes()
    train(linear(seed=1), checkpoint=checkpoint)
    assert "another training" in capsys.readouterr().err
    checkpoint.write_bytes(kept)
    monkeypatch.setattr(loop, "code_hash", lambda: "other code")
    train(linear(), checkpoint=checkpoint)
    assert "another training" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content", [{"step": 7}, torch.zeros(3), b"rubbish", b""], ids=["dict", "tensor", "text", "empty"]
)
def test_a_file_of_another_format_is_named_and_training_starts_anew(tmp_path, capsys, uninterrupted, content):
    checkpoint = tmp_path / "x.checkpoint.pt"
    checkpoint.write_bytes(content) if isinstance(content, bytes) else torch.save(content, checkpoint)
    train(module := linear(), checkpoint=checkpoint)
    said = [line for line in capsys.readouterr().err.splitlines() if "x.checkpoint.pt" in line]
    assert len(said) == 1 and said[0].endswith("starting from step 0")
    assert torch.equal(weights(module), uninterrupted[0])


def test_the_hash_of_the_code_sees_every_folder(tmp_path, monkeypatch):
    before, package = code_hash(), tmp_path / "mptpn"
    shutil.copytree(Path(loop.__file__).parents[1], package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    monkeypatch.setattr(loop, "files", lambda _: package)
    assert code_hash() == before
    with (package / "noise" / "models.py").open("a") as file:
        file.write("\n")
    assert code_hash() != before


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned(step):
        batch = batches(step)
        if step == 5:
            batch["noisy"][0, 0, 0, 0] = math.nan
        return batch

    checkpoint = tmp_path / "x.checkpoint.pt"
    with pytest.raises(FloatingPointError, match=r"nan at step 5; the last good checkpoint is .*x\.checkpoint\.pt"):
        train(linear(), data=poisoned, checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    assert saved["step"] == 5 and all(torch.isfinite(value).all() for value in saved["module"].values())


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint = crashed(tmp_path / "x.checkpoint.pt")
    before = checkpoint.read_bytes()

    def disk_full(parts, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        train(linear(), checkpoint=checkpoint)
    assert checkpoint.read_bytes() == before and list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(RuntimeError, match='accelerator="cuda"'):
        launch(accelerator="cuda")


def test_the_average_is_the_exponential_one():
    """Against the definition, on weights that the loss collects before every step."""
    seen = []
    train(module := linear(), objective=lambda m, *rest: seen.append(weights(m)) or loss(m, *rest), ema=0.8)
    train(plain := linear(), ema=0.0)
    average, *rest = [*seen[1:], weights(plain)]
    for values in rest:
        average = 0.8 * average + 0.2 * values
    torch.testing.assert_close(weights(module), average, rtol=1e-5, atol=1e-6)  # float32, 12 sums


def test_watch_sees_the_averaged_module_in_eval_mode_and_its_numbers_are_in_the_history():
    def watch(module):
        return {"training": module.training, "sum": float(weights(module).sum())}

    history = train(module := linear(), watch=watch, watch_seconds=math.inf)
    assert history[-1]["training"] is False and module.training
    assert history[-1]["sum"] == float(weights(module).sum()) and "sum" not in history[0]


def test_the_fraction_grows_from_nothing_to_one():
    fractions = []
    train(linear(), objective=lambda m, batch, now: fractions.append(now) or loss(m, batch, now))
    assert fractions == [step / STEPS for step in range(STEPS)]


def test_a_budget_in_seconds_ends_the_training_early():
    assert train(linear(), steps=10**6, seconds=0.2)[-1]["step"] < 10**6


def test_the_learning_rate_warms_up_to_its_peak_and_falls_to_a_hundredth():
    rates = [learning_rate(i / 1000, peak=3.0) for i in range(1001)]
    top = rates.index(max(rates))
    assert top in (49, 50) and rates[top] == pytest.approx(3.0, rel=1e-3)
    assert rates[-1] == pytest.approx(0.03) and 0 < rates[0] < 0.1
    assert rates[:50] == sorted(rates[:50]) and rates[50:] == sorted(rates[50:], reverse=True)


def test_gradients_are_clipped_to_a_norm(monkeypatch):
    norms = []

    class Watched(torch.optim.Adam):
        def step(self, *args, **kwargs):
            grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
            norms.append(float(torch.cat(grads).norm()))
            return super().step(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    train(linear(), objective=lambda module, batch, fraction: 1000 * loss(module, batch, fraction), clip=0.5)
    assert norms == pytest.approx([0.5] * STEPS, rel=1e-4)
