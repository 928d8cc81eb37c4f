"""What attention adds to the logits for the relative position of query and key in a window."""

from collections.abc import Iterable
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn


class RelativePositionBias(nn.Module):
    """A learned number per head and offset (Swin, Liu et al. 2021); forward gives [heads, window**2, window**2]."""

    def __init__(self, heads: int, *, window: int = 8) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.trunc_normal_(torch.empty(heads, (2 * window - 1) ** 2), std=0.02))
        self.register_buffer("index", torch.tensor(_offset_index(window)), persistent=False)

    def forward(self) -> Tensor:
        return self.table[:, self.index]


class DynamicPositionBias(nn.Module):
    """A small network of the offset (CrossFormer, Wang et al. 2022); forward gives [heads, window**2, window**2].

    Linear(2, dim), twice (LayerNorm, ReLU, Linear(dim, dim)), then LayerNorm, ReLU, Linear(dim, heads).

    Args:
        heads: attention heads.
        window: side of a group, tokens.
        dim: hidden width; ART (Zhang et al. 2023) takes channels // 16.
    """

    def __init__(self, heads: int, *, window: int = 8, dim: int = 11) -> None:
        super().__init__()
        layers = [nn.Linear(2, dim)]
        for width in (dim, dim, heads):
            layers += [nn.LayerNorm(dim), nn.ReLU(), nn.Linear(dim, width)]
        self.network = nn.Sequential(*layers)
        offsets = torch.tensor(_pairs(range(1 - window, window)), dtype=torch.float32)
        self.register_buffer("offsets", offsets, persistent=False)  # [(2 window - 1)**2, 2]
        self.register_buffer("index", torch.tensor(_offset_index(window)), persistent=False)

    def forward(self) -> Tensor:
        return self.network(self.offsets).T[:, self.index]


@cache
def _offset_index(window: int) -> np.ndarray:
    """Number of each offset query - key, row-major from (1 - window, 1 - window), [window**2, window**2]."""
    position = _pairs(range(window))
    offset = position[:, None] - position[None, :] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def _pairs(steps: Iterable[int]) -> np.ndarray:
    """All pairs of steps, row-major, [n**2, 2]; NumPy's, for sums on the meta device load PyTorch's compiler."""
    return np.array(list(product(steps, repeat=2)))
