"""TIFF files as scans."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from mptpn.io.scan import Scan, Unreadable

RESOLUTION = {282, 283}  # tags
LOST = {330: "reduced copies", 34665: "EXIF", 34853: "GPS"}  # tag: what it points to, not copied


class Tiff(Scan):
    """TIFF of one or more pages of one size and type; all tags of a page are kept but the layout of its bytes."""

    endings = (".tif", ".tiff")

    def __init__(self, path: Path):
        with tifffile.TiffFile(path, is_ome=False) as file:
            first, kinds, tags = file.pages[0], set(), set()
            for page in file.pages:
                kinds.add((page.shape, page.dtype, page.axes, int(page.photometric)))
                tags |= {tag.code for tag in page.tags}
            colours = 3 if first.photometric == tifffile.PHOTOMETRIC.RGB else 1
            _check(path, file, first, kinds=len(kinds), colours=colours)
            self.planar = first.axes == "SYX"
            shape = (*first.shape[1:], first.shape[0]) if self.planar else first.shape
            dtype, bits = first.dtype.newbyteorder(file.byteorder), first.bitspersample
            self.note = " ".join(
                f"{what} within the file are not written." for tag, what in LOST.items() if tag in tags
            )
            pages = len(file.pages)
            super().__init__(path, slices=pages, sample_shape=shape, dtype=dtype, colours=colours, bits=bits)

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
            with tifffile.TiffWriter(temporary, bigtiff=bigtiff, byteorder=original.byteorder, ome=False) as target:
                # readers of these kinds look at the first page alone and take the pixels for one piece
                if first.is_imagej or first.is_shaped:
                    others = {tag.code for tag in original.pages[self.slices - 1].tags}
                    self._append(target, first, pixels, once={tag.code for tag in first.tags} - others)
                else:
                    for page, array in zip(original.pages, pixels, strict=True):
                        self._append(target, page, array, once=set())

    def _append(
        self, target: tifffile.TiffWriter, page: tifffile.TiffPage, pixels: np.ndarray, *, once: set[int]
    ) -> None:
        """Writes pixels with the tags of a page; those in `once` on the first page only."""
        own, resolution = tifffile.TIFF.TAG_FILTERED, None
        if RESOLUTION <= {tag.code for tag in page.tags}:
            own = own | RESOLUTION | {296}
            fractions = [page.tags[code].value for code in sorted(RESOLUTION)]
            resolution = [numerator / denominator if denominator else 0 for numerator, denominator in fractions]
        target.write(
            pixels,
            photometric=page.photometric,
            planarconfig="separate" if self.planar else "contig" if len(self.sample_shape) == 3 else None,
            extrasamples=page.extrasamples or None,
            compression=None if page.compression == tifffile.COMPRESSION.NONE else "zlib",
            resolution=resolution,
            resolutionunit=page.resolutionunit if resolution else None,
            software=False,
            metadata=None,
            contiguous=False,
            extratags=[(*tag.astuple()[:4], tag.code in once) for tag in page.tags if tag.code not in own],
        )


def _check(path: Path, file: tifffile.TiffFile, first: tifffile.TiffPage, *, kinds: int, colours: int) -> None:
    pages, extra = len(file.pages), first.samplesperpixel - colours
    if kinds > 1:
        raise Unreadable(f"{path}: its {pages} pages differ in size or type; save pages of one kind in one file.")
    if file.is_imagej and pages == 1 and file.imagej_metadata.get("images", 1) > 1:
        raise Unreadable(
            f"{path}: an ImageJ stack without pages of its own; save it again with fewer than 4 GB, or as NIfTI."
        )
    if first.dtype is None or first.axes not in ("YX", "YXS", "SYX") or first.photometric not in (0, 1, 2):
        raise Unreadable(
            f"{path}: pages of kind {first.axes} {first.photometric.name} are no gray or RGB pictures; convert them."
        )
    if extra not in (0, 1) or (colours == 1 and extra and not any(first.extrasamples)):
        raise Unreadable(
            f"{path}: {first.samplesperpixel} samples a pixel are no gray or RGB picture; save one channel a page."
        )
