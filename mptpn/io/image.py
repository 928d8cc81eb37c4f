"""The doors: images come in as float32 in [0, 1] with their own range beside them, and go out in that range again."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mptpn.atomic import write_atomically

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


def image_from_array(
    array: np.ndarray,
    *,
    name: str,
    subject: str = "",
    value_range: tuple[float, float] | None = None,
    unit: str = "gray level",
) -> Image:
    """An array becomes an Image; refuses what carries no picture.

    Args:
        array: [H, W], or [H, W, C] with C = 3 or 4 (alpha is dropped), any real number type.
        name: used in error messages.
        subject: empty: the name.
        value_range: what becomes 0 and 1, in the array's unit; None: the type's own range for 8-bit arrays, else the
            array's minimum and maximum.
        unit: unit of value_range.
    Raises:
        ValueError: empty, 1x1, constant, NaN or infinite pixels, a rank that is not 2 or 3, a value_range that is not
            low < high.
    """
    array = np.asarray(array)
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{name}: pixels of type {array.dtype} are not gray levels; give integers or floats.")
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = array[..., :3]
    elif array.ndim != 2:
        raise ValueError(f"{name}: shape {array.shape} is not an image; give [H, W] or [H, W, 3].")
    if min(array.shape[:2]) == 0:
        raise ValueError(
            f"{name}: the image is empty, shape {array.shape}; give at least {SMALLEST} x {SMALLEST} pixels."
        )
    if array.shape[0] * array.shape[1] == 1:
        raise ValueError(
            f"{name}: a 1x1 image has no neighbours to learn from; give at least {SMALLEST} x {SMALLEST} pixels."
        )
    eight_bit = array.dtype == np.uint8
    array = array.astype(np.float64)
    bad = int((~np.isfinite(array)).sum())
    if bad:
        raise ValueError(f"{name}: {bad} of {array.size} values are NaN or infinite; replace or crop them first.")
    if (array == array[0, 0]).all():
        raise ValueError(f"{name}: every pixel is {array[0, 0]}; a constant image has no noise to learn from.")
    low, high = value_range or ((0.0, 255.0) if eight_bit else (float(array.min()), float(array.max())))
    if not 0 < high - low < np.inf:
        raise ValueError(
            f"{name}: value_range ({low:g}, {high:g}) spans nothing that 0 and 1 can stand for; give finite low < high."
        )
    unit_pixels = (array - low) / (high - low)
    pixels = (
        torch.from_numpy(unit_pixels.astype(np.float32).reshape(*array.shape[:2], -1))
        .permute(2, 0, 1)[None]
        .contiguous()
    )
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
