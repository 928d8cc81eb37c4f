"""What a file may ask for: a size that is declared is checked before anything is allocated."""

import zlib
from pathlib import Path
from typing import BinaryIO

import psutil

from mptpn.io.refusals import Unreadable

RATIO = 1000  # times the file that its content may take; deflate reaches 1032, noise 2
SLICE, SLICE_RATIO = 2**24, 100  # bytes; larger slices may take this many times the file
SMALL = 2**24  # bytes that any file may ask for
PIECE = 2**20  # bytes


def check_size(path: Path, declared: int, *, one: int, size: int | None = None, memory: int | None = None) -> None:
    """Refuse a file that declares far more than it can hold, or a slice that does not fit into memory.

    Args:
        declared: bytes of all pixels. one: bytes of one slice.
        size: bytes of the file; None: it is asked for.
        memory: bytes that a slice may take, with its copies; None: what is free.
    Raises:
        Unreadable: one sentence with both sizes.
    """
    size = path.stat().st_size if size is None else size
    for asked, ratio, most, what in ((declared, RATIO, SMALL, "pixels"), (one, SLICE_RATIO, SLICE, "a slice")):
        if asked > most and asked > ratio * size:
            raise Unreadable(
                f"{path}: declares {_told(asked)} for {what}, more than {ratio} times its {_told(size)}; "
                "it is damaged or made to harm, export it again."
            )
    free = psutil.virtual_memory().available if memory is None else memory
    if 2 * one > free:
        raise Unreadable(
            f"{path}: one slice takes {_told(one)}, with its result more than the memory of {_told(free)}; "
            "give more memory, or cut the image into parts."
        )


def inflated(path: Path, file: BinaryIO, *, wbits: int) -> bytes:
    """What follows in a deflated file; Unreadable where it grows beyond RATIO times the file or the free memory."""
    unpack, found, total = zlib.decompressobj(wbits), [], 0
    size, free = path.stat().st_size, psutil.virtual_memory().available
    data = file.read(PIECE)
    while data and not unpack.eof:
        found.append(unpack.decompress(data, PIECE))
        total += len(found[-1])
        if total > max(SMALL, SLICE_RATIO * size) or 2 * total > free:
            raise Unreadable(
                f"{path}: unpacks to more than {_told(total)} from {_told(size)}; "
                "it is damaged or made to harm, export it again."
            )
        data = unpack.unconsumed_tail or file.read(PIECE)
    if not unpack.eof:
        raise zlib.error("cut off")
    return b"".join(found)


def _told(count: int) -> str:
    """Bytes in words."""
    for unit in ("bytes", "kB", "MB"):
        if count < 10000:
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} GB"
