"""Axes have names: planes, channels and the noise models that they share are found in any order."""

import itertools
import sys
from collections import namedtuple
from types import ModuleType

import nibabel
import numpy as np
import pytest
import tifffile

from file_makers import copied, same, samples, write_ome, write_zarr
from mptpn.io import Writer, open_scan, open_scans, read_image, spread_images
from mptpn.io.array import named_array
from mptpn.io.axes import Axes, guess_axes

SIZES = {"T": 2, "C": 3, "Z": 4, "Y": 5, "X": 7, "S": 3}
ORDERS = ["".join(order) for order in itertools.permutations("CZYX")] + ["TCZYX", "YXS", "SYX", "ZYXS", "YXC", "YX"]


@pytest.mark.parametrize("first_fastest", [False, True])
@pytest.mark.parametrize("names", ORDERS)
def test_planes_are_taken_from_an_array_and_put_back(names, first_fastest):
    array = samples([SIZES[name] for name in names], "i4")
    axes = Axes(names, array.shape, first_fastest=first_fastest)
    planes = np.stack([axes.take(array, index) for index in range(axes.slices)])
    assert planes.shape[1:] == axes.sample_shape
    same(axes.arrange(planes), array)


@pytest.mark.parametrize("names", ["CZYX", "ZCYX", "TZYCX", "YXZC"])
def test_a_plane_knows_its_channel(names):
    array = samples([SIZES[name] for name in names], "i4")
    axes = Axes(names, array.shape)
    channels = np.moveaxis(array, names.index("C"), 0)
    if names.endswith("C"):
        assert axes.channels == 1 and axes.sample_shape[2:] == (3,) == (axes.colours,)
        return
    for channel in range(3):
        found = {int(value) for index in axes.of_channel(channel) for value in axes.take(array, index).ravel()}
        assert found == set(channels[channel].ravel().tolist())
        assert all(axes.channel(index) == channel for index in axes.of_channel(channel))


@pytest.mark.parametrize(
    ("shape", "alpha", "names"),
    [
        ((40, 50), True, "YX"),
        ((40, 50, 1), True, "YXC"),
        ((40, 50, 2), True, "YXC"),
        ((40, 50, 3), False, "YXS"),
        ((40, 50, 4), True, "YXS"),
        ((40, 50, 4), False, "YXC"),
        ((40, 50, 7), False, "YXC"),
        ((2, 40, 50), True, "CYX"),
        ((9, 40, 50), True, "ZYX"),
        ((64, 64, 20), True, "YXZ"),
        ((64, 64, 40), True, "ZYX"),
        ((9, 40, 50, 3), True, "ZYXS"),
        ((9, 2, 40, 50), True, "TCYX"),
        ((2, 9, 40, 50), True, "CZYX"),
        ((9, 8, 40, 50), True, "TZYX"),
        ((5, 3, 9, 40, 50), True, "TCZYX"),
        ((5, 9, 3, 40, 50), True, "TZCYX"),
        ((40, 50, 1, 1), True, "YXCT"),
        ((9, 40, 50, 1, 1), True, "ZYXCT"),
        ((40, 50, 3, 1, 1), True, "YXSCT"),
    ],
)
def test_axes_without_names_are_guessed_and_the_guess_is_told(shape, alpha, names):
    axes = guess_axes(shape, alpha=alpha)
    assert axes.names == names
    assert (names in axes.guess and str(shape) in axes.guess) == (len(shape) > 2)
    assert ("alpha" in axes.guess) == (names[-1] == "S" and shape[-1] == 4)


@pytest.mark.parametrize("names", ["ZY", "ZYYX", "CYX", "1YX", ""])
def test_wrong_names_are_refused_in_a_sentence(tmp_path, names):
    np.save(tmp_path / "a.npy", samples((20, 24), "u2"))
    if not names:
        assert open_scan(tmp_path / "a.npy", axes=names or None).axes.names == "YX"
        return
    with pytest.raises(ValueError, match=r"a.npy: axes .* give one letter an axis"):
        open_scan(tmp_path / "a.npy", axes=names)


def test_axes_that_a_type_fixes_are_not_overruled(tmp_path):
    from PIL import Image

    Image.fromarray(samples((20, 24), "u1")).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="its axes are YX by its type, not XY"):
        open_scan(tmp_path / "a.png", axes="XY")


def test_physical_sizes_and_names_of_channels_are_read(tmp_path):
    array = samples((2, 3, 20, 24), "u2")
    about = {"axes": "CZYX", "PhysicalSizeX": 0.1, "PhysicalSizeY": 0.2, "PhysicalSizeZ": 0.4}
    about["Channel"] = {"Name": ["DAPI", "GFP"]}
    tifffile.imwrite(tmp_path / "a.ome.tif", array, photometric="minisblack", metadata=about)
    scan = open_scan(tmp_path / "a.ome.tif")
    assert scan.axes.names == "CZYX" and scan.channel_names == ("DAPI", "GFP")
    assert scan.spacing == {"X": (0.1, "µm"), "Y": (0.2, "µm"), "Z": (0.4, "µm")}
    about = {"axes": "ZCYX", "spacing": 2.5, "unit": "um"}
    tifffile.imwrite(tmp_path / "b.tif", array.swapaxes(0, 1), imagej=True, metadata=about, resolution=(4, 4))
    scan = open_scan(tmp_path / "b.tif")
    assert scan.axes.names == "ZCYX" and scan.spacing["Z"] == (2.5, "um") and scan.spacing["X"] == (0.25, "um")
    write_zarr(tmp_path / "c.zarr", axes="CYX", zarr_format=3)
    scan = open_scan(tmp_path / "c.zarr")
    assert scan.channel_names == ("DAPI", "GFP", "Cy5") and scan.spacing["Y"] == (0.5, "")
    nibabel.save(nibabel.Nifti1Image(samples((3, 20, 24), "i2"), np.diag([5, 0.5, 0.7, 1.0])), tmp_path / "d.nii")
    scan = open_scan(tmp_path / "d.nii")
    assert scan.axes.names == "ZXY" and {name: side for name, (side, _) in scan.spacing.items()} == pytest.approx(
        {"Z": 5, "X": 0.5, "Y": 0.7}
    )


@pytest.mark.parametrize(
    ("shape", "zooms", "told", "names"),
    [
        ((40, 50, 9), (0.5, 0.5, 5.0), None, "XYZ"),
        ((9, 40, 50), (5.0, 0.5, 0.5), None, "ZXY"),
        ((40, 9, 50), (0.5, 5.0, 0.5), None, "XZY"),
        ((40, 45, 50), (1.0, 1.0, 1.0), 0, "ZXY"),
        ((40, 45, 50), (1.0, 1.0, 1.0), None, "XYZ"),
        ((12, 45, 50), (1.0, 1.0, 1.0), None, "ZXY"),
        ((40, 45, 50), (1.2, 1.0, 1.0), None, "XYZ"),
        ((9, 40, 50, 6), (5.0, 0.5, 0.5, 2.0), None, "ZXYT"),
    ],
)
def test_slices_of_nifti_lie_across_the_axis_that_the_header_says(tmp_path, shape, zooms, told, names):
    image = nibabel.Nifti1Image(samples(shape, "i2"), np.diag([*zooms[:3], 1.0]))
    if told is not None:
        image.header.set_dim_info(slice=told, freq=(told + 1) % 3, phase=(told + 2) % 3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    assert open_scan(tmp_path / "a.nii.gz").axes.names == names


def test_slices_of_any_axis_are_numbered_alike(tmp_path):
    array = samples((9, 40, 50), "i2")
    for axis, name in enumerate(("first", "middle", "last")):
        zooms = [5.0 if i == axis else 0.5 for i in range(3)]
        moved = np.ascontiguousarray(np.moveaxis(array, 0, axis))
        nibabel.save(nibabel.Nifti1Image(moved, np.diag([*zooms, 1.0])), tmp_path / f"{name}.nii")
        scan = open_scan(tmp_path / f"{name}.nii")
        for index in (0, 4, 8):
            same(scan.stored(index), array[index])
        assert scan.middle == 4


def changed_by(scan, folder, change):
    """A scan written with every pixel of each slice plus a number of its own."""
    with Writer(scan, folder) as writer:
        for index in range(scan.slices):
            writer.write(index, scan.read(index).pixels + change(index))
    return writer.target


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_reduced_copies_follow_what_was_changed(tmp_path, compression):
    array = np.full((2, 96, 64), 1000, np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        options = {"photometric": "minisblack", "tile": (16, 16), "compression": compression}
        file.write(array, subifds=2, metadata={"axes": "CYX"}, **options)
        for step in (2, 4):
            file.write(array[:, ::step, ::step] + 7, subfiletype=1, **options)
    target = changed_by(open_scan(tmp_path / "a.ome.tif"), tmp_path / "out", lambda index: 10 * (index + 1))
    with tifffile.TiffFile(target) as file:
        assert [level.shape for level in file.series[0].levels] == [(2, 96, 64), (2, 48, 32), (2, 24, 16)]
        for number, level in enumerate(file.series[0].levels):
            for channel in range(2):
                assert (level.asarray()[channel] == 1000 + 7 * (number > 0) + 10 * (channel + 1)).all()


def test_reduced_copies_of_zarr_follow_what_was_changed(tmp_path):
    zarr = pytest.importorskip("zarr", reason="needs the extra formats")
    array = write_zarr(tmp_path / "a.zarr", axes="CYX", zarr_format=2) // 2
    group = zarr.open(tmp_path / "a.zarr", mode="r+")
    group["0"][:], group["1"][:] = array, array[:, ::2, ::2]
    target = changed_by(open_scan(tmp_path / "a.zarr"), tmp_path / "out", lambda index: 5 * index)
    group = zarr.open(target, mode="r")
    steps = np.array([0, 5, 10], np.uint16)[:, None, None]
    same(group["0"][:], array + steps)
    same(group["1"][:], array[:, ::2, ::2] + steps)
    assert group.attrs["multiscales"][0]["axes"][0]["name"] == "c"


def test_an_earlier_zarr_result_alone_is_replaced(tmp_path):
    write_zarr(tmp_path / "a.zarr", axes="YX", zarr_format=3)
    copied(open_scan(tmp_path / "a.zarr"), tmp_path / "out")
    copied(open_scan(tmp_path / "a.zarr"), tmp_path / "out", overwrite=True)
    write_zarr(tmp_path / "other/a.zarr", axes="YX", zarr_format=3)
    with pytest.raises(FileExistsError, match="is not an earlier result"):
        copied(open_scan(tmp_path / "a.zarr"), tmp_path / "other", overwrite=True)


def test_further_series_are_copied_and_named(tmp_path):
    first, second = samples((3, 20, 24), "u2"), samples((30, 17), "u2")
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        file.write(first // 2, photometric="minisblack", metadata={"axes": "ZYX"})
        file.write(second, photometric="minisblack", metadata={"axes": "YX"})
    scan = open_scan(tmp_path / "a.ome.tif")
    assert "1 of its 4 pages are other pictures" in scan.note and scan.slices == 3
    target = changed_by(scan, tmp_path / "out", lambda _: 1)
    same(tifffile.imread(target, series=0), first // 2 + 1)
    same(tifffile.imread(target, series=1), second)


def test_series_of_one_size_are_one_scan(tmp_path):
    array = samples((2, 3, 20, 24), "u2")
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for one in array:
            file.write(one, photometric="minisblack", metadata={"axes": "CYX"})
    scan = open_scan(tmp_path / "a.ome.tif")
    assert scan.axes.names == "PCYX" and scan.axes.channels == 3 and scan.slices == 6 and not scan.note


@pytest.mark.parametrize("kind", ["ramp", "inverted", "fire", "photograph", "labels"])
def test_a_table_that_is_a_scale_is_one_gray_channel(tmp_path, kind):
    steps, random = np.linspace(0, 65535, 256), np.random.default_rng(0)
    tables = {
        "ramp": np.stack([0 * steps, steps, 0 * steps]),
        "inverted": np.stack([steps[::-1]] * 3),
        "fire": np.stack([np.minimum(65535, 2 * steps), steps**2 / 65535, np.maximum(0, 3 * steps - 131070)]),
        "photograph": random.integers(0, 65536, (3, 256)),
        "labels": random.integers(0, 65536, (3, 256)),
    }
    array, table = samples((20, 24), "u1"), tables[kind].astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="palette", colormap=table, metadata=None)
    if kind in ("photograph", "labels"):
        with pytest.raises(ValueError, match="palette is no scale"):
            open_scan(tmp_path / "a.tif")
        return
    target = copied(open_scan(tmp_path / "a.tif"), tmp_path / "out")
    with tifffile.TiffFile(target) as file:
        same(file.pages[0].colormap, table)
        same(file.asarray(), array)


MISSING = {
    "a.tif": ("imagecodecs", "ZSTD .*pip install imagecodecs"),
    "a.nrrd": ("SimpleITK", "pip install SimpleITK"),
    "a.zarr": ("zarr", "pip install zarr"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_library_is_named_with_what_installs_it(tmp_path, monkeypatch, name):
    library, words = MISSING[name]
    path = tmp_path / name
    if name == "a.tif":
        pytest.importorskip("imagecodecs", reason="needs the extra formats")
        tifffile.imwrite(path, samples((20, 24), "u2"), compression="zstd")
    elif name == "a.nrrd":
        path.write_bytes(b"NRRD0004\n")
    else:
        path.mkdir()
        (path / ".zgroup").write_text('{"zarr_format": 2}')
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ValueError, match=words):
        open_scan(path)


@pytest.mark.parametrize("suffix", [".czi", ".nd2", ".lif"])
def test_a_missing_reader_of_a_microscope_is_named(tmp_path, monkeypatch, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"no file")
    monkeypatch.setattr("mptpn.io.microscopes.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install (pylibCZIrw|nd2|liffile)"):
        open_scan(tmp_path / f"a{suffix}")


def test_a_header_beside_its_pixels_is_one_image(tmp_path):
    SimpleITK = pytest.importorskip("SimpleITK", reason="needs the extra formats")
    array = samples((20, 24, 3), "i2")
    nibabel.save(nibabel.Nifti1Pair(array, np.eye(4)), tmp_path / "a.img")
    nibabel.save(nibabel.Nifti1Pair(array, np.eye(4)), tmp_path / "b.img.gz")
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "c.mhd"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "d.nhdr"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / "e.mhd"), useCompression=True)
    found, left_out = open_scans([tmp_path])
    assert not left_out
    names = {"a.img": "a.nii", "b.img.gz": "b.nii.gz", "c.mhd": "c.mha", "d.nhdr": "d.nrrd", "e.mhd": "e.mha"}
    assert {scan.path.name: scan.default_name() for scan in found} == names
    for scan in found:
        target = copied(scan, tmp_path / "out")
        if target.suffix in (".mha", ".nrrd"):
            same(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(target))), array)
        else:
            same(nibabel.load(target).dataobj, array)


def test_channels_that_are_no_colours_are_images_of_their_own(tmp_path):
    array = samples((20, 24, 5), "u2")
    np.save(tmp_path / "a.npy", array)
    images = spread_images(open_scan(tmp_path / "a.npy"))
    assert [image.name for image in images] == [f"a.npy channel {n}" for n in range(1, 6)]
    np.testing.assert_allclose(read_image(tmp_path / "a.npy").array, array[..., 0], atol=1)


def test_dims_of_xarray_name_the_axes_and_are_kept():
    xarray = pytest.importorskip("xarray", reason="needs xarray")
    array = xarray.DataArray(samples((5, 20, 24, 2), "u2"), dims=("time", "y", "x", "channel"), name="a")
    found, axes, wrap = named_array(array)
    assert axes.names == "TYXC"
    back = wrap(found + 1)
    assert back.dims == array.dims and back.name == "a" and (back.values == array.values + 1).all()
    with pytest.raises(ValueError, match="do not name the rows and columns"):
        named_array(xarray.DataArray(samples((5, 20), "u2")))


@pytest.mark.parametrize(("axis", "names"), [(0, "CZYX"), (1, "ZCYX"), (-1, "ZYXC"), (3, "ZYXC")])
def test_channel_axis_names_the_others_by_their_order(axis, names):
    assert named_array(np.zeros((5, 6, 20, 24)), channel_axis=axis)[1].names == names


def test_a_stack_without_names_is_refused_and_told_what_to_do():
    with pytest.raises(ValueError, match="name the axes of a stack"):
        named_array(np.zeros((5, 20, 24)))
    with pytest.raises(ValueError, match="both given"):
        named_array(np.zeros((5, 20, 24)), axes="ZYX", channel_axis=0)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", None])
def test_a_slide_keeps_its_further_pictures_and_its_levels_follow(tmp_path, codec):
    """As Aperio writes it: the slide, a thumbnail, a level, a label and a macro picture that say they are reduced."""
    if codec:
        pytest.importorskip("imagecodecs", reason="needs the extra formats")
    words = "Aperio Image Library v11.2.1\r\n{} [0,0 {}] (128x128) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    slide, tiles = np.full((256, 384, 3), 100, np.uint8), {"tile": (128, 128), "compression": codec}
    others = [
        np.full((*shape, 3), value, np.uint8) for shape, value in (((77, 96), 30), ((40, 50), 40), ((50, 90), 50))
    ]
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        options = {"photometric": "rgb", "metadata": None}
        file.write(slide, description=words.format("384x256", "384x256"), **options, **tiles)
        file.write(others[0], description="Aperio Image Library thumbnail", **options)
        file.write(slide[::4, ::4], description=words.format("96x64", "384x256"), **options, **tiles)
        file.write(others[1], subfiletype=1, description="Aperio label 50x40", **options)
        file.write(others[2], subfiletype=9, description="Aperio macro 90x50", **options)
    scan = open_scan(tmp_path / "a.svs")
    target = changed_by(scan, tmp_path / "out", lambda _: 20)
    with tifffile.TiffFile(target) as file:
        assert file.is_svs and [page.asarray().mean().round() for page in file.pages] == [120, 30, 120, 40, 50]
        assert [level.shape for level in file.series[0].levels] == [(256, 384, 3), (64, 96, 3)]
        assert "MPP = 0.5" in file.pages[0].description


def test_a_thumbnail_that_comes_first_is_not_the_scan(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(samples((20, 24), "u2"), subfiletype=1, photometric="minisblack", metadata=None)
        file.write(samples((40, 48), "u2"), photometric="minisblack", metadata=None)
    assert open_scan(tmp_path / "a.tif").shape == (40, 48)


@pytest.mark.parametrize("kind", ["shaped", "imagej", "stk"])
def test_planes_without_a_directory_of_their_own_are_all_read(tmp_path, kind):
    from file_makers import write_stk

    array = samples((6, 20, 24), "u2")
    if kind == "stk":
        write_stk(tmp_path / "a.stk", array)
    elif kind == "shaped":
        tifffile.imwrite(tmp_path / "a.tif", array, truncate=True, photometric="minisblack")
    else:
        tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, truncate=True, metadata={"axes": "TYX"})
    scan = open_scan(next(tmp_path.iterdir()))
    assert scan.slices == 6
    same(np.stack([scan.stored(index) for index in range(6)]), array)
    target = changed_by(scan, tmp_path / "out", lambda index: index if index != 3 else 0)
    with tifffile.TiffFile(target) as file:
        assert len(file.pages) == 1
        same(file.asarray()[3], array[3])


class FakeNd2:
    """What nd2.ND2File says of a file of positions, slices and channels; no library writes a real one."""

    def __init__(self, array, axes):
        self.array, self.sizes, self.dtype = array, dict(zip(axes, array.shape, strict=True)), array.dtype
        self.metadata = type("Metadata", (), {"channels": None})

    def voxel_size(self):
        return namedtuple("VoxelSize", "x y z")(0.1, 0.1, 0.3)

    def read_frame(self, number):
        loops = [size for name, size in self.sizes.items() if name not in "CYXS"]
        return self.array.reshape(-1, *self.array.shape[len(loops) :])[number]

    def close(self):
        pass


@pytest.mark.parametrize("axes", ["PZCYX", "TCYX", "ZYX", "CYX", "YX", "YXS"])
def test_planes_of_nd2_are_read_from_its_frames_and_written_as_ome(tmp_path, monkeypatch, axes):
    sizes = {"P": 2, "T": 3, "Z": 4, "C": 2, "Y": 20, "X": 24, "S": 3}
    array = samples([sizes[name] for name in axes], "u1" if "S" in axes else "u2")
    module = ModuleType("nd2")
    module.ND2File = lambda path: FakeNd2(array, axes)
    monkeypatch.setitem(sys.modules, "nd2", module)
    monkeypatch.setattr("mptpn.io.microscopes.find_spec", lambda name: module)
    (tmp_path / "a.nd2").write_bytes(b"any")
    scan = open_scan(tmp_path / "a.nd2")
    assert scan.axes.names == axes and scan.spacing["X"] == (0.1, "µm")
    target = copied(scan, tmp_path / "out")
    with tifffile.TiffFile(target) as file:
        found = np.stack([series.asarray() for series in file.series])
        assert 'PhysicalSizeX="0.1"' in file.ome_metadata
    same(found if "P" in axes else found[0], array)


def test_planes_that_a_file_names_and_does_not_hold_are_not_passed_over(tmp_path):
    array = samples((6, 20, 24), "u2")
    tifffile.imwrite(tmp_path / "a.tif", array, imagej=True, truncate=True, metadata={"axes": "TYX"})
    whole = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        start = file.pages[0].dataoffsets[0]
    if start + array.nbytes == len(whole):  # the pixels come last
        (tmp_path / "a.tif").write_bytes(whole[: start + array[:2].nbytes])
    else:
        (tmp_path / "a.tif").write_bytes(whole.replace(b"images=6", b"images=9").replace(b"frames=6", b"frames=9"))
    with pytest.raises(ValueError, match="a.tif: names [69] planes and does not hold them all"):
        open_scan(tmp_path / "a.tif").read(5)


def blocks(places, uuids):
    """TiffData of planes at z, t in files of their own."""
    return "".join(
        f'<TiffData FirstZ="{z}" FirstT="{t}" IFD="{ifd}" PlaneCount="1">'
        f'<UUID FileName="{uuid}.ome.tif">urn:uuid:{uuid}</UUID></TiffData>'
        for (z, t, ifd), uuid in zip(places, uuids, strict=True)
    )


SETS = {  # the planes (z, t, page) of the files a and b; axes of a
    "ZYX": ([(0, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 0), (1, 1, 1), (2, 1, 2)], "aaabbb"),
    "TYX": ([(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (1, 1, 1), (1, 2, 2)], "aaabbb"),
    "TZYX": ([(0, 0, 0), (0, 1, 3), (1, 0, 1), (1, 1, 2), (2, 0, 0), (2, 1, 1)], "aaaabb"),
}


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("axes", SETS)
def test_one_file_of_a_set_of_ome_has_the_axes_of_its_own_planes(tmp_path, axes, beside):
    places, uuids = SETS[axes]
    array = samples((uuids.count("a"), 20, 24), "u2")
    write_ome(tmp_path / "a.ome.tif", array, 'SizeZ="3" SizeC="1" SizeT="3"', blocks(places, uuids), uuid="a")
    if beside:
        write_ome(tmp_path / "b.ome.tif", array, 'SizeZ="3" SizeC="1" SizeT="3"', blocks(places, uuids), uuid="b")
    scan = open_scan(tmp_path / "a.ome.tif")
    assert (scan.axes.names, scan.axes.guess, scan.note) == (axes, "", "")
    order = [0, 1, 3, 2] if axes == "TZYX" else [0, 1, 2]
    same(np.stack([scan.stored(index) for index in range(scan.slices)]), array[order])
    same(tifffile.imread(copied(scan, tmp_path / "out"), is_ome=False), array)


@pytest.mark.parametrize("held", [2, 3])
def test_a_file_of_a_set_that_lacks_planes_of_its_own_is_refused(tmp_path, held):
    places, uuids = SETS["ZYX"]
    words = blocks(places, uuids) if held == 2 else "<TiffData/>"
    write_ome(tmp_path / "a.ome.tif", samples((held, 20, 24), "u2"), 'SizeZ="5" SizeC="1" SizeT="1"', words, uuid="a")
    with pytest.raises(ValueError, match=f"a.ome.tif: names {3 if held == 2 else 5} planes and does not hold them all"):
        open_scan(tmp_path / "a.ome.tif")


@pytest.mark.parametrize("words", ["unit=um\nspacing=abc\n", "unit=um\nfinterval=x\n", "unit=um\n"])
def test_words_that_are_no_numbers_are_passed_over(tmp_path, words):
    array, options = samples((3, 20, 24), "u2"), {"photometric": "minisblack", "metadata": None, "resolution": (4, 4)}
    about = f"ImageJ=1.54f\nimages=3\nslices=3\n{words}"
    tifffile.imwrite(tmp_path / "a.tif", array, description=about, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at = file.pages[0].tags["YResolution"].valueoffset
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[:at] + bytes(4) + whole[at + 4 :])
    scan = open_scan(tmp_path / "a.tif")
    assert scan.axes.names == "ZYX" and scan.spacing == {"X": (0.25, "um")}
    write_ome(tmp_path / "b.ome.tif", array, 'SizeZ="3" SizeC="1" SizeT="1" PhysicalSizeX="0,2" PhysicalSizeY="0.2"')
    scan = open_scan(tmp_path / "b.ome.tif")
    assert scan.axes.names == "ZYX" and scan.spacing == {"Y": (0.2, "µm")}
