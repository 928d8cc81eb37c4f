"""A transformer that is told the correlation of the noise, for the whole image or from place to place."""

import pytest
import torch

from mptpn.networks import RetractableTransformer, block
from mptpn.random import generator

SMALL = {"channels": 1, "widths": (8, 16), "intervals": ((2,), (2,)), "blocks": 2, "head_dim": 8, "window": 4}
WHITE = torch.zeros(1, 7, 7)
WHITE[:, 3, 3] = 1
ACROSS = WHITE.clone()
ACROSS[:, 3, 2] = ACROSS[:, 3, 4] = 0.6
NOISY = torch.randn(2, 1, 37, 64, generator=generator(1))


def networks() -> tuple[RetractableTransformer, RetractableTransformer]:
    """One that is told nothing, and one of the same weights that is told; neither is trained."""
    torch.manual_seed(0)
    plain, told = RetractableTransformer(**SMALL), RetractableTransformer(**SMALL, described=12)
    for weights in plain.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    told.load_state_dict(plain.state_dict(), strict=False)
    return plain.eval(), told.eval()


def moved(told: RetractableTransformer) -> RetractableTransformer:
    for name, weights in told.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(weights, std=0.3)
    return told


def test_it_starts_as_the_network_that_is_told_nothing():
    plain, told = networks()
    with torch.no_grad():
        assert torch.allclose(plain(NOISY), told(NOISY, ACROSS), rtol=1e-4, atol=1e-4)
        assert torch.allclose(plain(NOISY), told(NOISY), rtol=1e-4, atol=1e-4)


def test_what_it_is_told_changes_the_result_and_white_is_the_default():
    told = moved(networks()[1])
    with torch.no_grad():
        assert torch.equal(told(NOISY), told(NOISY, WHITE))
        assert not torch.allclose(told(NOISY), told(NOISY, ACROSS), atol=1e-3)
        each = told(NOISY, torch.cat([WHITE, ACROSS]))
        assert torch.allclose(each[1:], told(NOISY[1:], ACROSS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("places", [(1, 1), (2, 3)], ids=["whole image", "from place to place"])
def test_groups_in_turn_are_told_what_the_whole_image_is_told(places, monkeypatch):
    monkeypatch.setattr(block, "KEPT", 2**10)
    told, noisy = moved(networks()[1]).double(), NOISY.double()
    known = torch.cat([WHITE, ACROSS])[:, None, None].repeat(1, *places, 1, 1).double()
    known[:, -1:, -1:] *= 0.9
    whole = told(noisy, known)
    with torch.no_grad():
        torch.testing.assert_close(told(noisy, known), whole, rtol=0, atol=1e-12)


def test_the_same_correlation_in_all_places_is_one_for_the_image():
    told = moved(networks()[1])
    with torch.no_grad():
        everywhere = told(NOISY, ACROSS[:, None, None].expand(1, 3, 4, 7, 7))
        assert torch.allclose(everywhere, told(NOISY, ACROSS), rtol=1e-4, atol=1e-4)


def test_each_side_follows_its_own_correlation():
    told = moved(networks()[1])
    wide = torch.randn(1, 1, 32, 256, generator=generator(2))
    cells = WHITE[:, None, None].repeat(1, 2, 16, 1, 1)
    cells[:, :, 8:] = ACROSS
    with torch.no_grad():
        found, white, across = told(wide, cells), told(wide, WHITE), told(wide, ACROSS)
    assert torch.allclose(found[..., :64], white[..., :64], rtol=1e-4, atol=1e-4)
    assert torch.allclose(found[..., 192:], across[..., 192:], rtol=1e-4, atol=1e-4)


def test_every_weight_learns():
    told = moved(networks()[1]).train()
    told(NOISY, ACROSS).square().mean().backward()
    assert all(weights.grad is not None and weights.grad.abs().sum() > 0 for weights in told.parameters())
