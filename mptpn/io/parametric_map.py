"""The uncertainty of a DICOM image as a Parametric Map (PS3.3, A.75), by highdicom (extra `dicom`)."""

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from pydicom import Dataset, dcmread, dcmwrite

from mptpn import __version__
from mptpn.io.derived import SERIES, Words
from mptpn.io.dicom_head import Head
from mptpn.io.dicom_tags import opened
from mptpn.io.refusals import Unreadable

INSTALL = "pip install highdicom"
UNITS = {"HU": ("[hnsf'U]", "Hounsfield unit"), "BQML": ("Bq/ml", "Becquerels per milliliter")}  # UCUM
NO_UNIT = "1", "no units"
NEEDED = "PatientID PatientName PatientBirthDate PatientSex AccessionNumber StudyID StudyDate StudyTime".split()
NOW = "InstanceCreationDate InstanceCreationTime ContentDate ContentTime SeriesDate SeriesTime".split()
MADE = "InstanceCreationDate", "InstanceCreationTime"


def check_map(head: Head) -> None:
    """Unreadable where there can be no Parametric Map: no highdicom, colour, or no place in the patient."""
    if find_spec("highdicom") is None:
        raise Unreadable(f"{head.path}: a Parametric Map needs highdicom; {INSTALL}.")
    if head.samples != 1:
        raise Unreadable(f"{head.path}: a Parametric Map has no colours; leave --parametric-map out.")
    if not _source(head).get("FrameOfReferenceUID"):
        raise Unreadable(
            f"{head.path}: a Parametric Map needs FrameOfReferenceUID, which a projection has not; leave "
            "--parametric-map out."
        )


def write_map(target: Path, planes: np.ndarray, *, heads: Sequence[Head], unit: str, note: str) -> None:
    """Write the standard deviation of the error as one object that refers to the images it was found in.

    Args:
        planes: [frames, H, W] float32, in the unit. heads: of the files of a series, or of the one file.
        unit: of stored values that are rescaled. note: as in Writer.
    Raises:
        Unreadable: the images lack what such an object needs.
    """
    first, words = heads[0], Words.of(note)
    import highdicom
    from highdicom.pm import ParametricMap, RealWorldValueMapping
    from pydicom.sr.codedict import codes

    symbol, meaning = UNITS.get(unit, NO_UNIT)
    known = highdicom.sr.CodedConcept(symbol, "UCUM", meaning)
    mapping = RealWorldValueMapping(
        lut_label="SIGMA",
        lut_explanation="Standard deviation of the error of the denoised image",
        unit=known,
        value_range=(0.0, float(np.finfo(np.float32).max)),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.SCT.StandardDeviation,
    )
    high = float(planes.max()) or 1.0
    exact = highdicom.VOILUTFunctionValues.LINEAR_EXACT
    window = highdicom.VOILUTTransformation(window_center=high / 2, window_width=high, voi_lut_function=exact)
    own = first.uid or str(first.path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = ParametricMap(
                [_source(head) for head in heads],
                np.ascontiguousarray(planes, np.float32),
                series_instance_uid=words.uid(f"{first.series or own} uncertainty"),
                series_number=2 * SERIES + first.series_number,
                sop_instance_uid=words.uid(f"{own} uncertainty"),
                instance_number=1,
                manufacturer="mptpn",
                manufacturer_model_name="mptpn",
                software_versions=__version__,
                device_serial_number="0",
                contains_recognizable_visual_features=False,
                real_world_value_mappings=[mapping],
                voi_lut_transformations=[window],
                content_label="UNCERTAINTY",
                content_description="Standard deviation of the error",
                series_description="uncertainty of the denoised image",
            )
    except (AttributeError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise Unreadable(
            f"{first.path}: its uncertainty cannot be written as a Parametric Map ({type(error).__name__}), for the "
            "image lacks what such an object needs; leave --parametric-map out."
        ) from None
    _settle(made, _source(first), words.uid(f"{own} dimensions"))
    dcmwrite(target, made, enforce_file_format=True)


def _source(head: Head) -> Dataset:
    """The tags of an image; those that highdicom asks for are empty where they are missing."""
    with opened(head.path) as file:
        data = dcmread(file, stop_before_pixels=True, force=True)
    for keyword in NEEDED:
        if keyword not in data:
            setattr(data, keyword, "")
    return data


def _settle(made: Dataset, source: Dataset, dimensions: str) -> None:
    """The dates of the source and a known UID of the dimensions, so that the bytes depend on the input alone."""
    for keyword in ("DimensionOrganizationSequence", "DimensionIndexSequence"):
        for item in made.get(keyword, ()):
            item.DimensionOrganizationUID = dimensions
    for item in made.get("ContributingEquipmentSequence", ()):
        if "ContributionDateTime" in item:
            del item.ContributionDateTime
    for keyword in NOW:
        value = source.get(keyword) or source.get(keyword.replace("Content", "Study").replace("Series", "Study"))
        if keyword in made:
            if keyword in MADE or not value:
                del made[keyword]
            else:
                setattr(made, keyword, value)
