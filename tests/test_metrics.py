"""Metrics: on errors whose value is known."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from skimage.metrics import structural_similarity

from mptpn.metrics import (
    WIDTHS,
    blend,
    fitted,
    gaussian_oracle,
    paired_interval,
    psnr_db,
    residual_correlation,
    ssim,
    tv_oracle,
)
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator


def scene(height=41, width=60, channels=1):
    rows, cols = torch.linspace(0, 9, height)[:, None], torch.linspace(0, 7, width)
    return (0.5 + 0.4 * torch.sin(rows) * torch.cos(cols)).expand(1, channels, -1, -1).contiguous()


@pytest.mark.parametrize(
    "error, peak, expected",
    [(0.1, 1.0, 20.0), (0.001, 1.0, 60.0), (0.1, 2.0, 20 + 20 * math.log10(2)), (25.5, 255.0, 20.0)],
)
def test_psnr_of_a_known_error(error, peak, expected):
    clean = peak * scene(5, 7)
    # float32 keeps an error of 0.001 on 0.9 to 6e-8 / 1e-3, that is 5e-4 dB
    assert psnr_db(clean + error, clean, peak=peak) == pytest.approx(expected, abs=1e-3)
    assert psnr_db(clean + 1.1 * error, clean, peak=peak) == pytest.approx(expected - 20 * math.log10(1.1), abs=1e-3)


def test_psnr_of_equal_images_is_infinite():
    assert psnr_db(scene(), scene()) == math.inf


def test_psnr_does_not_clip():
    assert psnr_db(torch.full((1, 1, 3, 5), -1.0), torch.zeros(1, 1, 3, 5)) == 0


@pytest.mark.parametrize("size", [(11, 11), (41, 60), (13, 37)], ids=str)
def test_ssim_of_gray_images_is_scikit_image_s(size):
    clean = scene(*size)
    noisy = PoissonGaussian(0.1).sample(clean, generator=generator(0))
    settings = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert ssim(noisy, clean) == pytest.approx(
        structural_similarity(noisy[0, 0].double().numpy(), clean[0, 0].double().numpy(), **settings), abs=1e-12
    )


def test_ssim_of_colour_is_the_mean_over_channels():
    clean = scene(channels=3)
    noisy = PoissonGaussian(0.1).sample(clean, generator=generator(0))
    assert ssim(noisy, clean) == pytest.approx(
        np.mean([ssim(noisy[:, i : i + 1], clean[:, i : i + 1]) for i in range(3)]), abs=1e-12
    )


def test_ssim_of_equal_images_is_one_and_falls_with_noise():
    clean = scene()
    values = [
        ssim(clean + level * torch.randn(clean.shape, generator=generator(1)), clean) for level in (0.0, 0.02, 0.1, 0.5)
    ]
    assert values[0] == pytest.approx(1, abs=1e-12) and values == sorted(values, reverse=True) and values[-1] < 0.2


def test_ssim_follows_its_peak():
    clean = scene()
    noisy = PoissonGaussian(0.1).sample(clean, generator=generator(0))
    assert (
        ssim(255 * noisy, 255 * clean, peak=255.0)
        == pytest.approx(ssim(noisy, clean), abs=1e-6)
        != pytest.approx(ssim(noisy, clean, peak=2.0), abs=0.01)
    )


@pytest.mark.parametrize("metric", [psnr_db, ssim])
def test_images_of_different_shapes_are_refused_with_both(metric):
    with pytest.raises(ValueError, match=r"\(1, 1, 41, 60\) and \(1, 1, 41, 59\)"):
        metric(scene(), scene()[..., :-1])


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5])
def test_the_gaussian_oracle_is_at_least_as_good_as_each_width(level):
    clean = scene()
    noisy = PoissonGaussian(level).sample(clean, generator=generator(2))
    best, width = gaussian_oracle(noisy, clean)
    fixed = {float(w): psnr_db(torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, w, w))), clean) for w in WIDTHS}
    # compared in float32 by the oracle and in float64 here: equal to 1e-5 dB
    assert psnr_db(best, clean) >= max(fixed.values()) - 1e-5 and fixed[width] == pytest.approx(psnr_db(best, clean))
    assert psnr_db(best, clean) > psnr_db(noisy, clean)


def test_more_noise_asks_for_a_wider_blur():
    clean = scene(120, 101)
    widths = [
        gaussian_oracle(PoissonGaussian(level).sample(clean, generator=generator(3)), clean)[1]
        for level in (0.02, 0.1, 0.5)
    ]
    assert widths == sorted(widths) and widths[0] < widths[-1]


def test_the_oracle_does_not_mix_channels():
    clean = torch.cat([scene(), torch.zeros(1, 1, 41, 60)], dim=1)
    best, _ = gaussian_oracle(clean, clean)
    assert not best[:, 1].any()


def test_white_noise_does_not_correlate():
    residual = torch.randn(1, 1, 201, 160, generator=generator(4))
    assert max(map(abs, residual_correlation(residual))) < 5 / (201 * 160) ** 0.5  # five standard errors, 2.8 %


def test_the_mean_is_no_correlation():
    residual = 7 + torch.randn(1, 1, 201, 160, generator=generator(4))
    assert max(map(abs, residual_correlation(residual))) < 5 / (201 * 160) ** 0.5


@pytest.mark.parametrize(
    "box, expected", [((3, 1), (2 / 3, 0)), ((1, 3), (0, 2 / 3)), ((5, 3), (4 / 5, 2 / 3))], ids=str
)
def test_box_filtered_noise_correlates_as_computed_along_each_axis(box, expected):
    """A box of n leaves n - 1 of n terms common to neighbours. 600 x 501 px, at least 1 / 15 independent: standard
    error under 0.7 %; five of them.
    """
    residual = uniform_filter(np.random.default_rng(5).standard_normal((600, 501)), box, mode="wrap")
    assert residual_correlation(torch.from_numpy(residual)[None, None]) == pytest.approx(expected, abs=0.035)


def test_a_checkerboard_correlates_negatively():
    board = (torch.arange(30)[:, None] + torch.arange(41)) % 2
    assert residual_correlation(board[None, None].float()) == pytest.approx((-1, -1), abs=0.1)


def smooth(seed, *size):
    return (
        torch.from_numpy(gaussian_filter(torch.rand(1, 1, *size, generator=generator(seed)).numpy(), (0, 0, 2, 2))) * 4
    )


def test_gain_and_offset_are_fitted_away_and_nothing_else():
    clean = smooth(1, 31, 40)
    torch.testing.assert_close(fitted(-3 * clean + 7, clean), clean, rtol=0, atol=1e-5)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator(2))
    assert 0 < float((fitted(noisy, clean) - clean).square().mean()) < float((noisy - clean).square().mean())


def test_total_variation_of_oracle_weight_beats_every_other_weight_and_keeps_the_unit():
    clean = smooth(3, 33, 47) * 50 - 10
    noisy = clean + 5 * torch.randn(clean.shape, generator=generator(4))
    best = tv_oracle(noisy, clean)
    assert best.shape == noisy.shape and best.dtype == noisy.dtype
    errors = [float((x - clean).square().mean()) for x in (best, noisy)]
    assert errors[0] < 0.4 * errors[1]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_blend_finds_the_share_of_the_input_in_the_truth(share):
    noisy, denoised = [smooth(i, 9, 13) for i in (5, 6)], [smooth(i, 9, 13) for i in (7, 8)]
    clean = [share * y + (1 - share) * x for y, x in zip(noisy, denoised, strict=True)]
    assert blend(noisy, denoised, clean) == pytest.approx(share, abs=1e-5)


def test_an_image_that_was_left_as_it_is_needs_none_of_its_input():
    x = smooth(9, 9, 13)
    assert blend([x], [x], [smooth(10, 9, 13)]) == 0.0


def test_the_interval_is_over_subjects_not_over_images():
    """Ten images of each of two subjects that differ: the interval spans both; as ten thousand images it would not."""
    differences, subjects = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    assert paired_interval(differences, subjects) == (0.5, 0.0, 1.0)
    # 0.5 -+ 1.96 * 0.5 / sqrt(20)
    assert paired_interval(differences, [str(i) for i in range(20)])[1:] == pytest.approx((0.28, 0.72), abs=0.08)
    assert paired_interval([0.2, 0.4], ["a", "a"]) == pytest.approx((0.3, 0.3, 0.3))
