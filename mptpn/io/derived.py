"""A denoised DICOM object: an image derived from another one, as an archive expects it (PS3.3, C.7.6.1.1.2, C.12.1).

Its new UIDs depend on the old ones and the note alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmwrite, uid
from pydicom.dataelem import DataElement

from mptpn import __version__
from mptpn.io.dicom_head import MARK, PIXELS, Head

SMOOTHING = "113087", "Smoothing"  # PS3.16, CID 7203
SOURCE = "121322", "Source image for image processing operation"  # CID 7202
PROCESSING = "109102", "Processing Equipment"  # CID 7005
PET = uid.PositronEmissionTomographyImageStorage  # whose images are primary all (C.8.9.4.1.3)
SERIES = 1000  # is added to the number of the series
STALE = (  # true of the old pixels, or of the old object, alone
    "SmallestImagePixelValue LargestImagePixelValue SmallestPixelValueInSeries LargestPixelValueInSeries "
    "InstanceCreationDate InstanceCreationTime InstanceCreatorUID DigitalSignaturesSequence MACParametersSequence "
    "ExtendedOffsetTable ExtendedOffsetTableLengths"
).split()


@dataclass(frozen=True)
class Words:
    """What is said of the derivation, ASCII."""

    text: str

    @classmethod
    def of(cls, note: str) -> "Words":
        return cls(" ".join(f"{MARK} {note}".split()).encode("ascii", "replace").decode()[:1024])

    def uid(self, old: str) -> str:
        """The new one for an old one."""
        return uid.generate_uid(entropy_srcs=[old, self.text])


def write_derived(data: Dataset, target: Path, *, head: Head, pixels, itemsize: int, words: Words) -> None:
    """Write the object with other pixels, uncompressed, as a derived one of a series of its own.

    Args:
        data: the source, changed here. pixels: a file of stored values, little endian. itemsize: bytes of one.
    """
    source = _reference(data, head)
    for keyword in STALE:
        if keyword in data:
            del data[keyword]
    data[head.tag] = DataElement(head.tag, "OB" if itemsize == 1 else PIXELS[head.tag], pixels)
    if head.samples == 3:
        data.PhotometricInterpretation, data.PlanarConfiguration = "RGB", 0
    _identify(data, head, words)
    if "SharedFunctionalGroupsSequence" in data or "PerFrameFunctionalGroupsSequence" in data:
        _derive_frames(data, source, words)
        if source and head.series:
            data.SourceImageEvidenceSequence = [*_items(data, "SourceImageEvidenceSequence"), _evidence(data, head)]
    else:
        kinds = list(data.get("ImageType") or [])
        second = "PRIMARY" if data.get("SOPClassUID") == PET else "SECONDARY"
        data.ImageType = ["DERIVED", second, *kinds[2:]]
        _derive(data, source, words)
    data.ContributingEquipmentSequence = [*_items(data, "ContributingEquipmentSequence"), _equipment(words)]
    if head.syntax == uid.ExplicitVRBigEndian:
        _swap_words(data, head.tag)
    data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dcmwrite(target, data, enforce_file_format=True, little_endian=True, implicit_vr=False)


def _items(data: Dataset, keyword: str) -> list[Dataset]:
    return list(data.get(keyword) or [])


def _identify(data: Dataset, head: Head, words: Words) -> None:
    """An instance and a series of its own in the same study."""
    own = head.uid or str(head.path)
    data.SOPInstanceUID, data.SeriesInstanceUID = words.uid(own), words.uid(head.series or own)
    data.SeriesNumber = SERIES + head.series_number
    data.SeriesDescription = f"{str(data.get('SeriesDescription') or '').strip()[:55]} denoised".strip()
    meta = data.file_meta
    kind = data.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID = data.SOPInstanceUID, kind


def _reference(data: Dataset, head: Head) -> list[Dataset]:
    """The source as an item of a sequence; [] where it has no UID of its own."""
    if not (head.uid and data.get("SOPClassUID")):
        return []
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = data.SOPClassUID, head.uid
    item.PurposeOfReferenceCodeSequence = [_code(*SOURCE)]
    return [item]


def _derive(data: Dataset, source: list[Dataset], words: Words) -> None:
    """Adds the derivation to a data set or to an item of a DerivationImageSequence."""
    data.DerivationDescription = words.text
    data.DerivationCodeSequence = [*_items(data, "DerivationCodeSequence"), _code(*SMOOTHING)]
    if source:
        data.SourceImageSequence = [*_items(data, "SourceImageSequence"), *source]


def _derive_frames(data: Dataset, source: list[Dataset], words: Words) -> None:
    """Of a multi-frame object with functional groups: in the groups (PS3.3, C.7.6.16.2.6), its frame types too."""
    data.DerivationDescription = words.text
    kinds = list(data.get("ImageType") or ["ORIGINAL", "PRIMARY"])
    data.ImageType = ["DERIVED", *kinds[1:]]
    shared, frames = (_items(data, f"{name}FunctionalGroupsSequence") for name in ("Shared", "PerFrame"))
    for group in [*shared, *frames]:
        for element in group:
            if element.keyword.endswith("FrameTypeSequence"):
                for item in element.value:
                    item.FrameType = ["DERIVED", *list(item.get("FrameType") or kinds)[1:]]
    already = [group for group in frames if "DerivationImageSequence" in group]
    if not already and not shared:
        data.SharedFunctionalGroupsSequence = shared = [Dataset()]
    for group in already or shared[:1]:
        item = Dataset()
        _derive(item, source, words)
        group.DerivationImageSequence = [*_items(group, "DerivationImageSequence"), item]


def _evidence(data: Dataset, head: Head) -> Dataset:
    """Where the source is found: its study, series and instance."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = data.SOPClassUID, head.uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = head.series, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = data.get("StudyInstanceUID"), [series]
    return study


def _equipment(words: Words) -> Dataset:
    item = Dataset()
    item.Manufacturer = item.ManufacturerModelName = "mptpn"
    item.SoftwareVersions, item.ContributionDescription = __version__, words.text
    item.PurposeOfReferenceCodeSequence = [_code(*PROCESSING)]
    return item


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item


def _swap_words(data: Dataset, pixels: int) -> None:
    """From big to little endian; pydicom turns numbers round, but not the words within bytes."""
    for element in _with_words(data):
        if element.tag != pixels and element.value:
            size = {"OW": 2, "OL": 4, "OF": 4, "OD": 8, "OV": 8}[element.VR]
            element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()


def _with_words(data: Dataset) -> Iterable[DataElement]:
    return (element for element in data.iterall() if element.VR in ("OW", "OL", "OF", "OD", "OV"))
