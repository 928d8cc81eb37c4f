"""Dask arrays: the chunks do not matter, the pixels are those of a file, the type and shape come back."""

import numpy as np
import pytest

import mptpn
from mptpn.batch import Settings, denoise_files

da = pytest.importorskip("dask.array", reason="Dask is not installed (pip install mptpn[dask])")
pytestmark = pytest.mark.filterwarnings("ignore")


def noisy(shape, seed=0):
    random = np.random.default_rng(seed)
    rows, cols = np.mgrid[: shape[-2], : shape[-1]]
    return (800 + 200 * np.sin(rows / 31) * np.cos(cols / 23) + random.normal(0, 30, shape)).round().astype(np.uint16)


def test_the_result_does_not_depend_on_the_chunks_and_equals_that_of_a_file(tmp_path):
    array = noisy((1060, 50))
    np.save(tmp_path / "a.npy", array)
    (path,), _ = denoise_files([tmp_path / "a.npy"], Settings(tmp_path / "out", report="short", progress=False))
    for chunks in ((1060, 50), (333, 17)):
        result = mptpn.denoise_dask(da.from_array(array, chunks=chunks))
        assert result.dtype == array.dtype and result.shape == array.shape
        np.testing.assert_array_equal(result.compute(scheduler="synchronous"), np.load(path))


def test_slices_share_a_noise_model_and_channels_do_not():
    array = np.stack([noisy((70, 80), seed) for seed in range(2)])
    loud = np.stack([array, (array * 3.0).astype(np.uint16)])
    lazy = da.from_array(loud, chunks=(1, 1, 40, 40))
    result = mptpn.denoise_dask(lazy, channel_axis=0).compute(scheduler="synchronous")
    alone = mptpn.denoise_dask(lazy[1]).compute(scheduler="synchronous")
    assert result.shape == loud.shape
    np.testing.assert_array_equal(result[1], alone)


def test_strength_0_and_pixels_that_are_no_numbers_stay():
    array = noisy((64, 70)).astype("f4")
    array[3:5, 7] = np.nan
    lazy = da.from_array(array, chunks=30)
    np.testing.assert_array_equal(mptpn.denoise_dask(lazy, strength=0.0).compute(scheduler="synchronous"), array)
    result = mptpn.denoise_dask(lazy).compute(scheduler="synchronous")
    np.testing.assert_array_equal(np.isnan(result), np.isnan(array))
    assert not np.array_equal(result, array)


def test_an_array_without_noise_is_refused():
    with pytest.raises(ValueError, match="holds noise"):
        mptpn.denoise_dask(da.zeros((64, 64), chunks=32))
    with pytest.raises(ValueError, match="is no image"):
        mptpn.denoise_dask(da.zeros(64, chunks=32))


@pytest.mark.parametrize("array", [np.zeros((64, 64)), None, "scan.zarr"])
def test_what_is_no_dask_array_is_refused_by_its_type(array):
    with pytest.raises(TypeError, match=f"takes a Dask array, not {type(array).__name__}; wrap"):
        mptpn.denoise_dask(array)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channel_axis": 9}, "channel_axis 9 is no axis"),
        ({"channel_axis": "C"}, "channel_axis 'C': is no whole number"),
        ({"strength": "1"}, "strength '1': is no number"),
        ({"model": 3}, "model 3: is no denoiser"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        mptpn.denoise_dask(da.zeros((2, 64, 64), chunks=32), **settings)
