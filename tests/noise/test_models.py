"""Noise models: moments and distributions against SciPy, fields against their correlation, and what is refused."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import signal, stats

from mptpn.filters import lagged
from mptpn.noise.models import MIN_POWER, CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian, Rician, Speckle
from mptpn.noise.photons import EMCCD
from mptpn.random import generator

NAN, INF = float("nan"), float("inf")
KNOTS = NoiseLevelFunction((0.1, 0.4, 1.0), (0.02, 0.05, 0.01))
LINE = PoissonGaussian(0.02, gain=0.05)
POINTWISE = [PoissonGaussian(0.1), LINE, KNOTS, Rician(0.2), Speckle(1.0), Speckle(4.5)]
DRAWS = 90_000

# no symmetry; its power spectrum is far above MIN_POWER
KERNEL = np.array([[0.0, 0.3, 0.1], [0.1, 1.0, -0.2], [0.4, 0.0, 0.0]])
LAGS = signal.correlate2d(KERNEL, KERNEL) / (KERNEL**2).sum()  # correlation of white noise filtered by it, [5, 5]
FIELD = CorrelatedGaussian(KNOTS, LAGS)
SKEWED = EMCCD(0.02, gain=0.03, black=0.05, read=0.3)
ALL = [LINE, KNOTS, Rician(0.2), Speckle(4.5), FIELD, SKEWED]
every_model = pytest.mark.parametrize("noise_model", ALL, ids=lambda noise_model: type(noise_model).__name__)


def in_scipy(noise_model, x):
    """The same distribution, written by others."""
    if isinstance(noise_model, PoissonGaussian):
        return stats.norm(x, np.sqrt(noise_model.gain * np.asarray(x) + noise_model.sigma**2))
    if isinstance(noise_model, Rician):
        return stats.rice(np.maximum(x, 0) / noise_model.sigma, scale=noise_model.sigma)
    if isinstance(noise_model, Speckle):
        return stats.gamma(noise_model.looks, scale=np.maximum(x, 0) / noise_model.looks)
    return stats.norm(x, np.sqrt(np.interp(x, noise_model.intensities, noise_model.variances)))


def numbers(*shape: int, key: int, low: float = 0.05, high: float = 1.2) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator(key), dtype=torch.float64)


@pytest.mark.parametrize("noise_model", POINTWISE, ids=str)
def test_mean_and_variance_are_those_of_scipy(noise_model):
    # inside and outside the knots, and on them
    x = torch.tensor([0.01, 0.1, 0.25, 0.4, 0.7, 1.0, 1.4, 3.0], dtype=torch.float64)
    mean, variance = in_scipy(noise_model, x.numpy()).stats("mv")
    np.testing.assert_allclose(noise_model.mean(x).numpy(), mean, rtol=1e-9)
    np.testing.assert_allclose(noise_model.variance(x).numpy(), variance, rtol=1e-9)
    # the planted fault: 2 % off
    assert not np.allclose(noise_model.scaled(1.01).variance(x).numpy(), variance, rtol=1e-2)


def test_the_gaussian_approximation_has_the_moments_of_poisson_plus_gaussian():
    """Photons / 20 are Poisson noise of gain 1/20."""
    photons, gain, sigma = 20 * 0.7, 1 / 20, 0.03
    mean, variance = stats.poisson(photons).stats("mv")
    ours = PoissonGaussian(sigma, gain=gain).variance(torch.tensor(0.7, dtype=torch.float64))
    assert float(ours) == pytest.approx(gain**2 * variance + sigma**2, rel=1e-12) and gain * mean == pytest.approx(0.7)


@pytest.mark.parametrize("ratio", [30.0, 49.9, 50.1, 1e4])
def test_the_variance_of_rician_noise_far_from_the_dark_is_its_series(ratio):
    """It changes to the series at clean / sigma = 50; the next term, 9 / (8 ratio**6), is below 2e-9 from 30 on."""
    variance = float(Rician(1 / ratio).variance(torch.ones((), dtype=torch.float64))) * ratio**2
    assert variance == pytest.approx(1 - 1 / (2 * ratio**2) - 1 / (2 * ratio**4), abs=5e-9)


def spread_is(noise_model, claimed, *, intensity: float) -> bool:
    """Whether DRAWS samples have the mean and variance of a noise model, within five standard errors: sqrt(1 / n) and
    sqrt((kurtosis - 1) / n), at most 0.9 %.
    """
    clean = torch.full((1, 1, 300, DRAWS // 300), intensity, dtype=torch.float64)
    z = (noise_model.sample(clean, generator=generator(3)) - claimed.mean(clean)) / claimed.variance(clean).sqrt()
    error = ((2 + float(in_scipy(claimed, intensity).stats("k"))) / DRAWS) ** 0.5
    return abs(float(z.mean())) < 5 / DRAWS**0.5 and abs(float(z.square().mean()) - 1) < 5 * error


@pytest.mark.parametrize("noise_model", POINTWISE, ids=str)
@pytest.mark.parametrize("intensity", [0.02, 1.0])
def test_samples_have_the_mean_and_variance_of_their_model(noise_model, intensity):
    assert spread_is(noise_model, noise_model, intensity=intensity)
    assert not spread_is(noise_model, noise_model.scaled(1.05), intensity=intensity)  # the planted fault: 10 % off


@pytest.mark.parametrize("noise_model", POINTWISE, ids=str)
def test_samples_have_the_distribution_of_scipy(noise_model):
    clean = torch.full((1, 1, 300, DRAWS // 300), 0.3, dtype=torch.float64)
    values = noise_model.sample(clean, generator=generator(4)).flatten().numpy()
    assert stats.kstest(values, in_scipy(noise_model, 0.3).cdf).pvalue > 1e-6
    assert stats.kstest(values, in_scipy(noise_model.scaled(1.1), 0.3).cdf).pvalue < 1e-6  # the planted fault


@pytest.mark.parametrize("noise_model", [Rician(0.2), Speckle(3.0)], ids=str)
def test_negative_intensities_are_dark(noise_model):
    dark, negative = torch.zeros(1, 1, 5, 7), -numbers(1, 1, 5, 7, key=5).float()
    for of in (noise_model.mean, noise_model.variance, lambda clean: noise_model.sample(clean, generator=generator(6))):
        assert torch.equal(of(negative), of(dark)) and not torch.equal(of(-negative), of(dark))


def test_below_the_black_level_the_variance_is_that_of_black():
    variance = PoissonGaussian(0.1, gain=1.0, black=0.5).variance(torch.tensor([-3.0, 0.5, 1.5]))
    assert variance.tolist() == pytest.approx([0.01, 0.01, 1.01])


def test_sampling_never_clips_and_keeps_the_clean_image():
    clean = torch.zeros(1, 1, 31, 17)
    noisy = PoissonGaussian(0.5).sample(clean, generator=generator(0))
    assert noisy.min() < 0 and not clean.any() and noisy.dtype == clean.dtype


def torus_sample(noise_model: CorrelatedGaussian, clean: torch.Tensor) -> torch.Tensor:
    """Noise whose opposite rims are neighbours: what a field would be without room around it."""
    white = torch.randn(clean.shape, generator=generator(9), dtype=clean.dtype)
    field = torch.fft.ifft2(torch.fft.fft2(white) * noise_model.spectrum(*clean.shape[2:]).sqrt()).real
    return clean + noise_model.variance(clean).sqrt() * field


def correlation_is(field: torch.Tensor, lags: np.ndarray, *, lag: tuple[int, int]) -> bool:
    """Whether a field [B, C, H, W] of variance 1 correlates as claimed at one lag, within five standard errors.

    A mean of n products has variance at most 2 sum(lags**2) / n (Bartlett, and Cauchy and Schwarz): 0.3 % for 400,000
    pixels.
    """
    first, second = lagged(field, *lag)
    inside = max(map(abs, lag)) <= len(lags) // 2
    claimed = lags[tuple(len(lags) // 2 + step for step in lag)] if inside else 0.0
    return abs(float((first * second).mean()) - claimed) < 5 * (2 * (lags**2).sum() / first.numel()) ** 0.5


@pytest.mark.parametrize("height, width", [(37, 23), (6, 41), (2, 1)])
def test_a_field_has_the_planted_correlation_and_variance_one(height, width):
    clean = numbers(1, 2, height, width, key=10).expand(200_000 // (height * width), -1, -1, -1)
    field = (FIELD.sample(clean, generator=generator(11)) - clean) / KNOTS.variance(clean).sqrt()
    lags = [(row, col) for row, col in product(range(-3, 4), repeat=2) if abs(row) < height and abs(col) < width]
    assert (0, 0) in lags and all(correlation_is(field, LAGS, lag=lag) for lag in lags)
    assert not all(correlation_is(field, LAGS * 1.03, lag=lag) for lag in lags)  # the planted faults: variance 3 % off,
    assert width == 1 or not all(correlation_is(field, LAGS.T, lag=lag) for lag in lags)  # and rows taken for columns


@pytest.mark.parametrize("lag", [(6, 0), (0, 10)], ids=str)
def test_opposite_rims_do_not_correlate(lag):
    clean = torch.full((6000, 1, 7, 11), 0.3, dtype=torch.float64)
    noisy = FIELD.sample(clean, generator=generator(12)), torus_sample(FIELD, clean)
    rims = [(one - clean) / KNOTS.variance(clean).sqrt() for one in noisy]
    # the planted fault: no room around the image
    assert [correlation_is(rim, LAGS, lag=lag) for rim in rims] == [True, False]


def test_channels_and_images_have_fields_of_their_own():
    noisy = FIELD.sample(torch.zeros(2, 2, 201, 199, dtype=torch.float64), generator=generator(13)) / 0.02**0.5
    fields = noisy.flatten(0, 1).flatten(1)
    correlation = fields @ fields.T / fields.shape[1]
    # see correlation_is
    assert float((correlation - torch.eye(4)).abs().max()) < 5 * (2 * (LAGS**2).sum() / fields.shape[1]) ** 0.5


def test_an_impossible_correlation_is_brought_to_a_possible_one_of_variance_one():
    """All nine lags 0.9 would need negative power; raised to MIN_POWER alone, the variance would be well above 1."""
    lags = torch.full((3, 3), 0.9)
    lags[1, 1] = 1
    noise_model = CorrelatedGaussian(PoissonGaussian(1.0), lags)
    asked = np.fft.fft2(np.pad(lags.numpy(), ((0, 29), (0, 43)))) * np.exp(
        2j * np.pi * (np.fft.fftfreq(32)[:, None] + np.fft.fftfreq(46))
    )
    possible = np.maximum(asked.real, MIN_POWER)
    np.testing.assert_allclose(noise_model.spectrum(32, 46).numpy(), possible / possible.mean(), rtol=1e-6)
    squares = noise_model.sample(torch.zeros(300, 1, 31, 45, dtype=torch.float64), generator=generator(18)).square()
    # of a mean of n squares, Bartlett; here 0.8 %
    error = (2 * float(noise_model.spectrum(32, 46).square().mean()) / squares.numel()) ** 0.5
    assert asked.real.min() < -0.1 and abs(float(squares.mean()) - 1) < 5 * error < possible.mean() - 1


def test_a_correlated_model_names_its_parts_and_others_are_their_own():
    assert FIELD.correlated and FIELD.pointwise is KNOTS and FIELD.label == f"correlated {KNOTS.label}"
    assert not KNOTS.correlated and KNOTS.pointwise is KNOTS and KNOTS.correlation == ((1.0,),)
    assert FIELD.zero_mean_gaussian and not CorrelatedGaussian(Speckle(2.0), LAGS).zero_mean_gaussian


def test_a_correlated_model_has_no_correlation_by_default():
    with pytest.raises(TypeError, match="correlation"):
        CorrelatedGaussian(KNOTS)


@every_model
def test_scaled_by_two_doubles_the_standard_deviation(noise_model):
    """Rician noise is doubled with its image: its spread depends on clean / sigma."""
    clean = numbers(2, 3, 7, 5, key=23)
    at = 2 * clean if isinstance(noise_model, Rician) else clean
    torch.testing.assert_close(noise_model.scaled(2).variance(at), 4 * noise_model.variance(clean), rtol=1e-12, atol=0)
    assert type(noise_model.scaled(2)) is type(noise_model) and noise_model.scaled(2) != noise_model
    assert noise_model.scaled(1.0) == noise_model and hash(noise_model.scaled(1.0)) == hash(noise_model)


@every_model
def test_in_another_unit_the_noise_is_that_of_the_image_in_this_unit(noise_model):
    """A magnitude and speckle have a zero of their own."""
    zero = 0.0 if isinstance(noise_model, Rician | Speckle) else -4.0
    clean = numbers(2, 3, 7, 5, key=24)
    noisy, moved = (
        model.sample(x, generator=generator(24))
        for model, x in ((noise_model, clean), (noise_model.in_unit(10.0, zero=zero), 10 * clean + zero))
    )
    torch.testing.assert_close(moved, 10 * noisy + zero, rtol=1e-9, atol=1e-9)


@every_model
def test_float32_is_float64_rounded(noise_model):
    """Roundings of 6e-8 in terms of size below 100."""
    clean = numbers(2, 3, 7, 5, key=25)
    for of in (noise_model.mean, noise_model.variance):
        torch.testing.assert_close(of(clean.float()).double(), of(clean), rtol=1e-5, atol=1e-5)
    drawn = noise_model.sample(clean.float(), generator=generator(27))
    assert noise_model.variance(clean.float()).dtype == drawn.dtype == torch.float32
    assert drawn.shape == noise_model.variance(clean).shape == clean.shape


@every_model
def test_samples_are_a_function_of_the_generator_alone_and_leave_clean_as_it_was(noise_model):
    torch.manual_seed(5)
    state, clean = torch.get_rng_state(), numbers(1, 3, 7, 5, key=28)
    before = clean.clone()
    first, again, other = (noise_model.sample(clean, generator=generator(key)) for key in (29, 29, 30))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(clean, before) and torch.equal(state, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_model
def test_noise_is_drawn_on_the_device_of_clean(noise_model):
    noisy = noise_model.sample(numbers(2, 3, 7, 5, key=31).cuda(), generator=torch.Generator("cuda").manual_seed(0))
    assert noisy.is_cuda


@pytest.mark.parametrize(
    "make, says",
    [
        *[
            (lambda numbers=numbers: PoissonGaussian(numbers[0], gain=numbers[1]), f"sigma {numbers[0]} and gain")
            for numbers in ((-0.1, 0.0), (0.1, -1.0), (0.0, 0.0), (NAN, 0.0), (0.1, INF))
        ],
        (lambda: NoiseLevelFunction((0.5,), (0.1,)), r"\(0\.5,\)"),
        (lambda: NoiseLevelFunction((0.5, 0.2), (0.1, 0.1)), r"\(0\.5, 0\.2\)"),
        (lambda: NoiseLevelFunction((0.5, NAN), (0.1, 0.1)), r"\(0\.5, nan\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (0.1, 0.0)), r"\(0\.1, 0\.0\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (0.1, 0.1, 0.3)), r"\(0\.1, 0\.1, 0\.3\)"),
        *[(lambda sigma=sigma: Rician(sigma), f"sigma {sigma}") for sigma in (0.0, NAN)],
        *[(lambda looks=looks: Speckle(looks), f"looks {looks}") for looks in (0, -2.5, INF)],
        *[
            (lambda noise_model=noise_model, factor=factor: noise_model.scaled(factor), str(factor))
            for noise_model in (KNOTS, Speckle(1.0), FIELD)
            for factor in (0, -2.0, NAN)
        ],
        (lambda: Rician(0.1).scaled(-2.0), "sigma -0.2"),
        (lambda: CorrelatedGaussian(KNOTS, ((1.0, 0.25), (0.25, 1.0))), r"\[0\.25, 1\.0\]"),  # even side
        (lambda: CorrelatedGaussian(KNOTS, ((0.25, 1.0, 0.25),)), r"\[0\.25, 1\.0, 0\.25\]\] must be square"),
        (lambda: CorrelatedGaussian(KNOTS, ((0.75,),)), r"\[0\.75\]"),  # not 1 in its centre
        (lambda: CorrelatedGaussian(KNOTS, ((NAN,),)), r"\[nan\]\] must be square and finite"),
        # not equal at opposite lags
        (lambda: CorrelatedGaussian(KNOTS, ((0, 0, 0), (0.5, 1, 0.25), (0, 0, 0))), r"\[0\.5, 1\.0, 0\.25\]"),
        (lambda: CorrelatedGaussian(KNOTS, ((0, 0, 0), (1.5, 1, 1.5), (0, 0, 0))), r"\[1\.5, 1\.0, 1\.5\]"),  # above 1
        (lambda: CorrelatedGaussian(Rician(0.125), ((1.0,),)), "sigma=0.125"),
    ],
)
def test_what_makes_no_noise_is_refused_with_its_value(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_numbers_in_any_sequence_make_the_same_model():
    same = NoiseLevelFunction(np.array(KNOTS.intensities), list(KNOTS.variances))
    assert same == KNOTS and hash(same) == hash(KNOTS)
    for lags in (torch.tensor(LAGS), LAGS, LAGS.tolist()):
        assert CorrelatedGaussian(KNOTS, lags) == FIELD
