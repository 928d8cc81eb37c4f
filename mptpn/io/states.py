"""Whether a file is still the one that was opened: its state on the disk, and a hash of its content."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from mptpn.io.refusals import Unreadable


def state(path: Path) -> tuple[int, ...]:
    """Changes with every write to a file and with its replacement by another one."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def content(paths: Iterable[Path]) -> str:
    """SHA-256 of the contents of files in their order, hexadecimal."""
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def check_states(states: dict[Path, tuple[int, ...]]) -> None:
    """Raise Unreadable where a file was changed, replaced or removed since it was opened."""
    for path, before in states.items():
        try:
            same = state(path) == before
        except OSError:
            same = False
        if not same:
            raise Unreadable(f"{path}: was changed or replaced while it was read; nothing of it is written, repeat it.")
