"""The noise of one instrument, drawn on embedded images."""

from dataclasses import replace

import pytest
import torch

from mptpn.random import generator
from support.acquisition import Detector, acquire, scenes

FLAT = torch.full((1, 1, 201, 302), 0.4)  # not square; half of it odd
COPIES = 12


def noise(detector: Detector, scene: torch.Tensor = FLAT) -> torch.Tensor:
    """Noise of several exposures of one scene, [COPIES, 1, H, W]."""
    drawn = [detector.expose(scene, generator=generator(3, "test", k)) for k in range(COPIES)]
    return torch.cat([noisy - clean for noisy, clean in drawn])


@pytest.mark.parametrize("read", [0.0, 8.0])
def test_variance_follows_photons_read_noise_and_place(read):
    detector = Detector(corner=0.4, read=read)
    ratio = noise(detector)[..., 1:].square().mean(0) / detector.variance(FLAT)[0, ..., 1:]
    # 12 * 60,000 pixels: a mean ratio is known to 0.2 %, that of a sixteenth of the places to 1 %
    assert ratio.mean().item() == pytest.approx(1, abs=0.01)
    corner, middle = ratio[0, :50, :75].mean(), ratio[0, 75:125, 110:190].mean()
    assert corner.item() == pytest.approx(1, abs=0.03) and middle.item() == pytest.approx(1, abs=0.03)


def test_noise_grows_with_the_signal():
    dark, bright = (noise(Detector(read=0.0, corner=1.0), torch.full_like(FLAT, x)).var() for x in (0.1, 0.9))
    assert (bright / dark).item() == pytest.approx((0.9 + 0.3) / (0.1 + 0.3), rel=0.03)


def test_noise_correlates_along_rows_alone():
    detector = Detector(read=0.0, corner=1.0)
    field = noise(detector)[..., 1:]
    field = field / field.std()
    across, down = (field[..., 1:] * field[..., :-1]).mean(), (field[..., 1:, :] * field[..., :-1, :]).mean()
    assert across.item() == pytest.approx(detector.correlation, abs=0.01)
    assert down.item() == pytest.approx(0, abs=0.01)
    assert detector.correlation == pytest.approx(0.16 / 0.68)


def test_corners_get_their_share_of_the_light():
    light = Detector(corner=0.4).illumination(11, 20)
    assert light[0, 0, 0, 0].item() == pytest.approx(0.4) and light.amax() <= 1
    assert torch.allclose(light, light.flip(2, 3))


def test_truth_is_the_mean_of_the_exposures():
    _, clean = Detector().expose(FLAT, generator=generator(3, "test", 0))
    assert noise(Detector()).mean().abs() < 1e-3 and (clean - FLAT).abs().amax() < 0.02


def test_same_seed_gives_the_same_exposures():
    first, again, other = (acquire("test", seed=seed)[-1].noisy.pixels for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert len({one.exposure for one in acquire("test")}) == 9


def test_no_subject_is_in_both_splits():
    train, test = ({image.subject for image in scenes(split)} for split in ("train", "test"))
    assert len(train) == 5 and len(test) == 7 and not train & test
    assert len(scenes("test")) == 9


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="'val'"):
        scenes("val")


def test_a_detector_without_faults_keeps_the_scene():
    detector = replace(Detector(), photons=1e7, carry=0.0, read=0.0, corner=1.0)
    noisy, clean = detector.expose(FLAT, generator=generator(3, "test", 0))
    assert torch.allclose(clean, FLAT) and (noisy - clean).std() < 1e-3
