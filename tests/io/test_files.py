"""A folder becomes scans; bad input is refused in one sentence that holds no patient's name."""

import warnings
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from file_makers import PATIENT, copied, dataset, samples, save_dicom, series, volume
from mptpn.io import Writer, open_scan, open_scans, scan


def test_a_folder_gives_its_files_in_order_and_says_what_it_left_out(tmp_path):
    folder = tmp_path / "in"
    series(folder / "ct", count=2)
    np.save(folder / "b.npy", samples((5, 7), "u1"))
    Image.fromarray(samples((5, 7), "u1")).save(folder / "a.png")
    Image.fromarray(samples((5, 7), "u1")).save(folder / "a.jpg")
    (folder / "readme.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    found, left_out = open_scans([folder, folder / "b.npy"])
    assert [scan.default_name() for scan in found] == ["a.png", "a_2.png", "b.npy", "ct"]
    assert list(left_out) == [str(folder / "readme.txt")]
    for one in found:
        copied(one, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a_2.png", "b.npy", "ct"}


def test_a_missing_path_does_not_stop_the_others(tmp_path):
    np.save(tmp_path / "b.npy", samples((5, 7), "u1"))
    found, left_out = open_scans([tmp_path / "nowhere.png", tmp_path / "b.npy"])
    assert len(found) == 1 and "no such file" in left_out[str(tmp_path / "nowhere.png")]


def written(save):
    """Bytes that a library writes at a path."""

    def make(path):
        save(path)
        return path.read_bytes()

    return make


def png(path):
    Image.fromarray(samples((40, 50), "u1")).save(path, format="PNG")


def pages_of_two_sizes(path):
    with tifffile.TiffWriter(path) as file:
        file.write(samples((5, 7), "u1"))
        file.write(samples((6, 7), "u1"))


def animated(path):
    Image.new("L", (4, 4)).save(path, format="PNG", save_all=True, append_images=[Image.new("L", (4, 4), 9)])


def nifti(array):
    return written(lambda path: nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path))


def numpy(array):
    return written(lambda path: np.save(path, array, allow_pickle=True))


def tiff(array, **arguments):
    return written(lambda path: tifffile.imwrite(path, array, **arguments))


def dicom(array, *, without=(), **arguments):
    def save(path):
        data = dataset(array, **arguments)
        for keyword in without:
            delattr(data, keyword)
        data.save_as(path, enforce_file_format=True)

    return written(save)


def half(make):
    return lambda path: (data := make(path))[: len(data) * 2 // 3]


def unknown_syntax(path):
    return dicom(samples((5, 7), "u2"))(path).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0")


def sixteen_bit_colour(path):
    def chunk(kind, data):
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    rows = zlib.compress(b"".join(b"\0" + samples((5, 3), ">u2").tobytes() for _ in range(4)))
    header = bytes([0, 0, 0, 5, 0, 0, 0, 4, 16, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


RGB_TYPE = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
GRAY = samples((40, 50), "u2")
BAD = {
    "empty.png": (lambda _: b"", "is empty"),
    "empty.dcm": (lambda _: b"", "is empty"),
    "empty.nii": (lambda _: b"", "is empty"),
    "text.png": (lambda _: b"not a picture\n" * 20, "no image of a known type"),
    "text.dcm": (lambda _: b"not a picture\n" * 20, "no image of a known type"),
    "text.nii": (lambda _: b"not a picture\n" * 40, "cannot be read"),
    "text.nii.gz": (lambda _: b"not a picture\n" * 40, "cannot be read"),
    "text.npy": (lambda _: b"not a picture\n" * 20, "no image of a known type"),
    "cut.png": (half(written(png)), "cannot be read"),
    "cut.jpg": (
        half(written(lambda path: Image.fromarray(samples((90, 90), "u1")).save(path, quality=99))),
        "cannot be read",
    ),
    "cut.tif": (half(tiff(GRAY)), "cannot be read"),
    "head.tif": (lambda _: b"II*\0", "cannot be read"),
    "cut.nii": (half(nifti(samples((9, 8, 7), "i2"))), "is cut off"),
    "cut.nii.gz": (half(nifti(samples((9, 8, 7), "i2"))), "cannot be read"),
    "cut.npy": (half(numpy(GRAY)), "cannot be read"),
    "head.npy": (lambda _: b"\x93NUMPY", "cannot be read"),
    "cut.dcm": (half(dicom(GRAY)), "is cut off"),
    "cut_in_tags.dcm": (lambda path: dicom(GRAY)(path)[:400], "holds no picture|cannot be read"),
    "preamble.dcm": (lambda _: b"\0" * 128 + b"DICM", "holds no picture|cannot be read"),
    "pdf.dcm": (dicom(GRAY, without=("PixelData", "Rows", "Columns")), "holds no picture"),
    "no_pixels.dcm": (dicom(GRAY, without=("PixelData",)), "holds no picture"),
    "no_bits.dcm": (dicom(GRAY, without=("BitsAllocated",)), "cannot be read"),
    "unknown_syntax.dcm": (unknown_syntax, "transfer syntax is not known"),
    "palette.dcm": (dicom(GRAY, photometric="PALETTE COLOR"), "no gray levels or RGB"),
    "three_samples.dcm": (dicom(GRAY, SamplesPerPixel=3), "do not fit"),
    "mask.dcm": (dicom(GRAY, BitsAllocated=1, BitsStored=1), "not a mask"),
    "zero_rows.dcm": (dicom(GRAY, Rows=0), "empty"),
    "objects.npy": (numpy(np.array([[1, None]], dtype=object)), "pickled objects, which are never loaded"),
    "complex.npy": (numpy(GRAY + 1j), "complex128"),
    "bool.npy": (numpy(GRAY > 9), "bool"),
    "text_array.npy": (numpy(np.array([["a", "b"]])), "U1"),
    "zero.npy": (numpy(np.zeros((0, 7))), "is empty"),
    "no_slices.npy": (numpy(np.zeros((0, 5, 7))), "empty"),
    "number.npy": (numpy(np.array(3.0)), r"\(\) is no image"),
    "row.npy": (numpy(np.arange(5.0)), r"\(5,\) is no image"),
    "four_axes.npy": (numpy(np.zeros((2, 2, 5, 7))), "is no image"),
    "nan.npy": (numpy(np.full((5, 7), np.nan)), "every pixel"),
    "complex.nii": (nifti(np.ones((4, 5, 6), np.complex64)), "complex64"),
    "rgb.nii": (nifti(np.zeros((4, 5, 6), RGB_TYPE)), "holds colours"),
    "one_axis.nii": (nifti(np.zeros(5, np.float32)), "no image"),
    "nan.nii": (nifti(np.full((4, 5), np.nan, np.float32)), "every pixel"),
    "two_sizes.tif": (written(pages_of_two_sizes), "differ in size or type"),
    "bool.tif": (tiff(GRAY > 9), "bool"),
    "complex.tif": (tiff((GRAY + 1j).astype(np.complex64)), "complex64"),
    "five_channels.tif": (
        tiff(samples((5, 7, 5), "u1"), photometric="minisblack", planarconfig="contig"),
        "5 samples a pixel",
    ),
    "palette.tif": (
        tiff(samples((5, 7), "u1"), photometric="palette", colormap=np.zeros((3, 256), np.uint16)),
        "PALETTE",
    ),
    "volume.tif": (tiff(samples((16, 16, 16), "u1"), volumetric=True, tile=(16, 16, 16)), "ZYX|no gray"),
    "black_and_white.png": (written(lambda path: Image.fromarray(GRAY > 9).save(path)), "mode 1"),
    "sixteen_bit_colour.png": (sixteen_bit_colour, "16-bit colour"),
    "animated.png": (written(animated), "holds 2 pictures"),
    "cmyk.jpg": (written(lambda path: Image.new("CMYK", (4, 5)).save(path)), "mode CMYK"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence_and_does_not_stop_the_others(tmp_path, name):
    make, words = BAD[name]
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(make(path))
    with pytest.raises(ValueError, match=words) as refusal:
        open_scan(path).read(0)
    message = str(refusal.value)
    assert (
        message.startswith(f"{path}: ")
        and message.endswith(".")
        and "\n" not in message
        and ";" in message
        and PATIENT not in message
    )
    assert refusal.value.__suppress_context__ or refusal.value.__cause__ is None and refusal.value.__context__ is None
    np.save(tmp_path / "in" / "good.npy", GRAY)
    found, left_out = open_scans([tmp_path / "in"])
    assert "good.npy" in [scan.name for scan in found] and set(left_out) <= {str(path)}


def test_a_missing_file_and_a_folder_are_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.dcm: no such file; check the path"):
        open_scan(tmp_path / "nowhere.dcm")
    with pytest.raises(ValueError, match="is a folder"):
        open_scan(tmp_path)
    found, left_out = open_scans([tmp_path])
    assert not found and "holds no image" in left_out[str(tmp_path)]


def test_a_file_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    path = volume(tmp_path, "npy")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match="v.npy: may not be read; ask"):
        open_scan(path)


def test_a_missing_decoder_is_said(tmp_path, monkeypatch):
    import mptpn.io.dicom

    class Absent:
        is_available = is_encapsulated = False

    monkeypatch.setattr(mptpn.io.dicom, "get_decoder", lambda _: Absent)
    with pytest.raises(ValueError, match="decoder is not installed; pip install"):
        open_scan(save_dicom(tmp_path / "a.dcm", GRAY))


@pytest.mark.filterwarnings("ignore")
def test_no_message_name_or_log_holds_a_tag(tmp_path, caplog, capfd):
    said = []
    tags = {
        "RescaleType": PATIENT,
        "SeriesDescription": PATIENT,
        "DerivationDescription": PATIENT,
        "StudyDescription": PATIENT,
    }
    with caplog.at_level(0), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number, change in enumerate(
            [{}, {"BitsStored": 12}, {"InstanceNumber": None}, {"Rows": 99}, {"photometric": PATIENT.replace("^", " ")}]
        ):
            path = save_dicom(
                tmp_path / "in" / f"{number}.dcm",
                GRAY,
                number=number,
                **tags,
                **{"photometric": "MONOCHROME2", **change},
            )
            path.write_bytes(path.read_bytes().replace(b"1.2.3\0", b"DOE^JA"))  # a UID that is none
        warned.clear()  # what the libraries say of our own planting
        caplog.clear()
        found, left_out = open_scans([tmp_path / "in"])
        said += list(left_out.values()) + [
            text for scan in found for text in (scan.name, scan.note, scan.unit, repr(scan), str(scan.read(0).slope))
        ]
        for scan in found:
            with Writer(scan, tmp_path / "out") as writer:
                for index in range(scan.slices):
                    writer.write(index, scan.read(index).pixels)
                said += [repr(writer), str(writer.target)]
    said += [str(warning.message) for warning in warned] + [caplog.text, *capfd.readouterr()]
    assert found and left_out and not [text for text in said if "DOE" in text or "JANE" in text]


def test_a_decoder_s_words_are_not_passed_on(tmp_path):
    with pytest.raises(ValueError, match=r"a: cannot be read \(KeyError\)") as refusal, scan.explained(Path("a")):
        warnings.warn(PATIENT, stacklevel=1)
        raise KeyError(PATIENT)
    assert PATIENT not in str(refusal.value)
