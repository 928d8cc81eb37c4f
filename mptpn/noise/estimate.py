"""What the noise of an image or a set is: its level as a function of intensity, its correlation, the noise model that
fits best, how sure all that is.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.networks.noise_level import BANDS, RADIUS, NoiseLevelNetwork, band_factors, stated_precision
from mptpn.noise.bands import UNSURE, Bands, Measurement, bands_of, in_bins, in_the_box, measure
from mptpn.noise.correlation import BLIND, blind_spot_half_size, coarseness, correlation_map, near_by, outside
from mptpn.noise.fit import MISFIT, fit_noise_model
from mptpn.noise.models import CorrelatedGaussian, NoiseModel

# relative difference up to which the level at the finest scale and that between far pixels are one: correlation of 0.1
# makes 0.07
WHITE = 0.06
SURE = 0.15  # stated relative error of a level up to which a bin speaks for the noise model
APART = 1.5  # ratio of the levels of the images of a set from which the report says so
WIDEST = math.log(10)  # of an interval: beyond a factor of ten either way, the level is unknown and the report says so
NAMES = {
    "gaussian": "Gaussian noise",
    "poisson_gaussian": "Poisson-Gaussian noise",
    "speckle": "speckle noise",
    "rician": "Rician noise",
    "free": "noise of no known noise model",
}


@dataclass(frozen=True)
class NoiseEstimate:
    """What estimate_noise found; every number is in the image's own unit.

    Attributes:
        sigma: standard deviation at `mean`.
        sigma_interval: (low, high), 95 %.
        mean: mean intensity of the pixels that count.
        kind: "gaussian", "poisson_gaussian", "speckle", "rician" or "free" (none of these fits; the table below is the
            noise model), after "correlated " where it is.
        noise model: the model, to draw from or to ask for its likelihood.
        parameters: of the noise model, name: (value, standard error).
        intensity, level, error: the noise-level function in bins: intensity, standard deviation, relative standard
            error of the latter.
        correlation: measured at lags -3..3 of rows and columns, [7, 7], 1 in the middle.
        hole: half height and half width, px, of the blind spot that this correlation asks for.
        findings: what a user must know, a sentence each.
    """

    sigma: float
    sigma_interval: tuple[float, float]
    mean: float
    kind: str
    noise_model: NoiseModel
    parameters: dict[str, tuple[float, float]]
    intensity: tuple[float, ...]
    level: tuple[float, ...]
    error: tuple[float, ...]
    correlation: Tensor
    half_size: tuple[int, int]
    findings: tuple[str, ...]

    def variance(self, intensity: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Variance of the noise at these intensities, in the image's unit squared."""
        return self.noise_model.variance(torch.as_tensor(np.asarray(intensity, dtype=np.float64))).numpy()

    def in_unit(self, scale: float, *, zero: float = 0.0) -> "NoiseEstimate":
        """The estimate of the images times scale plus zero."""
        low, high = self.sigma_interval
        parameters = {
            name: pair if name == "looks" else (pair[0] * scale + zero * (name == "black"), pair[1] * scale)
            for name, pair in self.parameters.items()
        }
        return replace(
            self,
            sigma=self.sigma * scale,
            sigma_interval=(low * scale, high * scale),
            mean=self.mean * scale + zero,
            noise_model=self.noise_model.in_unit(scale, zero=zero),
            parameters=parameters,
            intensity=tuple(x * scale + zero for x in self.intensity),
            level=tuple(x * scale for x in self.level),
        )

    def to_dict(self) -> dict:
        """Numbers and sentences for JSON."""
        function = {"intensity": self.intensity, "sigma": self.level, "relative_error": self.error}
        return {
            "message": str(self),
            "kind": self.kind,
            "sigma": self.sigma,
            "sigma_interval": self.sigma_interval,
            "at_intensity": self.mean,
            "noise_level_function": function,
            "correlation": self.correlation.tolist(),
        }

    def __str__(self) -> str:
        low, high = self.sigma_interval
        name = " ".join(NAMES.get(word, word) for word in self.kind.split())
        return "\n".join(
            [f"{name}, sigma {self.sigma:.4g} ({low:.4g} to {high:.4g}) at intensity {self.mean:.4g}", *self.findings]
        )


def estimate(
    images: Sequence[Tensor],
    *,
    subjects: Sequence[Hashable] | None = None,
    from_zero: bool = False,
    network: NoiseLevelNetwork | None = None,
) -> NoiseEstimate:
    """The noise of images that share one noise model, from the images alone.

    Args:
        images: each [1, C, H, W] with H, W >= 16; the channels count as further images.
        subjects: of whom each image is, for images of one subject show the same things; None: each of its own.
        from_zero: intensity 0 means no signal, so that noise may be multiplicative or Rician.
        network: trained and calibrated; None: the one in the box.
    Raises:
        ValueError: no image, or one that is too small, constant or not finite.
    """
    network = network or in_the_box()
    subjects = range(len(images)) if subjects is None else subjects
    measured = [
        measure(image, number=i, subject=subject, network=network)
        for i, (image, subject) in enumerate(zip(images, subjects, strict=True))
    ]
    return estimate_from(measured, from_zero=from_zero, network=network)


@torch.no_grad()
def estimate_from(
    measured: Sequence[Measurement],
    *,
    from_zero: bool = False,
    correlated: bool | None = None,
    network: NoiseLevelNetwork | None = None,
) -> NoiseEstimate:
    """The report on images that were measured by this network; correlated: whether the noise is, None: found here; the
    other arguments as in report.
    """
    network = network or in_the_box()
    bands = bands_of(measured, network=network)
    correlation, unsure = correlation_map(bands)
    coarse, coarse_unsure = coarseness(bands)
    reliable = float(outside(unsure, (0, 0)).median()) < BLIND
    if correlated is None:
        independent = not (
            reliable
            and near_by(bands, each=_by_subject(measured, network))
            or abs(coarse) > max(WHITE, 1.5 * coarse_unsure)
        )
    else:
        independent = not correlated
    if independent:
        intensity, variance, error = bands.at[0], bands.found[0], bands.error[0]
    else:
        factor = band_factors(correlation)[:, None]
        trust = (factor > 0.1) / bands.error**2
        variance = (trust * bands.found / factor.clamp_min(0.1)).sum(0) / trust.sum(0)
        intensity, error = (trust * bands.at).sum(0) / trust.sum(0), trust.amax(0) ** -0.5
    known = next(
        (error < most for most in (SURE, UNSURE) if int((error < most).sum()) > 1),
        torch.ones_like(error, dtype=torch.bool),
    )
    unknown = float(bands.count[~known].sum() / bands.count.sum())
    order = intensity.argsort()[known[intensity.argsort()]]
    intensity, variance, error = (x[order].numpy() for x in (intensity, variance, error))
    kind, noise_model, parameters, misfit = fit_noise_model(intensity, variance, error, from_zero=from_zero)
    half_size = (0, 0) if independent else blind_spot_half_size(correlation)
    findings = _findings(correlation, independent, half_size, reliable, kind, misfit, error, bands, unknown)
    sigma = math.sqrt(float(noise_model.variance(torch.tensor(bands.mean, dtype=torch.float64))))
    relative = min(
        WIDEST,
        float(network.tail) * float(np.average(error, weights=1 / error**2)) * max(1.0, min(misfit, MISFIT)) ** 0.5,
    )
    if independent and abs(coarse) > WHITE:  # either reading may be the right one
        relative = min(WIDEST, max(relative, 2 * abs(coarse)))
    if not independent:
        noise_model, kind = CorrelatedGaussian(noise_model.gaussian(), correlation), f"correlated {kind}"
    interval = sigma * math.exp(-relative), sigma * math.exp(relative)
    numbers = (tuple(map(float, x)) for x in (intensity, variance**0.5, error))
    return NoiseEstimate(
        sigma, interval, bands.mean, kind, noise_model, parameters, *numbers, correlation.float(), half_size, findings
    )


@torch.no_grad()
def levels_by_place(
    measured: Measurement, noise_model: NoiseModel, *, network: NoiseLevelNetwork | None = None
) -> tuple[Tensor, Tensor]:
    """Level of the noise in each square of 64 px, relative to the noise model's at its intensities, and its stated
    relative standard error.

    Noise need not be equally strong in all of an image, nor does its noise model need to be right everywhere: CT is
    noisier behind more tissue.

    Returns:
        both [squares], float64, where the windows know the level to 50 % or better.
    """
    network = network or in_the_box()
    factor = (
        band_factors(torch.tensor(noise_model.correlation, dtype=torch.float64))
        if noise_model.correlated
        else torch.ones(1, dtype=torch.float64)
    )
    bands = torch.nonzero(factor > 0.1).flatten()
    weight = measured.precision[bands].exp() * measured.counts
    relative = measured.energy[bands] / factor[bands, None] / noise_model.pointwise.variance(measured.mean)
    total = in_bins(weight, measured.place).sum(0)
    each = total / len(bands)  # the bands share their errors
    known = each > UNSURE**-2
    precision = stated_precision(network, each[known].expand(1, BANDS, -1))[0, bands].double().mean(0)
    return (in_bins(weight * relative, measured.place).sum(0)[known] / total[known]).sqrt(), precision**-0.5


def _by_subject(measured: Sequence[Measurement], network: NoiseLevelNetwork) -> list[Bands]:
    """Bands of the images of each subject that say anything, empty for one subject."""
    subjects: dict[Hashable, list[Measurement]] = {}
    for one in measured:
        if one.counts.any():
            subjects.setdefault(one.subject, []).append(one)
    return [bands_of(images, network=network) for images in subjects.values()] if len(subjects) > 1 else []


def _findings(
    correlation: Tensor,
    independent: bool,
    half_size: tuple[int, int],
    reliable: bool,
    kind: str,
    misfit: float,
    error: np.ndarray,
    bands: Bands,
    unknown: float,
) -> tuple[str, ...]:
    out = []
    if not independent:
        down, across = float(correlation[RADIUS + 1, RADIUS]), float(correlation[RADIUS, RADIUS + 1])
        high, wide = (2 * half + 1 for half in half_size)
        so = (
            f"a blind spot of {high} x {wide} px covers it"
            if high * wide > 1
            else "too little to ask for a wider blind spot"
        )
        out.append(f"neighbouring pixels correlate ({down:.2f} down, {across:.2f} across); {so}")
        edge = float(outside(correlation, (RADIUS - 1, RADIUS - 1)).abs().max())
        if edge > BLIND:
            out.append(
                f"the correlation is still {edge:.2f} at a lag of {RADIUS} px, the end of the map: noise of longer range is not described"
            )
    if not reliable:
        out.append("hardly any window is free of structure: whether pixels correlate is not known")
    if kind == "free":
        out.append(
            f"no known noise model fits (deviation {misfit**0.5:.1f} standard errors): the noise-level function is given as a table"
        )
    if bands.apart > APART:
        out.append(
            f"levels of the images are a factor of {bands.apart:.1f} apart: this is the noise model of all together, ask for each on its own"
        )
    if unknown > 0.05:
        out.append(
            f"at the intensities of {100 * unknown:.0f} % of the image no window is free of structure: the noise model is extended to them"
        )
    if error.min() > 0.1:
        out.append(f"the level is known to {100 * error.min():.0f} % only")
    if bands.counted < 0.5:
        out.append(f"only {100 * bands.counted:.0f} % of the image counts; the rest is constant or clipped")
    return tuple(out)
