"""A fine periodic pattern (mesh, lattice, screen) is content: it is taken out before noise is measured."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import one_thread

LONGEST = 16  # px, period above which a pattern is no finer than other content
NEAR, AROUND = 2, 8  # frequencies of a peak to either side, and those around it with which it is compared
HEIGHT = 25  # peak over the largest power around it: noise alone reaches 6, once in a million images 12
MOST, SPREAD = 64, 4  # peaks that are looked at, and frequencies that each takes to either side
LEAST = 32  # px, smallest side of an image in which a period is told


def lattice(image: Tensor, valid: Tensor | None = None) -> Tensor:
    """The periodic pattern of an image [1, 1, H, W], same shape, mean 0; all 0 where there is none.

    It is made of the isolated peaks of the image's spectrum, of periods of 2 to LONGEST px.

    Args:
        valid: same shape, bool; the others count as the mean. None: all.
    """
    height, width = image.shape[2:]
    if min(height, width) < LEAST:
        return torch.zeros_like(image)
    inside = torch.ones_like(image, dtype=torch.bool) if valid is None else valid
    with one_thread():
        mean = (image if valid is None or bool(valid.all()) else image[inside]).mean()
    flat = torch.where(inside, image - mean, 0.0)
    window = torch.outer(*(torch.hann_window(n, periodic=False) for n in (height, width))).to(image)
    peaks = _peaks(torch.fft.fft2(flat * window).abs().square())
    if not bool(peaks.any()):
        return torch.zeros_like(image)
    mask = F.max_pool2d(F.pad(peaks.float(), (SPREAD,) * 4, mode="circular"), 2 * SPREAD + 1, 1)
    return torch.fft.ifft2(torch.fft.fft2(flat) * mask).real


def _peaks(power: Tensor) -> Tensor:
    """Frequencies of isolated peaks, same shape as power, [1, 1, H, W], in the order of fft2, bool."""
    height, width = power.shape[2:]
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)[None])
    side, padded = 2 * AROUND + 1, F.pad(power, (AROUND,) * 4, mode="circular")
    mean = F.avg_pool2d(F.avg_pool2d(padded, (1, side), 1), (side, 1), 1)
    candidates = torch.where((power > 5 * mean) & (frequency > 1 / LONGEST), power, 0.0).flatten()
    peaks = torch.zeros_like(candidates, dtype=torch.bool)
    for place in candidates.topk(min(MOST, len(candidates))).indices.tolist():
        row, column = divmod(place, width)
        ring = padded[0, 0, row : row + side, column : column + side].clone()
        near = ring[AROUND - NEAR : AROUND + NEAR + 1, AROUND - NEAR : AROUND + NEAR + 1]
        highest = float(near.max())
        near.zero_()
        value = float(candidates[place])
        peaks[place] = value > 0 and value >= highest and value > HEIGHT * float(ring.max())
    return peaks.view_as(power)
