"""Hot and dead pixels, alone or few together: values far from all around them, which no noise model explains."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class _Rule:
    """What is hot: further from the median of 24 pixels around than both of two limits.

    Attributes:
        ring: whether the 24 are the border of 7 x 7 px, else all of 5 x 5 px but the middle.
        far: standard deviations of the noise, at the mean of the 24 and the pixel itself.
        among: times the fourth largest deviation of the 24, up to three of which may be hot too.
        most: pixels of a group of hot ones that touch; a larger group is structure. 0: any.
    """

    ring: bool
    far: float
    among: float
    most: int

    @property
    def reach(self) -> int:
        """px, of the 24 around."""
        return 3 if self.ring else 2


# single ones, and such groups as a cosmic ray or a defect leaves, which the networks stand up to 100 sigma
RULES = (_Rule(ring=False, far=12.0, among=12.0, most=0), _Rule(ring=True, far=100.0, among=60.0, most=8))
STEP = 0.71  # median of the second smallest difference to the four next pixels, in sigmas of white Gaussian noise
STANDS_OUT = 3.0  # that difference over its mean around: at hot pixels it is larger, and no other one is looked at


def hot_pixels(pixels: Tensor, *, sigma: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Which of [1, 1, H, W] are hot or dead, bool.

    Only what lies within 16 px decides, so that tiles with a halo agree.

    Args:
        sigma: standard deviation of the noise at each of many intensities, [N]; None: it is not known yet, and one
            number for all is guessed from the whole image.
    """
    found = torch.zeros_like(pixels, dtype=torch.bool)
    rules = [rule for rule in RULES if min(pixels.shape[2:]) > 2 * rule.reach]
    if not rules:
        return found
    near = _steps(pixels, 1)
    rough = near[near > 0].median() / STEP if sigma is None else None
    for rule in rules:
        steps = _steps(pixels, rule.reach) if rule.ring else near
        found |= _hot(pixels, steps, rule, sigma or rough.expand_as)
    return found


def _hot(pixels: Tensor, steps: Tensor, rule: _Rule, sigma: Callable[[Tensor], Tensor]) -> Tensor:
    found = torch.zeros_like(pixels, dtype=torch.bool)
    side = 2 * rule.reach + 1
    others = F.avg_pool2d(steps, side, 1, rule.reach, count_include_pad=False) * side**2 - steps
    at = (steps * (side**2 - 1) > STANDS_OUT * others).nonzero(as_tuple=True)
    if not len(at[2]):
        return found
    own, around = pixels[at], _around(pixels, at, rule)
    median = around.median(1).values
    fourth = (around - median[:, None]).abs().kthvalue(around.shape[1] - 3, 1).values
    least = sigma((around.sum(1) + own) / (around.shape[1] + 1))
    limit = torch.maximum(rule.far * least, rule.among * fourth)
    found[at] = ((own - median).abs() > limit) & (steps[at] > limit / 2)  # a pixel of a line is near two others
    return _small_groups(found, rule.most) if rule.most else found


def _around(pixels: Tensor, at: tuple[Tensor, ...], rule: _Rule) -> Tensor:
    """The 24 pixels around each of N, [N, 24]."""
    reach, side = rule.reach, 2 * rule.reach + 1
    window = torch.ones(side, side, dtype=torch.bool)
    inner = slice(1, -1) if rule.ring else slice(reach, reach + 1)
    window[inner, inner] = False
    wide = F.pad(pixels, (reach,) * 4, mode="reflect")[0, 0]
    return wide.unfold(0, side, 1).unfold(1, side, 1)[at[2:]][:, window]


def _steps(pixels: Tensor, reach: int) -> Tensor:
    """The second smallest difference to four pixels, up, down, left and right: one of the four may be hot too."""
    wide = F.pad(pixels, (reach,) * 4, mode="reflect")
    inner = slice(reach, -reach)
    up, down = ((pixels - wide[..., rows, inner]).abs() for rows in (slice(0, -2 * reach), slice(2 * reach, None)))
    left, right = ((pixels - wide[..., inner, cols]).abs() for cols in (slice(0, -2 * reach), slice(2 * reach, None)))
    second = torch.maximum(torch.minimum(up, down), torch.minimum(left, right))
    return torch.minimum(second, torch.minimum(torch.maximum(up, down), torch.maximum(left, right)))


def _small_groups(found: Tensor, most: int) -> Tensor:
    if not bool(found.any()):
        return found
    from scipy import ndimage  # slow to import, and most images need none

    number, _ = ndimage.label(found[0, 0].numpy(), structure=np.ones((3, 3)))
    small = np.bincount(number.ravel()) <= most
    small[0] = False
    return torch.from_numpy(small[number])[None, None]
