"""DICOM files and series as scans, written as derived images, uncompressed.

Their new UIDs depend on the old ones and the note alone.
"""

import os
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite, uid
from pydicom.dataelem import DataElement
from pydicom.pixels import get_decoder, pixel_array

from mptpn.io.scan import Scan, Unreadable, explained

INTEGER = 0x7FE00010  # tag of pixel data
PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", INTEGER: "OW"}  # float, double, integer
# defined terms, not free text
UNITS = set("HU OD MGML Z_EFF ED EDW HU_MOD PCT BQML CNTS PROPCNTS GML CM2ML PERCENT".split())
MARK = "denoised by mptpn"
INSTALL = "pip install pylibjpeg[all], or save it uncompressed"


class Head:
    """What is kept of one DICOM file; no tag that names a person."""

    def __init__(self, path: Path, data: Dataset, *, syntax: str, tag: int):
        """tag: of the pixel data."""
        get = data.get
        self.path, self.syntax, self.tag = path, syntax, tag
        self.uid, self.series = (str(get(name, "")) for name in ("SOPInstanceUID", "SeriesInstanceUID"))
        self.number, self.frames = int(get("InstanceNumber") or 0), int(get("NumberOfFrames") or 1)
        self.rows, self.cols, self.samples = int(data.Rows), int(data.Columns), int(get("SamplesPerPixel", 1))
        self.photometric = str(data.PhotometricInterpretation)
        self.allocated = int(data.BitsAllocated)  # bits a sample in the file; `bits` of them are picture
        self.bits, self.signed = int(get("BitsStored", self.allocated)), int(get("PixelRepresentation", 0))
        at, along = get("ImagePositionPatient"), get("ImageOrientationPatient")
        self.normal = self.place = None  # of the slice's plane, x, y, z; along it, mm
        if along and len(along) == 6:
            self.normal = tuple(map(float, np.cross(along[:3], along[3:]).round(4)))
            self.place = float(np.dot(np.array(at, float), self.normal)) if at and len(at) == 3 else None
        self.scales = _scales(data)  # slope and intercept of each frame, or of all
        hounsfield = get("Modality") == "CT" and "RescaleIntercept" in data
        unit = str(get("RescaleType") or get("Units") or ("HU" if hounsfield else ""))
        self.unit = unit if unit in UNITS else "stored value"
        padding = get("PixelPaddingValue", get("FloatPixelPaddingValue"))
        limit = get("PixelPaddingRangeLimit", get("FloatPixelPaddingRangeLimit", padding))
        self.padding = None if padding is None else (padding, limit)

    @property
    def kind(self) -> tuple:
        """What the slices of one series share."""
        return self.rows, self.cols, self.samples, self.allocated, self.signed, self.tag, self.photometric

    @property
    def dtype(self) -> np.dtype:
        """Stored type."""
        return np.dtype(f"{'ui'[self.signed] if self.tag == INTEGER else 'f'}{self.allocated // 8}")


def read_head(path: Path) -> Head:
    """Reads the tags before the pixels, and checks whether the pixels can be read.

    Raises:
        ValueError: no picture, one that is cut off, or one of a kind that is not supported.
    """
    with path.open("rb") as file:
        data = dcmread(file, stop_before_pixels=True, force=True)
        start, left = file.read(4), path.stat().st_size - file.tell()
    syntax = data.file_meta.get("TransferSyntaxUID") or (
        uid.ImplicitVRLittleEndian if data.original_encoding[0] else uid.ExplicitVRLittleEndian
    )
    if syntax == uid.DeflatedExplicitVRLittleEndian:
        raise Unreadable(f"{path}: its data set is deflated; save it as Explicit VR Little Endian.")
    order = "big" if syntax == uid.ExplicitVRBigEndian else "little"
    tag = int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:], order)
    if "Rows" not in data or "Columns" not in data or tag not in PIXELS:
        raise Unreadable(
            f"{path}: holds no picture, perhaps a report or an index, or it is cut off before its pixels; "
            "give an image, copied whole."
        )
    head = Head(path, data, syntax=str(syntax), tag=tag)
    _check(head, left)
    return head


def _scales(data: Dataset) -> tuple[tuple[float, float], ...]:
    def own(item: Dataset) -> tuple[float, float] | None:
        item = (item.get("PixelValueTransformationSequence") or [item])[0]
        return (float(item.RescaleSlope), float(item.get("RescaleIntercept", 0))) if "RescaleSlope" in item else None

    frames = [own(item) for item in data.get("PerFrameFunctionalGroupsSequence") or []]
    shared = own((data.get("SharedFunctionalGroupsSequence") or [data])[0]) or own(data) or (1.0, 0.0)
    return tuple(frame or shared for frame in frames) if any(frames) else (shared,)


def _check(head: Head, left: int) -> None:
    """left: bytes of the file after its tags."""
    path = head.path
    if not re.fullmatch(r"MONOCHROME[12]|RGB|YBR_(FULL|FULL_422|ICT|RCT)", head.photometric):
        raise Unreadable(f"{path}: its colours are no gray levels or RGB; convert palette and other colours to RGB.")
    if head.samples != (1 if head.photometric.startswith("MONO") else 3):
        raise Unreadable(f"{path}: {head.samples} samples a pixel do not fit its colour type; export it again.")
    known = (8, 16, 32) if head.tag == INTEGER else (32, 64)
    if head.allocated not in known or not 0 < head.bits <= head.allocated:
        raise Unreadable(
            f"{path}: {head.bits} of {head.allocated} bits are no gray levels; "
            "give an image of 8, 16 or 32 bits allocated, not a mask."
        )
    try:
        decoder = get_decoder(head.syntax)
    except NotImplementedError:
        raise Unreadable(
            f"{path}: its transfer syntax is not known here; save it uncompressed, as Explicit VR Little Endian."
        ) from None
    if not decoder.is_available:
        raise Unreadable(f"{path}: is compressed, and the decoder is not installed; {INSTALL}.")
    samples = 2 if head.photometric == "YBR_FULL_422" else head.samples
    needed = head.frames * head.rows * head.cols * samples * head.allocated // 8
    if not decoder.is_encapsulated and left < needed:
        raise Unreadable(f"{path}: is cut off, {left} of {needed} bytes of pixels are left; copy it again.")


class Dicom(Scan):
    """One DICOM file of one or more frames, or the single-frame files of one series, in their order."""

    def __init__(self, path: Path, heads: list[Head] | None = None):
        """heads: of the files of a series in the folder `path`, in their order; None: `path` is one file."""
        self.several = heads is not None
        self.heads = heads or [read_head(path)]
        first, count = self.heads[0], self.heads[0].frames
        if self.several:
            _check_series(path, self.heads)
            count = len(self.heads)
        elif first.frames == 1:
            self.series, self.identity = first.series, first.uid
        suffix = first.path.suffix.lower()
        self.endings = (suffix,) if suffix in (".dcm", ".dicom", ".ima") and not self.several else ()
        notes = ["Its YBR colours are written as RGB."] * first.photometric.startswith("YBR")
        notes += ["It is compressed and is written uncompressed."] * get_decoder(first.syntax).is_encapsulated
        places = [head.place for head in self.heads if head.place is not None]
        if len(set(places)) < len(places):
            notes.append("Several of its slices lie at one place; they follow each other by InstanceNumber.")
        shape, dtype, colours = (first.rows, first.cols) + (3,) * (first.samples == 3), first.dtype, first.samples
        bits, self.note = max(head.bits for head in self.heads), " ".join(notes)
        super().__init__(path, slices=count, sample_shape=shape, dtype=dtype, colours=colours, bits=bits)
        (self.slope, self.intercept), self.unit = self.scale(0), first.unit

    @classmethod
    def join(cls, scans: Sequence["Dicom"], folder: Path) -> "Dicom":
        """Along the slices' common normal where there is one, else by InstanceNumber."""
        heads = [scan.heads[0] for scan in scans]
        placed = all(head.place is not None for head in heads) and len({head.normal for head in heads}) == 1
        heads.sort(key=lambda head: (round(head.place, 3) if placed else 0.0, head.number, head.path.name))
        return cls(folder, heads)

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
        try:
            with explained(head.path):
                return pixel_array(head.path, index=frame, correct_unused_bits=False, transfer_syntax_uid=head.syntax)
        except Unreadable:
            if not get_decoder(head.syntax).is_encapsulated:
                raise
            raise Unreadable(f"{head.path}: its compressed pixels cannot be decoded; {INSTALL}.") from None

    def values(self, stored: np.ndarray) -> np.ndarray:
        unused = 8 * self.dtype.itemsize - self.bits
        return stored << unused >> unused if unused and self.dtype.kind in "iu" else stored

    def padding(self, index: int, stored: np.ndarray) -> np.ndarray | None:
        limits = self._of(index)[0].padding
        if limits is None or stored.ndim == 3:
            return None
        if self.dtype.kind in "iu":  # some files give the padding of signed pixels as unsigned
            word = np.dtype(f"u{self.dtype.itemsize}")
            limits = [np.array(int(value) & np.iinfo(word).max, word).view(self.dtype) for value in limits]
        low, high = min(limits), max(limits)
        return np.logical_or(*[(low <= array) & (array <= high) for array in (stored, self.values(stored))])

    def may_replace(self, target: Path) -> bool:
        tag = "DerivationDescription"
        with explained(target):
            return all(
                file.is_file() and MARK in str(dcmread(file, specific_tags=[tag]).get(tag, ""))
                for file in target.iterdir()
            )

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        if not self.several:
            os.truncate(part, (part.stat().st_size + 1) // 2 * 2)  # DICOM values have an even length
            with part.open("rb") as pixels:
                self._write(self.heads[0], temporary, pixels=pixels, note=note)
            return
        size = part.stat().st_size // self.slices
        with part.open("rb") as source:
            for number, head in enumerate(self.heads, start=1):
                pixels = BytesIO(source.read(size) + b"\0" * (size % 2))
                self._write(head, temporary / f"{number:04d}.dcm", pixels=pixels, note=note)

    def _write(self, head: Head, target: Path, *, pixels, note: str) -> None:
        with explained(head.path):
            data = dcmread(head.path, force=True, defer_size="64 KB")
            for tag in (0x7FE00001, 0x7FE00002):  # offsets of compressed frames
                data.pop(tag, None)
            data[head.tag] = DataElement(head.tag, "OB" if self.dtype.itemsize == 1 else PIXELS[head.tag], pixels)
            if head.samples == 3:
                data.PhotometricInterpretation, data.PlanarConfiguration = "RGB", 0
            words = " ".join(f"{MARK} {note}".split()).encode("ascii", "replace").decode()
            data.DerivationDescription = words[:1024]
            data.ImageType = ["DERIVED", "SECONDARY", *list(data.get("ImageType") or [])[2:]]
            data.SOPInstanceUID = uid.generate_uid(entropy_srcs=[head.uid or str(head.path), words])
            data.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[head.series or head.uid or str(head.path), words])
            data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            data.file_meta.MediaStorageSOPClassUID = data.get(
                "SOPClassUID", data.file_meta.get("MediaStorageSOPClassUID", "1.2.840.10008.5.1.4.1.1.7")
            )
            if head.syntax == uid.ExplicitVRBigEndian:
                _swap_words(data, head.tag)
            dcmwrite(target, data, enforce_file_format=True)


def _swap_words(data: Dataset, pixels: int) -> None:
    for element in data.iterall():  # pydicom turns numbers round, but not the words within bytes
        size = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}.get(element.VR)
        if size and element.tag != pixels and element.value:
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()


def _check_series(folder: Path, heads: list[Head]) -> None:
    sizes = sorted({f"{head.rows}x{head.cols}" for head in heads})
    if len(sizes) > 1:
        raise Unreadable(
            f"{folder}: one series holds slices of {' and '.join(sizes)}; "
            "give its files one by one, or each size in a folder of its own."
        )
    if len({head.kind for head in heads}) > 1:
        raise Unreadable(
            f"{folder}: one series holds slices of several types; "
            "give its files one by one, or each type in a folder of its own."
        )
