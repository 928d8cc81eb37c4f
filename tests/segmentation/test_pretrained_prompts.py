"""The package's segmentation network: small, quick, and it refuses what an image does not have."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import skimage.data

import mptpn
import mptpn.metrics
import mptpn.segmentation.inference
from mptpn.networks import weights_path
from mptpn.segmentation import Segmenter
from support import segmentation_sets

REAL = Path(os.environ.get("MPTPN_DATA") or Path(__file__).parents[3] / "shared/data")
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not here: {REAL} is no folder")


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.load()


def test_the_weights_are_at_most_8_mb_and_know_eight_targets(segmenter):
    assert weights_path("segmentation").stat().st_size <= 8e6
    assert [target.name for target in segmenter.targets] == [target.name for target in segmentation_sets.TARGETS]
    assert segmenter.note["images"] and segmenter.note["validation_dice"]


@pytest.mark.parametrize("target", [target.name for target in segmentation_sets.TARGETS])
def test_no_target_is_found_in_a_photograph_or_in_noise(segmenter, target):
    for image in (skimage.data.camera(), np.random.default_rng(0).normal(size=(90, 110))):
        answer = segmenter.ask(image, target)
        assert not answer.found and not answer.mask.any() and answer.why


def test_a_thousand_pixels_squared_take_less_than_ten_seconds_of_processor_time(segmenter):
    """5 s on two cores are 10 s of processor time; measured 4."""
    image = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    target, start = segmenter.targets[0], time.process_time()
    segmenter.probability(mptpn.segmentation.inference._tensor(image), target)
    assert time.process_time() - start < 10


@real
def test_nucleus_cytoplasm_and_whole_cell_differ_by_the_prompt_alone(segmenter, monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(REAL))
    example = segmentation_sets.white_cells("val")[0]
    image = example.image[0].float().permute(1, 2, 0).numpy()
    names = ("white blood cell nucleus", "white blood cell cytoplasm", "white blood cell")
    masks = [segmenter.ask(image, name).mask for name in names]
    truths = [example.masks[target.words][0, 0].numpy() for target in segmenter.targets[5:]]
    scores = np.array([[mptpn.metrics.dice(mask, truth) for truth in truths] for mask in masks])
    assert (scores.argmax(1) == [0, 1, 2]).all() and scores.diagonal().min() > 0.8


@real
def test_the_same_prompt_gives_the_same_bytes_from_python_and_again(segmenter, monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(REAL))
    image = segmentation_sets.white_cells("val")[1].image[0].float().permute(1, 2, 0).numpy()
    first, again = mptpn.segment(image, "leukocyte"), mptpn.segment(image, "white blood cell")
    assert first.mask.any() and first.mask.tobytes() == again.mask.tobytes()
