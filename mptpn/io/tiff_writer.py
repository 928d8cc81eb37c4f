"""Denoised planes in a TIFF file: in place where the pixels are not compressed, else page by page with their tags."""

import shutil
from pathlib import Path

import numpy as np
import tifffile
from skimage.transform import resize_local_mean
from tifffile import COMPRESSION, PHOTOMETRIC

from mptpn.io.tiff_layout import Layout, has_imagecodecs

RESOLUTION = {282, 283}  # tags
FRACTIONS = {5: "u4", 10: "i4"}  # types of tags that hold them
BIG = 2**32 - 2**25  # bytes, from which a file needs the large kind of TIFF
PLAIN = {COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.LZMA}  # without imagecodecs
GENERAL = PLAIN | {COMPRESSION.LZW, COMPRESSION.PACKBITS, COMPRESSION.ZSTD}  # every type, without a loss
# type by type, without a loss: the types and the arguments
SPECIAL = {
    COMPRESSION.LERC: ("u1 i1 u2 i2 u4 i4 f4 f8", {"level": 0.0}),
    COMPRESSION.JPEG2000: ("u1 u2", {"level": 0, "reversible": True}),
    COMPRESSION.JPEGXL: ("u1 u2", {"lossless": True}),
    COMPRESSION.PNG: ("u1 u2", {}),
}


def can_stay(file: tifffile.TiffFile, layout: Layout) -> bool:
    """Whether new pixels fit into the places of the old ones, byte for byte."""
    pages = [file.pages[number] for number in (*layout.pages, *layout.reduced)]
    pages += [level for number in layout.pages for level in file.pages[number].pages or ()]
    # planes that share their bytes cannot differ
    starts = [page.dataoffsets[0] for page in pages if page.dataoffsets]
    return all(page.is_final and page.dtype is not None for page in pages) and len(set(starts)) == len(pages)


def write_in_place(source: Path, target: Path, planes: np.ndarray, layout: Layout) -> None:
    """Copies the file and replaces the pixels of its planes and of their reduced copies.

    Args:
        planes: [slices, ...] as a page holds them, in the file's byte order.
    """
    shutil.copyfile(source, target)
    with tifffile.TiffFile(source, is_ome=False) as file, target.open("r+b") as out:
        if layout.run is not None:
            out.seek(layout.run)
            for plane in planes:
                out.write(np.ascontiguousarray(plane).tobytes())
            return
        for number, plane in zip(layout.pages, planes, strict=True):
            page = file.pages[number]
            _put(out, page, plane)
            if page.pages or number in layout.reduced.values():
                change = _Change(page, plane)
                for level in page.pages or ():
                    _put(out, level, change.follow(level))
                for reduced in (other for other, of in layout.reduced.items() if of == number):
                    _put(out, file.pages[reduced], change.follow(file.pages[reduced]))


def _put(out, page: tifffile.TiffPage, array: np.ndarray) -> None:
    out.seek(page.dataoffsets[0])
    out.write(np.ascontiguousarray(array).tobytes())


class _Change:
    """What was changed in a page, for its reduced copies: they keep the way in which they were reduced."""

    def __init__(self, page: tifffile.TiffPage, plane: np.ndarray):
        """plane: the new pixels of the page."""
        self._before, self._plane = page.asarray(), plane
        self.nothing = np.array_equal(self._before, plane, equal_nan=plane.dtype.kind == "f")

    def follow(self, level: tifffile.TiffPage) -> np.ndarray:
        """A reduced copy plus the mean change of the pixels that each of its pixels stands for."""
        old = level.asarray()
        if self.nothing or old.ndim != self._before.ndim or old.dtype != self._before.dtype:
            return old.astype(self._plane.dtype)
        with np.errstate(invalid="ignore"):
            change = np.nan_to_num(self._plane.astype(np.float64) - self._before)
        shape = [large if small == large else small for small, large in zip(old.shape, change.shape, strict=True)]
        change = resize_local_mean(change, shape, preserve_range=True)
        new = old + change
        if old.dtype.kind != "f":
            limits = np.iinfo(old.dtype)
            new = np.clip(np.rint(new), limits.min, limits.max)
        return np.where(change == 0, old, new.astype(old.dtype)).astype(self._plane.dtype)


def write_anew(source: Path, target: Path, planes: np.ndarray, layout: Layout) -> None:
    """Writes all pages of the file with their tags; the planes and their reduced copies are new.

    Args:
        planes: [slices, ...] as a page holds them.
    """
    slices = {number: index for index, number in enumerate(layout.pages)}
    with tifffile.TiffFile(source, is_ome=False) as original:
        held = sum(page.nbytes for page in original.pages)
        big = original.is_bigtiff or max(held, planes.nbytes) > BIG
        with tifffile.TiffWriter(target, bigtiff=big, byteorder=original.byteorder, ome=False, shaped=False) as out:
            for number, page in enumerate(original.pages):
                above = layout.reduced.get(number)
                if number in slices:
                    change = _Change(page, planes[slices[number]]) if page.pages else None
                    _append(out, page, planes[slices[number]], levels=len(page.pages or ()))
                    for level in page.pages or ():
                        _append(out, level, change.follow(level))
                elif above is not None:
                    _append(out, page, _Change(original.pages[above], planes[slices[above]]).follow(page))
                else:
                    _append(out, page, page.asarray(), levels=len(page.pages or ()))
                    for level in page.pages or ():
                        _append(out, level, level.asarray())


def _append(out: tifffile.TiffWriter, page: tifffile.TiffPage, pixels: np.ndarray, *, levels: int = 0) -> None:
    """Writes pixels with the tags of a page; `levels` reduced copies follow within it."""
    own, resolution = tifffile.TIFF.TAG_FILTERED | {254, 320, 347, 530, 531, 532, 529}, None
    if RESOLUTION <= {tag.code for tag in page.tags}:
        own = own | RESOLUTION | {296}
        fractions = [page.tags[code].value for code in sorted(RESOLUTION)]
        resolution = [numerator / denominator if denominator else 0 for numerator, denominator in fractions]
    compression, arguments, predictor = kept_compression(page)
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else None
    palette = page.photometric == PHOTOMETRIC.PALETTE
    out.write(
        pixels,
        photometric="rgb" if page.photometric == PHOTOMETRIC.YCBCR else page.photometric,
        planarconfig=None if page.axes == "YX" else "separate" if page.axes == "SYX" else "contig",
        extrasamples=page.extrasamples or None,
        colormap=page.colormap if palette else None,
        compression=compression,
        compressionargs=arguments,
        predictor=predictor,
        tile=tile if tile and not any(side % 16 for side in tile) else None,
        subifds=levels or None,
        subfiletype=page.subfiletype if 254 in page.tags else None,
        resolution=resolution,
        resolutionunit=page.resolutionunit if resolution else None,
        software=False,
        metadata=None,
        contiguous=False,
        extratags=[_extra(tag, page.parent.byteorder) for tag in page.tags if tag.code not in own],
    )


def _extra(tag: tifffile.TiffTag, order: str) -> tuple:
    """A tag as tifffile writes it; it counts the bytes of a fraction twice, so fractions are numbers."""
    code, kind, count, value, _ = tag.astuple()
    if kind in FRACTIONS:
        value = tuple(np.frombuffer(value, order + FRACTIONS[kind]).tolist())
    return code, kind, count, value, False


def kept_compression(page: tifffile.TiffPage) -> tuple[int | None, dict | None, int | None]:
    """Compression, its arguments and the predictor of a page, where it loses nothing; else deflate."""
    kind = page.compression
    predictor = page.predictor if page.predictor in (2, 3) else None
    if kind == COMPRESSION.NONE:
        return None, None, None
    if kind in (GENERAL if has_imagecodecs() else PLAIN):
        kind = COMPRESSION.ADOBE_DEFLATE if kind == COMPRESSION.DEFLATE else kind
        return kind, None, predictor if has_imagecodecs() else None
    types, arguments = SPECIAL.get(kind, ("", {}))
    if has_imagecodecs() and f"{page.dtype.kind}{page.dtype.itemsize}" in types.split():
        return kind, arguments, None
    return COMPRESSION.ADOBE_DEFLATE, None, None
