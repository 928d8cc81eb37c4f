"""Medical files of known pixels, as the libraries themselves write them."""

import nibabel
import numpy as np
import tifffile
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid

from mptpn.io import Writer

PATIENT = "DOE^JANE"


def samples(shape, dtype, seed=0):
    """Every kind of value of a type, its ends among them."""
    random, dtype = np.random.default_rng(seed), np.dtype(dtype)
    if dtype.kind == "f":
        return random.normal(0, 100, shape).astype(dtype)
    ends = np.iinfo(dtype)
    array = random.integers(ends.min, ends.max, shape, dtype=dtype.newbyteorder("="), endpoint=True).astype(dtype)
    array.flat[0], array.flat[-1] = ends.min, ends.max
    return array


def dataset(pixels, *, bits=None, series="1.2.3", number=1, place=None, syntax=ExplicitVRLittleEndian, **tags):
    """One CT-like DICOM data set of [H, W], [H, W, 3] or, by frames=True, [N, H, W]."""
    data, frames = Dataset(), tags.pop("frames", False)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid(entropy_srcs=[series, str(number)])
    data.SeriesInstanceUID, data.StudyInstanceUID, data.InstanceNumber = series, "1.2", number
    data.PatientName, data.PatientID, data.Modality = PATIENT, "ID-" + PATIENT, "CT"
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    if place is not None:
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, place], [1, 0, 0, 0, 1, 0]
    if frames:
        data.NumberOfFrames = len(pixels)
    colour = pixels.shape[-1] == 3 and not frames
    data.Rows, data.Columns = pixels.shape[:2] if colour else pixels.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else tags.pop("photometric", "MONOCHROME2")
    if colour:
        data.PlanarConfiguration = 0
    size = 8 * pixels.dtype.itemsize
    bits = bits or size
    data.BitsAllocated, data.BitsStored, data.HighBit = size, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    data.add_new(0x7FE00010, "OB" if size == 8 else "OW", stored + b"\0" * (len(stored) % 2))
    for keyword, value in tags.items():
        setattr(data, keyword, value)
    return data


def save_dicom(path, pixels, **arguments):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = dataset(pixels, **arguments)
    data.save_as(path, enforce_file_format=True)
    return path


def copied(scan, folder, **arguments):
    """Strength 0: every slice read and written unchanged."""
    with Writer(scan, folder, **arguments) as writer:
        for index in range(writer.done, scan.slices):
            writer.write(index, scan.read(index).pixels)
    return writer.target


def same(left, right):
    left, right = np.asarray(left), np.asarray(right)
    assert left.dtype.newbyteorder("=") == right.dtype.newbyteorder("=") and left.shape == right.shape
    np.testing.assert_array_equal(left, right)


def series(folder, *, count=5, places=None, **arguments):
    arrays = [samples((5, 7), "i2", seed) for seed in range(count)]
    for number, array in enumerate(arrays):
        place = number * -2.5 if places is None else places[number]
        save_dicom(folder / f"im{number}.dcm", array, number=number + 1, place=place, **arguments)
    return arrays


def volume(folder, kind):
    array = samples((5, 6, 7), "i2")
    if kind == "npy":
        np.save(folder / "v.npy", array)
    elif kind in ("nii", "nii.gz"):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"v.{kind}")
    elif kind == "tif":
        tifffile.imwrite(folder / "v.tif", array)
    elif kind == "dcm":
        save_dicom(folder / "v.dcm", array, frames=True)
    else:
        series(folder / "v")
        return folder / "v"
    return folder / f"v.{kind}"
