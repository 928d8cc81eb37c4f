"""Pieces of a mask: numbered, split, and chosen by place, size and number."""

import numpy as np
import pytest

from mptpn.segmentation import Target, parse
from mptpn.segmentation.pieces import chosen, pieces, renumbered, without_specks

TARGETS = [Target("nuclei", ("nucleus",)), Target("vessels", ("vessel",), objects=False)]


def discs(*circles: tuple[int, int, int], shape: tuple[int, int] = (61, 80)) -> np.ndarray:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.any([(rows - r) ** 2 + (cols - c) ** 2 <= radius**2 for r, c, radius in circles], axis=0)


SCENE = pieces(discs((10, 10, 3), (12, 60, 6), (45, 20, 8), (50, 70, 4)), split=True)


def asked(text: str, labels: np.ndarray = SCENE) -> np.ndarray:
    return chosen(labels, parse(text, TARGETS))


def test_two_touching_discs_are_two_pieces_only_where_they_are_split():
    mask = discs((30, 30, 10), (30, 47, 10))
    assert pieces(mask, split=False).max() == 1
    found = pieces(mask, split=True)
    assert found.max() == 2 and np.array_equal(found > 0, mask) and found[30, 25] != found[30, 52]


def test_an_empty_mask_has_no_piece():
    assert pieces(np.zeros((5, 7), bool), split=True).max() == 0


def test_numbers_have_no_gaps_and_a_full_image_keeps_its_only_piece():
    assert renumbered(np.array([[0, 7], [3, 7]])).tolist() == [[0, 2], [1, 2]]
    assert renumbered(np.array([[4, 4]])).tolist() == [[1, 1]]


def test_specks_are_left_out():
    labels = np.array([[1, 0, 2, 2]])
    assert without_specks(labels, 2).tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize(
    "text, centres",
    [
        ("nuclei", [(10, 10), (12, 60), (45, 20), (50, 70)]),
        ("nuclei in the left half", [(10, 10), (45, 20)]),
        ("nuclei in the upper right quadrant", [(12, 60)]),
        ("large nuclei", [(12, 60), (45, 20)]),
        ("small nuclei", [(10, 10), (50, 70)]),
        ("the largest nucleus", [(45, 20)]),
        ("the two smallest nuclei", [(10, 10), (50, 70)]),
        ("the largest nucleus in the right half", [(12, 60)]),
        ("two nuclei", [(12, 60), (45, 20)]),
        ("nuclei in the center", [(45, 20)]),
    ],
)
def test_the_prompt_chooses(text, centres):
    found = asked(text)
    assert {(r, c) for r, c in [(10, 10), (12, 60), (45, 20), (50, 70)] if found[r, c]} == set(centres)
    assert found.max() == len(centres)


def test_an_object_belongs_where_its_centre_is_and_a_net_is_cut():
    wide = pieces(discs((30, 36, 12)), split=True)
    assert np.array_equal(asked("nuclei in the left half", wide) > 0, wide > 0)
    cut = asked("vessels in the left half", wide)
    assert not cut[:, 40:].any() and np.array_equal(cut[:, :40] > 0, wide[:, :40] > 0)
