"""Metrics: on errors whose value is known."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from mptpn.metrics import psnr_db, residual_correlation, ssim
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
