"""Files appear whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Calls write(temporary path), then renames it to path; a failed or killed write leaves an older file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_folder_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls write(temporary folder), then renames it to path; only then is an older folder removed."""
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
