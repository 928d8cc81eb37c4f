"""How much of the change is applied, and what is said of it."""

import numpy as np
import pytest

from mptpn.inference import Assessment, NoisyImages, assess, assessment, common_share
from mptpn.inference.quality_control import QualityControl

GOOD, BAD = (5.0, (4.0, 6.0)), (-2.0, (-3.0, -1.0))


def judged(gain, share: float = 1.0) -> Assessment:
    return Assessment(QualityControl(()), gain, share=share)


def test_a_series_applies_the_mean_share_or_the_least_of_its_losses():
    assert common_share([judged(GOOD, 0.9), judged(GOOD)]) == pytest.approx(0.95)
    assert common_share([judged(GOOD, 0.9), judged(BAD, 0.2), judged(BAD, 0.1)]) == 0.1
    assert common_share([judged(None)]) == common_share([]) == 1


def test_a_loss_is_not_to_be_used_and_less_than_all_of_a_gain_is():
    assert judged(BAD, 0.2).verdict == assessment.DO_NOT and "a loss, so 20 %" in judged(BAD, 0.2).message
    assert judged(GOOD, 0.9).verdict == assessment.USE and judged(GOOD, 0.9).message.endswith(
        "90 % of the change is applied"
    )
    assert "applied" not in judged(GOOD).message


def scene() -> np.ndarray:
    row, column = np.mgrid[:160, :192]
    return 100 + 40.0 * (np.hypot(row - 70, column - 90) < 35) + 10 * np.sin(column / 11)


@pytest.mark.parametrize(("estimated", "applied"), [(1.0, 1.0), (0.95, 1.0), (0.9, 0.95), (0.7, 0.85)])
def test_half_of_what_the_estimate_leaves_out_is_left_out(monkeypatch, estimated, applied):
    image = scene() + np.random.default_rng(0).normal(0, 10, scene().shape)
    denoiser = NoisyImages.of([image]).prepare()
    monkeypatch.setattr(assessment, "estimated_gain", lambda *_, **__: (*GOOD, estimated))
    found = assess(denoiser, image, denoiser.predict(image, uncertainty=False))
    assert found.share == pytest.approx(applied)


def test_all_of_the_change_is_applied_under_white_noise():
    """Its level is known; 0.95 is the least estimated share of which this holds."""
    for seed in range(4):
        image = scene() + np.random.default_rng(seed).normal(0, 10, scene().shape)
        denoiser = NoisyImages.of([image]).prepare()
        assert assess(denoiser, image, denoiser.predict(image, uncertainty=False)).share == 1


def test_a_few_clipped_pixels_everywhere_do_not_withhold_the_gain():
    random = np.random.default_rng(0)
    image = scene() + random.normal(0, 10, scene().shape)
    image[random.random(image.shape) < 0.003] = 190
    denoiser = NoisyImages.of([image]).prepare()
    found = assess(denoiser, image, denoiser.predict(image, uncertainty=False))
    assert found.gain is not None and found.gain[0] > 3, found.reason
