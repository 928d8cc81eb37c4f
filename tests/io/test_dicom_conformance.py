"""A derived DICOM object has no error that its source has not, as dciodvfy (dicom3tools) judges them."""

import re
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from file_makers import copied, dataset
from mptpn.io import open_scan

COMMON = {
    "PatientBirthDate": "19700101",
    "PatientSex": "O",
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "AccessionNumber": "1",
    "ReferringPhysicianName": "A^B",
    "StudyID": "1",
    "SeriesNumber": 3,
    "Manufacturer": "maker",
    "SeriesDescription": "thorax",
    "ContentDate": "20200101",
    "ContentTime": "120000",
    "InstanceCreationDate": "20200101",
    "SmallestImagePixelValue": 1,
}
PLANE = {"ImagePositionPatient": [0, 0, 0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}
PLANE |= {"SliceThickness": 1, "FrameOfReferenceUID": "1.2.77", "PositionReferenceIndicator": ""}
CLASSES = {  # SOP class, modality, tags
    "CT": ("1.2.840.10008.5.1.4.1.1.2", "CT", PLANE | {"RescaleIntercept": -1024, "RescaleSlope": 1, "KVP": 120}),
    "MR": ("1.2.840.10008.5.1.4.1.1.4", "MR", PLANE | {"ScanningSequence": "SE", "SequenceVariant": "NONE"}),
    "CR": ("1.2.840.10008.5.1.4.1.1.1", "CR", {"BodyPartExamined": "CHEST", "ViewPosition": "PA"}),
    "US": ("1.2.840.10008.5.1.4.1.1.6.1", "US", {}),
    "PET": ("1.2.840.10008.5.1.4.1.1.128", "PT", PLANE | {"RescaleIntercept": 0, "RescaleSlope": 0.37}),
    "enhanced MR": ("1.2.840.10008.5.1.4.1.1.4.1", "MR", {}),
}


def item(**tags) -> Dataset:
    data = Dataset()
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return data


def groups(frames: int) -> dict:
    """Functional groups of an enhanced MR image."""
    measures = item(PixelSpacing=[1, 1], SliceThickness=1, SpacingBetweenSlices=1)
    kind = item(FrameType=["ORIGINAL", "PRIMARY", "M", "NONE"], PixelPresentation="MONOCHROME")
    shared = item(
        PixelMeasuresSequence=[measures],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        MRImageFrameTypeSequence=[kind],
    )
    places = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])]) for z in range(frames)]
    return {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": places}


def saved(path, name):
    kind, modality, tags = CLASSES[name]
    frames = 2 if name == "enhanced MR" else 1
    pixels = np.random.default_rng(0).integers(0, 4000, (frames, 40, 50)).astype(np.uint16)
    extra = groups(frames) | {"frames": True} if frames > 1 else {}
    data = dataset(pixels if frames > 1 else pixels[0], bits=12, place=None, **(COMMON | tags | extra))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = kind
    data.Modality = modality
    data.ImageType = ["ORIGINAL", "PRIMARY", "M", "NONE"] if name == "enhanced MR" else ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.save_as(path, enforce_file_format=True)
    return path


def errors(path) -> set[str]:
    found = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True)
    lines = (found.stdout + found.stderr).splitlines()
    return {re.sub(r"\[\d+\]", "", line) for line in lines if line.startswith("Error")}


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("name", CLASSES)
def test_no_new_error(tmp_path, name):
    path = saved(tmp_path / "a.dcm", name)
    target = copied(open_scan(path), tmp_path / "out", note="(strength 1)")
    assert errors(target) - errors(path) == set()


@pytest.mark.parametrize("name", CLASSES)
def test_the_derivation_is_stated_in_codes_and_refers_to_the_source(tmp_path, name):
    path = saved(tmp_path / "a.dcm", name)
    before = pydicom.dcmread(path)
    back = pydicom.dcmread(copied(open_scan(path), tmp_path / "out", note="(strength 1)"))
    where = back if name != "enhanced MR" else back.SharedFunctionalGroupsSequence[0].DerivationImageSequence[0]
    code, source = where.DerivationCodeSequence[0], where.SourceImageSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("113087", "DCM", "Smoothing")
    assert source.ReferencedSOPInstanceUID == before.SOPInstanceUID and source.ReferencedSOPClassUID == back.SOPClassUID
    assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    equipment = back.ContributingEquipmentSequence[-1]
    assert equipment.Manufacturer == "mptpn" and equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert back.SeriesNumber == 1003 and back.SeriesDescription == "thorax denoised"
    assert back.ImageType[0] == "DERIVED" and back.StudyInstanceUID == before.StudyInstanceUID
    assert back.FrameOfReferenceUID == before.FrameOfReferenceUID if "FrameOfReferenceUID" in before else True
    assert "SmallestImagePixelValue" not in back and "InstanceCreationDate" not in back
    if name == "enhanced MR":
        frame = back.SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0]
        assert frame.FrameType[0] == "DERIVED" and back.ImageType[1] == "PRIMARY"
