"""Medical files of known pixels, as the libraries themselves write them."""

import struct

import nibabel
import numpy as np
import pytest
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


def write_stk(path, planes):
    """MetaMorph: one directory for all planes, [N, H, W], uint16."""
    count, height, width = planes.shape
    start, tags = 8 + 2 + 12 * 11 + 4, []
    two = start + 8
    moments = b"".join(struct.pack("<6I", 0, 1, 2451545 + i, 1000 * i, 2451545, 0) for i in range(count))
    body = bytes(8) + moments
    pixels = start + len(body)
    layout = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1)]
    layout += [(273, 4, 1, pixels), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 2 * height * width)]
    layout += [(33628, 4, 1, start), (33629, 5, count, two)]
    for entry in layout:
        tags.append(struct.pack("<HHII", *entry))
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    path.write_bytes(head + body + planes.astype("<u2").tobytes())


def write_lzw(path, array, *, photometric):
    """TIFF of one page by LZW, of a kind that tifffile's own words cannot ask for."""
    tifffile.imwrite(path, array, photometric="miniswhite" if photometric == 0 else "minisblack", compression="lzw")


def write_zarr(path, *, axes, zarr_format, seed=0):
    """OME-Zarr 0.4 (Zarr 2) or 0.5 (Zarr 3) of two levels; its pixels."""
    zarr = pytest.importorskip("zarr", reason="needs the extra formats")
    sizes, kinds = {"T": 2, "C": 3, "Z": 4, "Y": 40, "X": 50}, {"T": "time", "C": "channel"}
    array = samples([sizes[name] for name in axes], "u2", seed)
    described = [{"name": name.lower(), "type": kinds.get(name, "space")} for name in axes]
    scale = [1.0 if name in "TC" else 0.5 for name in axes]
    datasets = [{"path": p, "coordinateTransformations": [{"type": "scale", "scale": scale}]} for p in "01"]
    about = {"multiscales": [{"axes": described, "datasets": datasets, "version": "0.4"}]}
    if "C" in axes:
        about["omero"] = {"channels": [{"label": name} for name in ("DAPI", "GFP", "Cy5")]}
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    for name, step in (("0", 1), ("1", 2)):
        level = np.ascontiguousarray(array[..., ::step, ::step])
        group.create_array(name, data=level, chunks=(1,) * (array.ndim - 2) + (32, 32))
    group.attrs.update(about if zarr_format == 2 else {"ome": {"version": "0.5"} | about})
    return array


def write_ome(path, planes, sizes, blocks="<TiffData/>", *, uuid=None):
    """OME-TIFF of [N, H, W], uint16, whose XML has these sizes (such as 'SizeZ="3" SizeC="1" SizeT="2"') and blocks."""
    own = f' UUID="urn:uuid:{uuid}"' if uuid is not None else ""
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{own}>'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
        f'SizeY="{planes.shape[1]}" SizeX="{planes.shape[2]}" {sizes}>'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=None, description=xml.encode())


def write_czi(path, axes):
    """Zeiss CZI as its own library writes it; its pixels."""
    czi = pytest.importorskip("pylibCZIrw.czi", reason="needs the extra microscopes")
    sizes = {"C": 2, "Z": 3, "Y": 40, "X": 50, "S": 3}
    array = samples([sizes[name] for name in axes], "u1" if "S" in axes else "u2")
    whole = array if "S" in axes else array.reshape(sizes["C"] if "C" in axes else 1, -1, 40, 50)
    with czi.create_czi(str(path)) as file:
        if "S" in axes:
            file.write(data=np.ascontiguousarray(whole[..., ::-1]), plane={"C": 0, "Z": 0, "T": 0})
        else:
            for channel, stack in enumerate(whole):
                for place, plane in enumerate(stack):
                    file.write(data=plane[..., None], plane={"C": channel, "Z": place, "T": 0})
            names = dict(enumerate(["DAPI", "GFP"][: len(whole)]))
            file.write_metadata(document_name="d", channel_names=names, scale_x=1e-7, scale_y=1e-7, scale_z=3e-7)
    return array


def write_scenes(path):
    """Zeiss CZI of two scenes of two sizes; the pixels of each."""
    czi = pytest.importorskip("pylibCZIrw.czi", reason="needs the extra microscopes")
    arrays = [samples((40, 50), "u2"), samples((30, 35), "u2", 1)]
    with czi.create_czi(str(path)) as file:
        for number, array in enumerate(arrays):
            at = {"plane": {"C": 0, "Z": 0, "T": 0}, "location": (200 * number, 0)}
            file.write(data=array[..., None], scene=number, **at)
    return arrays


def write_lif(path, axes, names=("i",)):
    """Leica LIF of images of one size, as its public description says; their pixels in the order of the file."""
    sizes, size = {"T": 2, "Z": 3, "C": 2, "Y": 20, "X": 24}, 2
    array = samples([sizes[name] for name in axes], "u2")
    arrays = [array + 7 * number for number in range(len(names))]
    plane, channels = size * sizes["X"] * sizes["Y"], sizes["C"] if "C" in axes else 1
    steps = {"X": (1, size), "Y": (2, size * sizes["X"])}
    stride = plane * channels
    for name in reversed([name for name in axes if name in "TZ"]):
        steps[name] = {"Z": 3, "T": 4}[name], stride
        stride *= sizes[name]
    described = "".join(
        f'<DimensionDescription DimID="{number}" NumberOfElements="{sizes[name]}" Origin="0" '
        f'Length="{(sizes[name] - 1) * 2e-7}" Unit="m" BitInc="0" BytesInc="{step}"/>'
        for name, (number, step) in steps.items()
    )
    seen = "".join(
        f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" NameOfMeasuredQuantity="" Min="0" Max="1" '
        f'Unit="" LUTName="Green" IsLUTInverted="0" BytesInc="{number * plane}" BitInc="0"/>'
        for number in range(channels)
    )
    images = "".join(
        f'<Element Name="{name}" UniqueID="b{number}"><Data><Image TextDescription=""><ImageDescription>'
        f"<Channels>{seen}</Channels><Dimensions>{described}</Dimensions></ImageDescription></Image></Data>"
        f'<Memory Size="{array.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
        for number, name in enumerate(names, 1)
    )
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="f" UniqueID="a"><Data/><Memory Size="0" '
        f'MemoryBlockID="MemBlock_0"/><Children>{images}</Children></Element></LMSDataContainerHeader>'
    )

    def memory(name, data):
        words = name.encode("utf-16-le")
        head = struct.pack("<IIBQBI", 0x70, 14 + len(words), 0x2A, len(data), 0x2A, len(name))
        return head + words + data

    words = xml.encode("utf-16-le")
    head = struct.pack("<IIBI", 0x70, 5 + len(words), 0x2A, len(xml)) + words
    blocks = [memory(f"MemBlock_{number}", one.tobytes()) for number, one in enumerate(arrays, 1)]
    path.write_bytes(b"".join([head, memory("MemBlock_0", b""), *blocks]))
    return array if len(arrays) == 1 else arrays
