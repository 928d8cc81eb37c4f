"""The stated error of a denoiser of which the true error is known."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mptpn.inference.predictor import ANYWHERE, SMALLEST_ERROR, TransformerPredictor
from mptpn.noise import NoiseModel, PoissonGaussian, Speckle
from mptpn.random import generator

COLUMNS = torch.where(torch.arange(141) % 2 == 0, 10.0, 100.0)  # dark beside bright
CLEAN = COLUMNS.expand(1, 1, 121, 141)


@dataclass(frozen=True, eq=False)
class Shrinking(TransformerPredictor):
    """Leaves a known share of the noise, as the best estimate does where the signal's variance is kept / (1 - kept)."""

    clean: Tensor
    kept: float

    def mean(self, noisy: Tensor, *, place=ANYWHERE) -> Tensor:
        return self.clean + self.kept * (noisy - self.clean)


def stated(model: NoiseModel, *, kept: float, clean: Tensor = CLEAN) -> tuple[Tensor, Tensor]:
    """Variance that is stated of the error, over that of the noise (NaN where there is none), and the latter."""
    noisy = model.sample(clean, generator=generator(1))
    predictor = Shrinking(None, model, torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), clean, kept)
    mean, sigma = predictor.predict(noisy, probes=generator(2))
    assert sigma.shape == noisy.shape and sigma.isfinite().all()
    return sigma**2 / model.variance(mean), model.variance(mean)


@pytest.mark.parametrize("model", [PoissonGaussian(0.1, gain=0.3), Speckle(20.0)], ids=lambda model: model.label)
@pytest.mark.parametrize("kept", [0.02, 0.3])
def test_the_share_of_the_noise_that_is_left_is_stated_in_dark_and_bright_columns(model, kept):
    """Two probes on 17000 px, of which the bright half counts: four standard errors are 4 % of the share. One variance
    for dark and bright, as an average of variances gives it, would be more than 4 times too large in the dark.
    """
    share, noise = stated(model, kept=kept)
    assert float(noise[..., 1].mean() / noise[..., 0].mean()) > 8
    for first in (0, 1):
        assert float(share[..., first::2].mean()) == pytest.approx(kept, rel=0.05)


@pytest.mark.parametrize(("kept", "least", "most"), [(0.0, SMALLEST_ERROR, SMALLEST_ERROR), (0.005, 0.004, 0.006)])
def test_a_small_error_is_stated_down_to_what_is_chance(kept, least, most):
    share = stated(PoissonGaussian(5.0), kept=kept)[0]
    assert float(share.amin()) >= 0.999 * SMALLEST_ERROR and least * 0.999 <= float(share.mean()) <= most * 1.001


def test_no_error_is_larger_than_the_noise():
    assert float(stated(PoissonGaussian(5.0), kept=1.5)[0].amax()) <= 1.001


def test_noise_that_vanishes_leaves_its_neighbours_their_error():
    """Speckle is 0 where the image is. Two probes on 8 + 8 columns: four standard errors are 13 %. An average of
    variances would state half as much at the rim.
    """
    clean = torch.where(torch.arange(141) < 70, 0.0, 50.0).expand(1, 1, 121, 141)
    share, noise = stated(Speckle(20.0), kept=0.3, clean=clean)
    assert not noise[..., :70].any()
    assert float(share[..., 70:78].mean()) == pytest.approx(0.3, rel=0.15)


def test_gain_and_offset_of_the_image_scale_the_uncertainty():
    model = PoissonGaussian(2.0, gain=0.3)
    share, noise = stated(model, kept=0.1)
    moved_share, moved_noise = stated(model.in_unit(40.0, zero=-500.0), kept=0.1, clean=40 * CLEAN - 500)
    first, moved = (share * noise).sqrt(), (moved_share * moved_noise).sqrt()
    assert torch.allclose(moved, 40 * first, rtol=1e-2)
