"""Quality without truth: unbiased for any denoiser and noise model, exact where it can be, and honest about what it
does not know.
"""

import math
from itertools import count

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, median_filter
from scipy.stats import norm
from skimage.restoration import denoise_tv_chambolle
from torch import nn

from mptpn.inference.sure import estimated_psnr, sure
from mptpn.metrics import psnr_db
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian, Rician, Speckle
from mptpn.random import generator
from support import embedded

LEVELS = (10 / 255, 25 / 255, 50 / 255)
LINEAR = NoiseLevelFunction((0, 1), (0.01, 0.02))
TAPS = np.exp(-0.5 * (np.arange(-3, 4) / 1.0) ** 2)  # correlation of white noise that was blurred by 0.7 px
LAGS = torch.tensor(np.outer(TAPS, TAPS))


def noise_models(level: float) -> dict:
    white, dark = PoissonGaussian(level), PoissonGaussian(0.5 * level, gain=0.75 * level**2 / 0.4)
    return {"white": white, "Poisson-Gaussian": dark, "correlated": CorrelatedGaussian(white, LAGS)}


def on_arrays(function):
    """A NumPy filter as a function of [1, 1, H, W]."""
    return lambda noisy: torch.from_numpy(np.ascontiguousarray(function(noisy[0, 0].numpy()))).to(noisy)[None, None]


def filters(level: float) -> dict:
    width, side = (1.0, 3) if level < 0.06 else (1.6, 5)
    return {
        "Gaussian blur": on_arrays(lambda a: gaussian_filter(a, width)),
        "median": on_arrays(lambda a: median_filter(a, side)),
        "total variation": on_arrays(lambda a: denoise_tv_chambolle(a, weight=level, max_num_iter=50, eps=1e-9)),
    }


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Three convolutions, trained for a few seconds on photographs to remove white noise of any of the levels."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 12, 5, padding=2),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(12, 1, 5, padding=2),
    )
    photos = [image.pixels for image in embedded.natural("train")]
    adam, draw = torch.optim.Adam(layers.parameters(), lr=3e-3), generator(1)
    for step in range(150):
        photo = photos[step % len(photos)]
        top, left = (int(torch.randint(side - 64, (), generator=draw)) for side in photo.shape[2:])
        clean = photo[:, :, top : top + 64, left : left + 64] - 0.5
        noisy = PoissonGaussian(LEVELS[step % 3]).sample(clean, generator=draw)
        adam.zero_grad()
        (noisy + layers(noisy) - clean).square().mean().backward()
        adam.step()
    return layers.eval().requires_grad_(False)


def denoisers(level: float, network: nn.Module) -> dict:
    return filters(level) | {"network": lambda noisy: noisy + network(noisy - 0.5)}


def images(height: int, width: int) -> list[torch.Tensor]:
    """The last rows and columns of the medical test and validation images and of the natural validation images."""
    return [
        image.pixels[:, :, -height:, -width:]
        for image in (*embedded.medical("test"), *embedded.medical("val"), *embedded.natural("val"))
    ]


KERNEL = torch.tensor([[0.1, 0.0, 0.2], [0.3, 0.3, -0.1], [0.0, 0.3, -0.1]], dtype=torch.float64)  # |K|^2 = 0.34


def circular(noisy):
    return nn.functional.conv2d(nn.functional.pad(noisy, (1, 1, 1, 1), mode="circular"), KERNEL[None, None])


@pytest.mark.parametrize("kind", noise_models(0.1))
def test_a_linear_filter_has_the_risk_that_is_known_in_closed_form(kind):
    """|Ky - y|^2 - S(0) + 2 sum_k K(k) S(k): tr(S J) is the sum over the kernel's taps of the noise's covariance at
    their lags.
    """
    noise_model, clean = noise_models(0.1)[kind], embedded.medical("test")[2].pixels.double()[:, :, :101, :120]
    noisy = noise_model.sample(clean, generator=generator(2))
    variance = float(noise_model.variance(noisy.mean()))
    known = float((circular(noisy) - noisy).square().mean()) - variance + 2 * variance * float(KERNEL[1, 1])
    neighbours = 2 * variance * float((KERNEL * LAGS[2:5, 2:5]).sum() - KERNEL[1, 1]) if kind == "correlated" else 0.0
    # n' J n' of one draw has the variance 2 |J|^2 S(0)^2, |J|^2 = 0.34, for correlated noise at most 6.3 times that
    # (its largest power, 2 pi of white
    # noise's); five standard errors of the doubled mean of 20 draws; across the rims the filter is circular and the
    # noise is not: 2 % of the neighbours
    tolerance = 10 * variance * (
        2 * 0.34 * (6.3 if kind == "correlated" else 1) / (20 * clean.numel())
    ) ** 0.5 + 0.02 * abs(neighbours)
    estimate = sure(circular, noisy, noise_model=noise_model, generator=generator(3), draws=20)
    assert abs(estimate - known - neighbours) < tolerance
    if kind == "correlated":
        assert abs(estimate - known) > 2 * tolerance  # planted: what white noise of this level would give
    else:
        # planted: a level 10 % too high
        assert (
            abs(sure(circular, noisy, noise_model=noise_model.scaled(1.1), generator=generator(3), draws=20) - known)
            > tolerance
        )
    # linear: any step
    assert sure(circular, noisy, noise_model=noise_model, generator=generator(3), draws=20, step=1.0) == pytest.approx(
        estimate, rel=1e-9
    )


@pytest.mark.parametrize("step", [0.02, 0.05, 0.2])
def test_a_jump_is_seen_through_a_finite_step(step):
    """Keep y where |y| > t: n f(y) has expectation P(|y| > t) + 2 t p(t) at clean 0, the second part from the jumps,
    where f has no derivative.
    """
    level, threshold = 0.1, 0.15
    noisy = PoissonGaussian(level).sample(torch.zeros(1, 1, 500, 801, dtype=torch.float64), generator=generator(4))

    def keep(y):
        return y * (y.abs() > threshold)

    t = threshold / level
    trace = level**2 * (2 * norm.sf(t) + 2 * t * norm.pdf(t))
    misfit = float((keep(noisy) - noisy).square().mean())
    # jumps are met by a share `step` of the pixels, each worth 1 / step: 6 t p(t) / step in the variance of one pixel's
    # trace, and four standard errors;
    # the step's own bias is the change of the trace between noise sigma and sigma sqrt(1 + step^2), below step^2
    tolerance = 2 * level**2 * (4 * (6 * t * norm.pdf(t) / step / (4 * noisy.numel())) ** 0.5 + step**2)
    estimate = sure(keep, noisy, noise_model=PoissonGaussian(level), generator=generator(5), step=step)
    assert abs(estimate - (misfit - level**2 + 2 * trace)) < tolerance
    smooth = level**2 * 2 * norm.sf(t)  # what a derivative would see
    assert abs(estimate - (misfit - level**2 + 2 * smooth)) > 3 * tolerance


@pytest.mark.parametrize("kind", noise_models(0.1))
@pytest.mark.parametrize("level", LEVELS)
def test_the_estimate_is_the_true_psnr_within_a_third_of_a_decibel(level, kind, network):
    """Pooled over seven images, for each of four denoisers.

    The mean square of each noise is brought to its expectation: its chance, sqrt(2 / pixels) of the variance, would be
    7 % of the error at the highest level in these 210,000 pixels, 0.3 dB. What is left, 2 (tr(S J) - n^T (f - x)) /
    pixels, is 2 % to 3 % there and less elsewhere.
    """
    noise_model, seeds = noise_models(level)[kind], count()
    for name, denoise in denoisers(level, network).items():
        true, estimate, wrong = [], [], []
        for clean in images(201, 180):
            noise = noise_model.sample(clean, generator=generator(6, next(seeds))) - clean
            noisy = clean + noise * (noise_model.variance(clean).mean() / noise.square().mean()).sqrt()
            true.append(float((denoise(noisy) - clean).square().mean()))
            estimate.append(sure(denoise, noisy, noise_model=noise_model, generator=generator(7, next(seeds))))
            if name == "total variation":
                wrong.append(
                    sure(
                        denoise,
                        noisy,
                        noise_model=noise_model.scaled(0.8),
                        generator=generator(7, next(seeds)),
                        draws=1,
                    )
                )
        assert 10**-0.03 < np.mean(estimate) / np.mean(true) < 10**0.03, name
        # planted: a level 20 % too low
        assert name != "total variation" or not 10**-0.03 < np.mean(wrong) / np.mean(true) < 10**0.03


def test_the_step_hardly_matters(network):
    """From 0.02 to 0.1 of the noise the estimates of a ReLU network agree to 1 % of the noise's variance; so they do in
    float64, where nothing is rounded.
    """
    clean, noise_model = embedded.medical("test")[2].pixels, PoissonGaussian(LEVELS[1])
    denoise, noisy = denoisers(LEVELS[1], network)["network"], noise_model.sample(clean, generator=generator(8))
    steps = [
        sure(denoise, noisy, noise_model=noise_model, generator=generator(9), step=step) / noise_model.sigma**2
        for step in (0.02, 0.05, 0.1)
    ]
    assert max(steps) - min(steps) < 0.01
    rounded = [
        sure(denoise, noisy, noise_model=noise_model, generator=generator(9), step=step) / noise_model.sigma**2
        for step in (1e-7, 1e3)
    ]
    # steps that are too small (rounding) or too large (kinks)
    assert min(abs(value - steps[1]) for value in rounded) > 0.01


def test_neither_black_nor_a_biased_denoiser_biases_the_mean_variance():
    """At black half of the noise lies below it, where the noise model stops: at the noisy image the variance is 5 % too
    high; at its median 3 % too low.
    """
    noise_model, median = PoissonGaussian(0.02, gain=0.05), filters(LEVELS[1])["median"]
    clean = (embedded.medical("test")[0].pixels - 0.4).clamp_min(0)[:, :, 60:191, 60:220]
    errors, at_noisy, at_denoised, truth = [], [], [], float(noise_model.variance(clean).mean())
    for seed in range(12):
        noisy = noise_model.sample(clean, generator=generator(10, seed))
        chance = float((noisy - clean).square().mean()) - truth
        error = float((median(noisy) - clean).square().mean())
        errors.append(
            (sure(median, noisy, noise_model=noise_model, generator=generator(11, seed), draws=8) - chance - error)
            / truth
        )
        at_noisy.append(float(noise_model.variance(noisy).mean()) / truth - 1)
        at_denoised.append(float(noise_model.variance(median(noisy)).mean()) / truth - 1)
    standard_error = np.std(errors) / 12**0.5
    assert abs(np.mean(errors)) < 4 * standard_error < 0.02 < min(np.mean(at_noisy), -np.mean(at_denoised))


def scores(network, *, claimed, off):
    """(true PSNR, estimate, interval) of 126 noisy images, 2 of each of 7 images at 3 levels and 3 noise models; the
    level is off by a random error.
    """
    seeds, draw = count(), generator(12)
    for clean in images(97, 112):
        for level in LEVELS:
            for noise_model in noise_models(level).values():
                for name in ("Gaussian blur", "network"):
                    denoise, noisy = (
                        denoisers(level, network)[name],
                        noise_model.sample(clean, generator=generator(13, next(seeds))),
                    )
                    found = noise_model.scaled(1 + off * float(torch.randn((), generator=draw)))
                    estimate, interval = estimated_psnr(
                        denoise,
                        noisy,
                        noise_model=found,
                        level_error=claimed,
                        generator=generator(14, next(seeds)),
                        draws=1,
                    )
                    yield psnr_db(denoise(noisy), clean), estimate, interval


def held(found) -> float:
    return float(np.mean([low <= true <= high for true, _, (low, high) in found]))


@pytest.mark.parametrize("level_error", [0.02, 0.05])
def test_the_interval_holds_the_true_psnr_though_the_level_is_off(level_error, network):
    found = list(scores(network, claimed=level_error, off=level_error))
    assert held(found) >= 0.9
    assert all(low <= estimate <= high < math.inf for _, estimate, (low, high) in found)


def test_an_interval_that_trusts_a_wrong_level_is_caught(network):
    assert held(scores(network, claimed=0.0, off=0.05)) < 0.7


def test_with_a_known_level_the_interval_is_chance_alone_and_narrow(network):
    found = list(scores(network, claimed=0.0, off=0.0))
    assert held(found) >= 0.9
    assert np.median([high - low for _, _, (low, high) in found]) < 2.5  # dB, in images of 11,000 pixels


def test_detail_that_the_denoiser_takes_away_widens_the_interval():
    """Nearly all of the error of a blur under weak noise is lost detail; it meets the noise too, which the rehearsal,
    whose truth has lost it, cannot show.
    """
    noise_model, clean, found = PoissonGaussian(LEVELS[0]), embedded.natural("val")[0].pixels[:, :, -127:, -128:], []
    blur = filters(LEVELS[0])["Gaussian blur"]
    for seed in range(60):
        noisy = noise_model.sample(clean, generator=generator(22, seed))
        found.append(
            (
                psnr_db(blur(noisy), clean),
                *estimated_psnr(blur, noisy, noise_model=noise_model, level_error=0.0, generator=generator(23, seed)),
            )
        )
    assert held(found) >= 0.9


def test_a_negative_estimate_is_raised_to_what_the_denoiser_lets_through():
    """A flat image under a wide blur: 1 / (4 pi width^2) of the noise is left, 0.5 %, less than the chance of 2.6 % in
    3,000 pixels.
    """
    noise_model, clean, blur = (
        PoissonGaussian(0.1),
        torch.full((1, 1, 50, 59), 0.4),
        on_arrays(lambda a: gaussian_filter(a, 4.0, mode="wrap")),
    )
    noisy = [noise_model.sample(clean, generator=generator(15, seed)) for seed in range(20)]
    assert 3 < sum(sure(blur, y, noise_model=noise_model, generator=generator(16)) < 0 for y in noisy) < 17
    found = [
        (
            psnr_db(blur(y), clean),
            *estimated_psnr(blur, y, noise_model=noise_model, level_error=0.0, generator=generator(16)),
        )
        for y in noisy
    ]
    # 43 dB, and what 10 correlated cells of noise may add
    assert all(estimate < 48 for _, estimate, _ in found) and held(found) >= 0.9


def test_a_batch_has_the_mean_of_its_images(network):
    noise_model, clean = PoissonGaussian(0.1), torch.cat(images(97, 102))
    denoise, noisy = denoisers(0.1, network)["network"], noise_model.sample(clean, generator=generator(17))
    whole = sure(denoise, noisy, noise_model=noise_model, generator=generator(18), draws=16)
    single = np.mean(
        [
            sure(denoise, y[None], noise_model=noise_model, generator=generator(19, i), draws=16)
            for i, y in enumerate(noisy)
        ]
    )
    assert whole == pytest.approx(single, rel=0.02)  # the draws differ: 2 sqrt(2 tr(J J) / draws) / pixels


@pytest.mark.parametrize(
    "noise_model",
    [Speckle(4.0), Rician(0.1), CorrelatedGaussian(Speckle(4.0), LAGS)],
    ids=lambda noise_model: type(noise_model).__name__,
)
def test_noise_that_is_not_gaussian_is_refused(noise_model):
    with pytest.raises(ValueError, match=r"noise model (Speckle|Rician|Correlated).* must be Gaussian of mean 0"):
        sure(lambda y: y, torch.rand(1, 1, 9, 11), noise_model=noise_model, generator=generator(20))


@pytest.mark.parametrize(
    "wrong",
    [
        {"draws": 0},
        {"step": 0.0},
        {"level_error": -0.1},
        {"level_error": 0.6},
        {"level_error": math.nan},
        {"peak": 0.0},
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_with_its_value(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} {value}"):
        estimated_psnr(
            lambda y: y,
            torch.rand(1, 1, 9, 11),
            noise_model=LINEAR,
            generator=generator(21),
            **{"level_error": 0.0} | wrong,
        )
