"""Gzipped files, unpacked into a temporary file that goes with its owner."""

import gzip
import shutil
import tempfile
import weakref
from pathlib import Path

from mptpn.io.refusals import Unreadable

LARGEST = 1050  # bytes that one byte of gzip can hold, its format's limit and a little
PIECE = 2**20  # bytes


class Unpacked:
    """A gzipped file as a plain temporary file.

    Attributes:
        path: of the temporary file.
    """

    def __init__(self, source: Path):
        folder = tempfile.mkdtemp(prefix="mptpn-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder) / "unpacked"
        left = LARGEST * source.stat().st_size
        with gzip.open(source, "rb") as packed, self.path.open("wb") as plain:
            while piece := packed.read(PIECE):
                left -= len(piece)
                if left < 0:
                    raise Unreadable(f"{source}: unpacks to more than its type can hold; copy it again.")
                plain.write(piece)
