"""Arrays with named axes: NumPy, PyTorch and xarray."""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from mptpn.io.axes import REMEDY, Axes, guess_axes
from mptpn.io.image import as_array, check_type

LETTERS = {
    "T": ("t", "time", "frame"),
    "C": ("c", "channel", "channels", "ch", "band", "wavelength"),
    "Z": ("z", "plane", "slice", "depth"),
    "Y": ("y", "row", "rows", "height", "lat", "latitude"),
    "X": ("x", "col", "cols", "column", "columns", "width", "lon", "longitude"),
    "S": ("s", "sample", "samples", "rgb", "rgba"),
}
SPARE = "QPRIHVMABDEFGJKLNOUW"  # letters of dimensions of other names; their planes share a noise model
Wrap = Callable[[np.ndarray], Any]


def named_array(
    image: Any, *, axes: str | None = None, channel_axis: int | None = None
) -> tuple[np.ndarray, Axes, Wrap]:
    """An array, its axes, and what turns an array of the same shape into the type that was given.

    Args:
        image: array, tensor, or xarray.DataArray, whose dims name its axes.
        axes: one letter an axis, see Axes. channel_axis: the axis of the channels, the last two others are the image.
    Raises:
        ValueError: axes that do not fit, or more than one image without names.
    """
    check_unmasked(image)
    array, names = as_array(image), axes
    check_type(array, name="the image")
    if not isinstance(axes, str | None):
        raise TypeError(f"axes {axes!r}: is no text; {REMEDY}.")
    dims = getattr(image, "dims", None) if hasattr(image, "coords") else None
    if dims is not None:
        names = axes or _letters(dims)
    if axes is not None and channel_axis is not None:
        raise ValueError(f"axes {axes!r} and channel_axis {channel_axis} are both given; give one of them.")
    if channel_axis is not None:
        names = _around_channel(array.shape, channel_axis)
    if names:
        found = Axes(names.upper(), array.shape)
    elif array.ndim == 2 or (array.ndim == 3 and array.shape[-1] <= 4 < min(array.shape[:2])):
        found = guess_axes(array.shape, alpha=array.dtype == np.uint8)
    else:
        raise ValueError(
            f"the image: shape {array.shape} is not an image; give [H, W] or [H, W, 3], or name the axes of a stack "
            "(axes='ZYX'); where it is a list of images, give each of them alone."
        )
    return array, found, _copier(image) if dims is not None else np.asarray


def check_unmasked(image: Any) -> None:
    """Refuses a NumPy array that masks some pixels, for its mask would be lost."""
    if np.ma.is_masked(image):
        remedy = "give image.data, and to denoise or estimate_noise the mask as valid=~image.mask"
        raise ValueError(f"a masked array: its mask would be lost; {remedy}.")


def shown(value: Any) -> str:
    """A wrong value as a message shows it: on one line, short."""
    return f"{' '.join(repr(value).split()):.60}"


def check_number(value: Any, *, name: str, remedy: str) -> None:
    """Refuses what is no number, and text that reads like one."""
    try:
        if not isinstance(value, str | bytes):
            float(value)
            return
    except (TypeError, ValueError):
        pass
    raise TypeError(f"{name} {shown(value)}: is no number; {remedy}.")


def check_whole(value: Any, *, name: str, remedy: str) -> None:
    """Refuses what is no whole number, also 2.0."""
    try:
        operator.index(value)
    except TypeError:
        raise TypeError(f"{name} {shown(value)}: is no whole number; {remedy}.") from None


def check_axis(channel_axis: Any, shape: tuple[int, ...]) -> None:
    """Refuses what is no axis of an array of this shape."""
    check_whole(channel_axis, name="channel_axis", remedy="give the number of an axis")
    if not -len(shape) <= channel_axis < len(shape):
        raise ValueError(f"channel_axis {channel_axis} is no axis of a picture of shape {shape}; give one of its axes.")


def check_valid(valid: Any) -> None:
    """Refuses a mask that is not bool, or has no valid pixel; its shape is checked with the image's."""
    if valid is None:
        return
    mask = as_array(valid)
    if mask.dtype != bool:
        raise ValueError(f"valid: the mask is {mask.dtype}; give bool, True where a pixel is valid.")
    if not mask.any():
        raise ValueError("valid: no pixel is valid, the mask is False everywhere; give True where a pixel is valid.")


def _copier(image: Any) -> Wrap:
    return lambda array: image.copy(data=array)


def _letters(dims: tuple) -> str:
    spare = iter(SPARE)
    known = {name: letter for letter, names in LETTERS.items() for name in names}
    letters = [known.get(str(name).lower()) or next(spare) for name in dims]
    if not {"Y", "X"} <= set(letters):
        raise ValueError(f"dims {tuple(map(str, dims))} do not name the rows and columns of an image; {REMEDY}.")
    return "".join(letters)


def _around_channel(shape: tuple[int, ...], channel_axis: int) -> str:
    rank = len(shape)
    check_axis(channel_axis, shape)
    if not 3 <= rank <= len(SPARE):
        raise ValueError(f"channel_axis {channel_axis} is no axis of a picture of shape {shape}; give one of its axes.")
    names = list(("TZ"[max(0, 5 - rank) :] if rank <= 5 else SPARE[: rank - 3]) + "YX")
    names.insert(channel_axis % rank, "C")
    return "".join(names)
