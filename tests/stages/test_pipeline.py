"""Stages 1 to 3 in a row: each gets what the one before has learned, and a few dozen steps already denoise."""

import math

import pytest
import torch

from mptpn.metrics import psnr_db
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load
from mptpn.noise import estimate_noise_model
from mptpn.noise.models import CorrelatedGaussian, PoissonGaussian
from mptpn.random import generator
from mptpn.stages import pipeline, preliminary, profound, synthesis
from mptpn.training import loop
from support import embedded

SIZES = [(96, 96), (97, 131), (120, 80)]
LEVELS = (0.05, 0.1, 0.15)
PAIR = ((0.0, 0.0, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 0.0))  # means over two pixels of a row


def scene(height: int, width: int) -> torch.Tensor:
    """Three discs on a gray ground."""
    rows, cols = torch.arange(height)[:, None], torch.arange(width)
    discs = (0.3, 0.3, 0.2), (0.7, 0.4, -0.1), (0.5, 0.8, 0.3)
    discs = [((rows - top * height) ** 2 + (cols - left * width) ** 2 < 20**2) * level for top, left, level in discs]
    return (0.4 + sum(discs)).float()[None, None]


def noisy_set(*, correlated: bool = False) -> list[torch.Tensor]:
    noise_models = [PoissonGaussian(level) for level in LEVELS]
    noise_models = (
        [CorrelatedGaussian(noise_model, PAIR) for noise_model in noise_models] if correlated else noise_models
    )
    return [
        noise_model.sample(scene(*size), generator=generator(1, i))
        for i, (noise_model, size) in enumerate(zip(noise_models, SIZES, strict=True))
    ]


@pytest.fixture(scope="module")
def noise() -> pipeline.SetNoise:
    return pipeline.estimate_set(noisy_set())


@pytest.fixture(scope="module")
def blind(noise) -> BlindSpotNetwork:
    torch.set_num_threads(1)
    return pipeline.stage_1(noisy_set(), noise=noise, steps=40, fabric=loop.launch(threads=1), patch=32, ema=0.8)


def photographs() -> list[torch.Tensor]:
    return [0.5 + 0.2 * torch.randn(1, 1, 60, 71, generator=generator(2)), scene(64, 90)]


def weights(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in net.state_dict().values()])


@pytest.mark.parametrize("which", range(len(LEVELS)))
def test_each_image_of_a_set_has_a_level_of_its_own(noise, which):
    """Of 9000 pixels and more, at 2 % of the level: three errors and the smooth scene's rest are within 8 %; the next
    level is 50 % higher.
    """
    noise_model = noise.noise_models[which]
    assert float(noise_model.variance(torch.tensor(0.5))) ** 0.5 == pytest.approx(LEVELS[which], rel=0.08)
    assert len(noise.noise_models) == len(LEVELS) and not isinstance(noise_model, CorrelatedGaussian)


def test_the_images_of_a_set_share_its_correlation_and_keep_their_levels():
    noise = pipeline.estimate_set(noisy_set(correlated=True))
    assert isinstance(noise.whole.noise_model, CorrelatedGaussian) and noise.whole.half_size == (0, 1)
    for noise_model, level in zip(noise.noise_models, LEVELS, strict=True):
        assert (
            isinstance(noise_model, CorrelatedGaussian)
            and noise_model.correlation == noise.whole.noise_model.correlation
        )
        assert float(noise_model.variance(torch.tensor(0.5))) ** 0.5 == pytest.approx(level, rel=0.12)


def test_an_image_that_correlates_by_chance_takes_the_independence_of_its_set(noise):
    """The set decides, so that one blind spot serves all its images."""
    alone = CorrelatedGaussian(PoissonGaussian(0.05), PAIR).sample(scene(*SIZES[0]), generator=generator(4))
    assert isinstance(estimate_noise_model([alone]).noise_model, CorrelatedGaussian)
    assert isinstance(pipeline.noise_model_of(alone, whole=noise.whole), PoissonGaussian)


@pytest.mark.parametrize("half_size, wanted", [(None, (0, 1)), ((1, 1), (1, 1))])
def test_the_blind_spot_is_what_the_noise_asks_for_unless_it_is_given(half_size, wanted):
    noisy = noisy_set(correlated=True)
    net = pipeline.stage_1(
        noisy,
        noise=pipeline.estimate_set(noisy),
        steps=1,
        fabric=loop.launch(threads=1),
        half_size=half_size,
        patch=24,
        batch=1,
    )
    assert net.half_size == wanted and not net.training


def test_stage_1_denoises_a_set_after_forty_steps(noise, blind):
    """5.8, 10.9 and 12.2 dB as measured; the local means of the untrained network give 2.3, 8.3 and 10.5."""
    torch.manual_seed(0)
    untrained = BlindSpotNetwork(**pipeline.BLIND).eval()

    def gains(net):
        return [
            psnr_db(preliminary.denoise(net, y, noise_model=noise_model)["denoised"], scene(*size))
            - psnr_db(y, scene(*size))
            for y, noise_model, size in zip(noisy_set(), noise.noise_models, SIZES, strict=True)
        ]

    assert all(after > max(4, before + 1) for after, before in zip(gains(blind), gains(untrained), strict=True))


def test_stage_2_takes_the_noise_models_and_the_results_of_stage_1(noise, blind):
    noisy = noisy_set()
    pairs = pipeline.stage_2(noisy, photographs(), noise=noise, blind=blind, batch=8, patch=32)
    assert [target.noise_model for target in pairs.targets] == list(noise.noise_models)
    for (first, second), y, noise_model in zip(pairs.pairs_a, noisy, noise.noise_models, strict=True):
        assert torch.equal(first, y) and torch.equal(
            second, preliminary.denoise(blind, y, noise_model=noise_model)["denoised"]
        )
    drawn = pairs(0)
    assert drawn["noisy"].shape == drawn["clean"].shape == (8, 1, 32, 32) and not drawn["noisy"].requires_grad
    assert {round(float(w), 6) for step in range(8) for w in pairs(step)["weight"].flatten()} == {
        round(pairs.weight_a, 6),
        1.0,
    }


def test_a_first_network_s_results_are_content_of_half_of_the_pairs(noise):
    """They are what it makes of the noisy images in their own unit; the levels are those that are asked for."""
    torch.manual_seed(0)
    first, noisy = RetractableTransformer(**pipeline.STUDENT).eval(), noisy_set()
    pairs = pipeline.stage_2(noisy, photographs(), noise=noise, first=first, batch=8, patch=32)
    with torch.no_grad():
        for own, image in zip(pairs.own, noisy, strict=True):
            torch.testing.assert_close(own, profound.denoise(first, image), atol=1e-4, rtol=0)
    batch = pairs(0)
    is_own = [
        any(
            (own.unfold(2, 32, 1).unfold(3, 32, 1) == turned).all((4, 5)).any()
            for own in pairs.own
            for turned in turns(x)
        )
        for x in batch["clean"]
    ]
    assert is_own == [True] * 4 + [False] * 4 and not pairs(0)["noisy"].requires_grad
    residue = (batch["noisy"] - batch["clean"]).flatten(1).std(1)
    torch.testing.assert_close(residue, batch["sigma"].flatten(), rtol=5 / (2 * 32 * 32) ** 0.5, atol=0)


def turns(square: torch.Tensor) -> list[torch.Tensor]:
    return [turned.rot90(k, (1, 2)) for turned in (square, square.flip(2)) for k in range(4)]


def test_an_image_that_is_nearly_constant_has_no_measurement():
    hot = torch.zeros(1, 1, 64, 64)
    hot[..., 30, 30] = 1.0
    measured = pipeline.measure_set([noisy_set()[0], hot, torch.ones(1, 1, 40, 40)], subjects=["a", "b", "c"])
    assert measured[0].subject == "a" and measured[1:] == [None, None]


def test_pairs_from_photographs_have_the_noise_of_the_set(noise):
    """Levels of the pairs, at their own means, are those of the set times those that it asks for, and the residue has
    that level: 6 x 32 x 32 px, 5 %.
    """
    pairs = pipeline.stage_2(noisy_set(), photographs(), noise=noise, batch=6, patch=32)
    drawn = [pairs(step) for step in range(6)]
    for batch in drawn:
        residue = (batch["noisy"] - batch["clean"]).flatten(1).std(1)
        torch.testing.assert_close(residue, batch["sigma"].flatten(), rtol=5 / (2 * 32 * 32) ** 0.5, atol=0)
    levels = torch.cat([batch["sigma"].flatten() for batch in drawn])
    low, high = noise.levels
    assert (
        levels.min() > 0.9 * low * LEVELS[0]
        and levels.max() < 1.1 * high * LEVELS[-1]
        and levels.max() > 2 * levels.min()
    )


def test_the_levels_that_stage_3_should_know_are_those_of_the_places():
    """Noise of one level asks for hardly any, noise that is twice as strong on one side for a factor of two and its
    square root to spare.
    """
    scenes = [scene(256, 256 + 32 * i) for i in range(3)]
    even = pipeline.estimate_set(
        [PoissonGaussian(0.05).sample(x, generator=generator(8, i)) for i, x in enumerate(scenes)]
    )
    assert 0.93 < even.levels[0] <= 0.97 and 1.03 < even.levels[1] < 1.07
    sides = [torch.where(torch.arange(x.shape[3]) < x.shape[3] // 2, 0.04, 0.08) for x in scenes]
    uneven = pipeline.estimate_set(
        [
            x + side * torch.randn(x.shape, generator=generator(9, i))
            for i, (x, side) in enumerate(zip(scenes, sides, strict=True))
        ]
    )
    known = float(uneven.noise_models[0].variance(torch.tensor(0.5))) ** 0.5
    assert uneven.levels[0] * known < 0.04 and 0.08 < uneven.levels[1] * known < 0.16
    faint = pipeline.estimate_set(
        [
            PoissonGaussian(2 / 255).sample(image.pixels, generator=generator(10))
            for image in embedded.natural("val")[:2]
        ]
    )
    assert faint.levels[1] <= 2.5  # structure passes for levels beneath weak noise
    few = pipeline.estimate_set([PoissonGaussian(0.05).sample(scene(64, 90), generator=generator(8))])
    assert few.levels == synthesis.LEVELS


@pytest.mark.parametrize("share", [0.0, 0.2, 0.8])
def test_the_spread_of_levels_is_what_their_errors_do_not_explain(share):
    """Places whose logarithms spread by 0.2 in all, a share of the variance being errors; no chance: they lie at the
    quantiles of a normal noise model.
    """
    logs = 0.2 * torch.special.ndtri((torch.arange(2000, dtype=torch.float64) + 0.5) / 2000)
    errors = torch.full_like(logs, max(0.2 * share**0.5, 1e-6))
    low, high = pipeline.level_range(logs.exp(), errors)
    expected = math.exp(2 * 1.645 * 0.2 * (1 - share) ** 0.5)
    # 0.1 % of the variance lies beyond the quantiles
    assert high == pytest.approx(expected, rel=0.005) and low == pytest.approx(1 / expected, rel=0.005)


def test_levels_that_agree_as_well_as_their_errors_allow_are_one_level():
    """Twelve copies of an image agree exactly."""
    one = (0.97, pytest.approx(1 / 0.97))
    assert pipeline.level_range(torch.ones(12, dtype=torch.float64), torch.full((12,), 0.1, dtype=torch.float64)) == one
    logs = 0.2 * torch.linspace(-1.5, 1.5, 50, dtype=torch.float64)
    assert (
        pipeline.level_range(logs.exp(), torch.full_like(logs, 0.3))
        == one
        != pipeline.level_range(logs.exp(), torch.full_like(logs, 0.05))
    )


def test_stage_3_learns_from_the_pairs_and_is_a_function_of_its_seed(noise):
    """Thirty steps of a small network: the loss on pairs that it does not see falls to 0.6 of what one step leaves, 0.5
    as measured.
    """
    pairs = pipeline.stage_2(noisy_set(), photographs(), noise=noise, batch=4, patch=32)
    held_out, small = pairs(10_000), pipeline.STUDENT | {"widths": (16, 32), "blocks": 1}

    def trained(seed, steps):
        return pipeline.stage_3(pairs, steps=steps, fabric=loop.launch(threads=1), network=small, seed=seed, ema=0.5)

    before, after = (float(profound.loss(trained(0, steps), held_out).detach()) for steps in (1, 30))
    assert after < 0.6 * before
    net = trained(0, 2)
    assert isinstance(net, RetractableTransformer) and not net.training
    assert torch.equal(weights(net), weights(trained(0, 2))) and not torch.equal(weights(net), weights(trained(1, 2)))


def test_training_leaves_the_caller_s_random_numbers_as_they_were(noise):
    pairs = pipeline.stage_2(noisy_set(), photographs(), noise=noise, batch=1, patch=32)
    before, given = torch.get_rng_state(), {"steps": 1, "fabric": loop.launch(threads=1)}
    pipeline.stage_1(noisy_set(), noise=noise, patch=32, batch=1, **given)
    pipeline.stage_3(pairs, network=pipeline.STUDENT, **given)
    assert torch.equal(before, torch.get_rng_state())


def test_three_stages_are_the_steps_that_a_notebook_calls_one_by_one(tmp_path):
    noisy, photos, fabric = noisy_set(correlated=True), photographs(), loop.launch(threads=1)
    noise = pipeline.estimate_set(noisy)
    out = tmp_path / "net.safetensors"
    found = pipeline.three_stages(
        noisy, photos, noise=noise, fabric=fabric, steps=(2, 1, 1), batch=2, patch=32, out=out
    )
    assert all(path.is_file() for path in pipeline.checkpoints(out))
    blind = pipeline.stage_1(noisy, noise=noise, steps=2, fabric=fabric, patch=32)
    pairs = pipeline.stage_2(noisy, photos, noise=noise, blind=blind, batch=2, patch=32)
    first = pipeline.stage_3(pairs, steps=1, fabric=fabric, title="first network")
    refined = pipeline.refine_noise(noise, noisy, first=first)
    pairs = pipeline.stage_2(noisy, photos, noise=refined, blind=blind, first=first, batch=2, patch=32)
    student = pipeline.stage_3(pairs, steps=1, fabric=fabric)
    assert found.noise == refined != noise and found.student.history[-1]["step"] == 1
    for net, same in ((found.blind, blind), (found.first, first), (found.student, student)):
        assert torch.equal(weights(net), weights(same))


def test_a_trained_network_is_not_for_white_noise_though_it_starts_from_one(noise):
    pairs = pipeline.stage_2(noisy_set(), photographs(), noise=noise, batch=1, patch=32)
    student = pipeline.stage_3(pairs, steps=1, fabric=loop.launch(threads=1))
    assert load(pipeline.START).for_white_noise and not student.for_white_noise
