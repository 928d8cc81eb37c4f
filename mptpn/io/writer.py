"""The stored samples of a scan go into a part file slice by slice; the target appears whole or not at all, and an
interrupted one is gone on with.
"""

import glob
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mptpn.atomic import write_atomically

if TYPE_CHECKING:
    from mptpn.io.scan import Scan


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses becomes one sentence."""
    try:
        yield
    except PermissionError:
        raise PermissionError(f"{path}: may not be written; choose a folder that you may write to.") from None
    except OSError as error:
        raise OSError(
            f"{path}: cannot be written ({error.strerror or type(error).__name__}); free space or choose another folder."
        ) from None


class Writer:
    """Writes a scan slice by slice, in order, into a hidden part file; the target appears whole, at close(), or not at
    all.

    Attributes:
        target: file or folder that exists after close().
        done: slices that are written; not 0 at the start where an interrupted call left a part file of this input and
            note: go on from there.
    """

    def __init__(self, scan: "Scan", folder: Path, *, name: str | None, note: str, overwrite: bool):
        name = scan.default_name() if name is None else name
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
            # a slice that was cut off is written again
            self.done = min(self._part.stat().st_size // self._size, scan.slices)

    def _check_target(self) -> None:
        target = self.target
        own = [self.scan.path, *self.scan.sources()]
        if target.resolve() in {path.resolve() for path in own} or (
            target.exists() and any(path.exists() and target.samefile(path) for path in own)
        ):
            raise ValueError(f"{target}: is the input itself; choose another folder or name.")
        if target.exists() and not self.overwrite:
            raise FileExistsError(
                f"{target}: exists already; choose another folder or name, or overwrite it on purpose."
            )
        if target.exists() and (
            target.is_dir() != self.scan.path.is_dir() or (target.is_dir() and not self.scan.may_replace(target))
        ):
            raise FileExistsError(
                f"{target}: is not an earlier result of this input; move it away, or choose another folder or name."
            )

    def _key(self) -> str:
        """Of what a part file may be resumed with: the same input and the same note."""
        inputs = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in self.scan.sources()]
        return hashlib.sha256(repr((inputs, self.note)).encode()).hexdigest()[:16]

    def _parts(self) -> list[Path]:
        """Of this target, those of other notes among them."""
        return list(self.target.parent.glob(f".{glob.escape(self.target.name)}.{'[0-9a-f]' * 16}.part"))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        elif self.done == 0:
            self._part.unlink(missing_ok=True)  # nothing to go on from

    def write(self, index: int, pixels: np.ndarray) -> None:
        """One slice in stored values, the scan's shape; rounded and clipped to the type, invalid pixels and alpha as in
        the input.

        Raises:
            ValueError: not the next slice (`done`), another shape, or NaN.
        """
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
        """Make the target whole.

        Raises:
            ValueError: slices are missing; those that are written stay for the next call.
        """
        if not self._part.exists():
            return  # closed before
        if self.done < self.scan.slices:
            raise ValueError(
                f"{self.target}: {self.done} of {self.scan.slices} slices are written; write the others first."
            )
        self._check_target()
        with writing(self.target):
            make = write_folder_atomically if self.scan.path.is_dir() else write_atomically
            make(self.target, lambda temporary: self.scan.assembled(temporary, self._part, note=self.note))
            for part in self._parts():
                part.unlink(missing_ok=True)
        self.scan.close()


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call write(temporary folder), then rename it to path; what was there is removed only then."""
    temporary, older = (path.with_name(f".{os.getpid()}.{kind}{path.name}") for kind in ("", "old."))
    try:
        temporary.mkdir()
        write(temporary)
        if path.exists():
            os.replace(path, older)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)
