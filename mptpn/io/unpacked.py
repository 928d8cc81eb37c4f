"""Gzipped files, unpacked beside nothing of the user's: into a temporary file that goes with its owner."""

import gzip
import tempfile
from pathlib import Path

from mptpn.io.scan import Unreadable

LARGEST = 1050  # bytes that one byte of gzip can hold, its format's limit and a little
PIECE = 2**20  # bytes


class Unpacked:
    """A gzipped file as a plain temporary file.

    Attributes:
        path: of the temporary file.
    """

    def __init__(self, source: Path, *, size: int | None = None):
        """size: bytes to unpack at most; None: all."""
        self._folder = tempfile.TemporaryDirectory(prefix="mptpn-")  # goes with this object
        self.path = Path(self._folder.name) / "unpacked"
        left = LARGEST * source.stat().st_size if size is None else size
        with gzip.open(source, "rb") as packed, self.path.open("wb") as plain:
            while piece := packed.read(min(PIECE, left + 1)):
                left -= len(piece)
                plain.write(piece if left >= 0 else piece[:left])
                if left < 0 and size is None:
                    raise Unreadable(f"{source}: unpacks to more than its type can hold; copy it again.")
                if left <= 0 and size is not None:
                    break

    def close(self) -> None:
        """Removes the temporary file."""
        self._folder.cleanup()
