"""The doors: images come in as float32 in [0, 1] with their own range beside them, and go out in that range again."""

import hashlib
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

SMALLEST = 2  # px; a single pixel carries no noise statistics


@dataclass(frozen=True)
class Image:
    """One image inside the package.

    Attributes:
        name: short name, unique within its set.
        subject: person, specimen or photograph it shows; splits are disjoint by subject.
        pixels: [1, C, H, W], float32, 0..1 over `value_range`.
        value_range: (low, high) in `unit`, what 0 and 1 stand for.
        unit: unit of value_range, as the source states it.
    """

    name: str
    subject: str
    pixels: Tensor
    value_range: tuple[float, float]
    unit: str = "gray level"

    def with_pixels(self, pixels: Tensor) -> "Image":
        """The same image with other pixels, [1, C, H, W], 0..1 over the same range."""
        return replace(self, pixels=pixels)

    @property
    def array(self) -> np.ndarray:
        """[H, W], or [H, W, C] where there are several channels, float64, in `unit`."""
        low, high = self.value_range
        array = self.pixels[0].permute(1, 2, 0).double().numpy() * (high - low) + low
        return array[..., 0] if array.shape[-1] == 1 else array

    @property
    def sha256(self) -> str:
        """SHA-256 of the pixels' bytes, hexadecimal."""
        return hashlib.sha256(self.pixels.contiguous().numpy().tobytes()).hexdigest()


def luminance(array: np.ndarray) -> np.ndarray:
    """Rec. 601 luma of an [H, W, 3] array, [H, W], same unit."""
    return array[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def image_from_array(array: np.ndarray, *, name: str, subject: str = "", value_range: tuple[float, float] | None = None, unit: str = "gray level") -> Image:
    """An array becomes an Image; refuses what carries no picture.

    Args:
        array: [H, W], or [H, W, C] with C = 3 or 4 (alpha is dropped), any real number type.
        name: used in error messages.
        subject: empty: the name.
        value_range: what becomes 0 and 1, in the array's unit; None: the type's own range for 8-bit arrays, else the array's minimum and maximum.
        unit: unit of value_range.
    Raises:
        ValueError: empty, 1x1, constant, NaN or infinite pixels, a rank that is not 2 or 3, a value_range that is not low < high.
    """
    array = np.asarray(array)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{name}: pixels of type {array.dtype} are not gray levels; give integers or floats.")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[..., :3]
    elif array.ndim != 2:
        raise ValueError(f"{name}: shape {array.shape} is not an image; give [H, W] or [H, W, 3].")
    if min(array.shape[:2]) == 0:
        raise ValueError(f"{name}: the image is empty, shape {array.shape}; give at least {SMALLEST} x {SMALLEST} pixels.")
    if array.shape[0] * array.shape[1] == 1:
        raise ValueError(f"{name}: a 1x1 image has no neighbours to learn from; give at least {SMALLEST} x {SMALLEST} pixels.")
    eight_bit = array.dtype == np.uint8
    array = array.astype(np.float64)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {array.size} values are NaN or infinite; replace or crop them first.")
    if (array == array[0, 0]).all():
        raise ValueError(f"{name}: every pixel is {array[0, 0]}; a constant image has no noise to learn from.")
    low, high = value_range or ((0.0, 255.0) if eight_bit else (float(array.min()), float(array.max())))
    if not 0 < high - low < np.inf:
        raise ValueError(f"{name}: value_range ({low:g}, {high:g}) spans nothing that 0 and 1 can stand for; give finite low < high.")
    unit_pixels = (array - low) / (high - low)
    pixels = torch.from_numpy(unit_pixels.astype(np.float32).reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None].contiguous()
    return Image(name=name, subject=subject or name, pixels=pixels, value_range=(low, high), unit=unit)


def write_image(path: str | Path, image: Image) -> Path:
    """Write an image in its own range and unit as float32 .npy or .tif; an existing file survives a failed write.

    Args:
        path: ends in .npy, .tif or .tiff.
        image: pixels [1, C, H, W], 0..1 over value_range.
    """
    path = Path(path)
    array = image.array.astype(np.float32)
    if path.suffix.lower() not in (".npy", ".tif", ".tiff"):
        raise ValueError(f"{path}: float pixels are written as .npy or .tif; choose one of these endings.")

    def write(temporary: Path) -> None:
        if path.suffix.lower() == ".npy":
            with temporary.open("wb") as file:  # a path that does not end in lower-case .npy would get a second ending
                np.save(file, array)
        else:
            import tifffile

            tifffile.imwrite(temporary, array, photometric="rgb" if array.ndim == 3 else "minisblack")

    return write_atomically(path, write)


def gaussian_taps(sigma: float, *, radius: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of a Gaussian of sigma px at -radius..radius, [2 radius + 1], sum 1."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=dtype) / sigma) ** 2)
    return taps / taps.sum()


def gaussian_blur(image: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W] with reflected borders; sigma in px, 0 leaves the image."""
    if sigma == 0:
        return image
    radius = min(math.ceil(3 * sigma), min(image.shape[2:]) - 1)
    taps = gaussian_taps(sigma, radius=radius, dtype=image.dtype).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, taps[..., None], groups=image.shape[1]), taps[:, :, None], groups=image.shape[1])


def turned_square(pixels: Tensor, *, top: int, left: int, side: int, turn: int) -> Tensor:
    """The square of [B, C, H, W] at (top, left), in one of the eight orientations of the square, turn 0 to 7; [B, C, side, side]."""
    cut = pixels[:, :, top : top + side, left : left + side].rot90(turn % 4, (2, 3))
    return (cut.flip(3) if turn > 3 else cut).contiguous()


def middle(image: Tensor, *, side: int) -> Tensor:
    """The middle square of at most side px of [B, C, H, W]; all of it for side 0."""
    (top, height), (left, width) = ((max(0, (n - side) // 2), min(n, side)) if side else (0, n) for n in image.shape[2:])
    return image[:, :, top : top + height, left : left + width].contiguous()


def write_atomically(path: str | Path, write) -> Path:
    """Call write(temporary path), then rename to path: a failed or killed write leaves an older file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
