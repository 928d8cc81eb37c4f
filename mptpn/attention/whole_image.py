"""Sparse attention as ART has it: a group is every token of the image at stride `interval`, quadratic in pixels."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def whole_image_attention(qkv: Tensor, position_bias: nn.Module, *, interval: int) -> Tensor:
    """Attention among all tokens of equal (row mod interval, col mod interval) (ART, Zhang et al. 2023, Sec. 3.2).

    Groups may differ by a row or a column; each size is computed apart, so nothing beyond the edge is read or counted.

    Args:
        qkv: queries, keys and values, [B, H, W, 3, heads, head_dim].
        position_bias: network of any offset query - key in steps of `interval`, [n, 2] to [n, heads].
        interval: stride of a group's tokens, pixels.
    Returns:
        Attended values, [B, H, W, heads, head_dim], dtype of qkv.
    """
    height, width = qkv.shape[1:3]
    lattice = F.pad(qkv, (0, 0) * 3 + (0, -width % interval, 0, -height % interval))
    lattice = lattice.unflatten(2, (-1, interval)).unflatten(1, (-1, interval))
    out = lattice.new_zeros(*lattice.shape[:5], *lattice.shape[6:])  # [B, rows, phases, cols, phases, heads, head_dim]
    for (rows, phase_h), (cols, phase_w) in itertools.product(_phases(height, interval), _phases(width, interval)):
        tokens = lattice[:, :rows, phase_h, :cols, phase_w]
        # [groups, heads, rows * cols, head_dim]
        q, k, v = tokens.permute(5, 0, 2, 4, 6, 1, 3, 7).flatten(5, 6).flatten(1, 3)
        bias = _bias(position_bias, rows, cols).to(qkv.dtype)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        attended = attended.unflatten(2, (rows, cols)).unflatten(0, (len(qkv), tokens.shape[2], tokens.shape[4]))
        out[:, :rows, phase_h, :cols, phase_w] = attended.permute(0, 4, 1, 5, 2, 3, 6)
    return out.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def _phases(length: int, interval: int) -> list[tuple[int, slice]]:
    """Phases along an axis by the number of their tokens: (tokens, phases)."""
    tokens, longer = divmod(length, interval)
    phases = [(tokens + 1, slice(0, longer)), (tokens, slice(longer, interval))]
    return [(count, part) for count, part in phases if count and part.stop > part.start]


def _bias(position_bias: nn.Module, rows: int, cols: int) -> Tensor:
    """Bias of every query and key of a group of rows x cols tokens, [heads, rows * cols, rows * cols]."""
    like = next(position_bias.parameters())
    steps = [torch.arange(1 - n, n, dtype=like.dtype, device=like.device) for n in (rows, cols)]
    table = position_bias(torch.cartesian_prod(*steps)).T.unflatten(1, (2 * rows - 1, 2 * cols - 1))
    tokens = (torch.arange(n, device=like.device) for n in (rows, cols))
    row, col = (n[:, None] - n + len(n) - 1 for n in tokens)
    return table[:, row[:, None, :, None], col[None, :, None, :]].flatten(3, 4).flatten(1, 2)
