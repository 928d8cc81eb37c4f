"""Pairs: noise at the learned level, content with the target's statistics, every draw a function of seed and step."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mptpn.filters import gaussian_blur, robust_level
from mptpn.metrics import residual_correlation
from mptpn.noise.models import CorrelatedGaussian, PoissonGaussian
from mptpn.random import generator
from mptpn.stages.synthesis import (
    LEVELS,
    QUANTILES,
    SMOOTH,
    WEIGHT_A,
    PairSynthesis,
    TargetStatistics,
    _mapped,
    best_blur,
    noise_steps,
    sharpness,
    structure,
    target_statistics,
)


def photo(height=90, width=77, *, seed=0):
    """Content between white and smooth, contrast 0.2 around 0.5."""
    rough = gaussian_blur(torch.randn(1, 1, height, width, generator=generator(seed)), sigma=0.8)
    return 0.5 + 0.2 * rough / rough.std()


def smoothed_quantiles(image):
    return gaussian_blur(image, sigma=SMOOTH).flatten().quantile(torch.linspace(0, 1, QUANTILES))


def target(*, sigma=0.1, gain=0.0, mean=0.4, deviation=0.15, blur=0.8, robust=0.12):
    """Statistics of blurred white content with normal intensities."""
    content = gaussian_blur(torch.randn(1, 1, 200, 151, generator=generator(20)), sigma=blur)
    content = mean + deviation * (content - content.mean()) / content.std()
    quantiles = smoothed_quantiles(content).tolist()
    noise_model = PoissonGaussian(sigma, gain=gain)
    return TargetStatistics(
        noise_model, mean, deviation, robust, structure(content), noise_steps(sigma**2), tuple(quantiles)
    )


def pair_a(height=61, width=70):
    x = photo(height, width, seed=5)
    return x + 0.1 * torch.randn(x.shape, generator=generator(6)), x


def within(value, expected, *, errors=5, count):
    """Five standard errors of a standard deviation of `count` normal numbers."""
    return abs(value / expected - 1) < errors / (2 * count) ** 0.5


def test_noise_put_on_is_white_and_of_the_learned_level():
    pairs = PairSynthesis([photo()], [target(sigma=0.1)], batch=12, patch=40, seed=1)
    batch = [pairs(step) for step in range(4)]
    residual = torch.cat([(b["noisy"] - b["clean"]) / b["sigma"] for b in batch])
    assert within(float(residual.std()), 1, count=residual.numel())
    assert not within(1.1 * float(residual.std()), 1, count=residual.numel())  # 10 % off is caught
    assert max(map(abs, residual_correlation(residual))) < 5 / residual.numel() ** 0.5
    levels = torch.cat([b["sigma"].flatten() for b in batch]) / 0.1
    low, high = LEVELS
    assert low <= levels.min() < low**0.5 and high**0.5 < levels.max() <= high


def test_levels_are_log_uniform_between_the_two_that_are_given():
    pairs = PairSynthesis([photo()], [target(sigma=0.1)], levels=(0.5, 2.0), batch=64, patch=33)
    levels = torch.cat([pairs(step)["sigma"].flatten() for step in range(4)]) / 0.1
    shares = (levels.log2() + 1) / 2
    assert shares.min() >= 0 and shares.max() <= 1 + 1e-6
    # 256 draws: the distance of Kolmogorov and Smirnov is below 1.63 / 16 in 99 % of the cases; levels that are even
    # themselves are 0.25 away at the middle
    assert float((shares.sort().values - torch.linspace(0, 1, 256)).abs().max()) < 1.63 / 16


@pytest.mark.parametrize("match_content", [True, False])
def test_a_signal_dependent_noise_model_is_kept(match_content):
    """The variance in the dark and in the bright third of the pixels follows gain * clean + sigma^2, levels averaged: E
    u^2 = (h^2 - l^2) / (2 log(h / l)).
    """
    noise_model = PoissonGaussian(0.02, gain=0.05)
    pairs = PairSynthesis(
        [photo()], [target(sigma=0.02, gain=0.05, deviation=0.1)], batch=16, patch=40, match_content=match_content
    )
    batch = [pairs(step) for step in range(32)]
    noisy, clean = (torch.cat([b[key] for b in batch]).flatten() for key in ("noisy", "clean"))
    for low, high in ((0, 1 / 3), (2 / 3, 1)):
        inside = (clean > clean.quantile(low)) & (clean <= clean.quantile(high))
        ratio = float(((noisy - clean)[inside] ** 2).mean() / noise_model.variance(clean[inside]).mean())
        # 512 levels u^2 between 0.44 and 2.25, of standard deviation 0.51: standard error 0.0226; the pixels add a
        # tenth of that; four of both
        assert ratio == pytest.approx((1.5**2 - 1.5**-2) / (4 * math.log(1.5)), abs=4 * 0.0228)


def test_draws_are_a_function_of_seed_and_step_alone():
    def draws(seed, steps):
        pairs = PairSynthesis(
            [photo(), photo(seed=1)],
            [target(), target(sigma=0.05)],
            pairs_a=[pair_a(), pair_a(80, 55)],
            batch=8,
            patch=33,
            seed=seed,
        )
        return {step: pairs(step) for step in steps}

    forward, backward, other = draws(0, (0, 1, 7)), draws(0, (7, 1, 0)), draws(1, (0,))
    for step, batch in forward.items():
        assert all(torch.equal(batch[key], backward[step][key]) for key in batch)
    assert not torch.equal(forward[0]["noisy"], forward[1]["noisy"]) and not torch.equal(
        forward[0]["noisy"], other[0]["noisy"]
    )


@pytest.mark.parametrize("batch", [8, 12])
def test_pairs_a_come_first_with_weight_a_tenth_and_are_an_eighth_of_all(batch):
    pairs = PairSynthesis(
        [photo(33, 34)], [target()], pairs_a=[pair_a(33, 35)], batch=batch, patch=33, match_content=False
    )
    counts, steps = [], 200
    for step in range(steps):
        weight = pairs(step)["weight"].flatten().tolist()
        counts.append(sum(w < 1 for w in weight))
        assert weight == pytest.approx([WEIGHT_A] * counts[-1] + [1.0] * (batch - counts[-1])) and WEIGHT_A == 0.1
        assert math.floor(batch / 8) <= counts[-1] <= math.ceil(batch / 8)
    # the remainder batch / 8 - floor(batch / 8) is drawn: at most sqrt(1 / 4 / 200) = 0.035 of a pair; five of them
    assert sum(counts) / steps == pytest.approx(batch / 8, abs=5 * 0.035)


def test_a_pair_a_is_a_piece_of_the_image_and_of_its_result_at_the_same_place():
    noisy, clean = pair_a()
    batch = PairSynthesis([photo()], [target(sigma=0.1)], pairs_a=[(noisy, clean)], batch=8, patch=33)(0)
    where = {value: index for index, value in enumerate(noisy.flatten().tolist())}
    found = clean.flatten()[[where[value] for value in batch["noisy"][0].flatten().tolist()]]
    assert torch.equal(found, batch["clean"][0].flatten()) and float(batch["sigma"][0]) == pytest.approx(0.1)


def test_smooth_content_has_the_least_sharpness_and_white_the_most():
    slope = torch.linspace(0, 1, 64)[:, None] + torch.linspace(0, 2, 81)
    assert sharpness(structure(slope[None, None])) == 1 / 16
    white = structure(torch.randn(1, 1, 200, 151, generator=generator(0)))
    # each d of 30 000 numbers of variance 1 is known to sqrt(3 / 30 000) = 1 %
    assert white == pytest.approx((1, 1, 1, 1), abs=0.05) and sharpness(white) > 0.93


BLURRED = (0.0, 0.5, 0.8, 1.2, 2.0)


def shapes(seed=30):
    return torch.tensor(
        [
            structure(gaussian_blur(torch.randn(1, 1, 200, 151, generator=generator(seed)), sigma=width))
            for width in BLURRED
        ]
    )


# not white content in noise as strong: the two have one shape, only their sum is known
@pytest.mark.parametrize(
    "width, sigma", [(width, sigma) for width in BLURRED for sigma in (0.0, 0.3, 1.0) if width or sigma < 1]
)
def test_the_blur_of_content_is_found_through_noise_as_strong_as_the_content(width, sigma):
    """With noise known 3 % too high; the fault: without a tolerance for that, shapes fall apart."""
    content = gaussian_blur(torch.randn(1, 1, 300, 251, generator=generator(1)), sigma=width)
    content = content / content.std()
    seen = target_statistics(
        content + sigma * torch.randn(content.shape, generator=generator(2)),
        noise_model=PoissonGaussian(max(1.03**0.5 * sigma, 1e-6)),
    )
    assert best_blur(seen, shapes()) == BLURRED.index(width)


def test_the_blur_is_found_through_correlated_noise_that_white_noise_would_hide():
    content = gaussian_blur(torch.randn(1, 1, 300, 251, generator=generator(1)), sigma=0.8)
    noise_model = CorrelatedGaussian(PoissonGaussian(0.7), CORRELATION)
    noisy = noise_model.sample(content / content.std(), generator=generator(2))
    assert (
        best_blur(target_statistics(noisy, noise_model=noise_model), shapes())
        == BLURRED.index(0.8)
        != best_blur(target_statistics(noisy, noise_model=noise_model.noise_model), shapes())
    )


CORRELATION = ((0.135, 0.3, 0.135), (0.45, 1.0, 0.45), (0.135, 0.3, 0.135))  # at lags -1..1


def test_pairs_of_correlated_noise_carry_its_correlation_and_pairs_a_keep_their_rows():
    noise_model = CorrelatedGaussian(PoissonGaussian(0.1), CORRELATION)
    ramp = torch.arange(40.0).expand(1, 1, 40, 40).contiguous()  # changes along columns alone
    pairs = PairSynthesis(
        [photo()], [replace(target(), noise_model=noise_model)], pairs_a=[(ramp, ramp)], batch=16, patch=33
    )
    batches = [pairs(step) for step in range(6)]
    b = torch.cat([b["noisy"][b["weight"].flatten() == 1] - b["clean"][b["weight"].flatten() == 1] for b in batches])
    # about 80 patches of 33 x 33 px: 5 / sqrt(80 000) of chance, three times that for correlated noise, and a share of
    # 1 / 33 lost to the patch's own mean
    assert residual_correlation(b) == pytest.approx((0.3, 0.45), abs=0.06)
    a = torch.cat([b["noisy"][b["weight"].flatten() < 1] for b in batches])
    assert len(a) > 4 and not a.diff(dim=2).any()


def test_each_pair_says_in_which_unit_the_whole_image_is_seen():
    pairs = PairSynthesis(
        [photo()],
        [target(mean=0.4, robust=0.12), target(mean=0.7, robust=0.3)],
        pairs_a=[pair_a(), pair_a()],
        batch=8,
        patch=33,
    )
    batch = pairs(0)
    known = {0.4: 0.12, 0.7: 0.3}
    for offset, scale in zip(*(batch[name].flatten().tolist() for name in ("offset", "scale")), strict=True):
        assert scale == pytest.approx(known[round(offset, 4)], rel=1e-6)
    apart = PairSynthesis([photo()], [target()], batch=2, patch=33, match_content=False)(0)
    torch.testing.assert_close(apart["offset"], apart["noisy"].mean((1, 2, 3), keepdim=True))
    torch.testing.assert_close(apart["scale"], robust_level(apart["noisy"]))


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_target_statistics_take_the_noise_s_share_off_the_contrast(sigma):
    x, noise_model = photo(200, 151), PoissonGaussian(sigma)
    found = target_statistics(noise_model.sample(x, generator=generator(4)), noise_model=noise_model)
    # variance 0.04 + sigma^2 of 30 000 pixels: relative standard error sqrt(2 / 30 000) = 0.8 % of the sum, five of
    # them on the difference
    assert found.deviation**2 == pytest.approx(float(x.var()), abs=5 * 0.008 * (0.04 + sigma**2))
    assert found.mean == pytest.approx(float(x.mean()), abs=5 * sigma / 30_000**0.5)


def test_matched_photographs_have_the_target_s_intensities_and_sharpness():
    goal = target(mean=0.2, deviation=0.05, blur=1.0)
    clean = PairSynthesis([photo(200, 200), photo(210, 200, seed=3)], [goal, target()]).match_statistics(0, 0)
    # fifth of the deviation: the map is bent a little
    torch.testing.assert_close(smoothed_quantiles(clean), torch.tensor(goal.quantiles), rtol=0, atol=0.01)
    assert float(clean.std()) == pytest.approx(0.05, rel=0.1)
    others = [
        abs(sharpness(structure(x)) - sharpness(goal.steps))
        for x in (photo(200, 200), gaussian_blur(photo(200, 200), sigma=2.0))
    ]
    assert abs(sharpness(structure(clean)) - sharpness(goal.steps)) < min(others)


@pytest.mark.parametrize("sigma", [0.02, 0.2])
def test_fine_detail_keeps_its_contrast(sigma):
    """Photographs like the noisy images: theirs is the contrast of the truth, half of which is finer than noise lets
    see.
    """
    truth = photo(200, 190)
    goal = target_statistics(
        PoissonGaussian(sigma).sample(truth, generator=generator(12)), noise_model=PoissonGaussian(sigma)
    )
    pairs = PairSynthesis([photo(200, 200, seed=7)], [goal])
    assert gaussian_blur(truth, sigma=SMOOTH).std() < 0.5 * truth.std()
    assert float(pairs.match_statistics(0, 0).std()) == pytest.approx(float(truth.std()), rel=0.1)
    step = structure(pairs.match_statistics(0, 0))[0] / structure(truth)[0]
    assert step == pytest.approx(1, rel=0.25)  # squared, and the blur is one of a few


def test_intensities_beyond_the_known_ones_go_on_straight():
    known, wanted = np.linspace(0, 1, QUANTILES), np.linspace(10, 30, QUANTILES)
    found = _mapped(torch.tensor([-0.5, 0.0, 0.25, 1.0, 1.5]), known, wanted)
    torch.testing.assert_close(found, torch.tensor([0.0, 10.0, 15.0, 30.0, 40.0]))
    # a constant photograph: no slope is known
    assert _mapped(torch.tensor([-1.0, 2.0]), np.zeros(QUANTILES), wanted).tolist() == [10.0, 30.0]


@pytest.mark.parametrize("photos, targets", [([], [target()]), ([photo()], [])], ids=["no photographs", "no targets"])
def test_empty_pools_are_refused_with_their_sizes(photos, targets):
    with pytest.raises(ValueError, match=f"{len(photos)} photographs and {len(targets)} target statistics"):
        PairSynthesis(photos, targets)


def test_own_content_is_half_of_the_pairs_b_with_the_noise_model_of_its_image():
    """Two images of different levels whose contents tell them apart; of twelve pairs one or two are A."""
    targets = [target(sigma=0.05), target(sigma=0.2)]
    own = [torch.full((1, 1, 50, 60), value) for value in (-5.0, 7.0)]
    pairs = PairSynthesis(
        [photo()], targets, pairs_a=[pair_a(), pair_a()], own=own, levels=(1.0, 1.0), batch=12, patch=40, seed=2
    )
    seen = set()
    for step in range(6):
        batch = pairs(step)
        count_a = int((batch["weight"] < 1).sum())
        means = batch["clean"].mean((1, 2, 3)).tolist()
        is_own = [value in (-5.0, 7.0) for value in means]
        assert is_own == [False] * count_a + [True] * ((12 - count_a) // 2) + [False] * (
            12 - count_a - (12 - count_a) // 2
        )
        for value, sigma, mine in zip(means, batch["sigma"].flatten().tolist(), is_own, strict=True):
            if mine:
                seen.add(value)
                assert sigma == pytest.approx(0.05 if value < 0 else 0.2)
    assert seen == {-5.0, 7.0}


def test_padding_changes_no_statistics():
    noisy = PoissonGaussian(0.1).sample(torch.rand(1, 1, 60, 70, generator=generator(8)), generator=generator(9))
    padded = torch.cat([noisy, torch.full_like(noisy[..., :40], -20.0)], 3)
    alone, beside = (target_statistics(y, noise_model=PoissonGaussian(0.1)) for y in (noisy, padded))
    numbers = [(x.mean, x.deviation, *x.steps) for x in (alone, beside)]
    assert numbers[1] == pytest.approx(numbers[0], rel=1e-5)
    assert beside.robust == pytest.approx(alone.robust, rel=0.02)
    assert beside.quantiles[1:-1] == pytest.approx(alone.quantiles[1:-1], abs=0.02)
