"""Bicubic resizing as MATLAB's imresize does it, antialiased when it shrinks: what every super-resolution test set was
made with.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

BORDERS = ("symmetric", "replicate")
SCALES = (2, 3, 4)


def check_scale(scale: int) -> None:
    """The factors that super-resolution knows.

    Raises:
        ValueError: another one.
    """
    if scale not in SCALES:
        raise ValueError(f"scale {scale} is none of {SCALES[0]}, {SCALES[1]} and {SCALES[2]}; give one of these.")


def cubic(distance: Tensor) -> Tensor:
    """Cubic convolution kernel with a = -1/2 at a distance in samples (Keys 1981)."""
    d = distance.abs()
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def taps(
    length: int, *, size: int, scale: float, border: str = "symmetric", device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Which samples make each new sample, and their weights, as MATLAB's imresize chooses them: pixel centres, weights
    of sum 1.

    Args:
        length: samples there are.
        size: samples wanted.
        scale: size over length before rounding; below 1 the kernel is widened by 1 / scale (antialiasing).
        border: see `resize`.
        device: where they are made; on a GPU nothing is read back from it.
    Returns:
        Positions [size, P], int64, and weights [size, P], float64.
    """
    used = _used_taps(length, size, scale, border)
    position, weight = _all_taps(length, size, scale, border, device)
    return position[:, used], weight[:, used]


@lru_cache(maxsize=256)  # of a few numbers; a training asks for the same at each step
def _used_taps(length: int, size: int, scale: float, border: str) -> slice:
    """From the first tap that any new sample uses to the last."""
    used = (_all_taps(length, size, scale, border, "cpu")[1].abs().amax(0) > 0).nonzero()[:, 0]
    return slice(int(used[0]), int(used[-1]) + 1)


def _all_taps(length: int, size: int, scale: float, border: str, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The same with taps that no new sample uses."""
    stretch = min(scale, 1.0)
    half = 2 / stretch
    centre = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) / scale - 0.5
    first = (centre - half).floor()
    position = first[:, None] + torch.arange(math.ceil(2 * half) + 2, device=device)
    weight = cubic((centre[:, None] - position) * stretch)
    weight = weight / weight.sum(1, keepdim=True)
    if border == "symmetric":  # ... 1 0 | 0 1 ... L-1 | L-1 L-2 ...
        position = position.long() % (2 * length)
        position = torch.minimum(position, 2 * length - 1 - position)
    else:
        position = position.long().clamp(0, length - 1)
    return position, weight


def resize(image: Tensor, *, scale: float, border: str = "symmetric", eight_bit: bool = False) -> Tensor:
    """Bicubic resizing with antialiasing (MATLAB imresize, method "bicubic"); rows first, then columns. Memory is
    linear in pixels.

    Args:
        image: [B, C, H, W], floating point, any unit; 0..1 where eight_bit.
        scale: new over old size; the new size is ceil(scale * size), as in MATLAB.
        border: what lies beyond the ends: "symmetric" (MATLAB since 2007; the files of Set5) or "replicate" (older; the
            files of Set14).
        eight_bit: round to 256 levels after the rows and again after the columns, as MATLAB does with uint8 images.
    Returns:
        [B, C, ceil(scale H), ceil(scale W)], same unit and dtype; clipped and rounded only where eight_bit.
    Raises:
        ValueError: not [B, C, H, W] in floating point, empty, another border, or a scale that is not positive and
            finite.
    """
    if image.ndim != 4 or not image.is_floating_point() or 0 in image.shape:
        raise ValueError(
            f"an image of shape {tuple(image.shape)} and type {image.dtype} cannot be resized; give floats, [B, C, H, W], not empty."
        )
    if not 0 < scale < math.inf or border not in BORDERS:
        raise ValueError(f"scale {scale} must be positive and finite, border {border!r} one of {BORDERS}.")
    for dim in (2, 3):
        length, shape = image.shape[dim], [1, 1, 1, 1]
        size = math.ceil(round(scale * length, 9))  # 9 digits: a third of 279 is 93, not 94
        position, weight = taps(length, size=size, scale=scale, border=border, device=image.device)
        weight = weight.to(image.dtype)
        shape[dim] = -1
        image = sum(
            image.index_select(dim, position[:, k]) * weight[:, k].view(shape) for k in range(position.shape[1])
        )
        image = to_eight_bit(image) if eight_bit else image
    return image


def shrink(image: Tensor, *, scale: int, border: str = "symmetric") -> Tensor:
    """The low-resolution image of a high-resolution one, in 8 bits, as the files of Set5 and Set14 were made; at most
    one level from them.

    Args:
        image: [B, C, H, W], 0..1; H and W are multiples of scale, see `crop_to_multiple`.
        scale: 2, 3 or 4.
        border: see `resize`.
    Returns:
        [B, C, H / scale, W / scale], multiples of 1 / 255 in 0..1.
    Raises:
        ValueError: another scale, or a side that scale does not divide.
    """
    check_scale(scale)
    if image.shape[2] % scale or image.shape[3] % scale:
        raise ValueError(
            f"{image.shape[2]} x {image.shape[3]} px cannot be divided by {scale}; crop with crop_to_multiple first."
        )
    return resize(image, scale=1 / scale, border=border, eight_bit=True)


def to_eight_bit(image: Tensor) -> Tensor:
    """The nearest of 256 levels, 0..1 in and out; halves go up, as in MATLAB."""
    return (image.clamp(0, 1) * 255 + 0.5).floor() / 255


def as_bytes(image: Tensor) -> Tensor:
    """The image as bytes if 8 bits hold it (all pixels multiples of 1 / 255 in 0..1), else as it is: a quarter of the
    memory for most files.
    """
    levels = (image * 255).round()
    return (
        levels.byte()
        if 0 <= levels.min() and levels.max() <= 255 and (levels / 255 - image).abs().max() < 1e-6
        else image
    )


def as_floats(image: Tensor) -> Tensor:
    """What `as_bytes` was given, 0..1."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def crop_to_multiple(image: Tensor, *, scale: int) -> Tensor:
    """The upper left part whose sides are multiples of scale, [B, C, H - H % scale, W - W % scale]; the usual cut
    before super-resolution tests.
    """
    height, width = (side - side % scale for side in image.shape[2:])
    if not height or not width:
        raise ValueError(f"{image.shape[2]} x {image.shape[3]} px is less than one pixel at scale {scale}.")
    return image[:, :, :height, :width]
