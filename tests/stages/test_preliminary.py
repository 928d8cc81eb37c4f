"""Stage 1 as a whole: what it trains on, how it scales, and that it denoises from one noisy copy."""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from mptpn.metrics import psnr_db
from mptpn.networks.blind_spot import BlindSpotNetwork, leak, reach
from mptpn.noise.models import NoiseLevelFunction, PoissonGaussian, Speckle
from mptpn.random import generator
from mptpn.stages import preliminary
from mptpn.stages.preliminary import constrained_negative_log_likelihood, fuse, negative_log_likelihood
from mptpn.training import loop


def network(**kind) -> BlindSpotNetwork:
    torch.manual_seed(0)
    return BlindSpotNetwork(**{"width": 6, "depth": 1} | kind)


def scene(height, width):
    rows, cols = torch.linspace(0, 9, height)[:, None], torch.linspace(0, 7, width)
    return (0.5 + 0.3 * torch.sin(rows) * torch.cos(cols))[None, None]


def noisy_set(levels=(0.05, 0.1, 0.2)):
    noise_models = [PoissonGaussian(level) for level in levels]
    clean = [scene(50 + 6 * i, 61) for i in range(len(noise_models))]
    return (
        clean,
        [
            noise_model.sample(x, generator=generator(1, i))
            for i, (noise_model, x) in enumerate(zip(noise_models, clean, strict=True))
        ],
        noise_models,
    )


def batch_of(seed=0, *, patch=20, size=3):
    _, noisy, noise_models = noisy_set()
    return preliminary.patches(
        preliminary.prepared(noisy, noise_models), batch=size, patch=patch, keys=(seed, "patches", 0)
    )


def test_a_patch_is_a_turned_piece_of_the_image_whose_noise_model_it_carries():
    _, noisy, noise_models = noisy_set()
    batch = batch_of(3, patch=50, size=12)
    for patch, sigma, offset in zip(
        batch["noisy"], batch["noise_model"][:, 2].sqrt(), batch["offset"].flatten(), strict=True
    ):
        which = [noise_model.sigma for noise_model in noise_models].index(pytest.approx(float(sigma)))
        assert float(offset) == pytest.approx(float(noisy[which].mean()))
        assert torch.isin(patch, noisy[which]).all()  # noise makes every value unique


def test_patches_come_from_every_image_and_in_every_orientation():
    marked = [torch.arange(4.0).view(1, 1, 2, 2) + 10 * i for i in range(3)]
    batch = preliminary.patches(preliminary.prepared(marked, [PoissonGaussian(0.1)] * 3), batch=400, patch=2, keys=(0,))
    # a missed one of 24: (23 / 24)^400 * 24 = 1e-6
    assert len({tuple(patch.flatten().tolist()) for patch in batch["noisy"]}) == 3 * 8


def test_an_image_smaller_than_a_patch_is_refused():
    _, noisy, noise_models = noisy_set()
    with pytest.raises(ValueError, match=r"\(1, 1, 50, 61\).*patch 64; choose a patch of at most 50 px"):
        preliminary.train(network(), noisy, noise_models=noise_models, steps=1, fabric=loop.launch(), patch=64)


def test_the_mean_given_an_offset_is_blind_at_every_level():
    """The offset is an image's mean, a number beside the network; everything else is blind."""

    class Stage1(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blind = network(local_means=(3, 5))

        def forward(self, noisy):
            noise_model = preliminary.tabulated(PoissonGaussian(0.1, gain=0.02), torch.tensor([0.0, 1.0]))
            mean, spread, sigma_n = preliminary.predict(
                self.blind, noisy, offset=torch.full((1, 1, 1, 1), 0.4), noise_model=noise_model
            )
            return mean, spread

    assert leak(Stage1().train(), (1, 1, 7, 10), generator=generator(2)) == 0.0


@pytest.mark.parametrize("size", [(1, 1), (40, 31)], ids=str)
def test_white_noise_results_are_equivariant_to_gain_and_offset(size):
    blind = network(local_means=(3, 5)).double().eval()
    noisy = scene(*size).double() + 0.1 * torch.randn(size, dtype=torch.float64, generator=generator(3))
    plain = preliminary.denoise(blind, noisy, noise_model=PoissonGaussian(0.1))
    scaled = preliminary.denoise(blind, 37 * noisy - 5, noise_model=PoissonGaussian(3.7))
    torch.testing.assert_close(scaled["denoised"], 37 * plain["denoised"] - 5, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scaled["sigma"], 37 * plain["sigma"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "noise_model",
    [
        PoissonGaussian(0.02, gain=0.05, black=0.1),
        NoiseLevelFunction((0.2, 0.5, 0.9), (1e-3, 4e-3, 2e-3)),
        Speckle(20.0),
    ],
    ids=lambda noise_model: type(noise_model).__name__,
)
def test_the_noise_follows_the_noise_model_at_the_blind_mean(noise_model):
    noisy = scene(21, 30) + 0.05 * torch.randn(21, 30, generator=generator(8))
    result = preliminary.denoise(network().eval(), noisy, noise_model=noise_model)
    # read from 65 knots: a hinge between two of them is off by a quarter of a step of the steepest noise model, the
    # floor adds 1e-4 of the largest variance
    inside = result["mean"].clamp(noisy.min(), noisy.max())
    torch.testing.assert_close(result["sigma_n"] ** 2, noise_model.variance(inside), rtol=0.03, atol=2e-5)


def test_a_tabulated_noise_model_is_exact_at_its_knots_and_linear_between():
    noise_model, ends = Speckle(4.0), torch.tensor([0.5, 2.1])
    table, knots = preliminary.tabulated(noise_model, ends), torch.linspace(0.5, 2.1, preliminary.KNOTS)
    torch.testing.assert_close(
        preliminary.variance_at(knots.view(1, 1, 5, 13), table).flatten(),
        noise_model.variance(knots),
        rtol=1e-4,
        atol=0,
    )
    middle = (knots[1:] + knots[:-1]) / 2
    torch.testing.assert_close(
        preliminary.variance_at(middle.view(1, 1, 8, 8), table).flatten(),
        (noise_model.variance(knots)[1:] + noise_model.variance(knots)[:-1]) / 2,
        rtol=1e-4,
        atol=0,
    )
    assert preliminary.variance_at(torch.full((1, 1, 1, 1), 9.0), table).item() == pytest.approx(
        float(noise_model.variance(ends[1]))
    )


def test_patches_of_noise_that_differs_between_rows_and_columns_are_not_transposed():
    # changes along columns alone
    ramp = torch.arange(6.0).view(1, 1, 1, 6).expand(1, 1, 6, 6) + torch.zeros(1, 1, 6, 6)
    for transposed in (False, True):
        batch = preliminary.patches(
            preliminary.prepared([ramp], [PoissonGaussian(0.1)]), batch=40, patch=4, keys=(0,), transposed=transposed
        )
        assert bool((batch["noisy"].diff(dim=2) != 0).any()) == transposed


MEAN = {"features", "mean", "head", "branches"}


@pytest.mark.parametrize("fraction, trained", [(0.0, MEAN), (0.12, {"spread"}), (0.5, MEAN | {"spread"})])
def test_each_phase_trains_its_part(fraction, trained):
    blind = network()
    preliminary.loss(blind, batch_of(), fraction).backward()
    assert {
        name.split(".")[0] for name, p in blind.named_parameters() if p.grad is not None and p.grad.any()
    } == trained


def test_padding_takes_no_part_in_training_and_none_in_the_mean():
    """A third of each image is padding. The pixels beside it are counted: they hold noise."""
    _, noisy, noise_models = noisy_set()
    padded = [torch.cat([y, torch.full_like(y[..., :30], -20.0)], 3) for y in noisy]
    batch = preliminary.patches(preliminary.prepared(padded, noise_models), batch=8, patch=50, keys=(0, 201, 0))
    assert torch.equal(batch["valid"] == 0, batch["noisy"] == -20) and 0 < float(batch["valid"].mean()) < 1
    for offset in batch["offset"].flatten().tolist():
        assert any(offset == pytest.approx(float(y.mean()), rel=1e-5) for y in noisy)
    changed = batch | {"noisy": batch["noisy"].masked_fill(batch["valid"] == 0, -20.0).requires_grad_()}
    mean, spread, sigma_n = preliminary.predict(
        network(), changed["noisy"], offset=batch["offset"], noise_model=batch["noise_model"]
    )
    assert torch.isfinite(mean).all()
    errors = (
        preliminary.loss(network(), changed, 0.0),
        preliminary.loss(network(), changed | {"valid": torch.ones_like(batch["valid"])}, 0.0),
    )
    assert 100 * errors[0] < errors[1]


def test_padding_changes_the_denoised_image_only_near_it():
    blind, noise_model = network(), PoissonGaussian(0.1)
    noisy = noise_model.sample(scene(50, 61), generator=generator(5))
    padded = torch.cat([noisy, torch.full_like(noisy[..., :40], -20.0)], 3)
    alone, beside = (preliminary.denoise(blind, y, noise_model=noise_model)["denoised"] for y in (noisy, padded))
    far = noisy.shape[3] - reach(depth=1) - 11
    assert (
        far > 20
        and torch.allclose(alone[..., :far], beside[..., :far], atol=1e-4)
        and not torch.allclose(alone, beside[..., :61], atol=1e-2)
    )


def test_a_noise_model_without_noise_in_the_dark_keeps_the_likelihood_finite():
    batch = batch_of()
    noise_model = preliminary.tabulated(PoissonGaussian(0.0, gain=0.1), torch.tensor([0.0, 1.0]))
    batch |= {
        "noisy": batch["noisy"] * 0,
        "offset": batch["offset"] * 0 + 0.01,
        "noise_model": noise_model.expand(len(batch["noisy"]), -1),
    }
    assert torch.isfinite(preliminary.loss(network(), batch, 0.5))


def test_one_noisy_copy_is_enough_to_denoise():
    """On smooth scenes the error falls by at least 6 dB at every level, without the averages' help; the untrained
    network is worse than the noisy image.
    """
    torch.set_num_threads(1)
    clean, noisy, noise_models = noisy_set()
    blind = network(width=8)

    def gains():
        return [
            psnr_db(preliminary.denoise(blind, y, noise_model=noise_model)["denoised"], x) - psnr_db(y, x)
            for x, y, noise_model in zip(clean, noisy, noise_models, strict=True)
        ]

    assert min(gains()) < 0
    history = preliminary.train(
        blind, noisy, noise_models=noise_models, steps=100, fabric=loop.launch(threads=1), batch=4, patch=32, lr=3e-3
    )
    assert min(gains()) > 6 and len(history) == 100


def numbers(seed=0, shape=(2, 1, 5, 7)):
    draw = torch.Generator().manual_seed(seed)
    noisy, mean, sigma_mu, sigma_n = (torch.rand(shape, dtype=torch.float64, generator=draw) + 0.05 for _ in range(4))
    return noisy, mean, sigma_mu, sigma_n


def drawn(sigma_mu, sigma_n, count=60_000):
    draw = torch.Generator().manual_seed(1)
    mean, clean_from_mean, noise = (torch.randn(count, dtype=torch.float64, generator=draw) for _ in range(3))
    clean = mean + sigma_mu * clean_from_mean
    return clean, clean + sigma_n * noise, mean


@pytest.mark.parametrize("sigma_mu, sigma_n", [(0.3, 0.1), (0.05, 0.2), (0.2, 0.2)])
def test_the_posterior_s_sigma_is_the_error_it_makes(sigma_mu, sigma_n):
    clean, noisy, mean = drawn(sigma_mu, sigma_n)
    levels = {"sigma_mu": torch.tensor(sigma_mu), "sigma_n": torch.tensor(sigma_n)}
    denoised, sigma = fuse(noisy, mean, **levels)
    ratio = float((denoised - clean).square().mean().sqrt()) / float(sigma)
    assert abs(ratio - 1) < 5 / (2 * len(clean)) ** 0.5  # five standard errors of a standard deviation: 1.4 %
    planted, _ = fuse(noisy, mean, sigma_mu=2 * levels["sigma_mu"], sigma_n=levels["sigma_n"])
    # no other weights are as good
    assert float((planted - clean).square().mean().sqrt()) / float(sigma) - 1 > 5 / (2 * len(clean)) ** 0.5


def test_the_plain_likelihood_is_the_normal_density_up_to_its_constant():
    noisy, mean, sigma_mu, sigma_n = numbers()
    density = torch.distributions.Normal(mean, (sigma_mu**2 + sigma_n**2).sqrt()).log_prob(noisy)
    torch.testing.assert_close(
        negative_log_likelihood(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n), -density - 0.5 * math.log(2 * math.pi)
    )


def test_the_constrained_form_is_an_upper_bound():
    noisy, mean, sigma_mu, sigma_n = numbers(shape=(40, 1, 31, 17))
    sigmas = {"sigma_mu": sigma_mu, "sigma_n": sigma_n}
    assert (
        constrained_negative_log_likelihood(noisy, mean, **sigmas) > negative_log_likelihood(noisy, mean, **sigmas)
    ).all()


def optimum(likelihood, *, residual: float, sigma_n: float) -> float:
    """sigma_mu^2 that minimises the mean of a likelihood over pixels whose mean squared residual is `residual`."""
    noisy, mean = torch.tensor(residual**0.5, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    level = torch.tensor(sigma_n, dtype=torch.float64)

    def value(variance):
        return float(
            likelihood(noisy, mean, sigma_mu=torch.tensor(variance, dtype=torch.float64).sqrt(), sigma_n=level)
        )

    return float(minimize_scalar(value, bounds=(0, 10 * residual), method="bounded", options={"xatol": 1e-10}).x)


def test_without_noise_the_answer_is_the_noisy_image_and_with_a_sure_mean_the_mean():
    noisy, mean, sigma_mu, sigma_n = numbers()
    without_noise, first = fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=1e-9 * sigma_n)
    sure_mean, second = fuse(noisy, mean, sigma_mu=1e-9 * sigma_mu, sigma_n=sigma_n)
    # the other's share is at most (1e-9 * 21)^2 < 1e-15
    torch.testing.assert_close((without_noise, sure_mean), (noisy, mean), rtol=0, atol=1e-14)
    assert max(first.max(), second.max()) < 2e-9


@pytest.mark.parametrize("residual, sigma_n", [(0.09, 0.1), (0.02, 0.1), (1.0, 0.3)])
def test_the_optimum_of_the_likelihood_is_the_true_spread_and_that_of_the_constrained_one_is_below(residual, sigma_n):
    # a minimum is found to about sqrt(2.2e-16) of its position
    true, level = residual - sigma_n**2, {"residual": residual, "sigma_n": sigma_n}
    assert optimum(negative_log_likelihood, **level) == pytest.approx(true, rel=1e-5)
    constrained = optimum(constrained_negative_log_likelihood, **level)
    assert constrained == pytest.approx((sigma_n**2 * residual) ** 0.5 - sigma_n**2, rel=1e-5)
    assert constrained < 0.8 * true
