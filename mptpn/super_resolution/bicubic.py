"""Bicubic resizing as MATLAB's imresize does it, antialiased: what every super-resolution test set was made with."""

import math
from functools import lru_cache

import torch
from torch import Tensor

BORDERS = ("symmetric", "replicate")
SCALES = (2, 3, 4)


def check_scale(scale: int) -> None:
    """Refuse a factor that is none of 2, 3 and 4 with a ValueError."""
    if scale not in SCALES:
        raise ValueError(f"scale {scale} is none of {SCALES[0]}, {SCALES[1]} and {SCALES[2]}; give one of these.")


def cubic(distance: Tensor) -> Tensor:
    """Cubic convolution kernel with a = -1/2 at a distance in samples (Keys 1981)."""
    d = distance.abs()
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _taps(length: int, size: int, scale: float, border: str, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Which samples make each of `size` new ones, [size, P], int64, and their weights, float64, of sum 1."""
    half, stretch = 2 / min(scale, 1.0), min(scale, 1.0)  # shrinking widens the kernel: antialiasing
    centre = (torch.arange(size, dtype=torch.float64, device=device) + 0.5) / scale - 0.5
    first = (centre - half).floor()
    position = first[:, None] + torch.arange(math.ceil(2 * half) + 2, device=device)
    weight = cubic((centre[:, None] - position) * stretch)
    weight = weight / weight.sum(1, keepdim=True)
    if border == "symmetric":  # ... 1 0 | 0 1 ... L-1 | L-1 L-2 ...
        position = position.long() % (2 * length)
        return torch.minimum(position, 2 * length - 1 - position), weight
    return position.long().clamp(0, length - 1), weight


@lru_cache(maxsize=256)  # of a few numbers; a training asks for the same at each step
def _used_taps(length: int, size: int, scale: float, border: str) -> slice:
    """From the first tap that any new sample uses to the last; worked out on the CPU, so that no GPU has to answer."""
    used = (_taps(length, size, scale, border, "cpu")[1].abs().amax(0) > 0).nonzero()[:, 0]
    return slice(int(used[0]), int(used[-1]) + 1)


def resize(image: Tensor, *, scale: float, border: str = "symmetric", eight_bit: bool = False) -> Tensor:
    """Bicubic resizing with antialiasing (MATLAB imresize, method "bicubic"), rows first; memory linear in pixels.

    Args:
        image: [B, C, H, W], floating point, any unit; 0..1 where eight_bit.
        scale: new over old size; the new size is ceil(scale * size), as in MATLAB.
        border: beyond the ends, "symmetric" (MATLAB since 2007; files of Set5) or "replicate" (older; files of Set14).
        eight_bit: round to 256 levels after the rows and after the columns, as MATLAB does with uint8 images.
    Returns:
        [B, C, ceil(scale H), ceil(scale W)], same unit and dtype; clipped and rounded only where eight_bit.
    Raises:
        ValueError: not [B, C, H, W] in floating point, empty, another border, or a scale not positive and finite.
    """
    if image.ndim != 4 or not image.is_floating_point() or 0 in image.shape:
        given = f"an image of shape {tuple(image.shape)} and type {image.dtype}"
        raise ValueError(f"{given} cannot be resized; give floats, [B, C, H, W], not empty.")
    if not 0 < scale < math.inf or border not in BORDERS:
        raise ValueError(f"scale {scale} must be positive and finite, border {border!r} one of {BORDERS}.")
    for dim in (2, 3):
        length, shape = image.shape[dim], [1, 1, 1, 1]
        shape[dim] = size = math.ceil(round(scale * length, 9))  # 9 digits: a third of 279 is 93, not 94
        position, weight = _taps(length, size, scale, border, image.device)
        weight, used = weight.to(image.dtype), _used_taps(length, size, scale, border)
        pairs = zip(position[:, used].unbind(1), weight[:, used].unbind(1), strict=True)
        image = sum(image.index_select(dim, index) * share.view(shape) for index, share in pairs)
        image = to_eight_bit(image) if eight_bit else image
    return image


def shrink(image: Tensor, *, scale: int, border: str = "symmetric") -> Tensor:
    """The low-resolution image in 8 bits, at most one level from the files of Set5 and Set14.

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
        size = f"{image.shape[2]} x {image.shape[3]} px"
        raise ValueError(f"{size} cannot be divided by {scale}; crop with crop_to_multiple first.")
    return resize(image, scale=1 / scale, border=border, eight_bit=True)


def to_eight_bit(image: Tensor) -> Tensor:
    """The nearest of 256 levels, 0..1 in and out; halves go up, as in MATLAB."""
    return (image.clamp(0, 1) * 255 + 0.5).floor() / 255


def as_bytes(image: Tensor) -> Tensor:
    """The image as bytes if all pixels are multiples of 1 / 255 in 0..1, else as it is."""
    levels = (image * 255).round()
    fits = 0 <= levels.min() and levels.max() <= 255 and (levels / 255 - image).abs().max() < 1e-6
    return levels.byte() if fits else image


def as_floats(image: Tensor) -> Tensor:
    """What `as_bytes` was given, 0..1."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def crop_to_multiple(image: Tensor, *, scale: int) -> Tensor:
    """The upper left part whose sides are multiples of scale, as super-resolution tests cut their images."""
    height, width = (side - side % scale for side in image.shape[2:])
    if not height or not width:
        raise ValueError(f"{image.shape[2]} x {image.shape[3]} px is less than one pixel at scale {scale}.")
    return image[:, :, :height, :width]
