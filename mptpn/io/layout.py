"""Whether a file holds what it declares: checksums, pages and strips, before its pixels are decoded.

The libraries that decode pixels pass over some of it: a wrong checksum, a strip of missing data, a circle of pages.
"""

import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mptpn.io.refusals import Unreadable

GZIP = b"\x1f\x8b"
PIECE = 2**20  # bytes
PAGES, TAGS = 2**20, 2**12  # of a file, of a page, at most
STRIPS = {273: "offset", 324: "offset", 279: "size", 325: "size"}  # tags of strips and tiles
NUMBERS = {3: "u2", 4: "u4", 16: "u8"}  # TIFF's types
ASKED = {256: "width", 257: "height", 258: "bits", 259: "compression", 277: "samples", 278: "rows", 284: "planar"}
AGAIN = "copy or export it again"


def check_layout(path: Path, kind: str, *, name: Path | None = None) -> None:
    """Raise Unreadable where a file does not hold what it declares; kind: as in files.FORMATS.

    What is gzipped is checked when it is unpacked. name: in messages, of what the file was unpacked from.
    """
    with path.open("rb") as file:
        start = file.read(8)
        file.seek(0)
        if start == b"\x89PNG\r\n\x1a\n":
            _check_png(path, file)
        elif start[:6] == b"\x93NUMPY" and start[6:7] > b"\1":
            _check_numpy(path, file)
        elif kind.startswith("tiff:") and len(start) == 8 and not start.startswith(GZIP):
            _Pages(name or path, file).check()


def _check_png(path: Path, file: BinaryIO) -> None:
    """Every chunk has its checksum, and the last one is there."""
    file.seek(8)
    while True:
        head = file.read(8)
        if len(head) < 8:
            raise Unreadable(f"{path}: cannot be read, it is cut off before its last chunk; {AGAIN}.")
        length, found = int.from_bytes(head[:4]), zlib.crc32(head[4:])
        while length > 0 and (data := file.read(min(PIECE, length))):
            found, length = zlib.crc32(data, found), length - len(data)
        stated = file.read(4)
        if length or len(stated) < 4 or found != int.from_bytes(stated):
            raise Unreadable(f"{path}: cannot be read, a chunk has a wrong checksum or is cut off; {AGAIN}.")
        if head[4:] == b"IEND":
            return


def _check_numpy(path: Path, file: BinaryIO) -> None:
    """The header is in the file: NumPy takes memory for the length that it declares."""
    length = int.from_bytes(file.read(12)[8:], "little")
    if length > path.stat().st_size:
        raise Unreadable(f"{path}: cannot be read, its header is cut off; {AGAIN}.")


class _Pages:
    """The list of pages of a TIFF file, walked once."""

    def __init__(self, path: Path, file: BinaryIO):
        self.path, self.file, self.size = path, file, os.fstat(file.fileno()).st_size
        start = file.read(16)
        self.order = "<" if start[:2] == b"II" else ">"
        self.big = start[2:4] in (b"+\0", b"\0+")
        self.first = self._number(start[8:16] if self.big else start[4:8])
        self.checked = self.big or self.size < 2**32  # larger ones hold offsets in a way of their own

    def check(self) -> None:
        """Raise Unreadable for pages in a circle, too many of them, or strips that are not in the file."""
        at, seen, pixels = self.first, set(), set()
        while at:
            if at in seen or len(seen) == PAGES:
                fault = "its list of pages runs in a circle" if at in seen else f"it has more than {PAGES} pages"
                raise Unreadable(f"{self.path}: cannot be read, {fault}; {AGAIN}.")
            seen.add(at)
            tags, at = self._page(at)
            if self.checked:
                offsets = self._strips(tags)
                if len(offsets) and int(offsets[0]) in pixels:
                    raise Unreadable(f"{self.path}: cannot be read, several of its pages are the same bytes; {AGAIN}.")
                pixels |= {int(offsets[0])} if len(offsets) else set()

    def _number(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")

    def _bytes(self, at: int, count: int) -> bytes:
        if at + count > self.size:
            raise Unreadable(f"{self.path}: cannot be read, it is cut off: a page is not in the file; {AGAIN}.")
        self.file.seek(at)
        return self.file.read(count)

    def _page(self, at: int) -> tuple[dict[int, tuple[int, int, bytes]], int]:
        """The tags that count (type, number of values, the bytes with them or their place), and the next page."""
        width, entry = (8, 20) if self.big else (2, 12)
        count = self._number(self._bytes(at, width))
        if not 0 < count <= TAGS:
            raise Unreadable(f"{self.path}: cannot be read, a page has {count} tags; {AGAIN}.")
        data, link = self._bytes(at + width, count * entry), 8 if self.big else 4
        end = at + width + count * entry
        tags = {}
        for start in range(0, len(data), entry):
            code, kind = self._number(data[start : start + 2]), self._number(data[start + 2 : start + 4])
            if code in STRIPS or code in ASKED:
                values = self._number(data[start + 4 : start + 4 + link])
                tags[code] = kind, values, data[start + 4 + link : start + 4 + 2 * link]
        return tags, self._number(self._bytes(end, link)) if end + link <= self.size else 0

    def _values(self, tag: tuple[int, int, bytes] | None) -> np.ndarray | list[int]:
        """Of a tag, as unsigned integers; empty where it is missing or of another type."""
        if tag is None or tag[0] not in NUMBERS or not tag[1]:
            return []
        dtype = np.dtype(f"{self.order}{NUMBERS[tag[0]]}")
        size = tag[1] * dtype.itemsize
        data = tag[2][:size] if size <= len(tag[2]) else self._bytes(self._number(tag[2]), size)
        return [self._number(data)] if tag[1] == 1 else np.frombuffer(data, dtype).astype(np.uint64)

    def _strips(self, tags: dict) -> np.ndarray | list[int]:
        """Their offsets, after a check that they lie in the file and are as many and as long as the page takes."""
        tiled = 324 in tags
        offsets, sizes = (self._values(tags.get(code)) for code in ((324, 325) if tiled else (273, 279)))
        if not len(offsets) or len(offsets) != len(sizes):
            return offsets
        first, total = int(min(offsets)), sum(map(int, sizes))
        inside = first > 0 and int(min(sizes)) > 0
        inside = inside and max(map(int.__add__, map(int, offsets), map(int, sizes))) <= self.size
        page = {name: int(values[0]) for code, name in ASKED.items() if len(values := self._values(tags.get(code)))}
        height, planes = page.get("height", 0), page.get("samples", 1) if page.get("planar") == 2 else 1
        count = len(offsets) if tiled else planes * math.ceil(height / max(1, page.get("rows", 2**32 - 1)))
        row = math.ceil(page.get("width", 0) * page.get("samples", 1) * page.get("bits", 1) / 8)
        short = page.get("compression", 1) == 1 and not tiled and total < row * height
        if not inside or len(offsets) < count or short:
            raise Unreadable(f"{self.path}: cannot be read, pixels of a page are missing from the file; {AGAIN}.")
        return offsets
