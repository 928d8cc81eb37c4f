"""The report with the weights in the box: levels, noise models and correlations that were planted are found, what it is
unsure of it says.
"""

import math
import os
import re
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import autocorrelation, center_crop
from mptpn.networks.noise_level import FAR, LAGS, RADIUS, band_factors, pretrained_noise_level
from mptpn.noise import bands, fit
from mptpn.noise.correlation import near_by
from mptpn.noise.estimate import NoiseEstimate, blind_spot_half_size, estimate, levels_by_place
from mptpn.noise.fit import fit_noise_model
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian, Rician, Speckle
from mptpn.random import generator
from support import datasets, embedded

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("MPTPN_DATA") or ROOT.parent / "shared/data")
real = pytest.mark.skipif(
    not REAL.is_dir(), reason=f"the real images are not here: {REAL} (MPTPN_DATA, else ../shared/data) is no folder"
)
MEDICAL = {image.name: image.pixels for split in ("val", "test") for image in embedded.medical(split)}
EMBEDDED = MEDICAL | {image.name: image.pixels for image in embedded.natural("val")}
LEVELS = (15, 25, 50)  # gray levels of 255


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(REAL))


def says(found: NoiseEstimate, pattern: str) -> bool:
    return any(re.fullmatch(pattern, finding) for finding in found.findings)


def white(clean: Tensor, sigma: float, *, key: int = 0) -> Tensor:
    return clean + sigma * torch.randn(clean.shape, generator=generator(key, *clean.shape))


def waves(height: int, width: int) -> Tensor:
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (0.5 + 0.4 * torch.sin(rows / 25) * torch.cos(cols / 31))[None, None]


@cache
def of_white(name: str, level: int, factor: float = 1.0) -> NoiseEstimate:
    """Of an embedded image under white noise; factor changes the noise and not its pattern."""
    return estimate([white(EMBEDDED[name], factor * level / 255, key=level)])


@cache
def of_photographs(level: int) -> list[NoiseEstimate]:
    """Of every sixth image of BSD68 and Set12 under white noise."""
    photographs = [*datasets.awgn("bsd68")[::6], *datasets.awgn("set12")[::6]]
    return [estimate([white(image.pixels, level / 255, key=100 * level + i)]) for i, image in enumerate(photographs)]


@cache
def of_set12(which: int, level: int) -> NoiseEstimate:
    return estimate([white(datasets.awgn("set12")[which].pixels, level / 255, key=which)])


def off(found: NoiseEstimate, noise_model, *, shift: float = 0.0) -> float:
    """Mean over the bins of how far the level of the noise model that was found is from the true one, relative."""
    at = torch.tensor(found.intensity, dtype=torch.float64)
    return float(np.abs(np.sqrt(found.variance(at) / noise_model.variance(at - shift).numpy()) - 1).mean())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_hidden_level_is_found_on_images_that_are_in_the_box(name, level):
    """The stated error of a level has a floor of 1.5 %: 5 % is three of them. At 15 levels up to 2 % of what is found
    is in the pictures already.
    """
    assert 255 * of_white(name, level).sigma == pytest.approx(level, rel=0.05)


@pytest.mark.parametrize("level", LEVELS)
def test_the_mean_error_of_a_hidden_level_is_two_percent_at_most(level):
    assert np.mean([abs(255 * of_white(name, level).sigma / level - 1) for name in EMBEDDED]) < 0.02


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EMBEDDED)
def test_thirty_percent_more_noise_is_read_as_thirty_percent_more(name, level):
    """The same noise pattern, so that its chance cancels; what is left is structure, which counts for less beside more
    noise.
    """
    assert of_white(name, level, 1.3).sigma / of_white(name, level).sigma == pytest.approx(1.3, rel=0.02)


@real
@pytest.mark.parametrize("level", LEVELS)
def test_the_mean_error_on_set12_is_two_percent_at_most_at_every_level(level, data):
    """1.5, 0.8 and 0.6 % (notebook 06: 1.4, 0.7 and 0.5 % on BSD68). One image is all stripes (Barbara): taken for
    correlated noise it alone adds 0.9 %.
    """
    assert np.mean([abs(255 * of_set12(which, level).sigma / level - 1) for which in range(12)]) < 0.02


@real
def test_texture_is_not_taken_for_correlated_noise(data):
    assert not any("correlated" in of_set12(which, level).kind for which in range(12) for level in LEVELS)


@real
@pytest.mark.parametrize("level", LEVELS)
def test_weak_correlation_of_noise_is_found_on_photographs_and_their_level_with_it(level, data):
    """0.12 between neighbours, too little for a wider blind spot. Taken for white it reads 16 % too low, every one of
    12 images beyond the stated interval.
    """
    covariance = torch.zeros(7)
    covariance[2:5] = torch.tensor([0.12, 1.0, 0.12])
    noise_model = CorrelatedGaussian(PoissonGaussian(level / 255), torch.outer(covariance, covariance))
    found = [
        estimate([noise_model.sample(image.pixels, generator=generator(27, which, level))])
        for which, image in enumerate(datasets.awgn("set12")[:6])
    ]
    assert all(one.kind.startswith("correlated") for one in found)
    assert abs(np.mean([255 * one.sigma / level - 1 for one in found])) < 0.05
    assert sum(one.sigma_interval[0] < level / 255 < one.sigma_interval[1] for one in found) >= 5


def test_correlation_of_a_tenth_along_one_direction_is_found_in_a_set():
    """As OCT has it, down alone. The map differs from the planted one by less than 0.04 at every lag; taken for white,
    as of one image alone, the level reads 7 % too low.
    """
    correlation = torch.zeros(3, 3)
    correlation[:, 1] = torch.tensor([0.1, 1.0, 0.1])
    noise_model, clean = (
        CorrelatedGaussian(PoissonGaussian(0.1), correlation),
        [F.interpolate(image, scale_factor=2, mode="bicubic") for image in EMBEDDED.values()],
    )
    noisy = [noise_model.sample(image, generator=generator(28, number)) for number, image in enumerate(clean)]
    found = estimate(noisy[:3])
    assert found.kind.startswith("correlated") and found.half_size == (1, 0)
    assert float((found.correlation - F.pad(correlation, (2, 2, 2, 2))).abs().max()) < 0.04
    assert found.sigma == pytest.approx(0.1, rel=0.04)
    assert not estimate([white(image, 0.1, key=number) for number, image in enumerate(clean[:3])]).kind.startswith(
        "correlated"
    )


def of_photographs_in_the_box(levels) -> list[Tensor]:
    photographs = [image.pixels for split in ("train", "val", "test") for image in embedded.natural(split)]
    return [white(image, levels[i % len(levels)] / 255, key=i) for i, image in enumerate(photographs)]


@pytest.mark.parametrize(
    "correlation",
    [None, F.pad(torch.tensor([[0.2, 0.5, 0.2], [0.4, 1.0, 0.4], [0.2, 0.5, 0.2]]), (2,) * 4)],
    ids=["white", "correlated"],
)
def test_levels_by_place_are_relative_to_the_law_where_they_are_known(correlation):
    """Three squares of ten windows, at 1.5 times the noise model's level, at 0.5, and at a level that nobody knows."""
    noise_model = PoissonGaussian(0.1, gain=0.01)
    place, mean = torch.arange(30) // 10, torch.linspace(0, 1, 30, dtype=torch.float64)
    factor = torch.ones(27, 1) if correlation is None else band_factors(correlation)[:, None]
    energy = factor.double() * noise_model.variance(mean) * torch.tensor([1.5, 0.5, 9.0])[place].square()
    precision = torch.tensor([3.0, 3.0, -3.0], dtype=torch.float64)[place].expand(27, -1)
    found, error = levels_by_place(
        bands.Measurement(precision, energy, mean, place),
        noise_model if correlation is None else CorrelatedGaussian(noise_model, correlation),
    )
    assert found.tolist() == pytest.approx([1.5, 0.5], rel=1e-5)
    # ten windows of log precision 3, and the network's own floor and spread
    assert (error > (10 * math.exp(3)) ** -0.5).all() and (error < 0.12).all()


def test_places_are_squares_of_64_px_of_every_tile():
    place = bands.measure(white(waves(130, 200), 0.05)).place.view(33, 50)
    assert [int(place[row, col]) for row, col in ((0, 0), (15, 15), (0, 16), (16, 0), (32, 49))] == [0, 0, 1, 4, 11]
    wide = bands.measure(white(waves(64, 2100), 0.05)).place
    assert len(wide) == 16 * 525 and wide.unique().tolist() == list(range(33))


def test_images_of_different_levels_are_not_taken_for_correlated_noise():
    """Joined as they are, each band would like windows of other images best: 0.01 of correlation was found so."""
    found = estimate(of_photographs_in_the_box(LEVELS))
    assert "correlated" not in found.kind and found.half_size == (0, 0)
    assert says(found, r"levels of the images are a factor of 3\.\d apart: .*")
    assert not says(estimate(of_photographs_in_the_box((25,))), r"levels of the images .*")


def test_a_clean_image_among_noisy_ones_changes_little():
    """A photograph that was blurred until it holds no noise: where its energies were divided by its own level, its
    structure outweighed all others.
    """
    noisy = [white(image.pixels, 25 / 255, key=i) for i, image in enumerate(embedded.natural("train")[:4])]
    clean = F.avg_pool2d(embedded.natural("val")[0].pixels, 9, stride=1)
    alone, beside = estimate(noisy), estimate([*noisy, clean])
    assert "correlated" not in beside.kind and beside.half_size == (0, 0)
    assert beside.sigma == pytest.approx(alone.sigma, rel=0.03)


def bands_with(down: float, *, wrong: float = 0.0, rim: float = 0.0) -> bands.Bands:
    """One bin of noise of variance 1 that correlates by `down` at (1, 0); the two kinds of windows differ by `wrong`
    there, one lag of the rim by `rim`.
    """
    energy = torch.ones(27, 2, dtype=torch.float64)
    place, edge = 1 + LAGS.index((1, 0)), 1 + LAGS.index((0, 3))
    energy[place], energy[edge] = torch.tensor([1 - down - wrong / 2, 1 - down + wrong / 2]), 1 - rim
    found, alike = energy.split(1, 1)
    same = torch.full((27, 1), 0.02, dtype=torch.float64)
    return bands.Bands(
        found=found, alike=alike, at=same, error=same, count=torch.tensor([1000]), apart=1.0, mean=0.5, counted=1.0
    )


def test_images_of_a_set_agree_on_a_correlation_that_they_do_not_tell_together():
    """As on OCT: 0.06 where either kind of windows may be 0.03 wrong, image by image 0.04 to 0.08; not where images
    scatter about 0.04, nor where they agree on a lag at the rim.
    """
    unsure = bands_with(0.06, wrong=0.05, rim=0.01)
    agreeing, scattered = (
        [bands_with(x) for x in (0.04, 0.05, 0.06, 0.07, 0.08, 0.06)],
        [bands_with(x) for x in (-0.06, 0.0, 0.04, 0.06, 0.09, 0.12)],
    )
    assert near_by(unsure, each=agreeing) and not near_by(unsure, each=scattered)
    assert not near_by(unsure) and not near_by(unsure, each=agreeing[:5])
    assert not near_by(unsure, each=[bands_with(0.0, rim=0.06)] * 6)
    assert near_by(bands_with(0.06, wrong=0.02, rim=0.01)) and not near_by(bands_with(0.045, wrong=0.02), each=agreeing)


@real
def test_the_weak_correlation_of_a_set_of_real_oct_is_found_and_white_noise_on_its_averages_is_not(data):
    """Noisy minus average: 0.1 to 0.15 between rows in all eight images."""
    pairs = datasets.pairs("oct", "train")
    found = estimate([center_crop(pair.noisy.pixels, side=320) for pair in pairs])
    assert found.kind.startswith("correlated") and 0.05 < float(found.correlation[RADIUS + 1, RADIUS]) < 0.2
    clean = [center_crop(pair.clean.pixels, side=320) for pair in pairs]
    assert not estimate([white(image, 0.11, key=number) for number, image in enumerate(clean)]).kind.startswith(
        "correlated"
    )


def test_images_of_one_subject_have_one_vote():
    """Eight times the same cells under fresh white noise: their texture, in which all agree, is no correlation of
    noise.
    """
    cells = next(image for name, image in MEDICAL.items() if "cell" in name)[:, :1, :256, :256]
    noisy = [white(cells, 5 / 255, key=30 + number) for number in range(8)]
    assert estimate(noisy).kind.startswith("correlated")  # as if they were eight subjects
    found = estimate(noisy, subjects=["one"] * 8)
    assert not found.kind.startswith("correlated") and found.sigma == pytest.approx(5 / 255, rel=0.03)


@pytest.mark.parametrize("scale, zero", [(255.0, 0.0), (0.5, -3.0)])
def test_what_is_measured_can_be_told_in_another_unit(scale, zero):
    image = white(waves(64, 80), 0.1)
    told, again = bands.measure(image).in_unit(scale, zero=zero), bands.measure(image * scale + zero)
    for name in ("precision", "mean"):
        torch.testing.assert_close(getattr(told, name), getattr(again, name), rtol=1e-3, atol=1e-3 * scale)
    torch.testing.assert_close(told.energy, again.energy, rtol=1e-3, atol=1e-5 * scale**2)


def test_a_level_at_a_single_intensity_is_gaussian_noise():
    kind, noise_model, parameters, _ = fit_noise_model(
        np.array([0.5]), np.array([0.04]), np.array([0.1]), from_zero=True
    )
    assert (
        kind == "gaussian"
        and noise_model.gain == 0
        and noise_model.sigma == pytest.approx(0.2)
        and parameters["sigma"] == pytest.approx((0.2, 0.02))
    )


def test_images_whose_intensities_overlap_little_are_told_apart_too():
    """Levels 1 : 3, intensities 0 to 0.6 and 0.4 to 1; windows of equal precision whose energies are exact."""
    mean = torch.cat([torch.linspace(0, 0.6, 400), torch.linspace(0.4, 1, 400)]).double()
    energy = torch.cat([torch.full((1, 400), 1.0), torch.full((1, 400), 9.0)], 1).double()
    image = torch.arange(800) // 400
    ratio = bands._of_images(torch.ones(1, 800, dtype=torch.float64), energy, bands._bins(mean), image)
    # between the quantiles of 5 and 95 %
    assert bands._apart(ratio[0], image) == pytest.approx(3 ** (1 - 0.1), rel=0.05)
    assert float(ratio[0, -1] / ratio[0, 0]) == pytest.approx(9, rel=0.02)


def test_constant_parts_of_an_image_say_nothing_and_an_image_of_them_alone_is_refused():
    half = torch.zeros(1, 1, 512, 2600)
    half[..., :1100] = white(waves(512, 1100), 0.05)
    assert estimate([half]).sigma == pytest.approx(0.05, rel=0.05)
    assert estimate([torch.cat([white(waves(64, 80), 0.05), torch.zeros(1, 1, 64, 80)], 1)]).sigma == pytest.approx(
        0.05, rel=0.1
    )
    step = (torch.arange(64) > 31).float().expand(1, 1, 64, 64)
    assert estimate([white(waves(64, 80), 0.05), step]).sigma == pytest.approx(0.05, rel=0.1)
    salt = ((torch.arange(64) % 5 == 0)[:, None] & (torch.arange(64) % 5 == 0)).float()[None, None]
    for nothing in (torch.tensor([0.2, 0.6]).view(1, 2, 1, 1).expand(1, 2, 40, 40), salt):
        with pytest.raises(ValueError, match="constant"):
            estimate([nothing])


def test_images_of_different_levels_that_share_a_correlation_show_it():
    correlation = torch.outer(torch.tensor([0.2, 1.0, 0.2]), torch.tensor([0.3, 1.0, 0.3]))
    clean = [image.pixels for split in ("train", "val", "test") for image in embedded.natural(split)]
    noise_models = [CorrelatedGaussian(PoissonGaussian(level / 255), correlation) for level in LEVELS]
    found = estimate([noise_models[i % 3].sample(image, generator=generator(29, i)) for i, image in enumerate(clean)])
    assert found.kind.startswith("correlated") and found.half_size == (0, 1)
    assert float((found.correlation - F.pad(correlation, (2, 2, 2, 2))).abs().max()) < 0.06


@real
def test_the_mean_error_on_photographs_is_two_percent_at_most_and_they_are_independent_from_pixel_to_pixel(data):
    assert np.mean([abs(255 * found.sigma / level - 1) for level in LEVELS for found in of_photographs(level)]) < 0.02
    kinds = [found.kind for level in LEVELS for found in of_photographs(level)]
    assert all(found.half_size == (0, 0) for level in LEVELS for found in of_photographs(level)) and kinds.count(
        "gaussian"
    ) > 0.85 * len(kinds)


@real
def test_the_interval_holds_the_truth_and_not_what_is_off_by_thirty_percent(data):
    """63 draws. 95 % are claimed: 85 % is four standard errors of the count lower. The planted fault: intervals that
    hold everything.
    """
    found = [
        (r, level) for level in LEVELS for r in [*of_photographs(level), *(of_white(name, level) for name in EMBEDDED)]
    ]
    assert len(found) >= 60

    def held(factor: float) -> float:
        return np.mean([r.sigma_interval[0] < factor * level / 255 < r.sigma_interval[1] for r, level in found])

    assert held(1.0) >= 0.85 and held(1.3) < 0.15 and held(0.7) < 0.15


LINES = [PoissonGaussian(5 / 255, gain=0.01), PoissonGaussian(10 / 255, gain=0.02)]


@cache
def of_line(name: str, which: int) -> NoiseEstimate:
    return estimate([LINES[which].sample(MEDICAL[name], generator=generator(20, which))])


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", MEDICAL)
def test_a_poisson_gaussian_law_is_found_within_five_percent_of_the_level(name, which):
    """The retina, 102 x 102 px, is all of one brightness: there a constant is as good."""
    found, noise_model = of_line(name, which), LINES[which]
    assert off(found, noise_model) < 0.05 < off(found, noise_model.scaled(1.1))  # the planted fault: 10 % more
    assert found.kind == "poisson_gaussian" or name == "microaneurysms"


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ["head_mr", "cell", "chest_ct", "skull_ct"])
def test_gain_and_read_noise_are_within_three_stated_errors(name, which):
    """In the skull at the lower level four bins alone are known, between which no gain is told from none: its error
    says so.
    """
    found, noise_model = of_line(name, which), LINES[which]
    (gain, gain_error), (sigma, sigma_error), (black, _) = (found.parameters[key] for key in ("gain", "sigma", "black"))
    at_black = float(noise_model.variance(torch.tensor(black))) ** 0.5  # sigma belongs to that intensity
    assert abs(gain - noise_model.gain) < 3 * gain_error and abs(sigma - at_black) < 3 * sigma_error
    assert 3 * gain_error < 0.3 * noise_model.gain or (name, which) == ("skull_ct", 0)


@pytest.mark.parametrize("shift", [-0.6, -3.0, 1.5])
@pytest.mark.parametrize("name", ["head_mr", "cell", "chest_ct"])
def test_an_offset_moves_the_law_and_changes_nothing_else(name, shift):
    """Hounsfield units start at -1024: a noise model that stops at intensity 0 could not follow. Pixels near 4 have
    float32 steps of 4e-7, 1e-5 of the noise.
    """
    noisy = LINES[1].sample(MEDICAL[name], generator=generator(20, 1))
    plain, moved = of_line(name, 1), estimate([noisy + shift])
    assert moved.kind == plain.kind == "poisson_gaussian" and moved.mean == pytest.approx(plain.mean + shift, abs=1e-4)
    # in the dark the mean of a window may fall below 0, where the plain noise model stops
    at = np.clip(plain.intensity, 0, None)
    # rounding moves a window or two to another bin
    np.testing.assert_allclose(moved.variance(at + shift), plain.variance(at), rtol=1e-3)
    assert moved.sigma == pytest.approx(plain.sigma, rel=1e-3)
    # the planted fault: the noise model stays where it was
    assert not np.allclose(moved.variance(at), plain.variance(at), rtol=0.03)


@pytest.mark.parametrize("name", ["cell", "chest_ct", "microaneurysms"])
def test_a_black_level_is_found_where_the_line_would_leave_no_read_noise(name):
    noise_model, clean = PoissonGaussian(2 / 255, gain=0.02, black=0.25), 0.25 + 0.7 * MEDICAL[name]
    found = estimate([noise_model.sample(clean, generator=generator(21))])
    black, error = found.parameters["black"]
    # a quarter of the darkest variance is taken as read noise
    assert off(found, noise_model) < 0.05 and 0 < black and abs(black - 0.25) < 3 * error + 0.05


@pytest.mark.parametrize("looks", [6.0, 25.0])
@pytest.mark.parametrize("name", ["cell", "waves"])
def test_multiplicative_noise_is_called_speckle_with_its_looks(name, looks):
    """No zeros: there the noise is none. Ten percent of the looks are five of the level. On a thorax of 128 x 128 px a
    line is as good.
    """
    clean = 0.1 + 0.9 * (waves(240, 201) if name == "waves" else MEDICAL[name])
    found = estimate([Speckle(looks).sample(clean, generator=generator(22))], from_zero=True)
    assert (
        found.kind == "speckle"
        and found.noise_model.looks == pytest.approx(looks, rel=0.1)
        and found.parameters["looks"][0] == found.noise_model.looks
    )
    assert off(found, Speckle(looks)) < 0.05 < off(found, Speckle(1.25 * looks))


@pytest.mark.parametrize("sigma", [0.06, 0.12])
@pytest.mark.parametrize("name", ["head_mr", "cell"])
def test_magnitude_noise_is_called_rician_with_its_sigma(name, sigma):
    """On a thorax of 128 x 128 px, half of it dark, it is called Poisson-Gaussian: its level falls in the dark as well."""
    found = estimate([Rician(sigma).sample(MEDICAL[name], generator=generator(23))], from_zero=True)
    assert found.kind == "rician" and found.noise_model.sigma == pytest.approx(sigma, rel=0.05)
    # nobody said that 0 means no signal
    assert estimate([Rician(sigma).sample(MEDICAL[name], generator=generator(23))]).kind not in ("rician", "speckle")


@pytest.mark.parametrize("name", MEDICAL)
def test_white_noise_far_from_the_dark_is_not_called_rician(name):
    """Both noise models fit: the simpler name is the better one."""
    assert estimate([white(1 + MEDICAL[name], 25 / 255)], from_zero=True).kind in ("gaussian", "poisson_gaussian")


# means over h x w pixels: the blind spot they ask for
BOXES = {(1, 2): (0, 1), (2, 1): (1, 0), (2, 2): (1, 1), (3, 1): (2, 0)}


def correlation_of(box: tuple[int, int]) -> Tensor:
    """(1 - |row| / h) (1 - |col| / w) at lags -3..3."""
    line = [(1 - torch.arange(-RADIUS, RADIUS + 1).abs() / side).clamp_min(0) for side in box]
    return torch.outer(*line)


@cache
def of_box(name: str, box: tuple[int, int]) -> NoiseEstimate:
    return estimate(
        [
            CorrelatedGaussian(PoissonGaussian(20 / 255), correlation_of(box)).sample(
                MEDICAL[name], generator=generator(24, *box)
            )
        ]
    )


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", MEDICAL)
def test_a_correlation_is_found_within_a_tenth_at_every_lag_and_its_blind_spot_with_it(name, box):
    found = of_box(name, box)
    assert (
        (found.correlation - correlation_of(box)).abs().max() < 0.1
        and found.half_size == BOXES[box]
        and found.kind.startswith("correlated ")
    )
    assert isinstance(found.noise_model, CorrelatedGaussian) and torch.equal(
        torch.tensor(found.noise_model.correlation).float(), found.correlation
    )
    high, wide = (2 * half + 1 for half in found.half_size)
    assert says(
        found, rf"neighbouring pixels correlate \(.* down, .* across\); a blind spot of {high} x {wide} px covers it"
    )


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("name", MEDICAL)
def test_the_level_of_correlated_noise_is_in_its_interval(name, box):
    """Taken for white, means over two pixels read 42 % too low, beyond the interval."""
    low, high = of_box(name, box).sigma_interval
    assert low < 20 / 255 < high and of_box(name, box).sigma == pytest.approx(20 / 255, rel=0.1)
    assert not low < 20 / 255 * float(band_factors(autocorrelation(torch.full((2, 2), 0.5)))[0]) ** 0.5 < high


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", EMBEDDED)
def test_white_noise_needs_no_hole_but_the_pixel(name, level):
    found = of_white(name, level)
    assert (
        found.half_size == (0, 0)
        and "correlated" not in found.kind
        and not isinstance(found.noise_model, CorrelatedGaussian)
    )
    assert not any("correlate (" in finding for finding in found.findings)


@pytest.mark.parametrize(
    "noise_model",
    [
        NoiseLevelFunction((0.1, 0.5, 0.9), (0.0004, 0.0064, 0.0004)),
        NoiseLevelFunction((0.1, 0.5, 0.9), (0.0016, 0.0016, 0.0144)),
    ],
    ids=["hump", "stick"],
)
def test_a_law_that_nobody_has_named_is_given_as_a_table(noise_model):
    """The knots' corners lie within bins: 5 % of the level on average."""
    found = estimate([noise_model.sample(waves(300, 321), generator=generator(25))])
    assert found.noise_model.intensities == found.intensity and found.noise_model.variances == pytest.approx(
        [level**2 for level in found.level]
    )
    assert (
        found.kind == "free"
        and off(found, noise_model) < 0.05
        and says(found, r"no known noise model fits \(deviation .* standard errors\): .* as a table")
    )
    assert estimate([LINES[0].sample(waves(300, 321), generator=generator(25))]).kind == "poisson_gaussian"


def test_images_of_a_set_are_pooled_and_their_order_does_not_matter():
    noisy = [LINES[0].sample(clean, generator=generator(26, i)) for i, clean in enumerate(MEDICAL.values())]
    alone, together = [estimate([image]) for image in noisy], estimate(noisy)
    assert together.parameters["gain"][1] < min(found.parameters["gain"][1] for found in alone) and min(
        together.error
    ) < min(min(f.error) for f in alone)
    assert together.kind == "poisson_gaussian" and off(together, LINES[0]) < 0.05
    again = estimate(noisy[::-1])
    assert again.sigma == pytest.approx(together.sigma, rel=1e-6) and again.parameters["gain"] == pytest.approx(
        together.parameters["gain"], rel=1e-6
    )


def test_channels_count_as_further_images():
    channels = [white(waves(70, 93), sigma, key=i) for i, sigma in enumerate((0.05, 0.06, 0.07))]
    assert str(estimate([torch.cat(channels, 1)])) == str(estimate(channels))


@pytest.mark.parametrize(
    "shape", [(1024, 1024), (1535, 700), (1536, 1536), (1700, 2300), (1025, 4000), (16, 5000)], ids=str
)
def test_tiles_cover_an_image_once(shape):
    """Of twelve tiles at most nothing is left out; none is so small that its own quantiles say little, unless the image
    is.
    """
    index = torch.arange(shape[0] * shape[1]).view(shape)
    tiles = list(bands._tiles(index))
    assert torch.equal(torch.cat([tile.flatten() for tile in tiles]).sort().values, index.flatten())
    assert all(
        min(bands.TILE / 2, side) <= length <= 1.5 * bands.TILE
        for tile in tiles
        for length, side in zip(tile.shape, shape, strict=True)
    )


def test_of_a_huge_image_twelve_tiles_spread_over_it_are_judged():
    tiles = list(bands._tiles(torch.arange(9000 * 7000).view(9000, 7000)))
    assert (
        len(tiles) <= 12
        and min(int(t[0, 0]) for t in tiles) == 0
        and max(int(t[-1, -1]) for t in tiles) > 0.8 * 9000 * 7000
    )


def test_tiles_give_the_answer_of_the_whole_image(monkeypatch):
    """They share their windows but for the seams, and each has its own quantiles: the same within the stated error of
    the whole.
    """
    noisy = LINES[0].sample(waves(410, 523), generator=generator(27))
    whole = estimate([noisy])
    monkeypatch.setattr(bands, "TILE", 128)
    tiled = estimate([noisy])
    assert len(list(bands._tiles(noisy[0, 0]))) == 12
    assert (
        tiled.sigma != whole.sigma
        and tiled.sigma == pytest.approx(whole.sigma, rel=2 * min(whole.error))
        and tiled.kind == whole.kind
    )
    assert off(tiled, LINES[0]) < 0.03


def test_an_image_larger_than_a_tile_is_read_in_seconds():
    noisy = LINES[0].sample(waves(1100, 1601), generator=generator(27))
    found = estimate([noisy])
    assert off(found, LINES[0]) < 0.03 and len(list(bands._tiles(noisy[0, 0]))) == 2


def test_an_image_of_512_by_512_takes_seconds():
    """Five seconds are promised; CPU seconds of this thread alone count, so that a busy machine does not fail it. 0.3 s
    are usual.
    """
    noisy, threads = white(waves(512, 512), 0.1), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.thread_time()
        estimate([noisy])
        assert time.thread_time() - start < 5
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (23, 400), (40, 40)], ids=str)
def test_a_small_image_gets_numbers_and_an_error_that_says_how_little_it_knows(size):
    found = [estimate([white(torch.full((1, 1, *size), 0.5), 0.1, key=i)]) for i in range(5)]
    for r in found:
        assert (
            all(map(math.isfinite, (r.sigma, *r.sigma_interval, *r.level, *r.error, *r.intensity)))
            and r.correlation.isfinite().all()
        )
        assert r.sigma_interval[0] < 0.1 < r.sigma_interval[1]
    assert min(found[0].error) > 0.3 / math.prod(size) ** 0.5  # a level from n independent pixels: 0.71 / sqrt(n)


@pytest.mark.parametrize("count", [1, 2, 5, 45, 400])
def test_no_intensity_bin_is_empty_or_holds_under_a_hundredth_of_the_windows(count):
    """Edges are themselves means of windows: which side an equal one falls on must not matter."""
    for means in (
        torch.rand(count, generator=generator(28), dtype=torch.float64),
        torch.arange(count).double() // 3,
        torch.zeros(count).double(),
    ):
        sizes = torch.bincount(bands._bins(means))
        assert sizes.sum() == count and sizes.min() >= max(1, 0.01 * count)


def test_padding_and_saturation_do_not_move_the_level_and_are_told():
    noisy = white(MEDICAL["cell"], 0.08)
    padded = estimate([F.pad(noisy, (200, 210, 190, 170))])
    assert padded.sigma == pytest.approx(estimate([noisy]).sigma, rel=0.03)
    assert says(padded, r"only [1-4]?\d % of the image counts; the rest is constant or clipped")
    bright = torch.where(torch.arange(275) > 180, 1.4, 0.6 * MEDICAL["cell"])
    assert estimate([white(bright, 0.05).clamp_max(1.0)]).sigma == pytest.approx(0.05, rel=0.05)


def test_correlation_beyond_the_map_is_told():
    """Means over five pixels of a row still correlate by 0.4 at a lag of three."""
    noisy = F.conv2d(torch.randn(1, 1, 200, 224, generator=generator(29)), torch.full((1, 1, 1, 5), 5**-0.5))
    found = estimate([noisy])
    # no more is claimed: far is not far here
    assert found.half_size == (0, 3) and found.correlation[3, 4:].tolist() == pytest.approx([0.8, 0.6, 0.4], abs=0.2)
    assert says(
        found,
        r"the correlation is still 0\.[2345]\d at a lag of 3 px, the end of the map: noise of longer range is not described",
    )


def test_what_is_not_known_is_told():
    """A flat half and a half of blocks 2 x 3 px: at the blocks' intensities the noise model is a guess. Of 256 pixels
    little is known at all.
    """
    blocks = torch.rand(1, 1, 60, 70, generator=generator(9)).repeat_interleave(2, 2).repeat_interleave(3, 3)[..., :140]
    half = torch.cat([torch.full((1, 1, 120, 140), 0.2), 0.5 + 0.5 * blocks], 3)
    found = estimate([white(half, 0.03)])
    assert found.sigma == pytest.approx(0.03, rel=0.05) and says(
        found, r"at the intensities of [45]\d % of the image no window is free of structure: .*"
    )
    assert not any(
        says(of_white("cell", 25), pattern) for pattern in (".*no window.*", ".*known to.*", ".*not known.*", "only .*")
    )
    tiny = estimate([white(torch.full((1, 1, 16, 16), 0.5), 0.1)])
    assert says(tiny, rf"the level is known to {100 * min(tiny.error):.0f} % only") and min(tiny.error) > 0.1
    assert says(
        estimate([white(blocks, 0.02)]),
        r"hardly any window is free of structure: whether pixels correlate is not known",
    )


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "no image was given"),
        ([torch.rand(1, 1, 40, 40), torch.full((1, 1, 20, 20), 0.25)], "image 1 is constant, 0.25 everywhere"),
        ([torch.rand(1, 1, 15, 40)], r"image 0 has shape \(1, 1, 15, 40\)"),
        ([torch.rand(40, 40)], r"image 0 has shape \(40, 40\)"),
        ([torch.full((1, 1, 20, 20), math.nan)], "image 0 holds NaN"),
        ([torch.rand(1, 1, 20, 20), torch.rand(1, 1, 20, 20) / 0], "image 1 holds NaN or infinite"),
    ],
)
def test_a_wrong_image_is_refused_by_its_number(images, message):
    with pytest.raises(ValueError, match=message):
        estimate(images)


def test_another_network_can_be_asked():
    net, noisy = pretrained_noise_level(), white(waves(90, 77), 0.1)
    net.log_bias += math.log(1.1)
    assert estimate([noisy], network=net).sigma == pytest.approx(estimate([noisy]).sigma / 1.1, rel=1e-3)


def test_a_report_reads_as_a_sentence_with_its_numbers():
    found = of_line("cell", 0)
    assert str(found).startswith(f"Poisson-Gaussian noise, sigma {found.sigma:.4g} ({found.sigma_interval[0]:.4g} to ")
    assert str(of_box("cell", (1, 2))).startswith("correlated ") and "free" not in str(
        estimate([NoiseLevelFunction((0.1, 0.9), (0.01, 0.0001)).sample(waves(90, 95), generator=generator(1))])
    )


BINS = np.linspace(0.05, 0.95, 18)
EXACT = {
    "gaussian": PoissonGaussian(0.1),
    "poisson_gaussian": PoissonGaussian(0.05, gain=0.02),
    "speckle": Speckle(9.0),
    "rician": Rician(0.2),
}


def told(noise_model, at: np.ndarray = BINS) -> np.ndarray:
    return noise_model.variance(
        fit._rician_clean(at, noise_model.sigma) if isinstance(noise_model, Rician) else torch.from_numpy(at)
    ).numpy()


@pytest.mark.parametrize("kind", EXACT)
def test_a_law_without_error_is_given_back(kind):
    at = BINS + 0.25 if kind == "rician" else BINS  # Rice's mean is 1.25 sigma at least
    found, noise_model, parameters, misfit = fit_noise_model(
        at, told(EXACT[kind], at), np.full(18, 0.02), from_zero=True
    )
    assert found == kind and misfit < 1e-3
    np.testing.assert_allclose(told(noise_model, at), told(EXACT[kind], at), rtol=1e-3)
    assert all(type(number) is float for pair in parameters.values() for number in pair)


@pytest.mark.parametrize(
    "noise_model", [PoissonGaussian(0.05, gain=0.02, black=-4.0), PoissonGaussian(0.02, gain=0.02, black=-0.3)], ids=str
)
def test_a_line_at_negative_intensities_is_followed(noise_model):
    at = BINS * 4 - 3.9 if noise_model.black == -4 else BINS - 0.3
    kind, found, parameters, misfit = fit_noise_model(at, told(noise_model, at), np.full(18, 0.02))
    assert kind == "poisson_gaussian" and misfit < 1e-6 and parameters["gain"][0] == pytest.approx(0.02, rel=1e-3)
    np.testing.assert_allclose(told(found, at), told(noise_model, at), rtol=1e-4)


@pytest.mark.parametrize("kind", EXACT)
def test_stated_errors_of_parameters_are_those_of_repeated_draws(kind):
    """300 draws: the spread of 300 scores has a standard error of 4 %; 15 % is nearly four. Half the error would double
    the scores.
    """
    noise_model, error, random = EXACT[kind], 0.03, np.random.default_rng(3)
    at, fitted = (
        (BINS + 0.25 if kind == "rician" else BINS),
        {"gaussian": (0,), "poisson_gaussian": (0, 1), "speckle": (2,)}.get(kind),
    )
    scores = []
    for _ in range(300):
        variance = told(noise_model, at) * (1 + error * random.standard_normal(18)) ** 2
        numbers = (
            fit._fit_linear(at, variance, np.full(18, error), powers=fitted)
            if fitted
            else fit._fit_rician(at, variance, np.full(18, error))
        )
        scores.append(
            [(value - getattr(noise_model, name)) / unsure for name, (value, unsure) in numbers[1].items() if unsure]
        )
    assert np.sqrt(np.mean(np.square(scores), axis=0)) == pytest.approx(1, abs=0.15)


def test_the_band_factors_of_a_map_are_those_of_its_kernel():
    for box in BOXES:
        kernel = torch.zeros(3, 3)
        kernel[: box[0], : box[1]] = 1 / math.prod(box) ** 0.5
        wanted = band_factors(autocorrelation(kernel))
        assert band_factors(correlation_of(box).double()).numpy() == pytest.approx(wanted.numpy(), abs=1e-5) and len(
            wanted
        ) == 1 + len(LAGS + FAR)


@pytest.mark.parametrize("half_size", [(0, 0), (0, 3), (2, 1), (3, 3)])
def test_a_blind_spot_covers_what_correlates_and_no_more(half_size):
    lags = torch.full((7, 7), 0.19)
    lags[2:5, 2:5] = 0.045
    lags[3 - half_size[0] : 4 + half_size[0], 3 - half_size[1] : 4 + half_size[1]] = -0.21
    lags[3, 3] = 1
    assert blind_spot_half_size(lags) == half_size


@pytest.mark.parametrize(("lag", "half_size"), [((0, 1), (0, 1)), ((1, 0), (1, 0)), ((1, 1), (1, 1)), ((2, 0), (0, 0))])
def test_a_blind_spot_covers_weak_correlation_of_neighbours_alone(lag, half_size):
    lags = torch.zeros(7, 7)
    lags[3 + lag[0], 3 + lag[1]] = lags[3 - lag[0], 3 - lag[1]] = -0.06
    lags[3, 3] = 1
    assert blind_spot_half_size(lags) == half_size


@real
def test_the_law_of_real_fluorescence_frames_is_that_of_their_pairs(data):
    """Level at a frame against the level from 400 frames: the residue of a fit by gain and offset, over twelve
    quantiles of the fitted average. The average's own noise is 1/400 of the variance. Saturated pixels are left out.
    """
    ratios, constant = [], []
    for pair in datasets.pairs("w2s", "test"):
        noisy, mean = (image.pixels[0, 0].double().numpy() for image in (pair.noisy, pair.clean))
        gain, offset = np.linalg.lstsq(np.stack([mean.ravel(), np.ones(mean.size)], 1), noisy.ravel(), rcond=None)[0]
        fitted = gain * mean + offset
        bins = np.clip(np.searchsorted(np.quantile(fitted, np.linspace(0, 1, 13)), fitted, side="right") - 1, 0, 11)
        used = (noisy > noisy.min()) & (noisy < noisy.max()) & (mean < mean.max())
        found = estimate([pair.noisy.pixels])
        at = np.array([fitted[used & (bins == i)].mean() for i in range(12)])
        level = np.array([(noisy - fitted)[used & (bins == i)].std() for i in range(12)])
        ratios.append(np.sqrt(found.variance(at)) / level)
        constant.append(np.exp(np.log(level).mean()) / level)
    wrong, planted = (np.abs(np.array(rows) - 1) for rows in (ratios, constant))
    assert wrong.shape == (6, 12) and wrong.mean() < 0.05 and (wrong < 0.1).mean() >= 0.95
    assert planted.mean() > 0.05 and (planted < 0.1).mean() < 0.95  # one level for all intensities
