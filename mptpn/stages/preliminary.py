"""Stage 1, preliminary denoising: the blind-spot network learns from one noisy copy of each image, given the noise
level of each.
"""

import math

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from mptpn.filters import dihedral_crop, has_noise, mean_intensity
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.noise.models import NoiseModel
from mptpn.random import generator
from mptpn.stages.posterior import constrained_negative_log_likelihood, fuse, negative_log_likelihood
from mptpn.training.loop import Batch, fit

WARM, HEADS = 0.1, 0.15  # fractions of the training at which the warm start and the training of the spread alone end
KNOTS = 65  # of the table that stands for a noise model inside a batch, evenly spaced over the image's intensities
UNIT = 0.25  # the network sees (y - offset) / sigma_n * UNIT: noise of one and the same size at every level


def train(
    network: BlindSpotNetwork,
    noisy: list[Tensor],
    *,
    noise_models: list[NoiseModel],
    steps: int,
    fabric: Fabric,
    batch: int = 8,
    patch: int = 96,
    lr: float = 1e-3,
    seed: int = 0,
    checkpoint: str | None = None,
    ema: float = 0.0,
    seconds: float = math.inf,
    title: str = "stage 1",
) -> list[dict]:
    """Train in place on noisy images alone: squared error first, then the spread with the mean frozen (constrained
    likelihood), then both by the plain likelihood.

    Args:
        network: trained in place.
        noisy: the training images, each [1, C, H, W] with H, W >= patch; one noisy copy each (the `fixed` setting:
            noise is never redrawn).
        noise models: noise noise model of each image, estimated from it, in the image's unit.
        batch, patch: patches a step and their side, px. lr: peak learning rate. The other arguments and the result: see
            training.fit.
    """
    small = [tuple(image.shape) for image in noisy if min(image.shape[2:]) < patch]
    if small:
        raise ValueError(
            f"images {small} are smaller than patch {patch}; choose a patch of at most {min(min(shape[2:]) for shape in small)} px."
        )
    images = prepared(noisy, noise_models)
    return fit(
        network,
        loss=loss,
        batches=lambda step: patches(
            images,
            batch=batch,
            patch=patch,
            keys=(seed, "patches", step),
            transposed=network.half_size[0] == network.half_size[1],
        ),
        steps=steps,
        lr=lr,
        fabric=fabric,
        checkpoint=checkpoint,
        ema=ema,
        seconds=seconds,
        phases=(WARM, HEADS),
        title=title,
    )


def prepared(noisy: list[Tensor], noise_models: list[NoiseModel]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What patches() needs of each image [1, C, H, W]: the image over where it holds noise (1, else 0), [1, 2 C, H, W];
    its mean; its noise model, see tabulated.
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
    """Random square patches in random orientation of the square; without transposed ones where rows and columns differ
    (a blind spot that is not square).

    Args:
        images: from prepared.
    Returns:
        noisy [batch, C, patch, patch]; counts, the same shape, 0 in padding, zeroed background and saturation, else 1;
        offset [batch, 1, 1, 1], mean of the image the patch is from; noise model [batch, 2 + knots], see tabulated.
    """
    draw = generator(*keys)
    rows = []
    for _ in range(batch):
        which, turn = int(torch.randint(len(images), (), generator=draw)), int(torch.randint(8, (), generator=draw))
        image, offset, noise_model = images[which]
        top, left = (int(torch.randint(side - patch + 1, (), generator=draw)) for side in image.shape[2:])
        rows.append(
            (
                *dihedral_crop(image, top=top, left=left, side=patch, turn=turn if transposed else turn // 2 * 2).chunk(
                    2, 1
                ),
                offset,
                noise_model,
            )
        )
    return {
        name: torch.cat(column)
        for name, column in zip(("noisy", "counts", "offset", "noise_model"), zip(*rows, strict=True), strict=True)
    }


def tabulated(noise_model: NoiseModel, pixels: Tensor) -> Tensor:
    """A noise model as numbers: smallest and largest intensity of pixels (any shape), then the variance at 65
    intensities evenly between them, [1, 67].
    """
    ends = torch.stack([pixels.amin(), pixels.amax()])
    variance = noise_model.variance(
        torch.lerp(ends[0], ends[1], torch.linspace(0, 1, KNOTS, dtype=pixels.dtype, device=pixels.device))
    )
    # a noise model without read noise has none in the dark: keep the likelihood finite
    return torch.cat([ends, variance.clamp_min(1e-4 * variance.max())])[None]


def variance_at(intensity: Tensor, noise_model: Tensor) -> Tensor:
    """Variance of tabulated noise models [B, 67], linear between the knots and constant outside, at intensities [B, C,
    H, W].
    """
    low, high = (noise_model[:, i].view(-1, 1, 1, 1) for i in (0, 1))
    place = ((intensity - low) / (high - low).clamp_min(1e-30) * (KNOTS - 1)).clamp(0, KNOTS - 1).flatten(1)
    left = place.long().clamp_max(KNOTS - 2)
    below, above = (noise_model[:, 2:].gather(1, left + i) for i in (0, 1))
    return torch.lerp(below, above, place - left).view_as(intensity)


def predict(
    network: nn.Module, noisy: Tensor, *, offset: Tensor, noise_model: Tensor, mean_frozen: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Blind mean, its spread sigma_mu and the noise sigma_n at that mean, each [B, C, H, W] in the image's unit; offset
    [B, 1, 1, 1], noise model from tabulated.

    The network works in units of the noise, so that one small network serves all levels: a flat region looks alike at 5
    and at 50 gray levels.
    """
    scale = UNIT / variance_at(offset, noise_model).sqrt()
    mean, spread = network((noisy - offset) * scale, mean_frozen=mean_frozen)
    mean, spread = mean / scale + offset, spread / scale
    sigma_n = variance_at(mean.detach(), noise_model).sqrt()
    return mean, spread, sigma_n


def loss(network: nn.Module, batch: Batch, fraction: float) -> Tensor:
    """Scalar loss of a batch from patches(); which one depends on the fraction of the training done, see train."""
    heads = WARM <= fraction < HEADS
    mean, sigma_mu, sigma_n = predict(
        network, batch["noisy"], offset=batch["offset"], noise_model=batch["noise_model"], mean_frozen=heads
    )
    if fraction < WARM:
        # the spread enters with weight 0 so that every weight has a gradient in each phase (several processes need
        # that)
        return _mean(((batch["noisy"] - mean) / sigma_n) ** 2, batch["counts"]) + 0 * sigma_mu.sum()
    likelihood = constrained_negative_log_likelihood if heads else negative_log_likelihood
    return _mean(likelihood(batch["noisy"], mean, sigma_mu=sigma_mu, sigma_n=sigma_n), batch["counts"])


def _mean(x: Tensor, counts: Tensor) -> Tensor:
    return (x * counts).sum() / counts.sum().clamp_min(1)


@torch.no_grad()
def denoise(network: nn.Module, noisy: Tensor, *, noise_model: NoiseModel) -> dict[str, Tensor]:
    """Stage-1 result of one image.

    Args:
        network: a trained BlindSpotNetwork.
        noisy: [1, C, H, W].
        noise model: its noise noise model, in the image's unit.
    Returns:
        denoised (posterior mean), sigma (standard deviation of its error), mean (blind mean), sigma_mu, sigma_n: each
        [1, C, H, W] in the image's unit.
    """
    mean, sigma_mu, sigma_n = predict(
        network, noisy, offset=mean_intensity(noisy), noise_model=tabulated(noise_model, noisy[has_noise(noisy)])
    )
    denoised, sigma = fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n)
    return {"denoised": denoised, "sigma": sigma, "mean": mean, "sigma_mu": sigma_mu, "sigma_n": sigma_n}
