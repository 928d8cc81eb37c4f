"""Sparse groups of the whole image, as in ART: the fixed groups where both are the same, nothing beyond the edge,
nothing remembered.
"""

import pytest
import torch

from mptpn.attention import DynamicPositionBias
from mptpn.attention.whole_image import whole_image_attention
from mptpn.networks.block import Block
from mptpn.networks.transformer import RetractableTransformer
from mptpn.random import generator

SHAPE = {"widths": (8, 16), "intervals": ((2,), (3,)), "blocks": 2, "head_dim": 8, "window": 4}
SIZES = [(1, 1), (37, 21)]
# float64 rounding of sums over at most 108 numbers of size 1-10: below 108 * 10 * 2.2e-16
EXACT = {"rtol": 0, "atol": 2.4e-13}


def case(height, width, *, window=4):
    torch.manual_seed(0)
    qkv = torch.randn(2, height, width, 3, 2, 8, dtype=torch.float64, generator=generator(1))
    return qkv, DynamicPositionBias(2, window=window).double()


def network(*, sparse_groups="whole_image", **change) -> RetractableTransformer:
    torch.manual_seed(0)
    net = RetractableTransformer(1, sparse_groups=sparse_groups, **SHAPE | change)
    torch.nn.init.normal_(net.head.weight, std=0.1)
    return net


def image(*size, batch=2):
    return torch.randn(batch, 1, *size, generator=generator(1))


def by_definition(qkv, bias, *, interval):
    """Every pixel looks up the pixels of its group, one by one, and asks the network for the bias of each offset."""
    height, width = qkv.shape[1:3]
    out = torch.empty_like(qkv[:, :, :, 0])
    for h in range(height):
        for w in range(width):
            mates = [
                (i, j) for i in range(h % interval, height, interval) for j in range(w % interval, width, interval)
            ]
            keys, values = (torch.stack([qkv[:, i, j, part] for i, j in mates], 2) for part in (1, 2))
            offsets = torch.tensor([[(h - i) / interval, (w - j) / interval] for i, j in mates], dtype=torch.float64)
            logits = (qkv[:, h, w, 0, :, None] * keys).sum(-1) * qkv.shape[-1] ** -0.5 + bias.network(offsets).T
            out[:, h, w] = (logits.softmax(-1)[..., None] * values).sum(2)
    return out


def results(function, qkv, bias):
    """Output and gradients with respect to qkv and to the bias network's weights."""
    qkv = qkv.clone().requires_grad_()
    out = function(qkv)
    grad = torch.randn(out.shape, dtype=out.dtype, generator=generator(2))
    return out.detach(), *torch.autograd.grad(out, (qkv, *bias.parameters()), grad)


@pytest.mark.parametrize("size", [(1, 9), (11, 13)], ids=str)
@pytest.mark.parametrize("interval", [1, 3, 16])
def test_output_and_gradients_follow_the_definition(size, interval):
    qkv, bias = case(*size)
    ours = results(lambda qkv: whole_image_attention(qkv, bias.network, interval=interval), qkv, bias)
    expected = results(lambda qkv: by_definition(qkv, bias, interval=interval), qkv, bias)
    torch.testing.assert_close(ours[:2], expected[:2], **EXACT)
    # a weight of the bias network gathers up to (11 * 13)**2 terms, and its layer norms divide by spreads below 1
    torch.testing.assert_close(ours[2:], expected[2:], rtol=1e-9, atol=1e-9)


def test_network_equals_the_one_of_fixed_groups_there_and_nowhere_larger():
    shape = {"widths": (8,), "intervals": ((3, 3),)}
    whole, fixed = (network(sparse_groups=groups, **shape).double() for groups in ("whole_image", "fixed"))
    same, larger = image(12, 12).double(), image(13, 12).double()
    torch.testing.assert_close(whole(same), fixed(same), rtol=0, atol=1e-12)
    assert (whole(larger) - fixed(larger)).abs().max() > 1e-6


def test_memory_beyond_the_edge_has_no_influence():
    qkv, bias = case(13, 11)
    frame = torch.full((2, 20, 20, 3, 2, 8), torch.nan, dtype=torch.float64)
    frame[:, 3:16, 5:16] = qkv
    torch.testing.assert_close(
        whole_image_attention(frame[:, 3:16, 5:16], bias.network, interval=4),
        by_definition(qkv, bias, interval=4),
        **EXACT,
    )


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("attention", ["both", "sparse"])
def test_network_takes_any_size_and_remembers_nothing(attention, mode):
    net = network(attention=attention).train(mode == "train")
    fresh = network(attention=attention).train(mode == "train")(image(37, 21))
    for size in SIZES:
        denoised = net(image(*size))
        assert denoised.shape == (2, 1, *size) and torch.isfinite(denoised).all()
    assert torch.equal(net(image(37, 21)), fresh)


def test_only_sparse_blocks_see_the_whole_image_and_weights_are_the_same():
    blocks = [module for module in network().modules() if isinstance(module, Block)]
    assert [block.whole_image for block in blocks] == [block.interval > 1 for block in blocks]
    assert network().state_dict().keys() == network(sparse_groups="fixed").state_dict().keys()
    assert not any(block.whole_image for block in network(sparse_groups="fixed").modules() if isinstance(block, Block))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparse_groups": "image"}, "'image'.*whole_image"),
        ({"bias": "relative"}, "'relative'.*dynamic"),
        ({"backend": "flash"}, "'flash'.*triton"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_wrong_argument_is_refused_with_its_value(change, message):
    with pytest.raises(ValueError, match=message):
        network(**change)


def test_backend_reaches_the_attention():
    reference, sdpa = (network(backend=backend).double()(image(9, 7).double()) for backend in ("reference", "sdpa"))
    torch.testing.assert_close(reference, sdpa, rtol=0, atol=1e-12)
    with pytest.raises((RuntimeError, ValueError), match="triton"):
        network(sparse_groups="fixed", backend="triton").double()(image(9, 7).double())
