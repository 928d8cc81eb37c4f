"""Channels have a noise model each, their planes share it, in files and arrays, in any order of axes."""

import json
import tracemalloc
import warnings
from functools import cache

import nibabel
import numpy as np
import pytest
import tifffile

import mptpn
from file_makers import write_zarr
from mptpn.__main__ import main
from mptpn.batch import Settings, denoise_files
from mptpn.inference.planes import check_planes
from mptpn.io.axes import Axes

SIGMA = np.array([6.0, 40.0])  # of the noise of two channels


def scene(height=72, width=80, seed=0):
    row, col = np.mgrid[:height, :width]
    random = np.random.default_rng(seed)
    image = 300 + 60 * np.sin(col / 9 + seed) + 40 * np.cos(row / 7)
    for _ in range(5):
        place, size = random.uniform(0, (height, width)), random.uniform(4, 9)
        image += 90 * np.exp(-((row - place[0]) ** 2 + (col - place[1]) ** 2) / (2 * size**2))
    return image


def stack(count=3):
    """Clean and noisy, [C, Z, Y, X], the second channel much noisier."""
    clean = np.stack([[scene(seed=10 * c + z) for z in range(count)] for c in range(2)])
    noisy = clean + SIGMA[:, None, None, None] * np.random.default_rng(5).normal(size=clean.shape)
    return clean, np.rint(noisy).clip(0, 65535).astype(np.uint16)


def rms(array):
    return float(np.sqrt(np.mean(np.square(array, dtype=float))))


def denoised(tmp_path, name, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written, failures = denoise_files([tmp_path / name], Settings(tmp_path / "out", model="small", **settings))
    assert not failures
    return written[0]


@cache
def alone(channel, count=2):
    """A channel of the stack, [Z, Y, X], denoised as an array of its own."""
    return mptpn.denoise(stack(count)[1][channel], model="small", axes="ZYX").image


def of_report(target):
    return json.loads(target.with_name(f"{target.name}.trust.json").read_text())


def test_each_channel_of_a_file_is_denoised_as_if_it_were_alone(tmp_path):
    clean, noisy = stack(2)
    about = {"axes": "ZCYX"}
    tifffile.imwrite(tmp_path / "both.tif", noisy.swapaxes(0, 1), imagej=True, metadata=about)
    both = tifffile.imread(denoised(tmp_path, "both.tif")).swapaxes(0, 1)
    for channel in range(2):
        assert np.abs(both[channel].astype(int) - alone(channel)).max() <= 1  # rounded in float32 and in float64
        assert rms(both[channel] - clean[channel]) < 0.5 * SIGMA[channel]
    noise = of_report(tmp_path / "out/both.tif")["noise"]
    assert [one["sigma"] for one in noise] == pytest.approx(SIGMA, rel=0.2)


def test_slices_and_times_share_a_noise_model(tmp_path):
    _, noisy = stack(3)
    np.save(tmp_path / "a.npy", noisy[:, :, :64, :64])
    denoised(tmp_path, "a.npy", axes="TZYX")
    assert len(of_report(tmp_path / "out/a.npy")["noise"]) == 1


def write_ome(path, array):
    about = {"photometric": "minisblack", "compression": "zlib", "metadata": {"axes": "CZYX"}}
    tifffile.imwrite(path, array, ome=True, **about)


def read_npz(path):
    return np.load(path)["image"]


# the same pixels [C, Z, Y, X] in other types of files and other orders of axes
FILES = {
    "czyx.npy": (np.save, np.load, "CZYX"),
    "zcyx.npy": (np.save, np.load, "ZCYX"),
    "zyxc.npy": (np.save, np.load, "ZYXC"),
    "yxcz.npy": (np.save, np.load, "YXCZ"),
    "czyx.npz": (lambda path, array: np.savez(path, image=array), read_npz, "CZYX"),
    "czyx.ome.tif": (write_ome, tifffile.imread, None),
}


@pytest.mark.slow
def test_the_order_of_axes_and_the_type_of_file_do_not_matter(tmp_path):
    _, noisy = stack(2)
    results = {}
    for name, (write, read, axes) in FILES.items():
        order = ["CZYX".index(letter) for letter in axes or "CZYX"]
        write(tmp_path / name, np.ascontiguousarray(noisy.transpose(order)))
        results[name] = read(denoised(tmp_path, name, axes=axes, report="none")).transpose(np.argsort(order))
    first = results.pop("czyx.npy")
    assert first.shape == noisy.shape and not np.array_equal(first, noisy)
    for name, other in results.items():
        assert np.array_equal(first, other), name


@pytest.mark.slow
def test_slices_along_the_first_axis_give_what_the_last_axis_gives(tmp_path):
    _, noisy = stack(9)
    volume = noisy[0].astype(np.int16)
    first = nibabel.Nifti1Image(volume, np.diag([5.0, 0.5, 0.5, 1]))
    last = nibabel.Nifti1Image(np.ascontiguousarray(np.moveaxis(volume, 0, -1)), np.diag([0.5, 0.5, 5.0, 1]))
    nibabel.save(first, tmp_path / "first.nii.gz")
    nibabel.save(last, tmp_path / "last.nii")
    a, b = (np.asarray(nibabel.load(denoised(tmp_path, name)).dataobj) for name in ("first.nii.gz", "last.nii"))
    assert np.array_equal(a, np.moveaxis(b, -1, 0))


def test_all_stains_of_a_pixel_are_denoised_and_a_constant_one_stays(tmp_path):
    clean = np.stack([scene(seed=i) for i in range(5)], -1)
    noisy = (clean + 20 * np.random.default_rng(1).normal(size=clean.shape)).astype(np.uint16)
    noisy[..., 3] = 77
    np.save(tmp_path / "a.npy", noisy)
    back = np.load(denoised(tmp_path, "a.npy"))
    assert (back[..., 3] == 77).all()
    for i in (0, 1, 2, 4):
        assert rms(back[..., i] - clean[..., i]) < 12


def test_zarr_is_denoised_channel_by_channel(tmp_path):
    zarr = pytest.importorskip("zarr", reason="needs the extra formats")
    clean, noisy = stack(1)
    write_zarr(tmp_path / "a.zarr", axes="CYX", zarr_format=3)
    group = zarr.open(tmp_path / "a.zarr", mode="r+")
    group.create_array("0", data=noisy[:, 0], chunks=(1, 32, 32), overwrite=True)
    group.create_array("1", data=noisy[:, 0, ::2, ::2].copy(), chunks=(1, 32, 32), overwrite=True)
    back = zarr.open(denoised(tmp_path, "a.zarr"), mode="r")["0"][:]
    for channel in range(2):
        assert rms(back[channel] - clean[channel, 0]) < 0.5 * SIGMA[channel]


def test_the_command_measures_each_channel_and_tells_what_it_guessed(tmp_path, capsys):
    _, noisy = stack(1)
    np.save(tmp_path / "a.npy", noisy[:, 0])
    assert main(["noise", str(tmp_path / "a.npy"), "--json"]) == 0
    out, error = capsys.readouterr()
    found = json.loads(out)
    assert [one["file"].rsplit(" ", 1)[1] for one in found] == ["1", "2"]
    assert [one["sigma"] for one in found] == pytest.approx(SIGMA, rel=0.2)
    assert "axes CYX were guessed" in error
    assert main(["noise", str(tmp_path / "a.npy"), "--json", "--axes", "zyx"]) == 0
    out, error = capsys.readouterr()
    assert len(json.loads(out)) == 1 and "guessed" not in error
    assert main(["noise", str(tmp_path / "a.npy"), "--axes", "TCZYX"]) == 1
    assert "do not fit shape (2, 72, 80)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["axes", "channel_axis", "xarray"])
def test_an_array_with_named_axes_gives_what_each_channel_alone_gives(kind):
    clean, noisy = stack(2)
    moved = np.moveaxis(noisy, 0, 1)  # [Z, C, Y, X]
    if kind == "axes":
        found = mptpn.denoise(moved, model="small", axes="ZCYX")
    elif kind == "channel_axis":
        found = mptpn.denoise(moved, model="small", channel_axis=1)
    else:
        xarray = pytest.importorskip("xarray", reason="needs xarray")
        found = mptpn.denoise(xarray.DataArray(moved, dims=("z", "channel", "y", "x")), model="small")
        assert found.image.dims == found.uncertainty.dims == ("z", "channel", "y", "x")
    image = np.asarray(found.image)
    assert image.dtype == np.uint16 and image.shape == moved.shape == found.uncertainty.shape
    assert [one.sigma for one in found.noises] == pytest.approx(SIGMA, rel=0.2)
    for channel in range(2):
        assert np.array_equal(image[:, channel], alone(channel))
        assert rms(image[:, channel] - clean[channel]) < 0.5 * SIGMA[channel]


def test_strength_0_of_an_array_with_axes_is_the_array():
    _, noisy = stack(1)
    assert np.array_equal(mptpn.denoise(noisy, model="small", axes="CZYX", strength=0).image, noisy)


def test_four_channels_of_bytes_are_colour_and_alpha_with_a_warning():
    image = np.stack([scene(seed=i) for i in range(4)], -1)
    image = (image / 3 + 8 * np.random.default_rng(1).normal(size=image.shape)).clip(0, 255).astype(np.uint8)
    with pytest.warns(UserWarning, match="taken for alpha and stays; axes='YXC'"):
        found = mptpn.denoise(image, model="small")
    assert np.array_equal(found.image[..., 3], image[..., 3])
    assert not np.array_equal(mptpn.denoise(image, model="small", axes="YXC").image[..., 3], image[..., 3])


def test_a_mask_of_the_arrays_shape_keeps_the_pixels_of_one_plane():
    _, noisy = stack(2)
    valid = np.ones(noisy.shape, bool)
    valid[1, 0, 10:40, 20:50] = False
    found = mptpn.denoise(noisy, model="small", axes="CZYX", valid=valid).image
    assert np.array_equal(found[~valid], noisy[~valid])
    assert not np.array_equal(found[1, 1, 10:40, 20:50], noisy[1, 1, 10:40, 20:50])
    with pytest.raises(ValueError, match="the mask is"):
        mptpn.denoise(noisy, model="small", axes="CZYX", valid=np.ones((3, 3), bool))


def test_the_noise_of_a_stack_is_that_which_denoise_finds():
    _, noisy = stack(2)
    found = mptpn.estimate_noise(noisy, axes="CZYX")
    assert found.sigma == mptpn.denoise(noisy, model="small", axes="CZYX").noise.sigma
    assert mptpn.estimate_noise(noisy[1], channel_axis=0).sigma != found.sigma
    with pytest.raises(ValueError, match="those of one array"):
        mptpn.estimate_noise([noisy[0, 0], noisy[0, 1]], axes="YX")


def test_a_stack_is_not_copied_while_it_is_checked():
    stack = np.random.default_rng(0).normal(size=(64, 128, 128)).astype("f4")
    tracemalloc.start()
    check_planes(stack, Axes("ZYX", stack.shape), valid=None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < stack.nbytes / 16
    stack[3, 2, 1] = stack[60, 0, 0] = np.nan
    with pytest.raises(ValueError, match="2 of 1048576 pixels are NaN or infinite; replace, crop or mask them"):
        check_planes(stack, Axes("ZYX", stack.shape), valid=None)
    with pytest.raises(ValueError, match="every pixel is 7; a constant image"):
        check_planes(np.full((3, 20, 20), 7), Axes("ZYX", (3, 20, 20)), valid=None)


@pytest.mark.parametrize("preserve_range", [False, True])
def test_denoise_image_has_the_range_and_the_type_of_scikit_image(preserve_range):
    from skimage import img_as_float

    clean, noisy = stack(1)
    image = noisy[0, 0]
    found = mptpn.denoise_image(image, preserve_range=preserve_range)
    expected = clean[0, 0] if preserve_range else clean[0, 0] / 65535
    before = image.astype(float) if preserve_range else img_as_float(image)
    assert found.dtype == np.float64 and found.shape == image.shape
    assert rms(found - expected) < 0.5 * rms(before - expected)
    assert mptpn.denoise_image(image.astype(np.float32) / 65535).dtype == np.float32


def test_denoise_image_takes_a_known_level_and_channels():
    clean, noisy = stack(1)
    image = noisy[1, 0].astype(np.float32)
    told = mptpn.denoise_image(image, sigma=40.0, preserve_range=True)
    assert rms(told - clean[1, 0]) < 10
    low = mptpn.denoise_image(image, sigma=10.0, preserve_range=True)  # the level that is told counts
    assert rms(low - clean[1, 0]) > 1.5 * rms(told - clean[1, 0])
    both = mptpn.denoise_image(noisy[:, 0], channel_axis=0, preserve_range=True)
    assert both.shape == noisy[:, 0].shape and rms(both[1] - clean[1, 0]) < 20
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="give a finite standard deviation above 0"):
            mptpn.denoise_image(image, sigma=wrong)
    with pytest.raises(ValueError, match="is no axis"):
        mptpn.denoise_image(noisy[:, 0], channel_axis=7)
