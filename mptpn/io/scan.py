"""A scan is read slice by slice in stored values; every file format is one subclass of Scan."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mptpn.io.axes import Axes, guess_axes
from mptpn.io.limits import check_size
from mptpn.io.refusals import DAMAGED, NO_PICTURE, NoImage, Unreadable, explained
from mptpn.io.unpacked import Unpacked

__all__ = ["DAMAGED", "NO_PICTURE", "NoImage", "Scan", "Slice", "Unreadable", "explained"]
LARGEST = 1e150  # of a pixel, in stored values
Place = tuple[slice, slice]  # rows and columns
ROWS = 256  # of a slice, rounded at once: a large slice is not held in float64


@dataclass(frozen=True)
class Slice:
    """One slice in stored values.

    Attributes:
        pixels: [H, W] or [H, W, C], without alpha; NaN and infinite pixels are 0. float32 up to 16 bits, else float64.
        valid: [H, W], False at the file's own padding value and at NaN or infinite pixels.
        slope, intercept: pixels * slope + intercept is in the scan's unit; slices of one series may differ (PET).
    """

    pixels: np.ndarray
    valid: np.ndarray
    slope: float = 1.0
    intercept: float = 0.0

    def in_unit(self, stored: np.ndarray) -> np.ndarray:
        """Stored values of this slice in the scan's unit; float64 where it scales them."""
        return stored if (self.slope, self.intercept) == (1, 0) else stored * np.float64(self.slope) + self.intercept

    def moved(self, stored: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Stored values after a change in the scan's unit, not rounded; where nothing moves, no digit is lost."""
        step = change / np.float64(self.slope)
        return np.where(step == 0, stored, stored + step)


class Scan:
    """One picture, volume, multi-page file or DICOM series, whose slices are read on demand.

    Attributes:
        path, name: of the file, or of the series' folder; open_scans makes names unique.
        slices: their number.
        axes: names and sizes of the axes of the whole, in the file's order.
        spacing: distance between neighbours along an axis and its unit, by the axis' name, where the file says it.
        scenes: number of images of the file that are scans of their own; this is one of them, see scene().
        channel_names: of the channels that lie in slices of their own, where the file says them.
        shape: of one slice's pixels, (H, W) or (H, W, C), a noise model each.
        dtype, bits: stored type with its byte order, and bits a sample.
        low, high: smallest and largest stored value that is written; None for floats.
        slope, intercept: of the first slice; read() gives each slice's own.
        unit: of stored value * slope + intercept; "stored value" where the file names none.
        note: what the written file does not keep, in one sentence; empty where it keeps everything.
    """

    endings: tuple[str, ...] = ()  # of the written file; the first is appended to a name that has none of them
    note = ""
    series = ""  # files of a folder with the same series, not empty, become one scan by the class method join
    identity = ""  # files of a series with the same identity are copies
    takes_axes = False  # whether its constructor takes `axes`, names that the user gives
    _unpacked: Unpacked | None = None  # a gzipped file as a temporary one, see _plain
    modality = ""  # what DICOM says that it is, such as CT
    derived = False  # whether the file says that it is a result of mptpn denoise
    scenes = 1
    has_map = False  # whether its uncertainty may be written in its own type too, see write_map()
    chunk = 0  # bytes that are held while any part of it is read
    in_parts = False  # whether it is so large that its slices are read and written in parts, see part()
    below = Path()  # the folder of results in which it is written, relative; walk() mirrors the input's tree

    def __init__(
        self,
        path: Path,
        *,
        dtype: np.dtype,
        bits: int = 0,
        axes: Axes | None = None,
        slices: int = 1,
        sample_shape: tuple[int, ...] = (),
        colours: int | None = None,
    ):
        """Give either axes, or slices and sample_shape.

        Args:
            sample_shape: of a stored slice, [H, W] or [H, W, samples].
            colours: number of samples that are a picture, those after them are alpha; None: as the axes say.
        """
        if axes:
            slices, sample_shape = axes.slices, axes.sample_shape
        colours = colours or (axes.colours if axes else 1)
        self.path, self.name = path, path.name
        self.slices, self.sample_shape, self.dtype, self.colours = slices, tuple(sample_shape), np.dtype(dtype), colours
        self.shape = self.sample_shape[:2] + ((colours,) if colours > 1 else ())
        self.axes = axes or _axes_of_slices(slices, self.sample_shape)
        self.spacing: dict[str, tuple[float, str]] = {}
        self.channel_names: tuple[str, ...] = ()
        self.slope, self.intercept, self.unit = 1.0, 0.0, "stored value"
        if self.dtype.kind not in "iuf" or self.dtype.itemsize > 8:
            raise Unreadable(
                f"{path}: pixels of type {self.dtype} are no gray levels; save integers or floats of at most 64 bits."
            )
        if min(self.sample_shape) < 1 or slices < 1:
            raise Unreadable(f"{path}: the image is empty, {slices} slices of {self.shape}; give one with pixels.")
        self.bits, one = bits or 8 * self.dtype.itemsize, self.dtype.itemsize * math.prod(self.sample_shape)
        if path.is_file():
            check_size(path, slices * one, one=one)
        half = 1 << (self.bits - 1)
        self.low, self.high = {"i": (-half, half - 1), "u": (0, 2 * half - 1), "f": (None, None)}[self.dtype.kind]
        self.states: dict[Path, tuple] = {}  # of the files when they were opened, see mptpn.io.states
        self._held: tuple[int, np.ndarray] | None = None
        self._handle = None  # what the format keeps open between slices; has close()

    # A format fills in endings, __init__(path), stored and assemble; the others, up to samples, where it has them.
    # One that is read in parts fills in part and assemble_parts too; it has no padding and no alpha.

    def stored(self, index: int) -> np.ndarray:
        """One slice exactly as stored, `sample_shape`, `dtype`."""
        raise NotImplementedError

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        """Writes the whole target at `temporary`; `part` holds the stored samples of all slices in their order."""
        raise NotImplementedError

    def scene(self, number: int) -> "Scan":
        """Another image of the same file, from 0; ValueError where it cannot be read."""
        raise NotImplementedError

    def part(self, index: int, place: Place) -> np.ndarray:
        """Some rows and columns of a slice exactly as stored."""
        return self.samples(index)[place]

    def assemble_parts(self, temporary: Path, read: Callable[[int, Place], np.ndarray], *, note: str) -> None:
        """As assemble; read: gives the stored samples of some rows and columns of a slice."""
        raise NotImplementedError

    def check_map(self) -> None:
        """ValueError where its uncertainty cannot be written in its own type."""

    def write_map(self, temporary: Path, planes: np.ndarray, *, note: str) -> None:
        """Writes the uncertainty, [slices, H, W] float32, in its own type."""
        raise NotImplementedError

    def planes(self, part: Path) -> np.ndarray:
        """The stored samples of all slices in a part file, [slices, *sample_shape], memory-mapped."""
        return np.memmap(part, self.dtype, mode="r", shape=(self.slices, *self.sample_shape))

    def values(self, stored: np.ndarray) -> np.ndarray:
        """Stored samples without the bits that are no picture."""
        return stored

    def raw(self, values: np.ndarray) -> np.ndarray:
        """The inverse of values(), but for the bits that are no picture."""
        return values

    def padding(self, index: int, stored: np.ndarray) -> np.ndarray | None:
        """True at the file's own padding, [H, W]; None where it has none."""
        return None

    def scale(self, index: int) -> tuple[float, float]:
        """Slope and intercept of one slice."""
        return self.slope, self.intercept

    @property
    def middle(self) -> int:
        """Index of the slice that represents the scan."""
        return self.slices // 2

    @property
    def label(self) -> str:
        """The input's path below the folder that was given, as POSIX; of a series that of its folder."""
        return (self.below / self.path.name).as_posix()

    def sources(self) -> list[Path]:
        """The files it is read from."""
        return [self.path]

    def may_replace(self, target: Path) -> bool:
        """Whether an existing folder is an earlier result of this scan, and nothing else."""
        return False

    def default_name(self) -> str:
        """Name of the written file or folder."""
        known = not self.endings or self.name.lower().endswith(self.endings)
        return self.name if known else self.name + self.endings[0]

    def samples(self, index: int) -> np.ndarray:
        """One slice as stored, checked; the last one is held, so that reading and then writing it decodes once."""
        if not 0 <= index < self.slices:
            raise IndexError(f"{self.path}: slice {index} does not exist; choose 0 to {self.slices - 1}.")
        if self._held is None or self._held[0] != index:
            with explained(self.path):
                stored = self.stored(index)
                if stored.shape != self.sample_shape or stored.dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
                    raise Unreadable(
                        f"{self.path}: slice {index} is {stored.shape} {stored.dtype}, "
                        f"not {self.sample_shape} {self.dtype}; {DAMAGED}."
                    )
            self._held = index, stored.astype(self.dtype, copy=False)
            if index == self.slices - 1:
                self._close_handle()
        return self._held[1]

    def _plain(self, packed: Path) -> Path:
        """A gzipped file as a plain one, unpacked once."""
        if self._unpacked is None:
            self._unpacked = Unpacked(packed)
        return self._unpacked.path

    def close(self) -> None:
        """Closes the file and removes what was unpacked of it. The next slice opens it again."""
        self._close_handle()
        self._unpacked = None

    def _close_handle(self) -> None:
        """After the last slice too."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def _picture(self, stored: np.ndarray) -> np.ndarray:
        """Pixels as in Slice, NaN and infinite ones as stored."""
        picture = self.values(stored)[..., : self.colours] if stored.ndim == 3 else self.values(stored)
        exact = self.dtype.itemsize <= 2 or self.dtype == np.float32
        return picture.reshape(picture.shape[:2] + self.shape[2:]).astype(np.float32 if exact else np.float64)

    def read(self, index: int) -> Slice:
        """One slice; ValueError where it cannot be decoded, or where the only slice has no valid pixel."""
        stored = self.samples(index)
        found = self._slice(index, stored, self.padding(index, stored))
        if self.slices == 1 and not found.valid.any():
            raise Unreadable(f"{self.path}: every pixel is padding, NaN or infinite; {NO_PICTURE}.")
        return found

    def read_part(self, index: int, place: Place) -> Slice:
        """Some rows and columns of a slice; of a scan that is read in parts nothing else is held."""
        if not self.in_parts:
            whole = self.read(index)
            return replace(whole, pixels=whole.pixels[place].copy(), valid=whole.valid[place].copy())  # no more is held
        with explained(self.path):
            stored = self.part(index, place)
        return self._slice(index, stored, None)

    def _slice(self, index: int, stored: np.ndarray, padding: np.ndarray | None) -> Slice:
        pixels = self._picture(stored)
        finite = np.isfinite(pixels)
        valid = _valid(finite, padding)
        if not finite.all():
            pixels[~finite] = 0
        if pixels.dtype == np.float64 and np.abs(pixels).max() > LARGEST:
            raise Unreadable(f"{self.path}: holds values beyond {LARGEST:g}, whose squares are no numbers; scale it.")
        return Slice(pixels, valid, *self.scale(index))

    def in_unit(self, index: int) -> np.ndarray:
        """One slice in the scan's unit, float64, [H, W] or [H, W, C]; ValueError where every pixel is padding.

        Padding has the smallest value of the other pixels; NaN and infinite pixels stay.
        """
        stored = self.samples(index)
        (slope, intercept), padding = self.scale(index), self.padding(index, stored)
        own = self._picture(stored).astype(np.float64) * slope + intercept
        if padding is not None and padding.any():
            if padding.all():
                raise ValueError(f"{self.path}: every pixel of slice {index + 1} is padding; {NO_PICTURE}.")
            own[padding] = np.fmin.reduce(own[~padding])  # passes over NaN
        return own

    def rounded(self, index: int, pixels: np.ndarray) -> np.ndarray:
        """Stored samples of a denoised slice, rounded half to even and clipped to the type.

        Unchanged and invalid pixels and alpha stay bit for bit. ValueError: another shape, or valid pixels not finite.
        """
        if np.shape(pixels) != self.shape:
            raise ValueError(f"{self.path}: slice {index} of shape {np.shape(pixels)} does not fit; give {self.shape}.")
        result = self.samples(index).copy()
        padding = self.padding(index, result)
        for top in range(0, self.shape[0], ROWS):
            rows = slice(top, top + ROWS)
            around = None if padding is None else padding[rows]
            self._round(result[rows], np.asarray(pixels[rows], dtype=np.float64), around, index)
        return result

    def rounded_part(self, index: int, place: Place, pixels: np.ndarray) -> np.ndarray:
        """The same of some rows and columns of a slice of a scan that is read in parts."""
        result = self.part(index, place).copy()
        self._round(result, np.asarray(pixels, dtype=np.float64), None, index)
        return result

    def _round(self, stored: np.ndarray, pixels: np.ndarray, padding: np.ndarray | None, index: int) -> None:
        """Writes some rows of pixels into stored."""
        own = self._picture(stored).astype(np.float64)
        finite = np.isfinite(own)
        valid = _valid(finite, padding).reshape(*own.shape[:2], *[1] * (own.ndim - 2))
        bad = int((~np.isfinite(pixels) & valid).sum())
        if bad:
            raise ValueError(
                f"{self.path}: {bad} pixels of slice {index} are NaN or infinite; "
                "nothing of it is written, denoise it again."
            )
        changed = (pixels != np.where(finite, own, 0.0)) & valid
        if self.dtype.kind == "f":
            fitted = np.clip(pixels, np.finfo(self.dtype).min, np.finfo(self.dtype).max)
        else:  # the largest value of 64 bits is no float: take the float below
            highest = float(self.high) if int(float(self.high)) <= self.high else np.nextafter(float(self.high), 0)
            fitted = np.clip(np.rint(pixels), self.low, highest)
        picture = stored.reshape(*pixels.shape[:2], -1)[..., : self.colours]
        fitted = self.raw(np.where(changed, fitted, 0).astype(self.dtype))
        np.copyto(picture, fitted.reshape(picture.shape), where=changed.reshape(picture.shape))


def name_axes(
    path: Path,
    shape: tuple[int, ...],
    *,
    given: str | None,
    known: str = "",
    alpha: bool = False,
    first_fastest: bool = False,
) -> Axes:
    """Axes of a file's array: as the user gives them, else as the file names them, else guessed; see Axes."""
    try:
        found = Axes(given or known, tuple(shape)) if given or known else guess_axes(shape, alpha=alpha)
    except ValueError as error:
        raise Unreadable(f"{path}: {error}") from None
    return replace(found, first_fastest=first_fastest)


def _axes_of_slices(slices: int, sample_shape: tuple[int, ...]) -> Axes:
    names = "Z" * (slices > 1) + "YX" + "S" * (len(sample_shape) == 3)
    return Axes(names, ((slices,) if slices > 1 else ()) + sample_shape)


def _valid(finite: np.ndarray, padding: np.ndarray | None) -> np.ndarray:
    """[H, W], True where every channel is finite and nothing is padding."""
    valid = finite if finite.ndim == 2 else finite.all(-1)
    return valid if padding is None else valid & ~padding
