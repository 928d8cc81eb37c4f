"""Training of super-resolution: patches that fit pixel on pixel, a rate halved where it says, and a tiny network that
passes bicubic.
"""

import pytest
import torch

from mptpn.random import generator
from mptpn.super_resolution import SuperResolutionNetwork, enlarge, resize, shrink
from mptpn.training import loop
from support.super_resolution_scores import scores
from support.super_resolution_sets import scenes, training_images
from support.super_resolution_training import Patches, rate, train

TINY = {
    "n_resblocks": 1,
    "n_feats": 8,
    "res_scale": 1.0,
    "chunk_size": 16,
    "n_hashes": 1,
    "rgb_range": 1.0,
    "bicubic_skip": True,
}


@pytest.fixture(scope="module")
def fabric():
    return loop.launch(threads=1)


def images(*sizes, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return tuple((torch.rand(1, 3, h, w, generator=generator(seed, h, w)) * 255).round() / 255 for h, w in sizes)


def tiny(scale: int = 2) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    return SuperResolutionNetwork(scale, **TINY)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_patches_are_their_high_patches_shrunk_in_every_orientation(scale):
    """Away from the cut, where shrinking the patch sees what shrinking the photograph saw."""
    patches = Patches((images((61, 75), (50, 52)),), scale=scale, patch_size=12 * scale, batch_size=24)
    batch = patches(3)
    assert batch["low"].shape == (24, 3, 12, 12) and batch["high"].shape == (24, 3, 12 * scale, 12 * scale)
    # rows and columns are rounded in turn
    assert ((shrink(batch["high"], scale=scale) - batch["low"])[..., 2:-2, 2:-2].abs() * 255).max() <= 1.01


def test_patches_are_a_function_of_the_step_and_differ_from_step_to_step():
    patches = Patches((images((40, 44)),), scale=2, patch_size=16, batch_size=4)
    assert torch.equal(patches(5)["high"], patches(5)["high"]) and not torch.equal(
        patches(5)["high"], patches(6)["high"]
    )


def test_each_set_is_drawn_equally_often_whatever_its_size():
    dark, bright = (
        tuple(image * 0.2 + shift for image in images(*sizes))
        for sizes, shift in (([(20, 20)] * 19, 0.0), ([(21, 23)], 0.8))
    )
    batch = Patches((dark, bright), scale=2, patch_size=8, batch_size=400)(0)
    assert abs((batch["high"].mean((1, 2, 3)) > 0.5).double().mean() - 0.5) < 0.1  # 4 standard errors


def test_a_one_channel_network_gets_one_channel_and_16_bit_pixels_stay():
    deep = torch.rand(1, 3, 20, 20, generator=generator(5))
    assert Patches(((deep,),), scale=2, patch_size=8, batch_size=2, channels=1)(0)["low"].shape == (2, 1, 4, 4)
    high = Patches(((deep,),), scale=2, patch_size=20, batch_size=1)(0)["high"]
    assert torch.equal(high.flatten().sort().values, deep.flatten().sort().values)


def test_the_rate_is_halved_at_the_epochs_that_decay_names():
    assert [rate(e, lr=1.0, decay="200-400-600-800") for e in (0, 199.9, 200, 399, 400, 600, 800, 999)] == [
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.125,
        0.0625,
        0.0625,
    ]
    assert rate(1e6, lr=0.3, decay="") == 0.3


def test_the_optimiser_steps_with_the_halved_rates(fabric):
    patches = Patches((images((20, 20)),), scale=2, patch_size=8, batch_size=2)
    history = train(tiny(), patches, fabric=fabric, epochs=10, steps_per_epoch=2, lr=0.004, decay="3-5")
    assert [row["lr"] for row in history] == [0.004] * 6 + [0.002] * 4 + [0.001] * 10


def test_a_killed_training_goes_on_to_the_same_weights_and_rates(fabric, tmp_path, capsys):
    patches = Patches((images((24, 26)),), scale=2, patch_size=8, batch_size=2)
    settings = {"fabric": fabric, "epochs": 6, "steps_per_epoch": 2, "lr": 0.003, "decay": "2-4"}
    whole, resumed = tiny(), tiny()
    history = train(whole, patches, **settings)

    class Dying(Patches):
        def __call__(self, step):
            if step == 7:
                raise InterruptedError
            return super().__call__(step)

    dying = Dying((images((24, 26)),), scale=2, patch_size=8, batch_size=2)
    with pytest.raises(InterruptedError):
        train(resumed, dying, checkpoint=tmp_path / "c.pt", checkpoint_seconds=0.0, **settings)
    again = tiny()
    rows = train(again, patches, checkpoint=tmp_path / "c.pt", **settings)
    assert "going on from step 7" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    assert [row["lr"] for row in rows] == [row["lr"] for row in history]


@pytest.mark.parametrize(
    "other",
    [
        {"decay": "2-5"},
        {"chunk_size": 8},
        {"n_hashes": 2},
        {"res_scale": 0.5},
        {"rgb_range": 2.0},
        {"rotation_seed": 1},
    ],
)
def test_a_checkpoint_of_another_decay_or_network_is_not_gone_on_from(fabric, tmp_path, capsys, other):
    """None of these changes a weight at the start."""
    patches = Patches((images((24, 26)),), scale=2, patch_size=8, batch_size=2)
    settings = {"fabric": fabric, "epochs": 6, "steps_per_epoch": 1, "lr": 0.003, "checkpoint": tmp_path / "c.pt"}
    train(tiny(), patches, decay="2-4", **settings)
    torch.manual_seed(0)
    network = SuperResolutionNetwork(2, **TINY | {name: value for name, value in other.items() if name != "decay"})
    train(network, patches, decay=other.get("decay", "2-4"), **settings)
    assert "c.pt belongs to another training" in capsys.readouterr().err


def test_a_training_goes_on_with_less_memory_or_another_backend(fabric, tmp_path, capsys):
    patches = Patches((images((24, 26)),), scale=2, patch_size=8, batch_size=2)
    settings = {"fabric": fabric, "epochs": 3, "steps_per_epoch": 1, "decay": "", "checkpoint": tmp_path / "c.pt"}
    train(tiny(), patches, **settings)
    torch.manual_seed(0)
    train(SuperResolutionNetwork(2, **TINY, backend="gathered", recompute=True), patches, **settings)
    assert "going on from step 3" in capsys.readouterr().err


def test_a_minute_of_training_is_not_needed_to_pass_bicubic(fabric):
    """150 steps of a network of 7 thousand weights, on a photograph that is not trained on; the preset quick-sr does
    the same for a minute.
    """
    network = tiny()
    patches = Patches(training_images("embedded"), scale=2, patch_size=48, batch_size=4)
    train(network, patches, fabric=fabric, epochs=4, steps_per_epoch=40, lr=0.004, decay="2-3", ema=0.95)
    rocket = scenes("embedded", scale=2)[0]
    ours, floor = (
        scores(x, rocket.high, scale=2)["psnr_db"] for x in (enlarge(network, rocket.low), resize(rocket.low, scale=2))
    )
    assert ours > floor + 0.2, (ours, floor)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Patches((images((20, 20)),), scale=3, patch_size=16), "patch_size 16 must be a multiple of scale 3"),
        (lambda: Patches((images((20, 31)),), scale=2, patch_size=24), "20 x 30 px is smaller than a patch of 24 px"),
        (lambda: Patches(((),), scale=2, patch_size=8), "no image"),
        (lambda: rate(0, lr=1, decay="200-100"), "'200-100' must be rising epochs"),
        (lambda: rate(0, lr=1, decay="200,400"), "'200,400'"),
        (
            lambda: train(tiny(3), Patches((images((20, 20)),), scale=2, patch_size=8), fabric=None),
            "patches are for x2 and the network enlarges x3",
        ),
        (
            lambda: train(tiny(), Patches((images((20, 20)),), scale=2, patch_size=8), fabric=None, decay="x"),
            "decay 'x'",
        ),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
