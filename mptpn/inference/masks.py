"""Which pixels carry noise: padding, background and clipped ones are kept out of every estimate and inpainted."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import constant
from mptpn.inference.hot_pixels import hot_pixels
from mptpn.networks.noise_level import HELD, SMALLEST
from mptpn.noise import NoiseModel, count_step
from mptpn.tiling import spread, squares

CORE = 49  # px that equal all their neighbours, connected: an area of at least 9 x 9 px of one value is padding
PIECE, PIECES = 512, 16  # px and number: of a larger image the noise is estimated in pieces spread over it
Cut = tuple  # of [1, 1, H, W]: (..., rows, columns)


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """An image inside the package and its masks, [1, 1, H, W].

    Attributes:
        pixels: float32 in the unit inside; masked ones are 0.
        restored: True where pixels stay as they are: masked ones, areas of one value, hot pixels.
        measured: True where noise is measured: neither restored nor clipped. A clipped pixel is denoised all the same:
            the dark of a clipped image would keep its zeros as pepper.
        ends: smallest and largest value that clip, infinite where nothing clips.
        counts: what one photon adds to an image of counted photons, whose zeros are counts like others; else 0.
        hot: number of hot or dead pixels.
    """

    pixels: Tensor
    restored: Tensor
    measured: Tensor
    ends: tuple[float, float]
    counts: float = 0.0
    hot: int = 0


def masked_image(array: np.ndarray, valid: np.ndarray | None, unit: float) -> MaskedImage:
    """The image [H, W] divided by `unit`, and its masks; valid: [H, W] bool or None.

    Raises:
        ValueError: fewer than 256 pixels are left to measure.
    """
    pixels, masked = unit_pixels(array, valid, unit)
    counts = count_step(pixels, ~masked)
    hot = hot_pixels(pixels) & ~masked
    restored = masked | constant_areas(pixels, counts=counts > 0) | hot
    left = int((~restored).sum())
    if left < SMALLEST**2:
        raise ValueError(
            f"only {left} pixels are neither masked nor part of a constant area; too few to tell their noise."
        )
    clips, ends = clipped(pixels, ~restored, counts=counts > 0)
    measured = ~restored & ~clips
    if int(measured.sum()) < SMALLEST**2:
        return MaskedImage(pixels, restored, ~restored, (-math.inf, math.inf), counts, int(hot.sum()))
    return MaskedImage(pixels, restored, measured, ends, counts, int(hot.sum()))


def unit_pixels(array: np.ndarray, valid: np.ndarray | None, unit: float) -> tuple[Tensor, Tensor]:
    """Pixels in the unit inside, float32, and which are masked, both [1, 1, H, W]; masked pixels become 0."""
    kind = np.float32 if array.itemsize < 4 else None
    pixels = np.divide(array, unit, dtype=kind, order="C").astype(np.float32, copy=False)
    pixels = torch.from_numpy(pixels)[None, None]
    if valid is None:
        return pixels, torch.zeros_like(pixels, dtype=torch.bool)
    masked = ~torch.from_numpy(np.array(valid, order="C"))[None, None]
    return pixels.masked_fill_(masked, 0.0), masked  # NaN may stand there


def constant_areas(pixels: Tensor, *, counts: bool = False) -> Tensor:
    """Areas of at least 9 x 9 px of one value (background, padding, saturation), [1, 1, H, W] bool.

    counts: whether 0 is a number of photons, so that an area of zeros is none of them.
    """
    strips = range(0, pixels.shape[2], PIECE)  # a few rows at a time take little memory; a row more on either side
    parts = [constant(pixels[:, :, max(0, top - 1) : top + PIECE + 1])[:, :, min(top, 1) :] for top in strips]
    core = torch.cat([part[:, :, :PIECE] for part in parts], 2)[0, 0].numpy()
    if core.sum() < CORE:
        return torch.zeros_like(pixels, dtype=torch.bool)
    from scipy import ndimage  # slow to import, and most images need none

    number, _ = ndimage.label(core, structure=np.ones((3, 3)))
    large = np.bincount(number.ravel()) >= CORE
    large[0] = False
    # neighbours of its core have its value too
    areas = torch.from_numpy(ndimage.binary_dilation(large[number], structure=np.ones((3, 3))))[None, None]
    return areas & (pixels != 0) if counts else areas


def clipped(pixels: Tensor, valid: Tensor, *, counts: bool = False) -> tuple[Tensor, tuple[float, float]]:
    """Valid pixels at an end of the range that at least 8 hold, [1, 1, H, W] bool, and these ends, else infinite.

    counts: whether the low end is a number of photons.
    """
    inside = select(pixels, valid)
    low, high = (float(end) if int((inside == end).sum()) >= HELD else None for end in (inside.min(), inside.max()))
    low, high = -np.inf if low is None or counts else low, np.inf if high is None else high
    return valid & ((pixels <= low) | (pixels >= high)), (low, high)


def select(pixels: Tensor, mask: Tensor) -> np.ndarray:
    """The pixels of a mask in a row; PyTorch's own indexing would first list their places, 32 bytes a pixel."""
    return pixels.numpy()[mask.numpy()]


def pieces(measured: Tensor) -> list[Cut]:
    """The whole image, or pieces of a large one with enough measured pixels, [1, 1, H, W] bool.

    An estimate takes 500 bytes a pixel.
    """
    height, width = measured.shape[2:]
    if height * width <= (2 * PIECE) ** 2:
        return [(..., slice(0, height), slice(0, width))]
    cuts = [(..., *square) for square in squares((height, width), side=PIECE)]
    good = [cut for cut in cuts if int(measured[cut].sum()) >= 0.25 * measured[cut].numel()] or cuts
    return spread(good, PIECES)


def inpaint(
    pixels: Tensor, valid: Tensor, *, noise_model: NoiseModel | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Invalid pixels become the mean of the valid ones around them, then get noise of the noise model.

    The mean is over squares that double until they meet valid pixels. So a network sees no edge where content ends, and
    noise everywhere: training on inpainted pixels teaches nothing wrong about the spread.
    """
    if bool(valid.all()):
        return pixels
    smooth = _means(torch.where(valid, pixels, 0.0), valid.to(pixels))
    smooth = noise_model.sample(smooth, generator=generator) if noise_model is not None else smooth
    return torch.where(valid, pixels, smooth)


def _means(total: Tensor, count: Tensor) -> Tensor:
    """Means total / count, from the next coarser scale where count is 0."""
    mean = total / count.clamp_min(1e-6)
    if bool((count > 0).all()) or max(total.shape[2:]) == 1:
        return mean
    coarse = _means(*(F.avg_pool2d(x, 2, ceil_mode=True, divisor_override=1) for x in (total, count)))
    finer = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(count > 0, mean, finer[..., : total.shape[2], : total.shape[3]])


def bounding_box(valid: Tensor) -> tuple[slice, slice]:
    """Smallest rows and columns that hold all valid pixels of [1, 1, H, W]."""
    rows, columns = (valid[0, 0].any(axis).nonzero()[:, 0] for axis in (1, 0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
