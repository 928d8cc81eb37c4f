"""NumPy, NIfTI, TIFF, PNG, JPEG and BMP files as scans; what is not pixels is copied from the input as it stands."""

import gzip
import shutil
import struct
from pathlib import Path

import nibabel
import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mptpn.io.scan import Scan, Unreadable


class Npy(Scan):
    """.npy of [H, W], [N, H, W], and [H, W, C] or [N, H, W, C] with C = 3 or 4; the last axis of 3 or 4 is colour.
    Memory-mapped, written in C order.
    """

    endings = (".npy",)

    def __init__(self, path: Path):
        with path.open("rb") as file:
            if np.lib.format.read_magic(file) == (1, 0) and np.lib.format.read_array_header_1_0(file)[2].hasobject:
                raise Unreadable(f"{path}: holds pickled objects, which are never loaded; save an array of numbers.")
        array = self._mapped(path)
        samples = array.shape[-1:] if array.ndim > 2 and array.shape[-1] in (3, 4) else ()
        if array.ndim - len(samples) not in (2, 3):
            raise Unreadable(
                f"{path}: shape {array.shape} is no image; save [H, W], [N, H, W], or these with 3 or 4 colours last."
            )
        self.whole = array.shape
        rows_cols = array.shape[-2 - len(samples) :]
        slices = array.shape[0] if array.ndim - len(samples) == 3 else 1
        super().__init__(path, slices=slices, sample_shape=rows_cols, dtype=array.dtype, colours=3 if samples else 1)

    @staticmethod
    def _mapped(path: Path) -> np.ndarray:
        return np.load(path, mmap_mode="r", allow_pickle=False)

    def stored(self, index: int) -> np.ndarray:
        array = self._mapped(self.path)
        return np.array(array[index] if array.ndim > len(self.sample_shape) else array)

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.whole}
        with temporary.open("wb") as target, part.open("rb") as source:
            np.lib.format.write_array_header_1_0(target, header)
            shutil.copyfileobj(source, target)


class Nifti(Scan):
    """.nii or .nii.gz of two axes or more; a slice is [X, Y] at one place of all other axes, in the file's order. The
    header's bytes are kept.
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
        if not self.zipped and path.stat().st_size < self.offset + slices * self.size:
            raise Unreadable(
                f"{path}: is cut off after {path.stat().st_size} of {self.offset + slices * self.size} bytes; copy it again."
            )

    @property
    def center_crop(self) -> int:
        return self.depth // 2  # of the first volume: between two volumes lie the ends of both

    def _open(self, path: Path, mode: str):
        return gzip.open(path, mode, compresslevel=6) if self.zipped else path.open(mode)

    def stored(self, index: int) -> np.ndarray:
        if self._handle is None:
            self._handle = self._open(self.path, "rb")
        self._handle.seek(self.offset + index * self.size)
        return np.frombuffer(self._read(self.size), self.dtype).reshape(self.sample_shape[::-1]).T

    def _read(self, size: int) -> bytes:
        data = self._handle.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        with self._open(self.path, "rb") as original:
            header = original.read(self.offset)
        with self._open(temporary, "wb") as target, part.open("rb") as source:
            target.write(header)
            for _ in range(self.slices):  # a slice lies on the disk with its first axis fastest
                rows = np.frombuffer(source.read(self.size), self.dtype).reshape(self.sample_shape)
                target.write(rows.T.tobytes())


class Tiff(Scan):
    """TIFF of one or more pages of one size and type; every tag of every page is kept but for the layout of its bytes."""

    endings = (".tif", ".tiff")
    lost = {330: "reduced copies", 34665: "EXIF", 34853: "GPS"}  # tag: what it points to, not copied

    def __init__(self, path: Path):
        with tifffile.TiffFile(path, is_ome=False) as file:
            first, kinds, tags = file.pages[0], set(), set()
            for page in file.pages:
                kinds.add((page.shape, page.dtype, page.axes, int(page.photometric)))
                tags |= {tag.code for tag in page.tags}
            pages = len(file.pages)
            if len(kinds) > 1:
                raise Unreadable(
                    f"{path}: its {pages} pages differ in size or type; save pages of one kind in one file."
                )
            if file.is_imagej and pages == 1 and file.imagej_metadata.get("images", 1) > 1:
                raise Unreadable(
                    f"{path}: an ImageJ stack without pages of its own; save it again with fewer than 4 GB, or as NIfTI."
                )
            colours = 3 if first.photometric == tifffile.PHOTOMETRIC.RGB else 1
            extra = first.samplesperpixel - colours
            if first.dtype is None or first.axes not in ("YX", "YXS", "SYX") or first.photometric not in (0, 1, 2):
                raise Unreadable(
                    f"{path}: pages of kind {first.axes} {first.photometric.name} are no gray or RGB pictures; convert them."
                )
            if extra not in (0, 1) or (colours == 1 and extra and not any(first.extrasamples)):
                raise Unreadable(
                    f"{path}: {first.samplesperpixel} samples a pixel are no gray or RGB picture; save one channel a page."
                )
            dtype = first.dtype.newbyteorder(file.byteorder)
            self.planar, shape = first.axes == "SYX", first.shape
            shape = (*shape[1:], shape[0]) if self.planar else shape
            note = "".join(
                f"{what} within the file are not written. " for tag, what in self.lost.items() if tag in tags
            ).strip()
            super().__init__(
                path,
                slices=pages,
                sample_shape=shape,
                dtype=dtype,
                colours=colours,
                bits=first.bitspersample,
                note=note,
            )

    def stored(self, index: int) -> np.ndarray:
        if self._handle is None:
            self._handle = tifffile.TiffFile(self.path, is_ome=False)
        page = self._handle.pages[index]
        if page.compression == tifffile.COMPRESSION.LZW and page.photometric != tifffile.PHOTOMETRIC.MINISWHITE:
            with Image.open(self.path) as image:  # tifffile leaves LZW to a library that is not required here
                image.seek(index)
                return np.asarray(image)  # Pillow narrows some types; samples() compares the type and refuses
        array = page.asarray()
        return np.moveaxis(array, 0, -1) if self.planar else array

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        pixels = np.memmap(part, self.dtype, mode="r", shape=(self.slices, *self.sample_shape))
        pixels = np.moveaxis(pixels, -1, 1) if self.planar else pixels
        with tifffile.TiffFile(self.path, is_ome=False) as original:
            first, bigtiff = original.pages[0], original.is_bigtiff or part.stat().st_size > 2**32 - 2**25
            with tifffile.TiffWriter(temporary, bigtiff=bigtiff, byteorder=original.byteorder) as target:
                # read by their first page alone, as if the pixels lay in one piece: they must
                if first.is_imagej or first.is_shaped:
                    others = {tag.code for tag in original.pages[self.slices - 1].tags}
                    self._append(target, first, pixels, once={tag.code for tag in first.tags} - others)
                else:
                    for page, array in zip(original.pages, pixels, strict=True):
                        self._append(target, page, array, once=set())

    def _append(
        self, target: tifffile.TiffWriter, page: tifffile.TiffPage, pixels: np.ndarray, *, once: set[int]
    ) -> None:
        """Write pixels with the tags of a page; those in `once` on the first page only."""
        resolution = (
            [page.tags[code].value for code in (282, 283)] if {282, 283} <= {tag.code for tag in page.tags} else None
        )
        own = tifffile.TIFF.TAG_FILTERED | ({282, 283, 296} if resolution else set())
        target.write(
            pixels,
            photometric=page.photometric,
            planarconfig="separate" if self.planar else "contig" if len(self.sample_shape) == 3 else None,
            extrasamples=page.extrasamples or None,
            compression=None if page.compression == tifffile.COMPRESSION.NONE else "zlib",
            resolution=resolution
            and [numerator / denominator if denominator else 0 for numerator, denominator in resolution],
            resolutionunit=page.resolutionunit if resolution else None,
            software=False,
            metadata=None,
            contiguous=False,
            extratags=[(*tag.astuple()[:4], tag.code in once) for tag in page.tags if tag.code not in own],
        )


class Picture(Scan):
    """PNG, and JPEG and BMP that are written as PNG; palette colours become RGB. Text, resolution and colour profile
    are kept.
    """

    endings = (".png",)

    def __init__(self, path: Path):
        with path.open("rb") as file:
            head = file.read(26)
        with Image.open(path) as image:
            kind, mode, frames = image.format, image.mode, getattr(image, "n_frames", 1)
            width, height = image.size
            self.mode = ("RGBA" if "transparency" in image.info else "RGB") if mode == "P" else mode
        if frames > 1:
            raise Unreadable(f"{path}: holds {frames} pictures; save each of them as a file.")
        if kind == "PNG" and head[24] == 16 and head[25] != 0:
            raise Unreadable(
                f"{path}: 16-bit colour or alpha in PNG would be cut to 8 bits on reading; convert it to TIFF."
            )
        if self.mode not in ("L", "LA", "RGB", "RGBA", "I;16"):
            raise Unreadable(
                f"{path}: pixels of mode {mode} are no gray levels or RGB; convert it to 8- or 16-bit gray or to RGB."
            )
        notes = [f"{kind} is written as PNG, which keeps every pixel."] * (kind != "PNG") + [
            "Palette colours are written as RGB."
        ] * (mode == "P")
        shape = (height, width) if self.mode in ("L", "I;16") else (height, width, len(self.mode))
        dtype = np.uint16 if self.mode == "I;16" else np.uint8
        colours = 3 if self.mode.startswith("RGB") else 1
        super().__init__(path, slices=1, sample_shape=shape, dtype=dtype, colours=colours, note=" ".join(notes))
        self.becomes_png = kind != "PNG"

    def default_name(self) -> str:
        return Path(self.name).stem + ".png" if self.becomes_png else super().default_name()

    def stored(self, index: int) -> np.ndarray:
        with Image.open(self.path) as image:
            return np.array(image if image.mode == self.mode else image.convert(self.mode))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        samples = np.frombuffer(part.read_bytes(), self.dtype).reshape(self.sample_shape)
        with Image.open(self.path) as image:
            image.load()  # text may follow the pixels
            information, kept = (
                PngInfo(),
                {key: image.info[key] for key in ("dpi", "icc_profile", "exif") if key in image.info},
            )
            for key, value in getattr(image, "text", {}).items():
                information.add_text(key, value)
            if "gamma" in image.info:
                information.add(b"gAMA", struct.pack(">I", round(image.info["gamma"] * 100000)))
            if image.mode == self.mode and "transparency" in image.info:
                kept["transparency"] = image.info["transparency"]
        Image.fromarray(samples).save(temporary, format="PNG", pnginfo=information, **kept)
