"""What is kept of one DICOM file: its tags as they really are, empty, missing or odd, and where its pixels lie.

A missing or empty attribute has the default of the standard (PS3.3, sections C.7.6.3, C.11.1 and 10.7). One that has no
default, or no possible value, is named in a sentence.
"""

import re
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, uid
from pydicom.pixels import get_decoder

from mptpn.io.dicom_tags import Tags, opened
from mptpn.io.refusals import NoImage, Unreadable

INTEGER = 0x7FE00010  # tag of pixel data
PIXELS = {0x7FE00008: "OF", 0x7FE00009: "OD", INTEGER: "OW"}  # float, double, integer
KEYWORDS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", INTEGER: "PixelData"}
LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")  # explicit types of pixel data
# defined terms, not free text
UNITS = set("HU OD MGML Z_EFF ED EDW HU_MOD PCT BQML CNTS PROPCNTS GML CM2ML PERCENT".split())
MARK = "denoised by mptpn"
INSTALL = 'pip install "pylibjpeg[libjpeg,openjpeg]", or save it uncompressed'


class Head:
    """What is kept of one DICOM file; no tag that names a person.

    Attributes:
        shift: unused bits below those of the picture. scales: slope and intercept of each frame, or of all.
        normal, place: of the slice's plane, x, y, z; along it, mm; None where they are not known.
        padding: ranges of stored values that are no picture.
        start: byte at which the pixels begin. options: what pydicom's decoder has to know.
    """

    def __init__(self, path: Path, data: Dataset, *, syntax: str, tag: int):
        """tag: of the pixel data."""
        tags = Tags(path, data)
        self.path, self.syntax, self.tag, self.start = path, syntax, tag, 0
        self.uid, self.series = (_lenient(tags.text, name, "") for name in ("SOPInstanceUID", "SeriesInstanceUID"))
        self.number = _lenient(tags.number, "InstanceNumber", 0) or 0
        self.series_number = _lenient(tags.number, "SeriesNumber", 0) or 0
        self.frames = tags.number("NumberOfFrames", 1) or 1
        self.rows, self.cols = tags.needed("Rows"), tags.needed("Columns")
        self.photometric = tags.text("PhotometricInterpretation")
        colours = 3 if self.photometric.startswith(("RGB", "YBR")) else 1
        self.samples, self.planar = tags.number("SamplesPerPixel", colours), tags.number("PlanarConfiguration", 0)
        self.photometric = self.photometric or ("RGB" if self.samples == 3 else "MONOCHROME2")
        self._bits(tags)
        along, at = tags.floats("ImageOrientationPatient", 6), tags.floats("ImagePositionPatient", 3)
        self.normal = self.place = None
        if along:
            self.normal = tuple(map(float, np.cross(along[:3], along[3:]).round(4)))
            self.place = float(np.dot(np.array(at, float), self.normal)) if at else None
        self.scales, rescaled = _scales(path, data)
        self.modality = tags.text("Modality").strip().upper()
        hounsfield = self.modality == "CT" and rescaled
        unit = _lenient(tags.text, "RescaleType", "") or _lenient(tags.text, "Units", "") or "HU" * hounsfield
        self.unit = unit if unit in UNITS else "stored value"
        self.padding = _padding(tags, float if tag != INTEGER else int)
        kinds = [str(kind) for kind in _lenient(tags.all, "ImageType", [])]
        self.localizer = "LOCALIZER" in kinds
        self.derived = MARK in _lenient(tags.text, "DerivationDescription", "")

    def _bits(self, tags: Tags) -> None:
        """Bits a sample in the file, and which of them are picture (PS3.5, 8.1.1)."""
        self.allocated = tags.needed("BitsAllocated")
        self.bits = tags.number("BitsStored", self.allocated)
        self.signed = tags.number("PixelRepresentation", 0)
        if self.signed not in (0, 1):
            raise tags.refusal("PixelRepresentation", "is neither 0 nor 1")
        high = tags.number("HighBit", self.bits - 1)
        self.shift = high + 1 - self.bits if self.tag == INTEGER and not is_encapsulated(self.syntax) else 0
        if self.shift and 0 < self.bits <= self.allocated > 7 and not self.bits <= high + 1 <= self.allocated:
            raise tags.refusal("HighBit", f"does not fit {self.bits} bits stored of {self.allocated}")

    @property
    def kind(self) -> tuple:
        """What the slices of one series share."""
        kind = self.rows, self.cols, self.samples, self.allocated, self.signed, self.tag, self.photometric
        return *kind, self.shift, self.localizer

    @property
    def dtype(self) -> np.dtype:
        """Stored type."""
        return np.dtype(f"{'ui'[self.signed] if self.tag == INTEGER else 'f'}{self.allocated // 8}")

    @property
    def options(self) -> dict:
        """Of pydicom's decoder."""
        return {
            "rows": self.rows,
            "columns": self.cols,
            "samples_per_pixel": self.samples,
            "photometric_interpretation": self.photometric,
            "planar_configuration": self.planar,
            "bits_allocated": self.allocated,
            "bits_stored": self.bits,
            "pixel_representation": self.signed,
            "number_of_frames": self.frames,
            "pixel_keyword": KEYWORDS[self.tag],
            "pixel_vr": "OW" if self.tag == INTEGER else PIXELS[self.tag],
            "transfer_syntax_uid": uid.UID(self.syntax),
            "correct_unused_bits": False,
        }


def _lenient(read, keyword: str, default):
    """For attributes that a scan can do without."""
    try:
        return read(keyword) or default
    except Unreadable:
        return default


def is_encapsulated(syntax: str) -> bool:
    """Whether pixels of this transfer syntax are compressed."""
    return uid.UID(syntax).is_transfer_syntax and uid.UID(syntax).is_encapsulated


def _padding(tags: Tags, kind: type) -> list[tuple]:
    """Ranges of stored values; several values, which the standard does not know, are padding each."""
    prefix = "" if kind is int else "Float"
    values, limits = tags.all(f"{prefix}PixelPaddingValue"), tags.all(f"{prefix}PixelPaddingRangeLimit")
    try:
        values, limits = ([kind(value) for value in found] for found in (values, limits))
    except (TypeError, ValueError, OverflowError):
        raise tags.refusal(f"{prefix}PixelPaddingValue", "is no number") from None
    if len(values) == len(limits) == 1:
        return [(values[0], limits[0])]
    return [(value, value) for value in values]


def _scales(path: Path, data: Dataset) -> tuple[tuple[tuple[float, float], ...], bool]:
    """Slope and intercept of each frame or of all; whether the file has an intercept."""

    def first(item: Dataset, keyword: str) -> Dataset | None:
        found = Tags(path, item).all(keyword)
        return found[0] if found and isinstance(found[0], Dataset) else None

    def own(item: Dataset) -> tuple[float, float] | None:
        tags = Tags(path, first(item, "PixelValueTransformationSequence") or item)
        slope, intercept = (tags.number(name, kind=float) for name in ("RescaleSlope", "RescaleIntercept"))
        if slope == 0:
            raise tags.refusal("RescaleSlope", "is 0, so that all pixels have one value")
        if intercept is not None:
            intercepts.append(intercept)
        return None if slope is None and intercept is None else (1.0 if slope is None else slope, intercept or 0.0)

    intercepts: list[float] = []
    groups = Tags(path, data).all("PerFrameFunctionalGroupsSequence")
    frames = [own(item) for item in groups if isinstance(item, Dataset)]
    shared = own(first(data, "SharedFunctionalGroupsSequence") or data) or own(data)
    scales = tuple(frame or shared or (1.0, 0.0) for frame in frames) if any(frames) else (shared or (1.0, 0.0),)
    return scales, bool(intercepts)


def read_head(path: Path) -> Head:
    """Reads the tags before the pixels, and checks whether the pixels can be read.

    Raises:
        NoImage: a whole file of another kind, such as a report or an index.
        ValueError: no picture, one that is cut off, or one of a kind that is not supported.
    """
    with opened(path) as file:
        data = dcmread(file, stop_before_pixels=True, force=True)
        start, at = file.read(12), file.tell()
        left = file.seek(0, 2) - at
    explicit = start[4:6] in LONG
    little = data.original_encoding[1] is not False
    native = uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian
    syntax = str(data.file_meta.get("TransferSyntaxUID") or "") or native
    if syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        syntax = native  # what it means for pixels
    order = "little" if little else "big"
    tag = int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:4], order)
    _check_picture(path, data, tag)
    head = Head(path, data, syntax=str(syntax), tag=tag)
    head.start = at if explicit else at - 4
    length = int.from_bytes(start[8:12] if explicit else start[4:8], order)
    _check(head, left if explicit else left + 4, length)
    return head


def _check_picture(path: Path, data: Dataset, tag: int) -> None:
    if "Rows" in data and tag in PIXELS:
        return
    try:
        kind = uid.UID(str(data.get("SOPClassUID") or data.file_meta.get("MediaStorageSOPClassUID") or ""))
    except Exception:  # a damaged value
        kind = uid.UID("")
    whole = bool(kind) and "Image Storage" not in kind.name and kind.is_private is False
    if tag in PIXELS and not whole:
        raise Tags(path, data).refusal("Rows", "is missing or empty")
    reason = "a report, an index or another object without pixels" if whole else "perhaps it is cut off before them"
    raise (NoImage if whole else Unreadable)(f"{path}: holds no picture, {reason}; give an image, copied whole.")


def _check(head: Head, left: int, length: int) -> None:
    """left: bytes of the file from its pixels on. length: of the pixels, as the file says."""
    path = head.path
    if not re.fullmatch(r"MONOCHROME[12]|RGB|YBR_(FULL|FULL_422|ICT|RCT)", head.photometric):
        raise Unreadable(f"{path}: its colours are no gray levels or RGB; convert palette and other colours to RGB.")
    if head.samples != (1 if head.photometric.startswith("MONO") else 3):
        raise Unreadable(f"{path}: {head.samples} samples a pixel do not fit its colour type; export it again.")
    known = (8, 16, 32) if head.tag == INTEGER else (32, 64)
    if head.allocated not in known or not 0 < head.bits <= head.allocated:
        raise Unreadable(
            f"{path}: {head.bits} of {head.allocated} bits are no gray levels (BitsStored, BitsAllocated); "
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
    if decoder.is_encapsulated:
        return
    if length == 0xFFFFFFFF:
        raise Unreadable(
            f"{path}: its pixels are compressed, but TransferSyntaxUID says they are not; export it again."
        )
    if min(left, length) < needed:
        found = min(left, length)
        raise Unreadable(f"{path}: is cut off, {found} of {needed} bytes of pixels are left; copy it again.")
