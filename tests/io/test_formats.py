"""NumPy, NIfTI, TIFF, PNG: pixels come back bit for bit, headers and tags as they were."""

import gzip

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from file_makers import SHAPES, copied, same, samples
from mptpn.io import Writer, open_scan


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "i8", "u8", "f2", "f4", ">f8"])
@pytest.mark.parametrize("shape", [*SHAPES, (5, 7, 3), (5, 7, 4), (4, 5, 7), (1, 5, 7), (4, 5, 7, 3)], ids=str)
def test_npy_comes_back(tmp_path, dtype, shape):
    array = samples(shape, dtype)
    np.save(tmp_path / "a.npy", array)
    scan = open_scan(tmp_path / "a.npy")
    back = np.load(copied(scan, tmp_path / "out"))
    same(back, array)
    assert back.dtype == array.dtype and scan.slices == (shape[0] if len(shape) - (shape[-1] in (3, 4)) == 3 else 1)


def test_npy_in_fortran_order_comes_back(tmp_path):
    array = np.asfortranarray(samples((4, 5, 7), "i2"))
    np.save(tmp_path / "a.npy", array)
    same(np.load(copied(open_scan(tmp_path / "a.npy"), tmp_path / "out")), array)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", ">i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 4), (1, 7, 4), (7, 1, 2), (5, 7, 3, 2)], ids=str)
def test_nifti_comes_back_with_its_header(tmp_path, ending, dtype, shape):
    path, array, affine = tmp_path / f"a{ending}", samples(shape, dtype), np.diag([0.5, 0.7, 3, 1.0])
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype))
    image = nibabel.Nifti1Image(array, affine, header, dtype=dtype)
    image.header["descrip"] = b"kept"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"also kept"))
    nibabel.save(image, path)
    scan = open_scan(path)
    assert scan.slices == int(np.prod(shape[2:])) and scan.shape == shape[:2]
    target = copied(scan, tmp_path / "out")
    read = gzip.decompress if ending == ".nii.gz" else bytes
    assert read(target.read_bytes()) == read(path.read_bytes())  # every byte: header, affine, extension, pixels


def test_nifti_slope_is_beside_the_stored_values_and_kept(tmp_path):
    array = samples((5, 7, 4), "i2")
    image = nibabel.Nifti1Image(array, np.eye(4))
    image.header.set_slope_inter(2.5, -1024)
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan = open_scan(tmp_path / "a.nii.gz")
    whole = nibabel.load(tmp_path / "a.nii.gz").get_fdata()
    slice = scan.read(2)
    np.testing.assert_allclose(slice.pixels * slice.slope + slice.intercept, whole[:, :, 2], rtol=1e-6)
    back = nibabel.load(copied(scan, tmp_path / "out"))
    assert (back.dataobj.slope, back.dataobj.inter) == (scan.slope, scan.intercept) == (2.5, -1024)
    same(back.get_fdata(), whole)


GRAY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}
ALPHA = {"extrasamples": ["unassalpha"]}
TIFFS = {  # type, shape as written, shape of a slice, how it is opened, how it is written
    **{dtype: (dtype, (5, 7), (5, 7), {}, GRAY) for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")},
    "1 row": ("u2", (1, 6), (1, 6), {}, GRAY),
    "1 column": ("u2", (6, 1), (6, 1), {}, GRAY),
    "pages": ("u2", (4, 5, 7), (5, 7), {}, GRAY),
    "pages of no tifffile": ("u2", (4, 5, 7), (5, 7), {}, GRAY | {"metadata": None, "description": "kept"}),
    "rgba pages": ("u2", (4, 5, 7, 4), (5, 7, 3), {}, RGB | ALPHA),
    "planar pages": ("u2", (4, 3, 5, 7), (5, 7, 3), {}, RGB | {"planarconfig": "separate"}),
    "big endian": (">u2", (4, 5, 7), (5, 7), {"byteorder": ">"}, GRAY),
    "big tiff": ("f4", (4, 5, 7), (5, 7), {"bigtiff": True}, GRAY),
    "rgb": ("u1", (5, 7, 3), (5, 7, 3), {}, RGB),
    "rgb of 16 bits": ("u2", (5, 7, 3), (5, 7, 3), {}, RGB),
    "rgb pages": ("u1", (4, 5, 7, 3), (5, 7, 3), {}, RGB),
    "rgba": ("u1", (5, 7, 4), (5, 7, 3), {}, RGB | ALPHA),
    "gray and alpha": ("u2", (5, 7, 2), (5, 7), {}, GRAY | ALPHA | {"planarconfig": "contig"}),
    "planar": ("u1", (3, 5, 7), (5, 7, 3), {}, RGB | {"planarconfig": "separate"}),
    "planar and alpha": ("u2", (4, 5, 7), (5, 7, 3), {}, RGB | ALPHA | {"planarconfig": "separate"}),
    "white is 0": ("u1", (5, 7), (5, 7), {}, {"photometric": "miniswhite"}),
    "deflated": ("u2", (4, 5, 7), (5, 7), {}, GRAY | {"compression": "zlib"}),
    "tiles": ("u2", (40, 50), (40, 50), {}, GRAY | {"tile": (16, 16)}),
    "imagej": ("u2", (4, 5, 7), (5, 7), {"imagej": True}, {"metadata": {"axes": "ZYX", "spacing": 2.5, "unit": "um"}}),
    "ome": (
        "u2",
        (4, 5, 7),
        (5, 7),
        {"ome": True},
        GRAY | {"metadata": {"axes": "ZYX", "PhysicalSizeX": 0.3}, "resolutionunit": "centimeter"},
    ),
}
LAYOUT = {259, 273, 278, 279, 284, 322, 323, 324, 325}  # tags that say where the bytes lie


@pytest.mark.parametrize("case", TIFFS)
def test_tiff_comes_back_with_its_tags(tmp_path, case):
    dtype, shape, slice_shape, opening, arguments = TIFFS[case]
    array, path = samples(shape, dtype), tmp_path / "a.tif"
    extra = (
        {}
        if opening.keys() & {"ome", "imagej"}
        else {"extratags": [(65000, "I", 2, (7, 9), True), (315, 2, 0, "an artist", True)]}
    )
    tifffile.imwrite(path, array, resolution=(300.5, 72), **opening, **arguments, **extra)
    scan = open_scan(path)
    pages = 4 if shape[0] == 4 and case != "planar and alpha" else 1
    assert (scan.slices, scan.shape, scan.bits) == (pages, slice_shape, 8 * array.dtype.itemsize)
    target = copied(scan, tmp_path / "out")
    same(tifffile.imread(target), array)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(target) as after:
        assert (before.byteorder, before.is_bigtiff, len(before.pages)) == (
            after.byteorder,
            after.is_bigtiff,
            len(after.pages),
        ) and len(after.pages) == pages
        assert before.imagej_metadata == after.imagej_metadata and before.ome_metadata == after.ome_metadata
        for left, right in zip(before.pages, after.pages, strict=True):
            tags = [{tag.code: tag.value for tag in page.tags if tag.code not in LAYOUT} for page in (left, right)]
            for code in (282, 283):  # written again as the nearest fraction
                np.testing.assert_allclose(*[np.divide(*tag.pop(code)) for tag in tags], rtol=1e-6)
            assert tags[0] == tags[1]
        # so ImageJ and tifffile read them
        in_one_piece = (before.is_imagej or before.is_shaped) and "compression" not in arguments
        assert not in_one_piece or after.series[0].dataoffset is not None


@pytest.mark.parametrize("mode, dtype", [("L", "u1"), ("I;16", "u2"), ("RGB", "u1")])
def test_tiff_of_lzw_comes_back(tmp_path, mode, dtype):
    array = samples((5, 7, 3) if mode == "RGB" else (5, 7), dtype)
    Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
    same(tifffile.imread(copied(open_scan(tmp_path / "a.tif"), tmp_path / "out")), array)


PNGS = {"L": ("u1", ()), "I;16": ("u2", ()), "LA": ("u1", (2,)), "RGB": ("u1", (3,)), "RGBA": ("u1", (4,))}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mode", PNGS)
def test_png_comes_back_with_its_text(tmp_path, mode, shape):
    dtype, channels = PNGS[mode]
    array, text = samples((*shape, *channels), dtype), PngInfo()
    text.add_text("Comment", "kept")
    text.add_itxt("Title", "größer", "de", "Titel")
    image = Image.fromarray(array)
    assert image.mode == mode
    image.save(tmp_path / "a.png", dpi=(300, 72), pnginfo=text, icc_profile=b"a profile")
    scan = open_scan(tmp_path / "a.png")
    assert scan.shape == shape + ((3,) if mode.startswith("RGB") else ()) and scan.bits == 8 * array.dtype.itemsize
    with Image.open(copied(scan, tmp_path / "out")) as back, Image.open(tmp_path / "a.png") as before:
        assert back.mode == mode
        same(back, array)
        assert back.text == before.text and back.text["Title"].lang == "de"
        assert {key: back.info[key] for key in ("dpi", "icc_profile")} == {
            key: before.info[key] for key in ("dpi", "icc_profile")
        }


def test_alpha_is_as_it_was_however_the_colours_change(tmp_path):
    array = samples((5, 7, 4), "u1")
    Image.fromarray(array).save(tmp_path / "a.png")
    scan = open_scan(tmp_path / "a.png")
    with Writer(scan, tmp_path / "out") as writer:
        writer.write(0, np.full((5, 7, 3), 99.0))
    same(Image.open(writer.target), np.dstack([np.full((5, 7, 3), 99, np.uint8), array[..., 3]]))


def test_palette_becomes_rgb_and_jpeg_becomes_png_and_both_say_so(tmp_path):
    array = samples((8, 9, 3), "u1")
    Image.fromarray(array).convert("P").save(tmp_path / "p.png")
    Image.fromarray(array).save(tmp_path / "j.jpg")
    for name, words in (("p.png", "Palette"), ("j.jpg", "JPEG is written as PNG")):
        scan = open_scan(tmp_path / name)
        target = copied(scan, tmp_path / "out")
        assert words in scan.note and target.name == name[0] + ".png"
        same(Image.open(target), Image.open(tmp_path / name).convert("RGB"))


def test_each_page_keeps_its_own_tags(tmp_path):
    arrays = samples((3, 5, 7), "u2")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, array in enumerate(arrays):
            file.write(
                array, photometric="minisblack", metadata=None, description=f"page {number}", resolution=(number + 1, 2)
            )
    target = copied(open_scan(tmp_path / "a.tif"), tmp_path / "out")
    with tifffile.TiffFile(target) as file:
        for number, page in enumerate(file.pages):
            same(page.asarray(), arrays[number])
            assert page.description == f"page {number}" and page.get_resolution() == (number + 1, 2)
