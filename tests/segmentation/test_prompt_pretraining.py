"""Pretraining: the loss stops the gradient on one side, captions are measured, a collapse is seen."""

import pytest
import torch
from torch.nn import functional as F

from mptpn.segmentation.pretraining import CAPTION_WORDS, SimSiam, Views, caption, pretrain, spread
from mptpn.training import launch
from support import prompt_scenes


def photographs(count: int = 3) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [
        F.interpolate(torch.rand(1, 3, 9, 11, generator=draw), size=(70, 80), mode="bilinear") for _ in range(count)
    ]


def test_a_caption_says_what_is_measured():
    image = torch.zeros(3, 40, 50)
    image[0, :, 30:] = 0.6
    assert caption(image) == ("dark", "smooth", "colourful", "right")
    assert caption(torch.ones(3, 4, 4) - image[:, :4, :4])[0] == "bright"


def test_views_are_a_function_of_the_step_and_the_caption_turns_with_the_square():
    """The brighter side of a gray ramp, in any orientation, is what the caption says."""
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    data = Views([ramp], side=48, batch=24)(0)
    assert torch.equal(data["first"], Views([ramp], side=48, batch=24)(0)["first"])
    for view, numbers in zip(data["first"], data["caption"], strict=True):
        said, measured = CAPTION_WORDS[int(numbers[3])], caption(view)[3]
        assert said == measured


def test_no_gradient_passes_the_side_that_is_compared_with():
    learner = SimSiam(prompt_scenes.untrained(0).network, captions=True).eval()
    first, second = torch.rand(2, 3, 48, 48, requires_grad=True), torch.rand(2, 3, 48, 48, requires_grad=True)
    numbers = torch.zeros(2, 4, dtype=torch.long)
    one, other = learner.vectors(first, numbers), learner.vectors(second, numbers)
    (-F.cosine_similarity(learner.predictors[0](one[0]), other[0].detach()).mean()).backward()
    assert first.grad.abs().sum() > 0 and second.grad is None
    value = learner(first, second, numbers)
    assert -1 <= float(value.detach()) <= 1


@pytest.mark.parametrize("width", [16, 64])
def test_a_collapse_is_seen_and_a_full_sphere_is_about_one(width):
    draw = torch.Generator().manual_seed(0)
    assert spread(torch.randn(4000, width, generator=draw)) == pytest.approx(1, abs=0.05)
    assert spread(torch.ones(40, width)) == pytest.approx(0, abs=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    """Whatever was drawn before from PyTorch's own generator."""

    def weights(seed: int) -> list[torch.Tensor]:
        torch.rand(3)
        network = prompt_scenes.untrained(0).network
        pretrain(network, photographs(), captions=True, fabric=launch(threads=1), steps=3, batch=4, side=48, seed=seed)
        return [x.detach().clone() for x in network.encoder.parameters()]

    first, second, other = weights(1), weights(1), weights(2)
    assert all(map(torch.equal, first, second)) and not all(map(torch.equal, first, other))


def test_pretraining_changes_the_encoders_of_the_network_that_is_segmenting_and_nothing_else():
    network = prompt_scenes.untrained(0).network
    before = {name: value.clone() for name, value in network.named_parameters()}
    settings = {"fabric": launch(threads=1), "steps": 3, "batch": 4, "side": 48}
    history = pretrain(network, photographs(), captions=True, **settings)
    changed = {name.split(".")[0] for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"encoder", "prompt"} and history[-1]["spread_1"] > 0


def test_photographs_that_are_too_small_are_refused():
    network = prompt_scenes.untrained(0).network
    with pytest.raises(ValueError, match="none of 3 photographs has 96 x 96 px"):
        pretrain(network, photographs(), captions=True, fabric=launch(threads=1))
