"""Large images in little memory: cut into overlapping tiles, of each of which the valid centre is kept."""

import ctypes
import itertools
import math
import sys
from collections.abc import Callable, Sequence

import psutil
from torch import Tensor

Result = Tensor | dict[str, Tensor]
Cut = tuple[tuple[slice, slice], tuple[slice, slice], tuple[slice, slice]]


def tiled(
    function: Callable[[Tensor], Result],
    image: Tensor,
    *,
    tile: int,
    halo: int,
    scale: int = 1,
    progress: Callable[[float], None] | None = None,
) -> Result:
    """A function of an image, computed tile by tile: exact if no pixel beyond the halo has influence.

    A tile ends where the image ends, so that a network's zero padding acts at the true border alone. What is of the
    whole image (its mean, its level) the function must know beforehand. With tile and halo multiples of a network's
    `alignment` the groups of attention lie in every tile as they lie in the whole image.

    Args:
        function: maps [B, C, h, w] to [B, any, scale h, scale w], or to a dict of such.
        image: [B, C, H, W].
        tile: side of the kept centres, px; halo: what is computed around them and thrown away, px.
        progress: called after each tile with the share that is done.
    Returns:
        what function(image) returns.
    """
    if tile < 1 or halo < 0:
        raise ValueError(f"tile {tile} must be at least 1 px and halo {halo} not negative.")
    places = _cuts(image.shape[2:], (tile, tile), halo)
    size = [scale * side for side in image.shape[2:]]
    whole: dict[str, Tensor] = {}
    for done, (around, inside, place) in enumerate(places, 1):
        result = function(image[..., *around])
        for name, part in (result if isinstance(result, dict) else {"": result}).items():
            if name not in whole:
                whole[name] = part.new_empty(*part.shape[:2], *size)
            whole[name][..., *_scaled(place, scale)] = part[..., *_scaled(inside, scale)]
        del result, part
        if progress:
            progress(done / len(places))
    return whole.get("", whole)


def cuts(shape: Sequence[int], *, side: int, multiple: int, halo: int, most: int | None = None) -> list[Cut]:
    """Cuts of [H, W] into tiles of one size, about `side` px, at most `most`, and multiples of `multiple`.

    Each cut is three pairs of slices: the tile with its halo, the tile in that, the tile in [H, W].
    """
    sizes = [-(-length // max(1, round(length / side))) for length in shape]
    sizes = [-(-size // multiple) * multiple for size in sizes]
    return _cuts(shape, tuple(sizes if most is None else (min(size, most) for size in sizes)), halo)


def _cuts(shape: Sequence[int], tile: tuple[int, int], halo: int) -> list[Cut]:
    corners = [(top, left) for top in range(0, shape[0], tile[0]) for left in range(0, shape[1], tile[1])]
    return [
        tuple(zip(*(spans(*one, halo) for one in zip(corner, shape, tile, strict=True)), strict=True))
        for corner in corners
    ]


def _scaled(cut: tuple[slice, slice], scale: int) -> tuple[slice, slice]:
    return tuple(slice(scale * span.start, scale * span.stop) for span in cut)


def largest(cuts: Sequence[Cut]) -> int:
    """Pixels of the largest tile, its halo included."""
    return max(math.prod(span.stop - span.start for span in around) for around, _, _ in cuts)


def squares(shape: tuple[int, int], *, side: int) -> list[tuple[slice, slice]]:
    """Squares side by side over [H, W], px, cut where it ends; a rest of less than half a side is left out."""
    rows, columns = ([slice(i, min(i + side, n)) for i in range(0, max(1, n - side // 2), side)] for n in shape)
    return list(itertools.product(rows, columns))


def spread(items: list, most: int) -> list:
    """At most `most` of them, evenly spread."""
    return items[:: max(1, -(-len(items) // most))]


def spans(start: int, length: int, tile: int, halo: int) -> tuple[slice, slice, slice]:
    """Along one axis: the tile with its halo in the image, the kept centre in the tile, and that in the image."""
    first, stop = max(0, start - halo), min(length, start + tile)
    return slice(first, min(length, stop + halo)), slice(start - first, stop - first), slice(start, stop)


def tile_side(free_bytes: int, *, bytes_per_pixel: int, halo: int = 0, multiple: int = 1) -> int:
    """Largest side of a tile, px, a multiple of `multiple`, that with its halo stays within free_bytes.

    Raises:
        ValueError: not even the smallest tile fits; the message says how many bytes it takes.
    """
    side = (math.isqrt(max(0, int(free_bytes)) // bytes_per_pixel) - 2 * halo) // multiple * multiple
    if side < multiple:
        least = (multiple + 2 * halo) ** 2 * bytes_per_pixel
        raise ValueError(
            f"{int(free_bytes)} bytes are too few for one tile of {multiple} px with a halo of {halo} px, "
            f"which takes {least}; give more memory."
        )
    return side


def default_budget() -> int:
    """Bytes that this process may hold by default: what it holds, and half of what the machine has free."""
    return resident() + psutil.virtual_memory().available // 2


def resident() -> int:
    """Bytes of memory that this process holds now; freed memory is given back first."""
    give_back()
    return _held()


def give_back(*, above: int = 0) -> None:
    """Gives freed memory back to the machine where the process holds more than `above` bytes; only GNU's C library can.

    It takes 15 ms, and as much as 0.2 s later, when the memory is taken again.
    """
    if sys.platform == "linux" and _held() > above and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _held() -> int:
    return psutil.Process().memory_info().rss
