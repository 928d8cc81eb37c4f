"""Stage 1, preliminary denoising: the blind-spot network learns from one noisy copy of each image, given the noise level of each."""

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from mptpn.blind_spot import BlindSpotNetwork
from mptpn.images import turned_square
from mptpn.noise import PoissonGaussian, generator
from mptpn.posterior import constrained_negative_log_likelihood, fuse, negative_log_likelihood
from mptpn.training import Batch, fit

WARM, HEADS = 0.1, 0.15  # fractions of the training at which the warm start and the training of the spread alone end
UNIT = 0.25  # the network sees (y - offset) / sigma_n * UNIT: noise of one and the same size at every level


def train(
    network: BlindSpotNetwork,
    noisy: list[Tensor],
    *,
    laws: list[PoissonGaussian],
    steps: int,
    fabric: Fabric,
    batch: int = 8,
    patch: int = 96,
    lr: float = 1e-3,
    seed: int = 0,
    checkpoint: str | None = None,
    ema: float = 0.0,
    title: str = "stage 1",
) -> list[dict]:
    """Train in place on noisy images alone: squared error first, then the spread with the mean frozen (constrained likelihood), then both
    by the plain likelihood.

    Args:
        network: trained in place.
        noisy: the training images, each [1, C, H, W] with H, W >= patch; one noisy copy each (the `fixed` setting: noise is never redrawn).
        laws: noise law of each image, estimated from it, in the image's unit.
        batch, patch: patches a step and their side, px. lr: peak learning rate. The other arguments and the result: see training.fit.
    """
    small = [tuple(image.shape) for image in noisy if min(image.shape[2:]) < patch]
    if small:
        raise ValueError(f"images {small} are smaller than patch {patch}; choose a patch of at most {min(min(shape[2:]) for shape in small)} px.")
    return fit(
        network,
        loss=loss,
        batches=lambda step: patches(noisy, laws, batch=batch, patch=patch, keys=(seed, 201, step)),
        steps=steps,
        lr=lr,
        fabric=fabric,
        checkpoint=checkpoint,
        ema=ema,
        title=title,
    )


def patches(noisy: list[Tensor], laws: list[PoissonGaussian], *, batch: int, patch: int, keys: tuple[int, ...]) -> Batch:
    """Random square patches in random orientation of the square.

    Returns:
        noisy [batch, C, patch, patch]; offset, sigma, gain [batch, 1, 1, 1]: mean of the image the patch is from, and its noise law.
    """
    draw = generator(*keys)
    rows = []
    for _ in range(batch):
        which, turn = int(torch.randint(len(noisy), (), generator=draw)), int(torch.randint(8, (), generator=draw))
        image = noisy[which]
        top, left = (int(torch.randint(side - patch + 1, (), generator=draw)) for side in image.shape[2:])
        rows.append((turned_square(image, top=top, left=left, side=patch, turn=turn), image.mean(), laws[which].sigma, laws[which].gain))
    columns = [torch.tensor([float(row[i]) for row in rows]).view(-1, 1, 1, 1) for i in (1, 2, 3)]
    return dict(zip(("noisy", "offset", "sigma", "gain"), [torch.cat([row[0] for row in rows]), *columns], strict=True))


def predict(network: nn.Module, noisy: Tensor, *, offset: Tensor, sigma: Tensor, gain: Tensor, mean_frozen: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Blind mean, its spread sigma_mu and the noise sigma_n at that mean, each [B, C, H, W] in the image's unit; offset, sigma, gain [B, 1, 1, 1].

    The network works in units of the noise, so that one small network serves all levels: a flat region looks alike at 5 and at 50 gray levels.
    """
    scale = UNIT / (sigma**2 + gain * offset.clamp_min(0)).sqrt()
    mean, spread = network((noisy - offset) * scale, mean_frozen=mean_frozen)
    mean, spread = mean / scale + offset, spread / scale
    floor = 1e-4 * (sigma**2 + gain)  # a law without read noise has no noise in the dark: keep the likelihood finite
    sigma_n = (sigma**2 + gain * mean.detach().clamp_min(0) + floor).sqrt()
    return mean, spread, sigma_n


def loss(network: nn.Module, batch: Batch, fraction: float) -> Tensor:
    """Scalar loss of a batch from patches(); which one depends on the fraction of the training done, see train."""
    heads = WARM <= fraction < HEADS
    mean, sigma_mu, sigma_n = predict(network, batch["noisy"], offset=batch["offset"], sigma=batch["sigma"], gain=batch["gain"], mean_frozen=heads)
    if fraction < WARM:
        # the spread enters with weight 0 so that every weight has a gradient in each phase (several processes need that)
        return (((batch["noisy"] - mean) / sigma_n) ** 2).mean() + 0 * sigma_mu.sum()
    likelihood = constrained_negative_log_likelihood if heads else negative_log_likelihood
    return likelihood(batch["noisy"], mean, sigma_mu=sigma_mu, sigma_n=sigma_n).mean()


@torch.no_grad()
def denoise(network: nn.Module, noisy: Tensor, *, law: PoissonGaussian) -> dict[str, Tensor]:
    """Stage-1 result of one image.

    Args:
        network: a trained BlindSpotNetwork.
        noisy: [1, C, H, W].
        law: its noise law, in the image's unit.
    Returns:
        denoised (posterior mean), sigma (standard deviation of its error), mean (blind mean), sigma_mu, sigma_n: each [1, C, H, W] in the image's unit.
    """
    one = torch.ones(1, 1, 1, 1, dtype=noisy.dtype)
    mean, sigma_mu, sigma_n = predict(network, noisy, offset=noisy.mean() * one, sigma=law.sigma * one, gain=law.gain * one)
    denoised, sigma = fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n)
    return {"denoised": denoised, "sigma": sigma, "mean": mean, "sigma_mu": sigma_mu, "sigma_n": sigma_n.expand_as(noisy)}
