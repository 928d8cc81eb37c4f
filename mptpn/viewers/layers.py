"""napari's layers: the region of one that is looked at, where results belong, and files that keep the pixel size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from mptpn.io.array import LETTERS, SPARE
from mptpn.viewers.session import Region, check_room

if TYPE_CHECKING:
    from napari.components import Dims
    from napari.layers import Image, Layer

VISIBLE, SLICE, WHOLE = PARTS = ("visible part", "current slice", "whole layer")


@dataclass(frozen=True)
class Place:
    """Where a region lies in its layer.

    Attributes:
        start: of the region, pixels of the full resolution, an axis each.
        letters: of the axes, colours last.
    """

    start: tuple[int, ...]
    letters: str

    def of_result(self, layer: Image) -> dict[str, Any]:
        """What a layer of results takes over from its source, so that it lies on it."""
        names = ("scale", "rotate", "shear", "affine", "units", "axis_labels")
        kept = {name: getattr(layer, name) for name in names}
        return kept | {"translate": layer.affine.inverse(_world(layer, self.start))}


def read_region(layer: Layer, dims: Dims, *, part: str) -> tuple[Region, Place]:
    """The part of a layer that is looked at, read into memory: nothing else of a lazy layer is read.

    Args:
        part: one of PARTS; of a layer with several resolutions the full one is read.
    Raises:
        ValueError: no image, nothing to see, or too much; one sentence.
    """
    _check(layer)
    data = layer.data[0] if layer.multiscale else layer.data
    if part == WHOLE and not isinstance(data, np.ndarray):
        raise ValueError(f"{layer.name}: is read piece by piece; choose {VISIBLE} or {SLICE}.")
    plane = _plane(layer, dims)
    spans = [slice(0, side) for side in data.shape[: layer.ndim]]
    if part != WHOLE:
        spans = _of_slice(layer, dims, spans, plane)
    if part == VISIBLE:
        spans = _visible(layer, spans, plane)
    shape = [span.stop - span.start for span in spans]
    check_room(math.prod(shape) * (data.shape[-1] if layer.rgb else 1), name=layer.name)
    array = np.asarray(data[tuple(spans)])
    others = [f"{span.start}" for axis, span in enumerate(spans) if axis not in plane and part != WHOLE]
    place = Place(tuple(span.start for span in spans), _letters(layer, plane))
    return Region(array, place.letters, f"{layer.name}{', slice ' * bool(others)}{' '.join(others)}"), place


def _check(layer: Layer) -> None:
    kind = type(layer).__name__.lower()
    if kind != "image":
        raise ValueError(f"{layer.name}: is a {kind} layer; choose an image layer.")
    if layer.dtype.kind not in "iuf":
        what = {"c": "complex numbers", "b": "True and False"}.get(layer.dtype.kind, str(layer.dtype))
        raise ValueError(f"{layer.name}: holds {what}; choose a layer of gray levels or colours.")
    shape = layer.data.shape
    if 0 in shape or layer.ndim < 2:
        raise ValueError(f"{layer.name}: shape {tuple(shape)} is no image; choose a layer with pixels.")


def _plane(layer: Image, dims: Dims) -> tuple[int, int]:
    """The two axes of the layer that are seen as height and width."""
    first, second = (axis - (dims.ndim - layer.ndim) for axis in dims.displayed[-2:])
    if min(first, second) < 0:
        raise ValueError(f"{layer.name}: this view does not show it as a plane; roll the axes back.")
    return first, second


def _of_slice(layer: Image, dims: Dims, spans: list[slice], plane: tuple[int, int]) -> list[slice]:
    """One index along every axis but those of the plane."""
    there = np.rint(layer.world_to_data(dims.point)).astype(int)
    found = list(spans)
    for axis, (index, span) in enumerate(zip(there, spans, strict=True)):
        if axis in plane:
            continue
        if not span.start <= index < span.stop:
            raise ValueError(f"{layer.name}: has no slice {index} of {span.stop}; move the slider over the layer.")
        found[axis] = slice(int(index), int(index) + 1)
    return found


def _visible(layer: Image, spans: list[slice], plane: tuple[int, int]) -> list[slice]:
    found = list(spans)
    for axis in plane:
        factor = layer.downsample_factors[layer.data_level][axis] if layer.multiscale else 1.0
        first, last = (float(corner[axis]) for corner in layer.corner_pixels)
        start, stop = math.floor(first * factor), math.ceil((last + 1) * factor)
        start, stop = max(spans[axis].start, start), min(spans[axis].stop, stop)
        if stop - start < 1:
            raise ValueError(f"{layer.name}: nothing of it is in view; move it into the view.")
        found[axis] = slice(start, stop)
    return found


def _letters(layer: Image, plane: tuple[int, int]) -> str:
    """A letter for each axis of the data: channels have a noise model each, other slices share one."""
    known = {name: letter for letter in "TCZ" for name in LETTERS[letter]}
    spare, sides, letters = iter(SPARE), iter("YX"), []
    for axis, label in enumerate(layer.axis_labels):
        letter = next(sides) if axis in plane else known.get(str(label).lower(), "")
        letters.append(letter if letter and letter not in letters else next(spare))
    return "".join(letters) + "S" * bool(layer.rgb)


def _world(layer: Image, start: tuple[int, ...]) -> np.ndarray:
    return np.asarray(layer.data_to_world(start))


def write_image(path: str, data: Any, attributes: dict) -> list[str]:
    """Write an image layer as OME-TIFF with its pixel size, unit and name; napari's own writer drops them.

    Args:
        path: ends in .tif or .tiff. attributes: of the layer, as napari gives them.
    Returns:
        The path, as npe2 wants it.
    """
    array = np.asarray(data[0] if attributes.get("multiscale") else data)
    rank = array.ndim - bool(attributes.get("rgb"))
    labels = [str(label).upper()[:1] for label in attributes.get("axis_labels") or ()][:rank]
    axes = "".join(labels) if len(set(labels)) == rank and labels[-2:] == ["Y", "X"] else "QTCZYX"[-rank:]
    metadata = {"axes": axes + "S" * bool(attributes.get("rgb")), "Name": attributes.get("name", Path(path).stem)}
    scale, units = attributes.get("scale"), attributes.get("units") or ()
    for axis, letter in enumerate(axes):
        if letter in "ZYX" and scale is not None:
            size, unit = micrometres(float(scale[axis]), units[axis] if axis < len(units) else "pixel")
            metadata |= {f"PhysicalSize{letter}": size, f"PhysicalSize{letter}Unit": unit}
    tifffile.imwrite(path, array, ome=True, metadata=metadata, photometric="rgb" if attributes.get("rgb") else None)
    return [path]


def micrometres(size: float, unit: Any) -> tuple[float, str]:
    """A length in µm and its unit, or what is no length in pixels."""
    import pint

    unit = pint.application_registry.Unit(str(unit))
    if unit.dimensionality != {"[length]": 1}:
        return size, "pixel"
    return float(pint.application_registry.Quantity(size, unit).to("micrometer").magnitude), "µm"
