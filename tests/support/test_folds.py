"""Networks without words in folds: what they are, and that no image trains the network that is asked for it."""

import pandas as pd
import pytest
import torch

from support import folds


def test_the_u_net_has_122_thousand_parameters_and_keeps_the_size_of_the_image():
    net = folds.UNet()
    assert sum(p.numel() for p in net.parameters()) == 122_465
    assert net(torch.rand(1, 3, 40, 56)).shape == (1, 1, 40, 56)


def test_no_image_trains_the_network_that_is_asked_for_it(monkeypatch, tmp_path):
    seen = []

    def learn(net, examples, *rest, **settings):
        seen.append({e.name for e in examples})
        return net.eval()

    monkeypatch.setattr(folds, "learn", learn)
    both = folds.drawn(4)
    table = folds.run(both, tmp_path / "t.csv", steps={folds.UNET: 0, folds.OURS: 0}, tell=lambda _: None)
    asked = [set(rows.image) for _, rows in table[table.network == folds.UNET].groupby("fold")]
    assert all(not training & test for training, test in zip(seen[::2], asked, strict=True))
    assert set.union(*asked) == set.union(*seen) and len(asked) == 2


def test_what_a_table_holds_is_not_trained_again(monkeypatch, tmp_path):
    monkeypatch.setattr(folds, "learn", lambda net, *rest, **settings: net.eval())
    first = folds.run(folds.drawn(4), tmp_path / "t.csv", steps={folds.UNET: 0}, tell=lambda _: None)
    monkeypatch.setattr(folds, "learn", lambda *rest, **settings: pytest.fail("trained again"))
    again = folds.run(folds.drawn(4), tmp_path / "t.csv", steps={folds.UNET: 0}, tell=lambda _: None)
    pd.testing.assert_frame_equal(first, again, check_dtype=False, rtol=1e-5)
