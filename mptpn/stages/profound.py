"""Stage 3, profound denoising: one blind network for all levels learns from clean-noisy pairs."""

from torch import Tensor, nn

from mptpn.filters import mean_intensity, robust_level
from mptpn.training import Batch

UNIT = 0.25  # the network sees noise of about this standard deviation at every level


def denoise(
    network: nn.Module,
    noisy: Tensor,
    *,
    offset: Tensor | None = None,
    scale: Tensor | None = None,
    correlation: Tensor | None = None,
) -> Tensor:
    """Denoised image [B, C, H, W] of a noisy one of any size and level, equivariant to gain and offset.

    The network works on (noisy - mean) / robust_level: 5 and 50 gray levels look alike to it. That level is too high on
    texture, in training as in use.

    Args:
        offset, scale: mean and robust level [B, 1, 1, 1] of the whole image where noisy is a part of one; None: of
            noisy itself.
        correlation: of the noise, [B or 1, 7, 7], for a network that is told it.
    """
    offset = mean_intensity(noisy) if offset is None else offset
    scale = (robust_level(noisy) if scale is None else scale) / UNIT
    told = () if correlation is None else (correlation,)
    return network((noisy - offset) / scale, *told) * scale + offset


def loss(network: nn.Module, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Weighted mean squared error in units of the whole image's noise, so that every image counts alike.

    Args:
        batch: noisy, clean [B, C, H, W]; weight of each pair, offset and scale (see denoise), [B, 1, 1, 1].
    """
    denoised = denoise(network, batch["noisy"], offset=batch["offset"], scale=batch["scale"])
    return (batch["weight"] * ((denoised - batch["clean"]) / batch["scale"]) ** 2).mean()
