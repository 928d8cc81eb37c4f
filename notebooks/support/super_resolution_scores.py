"""How good an enlarged image is: the scores that super-resolution papers print, and how much tiles show."""

import torch
from torch import Tensor

from mptpn.metrics import psnr_db, ssim
from mptpn.super_resolution import check_scale, to_eight_bit

LUMA = (65.481, 128.553, 24.966)  # BT.601, of R, G, B in 0..1; plus 16: MATLAB's rgb2ycbcr


def seams(tiled: Tensor, whole: Tensor, *, tile: int, scale: int) -> dict[str, float]:
    """How much tiles show: steps across their borders that the whole image does not have.

    Args:
        tiled, whole: [1, C, H, W], 0..1, by `enlarge` with and without tile; larger than one tile.
        tile, scale: as in `enlarge`.
    Returns:
        In gray levels of 255, of tiled - whole: root mean square of the steps between neighbouring pixels across
        borders, "step", and "elsewhere" (equal: no seam); and the "largest" difference.
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
    """Y of BT.601, (16 + 65.481 R + 128.553 G + 24.966 B) / 255, not rounded, [B, 1, H, W], of [B, 3 or 1, H, W]."""
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
        ValueError: another scale than 2, 3, 4; sizes that differ; less than 11 x 11 px (for SSIM) inside the border.
    """
    check_scale(scale)
    if enlarged.shape[2:] != high.shape[2:]:
        sizes = " and ".join("{} x {} px".format(*x.shape[2:]) for x in (enlarged, high))
        remedy = f"the low-resolution image must be 1 / {scale} of the high one on both sides"
        raise ValueError(f"enlarged and high-resolution image are {sizes}; {remedy}.")
    if min(high.shape[2:]) < 11 + 2 * scale:
        raise ValueError(f"{high.shape[2]} x {high.shape[3]} px leave less than 11 x 11 inside a border of {scale}.")
    inside = (..., slice(scale, -scale), slice(scale, -scale))
    first, second = (luma(to_eight_bit(x.double()))[inside] for x in (enlarged, high))
    return {"psnr_db": psnr_db(first, second), "ssim": ssim(first, second)}
