"""Enlarging an image with a trained network, whole or in tiles, in one or in eight orientations; and the scores that
papers print.
"""

import torch
from torch import Tensor, nn

from mptpn.metrics import psnr_db, ssim
from mptpn.super_resolution.bicubic import check_scale, to_eight_bit
from mptpn.tiling import tiled

LUMA = (65.481, 128.553, 24.966)  # BT.601, of R, G, B in 0..1; plus 16: MATLAB's rgb2ycbcr


@torch.no_grad()
def enlarge(network: nn.Module, low: Tensor, *, tile: int = 0, halo: int = 16, self_ensemble: bool = False) -> Tensor:
    """The enlarged image, clipped to 0..1.

    Args:
        network: a SuperResolutionNetwork in eval mode.
        low: [1, C, H, W], 0..1, any size; gray images pass through a colour network as three equal channels and come
            back gray.
        tile: side of the pieces, px of low; 0: the whole image at once (the commands' --chop cuts in pieces to save
            memory).
        halo: how far a piece looks beyond the part of it that is kept, px of low; the attention looks farther, so that
            seams remain, see `seams`.
        self_ensemble: mean over the eight orientations of the square (Lim et al. 2017, Sec. 4.3), eight times the work.
    Returns:
        [1, C, scale H, scale W], on the device of low and in its type; the work is done where the network is and in its
        type.
    Raises:
        ValueError: not floats in 0..1, [1, C, H, W], channels that the network does not take, a network in training
            mode, tile or halo below 0.
    """
    wanted = network.mean.shape[1]
    if (
        low.ndim != 4
        or low.shape[0] != 1
        or low.shape[1] not in (1, wanted)
        or 0 in low.shape
        or not low.is_floating_point()
    ):
        raise ValueError(
            f"an image of shape {tuple(low.shape)} and type {low.dtype} cannot be enlarged; give floats, [1, C, H, W] with C = 1 or {wanted}."
        )
    if not -0.5 < low.amin() <= low.amax() < 1.5:  # a bicubic image may pass 0..1 by little; NaN fails too
        raise ValueError(
            f"pixels from {low.amin():g} to {low.amax():g} cannot be enlarged; give 0..1, without NaN (read_image scales them so)."
        )
    if network.training or tile < 0 or halo < 0:
        raise ValueError(
            f"call network.eval() first (training={network.training}); tile {tile} and halo {halo} start at 0."
        )
    colour = low.to(network.mean).expand(-1, wanted, -1, -1)
    turns = range(8) if self_ensemble else range(1)
    total = sum(_turned(_tiled(network, _turned(colour, turn), tile, halo), turn, back=True) for turn in turns) / len(
        turns
    )
    return (total if low.shape[1] == wanted else total.mean(1, keepdim=True)).clamp(0, 1).to(low)


def _turned(image: Tensor, turn: int, *, back: bool = False) -> Tensor:
    """One of the eight orientations, 0 to 7, or back from it."""
    if back:
        image = image.flip(3) if turn > 3 else image
        return image.rot90(-(turn % 4), (2, 3))
    image = image.rot90(turn % 4, (2, 3))
    return image.flip(3) if turn > 3 else image


def _tiled(network: nn.Module, low: Tensor, tile: int, halo: int) -> Tensor:
    return tiled(network, low, tile=tile or max(low.shape[2:]), halo=halo, scale=network.scale)


def seams(tiled: Tensor, whole: Tensor, *, tile: int, scale: int) -> dict[str, float]:
    """How much tiles show: steps across the tiles' borders that the whole image does not have, and the largest
    difference anywhere.

    Args:
        tiled, whole: [1, C, H, W], 0..1, by `enlarge` with and without tile; larger than one tile.
        tile, scale: as in `enlarge`.
    Returns:
        In gray levels of 255: "step" and "elsewhere", the root mean square of (tiled - whole)'s steps between
            neighbouring pixels across
        borders and away from them (equal: no seam), and "largest".
    """
    difference = (tiled - whole).double() * 255
    across, elsewhere = [], []
    for dim in (2, 3):
        steps = difference.diff(dim=dim)
        border = (torch.arange(steps.shape[dim]) + 1) % (tile * scale) == 0
        across.append(steps.index_select(dim, border.nonzero()[:, 0]).flatten())
        elsewhere.append(steps.index_select(dim, (~border).nonzero()[:, 0]).flatten())
    step, rest = (float(torch.cat(x).square().mean().sqrt()) for x in (across, elsewhere))
    return {"step": step, "elsewhere": rest, "largest": float(difference.abs().max())}


def luma(image: Tensor) -> Tensor:
    """Y of BT.601 in video range, (16 + 65.481 R + 128.553 G + 24.966 B) / 255, from [B, 3 or 1, H, W] in 0..1, not
    rounded; [B, 1, H, W].
    """
    weights = torch.tensor(LUMA, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
    return ((image.expand(-1, 3, -1, -1) * weights).sum(1, keepdim=True) + 16) / 255


def scores(enlarged: Tensor, high: Tensor, *, scale: int) -> dict[str, float]:
    """PSNR and SSIM as super-resolution papers print them: 8 bits, luma alone, a border of `scale` pixels left out.

    Args:
        enlarged, high: [1, 3 or 1, H, W], 0..1, of one size.
        scale: border, px.
    Returns:
        {"psnr_db", "ssim"}.
    Raises:
        ValueError: another scale than 2, 3, 4; sizes that differ; an image with nothing inside the border (SSIM needs
            11 x 11 px there).
    """
    check_scale(scale)
    if enlarged.shape[2:] != high.shape[2:]:
        sizes = " and ".join("{} x {} px".format(*x.shape[2:]) for x in (enlarged, high))
        raise ValueError(
            f"enlarged and high-resolution image are {sizes}; the low-resolution image must be 1 / {scale} of the high one on both sides."
        )
    if min(high.shape[2:]) < 11 + 2 * scale:
        raise ValueError(f"{high.shape[2]} x {high.shape[3]} px leave less than 11 x 11 inside a border of {scale}.")
    inside = (..., slice(scale, -scale), slice(scale, -scale))
    first, second = (luma(to_eight_bit(x.double()))[inside] for x in (enlarged, high))
    return {"psnr_db": psnr_db(first, second), "ssim": ssim(first, second)}
