"""Images inside the package: float32, 0 to 1, with their own range and unit beside them."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mptpn.atomic import write_atomically


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


def as_array(image: np.ndarray | Tensor) -> np.ndarray:
    """An array, a list or a tensor as an array of any shape; bfloat16, which NumPy does not have, becomes float32."""
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.float() if image.dtype == torch.bfloat16 else image
    try:
        return np.asarray(image)
    except ValueError:
        if not isinstance(image, list | tuple):
            raise
        raise ValueError("a list whose parts have different shapes is no image; give one array [H, W].") from None


def check_type(array: np.ndarray, *, name: str) -> None:
    """Refuses an array that holds neither integers nor floats."""
    if array.dtype == bool or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"{name}: pixels of type {array.dtype} are not gray levels; give integers or floats.")


def gray_array(
    image: np.ndarray | Tensor,
    *,
    name: str,
    valid: np.ndarray | None = None,
    smallest: int = 1,
    colour: Literal["refused", "kept", "luminance"] = "refused",
    remedy: str = "replace or crop",
) -> np.ndarray:
    """Pixels of one image that carry a picture and noise; refuses all others. Every image passes here.

    Args:
        image: [H, W]; where colour is not refused also [H, W, 3] or [H, W, 4], whose alpha is dropped.
        name: of the file or argument, for messages.
        valid: [H, W] bool; pixels where it is False may hold anything.
        smallest: least height and width, px.
        colour: "luminance" turns [H, W, 3] into [H, W], float64.
        remedy: for pixels that are NaN or infinite.
    Returns:
        [H, W], or [H, W, 3] where colour is kept, in the type of the input; bfloat16 becomes float32.
    Raises:
        ValueError: no integers or floats; another shape; empty, a single pixel or too small; a mask that does not fit
            or has no valid pixel; NaN or infinite; constant.
    """
    array = as_array(image)
    check_type(array, name=name)
    if colour == "refused" and array.ndim != 2:
        raise ValueError(f"{name}: shape {array.shape} is not an image [H, W]; give each slice or channel alone.")
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        several = "each of several alone" if colour == "kept" else "several images as a list"
        raise ValueError(f"{name}: shape {array.shape} is not an image; give [H, W] or [H, W, 3], and {several}.")
    _check_size(array.shape, name=name, smallest=smallest)
    if colour == "luminance" and array.ndim == 3:
        array = luminance(array)
    array = array[..., :3] if array.ndim == 3 else array
    inside = array if valid is None else array[_mask(valid, array.shape[:2], name)]
    lacks = "shows nothing" if colour == "kept" else "holds no noise"
    _check_pixels(inside, array.ndim, name=name, remedy=remedy, lacks=lacks)
    return array


def _check_size(shape: tuple[int, ...], *, name: str, smallest: int) -> None:
    height, width = shape[:2]
    more = f"give at least {max(2, smallest)} x {max(2, smallest)}"
    if min(height, width) == 0:
        raise ValueError(f"{name}: the image is empty, shape {shape}; {more} pixels.")
    if height * width == 1:
        raise ValueError(f"{name}: a 1x1 image has no neighbours to learn from; {more} pixels.")
    if min(height, width) < smallest:
        raise ValueError(f"{name}: {height} x {width} pixels are too few to tell noise from structure; {more}.")


def _mask(valid: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    valid = as_array(valid)
    if valid.shape != shape or valid.dtype != bool:
        raise ValueError(f"{name}: the mask is {valid.dtype} {valid.shape}; give bool {shape}.")
    if not valid.any():
        raise ValueError(f"{name}: no pixel is valid, the mask is bool and False everywhere; give True where one is.")
    return valid


def _check_pixels(inside: np.ndarray, rank: int, *, name: str, remedy: str, lacks: str) -> None:
    """inside: the valid pixels of an image of this rank; those of colour have the channels last.

    lacks: what is wrong with a constant image.
    """
    finite = np.isfinite(inside)
    if not finite.all():
        finite = finite if rank == 2 else finite.all(-1)
        raise ValueError(
            f"{name}: {int((~finite).sum())} of {finite.size} pixels are NaN or infinite; {remedy} them first."
        )
    axes = tuple(range(inside.ndim - rank + 2))
    low, high = inside.min(axes), inside.max(axes)
    if (low == high).all():
        value = ", ".join(f"{level:g}" for level in np.atleast_1d(low))
        raise ValueError(f"{name}: every pixel is {value}; a constant image {lacks}.")


def image_from_array(
    array: np.ndarray | Tensor,
    *,
    name: str,
    subject: str = "",
    value_range: tuple[float, float] | None = None,
    unit: str = "gray level",
) -> Image:
    """An array as an Image.

    Args:
        array: [H, W], [H, W, 3] or [H, W, 4] (alpha is dropped), integers or floats.
        name, subject, unit: see Image; an empty subject: the name.
        value_range: what becomes 0 and 1, in unit; None: 0 to 255 for 8-bit arrays, else smallest to largest value.
    Raises:
        ValueError: as gray_array, or a value_range that is not low < high.
    """
    array = gray_array(array, name=name, colour="kept")
    eight_bit = array.dtype == np.uint8
    array = array.astype(np.float64)
    low, high = value_range or ((0.0, 255.0) if eight_bit else (float(array.min()), float(array.max())))
    if not 0 < high - low < np.inf:
        raise ValueError(
            f"{name}: value_range ({low:g}, {high:g}) spans nothing that 0 and 1 can stand for; give finite low < high."
        )
    unit_pixels = ((array - low) / (high - low)).astype(np.float32).reshape(*array.shape[:2], -1)
    pixels = torch.from_numpy(unit_pixels).permute(2, 0, 1)[None].contiguous()
    return Image(name=name, subject=subject or name, pixels=pixels, value_range=(low, high), unit=unit)


def write_image(path: str | Path, image: Image) -> Path:
    """Writes an image in its own unit as float32, atomically; ValueError unless path ends in .npy, .tif or .tiff."""
    path, array = Path(path), image.array.astype(np.float32)
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
