"""Gzipped files, unpacked into a temporary file that goes with its owner."""

import gzip
import shutil
import tempfile
import weakref
import zlib
from pathlib import Path

from mptpn.io.limits import check_size
from mptpn.io.refusals import Unreadable

PIECE = 2**20  # bytes


class Unpacked:
    """A gzipped file as a plain temporary file.

    Attributes:
        path: of the temporary file.
    """

    def __init__(self, source: Path):
        """Unreadable where it is damaged, or grows beyond what a file may ask for, see limits."""
        folder = tempfile.mkdtemp(prefix="mptpn-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path, total = Path(folder) / "unpacked", 0
        try:
            with gzip.open(source, "rb") as packed, self.path.open("wb") as plain:
                while piece := packed.read(PIECE):
                    total += len(piece)
                    check_size(source, total, one=0)
                    plain.write(piece)
        except (gzip.BadGzipFile, EOFError, zlib.error):
            raise Unreadable(
                f"{source}: cannot be read, it is no gzip file, cut off or damaged; copy or export it again."
            ) from None
