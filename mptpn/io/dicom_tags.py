"""A DICOM file's bytes, and its attributes with their defaults."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO, FileIO
from math import isfinite
from os import fstat
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, Sequence, uid
from pydicom.multival import MultiValue

from mptpn.io.limits import inflated
from mptpn.io.refusals import Unreadable

PREAMBLE = 132  # bytes, with DICM


class Tags:
    """Attributes of a data set, read with their defaults; a message names an attribute, never its value."""

    def __init__(self, path: Path, data: Dataset):
        self.path, self.data = path, data

    def all(self, keyword: str) -> list:
        """Its values, without empty ones; [] where it is missing. Unreadable where it cannot be converted."""
        try:
            value = self.data.get(keyword)
        except Exception:  # pydicom has many, and they quote the value
            raise self.refusal(keyword, "cannot be read") from None
        values = list(value) if isinstance(value, MultiValue | Sequence | list | tuple) else [value]
        return [one for one in values if one is not None and one != ""]

    def number(self, keyword: str, default: float | None = None, *, kind: type = int) -> float | None:
        """Its one value as a finite number."""
        values = self.all(keyword)
        if len(values) > 1:
            raise self.refusal(keyword, f"has {len(values)} values, not one")
        try:
            value = kind(values[0]) if values else default
        except (TypeError, ValueError, OverflowError):
            raise self.refusal(keyword, "is no number") from None
        if value is not None and not isfinite(value):
            raise self.refusal(keyword, "is not finite")
        return value

    def needed(self, keyword: str) -> int:
        """As number, of an attribute without a default."""
        value = self.number(keyword)
        if value is None:
            raise self.refusal(keyword, "is missing or empty")
        return value

    def text(self, keyword: str) -> str:
        """Its first value as text, or ""."""
        values = self.all(keyword)
        return str(values[0]) if values else ""

    def floats(self, keyword: str, count: int) -> list[float] | None:
        """Its values, or None where they are not `count` numbers: for what a scan can do without."""
        try:
            values = [float(value) for value in self.all(keyword)]
        except (TypeError, ValueError):
            return None
        return values if len(values) == count and all(map(isfinite, values)) else None

    def refusal(self, keyword: str, fault: str) -> Unreadable:
        return Unreadable(f"{self.path}: its attribute {keyword} {fault}; correct it, or export the image again.")


class _Bounded(BufferedReader):
    """Never takes memory for more than is left of the file, whatever length an element declares."""

    def read(self, size: int | None = -1) -> bytes:
        left = fstat(self.fileno()).st_size - self.tell()
        return super().read(max(0, left) if size is None or size < 0 else max(0, min(size, left)))


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file; where its data set is deflated, a copy in memory that is not, of a size that is checked."""
    with _Bounded(FileIO(path)) as file:
        start = file.read(PREAMBLE + 1024)
        if start[128:132] != b"DICM" or uid.DeflatedExplicitVRLittleEndian.encode() not in start:
            bare = start.startswith(b"DICM")  # without the 128 bytes before it
            file.seek(0)
            yield BytesIO(bytes(128) + file.read()) if bare else file
            return
        end = PREAMBLE + 12 + int.from_bytes(start[140:144], "little")  # of the file meta information
        file.seek(end)
        try:
            data = inflated(path, file, wbits=-zlib.MAX_WBITS)
        except zlib.error:
            raise Unreadable(f"{path}: its deflated data set is damaged; copy it again.") from None
        plain = str(uid.ExplicitVRLittleEndian).encode().ljust(len(uid.DeflatedExplicitVRLittleEndian), b"\0")
        meta = start[:end].replace(uid.DeflatedExplicitVRLittleEndian.encode(), plain)
        yield BytesIO(meta + data)
