"""Packages of the BioImage Model Zoo: they pass its test, and their ONNX gives the same in two other runtimes."""

import numpy as np
import pytest
import torch

pytest.importorskip("bioimageio.core", reason="bioimageio.core is not installed: pip install '.[zoo]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[zoo]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from bioimageio.core import load_model_description, test_description  # noqa: E402

import model_zoo  # noqa: E402

RUNTIMES = ("onnxruntime", "openvino")
check = test_description
check.__test__ = False


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    package = model_zoo.Package.of("small")
    return package, model_zoo.build(package, tmp_path_factory.mktemp("zoo") / "small")


def test_the_package_of_a_denoiser_passes_and_says_its_terms(small):
    _, path = small
    assert check(path).status == "passed"
    model = load_model_description(path)
    assert [axis.halo for axis in model.outputs[0].axes[2:]] == [128, 128]
    (close,) = model.config.bioimageio.reproducibility_tolerance
    assert close.absolute_tolerance == close.relative_tolerance == 1e-4
    text = (path.with_suffix("") / "README.md").read_text()
    assert "## Validation" in text and "research only" in text and "29.16" in text
    assert "research only" in (path.with_suffix("") / "LICENSE.md").read_text()


def test_a_wrong_test_tensor_does_not_pass(small, tmp_path):
    package, _ = small
    package.__dict__["result"] = package.result + 1e-3
    try:
        with torch.no_grad():
            path = model_zoo.build(package, tmp_path / "wrong")
        assert check(path).status != "passed"
    finally:
        del package.__dict__["result"]


def run(runtime, file, name, image):
    module = pytest.importorskip(runtime)
    if runtime == "onnxruntime":
        return module.InferenceSession(file).run(None, {name: image})[0]
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return next(iter(module.Core().compile_model(file, "CPU", settings)([image]).values()))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_onnx_gives_the_same_on_a_size_that_it_has_not_seen(small, runtime):
    package, path = small
    noisy = package.source[..., :256, :128].numpy()
    with torch.no_grad():
        wanted = package.model(torch.from_numpy(noisy)).numpy()
    assert np.abs(run(runtime, str(path.with_suffix("") / "weights.onnx"), "noisy", noisy) - wanted).max() < 1e-4


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory):
    package = model_zoo.Package.of("x2")
    return package, model_zoo.build(package, tmp_path_factory.mktemp("zoo") / "x2")


def test_the_package_of_an_enlarger_passes(enlarger):
    assert check(enlarger[1]).status == "passed"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_onnx_of_an_enlarger_gives_the_same_but_for_tokens_between_two_buckets(enlarger, runtime):
    """On an image that it has not seen; OpenVINO put such a token on the other side here: 210 of 110592 values."""
    package, path = enlarger
    low = package.source.flip(2).roll(13, 3)
    with torch.no_grad():
        wanted = package.model(low).numpy()
    found = run(runtime, str(path.with_suffix("") / model_zoo.TILE), "low", low.numpy())
    difference = np.abs(found - wanted)
    assert difference.max() < 5e-3 and (difference > 1e-4).mean() < 0.01
