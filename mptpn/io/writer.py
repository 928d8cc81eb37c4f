"""A Writer collects the denoised slices of a scan in a part file; the target appears whole or not at all."""

import glob
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mptpn.atomic import write_atomically, write_folder_atomically
from mptpn.io.scan import Scan, explained

OTHER = "choose another folder or name"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the disk into one sentence."""
    try:
        yield
    except PermissionError:
        raise PermissionError(f"{path}: may not be written; choose a folder that you may write to.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise OSError(f"{path}: cannot be written ({reason}); free space or choose another folder.") from None


class Writer:
    """Writes a scan slice by slice, in order, in the type of its input; an interrupted call is resumed.

    Attributes:
        target: file or folder that exists after close().
        done: number of written slices; above 0 at the start where an interrupted call is resumed.
    """

    def __init__(
        self, scan: Scan, folder: str | Path, *, name: str | None = None, note: str = "", overwrite: bool = False
    ):
        """Opens the part file in `folder`, which is made where it is missing.

        Args:
            name: of the target; None: that of the input.
            note: settings of the result, which DICOM keeps; an interrupted result of another note is not resumed.
            overwrite: whether an existing target may be replaced once the new one is whole.
        Raises:
            ValueError: a name that leaves the folder or has another type's ending, or the input itself as target.
            FileExistsError: the target exists and overwrite is False, or it is no earlier result of this input.
        """
        folder, name = Path(folder), scan.default_name() if name is None else name
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
            raise ValueError(f"name {name!r} leaves the folder {folder}; give a bare file name.")
        if scan.endings and not name.lower().endswith(scan.endings):
            raise ValueError(
                f"name {name!r} has another type's ending; {scan.path} is written as {' or '.join(scan.endings)}."
            )
        self.scan, self.note, self.overwrite, self.target = scan, note, overwrite, folder / name
        self._check_target()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._part = folder / f".{name}.{self._key()}.part"
            self._part.touch()
            self._size = scan.dtype.itemsize * int(np.prod(scan.sample_shape))
            self.done = min(self._part.stat().st_size // self._size, scan.slices)  # without a slice that was cut off

    def _check_target(self) -> None:
        scan, target = self.scan, self.target
        own = [scan.path, *scan.sources()]
        exists, folder = target.exists(), target.is_dir()
        same = exists and any(path.exists() and target.samefile(path) for path in own)
        if same or target.resolve() in {path.resolve() for path in own}:
            raise ValueError(f"{target}: is the input itself; {OTHER}.")
        if exists and not self.overwrite:
            raise FileExistsError(f"{target}: exists already; {OTHER}, or overwrite it on purpose.")
        if exists and (folder != scan.path.is_dir() or (folder and not scan.may_replace(target))):
            raise FileExistsError(f"{target}: is not an earlier result of this input; move it away, or {OTHER}.")

    def _key(self) -> str:
        """Hash of the input and the note: only a part file of the same key is resumed."""
        inputs = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.scan.sources()]
        return hashlib.sha256(repr((inputs, self.note)).encode()).hexdigest()[:16]

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        elif self.done == 0:
            self._part.unlink(missing_ok=True)  # nothing to resume

    def write(self, index: int, pixels: np.ndarray) -> None:
        """Writes the next slice (`done`), in stored values, see Scan.rounded; ValueError for any other, or NaN."""
        if index != self.done:
            raise ValueError(
                f"{self.target}: slice {index} is out of order; write slice {self.done} of {self.scan.slices} next."
            )
        data = self.scan.rounded(index, pixels).tobytes()
        with writing(self._part), self._part.open("r+b") as file:
            file.seek(index * self._size)  # over what a write that failed half way left
            file.write(data)
        self.done += 1

    def close(self) -> None:
        """Makes the target; ValueError where slices are missing: those that are written stay for the next call."""
        if not self._part.exists():
            return  # closed before
        if self.done < self.scan.slices:
            raise ValueError(
                f"{self.target}: {self.done} of {self.scan.slices} slices are written; write the others first."
            )
        self._check_target()
        with writing(self.target):
            make = write_folder_atomically if self.scan.path.is_dir() else write_atomically
            make(self.target, self._assemble)
            # also those of other notes
            for part in self.target.parent.glob(f".{glob.escape(self.target.name)}.{'[0-9a-f]' * 16}.part"):
                part.unlink(missing_ok=True)
        self.scan.close()

    def _assemble(self, temporary: Path) -> None:
        with explained(self.scan.path):
            self.scan.assemble(temporary, self._part, note=self.note)
