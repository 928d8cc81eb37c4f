"""TIFF files as scans: plain, ImageJ, OME, slides with reduced copies, and movies with one directory."""

import gzip
import shutil
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC

from mptpn.io.layout import check_layout
from mptpn.io.scan import Scan
from mptpn.io.tiff_layout import has_imagecodecs, read_layout
from mptpn.io.tiff_ome import describe
from mptpn.io.tiff_writer import can_stay, kept_compression, write_anew, write_in_place

ENDINGS = (".tif", ".tiff")
LOST = {34665: "EXIF", 34853: "GPS"}  # tag: what it points to, not copied where a file is written anew


class Tiff(Scan):
    """TIFF of one or more planes of one size and type.

    A file without compression is copied and its pixels are replaced, so that every other byte stays. Any other is
    written anew with the tags of its pages. Reduced copies follow what was removed; further pictures are copied.
    """

    takes_axes = True

    def __init__(self, path: Path, axes: str | None = None):
        self.path = path
        self._gzipped = path.name.lower().endswith(".gz")
        self.layout = layout = read_layout(path, self._source(), axes)
        with tifffile.TiffFile(self._source(), is_ome=False) as file:
            first = file.pages[layout.pages[0]]
            self.in_place = layout.run is not None or can_stay(file, layout)
            self.photometric = first.photometric
            bits = first.bitspersample if first.bitspersample in range(1, 65) else 0
            dtype = first.dtype.newbyteorder(file.byteorder)
            self.note = " ".join([*layout.notes, *([] if self.in_place else self._losses(file))])
        suffix = path.suffix.lower()
        self.endings = (suffix,) if self.in_place and suffix not in (*ENDINGS, ".gz", "") else ENDINGS
        if self._gzipped:
            self.endings = tuple(f"{ending}.gz" for ending in ENDINGS)
        super().__init__(path, axes=layout.axes, colours=layout.colours, dtype=dtype, bits=bits)
        with tifffile.TiffFile(self._source()) as file:
            describe(self, file)

    def _source(self) -> Path:
        """The file, unpacked."""
        if not self._gzipped:
            return self.path
        new, plain = self._unpacked is None, self._plain(self.path)
        if new:
            check_layout(plain, "tiff:", name=self.path)
        return plain

    def _losses(self, file: tifffile.TiffFile) -> list[str]:
        """What a file written anew does not keep."""
        pages = [file.pages[number] for number in self.layout.pages]
        tags = {tag.code for page in pages for tag in page.tags}
        lost = [f"{what} within the file are not written." for tag, what in LOST.items() if tag in tags]
        if kept_compression(pages[0])[0] not in (None, pages[0].compression):
            name = getattr(pages[0].compression, "name", pages[0].compression)
            lost.append(f"Its {name} pixels are written with deflate, which keeps every value.")
        if pages[0].bitspersample not in (8, 16, 32, 64):
            lost.append(f"Its packed pixels of {pages[0].bitspersample} bits are written in whole bytes.")
        return lost

    def stored(self, index: int) -> np.ndarray:
        if self._handle is None:
            self._handle = _Pages(self._source())
        if self.layout.run is None:
            array = self._handle.page(self.layout.pages[index])
        else:
            count = int(np.prod(self.sample_shape))
            self._handle.file.filehandle.seek(self.layout.run + index * count * self.dtype.itemsize)
            array = self._handle.file.filehandle.read_array(self.dtype, count)
            shape = np.roll(self.sample_shape, 1) if self.layout.planar else self.sample_shape
            array = array.reshape(shape)
        return np.moveaxis(array, 0, -1) if self.layout.planar else array

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        planes = np.moveaxis(planes, -1, 1) if self.layout.planar else planes
        write = write_in_place if self.in_place else write_anew
        if not self._gzipped:
            write(self._source(), temporary, planes, self.layout)
            return
        plain = temporary.with_name(f"{temporary.name}.plain")
        try:
            write(self._source(), plain, planes, self.layout)
            with plain.open("rb") as source, gzip.open(temporary, "wb", compresslevel=6) as target:
                shutil.copyfileobj(source, target)
        finally:
            plain.unlink(missing_ok=True)


class _Pages:
    """Pages of one open file, in any order; LZW without the extra `formats` is read by Pillow."""

    def __init__(self, path: Path):
        self.file = tifffile.TiffFile(path, is_ome=False)
        self._path, self._pillow = path, None

    def page(self, number: int) -> np.ndarray:
        page = self.file.pages[number]
        plain = page.photometric != PHOTOMETRIC.MINISWHITE
        if page.compression != COMPRESSION.LZW or has_imagecodecs() or not plain:
            return page.asarray()
        if self._pillow is None:
            self._pillow = Image.open(self._path)
        self._pillow.seek(number)
        return np.asarray(self._pillow)  # Pillow narrows some types; samples() compares the type and refuses

    def close(self) -> None:
        self.file.close()
        if self._pillow is not None:
            self._pillow.close()
