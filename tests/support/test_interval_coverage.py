"""Shares of errors within the stated ones, and the kinds of noise that are drawn."""

import numpy as np
import pytest

from mptpn.api import Denoised
from support import interval_coverage
from support.interval_coverage import KINDS, held


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_noise_is_drawn_at_the_clean_image(kind):
    clean = np.full((128, 128), 100.0)
    noisy = KINDS[kind](clean, np.random.default_rng(0))
    assert noisy.mean() == pytest.approx(100, abs=3) and 4 < noisy.std() < 70


def test_what_is_stated_is_compared_with_what_is_true(monkeypatch):
    clean = np.zeros((10, 10))
    noisy, image = clean + 2.0, clean + 1.0  # 6.02 dB
    stated = np.where(np.arange(100).reshape(10, 10) < 30, 1.5, 0.7)
    for interval, right in (((5.0, 7.0), 1.0), ((7.0, 8.0), 0.0)):
        found = Denoised(image, stated, None, None, (6.0, interval))
        monkeypatch.setattr(interval_coverage.mptpn, "denoise", lambda _, found=found: found)
        row = held(clean, noisy)
        assert row["gain_held"] == right and row["gain_db"] == pytest.approx(6.02, abs=0.01)
        assert row["held_68"] == 0.3 and row["held_95"] == 1.0
