"""Pairs drawn from photographs: crops, noise of the stated level and kind, a function of seed and step alone."""

import pytest
import torch

from mptpn.filters import robust_level
from mptpn.random import generator
from support.photographs import LEVELS, NoisyPhotographs, white_copies

SIDE = 24


def photographs(channels=1):
    """Every pixel of every photograph has a number of its own, in steps of 1/255."""
    first = torch.arange(40 * 50).remainder(251).view(1, 1, 40, 50).float()
    second = (torch.arange(30 * 30).remainder(241) + 7).view(1, 1, 30, 30).float()
    return [torch.cat([(image + c) / 255 for c in range(channels)], dim=1) for image in (first, second)]


def as_bytes(x) -> bytes:
    return (x * 255).round().byte().numpy().tobytes()


def crops_of(image) -> set[bytes]:
    """All crops of an image in all orientations."""
    parts = image[0].unfold(1, SIDE, 1).unfold(2, SIDE, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
    turned = [parts.rot90(k, (2, 3)) for k in range(4)]
    return {as_bytes(x) for each in turned for x in (*each, *each.flip(3))}


@pytest.mark.parametrize("channels", [1, 3])
def test_clean_crops_are_crops_of_the_photographs_in_every_orientation(channels):
    images = photographs(channels)
    pairs = NoisyPhotographs(images, batch=8, patch=SIDE)
    drawn = {as_bytes(x) for step in range(6) for x in pairs(step)["clean"]}
    assert drawn <= crops_of(images[0]) | crops_of(images[1]) and len(drawn) > 30
    whole = NoisyPhotographs([images[1]], batch=64, patch=30)(0)["clean"]  # one crop: only its orientations differ
    assert len({as_bytes(x) for x in whole}) == 8


def test_a_batch_is_a_function_of_seed_and_step():
    first, again, other = (NoisyPhotographs(photographs(), batch=4, patch=SIDE, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first(7)[name], again(7)[name]) for name in first(7))
    assert not torch.equal(first(7)["noisy"], first(8)["noisy"])
    assert not torch.equal(first(7)["noisy"], other(7)["noisy"])


def test_white_noise_has_the_drawn_level_and_scale_is_that_of_the_whole_photograph():
    flat = [torch.full((1, 1, 128, 128), 100 / 255)]
    batch = NoisyPhotographs(flat, levels=(0.05, 0.05), poisson_share=0.0, batch=4, patch=128)(0)
    assert float((batch["noisy"] - batch["clean"]).std()) == pytest.approx(0.05, rel=0.02)
    assert batch["scale"].flatten().tolist() == pytest.approx(robust_level(batch["noisy"]).flatten().tolist(), rel=0.05)
    assert batch["offset"].flatten().tolist() == pytest.approx([100 / 255] * 4) and torch.all(batch["weight"] == 1)


def test_levels_are_even_between_the_ends():
    pairs = NoisyPhotographs([torch.full((1, 1, 64, 64), 0.4)], poisson_share=0.0, batch=64, patch=64)
    levels = torch.cat([(b["noisy"] - b["clean"]).std(dim=(1, 2, 3)) for b in map(pairs, range(8))]) * 255
    assert 2 < levels.min() < 4 and 61 < levels.max() < 66
    assert float(levels.mean()) == pytest.approx(127.5 * sum(LEVELS), rel=0.06)
    assert float(levels.std()) == pytest.approx(60 / 12**0.5, rel=0.08)


@pytest.mark.parametrize(("share", "low", "high"), [(1.0, 2, 5), (0.0, 0.97, 1.03)])
def test_poisson_noise_grows_with_intensity_at_the_same_mean_variance(share, low, high):
    half = torch.full((1, 1, 128, 128), 40 / 255)
    half[..., 64:] = 200 / 255
    batch = NoisyPhotographs([half], levels=(0.1, 0.1), poisson_share=share, batch=64, patch=128)(0)
    square, clean = (batch["noisy"] - batch["clean"]).square(), batch["clean"]
    assert float(square.mean()) == pytest.approx(0.01, rel=0.03)
    # 5 for Poisson noise alone, 1 for white; the part is drawn evenly
    assert low < float(square[clean > 0.5].mean() / square[clean < 0.5].mean()) < high


def test_white_copies_are_the_same_for_the_same_purpose():
    clean = [torch.rand(1, 1, 50, 49, generator=generator(3))]
    first, again, other = (white_copies(clean, level=0.1, seed=0, purpose=p)[0] for p in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float((first - clean[0]).std()) == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 31}, "smaller than patch 31"),
        ({"levels": (0.0, 0.1)}, "levels"),
        ({"poisson_share": 1.5}, "poisson_share 1.5"),
    ],
)
def test_a_wrong_call_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        NoisyPhotographs(photographs(), **({"patch": SIDE} | settings))
