"""Training of super-resolution: patches that fit pixel on pixel, a halved rate, and a network that passes bicubic."""

import pytest
import torch

from mptpn.random import generator
from mptpn.super_resolution import SuperResolutionNetwork, enlarge, resize, shrink
from mptpn.training import loop
from support.super_resolution_scores import scores
from support.super_resolution_sets import scenes, training_images
from support.super_resolution_training import Patches, rate, train

TINY = {"n_resblocks": 1, "n_feats": 8, "res_scale": 1.0, "chunk_size": 16, "n_hashes": 1}
TINY |= {"rgb_range": 1.0, "bicubic_skip": True}


@pytest.fixture(scope="module")
def fabric():
    return loop.launch(threads=1)


def images(*sizes) -> tuple[torch.Tensor, ...]:
    return tuple((torch.rand(1, 3, h, w, generator=generator(0, h, w)) * 255).round() / 255 for h, w in sizes)


def patches(*sizes, **settings) -> Patches:
    return Patches((images(*sizes),), **({"scale": 2, "patch_size": 8, "batch_size": 2} | settings))


def tiny(scale: int = 2, **change) -> SuperResolutionNetwork:
    torch.manual_seed(0)
    return SuperResolutionNetwork(scale, **TINY | change)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_low_patches_are_their_high_patches_shrunk_in_every_orientation(scale):
    """Away from the cut, where shrinking the patch sees what shrinking the photograph saw."""
    batch = patches((61, 75), (50, 52), scale=scale, patch_size=12 * scale, batch_size=24)(3)
    assert batch["low"].shape == (24, 3, 12, 12) and batch["high"].shape == (24, 3, 12 * scale, 12 * scale)
    # rows and columns are rounded in turn
    assert ((shrink(batch["high"], scale=scale) - batch["low"])[..., 2:-2, 2:-2].abs() * 255).max() <= 1.01


def test_patches_are_a_function_of_the_step():
    drawn = patches((40, 44))
    assert torch.equal(drawn(5)["high"], drawn(5)["high"]) and not torch.equal(drawn(5)["high"], drawn(6)["high"])


def test_each_set_is_drawn_equally_often_whatever_its_size():
    dark = tuple(image * 0.2 for image in images(*[(20, 20)] * 19))
    bright = tuple(image * 0.2 + 0.8 for image in images((21, 23)))
    batch = Patches((dark, bright), scale=2, patch_size=8, batch_size=400)(0)
    assert abs((batch["high"].mean((1, 2, 3)) > 0.5).double().mean() - 0.5) < 0.1  # 4 standard errors


def test_a_one_channel_network_gets_one_channel_and_16_bit_pixels_stay():
    deep = torch.rand(1, 3, 20, 20, generator=generator(5))
    assert Patches(((deep,),), scale=2, patch_size=8, batch_size=2, channels=1)(0)["low"].shape == (2, 1, 4, 4)
    high = Patches(((deep,),), scale=2, patch_size=20, batch_size=1)(0)["high"]
    assert torch.equal(high.flatten().sort().values, deep.flatten().sort().values)


def test_the_rate_is_halved_at_the_epochs_that_decay_names(fabric):
    epochs = (0, 199.9, 200, 399, 400, 600, 800, 999)
    halves = [rate(epoch, lr=1.0, decay="200-400-600-800") for epoch in epochs]
    assert halves == [1, 1, 0.5, 0.5, 0.25, 0.125, 0.0625, 0.0625] and rate(1e6, lr=0.3, decay="") == 0.3
    history = train(tiny(), patches((20, 20)), fabric=fabric, epochs=10, steps_per_epoch=2, lr=0.004, decay="3-5")
    assert [row["lr"] for row in history] == [0.004] * 6 + [0.002] * 4 + [0.001] * 10


def test_a_stopped_training_resumes_to_the_same_weights(fabric, tmp_path, capsys):
    settings = {"fabric": fabric, "epochs": 6, "steps_per_epoch": 2, "lr": 0.003, "decay": "2-4"}
    whole, again, drawn = tiny(), tiny(), patches((24, 26))
    train(whole, drawn, **settings)

    class Dying(Patches):
        def __call__(self, step):
            if step == 7:
                raise InterruptedError
            return super().__call__(step)

    dying = Dying((images((24, 26)),), scale=2, patch_size=8, batch_size=2)
    with pytest.raises(InterruptedError):
        train(tiny(), dying, checkpoint=tmp_path / "c.pt", checkpoint_seconds=0.0, **settings)
    train(again, drawn, checkpoint=tmp_path / "c.pt", **settings)
    assert "step 7" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_only_a_checkpoint_of_the_same_decay_and_network_is_resumed(fabric, tmp_path, capsys):
    """None of these changes a weight at the start."""
    settings = {"fabric": fabric, "epochs": 3, "steps_per_epoch": 1, "lr": 0.003, "decay": "1-2"}
    train(tiny(), patches((24, 26)), checkpoint=tmp_path / "c.pt", **settings)
    kept = (tmp_path / "c.pt").read_bytes()
    for change, resumed in (
        ({"backend": "gathered", "recompute": True}, True),
        ({"chunk_size": 8}, False),
        ({"rotation_seed": 1}, False),
        ({"decay": "2"}, False),
    ):
        (tmp_path / "c.pt").write_bytes(kept)
        capsys.readouterr()
        given = settings | {name: change.pop(name) for name in ("decay",) if name in change}
        train(tiny(**change), patches((24, 26)), checkpoint=tmp_path / "c.pt", **given)
        said = capsys.readouterr().err
        assert ("another training" not in said) == resumed, change


@pytest.mark.slow
def test_a_short_training_passes_bicubic(fabric):
    """160 steps of a network of 7 thousand weights, on a photograph that is not trained on."""
    network = tiny()
    drawn = Patches(training_images("embedded"), scale=2, patch_size=48, batch_size=4)
    train(network, drawn, fabric=fabric, epochs=4, steps_per_epoch=40, lr=0.004, decay="2-3", ema=0.95)
    rocket = scenes("embedded", scale=2)[0]
    both = enlarge(network, rocket.low), resize(rocket.low, scale=2)
    ours, bicubic = (scores(large, rocket.high, scale=2)["psnr_db"] for large in both)
    assert ours > bicubic + 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: patches((20, 20), scale=3, patch_size=16), "patch_size 16 must be a multiple of scale 3"),
        (lambda: patches((20, 31), patch_size=24), "20 x 30 px is smaller than a patch of 24 px"),
        (lambda: Patches(((),), scale=2, patch_size=8), "no image"),
        (lambda: rate(0, lr=1, decay="200-100"), "'200-100' must be rising epochs"),
        (lambda: train(tiny(3), patches((20, 20)), fabric=None), "patches are for x2 and the network enlarges x3"),
    ],
)
def test_a_wrong_call_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
