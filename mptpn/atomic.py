"""Files appear whole or not at all, and one process at a time writes one of them."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Calls write(temporary path), then renames it to path; a failed or killed write leaves an older file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with staged() as stage:
        stage(path, write)
    return path


@contextmanager
def staged() -> Iterator[Callable[[Path, Callable[[Path], object] | None], None]]:
    """Several files that appear together, each whole or not at all, in the order in which they were staged.

    stage(path, write) calls write(temporary path), which makes a file or a folder; the names are given at the end of
    the `with` block. write None: what has this name now is removed then. A symbolic link is replaced, never followed.
    """
    waiting: list[tuple[Path, Path | None]] = []

    def stage(path: Path, write: Callable[[Path], object] | None) -> None:
        temporary = None if write is None else _hidden(path)
        waiting.append((path, temporary))
        if write is not None:
            remove(temporary)
            write(temporary)
            _to_disk(temporary)

    try:
        yield stage
        for path, temporary in waiting:
            _rename(temporary, path) if temporary else remove(path)
    finally:
        for _, temporary in waiting:
            if temporary:
                remove(temporary)


def _hidden(path: Path, kind: str = "") -> Path:
    return path.with_name(f".{os.getpid()}.{kind}{path.name}")


def _rename(temporary: Path, path: Path) -> None:
    older = _hidden(path, "old.")
    if temporary.is_dir() and not temporary.is_symlink() and path.is_dir() and not path.is_symlink():
        os.replace(path, older)  # a folder is not replaced in one step; `restore` brings it back
    os.replace(temporary, path)
    remove(older)


def remove(path: Path) -> None:
    """A file or a folder with all that is in it; a link, not what it points to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """A full disk may show only now."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def restore(path: Path) -> None:
    """Clears what killed processes left of writes to this path; call it while no other process writes there."""
    pattern = re.compile(rf"\.\d+\.(old\.)?{re.escape(path.name)}")
    for left in [file for file in path.parent.iterdir() if pattern.fullmatch(file.name)]:
        if ".old." in left.name[: len(left.name) - len(path.name)] and not path.exists():
            os.replace(left, path)  # killed between two renames
        else:
            remove(left)


class Lock:
    """One process holds a path at a time; a killed one holds it no longer."""

    def __init__(self, path: Path):
        """Raises BlockingIOError where another process holds it."""
        self.path = path
        while True:
            if path.is_symlink():
                path.unlink()
            self._file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                if os.fstat(self._file.fileno()).st_ino == path.stat().st_ino:
                    return
            except FileNotFoundError:
                pass  # its last holder has removed it in between
            self._file.close()

    def release(self) -> None:
        if not self._file.closed:
            self.path.unlink(missing_ok=True)
            self._file.close()
