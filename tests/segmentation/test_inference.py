"""Asking: a mask, or not found and why."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mptpn.networks import SegmentationNetwork
from mptpn.segmentation import Segmenter, Target, normalised
from mptpn.segmentation.inference import GrayRange
from segmentation_scenes import Bright, scene


@pytest.fixture(scope="module")
def bright() -> Bright:
    return Bright()


@pytest.fixture(scope="module")
def random_network() -> Segmenter:
    torch.manual_seed(0)
    targets = [Target("nuclei", ("nucleus",)), Target("breast lesion", ("lesion",), side=64)]
    return Segmenter(SegmentationNetwork(("nucleus", "lesion"), width=8, text_width=8), targets)


def test_what_is_there_is_found_with_its_area_number_and_certainty(bright):
    answer = bright.ask(scene(), "nuclei")
    assert answer.found and np.array_equal(answer.mask, scene() > 100) and answer.count == 2
    assert answer.certainty == pytest.approx(0.9) and answer.to_dict()["area_px"] == int((scene() > 100).sum())


def test_a_target_that_the_image_does_not_have_gets_an_empty_mask_and_a_reason(bright):
    answer = bright.ask(scene(), "vessels")
    assert not answer.found and not answer.mask.any() and answer.presence == pytest.approx(0.01)
    assert "does not look like one that has vessels (probability 0.01" in answer.why and "bright lines" in answer.why


def test_a_target_of_which_no_pixel_is_sure_enough_is_not_found_and_every_answer_says_its_caution(bright):
    """The surest pixel has probability 0.9."""
    for peak in (0.89, 0.91):
        target = replace(bright.targets[0], peak=peak, caution="of 12 healthy ones 2 get a mask")
        answer = Bright().with_target(target).ask(scene(), "nuclei")
        assert answer.found == (peak < 0.9) and answer.mask.any() == answer.found
        alone = "; learned from bright discs alone" if answer.found else ""
        assert answer.sentence.endswith(target.caution + alone)
        assert answer.to_dict()["caution"] == target.caution + alone
    assert "surest pixel has probability 0.900, least 0.910" in answer.why


def test_a_target_of_gray_images_is_not_found_in_a_coloured_one_and_coloured_marks_do_not_matter(bright):
    target, image = replace(bright.targets[0], gray=True, images="ultrasound"), np.stack([scene()] * 3, -1)
    marked, tinted = image.copy(), image.copy()
    marked[:6, :, 0] = image.max()
    tinted[..., 0] += 40
    asking = Bright().with_target(target)
    assert asking.ask(image, "nuclei").found and asking.ask(marked, "nuclei").found
    answer = asking.ask(tinted, "nuclei")
    assert answer.why == "this image is coloured, and nuclei is in gray images only; learned from ultrasound"
    assert not answer.mask.any() and Bright().ask(tinted, "nuclei").found


@pytest.mark.parametrize(
    "images, modality, found",
    [
        ("ultrasound of the breast", "", True),
        ("ultrasound of the breast", "US", True),
        ("ultrasound of the breast", "OT", True),
        ("ultrasound of the breast", "CT", False),
        ("ultrasound of the breast", "MG", False),
        ("ultrasound of the breast", "SM", False),
        ("stained tissue", "SM", True),
        ("stained tissue", "CT", False),
        ("stained tissue", "US", False),
        ("", "CT", True),
    ],
)
def test_a_file_that_says_it_is_of_another_kind_than_was_learned_from_is_not_found(bright, images, modality, found):
    asking = Bright().with_target(replace(bright.targets[0], images=images))
    answer = asking.ask(scene(), "nuclei", modality=modality)
    assert answer.found == answer.mask.any() == found
    if not found:
        assert f"({modality}), and nuclei is not known there; learned from {images}" in answer.why


def test_one_piece_is_told_in_the_singular(bright):
    assert bright.ask(scene(), "the largest nucleus").sentence.startswith("the largest nucleus: 1 piece, ")
    assert ": 2 pieces, " in bright.ask(scene(), "nuclei").sentence


def test_nonsense_gets_an_empty_mask_and_what_is_known(bright):
    answer = bright.ask(scene(), "purple elephants")
    assert not answer.mask.any() and "known: nuclei, vessels" in answer.sentence


def test_nothing_in_the_place_is_not_found(bright):
    answer = bright.ask(scene(), "nuclei in the upper right corner")
    assert not answer.found and answer.why == "no nuclei, in the upper right part in this image"


def test_pixels_outside_the_valid_ones_are_never_in_the_mask(bright):
    valid = np.ones((45, 62), bool)
    valid[:, :30] = False
    assert bright.ask(scene(), "nuclei", valid=valid).mask[:, :30].sum() == 0


@pytest.mark.parametrize(
    "image, words",
    [
        (np.full((18, 18), np.nan), "324 of 324 pixels are NaN"),
        (np.zeros((3, 4, 2)), r"shape \(3, 4, 2\)"),
        (np.zeros((0, 4)), r"shape \(0, 4\)"),
        (np.zeros((15, 40)), "15 x 40 pixels are too few to segment; give at least 16 x 16"),
        (np.zeros((20, 20), complex), "pixels of type complex128 are not gray levels"),
        (np.zeros((20, 20), bool), "pixels of type bool are not gray levels"),
        (np.zeros((20, 20), object), "pixels of type object are not gray levels"),
        (np.zeros((20, 20), "M8[s]"), "pixels of type datetime64"),
    ],
)
def test_no_image_is_one_sentence(bright, image, words):
    with pytest.raises(ValueError, match=words):
        bright.ask(image, "nuclei")


@pytest.mark.parametrize("memory", [-1, 0, "1G", float("nan")])
def test_a_memory_that_is_no_number_of_bytes_is_refused_with_its_value(bright, memory):
    with pytest.raises(ValueError, match=f"memory {memory!r} is no number of bytes"):
        bright.ask(scene(), "nuclei", memory=memory)


@pytest.mark.parametrize("image", [np.full((30, 40), 7), np.zeros((16, 17)), scene(), np.dstack([scene()] * 3)])
def test_constant_tiny_gray_and_colour_images_are_answered(random_network, image):
    assert random_network.ask(image, "nuclei").mask.shape == image.shape[:2]


def test_the_unit_does_not_matter(random_network):
    image = scene(np.float64) + np.random.default_rng(0).normal(size=(45, 62))
    target = random_network.targets[0]
    one, other = (torch.from_numpy(x).float()[None, None] for x in (image, 300 * image - 5000))
    first, second = (random_network.probability(x, target) for x in (one, other))
    assert torch.allclose(first, second, atol=1e-4)


def test_tiles_give_the_probabilities_of_the_whole(random_network):
    image = torch.rand(1, 1, 150, 170, generator=torch.Generator().manual_seed(0))
    target = random_network.targets[0]
    whole, parts = (random_network.probability(image, target, tile=tile) for tile in (0, 48))
    assert (whole - parts).abs().max() < 1e-4


def test_a_target_with_a_side_is_asked_at_that_size(random_network):
    image = torch.rand(1, 1, 130, 90)
    assert random_network.probability(image, random_network.targets[1]).shape == (1, 1, 130, 90)


def test_the_gray_range_is_that_of_the_valid_pixels_and_a_constant_image_is_zero():
    image = torch.full((1, 1, 40, 50), 5.0)
    assert normalised(image).abs().max() == 0 and normalised(image).shape == (1, 3, 40, 50)
    image[..., 25:] = 9
    image[..., 0, 0] = 1e6
    valid = torch.ones(40, 50, dtype=torch.bool)
    valid[0, 0] = False
    assert GrayRange(image, valid).low == 5 and GrayRange(image, valid).span == 4


def test_weights_of_another_configuration_are_refused(tmp_path):
    net = SegmentationNetwork(published=True, width=8, text_width=24)
    with pytest.raises(ValueError, match="published configuration"):
        Segmenter(net, [Target("nuclei", ("nucleus",))])


def test_a_segmenter_is_read_back_as_it_was_saved(random_network, tmp_path):
    path = random_network.save(tmp_path / "mine.safetensors", {"name": "mine"})
    again = Segmenter.load(path)
    assert again.targets == random_network.targets and again.note["name"] == "mine"
    assert np.array_equal(again.ask(scene(), "nuclei").mask, random_network.ask(scene(), "nuclei").mask)
