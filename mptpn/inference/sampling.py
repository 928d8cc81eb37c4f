"""The pixels of a scan from which its noise is learned: slices spread over each channel, and squares of large ones."""

import math
from collections.abc import Sequence

import numpy as np

from mptpn.io import Scan, Slice
from mptpn.networks.noise_level import SMALLEST
from mptpn.tiling import spread, squares

# slices of a scan, and their pixels together, from which its noise is learned and by which it is judged; at least one
SAMPLES, PIXELS = 8, 2**22
PIECE, PIECES = 256, 48  # px and number: squares of a larger slice from which its noise is learned
Channel = tuple[np.ndarray, np.ndarray]  # image in the scan's unit and mask, [H, W] both


def laws(scan: Scan, index: int) -> range:
    """Numbers of the noise models of a slice: one, or one for each channel of its pixels."""
    count = math.prod(scan.shape[2:])
    first = count * scan.axes.channel(index)
    return range(first, first + count)


def samples(scan: Scan) -> list[int]:
    """Slices, spread over each channel of a scan, that hold noise: up to eight, fewer where slices are large."""
    return sorted(i for number in range(scan.axes.channels) for i in _samples(scan, scan.axes.of_channel(number)))


def _samples(scan: Scan, own: list[int]) -> list[int]:
    """own: slices of one channel."""
    wanted = max(1, min(SAMPLES, len(own), PIXELS // math.prod(scan.shape)))
    order = sorted({own[round(i)] for i in np.linspace(0, len(own) - 1, min(len(own), 4 * wanted))})
    order = order if len(order) > wanted else own
    good = [index for index in order if _pieces_of(scan, index)]
    return good if len(good) <= wanted else [good[round(i)] for i in np.linspace(0, len(good) - 1, wanted + 2)[1:-1]]


def pieces(slice: Slice) -> list[list[Channel]]:
    """What the noise of a slice is estimated from: all of it, or of a large one squares spread over it."""
    return [found for cut in _cuts_of(slice.valid.shape) if (found := channels(slice, cut))]


def _cuts_of(shape: tuple[int, int]) -> list:
    return spread(squares(shape, side=PIECE), PIECES) if math.prod(shape) > PIXELS else [...]


def _pieces_of(scan: Scan, index: int) -> list[list[Channel]]:
    """The same of a slice of a scan; of one that is read in parts no more is read."""
    if not (scan.in_parts and is_large(scan)):
        return pieces(scan.read(index))
    return [found for cut in _cuts_of(scan.shape[:2]) if (found := channels(scan.read_part(index, cut)))]


def sampled(scan: Scan, chosen: list[int]) -> list[list[Channel]]:
    """What each noise model of a scan is estimated from: its channel of these slices, or of pieces of them."""
    found: list[list[Channel]] = [[] for _ in range(scan.axes.channels * math.prod(scan.shape[2:]))]
    for index in chosen:
        for piece in _pieces_of(scan, index):
            for law, channel in zip(laws(scan, index), piece, strict=True):
                if not is_constant(*channel):
                    found[law].append(channel)
    return found


def measured_together(scans: Sequence[Scan]) -> list[tuple[str, list[list[Channel]]]]:
    """What shares a noise estimate: all of several scans, or of one scan each channel that lies in its own slices.

    Returns:
        A name to follow that of the scan, and for each scan its images.
    Raises:
        ValueError: nothing holds noise.
    """
    found = [sampled(scan, samples(scan)) for scan in scans]
    if not any(map(any, found)):
        raise ValueError(f"{scans[0].path}: no slice of at least {SMALLEST} x {SMALLEST} px holds noise.")
    count = scans[0].axes.channels
    if len(scans) > 1 or count == 1:
        return [("", [sum(channels, []) for channels in found])]
    names, size = scans[0].channel_names or range(1, count + 1), len(found[0]) // count
    parts = [sum(found[0][i * size : (i + 1) * size], []) for i in range(count)]
    return [(f" channel {name}", [part]) for name, part in zip(names, parts, strict=True) if part]


def is_constant(own: np.ndarray, valid: np.ndarray) -> bool:
    """Whether a channel has one value: a colour that is empty, an alpha channel."""
    inside = own[valid]
    return bool((inside == inside[0]).all())


def may_hold_noise(pixels: np.ndarray, valid: np.ndarray) -> bool:
    """Whether an image [H, W] or [H, W, C] is large enough for noise to be measured, and not of one value."""
    inside = pixels[valid]
    return len(inside) >= SMALLEST**2 and min(valid.shape) >= SMALLEST and bool((inside != inside[0]).any())


def channels(slice: Slice, cut=...) -> list[Channel]:
    """Each channel of a slice; none where it is constant, masked or too small for noise to be measured."""
    pixels, valid = slice.pixels[cut], slice.valid[cut]
    if not may_hold_noise(pixels, valid):
        return []
    own = slice.in_unit(pixels)
    return [(own, valid)] if own.ndim == 2 else [(own[..., i], valid) for i in range(own.shape[2])]


def colours(scan: Scan) -> int:
    """Number of noise models, one after the other, of the colours of one pixel; 1 where channels are no colours."""
    return 3 if scan.axes.is_colour else 1


def is_large(scan: Scan) -> bool:
    """Whether squares of its slices are measured, and their middle is judged."""
    return math.prod(scan.shape[:2]) > PIXELS
