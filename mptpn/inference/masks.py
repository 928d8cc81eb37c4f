"""Which pixels carry noise: padding, background and clipped ones are kept out of every estimate, and filled for
networks that see their neighbours.
"""

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import constant
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise.models import NoiseModel
from mptpn.tiling import squares

RUN = 49  # px that equal all their neighbours, connected: an area of at least 9 x 9 px of one value is padding
HELD = 8  # px at the smallest or largest value from which it clips, as in noise_level.counted
PIECE, PIECES = 512, 16  # px and number: of a larger image the noise is estimated in pieces spread over it


def padding(pixels: Tensor) -> Tensor:
    """Areas of at least 9 x 9 px of one and the same value (zeroed background, padding, saturation), [1, 1, H, W] bool;
    pixels [1, 1, H, W].
    """
    strips = range(0, pixels.shape[2], PIECE)  # a few rows at a time take little memory; a row more on either side
    parts = [
        constant(pixels[:, :, max(0, top - 1) : top + PIECE + 1])[:, :, min(top, 1) :][:, :, :PIECE] for top in strips
    ]
    core = torch.cat(parts, 2)[0, 0].numpy()
    if core.sum() < RUN:
        return torch.zeros_like(pixels, dtype=torch.bool)
    number, _ = ndimage.label(core, structure=np.ones((3, 3)))
    large = np.bincount(number.ravel()) >= RUN
    large[0] = False
    # neighbours of its core have its value too
    return torch.from_numpy(ndimage.binary_dilation(large[number], structure=np.ones((3, 3))))[None, None]


def clipped(pixels: Tensor, valid: Tensor) -> tuple[Tensor, tuple[float, float]]:
    """Valid pixels at an end of the range that at least 8 hold, [1, 1, H, W] bool, and these ends, infinite where
    nothing clips.
    """
    inside = select(pixels, valid)
    low, high = inside.min(), inside.max()
    ends = [
        float(end) if int((inside == end).sum()) >= HELD else default
        for end, default in ((low, -np.inf), (high, np.inf))
    ]
    return valid & ((pixels <= ends[0]) | (pixels >= ends[1])), (ends[0], ends[1])


def select(pixels: Tensor, mask: Tensor) -> np.ndarray:
    """The pixels of a mask in a row; PyTorch's own indexing would first list their places, 32 bytes a pixel."""
    return pixels.numpy()[mask.numpy()]


def mask_for_estimate(pixels: np.ndarray, counts: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """The image as noise_report wants it: what does not count lies at one value below all others, so that it is taken
    for clipped or constant there.

    Invalid pixels that lie scattered, where no square of 3 x 3 px is invalid, take the value of the nearest valid one:
    no window of the estimate would be without one of them, and each edge around them would pass for noise (5 % of such
    pixels: a level 1.7 times too high).

    Args:
        pixels, counts, valid: [H, W], with counts within valid; some pixel counts.
    """
    if counts.all():
        return pixels
    inside, scattered = pixels[counts], ~valid & ~ndimage.binary_opening(~valid, np.ones((3, 3)))
    out = np.where(counts, pixels, inside.min() - 0.05 * (inside.max() - inside.min()))
    if scattered.any():
        nearest = ndimage.distance_transform_edt(~valid, return_distances=False, return_indices=True)
        out[scattered] = out[tuple(nearest[:, scattered])]
    return out


def pieces(counts: Tensor) -> list[tuple]:
    """Cuts: the whole image, or pieces of a large one that hold enough pixels that count, [1, 1, H, W] bool; the report
    takes 500 bytes a pixel.
    """
    height, width = counts.shape[2:]
    if height * width <= (2 * PIECE) ** 2:
        return [(..., slice(None), slice(None))]
    cuts = [(..., *square) for square in squares((height, width), side=PIECE)]
    good = [cut for cut in cuts if int(counts[cut].sum()) >= 0.25 * counts[cut].numel()] or cuts
    return good[:: -(-len(good) // PIECES)]


def inpaint(
    pixels: Tensor, valid: Tensor, *, noise_model: NoiseModel | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Invalid pixels become the mean of the valid ones around them, over squares that double until they meet some; then
    they get noise of the noise model.

    So a network sees no edge where content ends, and noise everywhere: training on filled pixels teaches nothing wrong
    about the spread.
    """
    if bool(valid.all()):
        return pixels
    smooth = _filled(torch.where(valid, pixels, 0.0), valid.to(pixels))
    smooth = noise_model.sample(smooth, generator=generator) if noise_model is not None else smooth
    return torch.where(valid, pixels, smooth)


def _filled(total: Tensor, count: Tensor) -> Tensor:
    """Means total / count, from the next coarser scale where count is 0."""
    mean = total / count.clamp_min(1e-6)
    if bool((count > 0).all()) or max(total.shape[2:]) == 1:
        return mean
    coarse = _filled(*(F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=1) for x in (total, count)))
    up = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)[
        ..., : total.shape[2], : total.shape[3]
    ]
    return torch.where(count > 0, mean, up)


def bounding_box(valid: Tensor) -> tuple[slice, slice]:
    """Smallest rows and columns that hold all valid pixels."""
    return tuple(
        slice(int(found[0]), int(found[-1]) + 1) for found in (valid[0, 0].any(axis).nonzero()[:, 0] for axis in (1, 0))
    )


def masks_of(
    array: np.ndarray, valid: np.ndarray | None, unit: float
) -> tuple[Tensor, Tensor, Tensor, tuple[float, float]]:
    """[1, 1, H, W]: pixels in the inside unit; those restored as they were (invalid, or long runs of one value); those
    that count; the ends that clip.

    Pixels at an end of the range do not count, but are denoised: the dark of a clipped image would keep its zeros as
    pepper.
    """
    pixels = torch.from_numpy(
        np.divide(array, unit, dtype=np.float32 if array.itemsize < 4 else None).astype(np.float32, copy=False)
    )[None, None]
    restored = (
        torch.zeros_like(pixels, dtype=torch.bool) if valid is None else ~torch.from_numpy(np.array(valid))[None, None]
    )
    pixels = pixels.masked_fill_(restored, 0.0)  # NaN may stand there
    restored = restored | padding(pixels)
    if int((~restored).sum()) < SMALLEST**2:
        raise ValueError(
            f"only {int((~restored).sum())} pixels are neither masked nor part of a constant area; too few to tell their noise."
        )
    out, ends = clipped(pixels, ~restored)
    counts = ~restored & ~out
    return (
        (pixels, restored, counts, ends)
        if int(counts.sum()) >= SMALLEST**2
        else (pixels, restored, ~restored, (-math.inf, math.inf))
    )


def as_array(image: np.ndarray | Tensor) -> np.ndarray:
    """An array of an array, a list or a tensor, any shape; NumPy knows no bfloat16, which becomes float32."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.float() if image.dtype == torch.bfloat16 else image
    return np.asarray(image)


def gray_levels(image: np.ndarray | Tensor, name: str) -> np.ndarray:
    """An array of integers or floats, any shape; refuses all others."""
    array = as_array(image)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{name}: pixels of type {array.dtype} are not gray levels; give integers or floats.")
    return array


def checked(
    image: np.ndarray | Tensor, name: str, valid: np.ndarray | None = None, *, remedy: str = "replace, crop or mask"
) -> np.ndarray:
    """An array [H, W] that carries noise; refuses all others. remedy: for NaN."""
    array = gray_levels(image, name)
    if array.ndim != 2:
        raise ValueError(f"{name}: shape {array.shape} is not an image [H, W].")
    if min(array.shape) < SMALLEST:
        raise ValueError(
            f"{name}: {array.shape[0]} x {array.shape[1]} pixels are too few to tell noise from structure; give at least {SMALLEST} x {SMALLEST}."
        )
    if valid is not None and (
        np.asarray(valid).shape != array.shape or np.asarray(valid).dtype != bool or not np.any(valid)
    ):
        raise ValueError(
            f"{name}: the mask is {np.asarray(valid).dtype} {np.asarray(valid).shape}; give bool {array.shape} with some valid pixels."
        )
    inside = array if valid is None else array[np.asarray(valid)]
    if not np.isfinite(inside).all():
        raise ValueError(
            f"{name}: {int((~np.isfinite(inside)).sum())} of {inside.size} pixels are NaN or infinite; {remedy} them first."
        )
    if inside.min() == inside.max():
        raise ValueError(f"{name}: every pixel is {inside.flat[0]:g}; a constant image holds no noise.")
    return array
