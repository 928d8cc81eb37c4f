"""Weights that describe themselves: what is saved is built again, and what is not ours is refused."""

import json
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mptpn
from mptpn.inference import load_network
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.noise_level import NoiseLevelNetwork
from mptpn.networks.segmentation import SegmentationNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load_weights, save_weights, weights_path
from mptpn.random import generator

KINDS = {
    BlindSpotNetwork: {"width": 5, "depth": 1, "local_means": [3, 7]},
    NoiseLevelNetwork: {"width": 4},
    RetractableTransformer: {
        "channels": 1,
        "widths": [8, 16],
        "intervals": [[2], [3]],
        "blocks": 2,
        "head_dim": 8,
        "window": 4,
    },
}


def trained(kind) -> nn.Module:
    torch.manual_seed(0)
    network = kind(**KINDS[kind])
    for value in network.state_dict().values():
        value.copy_(torch.randn(value.shape))
    return network.eval()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_network_comes_back_as_it_was(tmp_path, kind):
    network = trained(kind)
    path = save_weights(
        tmp_path / "sub" / "w.safetensors", network, arguments=KINDS[kind], note={"steps": 3, "nested": {"a": [1, 2.5]}}
    )
    back, note = load_weights(path, *KINDS)
    assert type(back) is kind and not back.training and note == {"steps": 3, "nested": {"a": [1, 2.5]}}
    noisy = torch.rand(2, 1, 17, 21, generator=generator(0))
    first, second = network(noisy), back(noisy)
    assert all((a - b).abs().max() <= 1e-4 * a.abs().max() for a, b in zip(first, second, strict=True))
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in back.state_dict().items())
    assert back.state_dict().keys() == network.state_dict().keys()


def test_reading_weights_draws_none_of_the_caller_s_random_numbers():
    before = torch.get_rng_state()
    load_weights("tiny", RetractableTransformer)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", ["small", "base", "colour"])
def test_a_pretrained_denoiser_is_for_white_noise_by_name_by_path_and_from_python(tmp_path, name):
    copy = tmp_path / "renamed.safetensors"
    shutil.copy(weights_path(name), copy)
    assert mptpn.load(name).for_white_noise is True
    assert all(load_weights(path, RetractableTransformer)[0].for_white_noise is True for path in (name, copy))


def test_other_weights_are_not_for_white_noise_unless_saved_as_such(tmp_path):
    network, path = trained(BlindSpotNetwork), tmp_path / "w.safetensors"
    for written, flag in (({}, False), ({"white_noise": True}, True)):
        save_weights(path, network, arguments=KINDS[BlindSpotNetwork], **written)
        assert load_weights(path, BlindSpotNetwork)[0].for_white_noise is flag
    about = {"network": "BlindSpotNetwork", "arguments": json.dumps(KINDS[BlindSpotNetwork]), "note": "{}"}
    save_file(network.state_dict(), path, metadata=about)  # a file of version 0.1.0
    assert load_weights(path, BlindSpotNetwork)[0].for_white_noise is False


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors: no such weights file"):
        load_weights(tmp_path / "nowhere.safetensors", BlindSpotNetwork)


class Trap:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was run')",))


@pytest.mark.parametrize(
    "content", [pickle.dumps(Trap()), b"", b"not weights", b"\xff" * 64], ids=["pickle", "empty", "text", "garbage"]
)
def test_a_pickle_or_rubbish_in_weights_clothing_is_refused_and_not_run(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="w.safetensors: not a safetensors file"):
        load_weights(path, BlindSpotNetwork)


def test_a_truncated_file_is_refused(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", trained(BlindSpotNetwork), arguments=KINDS[BlindSpotNetwork])
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_weights(path, BlindSpotNetwork)


def test_weights_of_another_shape_are_not_loaded_in_part(tmp_path):
    path = save_weights(
        tmp_path / "w.safetensors", trained(BlindSpotNetwork), arguments=KINDS[BlindSpotNetwork] | {"width": 6}
    )
    with pytest.raises(ValueError, match=r"tensors, such as 'branches.* do not fit its arguments"):
        load_weights(path, BlindSpotNetwork)


HOSTILE = {
    "millions of blocks": {"blocks": 10_000_000},
    "no block": {"blocks": 0},
    "text for a number": {"blocks": "many"},
    "a number for a list": {"widths": 8},
    "an empty list": {"widths": []},
    "text in a list": {"widths": ["a"]},
    "a list in a list": {"widths": [[8]]},
    "zero in a list": {"intervals": [[0], [2]]},
    "a long list": {"intervals": [[2]] * 99},
    "many blocks within the bounds": {"blocks": 64},
    "an unknown name": {"strange": 1},
    "a width that is no multiple": {"head_dim": 3},
    "not a number": {"mlp_ratio": float("nan")},
    "a word that is not known": {"bias": "none"},
    "more channels than the file has": {"channels": 3},
    "a number for a choice": {"recompute": 1},
    "wide": {"widths": [4096, 4096]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_arguments_out_of_bounds_are_refused_in_a_sentence_before_a_network_is_made(tmp_path, name, monkeypatch):
    good = {"channels": 1, "widths": (8, 8), "intervals": ((2,), (2,)), "blocks": 1, "head_dim": 8, "unshuffle": 2}
    network = RetractableTransformer(**good)
    path = save_weights(tmp_path / "w.safetensors", network, arguments=good | HOSTILE[name])
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"w\.safetensors: its .*; give weights that mptpn train has written\.$"):
        load_weights(path, RetractableTransformer)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("words", [[1], ["a" * 65], [""], "nuclei", [["nuclei"]]])
def test_a_vocabulary_holds_words_and_no_others(tmp_path, words):
    good = {"words": ["nuclei", "vessels"], "width": 8, "text_width": 12}
    network = SegmentationNetwork(**good)
    path = save_weights(tmp_path / "w.safetensors", network, arguments=good | {"words": words})
    with pytest.raises(ValueError, match="its argument words is of another type or size"):
        load_weights(path, SegmentationNetwork)
    save_weights(path, network, arguments=good)
    assert load_weights(path, SegmentationNetwork)[0].words == ("nuclei", "vessels")


@pytest.mark.parametrize("text", ["[1, 2]", "null", "no JSON", "[" * 100000, None])
def test_arguments_that_are_no_object_are_refused(tmp_path, text):
    about = {"network": "RetractableTransformer"} | ({} if text is None else {"arguments": text})
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", metadata=about)
    with pytest.raises(ValueError, match="arguments are missing or no JSON object"):
        load_weights(tmp_path / "w.safetensors", RetractableTransformer)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    network = trained(NoiseLevelNetwork)
    next(network.parameters()).data.flatten()[0] = float("nan")
    path = save_weights(tmp_path / "w.safetensors", network, arguments=KINDS[NoiseLevelNetwork])
    with pytest.raises(ValueError, match="holds NaN or infinite numbers"):
        load_weights(path, NoiseLevelNetwork)


def test_a_failed_write_keeps_the_old_weights(tmp_path):
    path = save_weights(tmp_path / "w.safetensors", trained(NoiseLevelNetwork), arguments=KINDS[NoiseLevelNetwork])
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_weights(path, trained(NoiseLevelNetwork), arguments={"width": object()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_network_that_enlarges_is_refused_where_one_denoises(tmp_path, capsys):
    from mptpn.__main__ import main

    with pytest.raises(
        ValueError, match="network 'x2' is no denoiser of the package; choose one of small, correlated, base"
    ):
        mptpn.load("x2")
    image = np.random.default_rng(0).normal(100, 10, (70, 80))
    with pytest.raises(
        ValueError, match="holds 'SuperResolutionNetwork'; expected one of RetractableTransformer, BlindSpotNetwork"
    ):
        load_network("x2")
    np.save(tmp_path / "scan.npy", image)
    assert main(["denoise", str(tmp_path / "scan.npy"), "--out", str(tmp_path / "out"), "--model", "x2"]) == 1
    assert "holds 'SuperResolutionNetwork'; expected one of" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_file_without_our_metadata_and_another_kind_of_network_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="w.safetensors: holds None; expected one of BlindSpotNetwork"):
        load_weights(path, BlindSpotNetwork)
    save_weights(path, trained(NoiseLevelNetwork), arguments=KINDS[NoiseLevelNetwork])
    with pytest.raises(ValueError, match="w.safetensors: holds 'NoiseLevelNetwork'"):
        load_weights(path, BlindSpotNetwork, RetractableTransformer)


def test_an_argument_that_version_0_1_0_called_hole_is_the_half_size(tmp_path):
    network, path = BlindSpotNetwork(width=5, depth=1, half_size=(0, 1)), tmp_path / "w.safetensors"
    save_weights(path, network, arguments={"width": 5, "depth": 1, "hole": [0, 1]})
    assert load_weights(path, BlindSpotNetwork)[0].half_size == (0, 1)
