"""Files appear whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: str | Path, write) -> Path:
    """Call write(temporary path), then rename to path: a failed or killed write leaves an older file as it was."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
