"""Training of the noise-level network on photographs with noise of known, random noise models."""

from collections.abc import Sequence

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import autocorrelation, gaussian_blur, gaussian_taps
from mptpn.networks import NoiseLevelNetwork
from mptpn.networks.noise_level import BANDS, band_factors, stated_precision, window_sums
from mptpn.random import generator
from mptpn.training import Batch, fit

QUARTERS = 4  # parts of an image by intensity, each of which must get its own level right


def train(
    network: NoiseLevelNetwork,
    photos: list[Tensor],
    *,
    steps: int,
    fabric: Fabric,
    batch: int = 8,
    patch: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
    checkpoint: str | None = None,
) -> list[dict]:
    """Train in place on clean photographs with noise of known, random noise model; see draw for the noise and
    training.fit for the other arguments.
    """
    return fit(
        network,
        loss=loss,
        batches=lambda step: draw(photos, batch=batch, patch=patch, keys=(seed, "noise-level training", step)),
        steps=steps,
        lr=lr,
        ema=min(0.995, 1 - 3 / steps),
        fabric=fabric,
        checkpoint=checkpoint,
        title="noise level",
    )


def draw(photos: list[Tensor], *, batch: int, patch: int, keys: tuple[int | str, ...]) -> Batch:
    """Crops of photographs with noise of 2 to 80 gray levels of 255, half of it correlated, half of it signal-dependent
    to some degree.

    Half the crops are taken at half the sampling rate, 40 % are blurred by up to 2.4 px (medical images are smooth), 30
    % get dark surroundings, in 35 % the noise also varies smoothly over the image (CT, parallel MR), 15 % are rounded
    to 256 levels.

    Returns:
        noisy and variance (the true one at each pixel), [batch, 1, patch, patch]; factor, the share of the variance in
        each band, [batch, bands].
    """
    random = generator(*keys)
    rows = [_noisy_crop(photos, patch, random) for _ in range(batch)]
    noisy, variance, factor = zip(*rows, strict=True)
    return {"noisy": torch.cat(noisy), "variance": torch.cat(variance), "factor": torch.stack(factor)}


def _noisy_crop(photos: list[Tensor], patch: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    u = torch.rand(13, generator=random).tolist()
    photo = photos[int(u[0] * len(photos))]
    clean = cropped(photo, patch, at=u[2:4], halved=u[1] < 0.5)
    if u[4] < 0.4:
        clean = gaussian_blur(clean, sigma=0.4 + 2 * u[5])
    if u[6] < 0.3:
        clean = (clean - clean.mean() * (0.5 + u[7])).clamp_min(0)
    variance, share = (2 / 255 * 40 ** u[8]) ** 2, max(0.0, 2 * u[9] - 1)
    variance = variance * (1 - share + share * clean / clean.mean().clamp_min(0.02))
    if u[12] < 0.35:
        coarse = torch.randn(1, 1, 4, 4, generator=random)
        variance = variance * F.interpolate(coarse, size=clean.shape[2:], mode="bicubic").exp()
    kernel = random_kernel(random) if u[10] < 0.5 else torch.ones(1, 1)
    noisy = clean + variance.sqrt() * correlated_field(kernel, patch, random)
    return (noisy * 255).round() / 255 if u[11] < 0.15 else noisy, variance, band_factors(autocorrelation(kernel))


def cropped(photo: Tensor, side: int, *, at: Sequence[float], halved: bool) -> Tensor:
    """A square of `side` px of a photograph [1, C, H, W], where large enough at half the sampling rate if `halved`.

    at: of its upper left corner, 0..1 of the rows and columns where it can be.
    """
    step = 2 if halved and min(photo.shape[2:]) >= 2 * side else 1
    top, left = (int(x * (length - step * side + 1)) for x, length in zip(at, photo.shape[2:], strict=True))
    return F.avg_pool2d(photo[:, :, top : top + step * side, left : left + step * side], step)


def correlated_field(kernel: Tensor, side: int, random: torch.Generator) -> Tensor:
    """White noise of variance 1 that a kernel [K, K] of unit energy correlates, [1, 1, side, side]."""
    return F.conv2d(torch.randn(1, 1, *(side + len(kernel) - 1,) * 2, generator=random), kernel[None, None])


def random_kernel(random: torch.Generator) -> Tensor:
    """A kernel [9, 9] of unit energy that correlates noise: Gaussian of 0.25 to 1.3 px along each axis, 60 % of them
    less a wider one (a sharp CT kernel).
    """
    u = torch.rand(7, generator=random).tolist()
    down, across = 0.25 + 1.05 * u[0], 0.25 + 1.05 * (u[1] if u[2] < 0.7 else u[0])
    kernel = torch.outer(gaussian_taps(down, radius=4), gaussian_taps(across, radius=4))
    if u[3] < 0.6:
        kernel = kernel - u[4] * torch.outer(
            gaussian_taps(down + 0.3 + 1.2 * u[5], radius=4), gaussian_taps(across + 0.3 + 1.2 * u[6], radius=4)
        )
    return kernel / kernel.square().sum().sqrt()


def loss(network: NoiseLevelNetwork, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Negative log-likelihood of the log error of the level, Student's t of 4 degrees with the stated precision: whole
    images and their quarters.
    """
    error, precision = errors(network, batch)
    likelihood = -0.5 * precision.log() + 2.5 * torch.log1p(precision * error**2 / 4)
    return (likelihood * likelihood.new_tensor([2.0] + [1.0] * QUARTERS)).mean()


def errors(network: NoiseLevelNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log of estimated over true level in each band, for the whole image and its quarters by intensity, and its stated
    precision; each [B, bands, 5].
    """
    precision, energy, mean = (x.flatten(2) for x in network(batch["noisy"]))
    local = window_sums(batch["variance"]) / window_sums(torch.ones_like(batch["variance"]))
    true = local.flatten(2) * batch["factor"][:, :, None]
    quarter = mean[:, 0].argsort(1).argsort(1) * QUARTERS // mean.shape[2]
    # [B, 5, windows]
    parts = torch.stack([torch.ones_like(quarter), *(quarter == i for i in range(QUARTERS))], 1).to(energy)
    weight = precision.exp()
    total = torch.einsum("bjp,bsp->bjs", weight, parts)
    found, wanted = (torch.einsum("bjp,bsp->bjs", weight * x, parts) / total.clamp_min(1e-9) for x in (energy, true))
    return 0.5 * ((found + 1e-9) / (wanted + 1e-9)).log(), stated_precision(network, total)


@torch.no_grad()
def calibrate(
    network: NoiseLevelNetwork, photos: list[Tensor], *, batches: int = 30, seed: int = 0
) -> dict[str, float]:
    """Take the median bias off each band and widen the stated errors to what is seen, on photographs that were not
    trained on.

    Returns:
        the largest bias that was taken off, the factor on the stated errors, and the number of stated errors that holds
        95 %.
    """
    network.log_bias.zero_()
    network.spread.fill_(1.0)
    side = min(128, *(min(photo.shape[2:]) for photo in photos))
    drawn = [
        errors(network, draw(photos, batch=8, patch=side, keys=(seed, "noise-level calibration", i)))
        for i in range(batches)
    ]
    error, precision = (torch.cat([pair[i] for pair in drawn]) for i in (0, 1))
    sure = precision > 25  # a stated error of 20 %: beyond, nothing is claimed
    bias = torch.stack([error[:, band, 0][sure[:, band, 0]].median() for band in range(BANDS)])
    network.log_bias.copy_(bias)
    scores = ((error - bias[None, :, None]).abs() * precision.sqrt())[sure]
    network.spread.fill_(float(scores.quantile(0.68)))
    network.tail.fill_(float(scores.quantile(0.95)) / float(network.spread))
    return {"largest_bias": float(bias.abs().max()), "spread": float(network.spread), "tail": float(network.tail)}
