"""Whether a file holds what it declares: checksums, pages and strips, before its pixels are decoded."""

from pathlib import Path


def check_layout(path: Path, kind: str) -> None:
    """kind: as in files.FORMATS."""
