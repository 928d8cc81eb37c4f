"""Pieces of one size in a hidden file, each with a checksum: a killed call goes on from those that are whole."""

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

SUM = 16  # bytes of a checksum


class Parts:
    """Pieces, written in order; the room of all is taken at the start, so that a full disk shows before any work.

    Attributes:
        path: of the file, which holds nothing but the pieces. done: number of whole pieces from the first on.
    """

    def __init__(self, path: Path, *, size: int, count: int):
        """Opens the file, or makes it; pieces whose checksum does not fit, and all after them, are not done."""
        self.path, self.size, self.count, self.sums = path, size, count, path.with_name(f"{path.name}.sums")
        self._file, self._sums = (_opened(file) for file in (self.path, self.sums))
        self.done = next((index for index in range(count) if not self._fits(index)), count)

    def reserve(self) -> None:
        """Takes the room of all pieces; OSError where the disk is too small."""
        os.posix_fallocate(self._file.fileno(), 0, max(1, self.size * self.count))
        os.ftruncate(self._file.fileno(), self.size * self.count)

    def bind(self, text: str) -> None:
        """Says on what the pieces depend beside their file's name; pieces of another text are not done."""
        head = blake2b(text.encode(), digest_size=SUM).digest()
        self._sums.seek(0)
        if self._sums.read(SUM) != head:
            self.done = 0
            self._sums.truncate(0)
            self._write(self._sums, 0, head)

    def write(self, index: int, data: bytes) -> None:
        """The next piece; what a write that failed half way left is written over."""
        self._write(self._file, index * self.size, data)
        self._write(self._sums, SUM * (index + 1), _checksum(index, data))
        self.done = index + 1

    def pieces(self) -> Iterator[bytes]:
        """All pieces in their order; OSError where one is not what was written."""
        for index in range(self.count):
            if not self._fits(index):
                raise OSError(None, f"piece {index + 1} of {self.count} was changed on the disk; repeat the call")
            yield self._read(index)

    def check(self) -> None:
        """OSError where a piece is not what was written."""
        for _ in self.pieces():
            pass

    def remove(self) -> None:
        self.close()
        for path in (self.path, self.sums):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        for file in (self._file, self._sums):
            file.close()

    def _read(self, index: int) -> bytes:
        self._file.seek(index * self.size)
        return self._file.read(self.size)

    def _fits(self, index: int) -> bool:
        self._sums.seek(SUM * (index + 1))
        return self._sums.read(SUM) == _checksum(index, self._read(index))

    @staticmethod
    def _write(file, at: int, data: bytes) -> None:
        file.seek(at)
        file.write(data)
        file.flush()


def _checksum(index: int, data: bytes) -> bytes:
    return blake2b(data, digest_size=SUM, salt=index.to_bytes(8)).digest()


def _opened(path: Path):
    """For reading and writing; a symbolic link is replaced, not followed."""
    if path.is_symlink():
        path.unlink()
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
