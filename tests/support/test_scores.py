"""Scores of comparisons: oracles are the best of what they try, fits and intervals are those of known cases."""

import pytest
import torch
from scipy.ndimage import gaussian_filter

from mptpn.metrics import psnr_db
from mptpn.random import generator
from support.scores import WIDTHS, blend, fitted, gaussian_oracle, paired_interval, tv_oracle


def smooth(key: int, height: int = 33, width: int = 47) -> torch.Tensor:
    image = torch.rand(1, 1, height, width, generator=generator(key))
    return torch.from_numpy(gaussian_filter(image.numpy(), (0, 0, 2, 2))) * 4


def noisy_of(clean: torch.Tensor, sigma: float) -> torch.Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=generator(2))


def test_the_gaussian_oracle_is_at_least_as_good_as_each_width():
    clean = smooth(1)
    noisy = noisy_of(clean, 0.3)
    best, width = gaussian_oracle(noisy, clean)
    each = {float(w): psnr_db(torch.from_numpy(gaussian_filter(noisy.numpy(), (0, 0, w, w))), clean) for w in WIDTHS}
    # compared in float32 by the oracle and in float64 here: equal to 1e-5 dB
    assert psnr_db(best, clean) >= max(each.values()) - 1e-5 and each[width] == pytest.approx(psnr_db(best, clean))


def test_more_noise_asks_for_a_wider_blur_and_channels_do_not_mix():
    clean = torch.cat([smooth(3, 80, 91), torch.zeros(1, 1, 80, 91)], 1)
    noise = torch.cat([noisy_of(torch.zeros(1, 1, 80, 91), 1.0), torch.zeros(1, 1, 80, 91)], 1)
    found = [gaussian_oracle(clean + level * noise, clean) for level in (0.02, 0.2, 1.0)]
    widths = [width for _, width in found]
    assert widths == sorted(widths) and widths[0] < widths[-1] and not found[-1][0][:, 1].any()


def test_total_variation_of_oracle_weight_denoises_and_keeps_the_unit():
    clean = smooth(3) * 50 - 10
    noisy = noisy_of(clean, 5)
    best = tv_oracle(noisy, clean)
    assert best.shape == noisy.shape and best.dtype == noisy.dtype
    assert float((best - clean).square().mean()) < 0.4 * float((noisy - clean).square().mean())


def test_gain_and_offset_are_fitted_away_and_nothing_else():
    clean = smooth(1)
    torch.testing.assert_close(fitted(-3 * clean + 7, clean), clean, rtol=0, atol=1e-5)
    noisy = noisy_of(clean, 0.1)
    assert 0 < float((fitted(noisy, clean) - clean).square().mean()) < float((noisy - clean).square().mean())


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_blend_finds_the_share_of_the_input_in_the_truth(share):
    noisy, denoised = [smooth(i, 9, 13) for i in (5, 6)], [smooth(i, 9, 13) for i in (7, 8)]
    clean = [share * y + (1 - share) * x for y, x in zip(noisy, denoised, strict=True)]
    assert blend(noisy, denoised, clean) == pytest.approx(share, abs=1e-5)


def test_an_image_that_was_left_as_it_is_needs_none_of_its_input():
    assert blend([smooth(9)], [smooth(9)], [smooth(10)]) == 0.0


def test_the_interval_is_over_subjects_not_over_images():
    """Ten images of each of two subjects that differ: the interval spans both; as ten thousand images it would not."""
    differences, subjects = [0.0] * 10 + [1.0] * 10, ["a"] * 10 + ["b"] * 10
    assert paired_interval(differences, subjects) == (0.5, 0.0, 1.0)
    # 0.5 -+ 1.96 * 0.5 / sqrt(20)
    assert paired_interval(differences, [str(i) for i in range(20)])[1:] == pytest.approx((0.28, 0.72), abs=0.08)
    assert paired_interval([0.2, 0.4], ["a", "a"]) == pytest.approx((0.3, 0.3, 0.3))


def test_a_subject_weighs_as_many_images_as_it_has():
    """Three images of one subject, one of another: the three equal draws are the ends and the weighted mean."""
    assert paired_interval([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]) == (0.75, 0.0, 1.0)
