"""OME-Zarr 0.4 and 0.5 as scans, by zarr (extra `formats`)."""

import math
import os
import shutil
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from mptpn.io.scan import Place, Scan, Unreadable, name_axes

INSTALL = "pip install zarr"
MARK = "mptpn"  # attribute of a result
LARGE = 2**22  # pixels of all planes, from which an image is read and written in parts
WHOLE = (slice(None), slice(None))
BLOCK = 2048  # px, about the side of what is held at once when a result is put together
LETTERS = {"time": "T", "channel": "C"}


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array, version 2 or 3."""
    return any(os.path.isfile(folder / name) for name in ("zarr.json", ".zgroup", ".zarray"))  # False: no right to look


class OmeZarr(Scan):
    """The first image of an OME-Zarr group; its reduced copies follow what was removed, all else is copied."""

    takes_axes = True

    def __init__(self, path: Path, axes: str | None = None):
        try:
            import zarr
        except ImportError:
            raise Unreadable(f"{path}: OME-Zarr needs a reader that is not installed; {INSTALL}.") from None
        self._zarr = zarr
        group = zarr.open(path, mode="r")
        attributes = dict(group.attrs)
        described = attributes.get("ome", attributes).get("multiscales") or []
        if not hasattr(group, "group_keys") or not described:
            raise Unreadable(
                f"{path}: is no OME-Zarr image, such as a plate or a plain array; give one image's folder."
            )
        self.levels = [level["path"] for level in described[0]["datasets"]]
        array = group[self.levels[0]]
        names = "".join(_letter(axis) for axis in described[0].get("axes", []))
        named = name_axes(path, array.shape, given=axes, known=names, alpha=array.dtype == np.uint8)
        super().__init__(path, axes=named, dtype=array.dtype)
        self.in_parts = named.samples is None and math.prod(array.shape) > LARGE
        self.chunk = self.dtype.itemsize * math.prod(getattr(array, "shards", None) or array.chunks)
        self._describe(described[0], attributes)
        further = sorted(set(group.group_keys()))
        words = [f"{len(described) - 1} further images"] * (len(described) > 1) + [", ".join(further)] * bool(further)
        self.note = f"Copied and not denoised: {', '.join(words)}." if words else ""

    def _describe(self, image: dict, attributes: dict) -> None:
        for change in image["datasets"][0].get("coordinateTransformations", []):
            for axis, size, name in zip(image.get("axes", []), change.get("scale", []), self.axes.names, strict=False):
                if name in "TZYX":
                    self.spacing[name] = float(size), axis.get("unit", "") if isinstance(axis, dict) else ""
        omero = attributes.get("ome", attributes).get("omero", {})
        names = [channel.get("label") for channel in omero.get("channels", [])]
        if len(names) == self.axes.channels and all(names):
            self.channel_names = tuple(map(str, names))

    def sources(self) -> list[Path]:
        return sorted(file for file in self.path.rglob("*") if file.is_file())

    def may_replace(self, target: Path) -> bool:
        return is_zarr(target) and MARK in self._zarr.open(target, mode="r").attrs

    def stored(self, index: int) -> np.ndarray:
        return self._taken(self._zarr.open(self.path, mode="r")[self.levels[0]], index, WHOLE)

    def part(self, index: int, place: Place) -> np.ndarray:
        return self._taken(self._image, index, place)

    @cached_property
    def _image(self):
        return self._zarr.open(self.path, mode="r")[self.levels[0]]

    def _taken(self, level, index: int, place: Place) -> np.ndarray:
        """Rows and columns of a plane of a level, [H, W] or [H, W, samples]."""
        found = np.asarray(level[self._at(index, place)])
        found = found if self.axes.samples is None else np.moveaxis(found, self._among_sides, -1)
        return found.astype(self.dtype, copy=False)

    def _at(self, index: int, place: Place) -> tuple[int | slice, ...]:
        found = list(self.axes.place(index))
        for side, span in zip(self.axes.sides, place, strict=True):
            found[side] = span
        return tuple(found)

    @property
    def _among_sides(self) -> int:
        """Place of the axis of samples in a plane."""
        return sum(side < self.axes.samples for side in self.axes.sides)

    def _arranged(self, pixels: np.ndarray) -> np.ndarray:
        """The inverse of what _taken does to the axes."""
        return pixels if self.axes.samples is None else np.moveaxis(pixels, -1, self._among_sides)

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        self.assemble_parts(temporary, lambda index, place: planes[index][place], note=note)

    def assemble_parts(self, temporary: Path, read: Callable[[int, Place], np.ndarray], *, note: str) -> None:
        shutil.copytree(self.path, temporary, dirs_exist_ok=True)
        group = self._zarr.open(temporary, mode="r+")
        first, *reduced = [group[name] for name in self.levels]
        chunks = getattr(first, "shards", None) or first.chunks
        steps = [chunks[side] * max(1, BLOCK // chunks[side]) for side in self.axes.sides]
        for index in range(self.slices):
            for place in _blocks(self.shape, steps):
                new = read(index, place)
                if not np.array_equal(self.part(index, place), new, equal_nan=new.dtype.kind == "f"):
                    first[self._at(index, place)] = self._arranged(new)
            for level in reduced:
                self._follow(level, index, read)
        group.attrs[MARK] = f"denoised {note}"

    def _follow(self, level, index: int, read: Callable[[int, Place], np.ndarray]) -> None:
        """Adds the mean change of one plane to a reduced copy; where planes are reduced together too, its share."""
        before, share = list(self.axes.place(index)), 1.0
        for i in self.axes.others:
            factor = self.axes.shape[i] / level.shape[i]
            before[i], share = min(int(before[i] / factor), level.shape[i] - 1), share / factor
        sides = [level.shape[side] for side in self.axes.sides]
        steps = [max(1, BLOCK * small // large) for small, large in zip(sides, self.shape, strict=False)]
        for place in _blocks(sides, steps):
            spans = tuple(map(_below, place, self.shape, sides))
            with np.errstate(invalid="ignore"):
                change = np.nan_to_num(read(index, spans).astype(np.float64) - self.part(index, spans))
            if not change.any():
                continue
            for axis, (span, large, small) in enumerate(zip(place, self.shape, sides, strict=False)):
                change = np.moveaxis(_means(np.moveaxis(change, axis, 0), span, large / small), 0, axis)
            for side, span in zip(self.axes.sides, place, strict=True):
                before[side] = span
            old = np.asarray(level[tuple(before)])
            new = old + share * self._arranged(change)
            if old.dtype.kind != "f":
                limits = np.iinfo(old.dtype)
                new = np.clip(np.rint(new), limits.min, limits.max)
            level[tuple(before)] = new.astype(old.dtype)


def _blocks(shape: tuple[int, ...], steps: list[int]) -> Iterator[Place]:
    for top in range(0, shape[0], steps[0]):
        for left in range(0, shape[1], steps[1]):
            yield slice(top, min(shape[0], top + steps[0])), slice(left, min(shape[1], left + steps[1]))


def _below(span: slice, large: int, small: int) -> slice:
    """Which of `large` pixels lie below a span of `small` ones along an axis."""
    return slice(span.start * large // small, -(-span.stop * large // small))


def _means(pixels: np.ndarray, span: slice, factor: float) -> np.ndarray:
    """Means along the first axis of what lies _below a span, as skimage's resize_local_mean of the whole."""
    count = span.stop - span.start
    if len(pixels) == count * factor:
        return pixels.reshape(count, -1, *pixels.shape[1:]).mean(1)
    edges = np.arange(span.start, span.stop + 1) * factor
    own = int(edges[0]) + np.arange(len(pixels))
    shared = np.minimum(edges[1:, None], own + 1) - np.maximum(edges[:-1, None], own)
    weights = np.maximum(shared, 0)
    return np.tensordot(weights / weights.sum(1, keepdims=True), pixels, 1)


def _letter(axis: dict | str) -> str:
    """One letter of an axis as the metadata name it."""
    if isinstance(axis, str):
        return axis[:1].upper()
    return LETTERS.get(axis.get("type", ""), str(axis.get("name", "?"))[:1].upper())
