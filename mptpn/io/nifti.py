"""Volumes that nibabel reads, as scans: NIfTI, Analyze, and MGH of FreeSurfer."""

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np

from mptpn.io.axes import SIDE
from mptpn.io.scan import Scan, Unreadable, name_axes

RATIO = 1.5  # of voxel sides, from which the longest is that of the slices
SINGLE = 352  # bytes before the samples of a NIfTI file without extensions


class Volume(Scan):
    """A header, the samples with their first axis fastest, and perhaps further bytes; one file, gzipped or not.

    A slice is cut across the axis of the slices, in the file's order. Every byte but those of the samples is kept.
    """

    takes_axes = True
    kinds: tuple[type, ...] = ()

    def __init__(self, path: Path, axes: str | None = None):
        image = nibabel.load(path)
        if not isinstance(image, self.kinds):
            raise Unreadable(f"{path}: is {type(image).__name__}, which its ending does not say; convert it to .nii.")
        self._data_file = Path(image.file_map["image"].filename)
        self.zipped = self._data_file.suffix.lower() in (".gz", ".mgz")
        data, dtype = image.dataobj, image.header.get_data_dtype()
        shape, samples = tuple(map(int, data.shape)), ""
        if dtype.fields:
            kinds = {kind for kind, *_ in dtype.fields.values()}
            if len(kinds) != 1 or len(dtype.fields) not in (3, 4):
                raise Unreadable(f"{path}: values of type {dtype} are no gray levels or RGB; save gray volumes.")
            shape, samples, dtype = (len(dtype.fields), *shape), "S", kinds.pop()
        if len(data.shape) < 2:
            raise Unreadable(f"{path}: shape {data.shape} is no image; give two axes or more.")
        zooms = [float(abs(side)) for side in image.header.get_zooms()]
        known = samples + _names(data.shape, slice_axis(image.header, data.shape, zooms))
        named = name_axes(path, shape, given=axes, known=known, first_fastest=True)
        super().__init__(path, axes=named, dtype=dtype)
        spatial = [name for name in named.names if name != "S"]
        self.spacing = {name: (side, "mm") for name, side in zip(spatial, zooms[:3], strict=False)}
        self.slope, self.intercept = float(data.slope), float(data.inter)
        self.offset, self.size = int(data.offset), self.dtype.itemsize * int(np.prod(shape))
        found, needed = self._data_file.stat().st_size, self.offset + self.size
        if not self.zipped and found < needed:
            raise Unreadable(f"{path}: is cut off after {found} of {needed} bytes; copy it again.")

    @property
    def middle(self) -> int:
        axes = self.axes
        if "Z" not in axes.names:
            return self.slices // 2
        # of the first volume: the middle of all lies between two volumes
        at = [axes.shape[i] // 2 if axes.names[i] == "Z" else 0 for i in axes.others]
        return int(np.ravel_multi_index(at, [axes.shape[i] for i in axes.others], order="F"))

    def _samples(self) -> Path:
        """The file of the samples, unpacked."""
        return self._plain(self._data_file) if self.zipped else self._data_file

    def stored(self, index: int) -> np.ndarray:
        array = np.memmap(self._samples(), self.dtype, mode="r", offset=self.offset, shape=self.axes.shape, order="F")
        return np.array(self.axes.take(array, index))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        with self._samples().open("rb") as original, self._opened(temporary) as target:
            target.write(self._header(original.read(self.offset)))
            self._write_samples(target, part)
            original.seek(self.offset + self.size)
            shutil.copyfileobj(original, target)

    def _opened(self, path: Path):
        return gzip.open(path, "wb", compresslevel=6) if self.zipped else path.open("wb")

    def _header(self, original: bytes) -> bytes:
        return original

    def _write_samples(self, target, part: Path) -> None:
        planes = self.planes(part)
        array = self.axes.arrange(planes).T  # its last axis is fastest
        for place in np.ndindex(array.shape[: -2 - ("S" in self.axes.names)]):
            target.write(np.ascontiguousarray(array[place]).tobytes())


class Nifti(Volume):
    """.nii or .nii.gz."""

    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)

    def __init__(self, path: Path, axes: str | None = None):
        self.endings = (".nii.gz",) if path.name.lower().endswith(".gz") else (".nii",)
        super().__init__(path, axes)


class Mgh(Volume):
    """.mgh or .mgz of FreeSurfer."""

    kinds = (nibabel.MGHImage,)

    def __init__(self, path: Path, axes: str | None = None):
        self.endings = (path.suffix.lower(),)
        super().__init__(path, axes)


class Pair(Volume):
    """.hdr and .img, NIfTI or Analyze, written as one .nii."""

    kinds = (nibabel.Nifti1Pair, nibabel.AnalyzeImage)

    def __init__(self, path: Path, axes: str | None = None):
        super().__init__(path, axes)
        self.endings = (".nii.gz",) if self.zipped else (".nii",)
        kind = "NIfTI" if isinstance(nibabel.load(path), nibabel.Nifti1Pair) else "Analyze"
        self.note = f"Its two files, .hdr and .img, are written as one .nii ({kind} before)."

    def sources(self) -> list[Path]:
        return [self._data_file, Path(nibabel.load(self.path).file_map["header"].filename)]

    def default_name(self) -> str:
        stem = Path(self.name.removesuffix(".gz")).stem
        return f"{stem}.nii" + ".gz" * self.zipped

    def _header(self, original: bytes) -> bytes:
        image = nibabel.load(self.path)
        before = image.header
        if isinstance(image, nibabel.Nifti1Pair):
            header = nibabel.Nifti1Header(before.binaryblock, before.endianness, check=False)
        else:
            header = nibabel.Nifti1Header.from_header(before, check=False)
            header = header.as_byteswapped(before.endianness)
            header.set_sform(image.affine, "aligned")
            header["scl_slope"], header["scl_inter"] = self.slope, self.intercept
        header["magic"], header["vox_offset"] = header.single_magic, SINGLE
        return header.binaryblock + bytes(SINGLE - header.sizeof_hdr)


def slice_axis(header, shape: tuple[int, ...], zooms: list[float]) -> int:
    """Axis across which slices lie: as the header says, else the one of the clearly longest voxel side, else the last.

    An axis that would leave slices of fewer than 16 pixels a side gives way to the shortest.
    """
    if len(shape) < 3:
        return 2
    told = header.get_dim_info()[2] if hasattr(header, "get_dim_info") else None
    order = sorted(range(3), key=lambda i: zooms[i])
    clear = zooms[order[2]] > RATIO * zooms[order[1]]
    axis = told if told is not None else order[2] if clear else 2
    sides = [shape[i] for i in range(3) if i != axis]
    if min(sides) < SIDE and sorted(shape[:3])[1] >= SIDE:
        axis = order[2] if clear and shape[order[2]] == min(shape[:3]) else int(np.argmin(shape[:3]))
    return axis


def _names(shape: tuple[int, ...], slices: int) -> str:
    """One letter an axis: X, Y and Z in the order of the file, T, and others."""
    spatial = list("XYZ"[: min(3, len(shape))])
    if len(spatial) == 3 and slices != 2:
        spatial = list("XY")
        spatial.insert(slices, "Z")
    return "".join(spatial) + "TCQPR"[: max(0, len(shape) - 3)]
