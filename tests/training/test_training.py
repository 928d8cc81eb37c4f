"""The training loop: the same weights after a crash, a kill, or on two processes; and it stops rather than train on
NaN.
"""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mptpn.random import generator
from mptpn.training import loop

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


def train(module, *, data=batches, noise_model=loss, **settings) -> list[dict]:
    fabric = loop.launch(threads=1)
    return loop.fit(
        module,
        loss=noise_model,
        batches=data,
        fabric=fabric,
        **{"steps": STEPS, "lr": 0.01, "ema": 0.9, "checkpoint_seconds": 0.0} | settings,
    )


def weights(module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[torch.Tensor, list[dict]]:
    module = linear()
    history = train(module)
    return weights(module), history


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("step", [1, 7, STEPS - 1])
def test_a_crashed_training_resumes_to_the_same_bits(tmp_path, step, ema):
    whole, pieces, checkpoint = linear(), linear(), tmp_path / "x.checkpoint.pt"
    expected = train(whole, ema=ema)
    with pytest.raises(Crash):
        train(pieces, data=crashing_at(step), checkpoint=checkpoint, ema=ema)
    assert torch.load(checkpoint)["step"] == step
    history = train(fresh := linear(), checkpoint=checkpoint, ema=ema)
    assert torch.equal(weights(fresh), weights(whole))
    assert [{k: row[k] for k in ("step", "loss", "lr")} for row in history] == [
        {k: row[k] for k in ("step", "loss", "lr")} for row in expected
    ]


def test_a_resume_without_adam_s_state_would_be_seen(tmp_path, uninterrupted):
    """The planted fault: drop the optimiser's moments from the checkpoint, and the bits differ."""
    checkpoint = tmp_path / "x.checkpoint.pt"
    with pytest.raises(Crash):
        train(linear(), data=crashing_at(7), checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    for state in saved["optimizer"]["state"].values():
        state["exp_avg"].zero_()
    torch.save(saved, checkpoint)
    train(module := linear(), checkpoint=checkpoint)
    assert not torch.equal(weights(module), uninterrupted[0])


def test_a_resume_without_the_average_would_be_seen(tmp_path, uninterrupted):
    checkpoint = tmp_path / "x.checkpoint.pt"
    with pytest.raises(Crash):
        train(linear(), data=crashing_at(7), checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    for name, value in saved["average"].items():
        if name != "n_averaged":
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
fabric = loop.launch(devices=2, threads=1)
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
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(loop.__file__).parents[2]), str(Path(__file__).parent)]),
    }
    command = [sys.executable, "-W", "ignore", str(folder / "program.py"), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_killed_training_resumes_to_the_same_bits(other_processes, uninterrupted):
    checkpoint = other_processes / "killed.checkpoint.pt"
    assert torch.load(checkpoint)["step"] == 7
    train(module := linear(), checkpoint=checkpoint)
    assert torch.equal(weights(module), uninterrupted[0])


def test_two_processes_train_to_the_weights_of_one(other_processes):
    """Each takes half of every batch and the gradients are averaged: equal but for the order of sums in float64."""
    train(one := linear().double(), data=double)
    train(half := linear().double(), data=lambda step: double(step, every=2))
    # 12 steps of Adam amplify 1e-16 by at most about lr / sqrt(v), a few: well under 1e-12; half of each batch alone is
    # far off
    torch.testing.assert_close(torch.load(other_processes / "two.pt"), weights(one), rtol=0, atol=1e-12)
    assert (weights(half) - weights(one)).abs().max() > 1e-5


def test_the_same_seed_trains_to_the_same_bits(uninterrupted):
    module = linear()
    history = train(module)
    assert torch.equal(weights(module), uninterrupted[0]) and [row["loss"] for row in history] == [
        row["loss"] for row in uninterrupted[1]
    ]


def test_a_finished_training_does_nothing_again(tmp_path, uninterrupted):
    checkpoint = tmp_path / "x.checkpoint.pt"
    train(linear(), checkpoint=checkpoint)
    seen = []
    train(module := linear(), data=lambda step: seen.append(step) or batches(step), checkpoint=checkpoint)
    assert set(seen) <= {0} and torch.equal(weights(module), uninterrupted[0])  # step 0 is looked at to know the data


OTHERS = {
    "data": {"data": lambda step: batches(step, seed=1)},
    "steps": {"steps": STEPS + 1},
    "learning rate": {"lr": 0.02},
    "average": {"ema": 0.5},
    "clipping": {"clip": 0.5},
    "title": {"title": "something else"},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path, capsys, what):
    checkpoint = tmp_path / "x.checkpoint.pt"
    with pytest.raises(Crash):
        train(linear(), data=crashing_at(7), checkpoint=checkpoint)
    train(resumed := linear(), checkpoint=checkpoint, **OTHERS[what])
    assert "x.checkpoint.pt belongs to another training" in capsys.readouterr().err
    train(plain := linear(), **OTHERS[what])
    assert torch.equal(weights(resumed), weights(plain))


def test_a_checkpoint_of_other_weights_or_code_is_not_resumed(tmp_path, capsys, monkeypatch):
    checkpoint = tmp_path / "x.checkpoint.pt"
    with pytest.raises(Crash):
        train(linear(), data=crashing_at(7), checkpoint=checkpoint)
    kept = checkpoint.read_bytes()
    train(linear(seed=1), checkpoint=checkpoint)
    assert "another training" in capsys.readouterr().err
    checkpoint.write_bytes(kept)
    monkeypatch.setattr(loop, "code_hash", lambda: "other code")
    train(linear(), checkpoint=checkpoint)
    assert "another training" in capsys.readouterr().err


def test_the_code_s_hash_is_that_of_its_sources(tmp_path, monkeypatch):
    before = loop.code_hash()
    for source in Path(loop.__file__).parent.glob("*.py"):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(loop, "files", lambda package: tmp_path)
    assert loop.code_hash() == before
    with (tmp_path / "noise.py").open("a") as file:
        file.write("\n")
    assert loop.code_hash() != before


def test_a_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned(step):
        batch = batches(step)
        if step == 5:
            batch["noisy"][0, 0, 0, 0] = math.nan
        return batch

    checkpoint = tmp_path / "x.checkpoint.pt"
    with pytest.raises(
        FloatingPointError,
        match=r"the loss is nan at step 5; the last good checkpoint is .*x\.checkpoint\.pt; lower lr \(now 0\.01\)",
    ):
        train(linear(), data=poisoned, checkpoint=checkpoint)
    saved = torch.load(checkpoint)
    assert saved["step"] == 5 and all(torch.isfinite(value).all() for value in saved["module"].values())


def test_an_infinite_loss_without_a_checkpoint_says_so():
    with pytest.raises(FloatingPointError, match="the loss is inf at step 0; no checkpoint was asked for"):
        train(linear(), noise_model=lambda module, batch, fraction: loss(module, batch, fraction) * math.inf)


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint = tmp_path / "x.checkpoint.pt"
    checkpoint.write_bytes(b"old")

    def disk_full(parts, path):
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="no space"):
        loop._write(checkpoint, {})
    assert checkpoint.read_bytes() == b"old" and list(tmp_path.iterdir()) == [checkpoint]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda_is_one_clear_sentence():
    with pytest.raises(
        RuntimeError, match='accelerator="cuda": PyTorch finds no CUDA device here; choose accelerator="cpu"'
    ):
        loop.launch(accelerator="cuda")


def test_the_average_is_the_exponential_one():
    """Against the definition, on weights that a hook collects after every step."""
    module, seen = linear(), []
    train(module, noise_model=lambda m, batch, fraction: seen.append(weights(m)) or loss(m, batch, fraction), ema=0.8)
    plain = linear()
    train(plain, ema=0.0)
    average, *rest = [*seen[1:], weights(plain)]
    for values in rest:
        average = 0.8 * average + 0.2 * values
    torch.testing.assert_close(weights(module), average, rtol=1e-5, atol=1e-6)  # float32, 12 sums


def test_the_fraction_grows_from_nothing_to_one():
    fractions = []
    train(linear(), noise_model=lambda m, batch, fraction: fractions.append(fraction) or loss(m, batch, fraction))
    assert fractions == [step / STEPS for step in range(STEPS)]


def test_a_budget_in_seconds_ends_the_training_early():
    history = train(linear(), steps=10**6, seconds=0.2)
    assert not history or history[-1]["step"] < 10**6


def test_the_learning_rate_warms_up_to_its_peak_and_falls_to_a_hundredth():
    rates = [loop.learning_rate(i / 1000, peak=3.0) for i in range(1001)]
    top = rates.index(max(rates))
    assert (
        top in (49, 50)
        and rates[top] == pytest.approx(3.0, rel=1e-3)
        and rates[-1] == pytest.approx(0.03)
        and 0 < rates[0] < 0.1
    )
    assert rates[:50] == sorted(rates[:50]) and rates[50:] == sorted(rates[50:], reverse=True)


def test_gradients_are_clipped_to_a_norm():
    norms = []

    class Watched(torch.optim.Adam):
        def step(self, *args, **kwargs):
            norms.append(
                float(torch.cat([p.grad.flatten() for group in self.param_groups for p in group["params"]]).norm())
            )
            return super().step(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        train(linear(), noise_model=lambda m, batch, fraction: 1000 * loss(m, batch, fraction), clip=0.5)
    assert norms == pytest.approx([0.5] * STEPS, rel=1e-4)
