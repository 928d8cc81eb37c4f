"""Stage 3, profound denoising: one blind network for all levels learns from clean-noisy pairs."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.training import Batch

UNIT = 0.25  # the network sees noise of about this standard deviation at every level
SECOND_DIFFERENCE = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6  # unit gain for white noise, blind to planes (Immerkaer 1996, Eq. 2)


def noise_scale(noisy: Tensor) -> Tensor:
    """A robust guess of the noise's standard deviation, median |second difference| / 0.6745, [B, 1, 1, 1] for [B, C, H, W]; at least 1e-4.

    Too high on texture, as in training: the network sees the same guess there. It makes the denoiser equivariant to gain, so that 5 and 50 gray levels look alike.
    """
    channels = noisy.shape[1]
    kernel = SECOND_DIFFERENCE.to(noisy).expand(channels, 1, 3, 3)
    response = F.conv2d(F.pad(noisy, (1, 1, 1, 1), mode="replicate"), kernel, groups=channels)
    return (response.abs().flatten(1).median(dim=1).values / 0.6745).clamp_min(1e-4).view(-1, 1, 1, 1)


def denoise(network: nn.Module, noisy: Tensor) -> Tensor:
    """Denoised image [B, C, H, W] of a noisy one of any size and level: the network works on (noisy - mean) / noise_scale."""
    offset, scale = noisy.mean(dim=(1, 2, 3), keepdim=True), noise_scale(noisy) / UNIT
    return network((noisy - offset) / scale) * scale + offset


def loss(network: nn.Module, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Weighted mean squared error in units of the noise, so that every level counts alike.

    Args:
        batch: noisy, clean [B, C, H, W]; sigma, the noise level of each pair, and weight, [B, 1, 1, 1].
    """
    error = (denoise(network, batch["noisy"]) - batch["clean"]) / batch["sigma"]
    return (batch["weight"] * error**2).mean()
