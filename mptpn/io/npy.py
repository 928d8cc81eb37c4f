"""NumPy files as scans."""

import shutil
import zipfile
from pathlib import Path

import numpy as np

from mptpn.io.scan import Scan, Unreadable, name_axes


class Npy(Scan):
    """.npy of two to five axes, whose names are guessed where the user does not give them.

    It is memory-mapped, and written in C order.
    """

    endings = (".npy",)
    takes_axes = True

    def __init__(self, path: Path, axes: str | None = None):
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) == (1, 0) and np.lib.format.read_array_header_1_0(file)[2].hasobject:
                raise Unreadable(f"{path}: holds pickled objects, which are never loaded; save an array of numbers.")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        named = name_axes(path, array.shape, given=axes, alpha=array.dtype == np.uint8)
        super().__init__(path, axes=named, dtype=array.dtype)

    def stored(self, index: int) -> np.ndarray:
        return np.array(self.axes.take(np.load(self.path, mmap_mode="r", allow_pickle=False), index))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        with temporary.open("wb") as target:
            save_array(target, self.axes.arrange(planes))


def save_array(target, array: np.ndarray) -> None:
    """Writes an array of any layout in C order, version 1.0, in pieces: a memory map is not read whole."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(target, header)
    if array.flags.c_contiguous or array.ndim == 2:
        target.write(np.ascontiguousarray(array).data)
    else:
        for piece in array:
            target.write(np.ascontiguousarray(piece).data)


class Npz(Scan):
    """.npz that holds one image; its other arrays, masks and single numbers, are copied."""

    endings = (".npz",)
    takes_axes = True

    def __init__(self, path: Path, axes: str | None = None):
        with np.load(path, allow_pickle=False) as arrays, zipfile.ZipFile(path) as archive:
            heads = {name: _head(archive, name) for name in arrays.files}
            self.packed = archive.infolist()[0].compress_type == zipfile.ZIP_DEFLATED
        images = [name for name, (shape, dtype) in heads.items() if len(shape) > 1 and dtype.kind in "iuf"]
        if len(images) != 1:
            raise Unreadable(f"{path}: holds {len(images)} arrays that may be images; save each of them as .npy.")
        self.key, (shape, dtype) = images[0], heads[images[0]]
        self._array = None
        super().__init__(path, axes=name_axes(path, shape, given=axes, alpha=dtype == np.uint8), dtype=dtype)

    def stored(self, index: int) -> np.ndarray:
        if self._array is None:
            with np.load(self.path, allow_pickle=False) as arrays:
                self._array = arrays[self.key]
        return np.array(self.axes.take(self._array, index))

    def close(self) -> None:
        self._array = None
        super().close()

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        packing = zipfile.ZIP_DEFLATED if self.packed else zipfile.ZIP_STORED
        with zipfile.ZipFile(self.path) as source, zipfile.ZipFile(temporary, "w", packing) as target:
            for name in source.namelist():
                with source.open(name) as before, target.open(name, "w", force_zip64=True) as after:
                    if name.removesuffix(".npy") == self.key:
                        save_array(after, self.axes.arrange(planes))
                    else:
                        shutil.copyfileobj(before, after)


def _head(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array, without its values."""
    with archive.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return shape, dtype
