"""Whether what was taken away is noise, or fine texture, which a noise model may fit as well."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.inference.quality_control import NOTHING, Check
from mptpn.networks.noise_share import SIDE, SMALLEST, pretrained_noise_share
from mptpn.tiling import spread

SQUARES = 16  # at most, spread over the image
SMALLER = (96, 64, SMALLEST)  # px, sides of the squares where masked pixels leave no larger ones
EMPTY = 9  # px, side of the surroundings of a pixel; counts of few photons have zeros in smaller ones
MOST_MASKED = 0.02  # of the pixels of such a square: what is masked has no residual
# share of the noise in the residual from which all of the change is applied, and up to which none is: chosen on 49
# clean images with noise of 0 to 2 gray levels, 36 with more, and the validation images of CT, OCT, MR and fluorescence
NOISE, TEXTURE = 0.75, 0.65
NOT_JUDGED = "texture: not judged, "


@torch.no_grad()
def check_texture(
    noisy: Tensor, denoised: Tensor, *, variance: Tensor, valid: Tensor, shown: Tensor | None = None
) -> Check:
    """How much of what was taken away is noise, by a network that has seen both; the value is that share, 0 to 1.

    Args:
        noisy, denoised: [B, 1, H, W], judged as one.
        variance: of the noise. valid: the pixels that count, bool. Both have the same shape.
        shown: of the noisy image, see varies; where there is nothing else, an empty background is judged too, though
            its change is no noise. None: all.
    Returns:
        passed without a judgement where no square of SMALLEST px is at hand, or nothing was taken away.
    """
    residual = torch.where(valid, noisy - denoised, 0.0)
    sigma = variance.clamp_min(1e-12 * float(variance.amax())).sqrt()
    found, power = [], []
    for place in (shown is not None and _places(valid & shown)) or _places(valid):
        relative = residual[place] / sigma[place]
        if float(relative.square().mean()) > NOTHING**2:
            found.append(pretrained_noise_share()(relative, denoised[place] / sigma[place]).sigmoid())
            power.append(residual[place].square().sum((1, 2, 3)))
    if not found:
        return not_judged("the image is too small or nothing was removed")
    power = torch.cat(power)
    share = float((torch.cat(found) * power).sum() / power.sum())
    if share >= NOISE:
        return Check("texture", share, NOISE, True, f"what was removed looks like noise ({100 * share:.0f} % of it)")
    kept = "the image stays as it is" if share <= TEXTURE else "part of the change is applied"
    verdict = f"only {100 * share:.0f} % of what would be removed looks like noise, the rest is fine texture: {kept}"
    return Check("texture", share, NOISE, False, verdict, share <= TEXTURE)


def not_judged(why: str) -> Check:
    """The check passed without a judgement."""
    return Check("texture", 1.0, NOISE, True, NOT_JUDGED + why)


def is_judged(check: Check) -> bool:
    """Whether the network has judged."""
    return not check.verdict.startswith(NOT_JUDGED)


def varies(noisy: Tensor) -> Tensor:
    """Where the surroundings of a pixel of [B, 1, H, W] are not constant, bool: not in an empty background."""
    highest, lowest = (F.max_pool2d(x, EMPTY, 1, EMPTY // 2) for x in (noisy, -noisy))
    return highest + lowest > 0


def applied_share(check: Check) -> float:
    """The share of the change that is applied: all from NOISE on, none up to TEXTURE, up to 0.3 in between."""
    return 1.0 if check.passed else max(0.0, (check.value - TEXTURE) / (1 - TEXTURE))


def _places(valid: Tensor) -> list[tuple]:
    """Cuts of squares that cover the image or are spread over it, of the largest side of which some are measured."""
    for side in (min(SIDE, *valid.shape[2:]), *SMALLER):
        if SMALLEST <= side <= min(valid.shape[2:]):
            places = [(..., *place) for place in _squares(valid.shape[2:], side)]
            places = [place for place in places if float((~valid[place]).float().mean()) <= MOST_MASKED]
            if places:
                return spread(places, max(1, SQUARES // len(valid)))
    return []


def _squares(shape: Sequence[int], side: int) -> list[tuple[slice, slice]]:
    """Squares over [H, W], px, that overlap where the sides are no multiples."""
    numbers = [-(-length // side) for length in shape]
    tops, lefts = (
        [round((length - side) * i / max(1, number - 1)) for i in range(number)]
        for length, number in zip(shape, numbers, strict=True)
    )
    return [(slice(top, top + side), slice(left, left + side)) for top in tops for left in lefts]
