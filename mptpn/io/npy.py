"""NumPy files as scans."""

import shutil
from pathlib import Path

import numpy as np

from mptpn.io.scan import Scan, Unreadable


class Npy(Scan):
    """.npy of [H, W], [N, H, W], [H, W, C] or [N, H, W, C]; a last axis of 3 or 4 is colour.

    It is memory-mapped, and written in C order.
    """

    endings = (".npy",)

    def __init__(self, path: Path):
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) == (1, 0) and np.lib.format.read_array_header_1_0(file)[2].hasobject:
                raise Unreadable(f"{path}: holds pickled objects, which are never loaded; save an array of numbers.")
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        samples = array.shape[-1:] if array.ndim > 2 and array.shape[-1] in (3, 4) else ()
        axes = array.ndim - len(samples)
        if axes not in (2, 3):
            raise Unreadable(
                f"{path}: shape {array.shape} is no image; save [H, W], [N, H, W], or these with 3 or 4 colours last."
            )
        self.whole = array.shape
        slices, shape = array.shape[0] if axes == 3 else 1, array.shape[axes - 2 :]
        super().__init__(path, slices=slices, sample_shape=shape, dtype=array.dtype, colours=3 if samples else 1)

    def stored(self, index: int) -> np.ndarray:
        array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return np.array(array[index] if array.ndim > len(self.sample_shape) else array)

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.whole}
        with temporary.open("wb") as target, part.open("rb") as source:
            np.lib.format.write_array_header_1_0(target, header)
            shutil.copyfileobj(source, target)
