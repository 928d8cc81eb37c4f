"""A scan as the explorer sees it: one plane or colour picture at a time, in the scan's unit."""

import tempfile
from pathlib import Path

import numpy as np

from mptpn.inference import sampling
from mptpn.io import Scan, open_scan
from mptpn.viewers import samples
from mptpn.viewers.session import Region

LARGE = 2**21  # pixels of a slice, from which only what is in view is denoised at first


class Slices:
    """A scan and what can be chosen in it.

    Attributes:
        scan: it. channels: their names, one where there is nothing to choose. count: slices of a channel.
        colour: whether a slice is a picture in colour.
    """

    def __init__(self, scan: Scan | str | Path | np.ndarray | None):
        """Open a scan; None: a sample. An array is saved as .npy beside it for as long as this object lives."""
        if isinstance(scan, np.ndarray):
            self._folder = tempfile.TemporaryDirectory()
            path = Path(self._folder.name) / "array.npy"
            np.save(path, scan)
            scan = path
        scan = samples.sample(next(iter(samples.SAMPLES))) if scan is None else scan
        self.scan = scan if isinstance(scan, Scan) else open_scan(scan)
        axes, samples_of_pixel = self.scan.axes, self.scan.shape[2:]
        self.colour = axes.is_colour
        self._inside = bool(samples_of_pixel) and not self.colour  # channels lie inside a pixel
        count = samples_of_pixel[0] if self._inside else axes.channels
        self.channels = self.scan.channel_names or tuple(f"channel {i + 1}" for i in range(count))
        self._numbers = [axes.of_channel(0 if self._inside else channel) for channel in range(count)]

    @property
    def count(self) -> int:
        """Slices of a channel."""
        return len(self._numbers[0])

    @property
    def first(self) -> int:
        """The slice to begin with: the middle one of those that hold noise.

        Raises:
            ValueError: none does; one sentence.
        """
        own = self._numbers[0]
        good = [own.index(index) for index in sampling.samples(self.scan) if index in own]
        if not good:
            raise ValueError(f"{self.scan.path}: no slice holds noise; there is nothing to explore.")
        return good[len(good) // 2]

    def read(self, index: int, channel: int) -> tuple[np.ndarray, np.ndarray]:
        """A slice in the scan's unit, [H, W] or [H, W, 3], and where it is valid, [H, W]."""
        number = self._numbers[channel][index]
        slice = self.scan.read(number)
        pixels = slice.pixels[..., channel] if self._inside else slice.pixels
        return slice.in_unit(pixels), slice.valid

    def region(self, index: int, channel: int, part: tuple[slice, slice]) -> Region:
        """A part of a slice, rows and columns, for a session."""
        pixels, valid = (x[part] for x in self.read(index, channel))
        name = self.scan.name + (f", slice {index + 1}" if self.count > 1 else "")
        valid = None if valid.all() else valid
        return Region(pixels, "YXS" if self.colour else "YX", name, valid, self.scan.unit)
