"""The napari plug-in, headless: layers with scale, units and name, a strength at once, faults as sentences."""

import html
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
import torch

pytest.importorskip("napari", reason="napari is not installed: pip install mptpn[napari]")
pytest.importorskip("pytestqt", reason="pytest-qt is not installed: pip install -e .[dev]")
os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import dask.array as da  # noqa: E402
from napari.components import ViewerModel  # noqa: E402
from npe2 import PluginManifest  # noqa: E402

import mptpn  # noqa: E402
from mptpn.io import open_scan  # noqa: E402
from mptpn.viewers import layers  # noqa: E402
from mptpn.viewers.napari import DenoiseWidget, abdominal_mr, chest_ct  # noqa: E402
from mptpn.viewers.result_layers import LAYERS  # noqa: E402
from mptpn.viewers.session import Result  # noqa: E402
from viewer_images import noisy  # noqa: E402

PLACE = {"scale": (0.5, 0.25), "translate": (3.0, -2.0), "units": ("um", "um"), "axis_labels": ("y", "x")}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def viewer() -> ViewerModel:
    """napari's viewer without a window: no OpenGL is needed."""
    return ViewerModel()


@pytest.fixture
def widget(qtbot, viewer) -> DenoiseWidget:
    made = DenoiseWidget(viewer)
    qtbot.addWidget(made)
    yield made
    made.stop()
    if made.session.job:
        made.session.job.wait(60)


def until_idle(qtbot, widget, seconds: float = 240) -> None:
    qtbot.wait(30)  # a new layer is measured when napari has finished with it
    qtbot.waitUntil(lambda: widget.session.job is None or not widget.session.job.running, timeout=1000 * seconds)
    qtbot.wait(30)


def said(label) -> str:
    return html.unescape(re.sub("<[^>]*>", "", label.text().replace("<br>", "\n")))


def denoised(qtbot, widget) -> dict:
    until_idle(qtbot, widget)
    widget.denoise()
    until_idle(qtbot, widget)
    assert widget.results.added, said(widget.status)
    return widget.results.added


def test_the_manifest_is_valid_and_every_command_exists():
    manifest = PluginManifest.from_distribution("mptpn")
    manifest.validate_imports()
    assert not manifest.contributions.readers  # napari's own readers open the files


@pytest.mark.parametrize("make", [chest_ct, abdominal_mr])
def test_samples_carry_their_pixel_size(make):
    ((array, about, kind),) = make()
    assert kind == "image" and array.ndim == 2 and about["units"] == ("mm", "mm") and 0.3 < about["scale"][0] < 2


def test_a_sample_is_denoised_in_ten_seconds(qtbot, viewer, widget):
    ((array, about, _),) = chest_ct()
    viewer.add_image(array, **about)
    started = time.process_time()
    added = denoised(qtbot, widget)
    assert time.process_time() - started < 10  # of this process: other processes may have the cores
    assert set(added) == set(LAYERS) and "USE" in said(widget.report)


def test_noise_is_told_at_once_without_denoising(qtbot, viewer, widget):
    array = noisy()
    viewer.add_image(array, name="cells")
    until_idle(qtbot, widget)
    assert said(widget.noise).splitlines()[0] == f"noise: {str(mptpn.estimate_noise(array)).splitlines()[0]}"
    assert not widget.results.added and widget.run.text() == "Denoise"


def test_layers_keep_scale_units_axis_labels_place_and_name(qtbot, viewer, widget):
    array = noisy()
    source = viewer.add_image(array, name="cells", **PLACE)
    added = denoised(qtbot, widget)
    for name, layer in added.items():
        assert layer.name == f"cells {name}" and layer.data.shape == array.shape
        assert np.allclose(layer.scale, source.scale) and np.allclose(layer.translate, source.translate)
        assert (layer.units, layer.axis_labels) == (source.units, source.axis_labels)
    assert (added["denoised"].data == mptpn.denoise(array).image).all() and added["denoised"].dtype == array.dtype
    assert viewer.layers.selection.active is source and widget.layer.currentData() is source
    assert "LOOK" in said(widget.report) or "USE" in said(widget.report)


def test_the_strength_is_instant_and_zero_is_the_input(qtbot, viewer, widget):
    array = noisy((512, 512))
    viewer.add_image(array, name="cells")
    until_idle(qtbot, widget)
    region = widget.session.region
    flat = np.ones(array.shape, np.float32)
    half = mptpn.denoise(noisy())  # its assessment stands in
    result = Result(region, "auto", None, half.noise, -flat, flat, 2 * flat, np.ones((1, 1), np.float32))
    widget.results.show(result, *widget._source, strength=1.0)
    started = time.process_time()
    widget.strength.setValue(0)
    assert time.process_time() - started < 0.3
    added = widget.results.added
    assert (added["denoised"].data == array).all() and (added["uncertainty"].data == 2).all()
    widget.strength.setValue(50)
    assert (widget.results.added["removed"].data == 0.5).all()


def test_a_slice_of_a_stack_lies_on_that_slice(qtbot, viewer, widget):
    stack = np.stack([noisy(seed=i) for i in range(4)])
    viewer.add_image(stack, name="stack", scale=(2.0, 0.5, 0.5), translate=(10.0, 0.0, 0.0))
    viewer.dims.set_current_step(0, 2)
    layer = denoised(qtbot, widget)["denoised"]
    assert layer.data.shape == (1, 97, 81) and np.allclose(layer.translate, (14.0, 0.0, 0.0))
    assert (layer.data[0] == mptpn.denoise(stack[2]).image).all() and widget.session.region.name == "stack, slice 2"


def test_the_whole_layer_has_one_noise_model(qtbot, viewer, widget):
    stack = np.stack([noisy((48, 40), seed=i) for i in range(3)])
    viewer.add_image(stack, name="stack", axis_labels=("z", "y", "x"))
    widget.part.setCurrentText(layers.WHOLE)
    assert (denoised(qtbot, widget)["denoised"].data == mptpn.denoise(stack, axes="ZYX").image).all()


def test_colour_is_denoised_as_colour(qtbot, viewer, widget):
    colour = np.stack([noisy(seed=i) for i in range(3)], -1)
    viewer.add_image(colour, name="slide", rgb=True, **PLACE)
    added = denoised(qtbot, widget)
    assert added["denoised"].rgb and (added["denoised"].data == mptpn.denoise(colour).image).all()
    assert added["removed"].rgb and np.allclose(added["removed"].scale, PLACE["scale"])


def test_of_several_resolutions_the_visible_part_of_the_finest_is_read(qtbot, viewer, widget):
    full = noisy((256, 320))
    layer = viewer.add_image([full, full[::2, ::2], full[::4, ::4]], name="slide", multiscale=True, **PLACE)
    layer._data_level, layer.corner_pixels = 1, np.array([[20, 30], [51, 69]])  # as a window sets them
    widget.part.setCurrentText(layers.VISIBLE)
    result = denoised(qtbot, widget)["denoised"]
    assert (result.data == mptpn.denoise(full[40:104, 60:140]).image).all()
    assert np.allclose(result.translate, (3 + 40 * 0.5, -2 + 60 * 0.25))


def test_a_lazy_layer_is_read_by_slice_and_never_whole(qtbot, viewer, widget):
    read = []

    def block(block_info=None):
        read.append(block_info[None]["chunk-location"][0])
        return noisy((96, 80), seed=read[-1])[None]

    lazy = da.map_blocks(block, chunks=((1,) * 9, 96, 80), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    viewer.add_image(lazy, name="movie", contrast_limits=(0, 255))
    viewer.dims.set_current_step(0, 5)
    until_idle(qtbot, widget)
    read.clear()
    denoised(qtbot, widget)
    assert set(read) == {5}
    widget.part.setCurrentText(layers.WHOLE)
    widget.denoise()
    assert "movie: is read piece by piece; choose visible part or current slice." == said(widget.status)


PEAK = """
import numpy as np, dask.array as da, resource, torch, sys
from qtpy.QtWidgets import QApplication
app = QApplication([])
from napari.components import ViewerModel
from mptpn.viewers.napari import DenoiseWidget
torch.set_num_threads(1)
block = lambda block_info=None: np.random.default_rng(0).normal(100, 10, (1, 1024, 1024)).astype(np.uint16)
lazy = da.map_blocks(block, chunks=((1,) * 1000, 1024, 1024), dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16))
viewer = ViewerModel()
widget = DenoiseWidget(viewer)
layer = viewer.add_image(lazy, contrast_limits=(0, 200))
assert lazy.nbytes > 2e9
layer.corner_pixels = np.array([[0, 200, 200], [0, 711, 711]])
widget.part.setCurrentText("visible part")
widget.session.job.wait()
widget.denoise()
widget.session.job.wait()
assert widget.session.job.state == "done", widget.session.job.failure
# ru_maxrss would start from that of the process that forked it
print(1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]))
"""


@pytest.mark.slow
def test_two_gigabytes_are_looked_at_within_one():
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < 2**30


def test_a_stop_keeps_the_layers_and_says_so(qtbot, viewer, widget):
    viewer.add_image(noisy((300, 310)), name="cells")
    until_idle(qtbot, widget)
    before = list(viewer.layers)
    widget.denoise()
    assert widget.run.text() == "Stop"
    qtbot.wait(100)
    started = time.process_time()  # of this process: others may have the cores
    widget.run.click()
    qtbot.waitUntil(lambda: not widget.session.job.running, timeout=60000)
    assert time.process_time() - started < 1
    qtbot.wait(30)
    assert said(widget.status) == "stopped denoising (auto); what was there before stays."
    assert list(viewer.layers) == before and said(widget.noise) and widget.run.text() == "Denoise"


def test_a_second_run_is_refused_and_another_layer_waits(qtbot, viewer, widget):
    viewer.add_image(noisy(), name="cells")
    until_idle(qtbot, widget)
    widget.denoise()
    widget.denoise()
    assert said(widget.status) == "still denoising (auto); stop it, or wait for its end."
    viewer.add_image(noisy(seed=3), name="other")
    until_idle(qtbot, widget)
    qtbot.waitUntil(lambda: bool(widget.results.added), timeout=20000)
    assert widget.results.added["denoised"].name == "cells denoised"
    until_idle(qtbot, widget)
    assert widget.session.region.name == "other"  # it is measured now


def test_a_second_result_replaces_the_first(qtbot, viewer, widget):
    viewer.add_image(noisy(), name="cells")
    denoised(qtbot, widget)
    widget.method.setCurrentIndex(1)
    denoised(qtbot, widget)
    assert [layer.name for layer in viewer.layers] == ["cells", *(f"cells {name}" for name in LAYERS)]


BAD = {
    "labels": (
        lambda v: v.add_labels(np.ones((40, 40), int), name="it"),
        "it: is a labels layer; choose an image layer.",
    ),
    "points": (lambda v: v.add_points(np.ones((3, 2)), name="it"), "it: is a points layer; choose an image layer."),
    "bool": (lambda v: v.add_image(noisy() > 99, name="it"), "it: holds True and False"),
    "constant": (lambda v: v.add_image(np.full((40, 40), 3.0), name="it", contrast_limits=(0, 9)), "it: "),
    "small": (lambda v: v.add_image(noisy((7, 9)), name="it"), "at least 16 x 16"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_layer_that_is_no_image_is_one_sentence(qtbot, viewer, widget, capfd, name):
    make, sentence = BAD[name]
    make(viewer)
    until_idle(qtbot, widget)
    widget.denoise()
    until_idle(qtbot, widget)
    assert sentence in said(widget.status) and "\n" not in said(widget.status), said(widget.status)
    assert not widget.results.added and "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("array", "sentence"),
    [(noisy() + 1j, "it: holds complex numbers; choose"), (np.zeros((0, 9)), "it: shape (0, 9) is")],
)
def test_a_layer_that_napari_itself_cannot_draw_is_one_sentence(array, sentence):
    class Image:  # napari 0.9 shows neither
        name, data, dtype, ndim, multiscale, rgb = "it", array, array.dtype, 2, False, False

    with pytest.raises(ValueError, match=re.escape(sentence)):
        layers.read_region(Image(), ViewerModel().dims, part=layers.SLICE)


def test_without_a_layer_the_widget_says_what_to_do(qtbot, viewer, widget):
    widget.denoise()
    assert said(widget.status).startswith("there is no layer; open an image")
    viewer.add_image(noisy(), name="cells")
    until_idle(qtbot, widget)
    viewer.layers.clear()
    until_idle(qtbot, widget)
    assert said(widget.status).startswith("there is no layer")


def test_five_axes_are_looked_at_by_slice(qtbot, viewer, widget):
    array = np.stack([noisy((40, 48), seed=i) for i in range(12)]).reshape(2, 3, 2, 40, 48)
    viewer.add_image(array, name="movie")
    for axis, step in enumerate((1, 2, 0)):
        viewer.dims.set_current_step(axis, step)
    layer = denoised(qtbot, widget)["denoised"]
    assert layer.data.shape == (1, 1, 1, 40, 48) and widget.session.region.name == "movie, slice 1 2 0"
    assert (layer.data[0, 0, 0] == mptpn.denoise(array[1, 2, 0]).image).all()


def test_a_weights_file_that_is_none_is_one_sentence(qtbot, viewer, widget, tmp_path):
    (tmp_path / "notes.safetensors").write_text("no weights")
    viewer.add_image(noisy(), name="cells")
    until_idle(qtbot, widget)
    widget.use_file(str(tmp_path / "notes.safetensors"))
    widget.denoise()
    until_idle(qtbot, widget)
    assert "notes.safetensors" in said(widget.status) and "not a safetensors file" in said(widget.status)


def test_a_prompt_gives_a_layer_or_a_reason(qtbot, viewer, widget):
    viewer.add_image(noisy(), name="cells")
    until_idle(qtbot, widget)
    widget.find()
    assert "the prompt is empty" in said(widget.status)
    widget.prompt.setText("nuclei")
    widget.find()
    until_idle(qtbot, widget)
    found = [layer for layer in viewer.layers if layer.name == "cells nuclei"]
    assert found or said(widget.status).startswith("not found: ")


def test_the_written_file_has_scale_unit_and_name(qtbot, viewer, widget, tmp_path):
    viewer.add_image(noisy(), name="cells", scale=(500.0, 250.0), units=("nm", "nm"), axis_labels=("y", "x"))
    layer = denoised(qtbot, widget)["denoised"]
    data, about, _ = layer.as_layer_data_tuple()
    (path,) = layers.write_image(str(tmp_path / "saved.ome.tif"), data, about)
    with tifffile.TiffFile(path) as file:
        assert (file.asarray() == layer.data).all()
        assert 'PhysicalSizeX="0.25"' in file.ome_metadata and 'PhysicalSizeY="0.5"' in file.ome_metadata
        assert 'PhysicalSizeXUnit="µm"' in file.ome_metadata and 'Name="cells denoised"' in file.ome_metadata
    assert open_scan(path).spacing["X"] == (0.25, "µm")
