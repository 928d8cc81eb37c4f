"""Files and folders become scans and images; bad input is refused in one sentence that holds no patient's name."""

import logging
import warnings
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from file_makers import PATIENT, copied, dataset, samples, save_dicom, series, volume
from mptpn.io import Writer, open_scan, open_scans, read_image, spread_images
from mptpn.io.scan import explained

DICOM = files("pydicom") / "data" / "test_files"


def test_a_folder_gives_its_files_in_order_and_names_what_it_left_out(tmp_path):
    folder = tmp_path / "in"
    series(folder / "ct", count=2)
    np.save(folder / "b.npy", samples((5, 7), "u1"))
    Image.fromarray(samples((5, 7), "u1")).save(folder / "a.png")
    Image.fromarray(samples((5, 7), "u1")).save(folder / "a.jpg")
    (folder / "readme.txt").write_text("no image")
    (folder / ".hidden.png").write_text("no image")
    found, left_out = open_scans([folder, folder / "b.npy", tmp_path / "nowhere.png"])
    assert [scan.default_name() for scan in found] == ["a.jpg.png", "a.png", "b.npy", "ct"]
    assert list(left_out) == [str(folder / "readme.txt"), str(tmp_path / "nowhere.png")]
    for one in found:
        copied(one, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", "a.jpg.png", "b.npy", "ct"}


def written(save):
    """Bytes that a library writes at a path."""

    def make(path):
        save(path)
        return path.read_bytes()

    return make


def pillow(array, **arguments):
    return written(lambda path: Image.fromarray(array).save(path, **arguments))


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


def of_syntax(syntax):
    return lambda path: dicom(samples((5, 7), "u2"))(path).replace(b"1.2.840.10008.1.2.1\0", syntax)


GRAY, BYTES = samples((40, 50), "u2"), samples((5, 7), "u1")
PALETTE = {"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}
TEXT = b"not a picture\n" * 40
BAD = {
    "empty.png": (b"", "is empty"),
    "empty.dcm": (b"", "is empty"),
    "empty.nii": (b"", "is empty"),
    "text.png": (TEXT, "no image of a known type"),
    "bmi.csv": (b"BMI,age,sex\n21,50,f\n", "no image of a known type"),
    "text.nii": (TEXT, "cannot be read"),
    "text.nii.gz": (TEXT, "cannot be read"),
    "cut.png": (half(pillow(samples((40, 50), "u1"))), "cannot be read"),
    "cut.jpg": (half(pillow(samples((90, 90), "u1"), quality=99)), "cannot be read"),
    "cut.tif": (half(tiff(GRAY)), "cannot be read"),
    "head.tif": (b"II*\0", "cannot be read"),
    "cut.nii": (half(nifti(samples((9, 8, 7), "i2"))), "is cut off"),
    "cut.nii.gz": (half(nifti(samples((9, 8, 7), "i2"))), "cannot be read"),
    "cut.npy": (half(numpy(GRAY)), "cannot be read"),
    "head.npy": (b"\x93NUMPY", "cannot be read"),
    "cut.dcm": (half(dicom(GRAY)), "is cut off"),
    "cut_in_tags.dcm": (lambda path: dicom(GRAY)(path)[:400], "holds no picture|cannot be read"),
    "preamble.dcm": (b"\0" * 128 + b"DICM", "holds no picture|cannot be read"),
    "pdf.dcm": (dicom(GRAY, without=("PixelData", "Rows", "Columns")), "holds no picture"),
    "no_pixels.dcm": (dicom(GRAY, without=("PixelData",)), "holds no picture"),
    "no_bits.dcm": (dicom(GRAY, without=("BitsAllocated",)), "BitsAllocated is missing or empty"),
    "unknown_syntax.dcm": (of_syntax(b"1.2.840.99999.1.2.1\0"), "transfer syntax is not known"),
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
    "six_axes.npy": (numpy(np.zeros((2, 2, 2, 2, 5, 7))), "is no image"),
    "nan.npy": (numpy(np.full((5, 7), np.nan)), "every pixel"),
    "complex.nii": (nifti(np.ones((4, 5, 6), np.complex64)), "complex64"),
    "one_axis.nii": (nifti(np.zeros(5, np.float32)), "no image"),
    "bool.tif": (tiff(GRAY > 9), "bool"),
    "palette.tif": (tiff(BYTES, **PALETTE), "palette is no scale"),
    "volume.tif": (tiff(samples((16, 16, 16), "u1"), volumetric=True, tile=(16, 16, 16)), "ZYX|no gray"),
    "black_and_white.png": (pillow(GRAY > 9), "mode 1"),
    "animated.png": (written(animated), "holds 2 pictures"),
    "cmyk.jpg": (written(lambda path: Image.new("CMYK", (4, 5)).save(path)), "mode CMYK"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence_and_does_not_stop_the_others(tmp_path, name):
    made, words = BAD[name]
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(made if isinstance(made, bytes) else made(path))
    with pytest.raises(ValueError, match=words) as refusal:
        open_scan(path).read(0)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and message.endswith(".") and ";" in message and "\n" not in message
    assert PATIENT not in message and (refusal.value.__suppress_context__ or refusal.value.__context__ is None)
    np.save(tmp_path / "in" / "good.npy", GRAY)
    found, left_out = open_scans([tmp_path / "in"])
    assert "good.npy" in [scan.name for scan in found] and set(left_out) <= {str(path)}


def test_missing_files_and_folders_are_named(tmp_path):
    for opened in (open_scan, read_image):
        with pytest.raises(FileNotFoundError, match="nowhere.dcm: no such file; check the path"):
            opened(tmp_path / "nowhere.dcm")
    with pytest.raises(ValueError, match="is a folder"):
        open_scan(tmp_path)
    found, left_out = open_scans([tmp_path])
    assert not found and "holds no image" in left_out[str(tmp_path)]


@pytest.mark.parametrize(
    "error, words",
    [(PermissionError(13, "Permission denied"), "may not be read; ask"), (OSError(5, "I/O error"), "check the disk")],
)
def test_a_file_that_the_disk_refuses_is_named(tmp_path, monkeypatch, error, words):
    path = volume(tmp_path, "npy")

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(type(error), match=words) as refusal:
        open_scan(path)
    assert str(path) in str(refusal.value)
    with pytest.raises(ValueError, match=r"v\.npy: (may not|cannot) be read"):
        read_image(path)


@pytest.mark.filterwarnings("ignore")
def test_no_message_name_or_log_holds_a_tag(tmp_path, caplog, capfd):
    tags = dict.fromkeys(("RescaleType", "SeriesDescription", "DerivationDescription", "StudyDescription"), PATIENT)
    changes = [{}, {"BitsStored": 12, "HighBit": 11}, {"InstanceNumber": None}, {"Rows": 99}]
    changes.append({"photometric": PATIENT.replace("^", " ")})
    with caplog.at_level(0), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number, change in enumerate(changes):
            path = save_dicom(tmp_path / "in" / f"{number}.dcm", GRAY, number=number, **tags, **change)
            path.write_bytes(path.read_bytes().replace(b"1.2.3\0", b"DOE^JA"))  # a UID that is none
        warned.clear()  # what the libraries warn of here
        caplog.clear()
        found, left_out = open_scans([tmp_path / "in"])
        texts = list(left_out.values())
        for scan in found:
            texts += [scan.name, scan.note, scan.unit, repr(scan)]
            with Writer(scan, tmp_path / "out") as writer:
                for index in range(scan.slices):
                    writer.write(index, scan.read(index).pixels)
                texts += [repr(writer), str(writer.target)]
    texts += [str(warning.message) for warning in warned] + [caplog.text, *capfd.readouterr()]
    assert found and left_out and not [text for text in texts if "DOE" in text or "JANE" in text]


def test_a_decoder_s_words_and_logs_are_not_passed_on(caplog):
    with pytest.raises(ValueError, match=r"a: cannot be read \(KeyError\)") as refusal, explained(Path("a")):
        warnings.warn(PATIENT, stacklevel=1)
        logging.getLogger("pydicom").error(PATIENT)
        raise KeyError(PATIENT)
    assert PATIENT not in str(refusal.value) + caplog.text


def test_an_image_is_in_the_scan_s_unit():
    image = read_image(str(DICOM / "CT_small.dcm"))  # stored 128..2191, rescale intercept -1024
    assert image.pixels.shape == (1, 1, 128, 128) and image.value_range == (128 - 1024, 2191 - 1024)
    assert image.unit == "HU" and image.name == image.subject == "CT_small.dcm"


def test_a_volume_gives_its_middle_slice(tmp_path):
    volume = np.random.default_rng(0).random((6, 7, 5, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "v.nii.gz")
    image = read_image(tmp_path / "v.nii.gz")
    np.testing.assert_allclose(image.array, volume[:, :, 2, 0], atol=1e-6)
    assert read_image(str(DICOM / "examples_ybr_color.dcm")).pixels.shape == (1, 3, 240, 320)


def test_bytes_have_the_range_of_their_type_and_other_types_that_of_their_values(tmp_path):
    array = np.random.default_rng(0).integers(3, 99, (7, 5, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "x.bmp")
    image = read_image(tmp_path / "x.bmp")
    np.testing.assert_allclose(image.array, array, atol=1e-4)
    array = np.random.default_rng(0).integers(0, 65535, (5, 7)).astype(np.uint16)
    Image.fromarray(array).save(tmp_path / "x.png")
    assert image.value_range == (0, 255) and read_image(tmp_path / "x.png").value_range == (array.min(), array.max())


def test_padding_has_the_smallest_value_of_the_others_and_does_not_set_the_range(tmp_path):
    array = np.arange(100, 135, dtype=np.int16).reshape(5, 7)
    array[:2] = -2000
    tags = {"PixelPaddingValue": -2000, "RescaleSlope": 2, "RescaleIntercept": -1000}
    image = read_image(save_dicom(tmp_path / "x.dcm", array, **tags))
    assert image.value_range == (2 * 114 - 1000, 2 * 134 - 1000) and (image.pixels[0, 0, :2] == 0).all()
    with pytest.raises(ValueError, match="y.dcm: every pixel of slice 1 is padding"):
        read_image(save_dicom(tmp_path / "y.dcm", np.full((5, 7), -2000, np.int16), **tags))


def test_a_file_with_pixels_that_are_no_numbers_is_refused_as_an_image(tmp_path):
    np.save(tmp_path / "x.npy", np.where(np.eye(5, 7) > 0, np.nan, GRAY[:5, :7]))
    with pytest.raises(ValueError, match=r"x\.npy: 5 of 35 pixels are NaN"):
        read_image(tmp_path / "x.npy")


def test_slices_are_spread_over_a_scan_and_empty_ones_are_passed_over(tmp_path):
    volume = np.random.default_rng(0).random((40, 5, 7)).astype(np.float32)
    volume[[1, 4]] = 3
    np.save(tmp_path / "v.npy", volume)
    images = spread_images(open_scan(tmp_path / "v.npy"))
    numbers = [int(image.name.removeprefix("v.npy slice ")) for image in images]
    assert len(images) == 16 and numbers[0] == 3 and not {2, 5} & set(numbers) and numbers[-1] == 40
    assert set(np.diff(numbers)) <= {2, 3, 4}
    for number, image in zip(numbers, images, strict=True):
        np.testing.assert_allclose(image.array, volume[number - 1], atol=1e-6)
    np.save(tmp_path / "v.npy", np.full((3, 5, 7), 2.0))
    with pytest.raises(ValueError, match=r"v\.npy: none of its 3 slices can be learned from: every pixel is 2"):
        spread_images(open_scan(tmp_path / "v.npy"))
