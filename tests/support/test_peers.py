"""Peers run on the same bytes, in the image's own unit, and one that is missing is named."""

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
    importlib.util.find_spec("bm3d") is None, reason="bm3d is not installed: pip install .[peers]"
)


def gain(name: str, noise_model, *, told=None) -> float:
    noisy = noise_model.sample(CLEAN, generator=generator(1))
    return psnr_db(baselines.denoise(name, noisy, noise_model=told or noise_model), CLEAN) - psnr_db(noisy, CLEAN)


def test_non_local_means_denoises_and_keeps_the_image_s_unit():
    assert gain("NLM", WHITE) > 4
    noisy = WHITE.sample(CLEAN, generator=generator(1))
    scaled = baselines.denoise("NLM", 100 * noisy - 30, noise_model=PoissonGaussian(10.0))
    assert (
        torch.allclose(scaled, 100 * baselines.denoise("NLM", noisy, noise_model=WHITE) - 30, atol=0.02)
        and scaled.shape == noisy.shape
    )


@needs_bm3d
def test_bm3d_is_better_than_non_local_means():
    assert gain("BM3D", WHITE) > gain("NLM", WHITE) > gain("NLM", WHITE, told=PoissonGaussian(0.01))


@needs_bm3d
def test_bm3d_told_the_spectrum_of_streaks_beats_bm3d_told_their_level():
    assert gain("BM3D, spectrum", STREAKS) > gain("BM3D", STREAKS) + 1


def test_a_spectrum_is_what_drawn_noise_has():
    """Mean |FFT|^2 of 400 draws: 5 % of standard error a frequency, 24 x 37 of them; white noise has the same power
    everywhere.
    """
    blank = torch.zeros(1, 1, 24, 37)
    drawn = [
        np.abs(np.fft.fft2(STREAKS.sample(blank, generator=generator(2, i))[0, 0].double().numpy())) ** 2
        for i in range(400)
    ]
    ratio = np.mean(drawn, 0) / (0.01 * baselines.power_spectrum(STREAKS, (24, 37)).clip(1))
    strong = baselines.power_spectrum(STREAKS, (24, 37)) > 0.1 * 24 * 37
    assert ratio[strong].mean() == pytest.approx(1, abs=0.03) and np.abs(ratio[strong] - 1).max() < 0.35
    assert np.ptp(baselines.power_spectrum(WHITE, (24, 37))) == 0


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert baselines.names() == ("NLM",)
    with pytest.raises(ValueError, match="'BM3D' cannot run here; choose one of NLM, or install .* pip install bm3d"):
        baselines.denoise("BM3D", CLEAN, noise_model=WHITE)
