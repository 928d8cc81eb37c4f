"""DICOM files and series as scans; written as derived images, uncompressed, with new UIDs that depend on the old ones
and the note alone.
"""

import os
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataelem import DataElement
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from mptpn.io.scan import Scan, Unreadable, explained

PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", 0x7FE00010: "OW"}  # float, double, integer pixel data
# defined terms, not free text
UNITS = {
    "HU",
    "OD",
    "MGML",
    "Z_EFF",
    "ED",
    "EDW",
    "HU_MOD",
    "PCT",
    "BQML",
    "CNTS",
    "PROPCNTS",
    "GML",
    "CM2ML",
    "PERCENT",
}
MARK = "denoised by mptpn"


@dataclass(frozen=True)
class Head:
    """What is remembered of one DICOM file; no tag that names a person."""

    path: Path
    uid: str
    series: str
    number: int
    normal: tuple[float, ...] | None  # of the slice's plane, x, y, z
    place: float | None  # along that normal, mm
    syntax: str
    rows: int
    cols: int
    samples: int
    bits: tuple[int, int, int]  # allocated, stored, signed
    tag: int  # of the pixel data
    photometric: str
    frames: int
    scales: tuple[tuple[float, float], ...]  # slope and intercept of each frame, or of all
    unit: str
    padding: tuple[float, float] | None

    @property
    def kind(self) -> tuple:
        """What the slices of one series share."""
        return self.rows, self.cols, self.samples, self.bits[0], self.bits[2], self.tag, self.photometric

    @property
    def dtype(self) -> np.dtype:
        """Stored type."""
        return np.dtype(
            f"f{self.bits[0] // 8}" if self.tag != 0x7FE00010 else f"{'ui'[self.bits[2]]}{self.bits[0] // 8}"
        )


def head_of(path: Path) -> Head:
    """Read the tags before the pixels and judge whether the pixels can be read.

    Raises:
        ValueError: no picture, one that is cut off, or one of a kind that is not supported.
    """
    with explained(path), path.open("rb") as file:
        data = dcmread(file, stop_before_pixels=True, force=True)
        syntax = data.file_meta.get("TransferSyntaxUID") or (
            ImplicitVRLittleEndian if data.original_encoding[0] else ExplicitVRLittleEndian
        )
        start = file.read(4)
        left = path.stat().st_size - file.tell()
        if syntax == DeflatedExplicitVRLittleEndian:
            raise Unreadable(f"{path}: its data set is deflated; save it as Explicit VR Little Endian.")
        order = "big" if syntax == ExplicitVRBigEndian else "little"
        tag = int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:], order)
        if "Rows" not in data or "Columns" not in data or tag not in PIXELS:
            raise Unreadable(
                f"{path}: holds no picture, perhaps a report or an index, or it is cut off before its pixels; give an image, copied whole."
            )
        head = _head(path, data, str(syntax), tag)
        _check(head, left)
        return head


def _head(path: Path, data: Dataset, syntax: str, tag: int) -> Head:
    unit = str(
        data.get("RescaleType")
        or data.get("Units")
        or ("HU" if data.get("Modality") == "CT" and "RescaleIntercept" in data else "")
    )
    at, along = data.get("ImagePositionPatient"), data.get("ImageOrientationPatient")
    normal = (
        tuple(float(value) for value in np.cross(along[:3], along[3:]).round(4)) if along and len(along) == 6 else None
    )
    place = float(np.dot(np.array(at, float), normal)) if normal and at and len(at) == 3 else None
    padding = data.get("PixelPaddingValue", data.get("FloatPixelPaddingValue"))
    limit = data.get("PixelPaddingRangeLimit", data.get("FloatPixelPaddingRangeLimit", padding))
    return Head(
        path=path,
        uid=str(data.get("SOPInstanceUID", "")),
        series=str(data.get("SeriesInstanceUID", "")),
        number=int(data.get("InstanceNumber") or 0),
        normal=normal,
        place=place,
        syntax=syntax,
        rows=int(data.Rows),
        cols=int(data.Columns),
        samples=int(data.get("SamplesPerPixel", 1)),
        bits=(
            int(data.BitsAllocated),
            int(data.get("BitsStored", data.BitsAllocated)),
            int(data.get("PixelRepresentation", 0)),
        ),
        tag=tag,
        photometric=str(data.PhotometricInterpretation),
        frames=int(data.get("NumberOfFrames") or 1),
        scales=_scales(data),
        unit=unit if unit in UNITS else "stored value",
        padding=None if padding is None else (padding, limit),
    )


def _scales(data: Dataset) -> tuple[tuple[float, float], ...]:
    def own(item: Dataset) -> tuple[float, float] | None:
        item = (item.get("PixelValueTransformationSequence") or [item])[0]
        return (float(item.RescaleSlope), float(item.get("RescaleIntercept", 0))) if "RescaleSlope" in item else None

    frames = [own(item) for item in data.get("PerFrameFunctionalGroupsSequence") or []]
    shared = own((data.get("SharedFunctionalGroupsSequence") or [data])[0]) or own(data) or (1.0, 0.0)
    return tuple(frame or shared for frame in frames) if any(frames) else (shared,)


def _check(head: Head, left: int) -> None:
    path, (allocated, stored, _) = head.path, head.bits
    if not re.fullmatch(r"MONOCHROME[12]|RGB|YBR_(FULL|FULL_422|ICT|RCT)", head.photometric):
        raise Unreadable(f"{path}: its colours are no gray levels or RGB; convert palette and other colours to RGB.")
    if head.samples != (1 if head.photometric.startswith("MONO") else 3):
        raise Unreadable(f"{path}: {head.samples} samples a pixel do not fit its colour type; export it again.")
    if allocated not in ((8, 16, 32) if head.tag == 0x7FE00010 else (32, 64)) or not 0 < stored <= allocated:
        raise Unreadable(
            f"{path}: {stored} of {allocated} bits are no gray levels; give an image of 8, 16 or 32 bits allocated, not a mask."
        )
    try:
        decoder = get_decoder(head.syntax)
    except NotImplementedError:
        raise Unreadable(
            f"{path}: its transfer syntax is not known here; save it uncompressed, as Explicit VR Little Endian."
        ) from None
    if not decoder.is_available:
        raise Unreadable(
            f"{path}: is compressed, and the decoder is not installed; pip install pylibjpeg[all], or save it uncompressed."
        )
    samples = 2 if head.photometric == "YBR_FULL_422" else head.samples
    needed = head.frames * head.rows * head.cols * samples * allocated // 8
    if not decoder.is_encapsulated and left < needed:
        raise Unreadable(f"{path}: is cut off, {left} of {needed} bytes of pixels are left; copy it again.")


class Dicom(Scan):
    """One DICOM file of one or more frames, or the single-frame files of one series, in their order."""

    def __init__(self, heads: list[Head], *, folder: Path | None = None):
        """folder: of the series; None: `heads` is one file."""
        first = heads[0]
        path, self.heads, self.series = folder or first.path, heads, folder is not None
        sizes = sorted({f"{head.rows}x{head.cols}" for head in heads})
        if len(sizes) > 1:
            raise Unreadable(
                f"{path}: one series holds slices of {' and '.join(sizes)}; give its files one by one, or each size in a folder of its own."
            )
        if len({head.kind for head in heads}) > 1:
            raise Unreadable(
                f"{path}: one series holds slices of several types; give its files one by one, or each type in a folder of its own."
            )
        suffix = first.path.suffix.lower()
        self.endings = (suffix,) if suffix in (".dcm", ".dicom", ".ima") and not self.series else ()
        colour = first.samples == 3
        notes = ["Its YBR colours are written as RGB."] * first.photometric.startswith("YBR")
        notes += ["It is compressed and is written uncompressed."] * get_decoder(first.syntax).is_encapsulated
        places = [(head.place, head.number) for head in heads if head.place is not None]
        notes += ["Several of its slices lie at one place; they follow each other by InstanceNumber."] * (
            len({p for p, _ in places}) < len(places)
        )
        shape = (first.rows, first.cols, 3) if colour else (first.rows, first.cols)
        bits = max(head.bits[1] for head in heads)
        slices = len(heads) if self.series else first.frames
        super().__init__(
            path,
            slices=slices,
            sample_shape=shape,
            dtype=first.dtype,
            colours=3 if colour else 1,
            bits=bits,
            note=" ".join(notes),
        )
        (self.slope, self.intercept), self.unit = self.scale(0), first.unit

    def sources(self) -> list[Path]:
        return [head.path for head in self.heads]

    def _of(self, index: int) -> tuple[Head, int]:
        return (self.heads[index], 0) if self.series else (self.heads[0], index)

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
            raise Unreadable(
                f"{head.path}: its compressed pixels cannot be decoded; pip install pylibjpeg[all], or save it uncompressed."
            ) from None

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
        def ours(file: Path) -> bool:
            return file.is_file() and MARK in str(
                dcmread(file, specific_tags=["DerivationDescription"]).get("DerivationDescription", "")
            )

        with explained(target):
            return all(ours(file) for file in target.iterdir())

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        if not self.series:
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
            data.SOPInstanceUID = generate_uid(entropy_srcs=[head.uid or str(head.path), words])
            data.SeriesInstanceUID = generate_uid(entropy_srcs=[head.series or head.uid or str(head.path), words])
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
            data.file_meta.MediaStorageSOPClassUID = data.get(
                "SOPClassUID", data.file_meta.get("MediaStorageSOPClassUID", "1.2.840.10008.5.1.4.1.1.7")
            )
            if head.syntax == ExplicitVRBigEndian:
                _swap_words(data, head.tag)
            dcmwrite(target, data, enforce_file_format=True)


def _swap_words(data: Dataset, pixels: int) -> None:
    for element in data.iterall():  # pydicom turns numbers round, but not the words within bytes
        size = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}.get(element.VR)
        if size and element.tag != pixels and element.value:
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()


def in_order(heads: list[Head]) -> list[Head]:
    """Along the common normal where there is one, else by InstanceNumber."""
    placed = all(head.place is not None for head in heads) and len({head.normal for head in heads}) == 1
    return sorted(heads, key=lambda head: (round(head.place, 3) if placed else 0.0, head.number, head.path.name))
