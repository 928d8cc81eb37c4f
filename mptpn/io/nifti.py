"""NIfTI files as scans."""

import gzip
from pathlib import Path

import nibabel
import numpy as np

from mptpn.io.scan import Scan, Unreadable


class Nifti(Scan):
    """.nii or .nii.gz of two axes or more; a slice is [X, Y] at one place of all other axes, in the file's order.

    The header's bytes are kept.
    """

    def __init__(self, path: Path):
        self.zipped = path.name.lower().endswith(".gz")
        self.endings = (".nii.gz",) if self.zipped else (".nii",)
        image = nibabel.load(path)
        if not isinstance(image, nibabel.Nifti1Image):
            raise Unreadable(f"{path}: is {type(image).__name__}, not a single NIfTI file; convert it to .nii.")
        data, dtype = image.dataobj, image.header.get_data_dtype()
        if dtype.fields:
            raise Unreadable(
                f"{path}: holds colours, which NIfTI denoising does not support; save one gray volume a colour."
            )
        if len(data.shape) < 2:
            raise Unreadable(f"{path}: shape {data.shape} is no image; give two axes or more.")
        slices = int(np.prod(data.shape[2:]))
        super().__init__(path, slices=slices, sample_shape=data.shape[:2], dtype=dtype, colours=1)
        self.offset, self.size = int(data.offset), self.dtype.itemsize * int(np.prod(data.shape[:2]))
        self.slope, self.intercept = float(data.slope), float(data.inter)
        self.depth = int(data.shape[2]) if len(data.shape) > 2 else 1
        found, needed = path.stat().st_size, self.offset + slices * self.size
        if not self.zipped and found < needed:
            raise Unreadable(f"{path}: is cut off after {found} of {needed} bytes; copy it again.")

    @property
    def middle(self) -> int:
        return self.depth // 2  # of the first volume: the middle of all lies between two volumes

    def _open(self, path: Path, mode: str):
        return gzip.open(path, mode, compresslevel=6) if self.zipped else path.open(mode)

    def stored(self, index: int) -> np.ndarray:
        if self._handle is None:
            self._handle = self._open(self.path, "rb")
        self._handle.seek(self.offset + index * self.size)
        data = self._handle.read(self.size)
        if len(data) < self.size:
            raise EOFError
        return np.frombuffer(data, self.dtype).reshape(self.sample_shape[::-1]).T

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        with self._open(self.path, "rb") as original:
            header = original.read(self.offset)
        with self._open(temporary, "wb") as target, part.open("rb") as source:
            target.write(header)
            for _ in range(self.slices):  # a slice lies on the disk with its first axis fastest
                rows = np.frombuffer(source.read(self.size), self.dtype).reshape(self.sample_shape)
                target.write(rows.T.tobytes())
