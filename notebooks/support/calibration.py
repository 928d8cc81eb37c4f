"""Stage 1's intervals after calibration, and the standardised residual: how far the stated sigma can be trusted."""

from dataclasses import dataclass

import torch
from torch import Tensor

SHARES = (0.68, 0.95)  # of the errors that calibrated intervals hold


@dataclass(frozen=True)
class Calibration:
    """Half-widths of the posterior's intervals in units of its sigma, by bins of sigma_mu^2 / (sigma_mu^2 + sigma_n^2).

    A Gaussian posterior would have 0.994 and 1.960 everywhere. A network's sigma is off by a factor that depends on the
    share: where the surroundings predict the pixel (near 0) that of the quick preset is 1.5 times too wide; at edges
    (near 1) it is about right. One pair of half-widths holds 60 % to 74 % instead of 68 % in fifths of the share; five
    pairs hold 64 % to 70 %.

    Attributes:
        edges: between the bins of share, rising.
        half_width_68, half_width_95: of the intervals that hold 68 % and 95 % of the errors, sigmas; one more than the
            edges.
    """

    edges: tuple[float, ...]
    half_width_68: tuple[float, ...]
    half_width_95: tuple[float, ...]

    def half_widths(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Half-widths of the 68 % and the 95 % interval at each pixel, sigmas, same shape as share."""
        which = torch.bucketize(share.contiguous(), share.new_tensor(self.edges))
        return share.new_tensor(self.half_width_68)[which], share.new_tensor(self.half_width_95)[which]


GAUSSIAN = Calibration((), (0.9945,), (1.96,))  # of a Gaussian posterior with the right sigma


def calibrate(errors_in_sigmas: Tensor, share: Tensor, *, bins: int = 5) -> Calibration:
    """Learn a Calibration on images with known truth: quantiles of |error| / sigma in bins of equally many pixels.

    The images must be others than those that trained the network, with the noise and levels of those it will serve.

    Args:
        errors_in_sigmas: (denoised - clean) / sigma, any shape.
        share: sigma_mu^2 / (sigma_mu^2 + sigma_n^2), that is (sigma / sigma_n)^2, same shape.
        bins: of share; 1: one pair of half-widths for all pixels.
    """
    if errors_in_sigmas.shape != share.shape or bins < 1 or share.numel() < 200 * bins:
        shapes = f"errors {tuple(errors_in_sigmas.shape)} and shares {tuple(share.shape)}"
        raise ValueError(f"{shapes} must fit, with at least 200 pixels for each of {bins} bins.")
    if not (torch.isfinite(errors_in_sigmas).all() and torch.isfinite(share).all()):
        raise ValueError("errors_in_sigmas or share holds NaN or infinite values; is sigma 0 somewhere?")
    order = share.flatten().argsort()
    parts = [part.sort().values for part in errors_in_sigmas.abs().flatten()[order].tensor_split(bins)]
    edges = [float(part[0]) for part in share.flatten()[order].tensor_split(bins)[1:]]
    return Calibration(tuple(edges), *(tuple(float(part[int(held * len(part))]) for part in parts) for held in SHARES))


def coverage(errors_in_sigmas: Tensor, share: Tensor, *, calibration: Calibration) -> tuple[float, float]:
    """Shares of the errors within the 68 % and the 95 % interval; arguments as in calibrate."""
    return tuple(float((errors_in_sigmas.abs() <= width).double().mean()) for width in calibration.half_widths(share))


def worse(*held: tuple[float, float]) -> tuple[float, float]:
    """Of several coverages the shares that are farthest from 0.68 and from 0.95."""
    columns = zip(zip(*held, strict=True), SHARES, strict=True)
    return tuple(max(column, key=lambda found: abs(found - share)) for column, share in columns)


def standardised_residual(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> Tensor:
    """(y - mu) / sqrt(s_mu^2 + s_n^2), standard normal if the likelihood is right; no truth is needed."""
    return (noisy - mean) / (sigma_mu**2 + sigma_n**2).sqrt()


def residual_check(residual: Tensor) -> dict[str, float]:
    """Variance about 0 (1 if the likelihood is right), kurtosis (3), within_1 (0.6827) and within_2 (0.9545).

    The residual shows the sum s_mu^2 + s_n^2 alone: a wrong sigma_n that sigma_mu makes up for is not found.
    """
    square = residual.double() ** 2
    variance, fourth = float(square.mean()), float(square.square().mean())
    within = {f"within_{n}": float((square <= n**2).double().mean()) for n in (1, 2)}
    return {"variance": variance, "kurtosis": fourth / variance**2} | within
