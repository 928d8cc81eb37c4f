"""Noise level of one image: a small network says where the local variance is noise and not structure; the law follows from there."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from lightning.fabric import Fabric
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.noise import SECOND_DIFFERENCE, PoissonGaussian, constant, generator, robust_level
from mptpn.training import Batch, fit

SMALLEST = 16  # px; below that, the window statistics are all border
BINS = 24  # intensity bins of the noise-level function
WINDOW = 13  # px, side of the local averages; with 5, the small or textured images of four seeds were off by up to 12 %, with 13 by up to 8.4 %
# Four high-pass filters of unit gain for white noise: second difference in both directions, first differences across, down and diagonal.
FILTERS = torch.stack(
    [
        SECOND_DIFFERENCE,
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, 0.0, 0.0]]) / 2**0.5,
        torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]) / 2**0.5,
        torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 1.0]]) / 2,
    ]
)[:, None]


@dataclass(frozen=True)
class NoiseLevel:
    """What is known of one image's noise.

    Attributes:
        law: variance as a function of intensity, in the image's unit.
        sigma: standard deviation at the image's mean intensity, in the image's unit.
        error: relative standard error of sigma seen on held-out photographs with known noise (0.03 is 3 %).
    """

    law: PoissonGaussian
    sigma: float
    error: float


class NoiseLevelNetwork(nn.Module):
    """Five 1x1 layers, as CNN_est (Wu et al. 2020), on local statistics instead of raw pixels.

    The published network averages a function of y alone and cannot tell texture from noise when levels differ. This one sees the local mean and the local
    energies in four high-pass bands relative to a robust level, and gives each pixel a confidence that its variance is noise.

    forward(noisy [B, 1, H, W]) -> confidence (sums to 1 over an image), local variance (intensity squared), local mean, each [B, 1, H, W].
    """

    def __init__(self, *, width: int = 16):
        super().__init__()
        widths = (6, width, width, width, width)
        layers = [layer for a, b in zip(widths, widths[1:], strict=False) for layer in (nn.Conv2d(a, b, 1), nn.ReLU())]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
        self.register_buffer("filters", FILTERS, persistent=False)
        self.register_buffer("log_bias", torch.zeros(()))  # of sigma, set by calibrate
        self.register_buffer("error", torch.zeros(()))

    def forward(self, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        response = F.conv2d(F.pad(noisy, (1, 1, 1, 1), mode="replicate"), self.filters)
        robust = robust_level(noisy)
        energy = F.avg_pool2d(response**2, WINDOW, 1, WINDOW // 2, count_include_pad=False)
        mean = F.avg_pool2d(noisy, WINDOW, 1, WINDOW // 2, count_include_pad=False)
        second, across, down, diagonal = (energy / robust**2 + 1e-3).log().split(1, dim=1)
        features = torch.cat([mean, second, across + down, (across - down).abs(), diagonal, robust.log().expand_as(mean)], dim=1)
        dead = F.max_pool2d(constant(noisy).to(noisy), WINDOW, 1, WINDOW // 2) > 0  # a window that touches a constant background holds less than its noise
        trusted = self.layers(features).masked_fill(dead & ~dead.flatten(1).all(1).view(-1, 1, 1, 1), -math.inf)
        return trusted.flatten(1).softmax(dim=1).view_as(mean), energy[:, :1], mean


def log_sigma(network: NoiseLevelNetwork, noisy: Tensor) -> Tensor:
    """Logarithm of the level of each image, [B]: half the log of the confident mean of the local variances."""
    confidence, variance, _ = network(noisy)
    return 0.5 * (confidence * variance).flatten(1).sum(1).log() - network.log_bias


def train(
    network: NoiseLevelNetwork,
    photos: list[Tensor],
    *,
    steps: int,
    fabric: Fabric,
    batch: int = 6,
    patch: int = 96,
    lr: float = 3e-3,
    seed: int = 0,
    checkpoint: str | None = None,
) -> list[dict]:
    """Train in place on clean photographs with noise of known, random law; see draw for the noise and training.fit for the other arguments."""
    return fit(
        network,
        loss=loss,
        batches=lambda step: draw(photos, batch=batch, patch=patch, keys=(seed, 211, step)),
        steps=steps,
        lr=lr,
        fabric=fabric,
        checkpoint=checkpoint,
        title="noise level",
    )


def draw(photos: list[Tensor], *, batch: int, patch: int, keys: tuple[int, ...]) -> Batch:
    """Crops of photographs, half of them at half the sampling rate, with Poisson-Gaussian noise of 2 to 60 gray levels of 255, half of it white.

    Returns:
        noisy and variance (the true one, at each pixel), [batch, 1, patch, patch].
    """
    random = generator(*keys)
    noisy, variance = [], []
    for _ in range(batch):
        photo = photos[int(torch.randint(len(photos), (), generator=random))]
        u = torch.rand(5, generator=random).tolist()
        photo = F.avg_pool2d(photo, 2) if u[0] < 0.5 and min(photo.shape[2:]) >= 2 * patch else photo
        top, left = (int(u[1 + i] * (photo.shape[2 + i] - patch + 1)) for i in (0, 1))
        clean = photo[:, :, top : top + patch, left : left + patch]
        level2 = (2 / 255 * 30 ** u[3]) ** 2
        share = max(0.0, 2 * u[4] - 1)
        law = PoissonGaussian(sigma=math.sqrt(level2 * (1 - share)), gain=level2 * share / float(clean.mean().clamp_min(0.05)))
        noisy.append(law.sample(clean, generator=random))
        variance.append(law.variance(clean))
    return {"noisy": torch.cat(noisy), "variance": torch.cat(variance)}


def loss(network: NoiseLevelNetwork, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Squared log ratio of confident variance to the true variance at the same pixels, cut at 25 % so that hopeless texture does not rule."""
    confidence, variance, _ = network(batch["noisy"])
    found, true = ((confidence * v).flatten(1).sum(1) for v in (variance, batch["variance"]))
    return (0.5 * (found / true).log()).square().clamp(max=0.0625).mean()


@torch.no_grad()
def calibrate(
    network: NoiseLevelNetwork, photos: list[Tensor], *, levels: tuple[float, ...] = (5 / 255, 12 / 255, 25 / 255, 50 / 255), seed: int = 0
) -> list[dict]:
    """Take the median bias off and note the spread, on photographs that were not trained on.

    Returns:
        [{"photo", "sigma", "estimated"}, ...], after calibration.
    """
    network.log_bias.zero_()
    rows = []
    for p, photo in enumerate(photos):
        for k, sigma in enumerate(levels):
            noisy = PoissonGaussian(sigma).sample(photo, generator=generator(seed, 212, p, k))
            rows.append({"photo": p, "sigma": sigma, "estimated": float(log_sigma(network, noisy).exp())})
    logs = np.log([row["estimated"] / row["sigma"] for row in rows])
    network.log_bias.fill_(float(np.median(logs)))
    network.error.fill_(float(np.sqrt(np.mean((logs - np.median(logs)) ** 2))))
    for row in rows:
        row["estimated"] /= math.exp(float(network.log_bias))
    return rows


@torch.no_grad()
def estimate(network: NoiseLevelNetwork, noisy: Tensor, *, law: str = "white") -> NoiseLevel:
    """Noise level of one image, from the image alone.

    Args:
        network: trained and calibrated.
        noisy: [1, 1, H, W], H, W >= 16.
        law: "white" (one sigma) or "poisson_gaussian" (variance = gain * intensity + sigma^2, non-negative least squares over intensity bins; too low in
            the bright part of an image that is mostly dark, where nearly all confidence lies).
    """
    if law not in ("white", "poisson_gaussian"):
        raise ValueError(f"law {law!r} is unknown; choose white or poisson_gaussian.")
    if noisy.shape[:2] != (1, 1) or min(noisy.shape[2:]) < SMALLEST:
        raise ValueError(f"shape {tuple(noisy.shape)}: give one gray image [1, 1, H, W] of at least {SMALLEST} x {SMALLEST} px.")
    if law == "white":
        sigma = float(log_sigma(network, noisy).exp())
        return NoiseLevel(law=PoissonGaussian(sigma), sigma=sigma, error=float(network.error))
    intensity, variance, weight = noise_level_function(network, noisy)
    fitted = PoissonGaussian(sigma=float(variance.min() ** 0.5))
    for _ in range(3):  # the spread of a variance estimate grows with the variance: weight by the last fit
        rows = (weight**0.5 / fitted.variance(intensity))[:, None] * torch.stack([intensity.clamp_min(0), torch.ones_like(intensity)], 1)
        gain, sigma2 = nnls(rows.numpy(), (weight**0.5 / fitted.variance(intensity) * variance).numpy())[0]
        fitted = PoissonGaussian(sigma=max(math.sqrt(sigma2), 1e-6), gain=float(gain))
    return NoiseLevel(law=fitted, sigma=math.sqrt(float(fitted.variance(noisy.mean()))), error=float(network.error))


@torch.no_grad()
def noise_level_function(network: NoiseLevelNetwork, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Confident local variance in intensity bins of equal confidence; no law is assumed.

    Returns:
        intensity, variance (intensity squared) and weight (sums to 1) of each bin, float64 [at most 24].
    """
    confidence, variance, mean = (x.flatten().double() for x in network(noisy))
    order = mean.argsort()
    confidence, variance, mean = confidence[order], variance[order], mean[order]
    which = (confidence.cumsum(0) * BINS).long().clamp_max(BINS - 1)
    total, var, mid = (torch.zeros(BINS, dtype=torch.float64).index_add_(0, which, x) for x in (confidence, confidence * variance, confidence * mean))
    held = total > 0
    return mid[held] / total[held], var[held] / total[held] * math.exp(-2 * float(network.log_bias)), total[held]
