"""DICOM files and series as scans."""

from collections.abc import Sequence
from contextlib import ExitStack
from io import BytesIO
from os.path import commonpath, lexists
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.pixels import get_decoder

from mptpn.io.derived import Words, write_derived
from mptpn.io.dicom_glance import glance
from mptpn.io.dicom_head import INSTALL, Head, is_encapsulated, read_head
from mptpn.io.dicom_tags import opened
from mptpn.io.scan import Scan, Unreadable, explained


class Dicom(Scan):
    """One DICOM file of one or more frames, or the single-frame files of one series, in their order."""

    has_map = True

    def __init__(self, path: Path, heads: list[Head] | None = None):
        """heads: of the files of a series in the folder `path`, in their order; None: `path` is one file."""
        self.several = heads is not None
        self.heads = heads or [read_head(path)]
        first, count = self.heads[0], self.heads[0].frames
        if self.several:
            count = len(self.heads)
        elif first.frames == 1:
            self.series, self.identity, self.kind = first.series, first.uid, first.kind
        self.derived = all(head.derived for head in self.heads)
        suffix = first.path.suffix.lower()
        self.endings = (suffix,) if suffix in (".dcm", ".dicom", ".ima") and not self.several else ()
        notes = ["Its YBR colours are written as RGB."] * first.photometric.startswith("YBR")
        notes += ["It is compressed and is written uncompressed."] * is_encapsulated(first.syntax)
        places = [head.place for head in self.heads if head.place is not None]
        if len(set(places)) < len(places):
            notes.append("Several of its slices lie at one place; they follow each other by InstanceNumber.")
        shape, dtype, colours = (first.rows, first.cols) + (3,) * (first.samples == 3), first.dtype, first.samples
        bits, self.note = max(head.bits for head in self.heads), " ".join(notes)
        super().__init__(path, slices=count, sample_shape=shape, dtype=dtype, colours=colours, bits=bits)
        (self.slope, self.intercept), self.unit, self.modality = self.scale(0), first.unit, first.modality

    @classmethod
    def join(cls, scans: Sequence["Dicom"], folder: Path) -> "Dicom":
        """Along the slices' common normal where there is one, else by InstanceNumber."""
        heads = [scan.heads[0] for scan in scans]
        placed = all(head.place is not None for head in heads) and len({head.normal for head in heads}) == 1
        heads.sort(key=lambda head: (round(head.place, 3) if placed else 0.0, head.number, head.path.name))
        return cls(folder, heads)

    @property
    def number(self) -> int:
        """Of the series; 0 where it has none."""
        return self.heads[0].series_number

    def sources(self) -> list[Path]:
        return [head.path for head in self.heads]

    def _of(self, index: int) -> tuple[Head, int]:
        """The head of a slice, and its frame in that file."""
        return (self.heads[index], 0) if self.several else (self.heads[0], index)

    def scale(self, index: int) -> tuple[float, float]:
        head, frame = self._of(index)
        return head.scales[frame if len(head.scales) > frame else 0]

    def stored(self, index: int) -> np.ndarray:
        head, frame = self._of(index)
        if self._handle is None or self._handle.path != head.path:
            self.close()
            self._handle = _Opened(head.path)
        file, decoder = self._handle.file, get_decoder(head.syntax)
        file.seek(head.start)
        try:
            with explained(head.path):
                stored = decoder.as_array(file, index=frame, validate=True, **head.options)[0]
        except Unreadable:
            if not decoder.is_encapsulated:
                raise
            raise Unreadable(f"{head.path}: its compressed pixels cannot be decoded; {INSTALL}.") from None
        if head.shift and (stored & ((1 << head.shift) - 1)).any():
            raise Unreadable(
                f"{head.path}: its pixels fill bits below the {head.bits} that HighBit and BitsStored name; "
                "correct these attributes."
            )
        return stored

    def values(self, stored: np.ndarray) -> np.ndarray:
        shift, unused = self.heads[0].shift, 8 * self.dtype.itemsize - self.bits
        return stored << (unused - shift) >> unused if unused and self.dtype.kind in "iu" else stored

    def raw(self, values: np.ndarray) -> np.ndarray:
        return values << self.heads[0].shift if self.heads[0].shift else values

    def rounded(self, index: int, pixels: np.ndarray) -> np.ndarray:
        """See Scan.rounded; the bits beside those of the picture, which may hold an overlay, stay as they were."""
        result, before = super().rounded(index, pixels), self.samples(index)
        whole = self.bits == 8 * self.dtype.itemsize or self.dtype.kind == "f"
        if whole or self.dtype.kind == "i" and np.array_equal(self.raw(self.values(before)), before):
            return result  # no bits beside it, or they repeat the sign
        word = np.dtype(f"u{self.dtype.itemsize}")
        own = word.type(((1 << self.bits) - 1) << self.heads[0].shift)
        return (before.view(word) & ~own | result.view(word) & own).view(self.dtype)

    def padding(self, index: int, stored: np.ndarray) -> np.ndarray | None:
        ranges = self._of(index)[0].padding
        if not ranges or stored.ndim == 3:
            return None
        if self.dtype.kind in "iu":  # some files give the padding of signed pixels as unsigned
            word = np.dtype(f"u{self.dtype.itemsize}")
            ranges = [[np.array(value & np.iinfo(word).max, word).view(self.dtype) for value in one] for one in ranges]
        found, pictures = np.zeros(stored.shape, bool), (stored, self.values(stored))
        for limits in ranges:
            for array in pictures:
                found |= (min(limits) <= array) & (array <= max(limits))
        return found

    def check_map(self) -> None:
        from mptpn.io.parametric_map import check_map

        check_map(self.heads[0])

    def write_map(self, temporary: Path, planes: np.ndarray, *, note: str) -> None:
        from mptpn.io.parametric_map import write_map

        write_map(temporary, planes, heads=self.heads, unit=self.unit, note=note)

    def files_in(self, folder: Path) -> list[Path]:
        """The files of a series in a folder of results, which keep their names, in their order."""
        root = commonpath([head.path.parent for head in self.heads])
        return [folder / head.path.relative_to(root) for head in self.heads]

    def earlier(self, folder: Path) -> list[Path]:
        """The files in a folder that are an earlier result of this series, also of slices that it has no longer."""
        found = [glance(file) for file in self.files_in(folder) if file.is_file()]
        series = {uid for uid, derived in found if derived}
        files = [file for file in folder.rglob("*") if file.is_file()] if series else []
        return [file for file in files if (said := glance(file))[1] and said[0] in series]

    def may_replace(self, target: Path) -> bool:
        earlier = set(self.earlier(target))
        return all(file in earlier for file in self.files_in(target) if lexists(file))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        words = Words.of(note)
        if not self.several:
            size = part.stat().st_size
            with part.open("rb") as pixels:
                data = BytesIO(pixels.read() + b"\0") if size % 2 else pixels  # values have an even length
                self._write(self.heads[0], temporary, pixels=data, words=words)
            return
        size = part.stat().st_size // self.slices
        with part.open("rb") as source:
            for head, target in zip(self.heads, self.files_in(temporary), strict=True):
                pixels = BytesIO(source.read(size) + b"\0" * (size % 2))
                target.parent.mkdir(parents=True, exist_ok=True)
                self._write(head, target, pixels=pixels, words=words)

    def _write(self, head: Head, target: Path, *, pixels, words: Words) -> None:
        with explained(head.path), opened(head.path) as file:
            # what is deferred is read again from a name, which a copy in memory does not have
            data = dcmread(file, force=True, defer_size=None if isinstance(file, BytesIO) else "64 KB")
            write_derived(data, target, head=head, pixels=pixels, itemsize=self.dtype.itemsize, words=words)


class _Opened:
    """A file that stays open between slices."""

    def __init__(self, path: Path):
        self.path, self._stack = path, ExitStack()
        self.file = self._stack.enter_context(opened(path))

    def close(self) -> None:
        self._stack.close()
