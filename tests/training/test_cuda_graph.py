"""A replayed CUDA graph trains to the weights of the same steps run one by one."""

import pytest
import torch
from test_training import STEPS, batches, linear, weights

from mptpn.training import loop
from mptpn.training.cuda_graph import WARM, ReplayedStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PHASES = (0.5,)


def loss(module, batch, fraction):
    error = module(batch["noisy"]) - batch["clean"]
    return error.square().mean() if fraction < PHASES[0] else error.abs().mean()


def trained(accelerator, *, data=batches, **settings):
    module = linear()
    fabric = loop.launch(accelerator=accelerator)
    history = loop.fit(
        module, loss=loss, batches=data, steps=STEPS, lr=0.01, ema=0.9, fabric=fabric, phases=PHASES, **settings
    )
    return weights(module).cpu(), history


def test_the_same_training_as_on_a_cpu(tmp_path):
    ours, history = trained("cuda", checkpoint=tmp_path / "c.pt")
    theirs, expected = trained("cpu")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert [row["lr"] for row in history] == pytest.approx([row["lr"] for row in expected])
    assert [row["loss"] for row in history] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


def test_a_killed_training_goes_on(tmp_path):
    def dying(step):
        if step == 9:
            raise InterruptedError
        return batches(step)

    whole, _ = trained("cuda")
    with pytest.raises(InterruptedError):
        trained("cuda", data=dying, checkpoint=tmp_path / "c.pt", checkpoint_seconds=0.0)
    resumed, _ = trained("cuda", checkpoint=tmp_path / "c.pt")
    torch.testing.assert_close(resumed, whole, rtol=1e-4, atol=1e-5)


def test_a_step_is_replayed_with_new_numbers_and_captured_anew_in_another_form():
    calls, total = [], torch.zeros((), device="cuda")

    def step(batch):
        calls.append(1)
        total.add_(batch["x"].sum())
        return total * 2

    replayed = ReplayedStep(step)
    values = [replayed({"x": torch.full((3,), float(i), device="cuda")}, form=i > 5).item() for i in range(12)]
    sums = [6.0 * sum(range(i + 1)) for i in range(12)]
    assert values == sums and len(calls) == 2 * (WARM + 1)
