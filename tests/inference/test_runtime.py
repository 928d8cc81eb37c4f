"""OpenVINO instead of PyTorch: the same result, only where it can be the same, and chosen by a variable."""

import copy
import sys

import pytest
import torch

import mptpn
from mptpn.inference import load_network
from mptpn.inference.runtime import VARIABLE, accelerated
from mptpn.networks import RetractableTransformer, load
from mptpn.networks.aligned import AlignedTransformer
from mptpn.random import generator

LITTLE = {"channels": 1, "widths": (16, 32), "intervals": ((2,), (1,)), "blocks": 2, "head_dim": 16, "window": 4}
LITTLE |= {"unshuffle": 2, "mlp_ratio": 2.0, "bias": "relative"}


def little(**changed) -> RetractableTransformer:
    torch.manual_seed(0)
    network = RetractableTransformer(**LITTLE | changed).eval()
    for parameter in network.parameters():  # the head begins at 0
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def image(*size: int) -> torch.Tensor:
    return torch.randn(1, 1, *size, generator=generator(3, "runtime"))


@pytest.mark.parametrize("size", [(16, 48), (64, 32)])
@torch.no_grad()
def test_the_aligned_network_equals_the_network(size):
    network = little()
    assert network.alignment == 16
    # float32: about 1e-7 for each of some hundred additions, of values of some tens
    torch.testing.assert_close(AlignedTransformer(network)(image(*size)), network(image(*size)), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_network_is_as_it_was_after_it_was_aligned():
    network, pixels = little(), image(16, 16)
    before = network(pixels)
    AlignedTransformer(network)
    assert torch.equal(network(pixels), before)


def test_what_has_no_aligned_form_is_refused():
    with pytest.raises(ValueError, match="no aligned form"):
        AlignedTransformer(little(described=8))
    with pytest.raises(ValueError, match="every pixel sees the whole image"):
        AlignedTransformer(little(sparse_groups="whole_image", bias="dynamic"))


def test_without_the_variable_nothing_changes(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    network = little()
    assert "forward" not in vars(accelerated(network))


def test_another_backend_and_a_missing_openvino_are_named(monkeypatch):
    monkeypatch.setenv(VARIABLE, "tensorrt")
    with pytest.raises(ValueError, match="MPTPN_BACKEND=tensorrt: no such backend; choose torch, openvino, "):
        accelerated(little())
    monkeypatch.setenv(VARIABLE, "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"pip install mptpn\[openvino\]"):
        load_network(little())


class TestOpenVino:
    @pytest.fixture(autouse=True)
    def chosen(self, monkeypatch, tmp_path):
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install mptpn[openvino]")
        monkeypatch.setenv(VARIABLE, "openvino")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        self.cache = tmp_path

    @torch.no_grad()
    def test_it_gives_the_same_and_converts_once(self):
        plain = little()
        for _ in range(2):
            fast = accelerated(little())
            torch.testing.assert_close(fast(image(32, 48)), plain(image(32, 48)), rtol=1e-4, atol=1e-3)
        assert len(list(self.cache.rglob("*.xml"))) == 1

    @torch.no_grad()
    def test_sides_without_whole_groups_are_left_to_pytorch(self):
        assert torch.equal(accelerated(little())(image(33, 20)), little()(image(33, 20)))
        assert not list(self.cache.rglob("*.xml"))

    def test_gradients_are_left_to_pytorch(self):
        pixels = image(16, 16).requires_grad_()
        accelerated(little())(pixels).sum().backward()
        assert pixels.grad.abs().sum() > 0

    @torch.no_grad()
    def test_a_copy_whose_weights_change_is_computed_from_its_own(self):
        copied = copy.deepcopy(accelerated(little()))
        torch.nn.init.zeros_(copied.head.weight)
        torch.nn.init.zeros_(copied.head.bias)
        assert torch.equal(copied(image(16, 16)), image(16, 16))

    @pytest.mark.slow
    def test_a_scan_is_denoised_alike(self, monkeypatch):
        rows = torch.linspace(0, 6, 128)
        noisy = (100 * (rows[:, None].sin() * rows.cos() + 2) + 20 * image(128, 128)[0, 0]).numpy()
        fast = mptpn.denoise(noisy, model="small")
        monkeypatch.delenv(VARIABLE)
        assert list(self.cache.rglob("*.xml"))
        slow = mptpn.denoise(noisy, model=load("small"))
        assert abs(fast.image - slow.image).max() < 20 * 1e-3
