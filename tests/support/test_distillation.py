"""Pairs of the student: half from photographs, half from what the teacher makes of noisy squares."""

import pytest
import torch
from torch import nn

from support.distillation import SIDE, DistilledPhotographs, taught
from support.photographs import NoisyPhotographs


class Zero(nn.Module):
    """A teacher whose results have the mean of the photograph everywhere."""

    def forward(self, noisy):
        return torch.zeros_like(noisy)


@pytest.fixture(scope="module")
def photographs():
    random = torch.Generator().manual_seed(0)
    return [torch.randint(256, (1, 1, SIDE + 8, SIDE), generator=random) / 255 for _ in range(2)]


@pytest.fixture(scope="module")
def lessons(photographs, tmp_path_factory):
    wide = NoisyPhotographs(photographs, batch=2, patch=SIDE, seed=1)
    return taught(wide, Zero(), count=2, path=tmp_path_factory.mktemp("lessons") / "lessons.pt")


def test_the_targets_are_those_of_the_teacher(photographs, lessons):
    fresh = NoisyPhotographs(photographs, batch=3, patch=32)
    batch = DistilledPhotographs(fresh, lessons=lessons)(5)
    assert {name: tensor.shape[0] for name, tensor in batch.items()} == dict.fromkeys(batch, 6)
    assert torch.equal(batch["clean"][:3], fresh(5)["clean"])
    means = batch["offset"][3:].expand(-1, -1, 32, 32)
    torch.testing.assert_close(batch["clean"][3:], means, atol=1e-3, rtol=0)  # half precision of numbers below 1
    assert (batch["noisy"][3:] - batch["clean"][3:]).std() > 0.1


def test_a_batch_is_a_function_of_its_step(photographs, lessons):
    fresh = NoisyPhotographs(photographs, batch=2, patch=32)
    first, again, other = (DistilledPhotographs(fresh, lessons=lessons)(step)["noisy"] for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_stopped_teacher_goes_on(photographs, lessons, tmp_path):
    wide = NoisyPhotographs(photographs, batch=2, patch=SIDE, seed=1)
    taught(wide, Zero(), count=1, path=tmp_path / "lessons.pt")

    class Counted(Zero):
        calls = 0

        def forward(self, noisy):
            Counted.calls += 1
            return super().forward(noisy)

    done = taught(wide, Counted(), count=2, path=tmp_path / "lessons.pt")
    assert Counted.calls == 1
    assert all(torch.equal(a["noisy"], b["noisy"]) for a, b in zip(done, lessons, strict=True))
