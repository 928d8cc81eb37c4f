"""Training of the network that tells noise from fine texture in what a denoiser took away."""

from collections.abc import Sequence

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import gaussian_blur, gaussian_taps
from mptpn.inference import NoisyImages
from mptpn.networks.noise_share import SIDE, NoiseShareNetwork
from mptpn.random import generator
from mptpn.training import Batch, fit
from support.noise_level_training import correlated_field, cropped, random_kernel

CROP = 176  # px, side of what is denoised: a square of SIDE and what the networks see around it
EDGE = (CROP - SIDE) // 2
WEAKEST, STRONG, STRONGEST = 0.15, 4.0, 60.0  # gray levels of 255, standard deviation of drawn noise
LEAST = 1e-3  # of the noise's variance: a weaker residual is none


def drawn(photos: Sequence[Tensor], random: torch.Generator, *, blurred: bool = False) -> tuple[Tensor, Tensor]:
    """A noisy crop of a photograph and the crop itself, [1, 1, CROP, CROP] each, gray levels of 255.

    A third of the crops have half the sampling rate, others are blurred, magnified or dark around.
    blurred: strong noise that a Gaussian correlates, in all of them.
    """
    u = torch.rand(8, generator=random).tolist()
    clean = 255 * cropped(photos[int(u[0] * len(photos))], CROP, at=u[2:4], halved=u[1] < 0.35)
    if u[4] < 0.3:
        clean = gaussian_blur(clean, sigma=0.4 + 1.6 * u[5])
    if u[6] < 0.15:
        clean = (clean - clean.mean() * (0.5 + u[7])).clamp_min(0)
    elif u[6] > 0.85:
        part = clean[..., : 2 * CROP // 3 + 1, : 2 * CROP // 3 + 1]
        clean = F.interpolate(part, size=(CROP, CROP), mode="bilinear", align_corners=False)
    return noisy_of(clean, STRONG if blurred else WEAKEST, random, blurred=blurred), clean


def scene(random: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same of a drawn scene: an even or sloping ground, in two of three with up to twelve ellipses."""
    u = torch.rand(6, generator=random).tolist()
    row, column = torch.meshgrid(*[torch.linspace(-1, 1, CROP)] * 2, indexing="ij")
    clean = 20 + 120 * u[0] + 60 * (u[1] - 0.5) * row + 60 * (u[2] - 0.5) * column
    for _ in range(int(12 * u[4]) if u[3] < 0.67 else 0):
        v = torch.rand(6, generator=random).tolist()
        down, across = (
            (row - 2 * v[0] + 1) / (0.03 + 0.6 * v[2] ** 2),
            (column - 2 * v[1] + 1) / (0.03 + 0.6 * v[3] ** 2),
        )
        clean = torch.where(down**2 + across**2 < 1, clean + 120 * (v[4] - 0.5), clean)
    clean = gaussian_blur(clean.clamp_min(0)[None, None], sigma=0.3 + u[5])
    return noisy_of(clean, 2.0, random), clean


def noisy_of(clean: Tensor, weakest: float, random: torch.Generator, *, blurred: bool = False) -> Tensor:
    """The crop under noise of `weakest` to STRONGEST gray levels: half of it correlated, half signal-dependent to some
    degree, a twelfth Rician; a fifth of the crops is rounded.
    """
    u = torch.rand(7, generator=random).tolist()
    sigma, share = weakest * (STRONGEST / weakest) ** u[0], max(0.0, 2 * u[1] - 1)
    if u[5] < 1 / 12 and not blurred:
        parts = sigma * torch.randn(2, *clean.shape, generator=random)
        return torch.hypot(clean + parts[0], parts[1])
    variance = sigma**2 * (1 - share + share * clean / clean.mean().clamp_min(5))
    kernel = torch.ones(1, 1)
    if u[2] < 0.5 or blurred:
        kernel = gaussian_kernel(0.5 + 1.3 * u[6]) if u[4] > 0.7 or blurred else random_kernel(random)
    noisy = clean + variance.sqrt() * correlated_field(kernel, CROP, random)
    return noisy.round() if u[3] < 0.2 else noisy


def gaussian_kernel(sigma: float) -> Tensor:
    """A Gaussian [13, 13] of unit energy; sigma in px."""
    taps = gaussian_taps(sigma, radius=6)
    kernel = torch.outer(taps, taps)
    return kernel / kernel.square().sum().sqrt()


def measured(images: Sequence[Tensor], random: torch.Generator) -> Tensor:
    """A crop of a real noisy image, [1, 1, CROP, CROP], gray levels of 255."""
    u = torch.rand(3, generator=random).tolist()
    return 255 * cropped(images[int(u[0] * len(images))], CROP, at=u[1:], halved=False)


def example(noisy: Tensor, clean: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Residual and denoised image of a crop, [1, SIDE, SIDE] in standard deviations of the estimated noise, and the
    share of the noise in the residual; None where nothing is estimated or removed.

    clean: None for real noise, whose share counts as 1.
    """
    image = noisy[0, 0].double().numpy()
    try:
        denoiser = NoisyImages.of([image]).prepare()
    except ValueError:  # constant, or nothing that says anything of noise
        return None
    found = denoiser.predict(image, uncertainty=False)
    result, _ = found.applied(image)
    sigma, result = torch.from_numpy(found.noise_sigma), torch.from_numpy(result).float()
    middle = (slice(EDGE, EDGE + SIDE),) * 2
    residual = ((noisy[0, 0] - result) / sigma)[middle]
    share = torch.ones(())
    if clean is not None:
        noise = ((noisy - clean)[0, 0] / sigma)[middle]
        share = ((noise * residual).sum() / residual.square().sum()).clamp(0, 1)
    both = residual[None], (result / sigma)[middle][None]
    known = all(bool(x.isfinite().all()) for x in (*both, share)) and float(residual.square().mean()) > LEAST
    return (*both, share) if known else None


def train(
    network: NoiseShareNetwork,
    examples: Sequence[tuple[Tensor, Tensor, Tensor]],
    *,
    steps: int,
    fabric: Fabric,
    batch: int = 16,
    lr: float = 2e-3,
    seed: int = 0,
    checkpoint: str | None = None,
) -> list[dict]:
    """Train in place on what example() returns; see training.fit for the other arguments."""
    whole = [torch.stack(column) for column in zip(*examples, strict=True)]
    return fit(
        network,
        loss=loss,
        batches=lambda step: draw(whole, batch=batch, random=generator(seed, "noise-share training", step)),
        steps=steps,
        lr=lr,
        ema=min(0.99, 1 - 3 / steps),
        fabric=fabric,
        checkpoint=checkpoint,
        title="noise share",
    )


def draw(whole: Sequence[Tensor], *, batch: int, random: torch.Generator) -> Batch:
    """Squares of one random side, turned and flipped; in half the batches both images are negative."""
    u = torch.rand(5, generator=random).tolist()
    chosen = torch.randint(len(whole[0]), (batch,), generator=random)
    side = SIDE // 2 + int(u[0] * (SIDE // 2 + 1))
    top, left = (int(x * (SIDE - side + 1)) for x in u[1:3])
    both = torch.cat([x[chosen] for x in whole[:2]], 1)[..., top : top + side, left : left + side]
    both = torch.rot90(both.mT if u[3] < 0.5 else both, int(8 * u[3]) % 4, (2, 3)) * (1 if u[4] < 0.5 else -1)
    both = both.contiguous(memory_format=torch.channels_last)
    return {"residual": both[:, :1], "denoised": both[:, 1:], "share": whole[2][chosen]}


def loss(network: NoiseShareNetwork, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Binary cross-entropy of the share, whose least value is at its expectation."""
    return F.binary_cross_entropy_with_logits(network(batch["residual"], batch["denoised"]), batch["share"])
