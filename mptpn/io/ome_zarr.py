"""OME-Zarr 0.4 and 0.5 as scans, by zarr (extra `formats`)."""

import shutil
from pathlib import Path

import numpy as np
from skimage.transform import resize_local_mean

from mptpn.io.axes import Axes
from mptpn.io.scan import Scan, Unreadable, name_axes

INSTALL = "pip install zarr"
MARK = "mptpn"  # attribute of a result
LETTERS = {"time": "T", "channel": "C"}


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array, version 2 or 3."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


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
        array = self._zarr.open(self.path, mode="r")[self.levels[0]]
        plane = _plane_axes(self.axes)
        return np.asarray(plane.take(array[self.axes.place(index)], 0)).astype(self.dtype, copy=False)

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        shutil.copytree(self.path, temporary, dirs_exist_ok=True)
        group, plane = self._zarr.open(temporary, mode="r+"), _plane_axes(self.axes)
        levels = [group[name] for name in self.levels]
        for index in range(self.slices):
            place = self.axes.place(index)
            new = plane.arrange(planes[index : index + 1])
            old = np.asarray(levels[0][place])
            if np.array_equal(old, new, equal_nan=new.dtype.kind == "f"):
                continue
            levels[0][place] = new
            for level in levels[1:]:
                self._follow(level, index, old, new)
        group.attrs[MARK] = f"denoised {note}"

    def _follow(self, level, index: int, before: np.ndarray, after: np.ndarray) -> None:
        """Adds the mean change of one plane to a reduced copy; where planes are reduced together too, its share."""
        place, share = list(self.axes.place(index)), 1.0
        for i in self.axes.others:
            factor = self.axes.shape[i] / level.shape[i]
            place[i], share = min(int(place[i] / factor), level.shape[i] - 1), share / factor
        old = np.asarray(level[tuple(place)])
        with np.errstate(invalid="ignore"):
            change = np.nan_to_num(after.astype(np.float64) - before)
        new = old + share * resize_local_mean(change, old.shape, preserve_range=True)
        if old.dtype.kind != "f":
            limits = np.iinfo(old.dtype)
            new = np.clip(np.rint(new), limits.min, limits.max)
        level[tuple(place)] = new.astype(old.dtype)


def _letter(axis: dict | str) -> str:
    """One letter of an axis as the metadata name it."""
    if isinstance(axis, str):
        return axis[:1].upper()
    return LETTERS.get(axis.get("type", ""), str(axis.get("name", "?"))[:1].upper())


def _plane_axes(axes: Axes) -> Axes:
    """Those of one plane."""
    kept = [i for i in range(len(axes.names)) if i not in axes.others]
    return Axes("".join(axes.names[i] for i in kept), tuple(axes.shape[i] for i in kept))
