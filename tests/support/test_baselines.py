"""Classical denoisers in the image's own unit; one that is missing is named."""

import importlib.util

import numpy as np
import pytest
import torch

from mptpn.metrics import psnr_db
from mptpn.noise.models import CorrelatedGaussian, PoissonGaussian
from mptpn.random import generator
from support import baselines, embedded

CLEAN = embedded.natural("val")[0].pixels[..., :151, :128]
WHITE = PoissonGaussian(0.1)
STREAKS = CorrelatedGaussian(WHITE, tuple(tuple(row) for row in np.outer([0, 1, 0], [0.5, 1, 0.5])))
needs_bm3d = pytest.mark.skipif(
    importlib.util.find_spec("bm3d") is None, reason="bm3d is not installed: pip install .[baselines]"
)


def gain(name: str, drawn, *, given=None) -> float:
    noisy = drawn.sample(CLEAN, generator=generator(1))
    return psnr_db(baselines.denoise(name, noisy, noise_model=given or drawn), CLEAN) - psnr_db(noisy, CLEAN)


def test_non_local_means_denoises_in_any_unit():
    assert gain("NLM", WHITE) > 4
    noisy = WHITE.sample(CLEAN, generator=generator(1))
    scaled = baselines.denoise("NLM", 100 * noisy - 30, noise_model=PoissonGaussian(10.0))
    assert torch.allclose(scaled, 100 * baselines.denoise("NLM", noisy, noise_model=WHITE) - 30, atol=0.02)


@needs_bm3d
@pytest.mark.slow
def test_bm3d_is_better_than_non_local_means_and_by_the_spectrum_better_than_by_the_level():
    patched = hasattr(np, "trapz")
    assert gain("BM3D", WHITE) > gain("NLM", WHITE) > gain("NLM", WHITE, given=PoissonGaussian(0.01))
    assert gain("BM3D, spectrum", STREAKS) > gain("BM3D", STREAKS) + 1
    assert hasattr(np, "trapz") == patched  # NumPy is as it was


def test_the_power_is_what_drawn_noise_has():
    """Mean |FFT|^2 of 400 draws: 5 % of standard error a frequency, 24 x 37 of them."""
    blank = torch.zeros(1, 1, 24, 37)
    draws = [STREAKS.sample(blank, generator=generator(2, i))[0, 0].double().numpy() for i in range(400)]
    power = baselines._power(STREAKS, 0.1, (24, 37))
    ratio = np.mean([np.abs(np.fft.fft2(noise)) ** 2 for noise in draws], 0) / power
    strong = power > 0.1 * power.mean()
    assert ratio[strong].mean() == pytest.approx(1, abs=0.03) and np.abs(ratio[strong] - 1).max() < 0.35


def test_a_baseline_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert baselines.names() == ("NLM",)
    with pytest.raises(ValueError, match="'BM3D' cannot run here; choose one of NLM, .* pip install bm3d"):
        baselines.denoise("BM3D", CLEAN, noise_model=WHITE)
