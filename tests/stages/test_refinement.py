"""Refinement by residuals: a right noise model stays, a wrong one gets better, what is no noise changes nothing."""

import pytest
import torch
from test_pipeline import scene
from torch.nn import functional as F

from mptpn.filters import autocovariance
from mptpn.noise.models import CorrelatedGaussian, PoissonGaussian
from mptpn.random import generator
from mptpn.stages.refinement import refine

SIGMA = 0.05
TRUE = F.pad(torch.tensor([[0.1, 0.25, 0.1], [0.4, 1.0, 0.4], [0.1, 0.25, 0.1]]), (2,) * 4)  # at lags -3..3
EXPECTED = torch.tensor([0.4, 0.25, 0.1, 0.0])  # see of_neighbours
WHITE = F.pad(torch.ones(1, 1), (3,) * 4)


def low_pass(image: torch.Tensor) -> torch.Tensor:
    """Frequencies up to 0.12 cycles / px alone: it leaves a part of the noise in, as every denoiser does."""
    height, width = image.shape[2:]
    far = torch.fft.fftfreq(height)[:, None].square() + torch.fft.rfftfreq(width).square()
    return torch.fft.irfft2(torch.fft.rfft2(image) * (far < 0.12**2), s=(height, width))


def smooth(*size: int) -> torch.Tensor:
    return low_pass(scene(*size))


def noisy_set(noise_model, size=(160, 144), number=4) -> list[torch.Tensor]:
    return [noise_model.sample(smooth(*size), generator=generator(9, i)) for i in range(number)]


def of_neighbours(noise_model) -> torch.Tensor:
    """Correlation at lags (0, 1), (1, 0), (1, 1), (0, 2)."""
    middle = len(noise_model.correlation) // 2
    return torch.tensor(
        [noise_model.correlation[middle + row][middle + col] for row, col in ((0, 1), (1, 0), (1, 1), (0, 2))]
    )


def test_autocovariance_is_that_of_the_noise():
    """92000 px; a correlation of them is known to about 0.005."""
    noise_model = CorrelatedGaussian(PoissonGaussian(SIGMA), TRUE)
    residuals = [y - smooth(160, 144) for y in noisy_set(noise_model)]
    valid = [torch.ones_like(r, dtype=torch.bool) for r in residuals]
    found = autocovariance(residuals, radius=3, valid=valid) / SIGMA**2
    torch.testing.assert_close(found[2:5, 2:5], TRUE[2:5, 2:5].double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found, TRUE.double(), atol=0.03, rtol=0)
    assert torch.allclose(found, found.flip(0, 1))


def test_autocovariance_leaves_out_what_is_not_valid():
    """Beside the explicit sums, with a third of the image spoilt and left out."""
    residual = torch.randn(1, 1, 23, 31, generator=generator(3))
    count = torch.rand(1, 1, 23, 31, generator=generator(4)) > 0.3
    spoilt = residual.where(count, 1e6)
    found = autocovariance([spoilt], radius=2, valid=[count])
    x, c = (residual * count)[0, 0].double(), count[0, 0].double()
    for row, col in ((0, 0), (0, 1), (1, 0), (2, 2), (1, 2)):
        near, far = (slice(None, 23 - row), slice(None, 31 - col)), (slice(row, None), slice(col, None))
        expected = (x[near] * x[far]).sum() / (c[near] * c[far]).sum()
        assert float(found[2 + row, 2 + col]) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("level", [0.8, 1.0, 1.25])
@pytest.mark.parametrize(
    "start", [TRUE, 0.5 * (TRUE + WHITE), (1.3 * TRUE).clamp_max(1.0)], ids=["right", "half of it", "too wide"]
)
def test_level_and_correlation_go_to_the_truth(start, level):
    """The low pass takes out 95 % of white noise and 88 % of this one; of what it leaves in, nothing can be found: up
    to 0.06 of the map.
    """
    noisy = noisy_set(CorrelatedGaussian(PoissonGaussian(SIGMA), TRUE))
    noise_models = [CorrelatedGaussian(PoissonGaussian(SIGMA * level), start)] * len(noisy)
    found = refine(noise_models, noisy, denoise=low_pass)
    assert len(found) == len(noisy) and len({noise_model.noise_model.sigma for noise_model in found}) == 1
    assert found[0].noise_model.sigma == pytest.approx(SIGMA, rel=0.04)
    torch.testing.assert_close(of_neighbours(found[0]), EXPECTED, atol=0.06, rtol=0)


def test_levels_of_the_images_keep_their_ratios():
    noise_models = [CorrelatedGaussian(PoissonGaussian(sigma, gain=0.01), TRUE) for sigma in (0.04, 0.06)]
    noisy = [
        CorrelatedGaussian(noise_model.noise_model.scaled(1.2), TRUE).sample(
            smooth(160, 144), generator=generator(9, i)
        )
        for i, noise_model in enumerate(noise_models)
    ]
    first, second = (noise_model.noise_model for noise_model in refine(noise_models, noisy, denoise=low_pass))
    assert first.sigma / second.sigma == pytest.approx(0.04 / 0.06) and first.gain == pytest.approx(second.gain)
    assert first.sigma == pytest.approx(1.2 * 0.04, rel=0.05) and first.gain == pytest.approx(1.44 * 0.01, rel=0.1)


def never(image: torch.Tensor) -> torch.Tensor:
    raise AssertionError("nothing is denoised")


def test_noise_without_correlation_is_left_alone_and_nothing_is_denoised_for_it():
    noise_models = (PoissonGaussian(SIGMA), PoissonGaussian(2 * SIGMA))
    assert refine(noise_models, noisy_set(PoissonGaussian(SIGMA))[:2], denoise=never) == noise_models


def test_residuals_that_are_no_noise_change_nothing():
    """A denoiser that gives a constant: content is in the residuals, many times the noise."""
    noise_model = CorrelatedGaussian(PoissonGaussian(0.01), TRUE)
    noisy = noisy_set(noise_model)
    noise_models = [noise_model] * len(noisy)
    assert refine(noise_models, noisy, denoise=lambda image: torch.full_like(image, 0.4)) == tuple(noise_models)


def test_refinement_is_a_function_of_its_seed():
    noisy = noisy_set(CorrelatedGaussian(PoissonGaussian(SIGMA), TRUE), size=(64, 64), number=2)
    noise_models = [CorrelatedGaussian(PoissonGaussian(SIGMA), WHITE)] * 2
    first, again, other = (refine(noise_models, noisy, denoise=low_pass, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
