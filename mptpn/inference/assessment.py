"""How far a denoised image can be trusted: the checks of its residual, and the gain in PSNR estimated without truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.inference.denoiser import Denoiser, Prediction
from mptpn.inference.masks import masked_image
from mptpn.inference.quality_control import QualityControl, check_residual
from mptpn.inference.sure import estimated_psnr
from mptpn.metrics import NORMAL_95, psnr_from_mse
from mptpn.random import generator
from mptpn.tiling import spread, squares

BLOCK, BLOCKS = 256, 16  # px and number: a larger image is judged on squares spread over it
FREE = 64  # px, side of the squares that hold measured pixels alone, where the gain is estimated if some are not
FEWEST = 64  # pixels that a judgement takes


@dataclass(frozen=True)
class Assessment:
    """What is known of a denoised image without its truth; of the full removal, whatever the strength.

    Attributes:
        quality: the checks of the residual.
        gain: estimated gain in PSNR, dB, and its 95 % interval; None: see reason.
        reason: why there is no gain, or "".
    """

    quality: QualityControl
    gain: tuple[float, tuple[float, float]] | None
    reason: str = ""

    @property
    def message(self) -> str:
        """The gain as a sentence."""
        if self.gain is None:
            return f"no estimate of the gain: {self.reason}"
        best, (low, high) = self.gain
        return f"estimated gain {best:.1f} dB in PSNR ({low:.1f} to {high:.1f})"

    def to_dict(self) -> dict:
        """Numbers and sentences for JSON."""
        gain = {"psnr_gain_db": self.gain and self.gain[0]}
        gain |= {"interval_db": self.gain[1]} if self.gain else {"reason": self.reason}
        return gain | self.quality.as_dict()


def assess(
    denoiser: Denoiser,
    image: np.ndarray,
    prediction: Prediction,
    valid: np.ndarray | None = None,
    *,
    memory: int | None = None,
) -> Assessment:
    """Assess the prediction of an image [H, W]; arguments as in Denoiser.predict."""
    noise_model, noise, unit = denoiser.predictor.noise_model, denoiser.noise, denoiser.unit
    seen = masked_image(image, valid, unit)
    noisy, denoised = prediction.noisy, prediction.denoised
    (low, high), margin = seen.ends, 3 * noise.sigma / unit  # near an end the noise is cut off
    inside = seen.measured & (denoised > low + margin) & (denoised < high - margin)
    inside = inside if int(inside.sum()) >= FEWEST else seen.measured
    places = _places(inside) if inside.numel() > BLOCKS * BLOCK**2 else [...]
    some = [torch.cat([x[place] for place in places]) for x in (noisy, denoised, inside)]
    quality = check_residual(*some[:2], noise_model=noise_model, valid=some[2], noise=noise, unit=unit)
    error = math.log(noise.sigma_interval[1] / noise.sigma_interval[0]) / 2 / NORMAL_95
    if not noise_model.zero_mean_gaussian:
        return Assessment(quality, None, f"{noise.kind} noise: Stein's estimate is for Gaussian noise of mean 0")
    if error >= 1 / NORMAL_95:
        return Assessment(quality, None, "the noise level is not known")
    if not bool(some[2].all()):
        places = [place for place in _places(seen.measured, side=FREE) if bool(seen.measured[place].all())]
        if not places:
            return Assessment(quality, None, f"no block of {FREE} x {FREE} px is free of masked or clipped pixels")
    before, after = (torch.cat([x[place] for place in places]) for x in (noisy, denoised))

    def mean(batch: Tensor) -> Tensor:
        return torch.cat([denoiser.mean(one[None], memory=memory) for one in batch])

    settings = {"noise_model": noise_model, "level_error": error, "draws": 2}
    random = generator(before.numel(), "risk")
    best, (least, most) = estimated_psnr(mean, before, generator=random, **settings)
    own = psnr_from_mse(float(noise_model.variance(after).mean()))
    return Assessment(quality, (best - own, (least - own, most - own)))


def together(assessments: Sequence[Assessment], channels: Sequence[int]) -> Assessment:
    """That of a colour image: the checks of all channels, the mean gain."""
    if len(assessments) == 1:
        return assessments[0]
    checks = tuple(
        replace(check, name=f"{check.name} of channel {i}", verdict=f"channel {i}: {check.verdict}")
        for one, i in zip(assessments, channels, strict=True)
        for check in one.quality.checks
    )
    reason = next((one.reason for one in assessments if one.reason), "")
    if reason:
        return Assessment(QualityControl(checks), None, reason)
    best, low, high = (
        float(np.mean(x)) for x in zip(*((g, *i) for g, i in (a.gain for a in assessments)), strict=True)
    )
    return Assessment(QualityControl(checks), (best, (low, high)))


def _places(measured: Tensor, *, side: int = BLOCK) -> list[tuple]:
    """Cuts of up to BLOCKS squares, spread over the image, of those with most measured pixels."""
    height, width = measured.shape[2:]
    places = [(..., *place) for place in squares((height - height % side, width - width % side), side=side)]
    places = [place for place in places if float(measured[place].float().mean()) > 0.5] or places
    return spread(places, BLOCKS)
