"""NumPy, NIfTI, TIFF, PNG: pixels come back bit for bit, headers and tags as they were."""

import gzip
import struct
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from file_makers import copied, same, samples
from mptpn.io import Writer, open_scan
from mptpn.io.raster import _chunks

TYPES = ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4", "i8", "u8", "f2", "f4", ">f8"]
SLICES = {(1, 6): 1, (6, 1): 1, (5, 7, 3): 1, (5, 7, 4): 1, (4, 5, 7): 4, (1, 5, 7): 1, (4, 5, 7, 3): 4}  # and slices


@pytest.mark.parametrize("dtype, shape", [(t, (5, 7)) for t in TYPES] + [("u2", s) for s in SLICES], ids=str)
def test_npy_comes_back(tmp_path, dtype, shape):
    array = samples(shape, dtype)
    np.save(tmp_path / "a.npy", array)
    scan = open_scan(tmp_path / "a.npy")
    back = np.load(copied(scan, tmp_path / "out"))
    same(back, array)
    assert back.dtype == array.dtype and scan.slices == SLICES.get(shape, 1)


def test_npy_in_fortran_order_comes_back(tmp_path):
    array = np.asfortranarray(samples((4, 5, 7), "i2"))
    np.save(tmp_path / "a.npy", array)
    same(np.load(copied(open_scan(tmp_path / "a.npy"), tmp_path / "out")), array)


NIFTIS = [(".nii", t, (5, 7, 4)) for t in ("u1", "i1", "u2", ">i2", "u4", "i4", "i8", "f4", "f8")]
NIFTIS += [(".nii.gz", "i2", shape) for shape in ((5, 7), (1, 7, 4), (7, 1, 2), (5, 7, 3, 2))]


@pytest.mark.parametrize("ending, dtype, shape", NIFTIS, ids=str)
def test_nifti_comes_back_byte_for_byte(tmp_path, ending, dtype, shape):
    path, array, affine = tmp_path / f"a{ending}", samples(shape, dtype), np.diag([0.5, 0.7, 3, 1.0])
    header = nibabel.Nifti1Header(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype))
    image = nibabel.Nifti1Image(array, affine, header, dtype=dtype)
    image.header["descrip"] = b"kept"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"also kept"))
    nibabel.save(image, path)
    scan = open_scan(path)
    assert scan.slices == int(np.prod(shape[2:])) and scan.shape == shape[:2]
    read = gzip.decompress if ending == ".nii.gz" else bytes
    assert read(copied(scan, tmp_path / "out").read_bytes()) == read(path.read_bytes())


def test_nifti_slope_is_beside_the_stored_values_and_kept(tmp_path):
    image = nibabel.Nifti1Image(samples((5, 7, 4), "i2"), np.eye(4))
    image.header.set_slope_inter(2.5, -1024)
    nibabel.save(image, tmp_path / "a.nii.gz")
    scan, whole = open_scan(tmp_path / "a.nii.gz"), nibabel.load(tmp_path / "a.nii.gz").get_fdata()
    slice = scan.read(2)
    np.testing.assert_allclose(slice.pixels * slice.slope + slice.intercept, whole[:, :, 2], rtol=1e-6)
    back = nibabel.load(copied(scan, tmp_path / "out"))
    assert (back.dataobj.slope, back.dataobj.inter) == (scan.slope, scan.intercept) == (2.5, -1024)
    same(back.get_fdata(), whole)


GRAY, RGB = {"photometric": "minisblack"}, {"photometric": "rgb"}
ALPHA, PLANAR = {"extrasamples": ["unassalpha"]}, {"planarconfig": "separate"}
OME = {"metadata": {"axes": "ZYX", "PhysicalSizeX": 0.3}, "resolutionunit": "centimeter"}
IMAGEJ = {"metadata": {"axes": "ZYX", "spacing": 2.5, "unit": "um"}}
TIFFS = {  # type, shape as written, shape of a slice, how it is opened, how it is written
    **{dtype: (dtype, (5, 7), (5, 7), {}, GRAY) for dtype in ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8")},
    "1 row": ("u2", (1, 6), (1, 6), {}, GRAY),
    "pages": ("u2", (4, 5, 7), (5, 7), {}, GRAY),
    "pages of no tifffile": ("u2", (4, 5, 7), (5, 7), {}, GRAY | {"metadata": None, "description": "kept"}),
    "rgba pages": ("u2", (4, 5, 7, 4), (5, 7, 3), {}, RGB | ALPHA),
    "planar pages": ("u2", (4, 3, 5, 7), (5, 7, 3), {}, RGB | PLANAR),
    "big endian": (">u2", (4, 5, 7), (5, 7), {"byteorder": ">"}, GRAY),
    "big tiff": ("f4", (4, 5, 7), (5, 7), {"bigtiff": True}, GRAY),
    "rgb": ("u1", (5, 7, 3), (5, 7, 3), {}, RGB),
    "gray and alpha": ("u2", (5, 7, 2), (5, 7), {}, GRAY | ALPHA | {"planarconfig": "contig"}),
    "planar": ("u1", (3, 5, 7), (5, 7, 3), {}, RGB | PLANAR),
    "planar and alpha": ("u2", (4, 5, 7), (5, 7, 3), {}, RGB | ALPHA | PLANAR),
    "white is 0": ("u1", (5, 7), (5, 7), {}, {"photometric": "miniswhite"}),
    "deflated": ("u2", (4, 5, 7), (5, 7), {}, GRAY | {"compression": "zlib"}),
    "tiles": ("u2", (40, 50), (40, 50), {}, GRAY | {"tile": (16, 16)}),
    "imagej": ("u2", (4, 5, 7), (5, 7), {"imagej": True}, IMAGEJ),
    "ome": ("u2", (4, 5, 7), (5, 7), {"ome": True}, GRAY | OME),
}
LAYOUT = {259, 273, 278, 279, 284, 322, 323, 324, 325}  # tags that say where the bytes lie


@pytest.mark.parametrize("case", TIFFS)
def test_tiff_comes_back_with_its_tags(tmp_path, case):
    dtype, shape, slice_shape, opening, arguments = TIFFS[case]
    array, path = samples(shape, dtype), tmp_path / ("a.ome.tif" if case == "ome" else "a.tif")
    if not opening.keys() & {"ome", "imagej"}:
        arguments = arguments | {"extratags": [(65000, "I", 2, (7, 9), True), (315, 2, 0, "an artist", True)]}
    tifffile.imwrite(path, array, resolution=(300.5, 72), **opening, **arguments)
    scan = open_scan(path)
    pages = 4 if shape[0] == 4 and case != "planar and alpha" else 1
    assert (scan.slices, scan.shape, scan.bits) == (pages, slice_shape, 8 * array.dtype.itemsize)
    target = copied(scan, tmp_path / "out")
    same(tifffile.imread(target), array)
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(target) as after:
        assert (before.byteorder, before.is_bigtiff) == (after.byteorder, after.is_bigtiff)
        assert len(before.pages) == len(after.pages) == pages
        assert before.imagej_metadata == after.imagej_metadata and before.ome_metadata == after.ome_metadata
        for left, right in zip(before.pages, after.pages, strict=True):
            tags = [{tag.code: tag.value for tag in page.tags if tag.code not in LAYOUT} for page in (left, right)]
            for code in (282, 283):  # written again as the nearest fraction
                np.testing.assert_allclose(*[np.divide(*tag.pop(code)) for tag in tags], rtol=1e-6)
            assert tags[0] == tags[1]
        # so ImageJ and tifffile read them
        in_one_piece = (before.is_imagej or before.is_shaped) and not {"compression", "tile"} & set(arguments)
        assert not in_one_piece or after.series[0].dataoffset is not None


@pytest.mark.parametrize("shape, dtype", [((5, 7), "u1"), ((5, 7), "u2"), ((5, 7, 3), "u1")], ids=str)
def test_tiff_of_lzw_comes_back(tmp_path, shape, dtype):
    array = samples(shape, dtype)
    Image.fromarray(array).save(tmp_path / "a.tif", compression="tiff_lzw")
    same(tifffile.imread(copied(open_scan(tmp_path / "a.tif"), tmp_path / "out")), array)


def test_each_page_keeps_its_own_tags(tmp_path):
    arrays = samples((3, 5, 7), "u2")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number, array in enumerate(arrays):
            own = {"description": f"page {number}", "resolution": (number + 1, 2)}
            file.write(array, photometric="minisblack", metadata=None, **own)
    with tifffile.TiffFile(copied(open_scan(tmp_path / "a.tif"), tmp_path / "out")) as file:
        for number, page in enumerate(file.pages):
            same(page.asarray(), arrays[number])
            assert page.description == f"page {number}" and page.get_resolution() == (number + 1, 2)


def test_fractions_in_tags_come_back_as_many_as_they_were(tmp_path):
    tags = [(286, 5, 1, (7, 2), True), (287, 5, 1, (9, 4), True), (318, 5, 2, (3, 10, 4, 11), True)]
    tags += [(65001, 10, 1, (-5, 3), True), (65002, 10, 3, (-5, 3, 1, 2, 3, 4), True), (65003, 12, 1, 2.5, True)]
    for order in "<>":
        options = {"photometric": "minisblack", "metadata": None, "compression": "zlib", "byteorder": order}
        tifffile.imwrite(tmp_path / "a.tif", samples((9, 7), "u2"), extratags=tags, **options)
        target = copied(open_scan(tmp_path / "a.tif"), tmp_path / order)
        with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(target) as after:
            found = [[file.pages[0].tags[tag[0]].astuple() for tag in tags] for file in (before, after)]
            assert found[0] == found[1]


@pytest.mark.parametrize("metadata", [None, {}])
@pytest.mark.parametrize("codecs", [(None, "zlib", "zlib"), ("zlib", None, "zlib"), ("zlib", "lzw", None)])
def test_pages_that_are_compressed_in_different_ways_are_one_scan(tmp_path, codecs, metadata):
    array = samples((3, 9, 7), "u2")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane, codec in zip(array, codecs, strict=True):
            file.write(plane, compression=codec, photometric="minisblack", metadata=metadata)
    scan = open_scan(tmp_path / "a.tif")
    assert scan.slices == 3 and "other pictures" not in scan.note
    with Writer(scan, tmp_path / "out") as writer:
        for index in range(3):
            writer.write(index, np.full((9, 7), 5.0 + index))
    with tifffile.TiffFile(writer.target) as file:
        assert [page.asarray().mean() for page in file.pages] == [5, 6, 7]


@pytest.mark.parametrize("metadata", [None, {}])
@pytest.mark.parametrize("codec", [None, "zlib"])
@pytest.mark.parametrize("count", [1, 2])
def test_reduced_copies_within_a_page_follow_it(tmp_path, count, codec, metadata):
    array = np.full((65, 84), 100, np.uint16)
    options = {"photometric": "minisblack", "metadata": metadata, "compression": codec}
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(array, subifds=count, **options)
        for step in (2, 4)[:count]:
            file.write(array[::step, ::step], subfiletype=1, **options)
    scan = open_scan(tmp_path / "a.tif")
    assert (scan.slices, scan.shape, scan.note) == (1, (65, 84), "")
    with Writer(scan, tmp_path / "out") as writer:
        writer.write(0, array + 7.0)
    with tifffile.TiffFile(writer.target) as file:
        assert len(file.pages) == 1 and len(file.pages[0].pages) == count
        assert {level.asarray().mean() for level in (file.pages[0], *file.pages[0].pages)} == {107}


PNGS = {"L": ("u1", ()), "I;16": ("u2", ()), "LA": ("u1", (2,)), "RGB": ("u1", (3,)), "RGBA": ("u1", (4,))}


@pytest.mark.parametrize("mode", PNGS)
def test_png_comes_back_with_its_text(tmp_path, mode):
    dtype, channels = PNGS[mode]
    array, text = samples((5, 7, *channels), dtype), PngInfo()
    text.add_text("Comment", "kept")
    text.add_itxt("Title", "größer", "de", "Titel")
    Image.fromarray(array).save(tmp_path / "a.png", dpi=(300, 72), pnginfo=text, icc_profile=b"a profile")
    scan = open_scan(tmp_path / "a.png")
    assert scan.shape == (5, 7) + (3,) * mode.startswith("RGB") and scan.bits == 8 * array.dtype.itemsize
    with Image.open(copied(scan, tmp_path / "out")) as back, Image.open(tmp_path / "a.png") as before:
        same(back, array)
        assert back.mode == mode and back.text == before.text and back.text["Title"].lang == "de"
        assert all(back.info[key] == before.info[key] for key in ("dpi", "icc_profile"))


def write_png(path, *, depth, colour, chunks, after=()):
    """PNG of random pixels by hand, 40 x 48."""

    def written(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = samples((40, 48 * depth * {0: 1, 2: 3}[colour] // 8), "u1")
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">II5B", 48, 40, depth, colour, 0, 0, 0)
    every = [(b"IHDR", header), *chunks, (b"IDAT", pixels), *after, (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written(*one) for one in every))
    return path


CALIBRATED = [(b"sRGB", b"\0"), (b"cHRM", bytes(32)), (b"sBIT", b"\6"), (b"bKGD", b"\0\3"), (b"tRNS", b"\0\1")]
CALIBRATED += [(b"sCAL", b"\1000.1\0000.1"), (b"oFFs", bytes(9)), (b"pCAL", b"x\0" + bytes(8) + b"\0\2u\0000\0001")]
CALIBRATED += [(b"tIME", bytes(7)), (b"prVt", b"of its maker")]


@pytest.mark.parametrize("depth", [8, 16, 4, 2])
def test_every_chunk_of_png_comes_back(tmp_path, depth):
    path = write_png(tmp_path / "a.png", depth=depth, colour=0, chunks=CALIBRATED, after=[(b"tEXt", b"a\0b")])
    scan = open_scan(path)
    target = copied(scan, tmp_path / "out")
    same(Image.open(target), Image.open(path))
    found, times = _chunks(target.read_bytes()), 255 // (2**depth - 1) if depth < 8 else 1
    grown = {b"bKGD": bytes([0, 3 * times]), b"tRNS": bytes([0, times])}  # are gray levels
    assert [(kind, grown.get(kind, data)) for kind, data in CALIBRATED] == found[1 : len(CALIBRATED) + 1]
    assert found[-2:] == [(b"tEXt", b"a\0b"), (b"IEND", b"")]
    assert scan.note == (
        "" if depth >= 8 else f"Its gray levels of {depth} bits are written with 8 bits, times {times}."
    )


def test_deep_colours_of_which_one_is_transparent_come_back(tmp_path):
    imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra formats")
    path = write_png(tmp_path / "a.png", depth=16, colour=2, chunks=[(b"tRNS", bytes(6))])
    scan = open_scan(path)
    target = copied(scan, tmp_path / "out")
    assert scan.shape == (40, 48, 3) and _chunks(target.read_bytes())[1] == (b"tRNS", bytes(6))
    same(*[imagecodecs.png_decode(file.read_bytes()) for file in (path, target)])


def test_alpha_stays_when_the_colours_change(tmp_path):
    array = samples((5, 7, 4), "u1")
    Image.fromarray(array).save(tmp_path / "a.png")
    with Writer(open_scan(tmp_path / "a.png"), tmp_path / "out") as writer:
        writer.write(0, np.full((5, 7, 3), 99.0))
    same(Image.open(writer.target), np.dstack([np.full((5, 7, 3), 99, np.uint8), array[..., 3]]))


@pytest.mark.parametrize("name, note", [("p.png", "Palette"), ("j.jpg", "JPEG"), ("b.bmp", "BMP")])
def test_palette_jpeg_and_bmp_become_png_and_their_note_names_it(tmp_path, name, note):
    image = Image.fromarray(samples((8, 9, 3), "u1"))
    (image.convert("P") if name == "p.png" else image).save(tmp_path / name)
    scan = open_scan(tmp_path / name)
    target = copied(scan, tmp_path / "out")
    assert scan.note.startswith(note) and target.name == name[0] + ".png"
    same(Image.open(target), Image.open(tmp_path / name).convert("RGB"))
