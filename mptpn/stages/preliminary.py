"""Stage 1, preliminary denoising: a blind-spot network learns from one noisy copy of each image and its noise level."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mptpn.filters import dihedral_crop, has_noise, mean_intensity
from mptpn.networks import BlindSpotNetwork
from mptpn.noise import NoiseModel
from mptpn.random import generator
from mptpn.training import Batch, fit

if TYPE_CHECKING:
    from lightning.fabric import Fabric

WARM, HEADS = 0.1, 0.15  # fractions of the training at which the warm start and the training of the spread alone end
KNOTS = 65  # of the table that stands for a noise model inside a batch, evenly spaced over the image's intensities
UNIT = 0.25  # the network sees (y - offset) / sigma_n * UNIT: noise of one and the same size at every level


def train(
    network: BlindSpotNetwork,
    noisy: Sequence[Tensor],
    *,
    noise_models: Sequence[NoiseModel],
    steps: int,
    fabric: "Fabric",
    batch: int = 8,
    patch: int = 96,
    lr: float = 1e-3,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    ema: float = 0.0,
    seconds: float = math.inf,
    title: str = "stage 1",
) -> list[dict]:
    """Train in place: squared error, then the spread with the mean frozen (constrained likelihood), then both.

    Args:
        network: trained in place.
        noisy: the training images, each [1, C, H, W] with H, W >= patch; the noise of an image is never redrawn.
        noise_models: of each image, estimated from it, in the image's unit.
        batch, patch: patches a step and their side, px. lr: peak learning rate. The rest and the result: see
            training.fit.
    Raises:
        ValueError: an image that is smaller than a patch.
    """
    small = [tuple(image.shape) for image in noisy if min(image.shape[2:]) < patch]
    if small:
        largest = min(min(shape[2:]) for shape in small)
        raise ValueError(f"images {small} are smaller than patch {patch}; choose a patch of at most {largest} px.")
    images, square = prepared(noisy, noise_models), network.half_size[0] == network.half_size[1]

    def batches(step: int) -> Batch:
        return patches(images, batch=batch, patch=patch, keys=(seed, "patches", step), transposed=square)

    training = {"steps": steps, "lr": lr, "ema": ema, "phases": (WARM, HEADS), "title": title}
    budget = {"seconds": seconds, "checkpoint": checkpoint, "fabric": fabric}
    return fit(network, loss=loss, batches=batches, **training, **budget)


def prepared(noisy: Sequence[Tensor], noise_models: Sequence[NoiseModel]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What patches() needs of each image [1, C, H, W].

    Returns:
        the image over its valid mask (1 where it holds noise, else 0), [1, 2 C, H, W]; its mean, [1, 1, 1, 1]; its
        noise model, see tabulated.
    """
    return [
        (torch.cat([y, has_noise(y).to(y)], 1), mean_intensity(y), tabulated(noise_model, y[has_noise(y)]))
        for y, noise_model in zip(noisy, noise_models, strict=True)
    ]


def patches(
    images: list[tuple[Tensor, Tensor, Tensor]],
    *,
    batch: int,
    patch: int,
    keys: tuple[int | str, ...],
    transposed: bool = True,
) -> Batch:
    """Random square patches in random orientation.

    Args:
        images: from prepared.
        keys: of the random generator.
        transposed: whether rows may become columns; not where the blind spot is not square.
    Returns:
        noisy [batch, C, patch, patch]; valid, the same shape, 0 in padding, zeroed background and saturation, else 1;
        offset [batch, 1, 1, 1], mean of the image the patch is from; noise_model [batch, 2 + knots], see tabulated.
    """
    draw = generator(*keys)
    rows = []
    for _ in range(batch):
        which, turn = int(torch.randint(len(images), (), generator=draw)), int(torch.randint(8, (), generator=draw))
        image, offset, noise_model = images[which]
        top, left = (int(torch.randint(side - patch + 1, (), generator=draw)) for side in image.shape[2:])
        turn = turn if transposed else turn // 2 * 2
        noisy, valid = dihedral_crop(image, top=top, left=left, side=patch, turn=turn).chunk(2, 1)
        rows.append((noisy, valid, offset, noise_model))
    columns = map(torch.cat, zip(*rows, strict=True))
    return dict(zip(("noisy", "valid", "offset", "noise_model"), columns, strict=True))


def tabulated(noise_model: NoiseModel, pixels: Tensor) -> Tensor:
    """A noise model as numbers, [1, 67]: the ends of the pixels' intensities, then the variance at 65 between them.

    Args:
        pixels: of any shape.
    """
    ends = torch.stack([pixels.amin(), pixels.amax()])
    knots = torch.linspace(0, 1, KNOTS, dtype=pixels.dtype, device=pixels.device)
    variance = noise_model.variance(torch.lerp(ends[0], ends[1], knots))
    # a noise model without read noise has none in the dark: keep the likelihood finite
    return torch.cat([ends, variance.clamp_min(1e-4 * variance.max())])[None]


def variance_at(intensity: Tensor, noise_model: Tensor) -> Tensor:
    """Variance of tabulated noise models [B, 67] at intensities [B, C, H, W]; linear between knots, else constant."""
    low, high = (noise_model[:, i].view(-1, 1, 1, 1) for i in (0, 1))
    place = ((intensity - low) / (high - low).clamp_min(1e-30) * (KNOTS - 1)).clamp(0, KNOTS - 1).flatten(1)
    left = place.long().clamp_max(KNOTS - 2)
    below, above = (noise_model[:, 2:].gather(1, left + i) for i in (0, 1))
    return torch.lerp(below, above, place - left).view_as(intensity)


def predict(
    network: nn.Module, noisy: Tensor, *, offset: Tensor, noise_model: Tensor, mean_frozen: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Blind mean, its spread sigma_mu and the noise sigma_n at that mean, each [B, C, H, W] in the image's unit.

    The network works in units of the noise: a flat region looks alike to it at 5 and at 50 gray levels.

    Args:
        noisy: [B, C, H, W]. offset: [B, 1, 1, 1]. noise_model: from tabulated, [B, 67].
    """
    scale = UNIT / variance_at(offset, noise_model).sqrt()
    mean, spread = network((noisy - offset) * scale, mean_frozen=mean_frozen)
    mean, spread = mean / scale + offset, spread / scale
    return mean, spread, variance_at(mean.detach(), noise_model).sqrt()


def loss(network: nn.Module, batch: Batch, fraction: float) -> Tensor:
    """Scalar loss of a batch from patches(); which one depends on the fraction of the training done, see train."""
    heads = WARM <= fraction < HEADS
    noisy = batch["noisy"]
    mean, sigma_mu, sigma_n = predict(
        network, noisy, offset=batch["offset"], noise_model=batch["noise_model"], mean_frozen=heads
    )
    if fraction < WARM:
        # the spread has weight 0, so that every weight has a gradient in each phase: several processes need that
        return _mean(((noisy - mean) / sigma_n) ** 2, batch["valid"]) + 0 * sigma_mu.sum()
    likelihood = constrained_negative_log_likelihood if heads else negative_log_likelihood
    return _mean(likelihood(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n), batch["valid"])


def _mean(x: Tensor, valid: Tensor) -> Tensor:
    return (x * valid).sum() / valid.sum().clamp_min(1)


def negative_log_likelihood(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> Tensor:
    """-log p(noisy | surroundings), (y - mu)^2 / 2(s_mu^2 + s_n^2) + log(s_mu^2 + s_n^2) / 2 (Wu et al. 2020, Eq. 7).

    Args:
        noisy, mean: [B, C, H, W].
        sigma_mu: standard deviation of the clean pixel given its surroundings, broadcast to noisy.
        sigma_n: standard deviation of the noise, broadcast to noisy.
    Returns:
        [B, C, H, W], up to a constant.
    """
    variance = sigma_mu**2 + sigma_n**2
    return 0.5 * ((noisy - mean) ** 2 / variance + variance.log())


def constrained_negative_log_likelihood(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> Tensor:
    """An upper bound: log(s_mu^2 + s_n^2) becomes log(s_n^2) + s_mu^2 / s_n^2 (Wu et al. 2020, Eq. 8).

    For the warm start alone. Its optimum s_mu^2 = sqrt(s_n^2 R) - s_n^2, R = E (y - mu)^2, is below the true R - s_n^2.
    Arguments as in negative_log_likelihood.
    """
    return 0.5 * ((noisy - mean) ** 2 / (sigma_mu**2 + sigma_n**2) + 2 * sigma_n.log() + (sigma_mu / sigma_n) ** 2)


def fuse(noisy: Tensor, mean: Tensor, *, sigma_mu: Tensor, sigma_n: Tensor) -> tuple[Tensor, Tensor]:
    """Posterior mean (s_mu^2 y + s_n^2 mu) / (s_mu^2 + s_n^2) (Wu et al. 2020, Eq. 9) and its standard deviation.

    The deviation follows from the same Gaussians. Arguments as in negative_log_likelihood.

    Returns:
        denoised and sigma of its error, [B, C, H, W] each, in the image's unit.
    """
    share = sigma_mu**2 / (sigma_mu**2 + sigma_n**2)
    return share * noisy + (1 - share) * mean, share.sqrt() * sigma_n


@torch.no_grad()
def denoise(network: nn.Module, noisy: Tensor, *, noise_model: NoiseModel) -> dict[str, Tensor]:
    """Stage-1 result of one image.

    Args:
        network: a trained BlindSpotNetwork.
        noisy: [1, C, H, W].
        noise_model: of its noise, in the image's unit.
    Returns:
        denoised (posterior mean), sigma (standard deviation of its error), mean (blind mean), sigma_mu, sigma_n: each
        [1, C, H, W] in the image's unit.
    """
    table = tabulated(noise_model, noisy[has_noise(noisy)])
    mean, sigma_mu, sigma_n = predict(network, noisy, offset=mean_intensity(noisy), noise_model=table)
    denoised, sigma = fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n)
    return {"denoised": denoised, "sigma": sigma, "mean": mean, "sigma_mu": sigma_mu, "sigma_n": sigma_n}
