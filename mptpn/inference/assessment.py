"""How far a denoised image can be trusted: the checks of its residual, and the gain in PSNR estimated without truth."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.filters import turned_back
from mptpn.inference import orientation, sure
from mptpn.inference.denoiser import Denoiser, Prediction
from mptpn.inference.gain import activity, estimated_gain, passing, rehearsed, residual_excess, squared_noise
from mptpn.inference.masks import masked_image
from mptpn.inference.quality_control import Check, QualityControl, check_residual
from mptpn.inference.texture import applied_share, check_texture, is_judged, not_judged, varies
from mptpn.metrics import NORMAL_95
from mptpn.networks.noise_share import SMALLEST
from mptpn.noise.by_place import LocalNoise
from mptpn.tiling import spread, squares

BLOCK, BLOCKS = 256, 16  # px and number: of a larger image, squares spread over it are judged
PART, PARTS = 128, 4  # px and number: squares in which it is measured how much noise passes the denoiser
FREE = 64  # px, their side where masked or clipped pixels leave no larger ones
MOST_MASKED = 0.02  # of the pixels of such a square: a few at an end of the range change little
# estimated share from which all of the change is applied; below, half of what is missing is left out. Chosen on 10 real
# validation images: 0.77 to 0.93 is estimated on CT, where 0.85 to 0.9 is best; 1 on fluorescence and MR, as is best
WHOLE = 0.95
FEWEST = 64  # pixels that a judgement takes
USE, LOOK, DO_NOT = "use", "look closer", "do not use"
VERDICTS = (USE, LOOK, DO_NOT)  # from best to worst


@dataclass(frozen=True)
class Assessment:
    """What is known of a denoised image without its truth; of the full removal, whatever the strength.

    Attributes:
        quality: the checks of the residual.
        gain: estimated gain in PSNR, dB, and its 95 % interval; None: see reason.
        reason: why there is no gain, or "".
        share: of the change that is applied: 1, or less where less has a smaller estimated error.
    """

    quality: QualityControl
    gain: tuple[float, tuple[float, float]] | None
    reason: str = ""
    share: float = 1.0

    @property
    def loss(self) -> bool:
        """Whether all of the change would surely be a loss."""
        return self.gain is not None and self.gain[1][1] < 0

    @property
    def verdict(self) -> str:
        """One of VERDICTS: DO_NOT where a check gives an alarm or no gain is possible, LOOK where a check failed."""
        if self.loss or any(check.alarm for check in self.quality.checks):
            return DO_NOT
        return USE if self.quality.passed else LOOK

    @property
    def message(self) -> str:
        """The gain as a sentence."""
        if self.gain is None:
            return f"no estimate of the gain: {self.reason}"
        best, (low, high) = self.gain
        words = f"estimated gain {best:.1f} dB in PSNR ({low:.1f} to {high:.1f})"
        applied = f"{100 * self.share:.0f} % of the change is applied"
        return f"{words}: a loss, so {applied}" if self.loss else words if self.share == 1 else f"{words}; {applied}"

    def to_dict(self) -> dict:
        """Numbers and sentences for JSON."""
        gain = {"verdict": self.verdict, "applied": self.share, "psnr_gain_db": self.gain and self.gain[0]}
        gain |= {"interval_db": self.gain[1]} if self.gain else {"reason": self.reason}
        return gain | self.quality.as_dict()


def assess(
    denoiser: Denoiser, image: np.ndarray, prediction: Prediction, valid: np.ndarray | None = None
) -> Assessment:
    """Assess the prediction of an image [H, W]; arguments as in Denoiser.predict."""
    noise_model, noise, unit = denoiser.predictor.noise_model, denoiser.noise, denoiser.unit
    seen = masked_image(*(x if x is None else orientation.turned(x, denoiser.turn) for x in (image, valid)), unit)
    noisy, denoised = prediction.noisy, prediction.denoised
    (low, high), margin = seen.ends, 3 * noise.sigma / unit  # near an end the noise is cut off
    seen = replace(seen, measured=seen.measured & ~prediction.restored)
    inside = seen.measured & (denoised > low + margin) & (denoised < high - margin)
    inside = inside if int(inside.sum()) >= FEWEST else seen.measured
    places = _places(inside) if inside.numel() > BLOCKS * BLOCK**2 else [...]
    wholes = noisy, denoised, inside, prediction.level, seen.measured
    *some, measured = (torch.cat([x[place] for place in places]) for x in wholes)
    there = LocalNoise(noise_model, some[3], prediction.correlation)
    residual = some[0] - denoiser.predictor.expected(some[1])  # where noise has a mean, without it
    about = {"variance": there.variance(some[1]), "valid": measured, "shown": varies(some[0])}
    few = denoiser.few_photons  # whose noise the network for texture has not seen
    texture = not_judged("photons are few") if few else check_texture(residual + some[1], some[1], **about)
    there = there.turned_back(denoiser.turn)
    residual, *some = (turned_back(x, denoiser.turn) for x in (residual, *some))
    quality = check_residual(residual + some[1], some[1], noise_model=there, valid=some[2], noise=noise, unit=unit)
    words = f"hot or dead pixels: {seen.hot}; they stay as they are"
    hot = [Check("hot pixels", seen.hot, noisy.numel(), True, words)] if seen.hot else []
    quality = QualityControl((*quality.checks, texture, *hot))
    if not texture.passed:
        return Assessment(quality, None, texture.verdict, applied_share(texture))
    error = math.log(noise.sigma_interval[1] / noise.sigma_interval[0]) / 2 / NORMAL_95
    if error >= 1 / NORMAL_95:
        # between constant areas structure alone may be left, which would be taken for noise
        if not is_judged(texture) and min(image.shape) >= SMALLEST:
            return Assessment(quality, None, "the noise level is not known: the image stays as it is", share=0.0)
        return Assessment(quality, None, "the noise level is not known")
    if not quality["stripes"].passed:
        return Assessment(quality, None, "the noise has stripes, which the noise model does not know")
    free, nearly = (
        [place for side in (PART, FREE) for place in _free(seen.measured, side=side, masked=masked)][:PARTS]
        for masked in (0.0, MOST_MASKED)
    )
    parts = free or nearly
    if not parts:
        return Assessment(quality, None, f"no block of {FREE} x {FREE} px is free of masked or clipped pixels")
    whole, strength = activity(denoised, prediction.noise)
    gaussian = noise_model.zero_mean_gaussian
    cells = [(..., *(slice(s.start // sure.BLOCK, s.stop // sure.BLOCK) for s in place[1:])) for place in parts]
    *gain, share = estimated_gain(
        residual_excess(residual, some[1], noise_model=there),
        variance=there.variance(some[1]),
        before=squared_noise(some[1], noise_model=there),
        valid=some[2],
        passing=torch.cat([(passing if gaussian else rehearsed)(denoiser.predictor, prediction, p) for p in parts]),
        activity=(torch.cat([whole[place].flatten() for place in cells]), whole.flatten(), strength.flatten()),
        level_error=error,
    )
    found = Assessment(quality, tuple(gain))
    if not found.loss:  # WHOLE was chosen where squares are free, and noise is Gaussian
        share = 1.0 if share >= WHOLE or not (free and gaussian) else (1 + share) / 2
    return replace(found, share=share)


def common_share(assessments: Sequence[Assessment]) -> float:
    """The share of the change of images that are treated alike: the mean, or the least where some would be a loss."""
    losses = [one.share for one in assessments if one.loss]
    return min(losses) if losses else float(np.mean([one.share for one in assessments] or [1.0]))


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
    return Assessment(QualityControl(checks), (best, (low, high)), share=common_share(assessments))


def _places(measured: Tensor) -> list[tuple]:
    """Cuts of up to BLOCKS squares, spread over the image, of those with most measured pixels."""
    places = _squares(measured, BLOCK)
    places = [place for place in places if float(measured[place].float().mean()) > 0.5] or places
    return spread(places, BLOCKS)


def _free(measured: Tensor, *, side: int, masked: float) -> list[tuple]:
    """Up to PARTS squares in which no larger share of the pixels is not measured, spread over the image."""
    free = [cut for cut in _squares(measured, side) if int((~measured[cut]).sum()) <= masked * measured[cut].numel()]
    return [free[round(i)] for i in np.linspace(0, len(free) - 1, min(PARTS, len(free)))]


def _squares(measured: Tensor, side: int) -> list[tuple]:
    """Cuts of whole squares side by side; where an image is shorter they are as short, and a rest is left out."""
    shape = [length - length % min(side, length) for length in measured.shape[2:]]
    return [(..., *place) for place in squares(shape, side=side)]
