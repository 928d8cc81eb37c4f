"""Training: crops are a function of the step, absent prompts have empty truths, words turn with the image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mptpn.segmentation import Crops, Example, Segmenter, Target, fit_segmenter, train_folder
from mptpn.segmentation.calibration import between, calibrated, scores, with_peak
from mptpn.segmentation.training import PromptLoss, soft_dice_loss, with_own_statistics
from mptpn.training import launch
from support import prompt_scenes
from support.prompt_scenes import CYTOPLASM, NUCLEI, TARGETS, VESSELS

PROMPTS = [target.words for target in TARGETS]


def crops(**settings) -> Crops:
    return Crops(prompt_scenes.scenes("train", count=3), prompts=PROMPTS, side=48, **settings)


def test_a_batch_is_a_function_of_its_step_and_the_seed():
    first, again, other, seeded = crops()(3), crops()(3), crops()(4), crops(seed=1)(3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image"], other["image"]) and not torch.equal(first["image"], seeded["image"])


def test_an_image_is_asked_what_it_does_not_have_and_the_truth_is_empty():
    data = crops(absent=1.0, batch=24)(0)
    asked = data["present"].gather(1, data["asked"][:, None])[:, 0]
    assert not data["mask"].any() and not asked.any()
    here = crops(absent=0.0, batch=24)(0)
    share = here["present"].gather(1, here["asked"][:, None])[:, 0]
    assert bool((share[here["present"].any(1)] == 1).all())


def test_an_empty_mask_of_a_person_is_asked_before_any_other_absent_prompt():
    healthy = Example(torch.rand(1, 3, 64, 64), {CYTOPLASM: torch.zeros(1, 1, 64, 64, dtype=torch.bool)})
    data = Crops([healthy], prompts=PROMPTS, side=48, batch=12)(0)
    assert {PROMPTS[number] for number in data["asked"].tolist()} == {CYTOPLASM} and not data["mask"].any()


def test_an_image_comes_in_its_own_orientations_alone():
    rows = torch.linspace(0, 1, 64)[:, None].expand(1, 3, 64, 64)
    upright = Example(rows, {NUCLEI: torch.ones(1, 1, 64, 64, dtype=torch.bool)}, turns=(0, 4))
    data = Crops([upright], prompts=PROMPTS, side=48, batch=12, absent=0.0)(0)
    assert bool((data["image"][:, 0, -8:].mean((1, 2)) > data["image"][:, 0, :8].mean((1, 2)) + 0.3).all())


def test_an_unknown_truth_is_never_asked_and_never_counts():
    scene = prompt_scenes.drawn("cells", 0)
    examples = [Example(scene.image, {NUCLEI: scene.masks[NUCLEI]}, unknown=frozenset({CYTOPLASM}))]
    data = Crops(examples, prompts=PROMPTS, side=48, batch=40, absent=0.5)(0)
    assert set(data["asked"].tolist()) == {0, 2} and set(data["present"][:, 1].tolist()) == {-1.0}


def test_the_prompt_turns_with_the_image():
    """Left and right halves of a constant picture: the mask must lie where the turned prompt says."""
    half = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    half[..., :32] = True
    prompts = [("cell", side) for side in ("left", "right", "upper", "lower")]
    example = Example(torch.zeros(1, 3, 64, 64), {("cell", "left"): half}, scales=(1.0, 1.0))
    data = Crops([example], prompts=prompts, side=64, batch=32, absent=0.0)(0)
    rows = torch.arange(64.0)
    seen = set()
    for mask, number in zip(data["mask"], data["asked"].tolist(), strict=True):
        row, col = (mask[0].sum(axis) @ rows / mask.sum() for axis in (1, 0))
        side = "left" if col < 20 else "right" if col > 43 else "upper" if row < 20 else "lower"
        assert side == prompts[number][1]
        seen.add(side)
    assert len(seen) == 4


def test_crops_of_an_image_smaller_than_the_crop_have_the_crop_s_size():
    small = Example(torch.rand(1, 3, 20, 31), {NUCLEI: torch.ones(1, 1, 20, 31, dtype=torch.bool)}, scales=(1.0, 1.0))
    data = Crops([small], prompts=PROMPTS, side=48, absent=0.0)(0)
    assert data["image"].shape == (8, 3, 48, 48) and data["mask"].sum((1, 2, 3)).tolist() == [20 * 31] * 8


def test_dice_loss_is_zero_for_the_truth_and_skips_empty_truths():
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, :, :4] = 1
    assert soft_dice_loss(100 * (2 * mask - 1), mask) < 1e-6
    assert soft_dice_loss(100 * (1 - 2 * mask), mask) == pytest.approx(1 - 1 / 65)  # a half missed, a half wrong


def test_averaged_weights_get_statistics_of_their_own():
    """Statistics of other weights are replaced by those of the batches, and the network itself is not changed."""
    segmenter = prompt_scenes.untrained(0)
    numbers = torch.tensor([[0], [1], [2]])
    module = PromptLoss(segmenter.network, numbers)
    norm = module.network.encoder[0][1]
    norm.running_mean.fill_(50.0)
    own = with_own_statistics(module, crops())
    assert own.encoder[0][1].running_mean.abs().max() < 5 and norm.running_mean.min() == 50 and not own.training


@pytest.mark.parametrize("fixed", [True, False])
def test_fixed_statistics_stay_through_a_step_and_others_move(fixed):
    network = prompt_scenes.untrained(0).network
    module = PromptLoss(network, torch.tensor([[0], [1], [2]]), fixed_statistics=fixed).train()
    before = network.encoder[0][1].running_mean.clone()
    module(**crops()(0)).backward()
    assert torch.equal(network.encoder[0][1].running_mean, before) == fixed
    assert network.encoder[0][1].weight.grad.any()


def test_the_threshold_of_presence_lies_between_what_is_there_and_what_is_not():
    """Half way in logits where they part; where they overlap, the best balanced accuracy: 3 of 4 and 4 of 4."""
    apart = between(np.array([0.9, 0.99]), np.array([0.1, 0.02]))
    overlapping = between(np.array([0.3, 0.8, 0.85, 0.9]), np.array([0.1, 0.2, 0.4, 0.5]))
    assert apart == pytest.approx(0.5) and 0.5 < overlapping < 0.8


def test_a_segmenter_is_calibrated_target_by_target_and_its_weights_stay():
    segmenter = prompt_scenes.untrained(0)
    found = calibrated(segmenter, prompt_scenes.scenes("val", count=2))
    assert found.network is segmenter.network and all(0 < target.presence < 1 for target in found.targets)
    assert [t.name for t in found.targets] == [t.name for t in segmenter.targets]


def test_the_least_surest_probability_parts_images_with_a_target_from_their_like_without_it(monkeypatch):
    """Of three images with vessels and two without, one of each on the wrong side: the best cut leaves one wrong."""
    peaks = {"a": 0.9, "b": 0.95, "c": 0.4, "d": 0.3, "e": 0.6}
    examples = [prompt_scenes.drawn("vessels" if name in "abc" else "texture", 0) for name in peaks]
    examples = [replace(e, name=name) for e, name in zip(examples, peaks, strict=True)]
    value = iter(peaks.values())
    monkeypatch.setattr(Segmenter, "probability", lambda *_, **__: torch.full((1, 1, 3, 3), next(value)))
    found = with_peak(prompt_scenes.untrained(0), examples, "vessels")
    assert [target.peak > 0 for target in found.targets] == [False, False, True]
    assert 0.6 < found.targets[2].peak < 0.9


@pytest.mark.slow
def test_a_tiny_network_learns_three_prompts():
    data = prompt_scenes.scenes("train", count=24), prompt_scenes.scenes("val", count=2)
    settings = {"lr": 5e-3, "ema": 0.9, "side": 48, "watch_seconds": 1e9, "fabric": launch(threads=1)}
    trained, history = fit_segmenter(prompt_scenes.untrained(0), *data, steps=260, **settings)
    found = scores(trained, prompt_scenes.scenes("test", count=3))
    assert min(sum(row["dice"]) / len(row["dice"]) for row in found.values()) > 0.8
    assert history[-1]["validation_dice"] > 0.8


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path):
    data = prompt_scenes.scenes("train", count=2), prompt_scenes.scenes("val", count=1)
    settings = {"ema": 0.9, "side": 32, "batch": 2, "watch_seconds": 1e9, "fabric": launch(threads=1), "steps": 4}
    whole, _ = fit_segmenter(prompt_scenes.untrained(0), *data, checkpoint=tmp_path / "a", **settings)
    again, _ = fit_segmenter(prompt_scenes.untrained(0), *data, checkpoint=tmp_path / "a", **settings)
    weights = zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in weights)


def test_training_leaves_the_caller_s_random_numbers_as_they_were():
    before, examples = torch.get_rng_state(), prompt_scenes.scenes("train", count=2)
    train_folder(examples, TARGETS, fabric=launch(threads=1), seconds=100, steps=1, width=8)
    assert torch.equal(before, torch.get_rng_state())


def test_images_kept_aside_show_something_wherever_the_empty_masks_are():
    """By name alone the second image, an empty one, would be all that the training is validated on."""
    examples = prompt_scenes.scenes("train", count=2)[:2]
    first, last = (replace(one, name=name) for one, name in zip(examples, "ad", strict=True))
    empty = [replace(first, name=name, masks={p: torch.zeros_like(m) for p, m in first.masks.items()}) for name in "bc"]
    settings = {"fabric": launch(threads=1), "seconds": 100, "steps": 1, "width": 8}
    _, report = train_folder([first, *empty, last], TARGETS, **settings)
    assert report["validation_images"] == ["d", "c"] and report["training"] == 2
    with pytest.raises(ValueError, match="only the mask of a is not empty; give two"):
        train_folder([first, *empty], TARGETS, **settings)
    with pytest.raises(ValueError, match="every mask is empty; give at least two"):
        train_folder(empty, TARGETS, **settings)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="0 examples and 3 prompts"):
        Crops([], prompts=PROMPTS)
    assert isinstance(Segmenter(prompt_scenes.untrained(0).network, [Target("v", VESSELS)]), Segmenter)
