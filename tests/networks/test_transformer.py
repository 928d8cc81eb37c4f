"""The retractable transformer: nothing is remembered, any size goes in, and the flat shape is ART's."""

import pytest
import torch
from torch import nn

from mptpn.networks import block
from mptpn.networks.block import Block
from mptpn.networks.transformer import ATTENTION, RetractableTransformer
from mptpn.random import generator

SMALL = {"widths": (8, 16), "intervals": ((2,), (3,)), "blocks": 2, "head_dim": 8, "window": 4}
FLAT = {"widths": (16,), "intervals": ((4, 2),), "blocks": 2, "head_dim": 8, "window": 4}
THREE = {
    "widths": (8, 8, 16),
    "intervals": ((2,), (2, 3), (1,)),
    "blocks": 2,
    "head_dim": 8,
    "window": 2,
    "unshuffle": 2,
}
SHAPES = {"flat": FLAT, "two scales": SMALL, "three scales": THREE}
SIZES = [(1, 1), (37, 21)]


def network(*, seed=0, live=True, channels=1, **shape) -> RetractableTransformer:
    """`live`: a random last layer, as after training; a new network's is 0."""
    torch.manual_seed(seed)
    net = RetractableTransformer(channels, **shape)
    if live:
        nn.init.normal_(net.head.weight, std=0.1)
    return net


def image(*size, channels=1, batch=2):
    return torch.randn(batch, channels, *size, generator=generator(1))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_size_goes_in_and_comes_out(size, shape, attention):
    denoised = network(attention=attention, **SHAPES[shape])(image(*size))
    assert denoised.shape == (2, 1, *size) and torch.isfinite(denoised).all()


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_remembers_nothing(shape, attention, mode):
    """Small image first, large after, small again: the public block turned a sparse block dense for ever after a small
    image.
    """
    net = network(attention=attention, **SHAPES[shape]).train(mode == "train")
    state = {name: value.clone() for name, value in net.state_dict().items()}
    settings = [dict(vars(module)) for module in net.modules()]
    fresh = network(attention=attention, **SHAPES[shape]).train(mode == "train")(image(37, 21))
    small = net(image(3, 5))
    assert torch.equal(net(image(37, 21)), fresh) and torch.equal(net(image(3, 5)), small)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    for before, module in zip(settings, net.modules(), strict=True):
        assert {k: v for k, v in vars(module).items() if not k.startswith("_")} == {
            k: v for k, v in before.items() if not k.startswith("_")
        }


@pytest.mark.parametrize("shape", ["three scales"])
def test_a_new_network_is_the_identity(shape):
    assert torch.equal(network(live=False, **SHAPES[shape])(image(7, 5)), image(7, 5))
    assert not torch.equal(network(**SHAPES[shape])(image(7, 5)), image(7, 5))


@pytest.mark.parametrize("shape", SHAPES)
def test_images_of_a_batch_do_not_see_each_other(shape):
    net, batch = network(**SHAPES[shape]).double(), image(19, 10, batch=3).double()
    torch.testing.assert_close(net(batch), torch.cat([net(x[None]) for x in batch]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kept", [1, 2**10, 2**20], ids=["a group", "some", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_groups_in_turn_give_what_the_whole_image_gives(shape, kept, monkeypatch):
    """Without gradient a CPU takes a few groups at a time through a block; with it, the whole image."""
    monkeypatch.setattr(block, "KEPT", kept)
    net, noisy = network(**SHAPES[shape]).double().eval(), image(37, 21).double()
    whole = net(noisy)
    with torch.no_grad():
        torch.testing.assert_close(net(noisy), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ATTENTION)
def test_gradients_reach_every_weight(attention):
    net = network(attention=attention, **THREE)
    net(image(33, 30)).square().sum().backward()
    # one number added to all keys moves no softmax, and a bias network's last bias is such a number
    assert not [
        name
        for name, p in net.named_parameters()
        if not name.endswith("bias.network.9.bias") and (p.grad is None or not p.grad.any())
    ]


def test_dense_attention_sees_its_window_and_sparse_its_lattice():
    """One block alone: the output at a pixel depends on the 4 x 4 window, or on the same 4 x 4 tokens three pixels
    apart.
    """
    torch.manual_seed(0)
    size, row, col = (17, 13), 6, 5
    for interval in (1, 3):
        block = Block(16, heads=2, interval=interval, window=4, mlp_ratio=2.0, bias="dynamic").double()
        tokens = torch.randn(1, *size, 16, dtype=torch.float64, generator=generator(2)).requires_grad_()
        (gradient,) = torch.autograd.grad(block(tokens)[0, row, col].sum(), tokens)
        side = 4 * interval
        rows, cols = (torch.arange(n) for n in size)
        same_row = (rows // side == row // side) & (rows % interval == row % interval)
        same_col = (cols // side == col // side) & (cols % interval == col % interval)
        assert torch.equal(gradient[0].ne(0).any(-1), same_row[:, None] & same_col)


@pytest.mark.parametrize(
    "attention, strides", [("both", [1, 5, 1, 5]), ("dense", [1, 1, 1, 1]), ("sparse", [5, 5, 5, 5])]
)
def test_blocks_alternate_dense_and_sparse(attention, strides):
    net = network(widths=(8,), intervals=((5,),), blocks=4, head_dim=8, window=4, attention=attention)
    assert [module.interval for module in net.modules() if isinstance(module, Block)] == strides


def test_the_defaults_have_art_s_sixteen_point_one_five_million_parameters():
    """Counted in its colour denoiser: ours, and the scale and shift of two layer norms around the body, 4 * 180, that
    ours does without.
    """
    with torch.device("meta"):
        count = sum(p.numel() for p in RetractableTransformer().parameters())
    assert count == 16_149_063
    assert count + 4 * 180 == pytest.approx(16.15e6, abs=0.005e6)  # to the last published digit


WRONG = {
    "attention": ({"attention": "none"}, "'none'.*both"),
    "bias": ({"bias": "fixed"}, "'fixed'.*dynamic"),
    "widths": ({"widths": (8, 12)}, r"widths \(8, 12\) must be multiples of head_dim 8"),
    "intervals": ({"intervals": ((2,),)}, r"widths \(8, 16\).*each of the 1 tuples"),
    "interval": ({"intervals": ((0,), (2,))}, r"intervals \(\(0,\), \(2,\)\)"),
    "blocks": ({"blocks": 0}, "blocks 0"),
    "window": ({"window": 1}, "window 1 "),
    "head_dim": ({"head_dim": 4}, "head_dim 4 "),
    "unshuffle": ({"unshuffle": 0}, "unshuffle 0"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_argument_is_refused_with_its_value(what):
    change, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        network(**SMALL | change)


@pytest.mark.parametrize("bias", ["dynamic", "relative"])
def test_recomputing_gives_the_same_gradients(bias):
    gradients = []
    for recompute in (False, True):
        net = network(recompute=recompute, bias=bias, channels=3, **THREE).train()
        net(image(13, 9, channels=3)).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.equal(*gradients) and gradients[0].any()
