"""Metrics: on errors whose value is known."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from mptpn.metrics import aggregated_jaccard, dice, hausdorff_95, iou, pooled_dice, psnr_db, residual_correlation, ssim
from mptpn.random import generator


def scene(height: int = 41, width: int = 60, channels: int = 1) -> torch.Tensor:
    rows, cols = torch.linspace(0, 9, height)[:, None], torch.linspace(0, 7, width)
    return (0.5 + 0.4 * torch.sin(rows) * torch.cos(cols)).expand(1, channels, -1, -1).contiguous()


def with_noise(clean: torch.Tensor, sigma: float = 0.1) -> torch.Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=generator(0))


@pytest.mark.parametrize(
    "error, peak, expected",
    [(0.1, 1.0, 20.0), (0.001, 1.0, 60.0), (0.1, 2.0, 20 + 20 * math.log10(2)), (25.5, 255.0, 20.0)],
)
def test_psnr_of_a_known_error(error, peak, expected):
    clean = peak * scene(5, 7)
    # float32 keeps an error of 0.001 on 0.9 to 6e-8 / 1e-3, that is 5e-4 dB
    assert psnr_db(clean + error, clean, peak=peak) == pytest.approx(expected, abs=1e-3)
    assert psnr_db(clean, clean) == math.inf


def test_psnr_does_not_clip():
    assert psnr_db(torch.full((1, 1, 3, 5), -1.0), torch.zeros(1, 1, 3, 5)) == 0


def test_ssim_of_equal_images_is_one_and_falls_with_noise():
    values = [ssim(with_noise(scene(), sigma), scene()) for sigma in (0.0, 0.02, 0.1, 0.5)]
    assert values[0] == pytest.approx(1, abs=1e-12) and values == sorted(values, reverse=True) and values[-1] < 0.2


def test_ssim_of_colour_is_the_mean_over_channels():
    clean = scene(channels=3)
    noisy = with_noise(clean)
    channels = [ssim(noisy[:, i : i + 1], clean[:, i : i + 1]) for i in range(3)]
    assert ssim(noisy, clean) == pytest.approx(np.mean(channels), abs=1e-12)


def test_ssim_follows_its_peak():
    clean, noisy = scene(), with_noise(scene())
    found = ssim(noisy, clean)
    assert ssim(255 * noisy, 255 * clean, peak=255.0) == pytest.approx(found, abs=1e-6)
    assert found != pytest.approx(ssim(noisy, clean, peak=2.0), abs=0.01)


@pytest.mark.parametrize("metric", [psnr_db, ssim])
def test_images_of_different_shapes_are_refused_with_both(metric):
    with pytest.raises(ValueError, match=r"\(1, 1, 41, 60\) and \(1, 1, 41, 59\)"):
        metric(scene(), scene()[..., :-1])


@pytest.mark.parametrize("box, expected", [((1, 1), (0, 0)), ((3, 1), (2 / 3, 0)), ((5, 3), (4 / 5, 2 / 3))], ids=str)
def test_box_filtered_noise_correlates_as_computed_along_each_axis(box, expected):
    """A box of n leaves n - 1 of n terms common to neighbours; the mean, 7, is no correlation. 600 x 501 px, at least
    1 / 15 independent: standard error under 0.7 %; five of them.
    """
    residual = 7 + uniform_filter(np.random.default_rng(5).standard_normal((600, 501)), box, mode="wrap")
    assert residual_correlation(torch.from_numpy(residual)[None, None]) == pytest.approx(expected, abs=0.035)


def test_a_checkerboard_correlates_negatively():
    board = (torch.arange(30)[:, None] + torch.arange(41)) % 2
    assert residual_correlation(board[None, None].float()) == pytest.approx((-1, -1), abs=0.1)


A = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]])
B = np.array([[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1]])


def test_overlaps_of_a_five_by_five_case_are_those_counted_by_hand():
    """8 and 6 pixels, 4 in both: Dice 8 / 14, IoU 4 / 10; objects: 2 / 6 and 2 / 4, together 4 / 10."""
    assert dice(B, A) == pytest.approx(8 / 14) and iou(B, A) == pytest.approx(4 / 10)
    assert pooled_dice([B], [A]) == pytest.approx(8 / 14)
    first, second = (np.where(np.arange(5)[:, None] > 2, 2 * one, one) for one in (A, B))
    assert aggregated_jaccard(second, first) == pytest.approx(4 / 10)


def test_an_unmatched_object_counts_in_the_union():
    more = np.where(np.arange(5)[:, None] > 2, 2 * B, B)
    more[2, 4] = 3
    truth = np.where(np.arange(5)[:, None] > 2, 2 * A, A)
    assert aggregated_jaccard(more, truth) == pytest.approx(4 / 11)


def test_mean_and_pooled_dice_differ_on_a_planted_case_and_pooled_obeys_the_identity():
    """One large image is met, one small one is missed: mean 0.5, pooled 2 * 100 / 204."""
    large, small = np.ones((10, 10), bool), np.zeros((10, 10), bool)
    small[0, :4] = True
    masks, truths = [large, np.zeros_like(small)], [large, small]
    assert np.mean([dice(m, t) for m, t in zip(masks, truths, strict=True)]) == 0.5
    pooled = pooled_dice(masks, truths)
    assert pooled == pytest.approx(200 / 204)
    assert iou(np.stack(masks), np.stack(truths)) == pytest.approx(pooled / (2 - pooled))


def test_an_empty_truth_scores_one_for_an_empty_mask_alone():
    nothing = np.zeros((5, 5), bool)
    for measure in (dice, iou, aggregated_jaccard):
        assert measure(nothing.astype(int), nothing.astype(int)) == 1 and measure(A, nothing.astype(int)) == 0
    assert hausdorff_95(nothing, nothing) == 0 and hausdorff_95(A > 0, nothing) == np.inf


def test_hausdorff_of_a_shifted_square_is_the_shift():
    square = np.zeros((40, 50), bool)
    square[10:20, 10:20] = True
    assert hausdorff_95(np.roll(square, 7, 1), square) == 7


@pytest.mark.parametrize("measure", [dice, iou, aggregated_jaccard, hausdorff_95])
def test_masks_of_two_sizes_are_refused(measure):
    with pytest.raises(ValueError, match=r"\(5, 5\) and \(4, 5\)"):
        measure(A, A[1:])
