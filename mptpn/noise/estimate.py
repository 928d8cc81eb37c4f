"""Estimate of the noise of an image or a set: its level by intensity, its correlation, the noise model that fits best,
and how well all that is known.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.filters import turned_back
from mptpn.networks import NoiseLevelNetwork
from mptpn.networks.noise_level import RADIUS, STRIDE, band_factors
from mptpn.noise.bands import MAX_LEVEL_ERROR, Bands, Measurement, bands_of, measure, pretrained_network
from mptpn.noise.correlation import (
    STRONG_CORRELATION,
    blind_spot_half_size,
    correlation_map,
    log_level_ratio,
    neighbours_correlate,
    outside,
)
from mptpn.noise.fit import BACKGROUND_ERROR, MAX_MISFIT, background_sigma, fit_noise_model
from mptpn.noise.models import CorrelatedGaussian, NoiseModel, Rician

# log ratio of the level from far pixels to that at the finest scale, up to which noise is white; correlation of 0.1
# makes 0.07
WHITE_LOG_RATIO = 0.06
FIT_ERROR = 0.15  # stated relative error of a level up to which a bin takes part in the fit
# pixels at or below 0, of those that photons of the measured levels have, and Gaussian noise has no fewer: with fewer
# noise is neither, with more it is not Rician or speckle, which have none but by rounding
FEW_ZEROS, MANY_ZEROS = 0.5, 3
LEAST_ZEROS, CUT_OFF = 10, 0.02  # such pixels, expected; share of zeros that tell that values below 0 were cut off
LEVEL_SPREAD = 1.5  # ratio of the levels of the images of a set from which a finding says so
MOST_UNKNOWN = 0.05  # share of the image at intensities of unknown level, up to which it is not worth a word
MAX_LOG_INTERVAL = math.log(10)  # half width of an interval; beyond a factor of ten the level is unknown


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise of images as estimated from them alone; every number is in the images' own unit.

    Attributes:
        sigma: standard deviation at `mean`.
        sigma_interval: (low, high), 95 %.
        mean: mean intensity of the pixels that hold noise.
        kind: "gaussian", "poisson_gaussian", "speckle", "rician" or "free" (none of these fits; the noise model is the
            table below), after "correlated " where it is.
        noise_model: to draw noise from.
        parameters: of the noise model, name: (value, standard error).
        intensity, level, error: the noise-level function in bins: intensity, standard deviation, relative standard
            error of the latter.
        correlation: measured at lags -3..3 of rows and columns, [7, 7], 1 in the middle.
        half_size: half height and half width, px, of the blind spot that this correlation requires.
        findings: what a user must know, a sentence each.
        unknown: share of the image at whose intensities no window is free of structure.
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
    unknown: float = 0.0

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

    def turned_back(self, turn: int) -> "NoiseEstimate":
        """The estimate of images of which turned() gave those of this estimate."""
        said = len(_correlation_findings(self.correlation, self.half_size)) if self.noise_model.correlated else 0
        half_size = self.half_size[::-1] if turn % 2 else self.half_size
        correlation = turned_back(self.correlation, turn)
        found = _correlation_findings(correlation, half_size) if said else []
        found += self.findings[said:]
        noise_model = self.noise_model.turned_back(turn)
        return replace(
            self, noise_model=noise_model, correlation=correlation, half_size=half_size, findings=tuple(found)
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
        # correlated Rician noise is drawn as Gaussian noise
        name = self.noise_model.label.replace("Gaussian", "Rician") if "rician" in self.kind else self.noise_model.label
        return "\n".join(
            [f"{name}, sigma {self.sigma:.4g} ({low:.4g} to {high:.4g}) at intensity {self.mean:.4g}", *self.findings]
        )


def estimate_noise_model(
    images: Sequence[Tensor],
    *,
    subjects: Sequence[Hashable] | None = None,
    from_zero: bool = False,
    network: NoiseLevelNetwork | None = None,
) -> NoiseEstimate:
    """Estimate the noise of images that share one noise model, from the images alone.

    Args:
        images: each [1, C, H, W] with H, W >= 16; the channels count as further images.
        subjects: of whom each image is, for images of one subject show the same things; None: each of its own.
        from_zero: intensity 0 means no signal, so that noise may be multiplicative or Rician.
        network: trained and calibrated; None: the pretrained one.
    Raises:
        ValueError: no image, or one that is too small, constant or not finite.
    """
    network = network or pretrained_network()
    subjects = range(len(images)) if subjects is None else subjects
    measured = [
        measure(image, number=i, subject=subject, network=network)
        for i, (image, subject) in enumerate(zip(images, subjects, strict=True))
    ]
    zeros = sum(float((image <= 0).double().mean()) for image in images) / len(images) if from_zero else None
    return estimate_from(measured, zeros=zeros, network=network)


@torch.no_grad()
def estimate_from(
    measured: Sequence[Measurement],
    *,
    zeros: float | None = None,
    correlated: bool | None = None,
    network: NoiseLevelNetwork | None = None,
) -> NoiseEstimate:
    """Estimate the noise of images that were measured by this network.

    Args:
        zeros: share of the pixels at or below 0, where 0 means no signal, so that noise may be multiplicative or
            Rician; None: it does not.
        correlated: whether the noise is; None: as found here. The others: see estimate_noise_model.
    """
    network = network or pretrained_network()
    bands = bands_of(measured, network=network)
    correlation, correlation_error = correlation_map(bands)
    reliable = float(outside(correlation_error, (0, 0)).median()) < STRONG_CORRELATION
    log_ratio, log_ratio_error = log_level_ratio(bands)
    step = _common_step(measured)
    if correlated is None:
        # photons are counted one by one
        correlated = not step and (
            abs(log_ratio) > max(WHITE_LOG_RATIO, 1.5 * log_ratio_error)
            or (reliable and neighbours_correlate(bands, subjects=_by_subject(measured, network)))
        )
    intensity, variance, error, unknown = _noise_level_function(bands, correlation if correlated else None)
    known = {"from_zero": zeros is not None, "step": 0.0 if correlated else step}
    known["excluded"] = () if correlated or zeros is None else _excluded(bands, zeros)
    kind, noise_model, parameters, misfit = fit_noise_model(intensity, variance, error, **known)
    if kind == "rician" and not correlated:
        means = torch.cat([one.mean[one.valid] for one in measured]).numpy()
        if (level := background_sigma(means, noise_model.sigma, intensity, variance, error)) is not None:
            noise_model, parameters = Rician(level), {"sigma": (level, BACKGROUND_ERROR * level)}
    sigma = math.sqrt(float(noise_model.variance(torch.tensor(bands.mean, dtype=torch.float64))))
    width = float(network.tail) * float(np.average(error, weights=1 / error**2))
    width *= max(1.0, min(misfit, MAX_MISFIT)) ** 0.5
    if not (correlated or step) and abs(log_ratio) > WHITE_LOG_RATIO:  # either level may be the right one
        width = max(width, 2 * abs(log_ratio))
    width = min(MAX_LOG_INTERVAL, width)
    half_size = blind_spot_half_size(correlation) if correlated else (0, 0)
    found = _correlation_findings(correlation, half_size) if correlated else []
    found += _findings(bands, error, reliable=reliable, misfit=misfit if kind == "free" else None, unknown=unknown)
    if correlated:
        noise_model, kind = CorrelatedGaussian(noise_model.gaussian(), correlation), f"correlated {kind}"
    return NoiseEstimate(
        sigma=sigma,
        sigma_interval=(sigma * math.exp(-width), sigma * math.exp(width)),
        mean=bands.mean,
        kind=kind,
        noise_model=noise_model,
        parameters=parameters,
        intensity=tuple(intensity.tolist()),
        level=tuple((variance**0.5).tolist()),
        error=tuple(error.tolist()),
        correlation=correlation.float(),
        half_size=half_size,
        findings=tuple(found),
        unknown=unknown,
    )


def _common_step(measured: Sequence[Measurement]) -> float:
    """What one photon adds to images of counted photons, all alike; 0 for any others."""
    steps = [one.counts for one in measured]
    return steps[0] if max(steps) - min(steps) <= 1e-3 * min(steps) else 0.0


def _excluded(bands: Bands, zeros: float) -> tuple[str, ...]:
    """Kinds of noise that the share of the pixels at or below 0 contradicts."""
    windows = int(bands.count.sum())
    none = (-(bands.intensity[0] ** 2) / bands.energy[0]).exp()  # a Poisson number of this mean and variance
    expected, found = (share * STRIDE**2 for share in (float((bands.count * none).sum()), zeros * windows))
    if found > MANY_ZEROS * expected and (expected > LEAST_ZEROS or zeros > CUT_OFF):
        return "rician", "speckle"
    few = found < FEW_ZEROS * expected and zeros < CUT_OFF / 2
    return ("gaussian", "poisson_gaussian") if few and expected > LEAST_ZEROS else ()


def _noise_level_function(bands: Bands, correlation: Tensor | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Intensity, variance and relative error of the level in the known bins, rising, and the share of windows in
    unknown ones; correlation None: white noise.
    """
    if correlation is None:
        intensity, variance, error = bands.intensity[0], bands.energy[0], bands.error[0]
    else:
        factor = band_factors(correlation)[:, None]
        weight = (factor > 0.1) / bands.error**2
        variance = (weight * bands.energy / factor.clamp_min(0.1)).sum(0) / weight.sum(0)
        intensity, error = (weight * bands.intensity).sum(0) / weight.sum(0), weight.amax(0) ** -0.5
    known = next(
        (error < limit for limit in (FIT_ERROR, MAX_LEVEL_ERROR) if int((error < limit).sum()) > 1),
        torch.ones_like(error, dtype=torch.bool),
    )
    order = intensity.argsort()
    order = order[known[order]]
    unknown = float(bands.count[~known].sum() / bands.count.sum())
    return intensity[order].numpy(), variance[order].numpy(), error[order].numpy(), unknown


def _by_subject(measured: Sequence[Measurement], network: NoiseLevelNetwork) -> list[Bands]:
    """Bands of the images of each subject that hold noise, empty for one subject."""
    subjects: dict[Hashable, list[Measurement]] = {}
    for one in measured:
        if one.valid.any():
            subjects.setdefault(one.subject, []).append(one)
    return [bands_of(images, network=network) for images in subjects.values()] if len(subjects) > 1 else []


def _correlation_findings(correlation: Tensor, half_size: tuple[int, int]) -> list[str]:
    down, across = float(correlation[RADIUS + 1, RADIUS]), float(correlation[RADIUS, RADIUS + 1])
    height, width = (2 * half + 1 for half in half_size)
    covered = f"a blind spot of {height} x {width} px covers it"
    if half_size == (0, 0):
        covered = "too little to ask for a wider blind spot"
    found = [f"neighbouring pixels correlate ({down:.2f} down, {across:.2f} across); {covered}"]
    edge = float(outside(correlation, (RADIUS - 1, RADIUS - 1)).abs().max())
    if edge > STRONG_CORRELATION:
        found.append(
            f"the correlation is still {edge:.2f} at a lag of {RADIUS} px, the end of the map: "
            "noise of longer range is not described"
        )
    return found


def _findings(
    bands: Bands, error: np.ndarray, *, reliable: bool, misfit: float | None, unknown: float
) -> tuple[str, ...]:
    """What limits the estimate; misfit: of the best noise model where none fits."""
    table = (
        (not reliable, "hardly any window is free of structure: whether pixels correlate is not known"),
        (
            misfit is not None,
            f"no known noise model fits (deviation {(misfit or 0.0) ** 0.5:.1f} standard errors): "
            "the noise-level function is given as a table",
        ),
        (
            bands.level_spread > LEVEL_SPREAD,
            f"levels of the images are a factor of {bands.level_spread:.1f} apart: "
            "this is the noise model of all together, ask for each on its own",
        ),
        (
            unknown > MOST_UNKNOWN,
            f"at the intensities of {100 * unknown:.0f} % of the image no window is free of structure: "
            "the noise model is extended to them",
        ),
        (error.min() > 0.1, f"the level is known to {100 * error.min():.0f} % only"),
        (
            bands.valid_share < 0.5,
            f"only {100 * bands.valid_share:.0f} % of the image counts; the rest is constant or clipped",
        ),
    )
    return tuple(finding for applies, finding in table if applies)
