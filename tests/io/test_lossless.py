"""At strength 0 the pixels and the metadata of small files of every format, type and order of axes come back."""

import gzip
import itertools
from functools import partial

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from file_makers import copied, same, samples, write_czi, write_lif, write_lzw, write_stk, write_zarr
from mptpn.io import open_scan

H, W = 20, 24
TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"]


def read_npy(path):
    return [np.load(path)]


def read_npz(path):
    arrays = np.load(path)
    return [arrays[name] for name in arrays.files]


def read_volume(path):
    image = nibabel.load(path)
    return [np.asanyarray(image.dataobj), image.affine]


def read_itk(path):
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    return [SimpleITK.GetArrayFromImage(image), *map(np.array, (image.GetSpacing(), image.GetOrigin()))]


def read_png(path):
    import imagecodecs

    return [imagecodecs.png_decode(path.read_bytes())]


def read_zarr(path):
    import zarr

    group = zarr.open(path, mode="r")
    return [group[name][:] for name in sorted(group.array_keys())], dict(group.attrs) | {"mptpn": ""}


LAYOUT = {256, 257, 258, 259, 262, 273, 277, 278, 279, 282, 283, 284, 317, 322, 323, 324, 325, 330, 338, 339, 347, 530}


def read_tiff(path):
    """Every series with its reduced copies, its axes, and the tags of each page that do not say where bytes lie."""
    path = unpacked(path) if path.suffix == ".gz" else path
    with tifffile.TiffFile(path) as file:
        arrays = [level.asarray() for series in file.series for level in series.levels]
        axes = [(series.axes, series.shape, series.name) for series in file.series]
    with tifffile.TiffFile(path, is_ome=False) as file:
        tags = [{tag.code: tag.value for tag in page.tags if tag.code not in LAYOUT} for page in file.pages]
    return arrays, [repr(tags), axes]


def unpacked(path):
    plain = path.with_name(f"{path.name}.plain.tif")
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    return plain


FILES = {}  # name: what makes the file at a path, what reads it, names of the axes that the user gives


def add(name, make, read, axes=None):
    FILES[name] = make, read, axes


def saved(array, save=np.save):
    return lambda path: save(path, array)


SHAPES = [(H, W), (H, W, 1), (H, W, 2), (H, W, 3), (H, W, 4), (2, H, W), (7, H, W), (7, H, W, 3), (2, 7, H, W)]
SHAPES += [(7, 2, H, W), (7, 9, H, W), (2, 3, 5, H, W), (3, 5, 2, H, W), (2, 5, H, W, 3)]
for number, shape in enumerate(SHAPES):
    add(f"{number}.npy", saved(samples(shape, TYPES[number % 8])), read_npy)
GIVEN = ["XYZ", "YXC", "CYX", "ZXY", "YCX", "ZYXC", "YXZC", "CXYT"]
for axes in GIVEN:
    add(f"{axes}.npy", saved(samples((18, 19, 20, 21)[: len(axes)], "i2")), read_npy, axes)
add("a.npz", lambda path: np.savez(path, image=samples((3, H, W), "u2"), scale=np.array(2.5)), read_npz)
add("b.npz", lambda path: np.savez_compressed(path, image=samples((H, W), "f4"), mask=np.eye(5) > 0), read_npz)


def ome(axes, **arguments):
    sizes = {"T": 2, "C": 3, "Z": 4, "Y": H, "X": W, "S": 3}
    array, rgb = samples([sizes[name] for name in axes], "u1" if "S" in axes else "u2"), "S" in axes
    metadata = {"axes": axes, "PhysicalSizeX": 0.108, "PhysicalSizeXUnit": "µm", "PhysicalSizeZ": 0.4}
    if "C" in axes:
        metadata["Channel"] = {"Name": ["DAPI", "GFP", "Cy5"]}
    options = {"ome": True, "photometric": "rgb" if rgb else "minisblack", "metadata": metadata}
    return lambda path: tifffile.imwrite(path, array, **options, **arguments)


ORDERS = ["".join(order) + "YX" for order in itertools.permutations("TCZ")]
ORDERS += ["CYX", "ZYX", "TYX", "CZYX", "YXS", "TYXS", "ZCYX"]
for axes, codec in itertools.product(ORDERS, (None, "zlib", "zstd")):
    add(f"{axes}.{codec}.ome.tif", ome(axes, compression=codec), read_tiff)
add("tiles.ome.tif", ome("CZYX", tile=(16, 16)), read_tiff)
add("big.ome.tif", ome("CZYX", bigtiff=True, byteorder=">"), read_tiff)


def imagej(axes, dtype="u2", **metadata):
    sizes = {"T": 2, "Z": 4, "C": 3, "Y": H, "X": W, "S": 3}
    array = samples([sizes[name] for name in axes], dtype)
    about = {"axes": axes, "spacing": 2.5, "unit": "um", "finterval": 3.0} | metadata
    return lambda path: tifffile.imwrite(path, array, imagej=True, metadata=about, resolution=(4, 4))


for axes in ("TZCYX", "ZCYX", "TCYX", "CYX", "TZYX", "ZYX", "YX"):
    add(f"imagej.{axes}.tif", imagej(axes), read_tiff)
add("imagej.composite.tif", imagej("CYX", mode="composite", Labels=["a", "b", "c"]), read_tiff)
add("imagej.rgb.tif", imagej("YXS", "u1"), read_tiff)


def tiff(array, **arguments):
    return lambda path: tifffile.imwrite(path, array, **({"photometric": "minisblack"} | arguments))


for dtype, codec in itertools.product(TYPES, ("lzw", "zlib", "packbits", "lzma", "zstd")):
    add(f"{codec}.{dtype}.tif", tiff(samples((3, H, W), dtype), compression=codec), read_tiff)
for codec, types in {"lerc": "u1 i2 u4 f4 f8", "jpeg2000": "u1 u2", "jpegxl": "u1 u2", "png": "u1 u2"}.items():
    for dtype in types.split():
        array = samples((H, W), dtype)
        arguments = {"compressionargs": {"lossless": True}} if codec == "jpegxl" else {}
        arguments |= {"compressionargs": {"level": 0}} if codec == "jpeg2000" else {}
        add(f"{codec}.{dtype}.tif", tiff(array, compression=codec, **arguments), read_tiff)
for dtype in ("u1", "u2"):
    add(f"predictor.{dtype}.tif", tiff(samples((H, W), dtype), compression="zlib", predictor=True), read_tiff)
add("predictor.f4.tif", tiff(samples((H, W), "f4"), compression="zlib", predictor=True), read_tiff)
add("lzw.rgb48.tif", tiff(samples((H, W, 3), "u2"), compression="lzw", photometric="rgb"), read_tiff)
add("lzw.white.tif", lambda path: write_lzw(path, samples((H, W), "u2"), photometric=0), read_tiff)
add("planes.tif", tiff(samples((5, H, W), "u2"), planarconfig="separate", metadata=None), read_tiff)
add("samples.tif", tiff(samples((H, W, 5), "u2"), planarconfig="contig"), read_tiff)
add("alpha.tif", tiff(samples((H, W, 4), "u1"), photometric="rgb", extrasamples=["unassalpha"]), read_tiff)
add("cmyk.tif", tiff(samples((H, W, 4), "u1"), photometric="separated"), read_tiff)
add("movie.stk", lambda path: write_stk(path, samples((6, H, W), "u2")), read_tiff)


def packed(path):
    plain = path.with_suffix(".raw")
    tifffile.imwrite(plain, samples((3, H, W), "i2"), photometric="minisblack")
    path.write_bytes(gzip.compress(plain.read_bytes()))


add("packed.tif.gz", packed, read_tiff)


def virtual(path):
    """ImageJ writes stacks of more than 4 GB so: several images, one page."""
    imagej("ZYX")(path)
    with tifffile.TiffFile(path) as file:
        end = file.pages[0].offset + 2 + 12 * len(file.pages[0].tags)
    data = path.read_bytes()
    path.write_bytes(data[:end] + bytes(4) + data[end + 4 :])


def two_sizes(path, **arguments):
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(samples((3, H, W), "u2"), photometric="minisblack", metadata={"axes": "ZYX"}, **arguments)
        file.write(samples((30, 17), "u2"), photometric="minisblack", metadata={"axes": "YX"}, **arguments)


def pyramid(path, **arguments):
    array = samples((2, 96, 64), "u2")
    with tifffile.TiffWriter(path, ome=True) as file:
        options = {"photometric": "minisblack", "tile": (16, 16)} | arguments
        file.write(array, subifds=2, metadata={"axes": "CYX"}, **options)
        for step in (2, 4):
            file.write(array[:, ::step, ::step], subfiletype=1, **options)


def slide(path, **arguments):
    array, options = samples((64, 96, 3), "u1"), {"photometric": "rgb", "metadata": None} | arguments
    with tifffile.TiffWriter(path) as file:
        file.write(array, tile=(32, 32), **options)
        file.write(array[::2, ::2], subfiletype=1, **options)
        file.write(samples((10, 12, 3), "u1"), **options)


def green(path, **arguments):
    table = np.zeros((3, 256), np.uint16)
    table[1] = np.arange(256) * 257
    options = {"photometric": "palette", "colormap": table, "metadata": None} | arguments
    tifffile.imwrite(path, samples((3, H, W), "u1"), description="ImageJ=1.54f\nimages=3\nslices=3\n", **options)


add("virtual.tif", virtual, read_tiff)
for codec in (None, "zlib"):
    for maker in (two_sizes, pyramid, slide, green):
        name = f"{maker.__name__}.{codec}{'.ome' * (maker in (two_sizes, pyramid))}.tif"
        add(name, partial(maker, compression=codec), read_tiff)


def volume(shape, dtype, zooms, kind=nibabel.Nifti1Image, **about):
    def make(path):
        image = kind(samples(shape, dtype), np.diag([*zooms, 1.0]))
        if "slice" in about:
            image.header.set_dim_info(**about)
        nibabel.save(image, path)

    return make


for axis, dtype, ending in itertools.product(range(3), ("u1", "i2", "f4"), (".nii", ".nii.gz")):
    shape, zooms = np.roll((5, 20, 24), axis), np.roll((4.0, 0.5, 0.6), axis)
    add(f"{axis}.{dtype}{ending}", volume(tuple(shape), dtype, zooms), read_volume)
add("told.nii", volume((20, 18, 24), "i2", (1, 1, 1), slice=0, freq=1, phase=2), read_volume)
add("series.nii.gz", volume((20, 24, 3, 4), "i2", (1, 1, 3)), read_volume)
add("series_first.nii.gz", volume((3, 20, 24, 4), "i2", (3, 1, 1)), read_volume)
add("two.nii", volume((20, 24, 5), "i2", (1, 1, 1), nibabel.Nifti2Image), read_volume)
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])


def colours(path):
    array = samples((20, 24, 5, 3), "u1").view(RGB)[..., 0]
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


add("rgb.nii", colours, read_volume)
add("rgb.nii.gz", colours, read_volume)
for dtype, ending in itertools.product(("u1", "i2", "i4", "f4"), (".mgh", ".mgz")):
    add(f"{dtype}{ending}", volume((20, 24, 5), dtype, (1, 1, 1), nibabel.MGHImage), read_volume)
add("pair.img", volume((20, 24, 5), "i2", (1, 1, 2), nibabel.Nifti1Pair), read_volume)
add("analyze.img", volume((20, 24, 5), "i2", (1, 1, 2), nibabel.AnalyzeImage), read_volume)


def itk(array, **arguments):
    def make(path):
        SimpleITK = pytest.importorskip("SimpleITK", reason="needs the extra itk")
        image = SimpleITK.GetImageFromArray(array, **arguments)
        image.SetSpacing([0.5, 0.7, 3.0][: image.GetDimension()])
        image.SetOrigin([1.0, -2.0, 3.5][: image.GetDimension()])
        SimpleITK.WriteImage(image, str(path))

    return make


for ending, dtype in itertools.product((".nrrd", ".mha", ".mhd"), ("u1", "i2", "f4")):
    add(f"{dtype}{ending}", itk(samples((5, H, W), dtype)), read_itk)
add("flat.nrrd", itk(samples((H, W), "u2")), read_itk)
add("colour.mha", itk(samples((H, W, 3), "u1"), isVector=True), read_itk)


def png(array):
    def make(path):
        imagecodecs = pytest.importorskip("imagecodecs", reason="needs the extra formats")
        path.write_bytes(imagecodecs.png_encode(array))

    return make


for dtype, channels in itertools.product(("u1", "u2"), ((), (2,), (3,), (4,))):
    add(f"{dtype}.{len(channels) and channels[0]}.png", png(samples((H, W, *channels), dtype)), read_png)
for version, axes in itertools.product((2, 3), ("YX", "CYX", "ZYX", "TCZYX")):
    add(f"{axes}.{version}.zarr", partial(write_zarr, axes=axes, zarr_format=version), read_zarr)
for axes in ("YX", "CZYX", "YXS"):
    add(f"{axes}.czi", partial(write_czi, axes=axes), None)
for axes in ("YX", "ZYX", "ZCYX", "TZCYX"):
    add(f"{axes}.lif", partial(write_lif, axes=axes), None)


def flat(found):
    return found if isinstance(found, tuple) else (found, [])


def test_there_are_enough_files():
    assert len(FILES) >= 150


@pytest.mark.parametrize("name", FILES)
def test_pixels_and_metadata_come_back(tmp_path, name):
    make, read, axes = FILES[name]
    path = tmp_path / name
    if path.suffix == ".lif":
        pytest.importorskip("liffile", reason="needs the extra microscopes")
    truth = make(path)
    scan = open_scan(path, axes=axes)
    assert axes is None or scan.axes.names == axes
    target = copied(scan, tmp_path / "out")
    if read is None:  # written as another type
        same(tifffile.imread(target), truth)
        return
    (before, about), (after, said) = flat(read(path)), flat(read(target))
    assert about == said and len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        same(left, right)


PLAIN = [name for name in FILES if name.endswith((".None.ome.tif", ".stk")) or "imagej" in name]


@pytest.mark.parametrize("name", [name for name in PLAIN if "pyramid" not in name])  # in tiles
def test_every_byte_of_a_file_without_compression_comes_back(tmp_path, name):
    FILES[name][0](tmp_path / name)
    target = copied(open_scan(tmp_path / name), tmp_path / "out")
    assert target.read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize("codec", ["lzw", "zstd", "lerc", "jpeg2000", "jpegxl", "packbits", "lzma"])
def test_a_codec_that_loses_nothing_is_kept(tmp_path, codec):
    name = f"{codec}.u2.tif" if f"{codec}.u2.tif" in FILES else f"{codec}.u4.tif"
    FILES[name][0](tmp_path / name)
    target = copied(open_scan(tmp_path / name), tmp_path / "out")
    with tifffile.TiffFile(tmp_path / name) as before, tifffile.TiffFile(target) as after:
        assert before.pages[0].compression == after.pages[0].compression != 1


def test_jpeg_is_written_without_a_loss_and_the_note_says_so(tmp_path):
    Image.fromarray(samples((H, W, 3), "u1")).save(tmp_path / "a.tif", compression="jpeg")
    scan = open_scan(tmp_path / "a.tif")
    target = copied(scan, tmp_path / "out")
    same(tifffile.imread(target), tifffile.imread(tmp_path / "a.tif"))
    assert "JPEG" in scan.note and "deflate" in scan.note
