"""The orientation in which an image is denoised: one of eight, told by the image, so that a turned or mirrored image
gives the turned or mirrored result.
"""

from collections.abc import Sequence

import numpy as np

Place = tuple[slice, slice]


def orientation(arrays: Sequence[np.ndarray], valid: Sequence[np.ndarray | None]) -> int:
    """The turn, 0 to 7, after which the first moments of images [H, W] together fulfil down >= across >= 0.

    Networks are not quite equivariant (0.05 of the noise's standard deviation); an image that is brought into an
    orientation of its own first is treated alike however it was turned. Gain and offset do not change the turn.
    """
    moments = np.array([_moments(array, mask) for array, mask in zip(arrays, valid, strict=True)])
    down, across = moments.sum(0)
    for turn in range(8):
        seen = -across if turn > 3 else across
        if down >= seen >= 0:
            return turn
        down, across = -across, down
    return 0


def _moments(array: np.ndarray, valid: np.ndarray | None) -> list[float]:
    """Sums of the valid pixels less their mean, times the distance from the middle row and from the middle column."""
    known = np.ones(array.shape, bool) if valid is None else np.asarray(valid)
    sums = [array.sum(axis, where=known, dtype=np.float64) for axis in (1, 0)]
    counts = [known.sum(axis) for axis in (1, 0)]
    mean = sums[0].sum() / max(1, counts[0].sum())
    return [
        float((total - mean * count) @ (np.arange(len(total)) - (len(total) - 1) / 2))
        for total, count in zip(sums, counts, strict=True)
    ]


def turned(array: np.ndarray, turn: int) -> np.ndarray:
    """[H, W] in an orientation, 0 to 7, as filters.turned; a view."""
    array = np.rot90(array, turn % 4)
    return array[:, ::-1] if turn > 3 else array


def turned_back(array: np.ndarray, turn: int) -> np.ndarray:
    """What turned() was given; a view."""
    return np.rot90(array[:, ::-1] if turn > 3 else array, -turn % 4)


def place_back(place: Place, shape: Sequence[int], turn: int) -> Place:
    """Rows and columns before turned() of a place after it, in an image of this shape after it."""
    (rows, columns), (height, width) = place, shape
    if turn > 3:
        columns = slice(width - columns.stop, width - columns.start)
    for _ in range(turn % 4):
        rows, columns = columns, slice(height - rows.stop, height - rows.start)
        height, width = width, height
    return rows, columns
