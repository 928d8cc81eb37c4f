"""Stage 3, profound denoising: one blind network for all levels learns from clean-noisy pairs."""

from torch import Tensor, nn

from mptpn.noise import robust_level
from mptpn.training import Batch

UNIT = 0.25  # the network sees noise of about this standard deviation at every level


def denoise(network: nn.Module, noisy: Tensor) -> Tensor:
    """Denoised image [B, 1, H, W] of a noisy one of any size and level, equivariant to gain and offset.

    The network works on (noisy - mean) / robust_level: 5 and 50 gray levels look alike to it. That level is too high on texture, in training as in use.
    """
    offset, scale = noisy.mean(dim=(1, 2, 3), keepdim=True), robust_level(noisy) / UNIT
    return network((noisy - offset) / scale) * scale + offset


def loss(network: nn.Module, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Weighted mean squared error in units of the noise, so that every level counts alike.

    Args:
        batch: noisy, clean [B, C, H, W]; sigma, the noise level of each pair, and weight, [B, 1, 1, 1].
    """
    error = (denoise(network, batch["noisy"]) - batch["clean"]) / batch["sigma"]
    return (batch["weight"] * error**2).mean()
