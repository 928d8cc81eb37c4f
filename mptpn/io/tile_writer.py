"""Several processes write the tiles of one large scan; the process that finds all of them puts them together."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mptpn.atomic import remove
from mptpn.io.refusals import Unreadable
from mptpn.io.scan import Place
from mptpn.io.writer import Writer, writing

SUM = 16  # bytes of a checksum, at the end of each file
PIXELS, ERROR = "pixels", "error"  # kinds of tiles: stored values, and standard deviations of their error
ROWS = 256  # of the uncertainty that are put together at once


class TileWriter(Writer):
    """Tiles lie in a hidden folder, a file each with a checksum, so that any process may write any of them."""

    def _begin(self) -> None:
        self._open()  # several processes at once

    def _open(self) -> None:
        self.folder, self._text, self.places = self._hidden(f"{self.key}.tiles"), "", ()
        with writing(self.target):
            self.folder.mkdir(exist_ok=True)

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _abandon(self) -> None:
        remove(self.folder)

    def bind(self, text: str, places: Sequence[Sequence[Place]] = ()) -> None:
        """Says what decides the tiles beside the input and the note, and where the tiles of each slice lie.

        Raises:
            OSError: the disk is too small for what is missing.
        """
        self.places = places
        spans = [[(span.start, span.stop) for span in place] for place in places[0]]
        self._text = blake2b(json.dumps([text, spans]).encode(), digest_size=8).hexdigest()
        if not self.is_complete():
            self._check_space()

    def _check_space(self) -> None:
        shape, itemsize = self.scan.shape, self.scan.dtype.itemsize
        whole = self.scan.slices * shape[0] * shape[1] * (itemsize + 4 * self.uncertainty)
        there = sum(file.stat().st_size for file in os.scandir(self.folder))
        free = shutil.disk_usage(self.folder).free
        if free < 2 * whole - there:
            raise OSError(
                f"{self.target}: its tiles and the result take {2 * whole - there} bytes, and {free} are free; "
                "free space or choose another folder."
            )

    def _file(self, kind: str, index: int, number: int) -> Path:
        return self.folder / f"{self._text}.{kind}.{index}.{number}"

    def has(self, kind: str, index: int, number: int) -> bool:
        """Whether tile `number` of slice `index` is written."""
        return self._file(kind, index, number).exists()

    def keep(self, kind: str, index: int, number: int, array: np.ndarray) -> None:
        """Writes one tile; it appears whole or not at all."""
        path, data = self._file(kind, index, number), np.ascontiguousarray(array).tobytes()
        temporary = path.with_name(f".{uuid.uuid4().hex}")
        with writing(self.target):
            try:
                temporary.write_bytes(data + _checksum(path.name, data))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def kept(self, kind: str, index: int, number: int, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
        """One tile; Unreadable where it is not what was written, and it is removed."""
        path = self._file(kind, index, number)
        whole = path.read_bytes()
        data = memoryview(whole)[:-SUM]
        if whole[-SUM:] != _checksum(path.name, data):
            path.unlink()
            raise Unreadable(f"{self.target}: a tile of it was changed on the disk; repeat the call.")
        return np.frombuffer(data, dtype).reshape(shape)

    def is_complete(self) -> bool:
        """Whether all tiles are written, by whatever process."""
        if not self.folder.is_dir():
            return False
        there = {file.name for file in os.scandir(self.folder)}
        kinds = (PIXELS, ERROR) if self.uncertainty else (PIXELS,)
        return all(
            self._file(kind, index, number).name in there
            for index, places in enumerate(self.places)
            for number in range(len(places))
            for kind in kinds
        )

    def close(self, beside: Mapping[str, Callable[[Path], object]] | None = None) -> bool:
        """Makes the target of all tiles; False: another process does it, or has done it. beside: as in Writer.close."""
        try:
            self._hold()
        except BlockingIOError:
            return False
        try:
            if not self.is_complete():
                return False
            self._publish(dict(beside or {}), lambda: None)
            return True
        finally:
            self._lock.release()

    def _assemble(self, temporary: Path) -> None:
        temporary.mkdir()
        self.scan.assemble_parts(
            temporary, lambda index, place: self._gathered(PIXELS, index, place, self.scan.dtype), note=self.note
        )

    def _gathered(self, kind: str, index: int, place: Place, dtype: np.dtype) -> np.ndarray:
        """Rows and columns of a slice from the tiles that lie there."""
        found = np.empty([span.stop - span.start for span in place], dtype)
        for number, own in enumerate(self.places[index]):
            shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(own, place, strict=True)]
            if all(span.start < span.stop for span in shared):
                tile = self.kept(kind, index, number, dtype, [span.stop - span.start for span in own])
                into, out = (
                    tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(shared, around, strict=True))
                    for around in (place, own)
                )
                found[into] = tile[out]
        return found

    def _uncertainties(self) -> Iterator[bytes]:
        height, width = self.scan.shape
        for index in range(self.scan.slices):
            for top in range(0, height, ROWS):
                rows = slice(top, min(height, top + ROWS))
                yield self._gathered(ERROR, index, (rows, slice(0, width)), np.dtype("<f4")).tobytes()


def _checksum(name: str, data: bytes) -> bytes:
    return blake2b(data, digest_size=SUM, key=blake2b(name.encode()).digest()[:64]).digest()
