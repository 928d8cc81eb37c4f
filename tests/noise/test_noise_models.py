"""Noise models: moments and densities against SciPy, fields against the correlation that was asked for, and what is
refused.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy import signal, stats

from mptpn.noise.models import (
    FLOOR,
    CorrelatedGaussian,
    MultivariateGaussian,
    NoiseLevelFunction,
    PoissonGaussian,
    Rician,
    Speckle,
)
from mptpn.random import generator

NAN, INF = float("nan"), float("inf")
KNOTS = NoiseLevelFunction((0.1, 0.4, 1.0), (0.02, 0.05, 0.01))
POINTWISE = [KNOTS, Rician(0.2), Speckle(1.0), Speckle(4.5)]
DRAWS = 90_000

# no symmetry; its power spectrum is far above FLOOR
KERNEL = np.array([[0.0, 0.3, 0.1], [0.1, 1.0, -0.2], [0.4, 0.0, 0.0]])
LAGS = signal.correlate2d(KERNEL, KERNEL) / (KERNEL**2).sum()  # correlation of white noise filtered by it, [5, 5]
FIELD = CorrelatedGaussian(KNOTS, LAGS)
COLOUR = MultivariateGaussian(((0.04, 0.01, -0.015), (0.01, 0.02, 0.0), (-0.015, 0.0, 0.03)))
ALL = [*POINTWISE, FIELD, COLOUR]


def in_scipy(noise_model, x):
    """The same distribution, written by others."""
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


@pytest.mark.parametrize("noise_model", [*POINTWISE, Speckle(0.5)], ids=str)
def test_log_likelihood_is_the_density_of_scipy(noise_model):
    clean, noisy = numbers(2, 3, 5, 7, key=1), numbers(2, 3, 5, 7, key=2)
    np.testing.assert_allclose(
        noise_model.log_likelihood(noisy, clean).numpy(),
        in_scipy(noise_model, clean.numpy()).logpdf(noisy.numpy()),
        rtol=1e-9,
        atol=1e-11,
    )


def moments(noise_model, x: float, *, claimed) -> tuple[float, float, float]:
    """Integral, mean error and relative variance error of a density over 14 deviations, by Gauss and Legendre's rule of
    400 nodes.
    """
    clean = torch.tensor(x, dtype=torch.float64)
    mean, deviation = float(claimed.mean(clean)), float(claimed.variance(clean)) ** 0.5
    low, high = mean - 14 * deviation, mean + 14 * deviation
    low = low if isinstance(noise_model, NoiseLevelFunction) else max(low, 0.0)
    if isinstance(noise_model, Speckle):
        high = mean + 40 * deviation  # an exponential tail: exp(-40) is left out
    nodes, weights = np.polynomial.legendre.leggauss(400)
    y = low + (high - low) * (nodes + 1) / 2
    density = (
        np.exp(noise_model.log_likelihood(torch.tensor(y), clean.expand(400)).numpy()) * weights * (high - low) / 2
    )
    return density.sum() - 1, (density @ y - mean) / deviation, density @ (y - mean) ** 2 / deviation**2 - 1


@pytest.mark.parametrize("noise_model", [*POINTWISE, Rician(0.0199), Rician(0.0201), Rician(1e-4)], ids=str)
@pytest.mark.parametrize("intensity", [0.02, 0.3, 1.0])
def test_density_integrates_to_one_and_has_the_mean_and_variance_of_its_law(noise_model, intensity):
    """Rician(0.02) at 1.0 is where the variance changes to its series; the tolerance is that of an integral of 400
    numbers near 10,000 deviations.
    """
    assert np.abs(moments(noise_model, intensity, claimed=noise_model)).max() < 1e-8
    assert np.abs(moments(noise_model, intensity, claimed=noise_model.scaled(1.01)))[2] > 1e-2  # the planted fault


def spread_is(noise_model, claimed, *, intensity: float) -> bool:
    """Whether DRAWS samples have the mean and variance of a noise model, within five standard errors: sqrt(1 / n) and
    sqrt((kurtosis - 1) / n), at most 0.9 %.
    """
    clean = torch.full((1, 1, 300, DRAWS // 300), intensity, dtype=torch.float64)
    z = (noise_model.sample(clean, generator=generator(3)) - claimed.mean(clean)) / claimed.variance(clean).sqrt()
    kurtosis = 3 + float(in_scipy(claimed, intensity).stats("k"))
    return (
        abs(float(z.mean())) < 5 / DRAWS**0.5
        and abs(float(z.square().mean()) - 1) < 5 * ((kurtosis - 1) / DRAWS) ** 0.5
    )


@pytest.mark.parametrize("noise_model", POINTWISE, ids=str)
@pytest.mark.parametrize("intensity", [0.02, 0.3, 1.0])
def test_samples_have_the_mean_and_variance_of_their_law(noise_model, intensity):
    assert spread_is(noise_model, noise_model, intensity=intensity)
    # the planted fault: variance 10 % off
    assert not spread_is(noise_model, noise_model.scaled(1.05), intensity=intensity)


@pytest.mark.parametrize("noise_model", POINTWISE, ids=str)
def test_samples_have_the_distribution_of_scipy(noise_model):
    values = (
        noise_model.sample(torch.full((1, 1, 300, DRAWS // 300), 0.3, dtype=torch.float64), generator=generator(4))
        .flatten()
        .numpy()
    )
    assert stats.kstest(values, in_scipy(noise_model, 0.3).cdf).pvalue > 1e-6
    assert stats.kstest(values, in_scipy(noise_model.scaled(1.1), 0.3).cdf).pvalue < 1e-6  # the planted fault


@pytest.mark.parametrize("noise_model", [Rician(0.2), Speckle(3.0)], ids=str)
def test_negative_intensities_are_dark(noise_model):
    dark, negative = torch.zeros(1, 1, 5, 7), -numbers(1, 1, 5, 7, key=5).float()
    for of in (noise_model.mean, noise_model.variance, lambda clean: noise_model.sample(clean, generator=generator(6))):
        assert torch.equal(of(negative), of(dark)) and not torch.equal(of(-negative), of(dark))


def test_rician_density_survives_a_high_signal_in_float32():
    """At clean / sigma = 1000 the Bessel function itself overflows; ours errs by a few roundings of terms of size 13,
    each 1e-6.
    """
    clean = 1 + 0.1 * numbers(1, 1, 31, 17, key=7).float()
    noisy = Rician(1e-3).sample(clean, generator=generator(8))
    assert torch.special.i0(noisy * clean / 1e-6).isinf().all()
    error = Rician(1e-3).log_likelihood(noisy, clean) - Rician(1e-3).log_likelihood(noisy.double(), clean.double())
    assert float(error.abs().max()) < 1e-5


def test_what_cannot_be_has_minus_infinite_log_likelihood():
    y = torch.tensor([-0.1, 0.0, 0.3])
    assert Rician(0.2).log_likelihood(y, torch.tensor(0.3)).isinf().tolist() == [True, True, False]
    assert Speckle(1.0).log_likelihood(y, torch.tensor(0.3)).isinf().tolist() == [True, False, False]
    assert (Speckle(1.0).log_likelihood(y, torch.tensor([0.3, 0.0, -0.3])) == -math.inf).all()


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
    (row, col), (height, width), radius = lag, field.shape[2:], len(lags) // 2
    first = field[:, :, max(0, -row) : height - max(0, row), max(0, -col) : width - max(0, col)]
    second = field[:, :, max(0, row) : height + min(0, row), max(0, col) : width + min(0, col)]
    claimed = lags[radius + row, radius + col] if max(abs(row), abs(col)) <= radius else 0.0
    return abs(float((first * second).mean()) - claimed) < 5 * (2 * (lags**2).sum() / first.numel()) ** 0.5


@pytest.mark.parametrize("height, width", [(37, 23), (6, 41), (2, 1)])
def test_field_has_the_planted_correlation_and_variance_one(height, width):
    clean = numbers(1, 2, height, width, key=10).expand(200_000 // (height * width), -1, -1, -1)
    field = (FIELD.sample(clean, generator=generator(11)) - clean) / KNOTS.variance(clean).sqrt()
    lags = [(row, col) for row, col in product(range(-3, 4), repeat=2) if abs(row) < height and abs(col) < width]
    assert (0, 0) in lags and all(correlation_is(field, LAGS, lag=lag) for lag in lags)
    assert not all(correlation_is(field, LAGS * 1.03, lag=lag) for lag in lags)  # the planted faults: variance 3 % off,
    assert width == 1 or not all(correlation_is(field, LAGS.T, lag=lag) for lag in lags)  # and rows taken for columns


@pytest.mark.parametrize("lag", [(6, 0), (0, 10)], ids=str)
def test_opposite_rims_do_not_correlate(lag):
    clean = torch.full((6000, 1, 7, 11), 0.3, dtype=torch.float64)
    rims = [
        ((noisy - clean) / KNOTS.variance(clean).sqrt())
        for noisy in (FIELD.sample(clean, generator=generator(12)), torus_sample(FIELD, clean))
    ]
    # the planted fault: no room around the image
    assert [correlation_is(rim, LAGS, lag=lag) for rim in rims] == [True, False]


def test_channels_and_images_have_fields_of_their_own():
    noisy = FIELD.sample(torch.zeros(2, 2, 201, 199, dtype=torch.float64), generator=generator(13)) / 0.02**0.5
    fields = noisy.flatten(0, 1).flatten(1)
    correlation = fields @ fields.T / fields.shape[1]
    # see correlation_is
    assert float((correlation - torch.eye(4)).abs().max()) < 5 * (2 * (LAGS**2).sum() / fields.shape[1]) ** 0.5


def torus_covariance(lags: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Covariance of all pixels of a torus, pixel by pixel: the definition."""
    (height, width), radius = deviation.shape, len(lags) // 2
    pixels = list(product(range(height), range(width)))
    covariance = np.zeros((len(pixels), len(pixels)))
    for (i, (a, b)), row, col in product(enumerate(pixels), range(-radius, radius + 1), range(-radius, radius + 1)):
        j = pixels.index(((a + row) % height, (b + col) % width))
        covariance[i, j] += lags[radius + row, radius + col] * deviation[a, b] * deviation.flat[j]
    return covariance


@pytest.mark.parametrize(
    "lags", [[[0.1, 0.3, 0.0], [0.2, 1.0, 0.2], [0.0, 0.3, 0.1]], LAGS.tolist()], ids=["3x3", "5x5"]
)
def test_log_likelihood_of_a_field_is_the_density_of_scipy_on_a_torus(lags):
    """5 x 4 pixels: a map of 5 x 5 reaches around it."""
    noise_model, clean, noisy = (
        CorrelatedGaussian(KNOTS, lags),
        numbers(2, 3, 5, 4, key=14),
        numbers(2, 3, 5, 4, key=15),
    )
    deviation = np.sqrt(np.interp(clean.numpy(), KNOTS.intensities, KNOTS.variances))

    def total(image: int, lags: np.ndarray) -> float:
        residual = (noisy - clean).numpy()[image].reshape(3, 20)
        return sum(
            stats.multivariate_normal.logpdf(residual[c], cov=torus_covariance(lags, deviation[image, c]))
            for c in range(3)
        )

    ours = noise_model.log_likelihood(noisy, clean).numpy()
    np.testing.assert_allclose(ours, [total(image, np.array(lags)) for image in range(2)], rtol=1e-9)
    assert not np.allclose(ours, [total(image, np.array(lags).T) for image in range(2)], rtol=1e-3)  # the planted fault


def test_a_field_without_correlation_has_the_density_of_its_pixels():
    clean, noisy = numbers(3, 2, 7, 5, key=16).float(), numbers(3, 2, 7, 5, key=17).float()
    for noise_model in (KNOTS, PoissonGaussian(0.1, gain=0.2)):
        whole = CorrelatedGaussian(noise_model, ((1.0,),)).log_likelihood(noisy, clean)
        # 70 float32 roundings
        np.testing.assert_allclose(
            whole.numpy(), noise_model.log_likelihood(noisy, clean).double().sum(dim=(1, 2, 3)).numpy(), rtol=1e-5
        )


def test_an_impossible_correlation_is_brought_to_a_possible_one_of_variance_one():
    """All nine lags 0.9 would need negative power; cut at the floor alone, the variance would be well above 1."""
    lags = torch.full((3, 3), 0.9)
    lags[1, 1] = 1
    noise_model, clean = (
        CorrelatedGaussian(PoissonGaussian(1.0), lags),
        torch.zeros(300, 1, 31, 45, dtype=torch.float64),
    )
    asked = np.fft.fft2(np.pad(lags.numpy(), ((0, 29), (0, 43)))) * np.exp(
        2j * np.pi * (np.fft.fftfreq(32)[:, None] + np.fft.fftfreq(46))
    )
    possible = np.maximum(asked.real, FLOOR)
    np.testing.assert_allclose(noise_model.spectrum(32, 46).numpy(), possible / possible.mean(), rtol=1e-6)
    squares = noise_model.sample(clean, generator=generator(18)).square()
    # of a mean of n squares, Bartlett; here 0.8 %
    error = (2 * float(noise_model.spectrum(32, 46).square().mean()) / squares.numel()) ** 0.5
    assert asked.real.min() < -0.1 and abs(float(squares.mean()) - 1) < 5 * error < possible.mean() - 1


def test_colour_noise_has_the_density_of_scipy_at_each_pixel():
    clean, noisy = numbers(2, 3, 5, 7, key=19), numbers(2, 3, 5, 7, key=20)
    expected = stats.multivariate_normal.logpdf((noisy - clean).movedim(1, -1).numpy(), cov=np.array(COLOUR.covariance))
    np.testing.assert_allclose(COLOUR.log_likelihood(noisy, clean)[:, 0].numpy(), expected, rtol=1e-9)
    # the planted fault
    assert not np.allclose(COLOUR.scaled(1.01).log_likelihood(noisy, clean)[:, 0].numpy(), expected, rtol=1e-3)


def test_sampled_colours_have_the_covariance():
    """Entry ij of a covariance of n vectors has standard error sqrt((S_ii S_jj + S_ij**2) / n); five of them, n =
    80,000.
    """
    clean = numbers(2, 3, 200, 200, key=21)
    residual = (COLOUR.sample(clean, generator=generator(22)) - clean).movedim(1, -1).reshape(-1, 3).numpy()
    expected = np.array(COLOUR.covariance)
    error = np.sqrt((np.outer(expected.diagonal(), expected.diagonal()) + expected**2) / len(residual))
    measured = residual.T @ residual / len(residual)
    assert (np.abs(measured - expected) < 5 * error).all() and (
        np.abs(measured - np.diag(expected.diagonal())) > 5 * error
    ).any()
    assert COLOUR.variance(clean).shape == clean.shape and COLOUR.variance(clean)[1, :, 3, 4].tolist() == pytest.approx(
        expected.diagonal()
    )


@pytest.mark.parametrize("noise_model", ALL, ids=lambda noise_model: type(noise_model).__name__)
def test_scaled_by_two_doubles_the_standard_deviation(noise_model):
    """Rician noise is doubled with its image: its spread depends on clean / sigma."""
    clean = numbers(2, 3, 7, 5, key=23)
    at = 2 * clean if isinstance(noise_model, Rician) else clean
    torch.testing.assert_close(noise_model.scaled(2).variance(at), 4 * noise_model.variance(clean), rtol=1e-12, atol=0)
    if not isinstance(noise_model, Speckle):  # another shape is another distribution, not the same draws doubled
        once, twice = (
            noise_model.sample(clean, generator=generator(24)) - clean,
            noise_model.scaled(2).sample(at, generator=generator(24)) - at,
        )
        torch.testing.assert_close(twice, 2 * once, rtol=1e-9, atol=1e-12)
    assert (
        type(noise_model.scaled(2)) is type(noise_model)
        and noise_model.scaled(1.0) == noise_model
        and noise_model.scaled(2) != noise_model
        and hash(noise_model.scaled(1.0)) == hash(noise_model)
    )


@pytest.mark.parametrize("noise_model", ALL, ids=lambda noise_model: type(noise_model).__name__)
def test_float32_is_float64_rounded(noise_model):
    """Roundings of 6e-8 in terms of size below 100."""
    clean, noisy = numbers(2, 3, 7, 5, key=25), numbers(2, 3, 7, 5, key=26)
    for of in (
        noise_model.mean,
        noise_model.variance,
        lambda image: noise_model.log_likelihood(noisy.to(image), image),
    ):
        single = of(clean.float())
        torch.testing.assert_close(single.double(), of(clean), rtol=1e-5, atol=1e-5)
    assert (
        noise_model.variance(clean.float()).dtype
        == noise_model.sample(clean.float(), generator=generator(27)).dtype
        == torch.float32
    )
    assert (
        noise_model.sample(clean.float(), generator=generator(27)).shape
        == noise_model.variance(clean).shape
        == clean.shape
    )


@pytest.mark.parametrize("noise_model", ALL, ids=lambda noise_model: type(noise_model).__name__)
def test_samples_are_a_function_of_the_generator_alone_and_leave_clean_as_it_was(noise_model):
    torch.manual_seed(5)
    state, clean = torch.get_rng_state(), numbers(1, 3, 7, 5, key=28)
    before = clean.clone()
    first, again, other = (noise_model.sample(clean, generator=generator(key)) for key in (29, 29, 30))
    assert (
        torch.equal(first, again)
        and not torch.equal(first, other)
        and torch.equal(clean, before)
        and torch.equal(state, torch.get_rng_state())
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("noise_model", ALL, ids=lambda noise_model: type(noise_model).__name__)
def test_noise_is_drawn_on_the_device_of_clean(noise_model):
    clean = numbers(2, 3, 7, 5, key=31).cuda()
    noisy = noise_model.sample(clean, generator=torch.Generator("cuda").manual_seed(0))
    assert noisy.is_cuda
    torch.testing.assert_close(
        noise_model.log_likelihood(noisy, clean).cpu(),
        noise_model.log_likelihood(noisy.cpu(), clean.cpu()),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: NoiseLevelFunction((0.5,), (0.1,)), r"\(0\.5,\)"),
        (lambda: NoiseLevelFunction((0.5, 0.2), (0.1, 0.1)), r"\(0\.5, 0\.2\)"),
        (lambda: NoiseLevelFunction((0.5, 0.5), (0.1, 0.1)), r"\(0\.5, 0\.5\)"),
        (lambda: NoiseLevelFunction((0.5, NAN), (0.1, 0.1)), r"\(0\.5, nan\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (0.1, 0.0)), r"\(0\.1, 0\.0\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (0.1, INF)), r"\(0\.1, inf\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (0.1, -0.2)), r"\(0\.1, -0\.2\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (NAN, 0.1)), r"\(nan, 0\.1\)"),
        (lambda: NoiseLevelFunction((0.5, 0.7), (0.1, 0.1, 0.3)), r"\(0\.1, 0\.1, 0\.3\)"),
        *[(lambda sigma=sigma: Rician(sigma), f"sigma {sigma}") for sigma in (0.0, -0.1, NAN, INF)],
        *[(lambda looks=looks: Speckle(looks), f"looks {looks}") for looks in (0, -2.5, NAN, INF)],
        *[
            (lambda noise_model=noise_model, factor=factor: noise_model.scaled(factor), str(factor))
            for noise_model in ALL
            for factor in (0, -2.0, NAN)
            if not isinstance(noise_model, Rician)
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
        (lambda: MultivariateGaussian(((1.0, 0.25),)), r"\[1\.0, 0\.25\]\] must be square"),
        (
            lambda: MultivariateGaussian(((1.0, NAN), (NAN, 1.0))),
            r"\[1\.0, nan\], \[nan, 1\.0\]\] must be square and finite",
        ),
        (lambda: MultivariateGaussian(((1.0, 0.25), (0.5, 1.0))), r"\[0\.5, 1\.0\]"),  # not symmetric
        (lambda: MultivariateGaussian(((1.0, 1.5), (1.5, 1.0))), r"\[1\.5, 1\.0\]"),  # not positive definite
        (lambda: MultivariateGaussian(((-1.0,),)), r"\[-1\.0\]"),
        (lambda: COLOUR.sample(torch.zeros(1, 1, 5, 7), generator=generator(0)), "1 channels .* covariance of 3"),
    ],
)
def test_what_makes_no_noise_is_refused_with_its_value(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    "kind, numbers",
    [(CorrelatedGaussian, ((0.0, 0.2, 0.0), (0.5, 1.0, 0.5), (0.0, 0.2, 0.0))), (MultivariateGaussian, ((2.0,),))],
)
def test_a_tensor_and_its_numbers_make_the_same_matrix(kind, numbers):
    first = (KNOTS,) if kind is CorrelatedGaussian else ()
    assert (
        kind(*first, torch.tensor(numbers, dtype=torch.float64))
        == kind(*first, numbers)
        == kind(*first, np.array(numbers))
    )


def test_knots_of_any_sequence_make_the_same_law():
    same = NoiseLevelFunction(np.array(KNOTS.intensities), list(KNOTS.variances))
    assert same == KNOTS and hash(same) == hash(KNOTS)
