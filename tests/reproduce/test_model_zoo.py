"""Packages of the BioImage Model Zoo: they pass its test, and their ONNX gives the same in two other runtimes."""

import numpy as np
import pytest
import torch

pytest.importorskip("bioimageio.core", reason="bioimageio.core is not installed: pip install '.[zoo]'")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install '.[zoo]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from bioimageio.core import load_model_description, test_description  # noqa: E402

import model_zoo  # noqa: E402

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


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_onnx_gives_the_same_on_a_size_that_it_has_not_seen(small, runtime):
    module = pytest.importorskip(runtime)
    package, path = small
    file = str(path.with_suffix("") / "weights.onnx")
    noisy = package.source[..., :256, :128].numpy()
    with torch.no_grad():
        wanted = package.model(torch.from_numpy(noisy)).numpy()
    if runtime == "onnxruntime":
        (found,) = module.InferenceSession(file).run(None, {"noisy": noisy})
    else:
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        found = next(iter(module.Core().compile_model(file, "CPU", settings)([noisy]).values()))
    assert np.abs(found - wanted).max() < 1e-4


def test_the_package_of_an_enlarger_passes(tmp_path):
    assert check(model_zoo.build(model_zoo.Package.of("x2"), tmp_path / "x2")).status == "passed"
