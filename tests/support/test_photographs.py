"""Pairs drawn from photographs: the squares are the photographs', the noise has the stated level and noise model, and
the step alone decides.
"""

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


def squares_of(image):
    """All squares of an image in all orientations, as tuples of bytes."""
    found = set()
    for top in range(image.shape[2] - SIDE + 1):
        for left in range(image.shape[3] - SIDE + 1):
            square = image[0, :, top : top + SIDE, left : left + SIDE]
            for turn in range(4):
                turned = square.rot90(turn, (1, 2))
                found |= {(x * 255).round().byte().numpy().tobytes() for x in (turned, turned.flip(2))}
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_clean_squares_are_squares_of_the_photographs_in_every_orientation(channels):
    images = photographs(channels)
    known = squares_of(images[0]) | squares_of(images[1])
    pairs = NoisyPhotographs(images, batch=8, patch=SIDE)
    drawn = [(x * 255).round().byte().numpy().tobytes() for step in range(6) for x in pairs(step)["clean"]]
    assert set(drawn) <= known and len(set(drawn)) > 30
    whole = NoisyPhotographs([images[1]], batch=64, patch=30)(0)["clean"]  # one square: only its orientations differ
    assert len({x.numpy().tobytes() for x in whole}) == 8


def test_the_step_decides_alone_and_the_seed_matters():
    first, second = (NoisyPhotographs(photographs(), batch=4, patch=SIDE, seed=seed) for seed in (0, 1))
    again = NoisyPhotographs(photographs(), batch=4, patch=SIDE)
    assert all(torch.equal(first(7)[name], again(7)[name]) for name in first(7))
    assert not torch.equal(first(7)["noisy"], first(8)["noisy"]) and not torch.equal(
        first(7)["noisy"], second(7)["noisy"]
    )


def test_white_noise_has_the_drawn_level_and_scale_is_that_of_the_whole_photograph():
    flat = [torch.full((1, 1, 128, 128), 100 / 255)]
    pairs = NoisyPhotographs(flat, levels=(0.05, 0.05), poisson_share=0.0, batch=4, patch=128)
    batch = pairs(0)
    noise = batch["noisy"] - batch["clean"]
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    assert batch["scale"].flatten().tolist() == pytest.approx(robust_level(batch["noisy"]).flatten().tolist(), rel=0.05)
    assert batch["offset"].flatten().tolist() == pytest.approx([100 / 255] * 4) and torch.all(batch["weight"] == 1)


def test_levels_are_even_between_the_ends():
    flat = [torch.full((1, 1, 64, 64), 0.4)]
    pairs = NoisyPhotographs(flat, poisson_share=0.0, batch=64, patch=64)
    levels = torch.cat([(b["noisy"] - b["clean"]).std(dim=(1, 2, 3)) for b in map(pairs, range(8))]) * 255
    assert 2 < levels.min() < 4 and 61 < levels.max() < 66
    assert float(levels.mean()) == pytest.approx(127.5 * sum(LEVELS), rel=0.06) and float(
        levels.std()
    ) == pytest.approx(60 / 12**0.5, rel=0.08)


def test_poisson_noise_grows_with_intensity_at_the_same_mean_variance():
    half = torch.full((1, 1, 128, 128), 40 / 255)
    half[..., 64:] = 200 / 255
    batch = NoisyPhotographs([half], levels=(0.1, 0.1), poisson_share=1.0, batch=64, patch=128)(0)
    square, clean = (batch["noisy"] - batch["clean"]).square(), batch["clean"]
    dark, bright = (square[clean < 0.5].mean(), square[clean > 0.5].mean())
    assert float(square.mean()) == pytest.approx(0.01, rel=0.03)
    assert 2 < float(bright / dark) < 5  # 5 for Poisson noise alone, 1 for white; the part is drawn evenly
    plain = NoisyPhotographs([half], levels=(0.1, 0.1), poisson_share=0.0, batch=64, patch=128)(0)
    square, clean = (plain["noisy"] - plain["clean"]).square(), plain["clean"]
    assert float(square[clean > 0.5].mean() / square[clean < 0.5].mean()) == pytest.approx(1, rel=0.03)


def test_white_copies_are_the_same_for_the_same_purpose():
    clean = [torch.rand(1, 1, 50, 50, generator=generator(3))]
    first, again, other = (white_copies(clean, level=0.1, seed=0, purpose=p)[0] for p in (1, 1, 2))
    assert (
        torch.equal(first, again)
        and not torch.equal(first, other)
        and float((first - clean[0]).std()) == pytest.approx(0.1, rel=0.05)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patch": 31}, "smaller than patch 31"),
        ({"levels": (0.0, 0.1)}, "levels"),
        ({"poisson_share": 1.5}, "poisson_share 1.5"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        NoisyPhotographs(photographs(), **({"patch": SIDE} | settings))
