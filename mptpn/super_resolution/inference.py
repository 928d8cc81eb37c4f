"""Enlarging an image with a trained network, whole or in tiles, in one or in eight orientations."""

import torch
from torch import Tensor, nn

from mptpn.filters import turned
from mptpn.io.array import check_whole
from mptpn.tiling import tiled


@torch.no_grad()
def enlarge(network: nn.Module, low: Tensor, *, tile: int = 0, halo: int = 16, self_ensemble: bool = False) -> Tensor:
    """The enlarged image, clipped to 0..1.

    Args:
        network: a SuperResolutionNetwork in eval mode.
        low: [1, C, H, W], 0..1, any size; a gray image passes through a colour network and comes back gray.
        tile: side of the tiles, px of low; 0: the whole image at once.
        halo: how far a tile looks beyond what is kept of it, px of low; the attention looks farther: seams remain.
        self_ensemble: mean over the eight orientations of the square (Lim et al. 2017, Sec. 4.3), eight times the work.
    Returns:
        [1, C, scale H, scale W], device and type of low; the work is done in the network's.
    Raises:
        ValueError: not floats in 0..1, [1, C, H, W], channels that the network does not take, a network in training
            mode, tile or halo that is no whole number or below 0.
    """
    wanted = network.mean.shape[1]
    _check(network, low, wanted, tile, halo)
    colour, side = low.to(network.mean).expand(-1, wanted, -1, -1), tile or max(low.shape[2:])
    total, turns = 0, range(8 if self_ensemble else 1)
    for turn in turns:
        result = tiled(network, turned(colour, turn), tile=side, halo=halo, scale=network.scale)
        total = total + _turned_back(result, turn)
    total = total / len(turns)
    return (total if low.shape[1] == wanted else total.mean(1, keepdim=True)).clamp(0, 1).to(low)


def _check(network: nn.Module, low: Tensor, wanted: int, tile: int, halo: int) -> None:
    one_image = low.ndim == 4 and low.shape[0] == 1 and low.shape[1] in (1, wanted) and 0 not in low.shape
    if not one_image or not low.is_floating_point():
        given = f"an image of shape {tuple(low.shape)} and type {low.dtype}"
        raise ValueError(f"{given} cannot be enlarged; give floats, [1, C, H, W] with C = 1 or {wanted}.")
    if not -0.5 < low.amin() <= low.amax() < 1.5:  # a bicubic image may pass 0..1 by little; NaN fails too
        given = f"pixels from {low.amin():g} to {low.amax():g}"
        raise ValueError(f"{given} cannot be enlarged; give 0..1, without NaN (read_image scales them so).")
    if network.training:
        raise ValueError("the network is in training mode (training=True); call network.eval() first.")
    for name, side in (("tile", tile), ("halo", halo)):
        check_whole(side, name=name, remedy="give its pixels")
        if side < 0:
            raise ValueError(f"{name} {side}: give a number of pixels, 0 or more.")


def _turned_back(image: Tensor, turn: int) -> Tensor:
    return (image.flip(3) if turn > 3 else image).rot90(-(turn % 4), (2, 3))
