"""The networks in the package: they load by name, say what they are, are as good as they say, and are refused where
they do not belong.
"""

import pytest
import torch

import mptpn
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.segmentation import SegmentationNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load, load_weights, pretrained_paths, weights_path
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from mptpn.stages import profound
from mptpn.super_resolution import SuperResolutionNetwork
from support import datasets
from support.photographs import white_copies
from support.pretraining import psnrs

DENOISERS = ("small", "base", "colour")
OFFERED = "small, correlated, base, colour, tiny"


@pytest.mark.parametrize(
    "name, channels, sets",
    [("small", 1, ("bsd68", "set12")), ("base", 1, ("bsd68", "set12")), ("colour", 3, ("cbsd68",))],
)
def test_a_network_says_what_it_learned_from(name, channels, sets):
    network = mptpn.load(name)
    assert not network.training and network.arguments["channels"] == channels
    about = network.about
    assert (
        about["images"] == 478
        and about["levels_gray"] == [2.5, 62.5]
        and about["parameters"]["photographs"] == "registry"
    )
    assert set(about["psnr_db"]) == {f"{s}_{level}" for s in sets for level in (15, 25, 50)}
    assert weights_path(name).stat().st_size < 14e6


def test_tiny_is_small_and_says_who_taught_it():
    network = mptpn.load("tiny")
    assert sum(parameter.numel() for parameter in network.parameters()) <= 200_000
    assert network.about["teacher"] == "base" and network.for_white_noise
    assert network.about["sha256_of_photos"] == mptpn.load("small").about["sha256_of_photos"]
    assert set(network.about["psnr_db"]) == {f"{s}_{level}" for s in ("bsd68", "set12") for level in (15, 25, 50)}


@pytest.mark.slow
@pytest.mark.skipif(not datasets.available("set12"), reason="set12 is not on this machine (MPTPN_DATA)")
def test_tiny_is_as_good_as_it_says():
    clean = [image.pixels for image in datasets.awgn("set12")]
    found = psnrs(load("tiny"), white_copies(clean, level=25 / 255, seed=0, purpose="comparison noise"), clean)
    assert sum(found) / 12 == pytest.approx(load("tiny").about["psnr_db"]["set12_25"], abs=0.02)


@pytest.mark.slow
@pytest.mark.skipif(not datasets.available("set12"), reason="set12 is not on this machine (MPTPN_DATA)")
def test_small_is_as_good_as_it_says_and_base_is_better():
    clean = [image.pixels for image in datasets.awgn("set12")]
    noisy = white_copies(clean, level=25 / 255, seed=0, purpose=912)  # the images that notebook 09 tests
    found = psnrs(load("small"), noisy, clean)
    assert sum(found) / 12 == pytest.approx(load("small").about["psnr_db"]["set12_25"], abs=0.02)
    assert psnrs(load("base"), noisy[:1], clean[:1])[0] > found[0] + 0.05


@pytest.mark.slow
@pytest.mark.skipif(not datasets.available("cbsd68"), reason="cbsd68 is not on this machine (MPTPN_DATA)")
def test_colour_is_as_good_as_when_it_was_trained_and_better_than_small_on_each_channel():
    clean = [image.pixels for image in datasets.awgn("cbsd68")[:8]]  # of all 68, in the file, 31.152: two minutes
    noisy = white_copies(clean, level=25 / 255, seed=0, purpose=912)  # the images that notebook 09 tests
    found = psnrs(load("colour"), noisy, clean)
    assert sum(found) / 8 == pytest.approx(31.104, abs=0.02)  # from the scores of the notebook that trained it
    for colour, y, x in list(zip(found, noisy, clean, strict=True))[:3]:
        alone = psnrs(load("small"), list(y.split(1, dim=1)), list(x.split(1, dim=1)))
        assert colour > sum(alone) / 3 + 1.0


def test_gain_and_offset_of_the_image_play_no_part():
    clean = torch.rand(1, 1, 9, 9, generator=generator(4))
    image = torch.nn.functional.interpolate(clean, size=(72, 90), mode="bicubic")
    noisy = PoissonGaussian(0.1).sample(image, generator=generator(5))
    network = load("small")
    with torch.no_grad():
        torch.testing.assert_close(
            profound.denoise(network, 300 * noisy - 1024),
            300 * profound.denoise(network, noisy) - 1024,
            rtol=1e-4,
            atol=0.05,
        )


def test_other_names_and_other_networks_are_refused():
    with pytest.raises(
        ValueError, match="'large' is no denoiser of the package; choose one of small, correlated, base, colour, tiny"
    ):
        load("large")
    for name in ("large", [], None):
        with pytest.raises(ValueError, match="no denoiser .* or read your own with mptpn.networks.load_weights"):
            load(name)
    with pytest.raises(ValueError, match="holds 'RetractableTransformer'; expected one of BlindSpotNetwork"):
        load_weights("small", BlindSpotNetwork)
    assert set(DENOISERS) <= set(pretrained_paths())


@pytest.mark.parametrize(
    ("kind", "wrong", "offered"),
    [
        (RetractableTransformer, "color", f"mptpn train, or a network of the package: {OFFERED}; did you mean colour"),
        (SegmentationNetwork, "nuclei", r"mptpn train-segment, or a network of the package: segmentation\.$"),
        (SuperResolutionNetwork, "x3", r"a network of the package: x2, x4\.$"),
    ],
)
def test_a_missing_network_offers_those_of_its_task_alone(kind, wrong, offered):
    with pytest.raises(FileNotFoundError, match=f"^{wrong}: no such weights file; give one from .*{offered}"):
        load_weights(wrong, kind)
