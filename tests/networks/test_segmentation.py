"""The prompt segmentation network: every weight learns, the text acts at every scale, tiles equal the whole."""

import subprocess
import sys

import pytest
import torch

from mptpn.networks import SegmentationNetwork, load_weights, save_weights
from mptpn.networks.segmentation import Glance, UpAttention
from mptpn.tiling import tiled

WORDS = ("nucleus", "cytoplasm", "white")


def network(**settings) -> SegmentationNetwork:
    torch.manual_seed(0)
    return SegmentationNetwork(WORDS, **{"width": 8, "text_width": 12} | settings)


def asked(net: SegmentationNetwork, *numbers: int) -> torch.Tensor:
    return net.read(torch.tensor([[*numbers, *[-1] * (2 - len(numbers))]]))


def image(height: int = 75, width: int = 91) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fusion", [True, False])
@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("deep", [True, False])
def test_every_parameter_of_the_repaired_network_gets_a_gradient(fusion, gates, deep):
    net = network(fusion=fusion, gates=gates, deep=deep)
    pixels, text = torch.rand(2, 3, 64, 48), net.read(torch.tensor([[0, 2], [1, -1]]))
    look = net.look(pixels)
    (net(pixels, text, look).square().mean() + net.presence(look, text).square().mean()).backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_every_parameter_of_the_published_network_gets_a_gradient():
    net = SegmentationNetwork(published=True, width=16, text_width=24)
    net(torch.rand(2, 3, 224, 224), torch.rand(2, 10, 24)).square().mean().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]


def test_the_parameters_of_the_full_size_networks_are_counted():
    """Published: 20.39 M in the public code less 4.61 M that never get a gradient are 15.78 M; ours has 14.50 M."""
    published = SegmentationNetwork(published=True, width=64, text_width=768)
    nets = [published, SegmentationNetwork(tuple("abcdefgh"))]
    nets += [SegmentationNetwork(tuple("abcdefgh"), overview=True, linear_patches=True)]
    assert [sum(p.numel() for p in net.parameters()) for net in nets] == [14_497_195, 297_184, 497_632]


def test_the_text_acts_at_every_scale_of_the_repaired_network():
    """Each scale's words alone, and the decoder's alone, pass a gradient to the prompt."""
    net = network()
    tokens = net.prompt.tokens(
        [torch.rand(1, 8, 32, 32), torch.rand(1, 16, 16, 16), torch.rand(1, 32, 8, 8)], asked(net, 0)
    )
    for level, block in enumerate(net.prompt.down):
        words = torch.rand(1, 2, tokens[level].shape[1], requires_grad=True)
        block(tokens[level].detach(), words).sum().backward()
        assert words.grad.abs().sum() > 0
    for up in net.up:
        condition = torch.rand(1, up.condition.in_features, requires_grad=True)
        below, skip = up.first[0].in_channels, up.seen.in_channels
        up(torch.rand(1, below - skip, 8, 8), torch.rand(1, skip, 16, 16), condition).square().sum().backward()
        assert condition.grad.abs().sum() > 0


@pytest.mark.parametrize("extra", ["overview", "deep"])
def test_the_published_network_refuses_what_it_does_not_have(extra: str):
    with pytest.raises(ValueError, match="published"):
        SegmentationNetwork(published=True, **{extra: True})


def test_the_published_text_acts_at_the_first_scale_alone():
    net = SegmentationNetwork(published=True, width=8, text_width=24)
    assert [block.query for block in (*net.prompt.down, *net.prompt.up)] == [None] * 5
    assert net.prompt.spread.in_channels == 10 and net.prompt.spread.out_channels == 196


def test_the_published_gate_is_no_share_and_the_repaired_one_is():
    torch.manual_seed(0)
    skip = torch.rand(1, 8, 6, 6) + 0.1
    for published in (True, False):
        up = UpAttention(8, 8, 8, published=published, gated=True, condition=0)
        with torch.no_grad():
            up.gate[2].bias.fill_(5.0)
            gate = up.gated(skip) / skip
        assert bool((gate > 1).all()) == published


def test_another_prompt_changes_the_mask_and_the_same_one_gives_the_same_bytes():
    net = network().eval()
    with torch.no_grad():
        first, again, other = (net(image(), asked(net, *words)) for words in ((0,), (0,), (1, 2)))
    assert torch.equal(first, again) and (first - other).abs().max() > 1e-3


@pytest.mark.parametrize("size", [(1, 1), (7, 130), (75, 91), (224, 224), (33, 64)])
def test_an_image_of_any_size_gets_a_mask_of_that_size(size):
    net = network().eval()
    with torch.no_grad():
        assert net(image(*size), asked(net, 0)).shape == (1, 1, *size)


@pytest.mark.parametrize("deep", [True, False])
def test_tiles_equal_the_whole_and_a_small_image_before_changes_nothing(deep):
    net = network(deep=deep).eval()
    pixels = image(700, 645)
    with torch.no_grad():
        text, look = asked(net, 1), net.look(pixels)
        whole = net(pixels, text, look)
        net(image(20, 20), text)
        parts = tiled(lambda part: net(part, text, look), pixels, tile=128, halo=net.halo)
        short = tiled(lambda part: net(part, text, look), pixels, tile=128, halo=32)
    assert (parts - whole).abs().max() < 1e-4
    assert (short - whole).abs().max() > 1e-4  # a halo that is too short is seen


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("column", [400, 415])
def test_no_pixel_beyond_the_halo_has_influence(deep, column):
    net = network(deep=deep).double().eval()
    pixels = image(16, 800).double().requires_grad_()
    net(pixels, asked(net, 0), net.look(image().double()))[0, 0, 8, column].backward()
    reach = (pixels.grad.abs().sum((0, 1, 2)) > 0).nonzero()[:, 0]
    assert column - int(reach.min()) <= net.halo and int(reach.max()) - column <= net.halo
    assert column - int(reach.min()) > 100  # it does look far: half a lesion


def test_the_glance_sees_the_whole_image_whatever_its_size():
    net = network().eval()
    with torch.no_grad():
        assert net.look(image(20, 300)).shape == net.look(image(301, 50)).shape == (1, 24)
    assert isinstance(net.glance, Glance) and SegmentationNetwork(published=True).glance is None


@pytest.mark.parametrize("overview", [False, True])
def test_the_whole_image_speaks_in_the_mask_with_an_overview_alone(overview):
    net = network(overview=overview).eval()
    with torch.no_grad():
        one, other = (net(image(), asked(net, 0), look) for look in (torch.zeros(1, 24), torch.ones(1, 24)))
    assert torch.equal(one, other) != overview


def test_the_published_network_refuses_another_size():
    net = SegmentationNetwork(published=True, width=8, text_width=24)
    with pytest.raises(ValueError, match="200 x 224 px with 10 words do not fit"):
        net(torch.rand(1, 3, 200, 224), torch.rand(1, 10, 24))


def test_the_weights_file_builds_the_network_again(tmp_path):
    net = network(gates=False).eval()
    path = save_weights(tmp_path / "a.safetensors", net, arguments=net.arguments, note={"a": 1})
    again, note = load_weights(path, SegmentationNetwork)
    with torch.no_grad():
        assert torch.equal(again(image(), asked(again, 0)), net(image(), asked(net, 0))) and note == {"a": 1}


def test_reading_the_weights_imports_no_compiler():
    """It takes seconds of every call of the command."""
    code = (
        "import sys; from mptpn.segmentation import Segmenter; Segmenter.load(); print('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
