"""A block of the retractable transformer: attention in groups, then what is done token by token."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mptpn.attention import (
    DynamicPositionBias,
    RelativePositionBias,
    attention_in_groups,
    groups_in_turn,
    retractable_attention,
    whole_image_attention,
)

BIASES = {"dynamic": DynamicPositionBias, "relative": RelativePositionBias}
ROWS = 32  # of tokens, which the MLP takes at once on a GPU without gradient
KEPT = 2**17  # numbers of tokens that a CPU thread takes through a block at once: with what is made of them, a few MiB
LEAST = 16  # tokens at once
RADIUS = 3  # px, largest lag at which the network is told the noise's correlation
GRID, DARKEST = 8, 1e-2  # side of the grid on which the noise's power is told, and the smallest power that is told


class NoiseDescription(nn.Module):
    """What the network is told of the noise, as features: its correlation, and the log of its power.

    forward(correlation [..., 7, 7], 1 in the centre) -> [..., features].
    """

    def __init__(self, features: int):
        super().__init__()
        numbers = (2 * RADIUS + 1) ** 2 // 2 + GRID * (GRID // 2 + 1)
        self.layers = nn.Sequential(nn.Linear(numbers, features), nn.SiLU(), nn.Linear(features, features), nn.SiLU())

    def forward(self, correlation: Tensor) -> Tensor:
        side = 2 * RADIUS + 1
        torus = F.pad(correlation, (0, GRID - side, 0, GRID - side)).roll((-RADIUS, -RADIUS), (-2, -1))
        power = torch.fft.rfft2(torus).real.clamp_min(DARKEST).log()
        return self.layers(torch.cat([correlation.flatten(-2)[..., side**2 // 2 + 1 :], power.flatten(-2)], dim=-1))


class Block(nn.Module):
    """Pre-norm attention in groups at one stride, then pre-norm MLP, each added to its input (ART, Fig. 2); [B, H, W,
    C] in and out.

    Where the noise is described, [B, places, places, features], gains and shifts of both norms follow from it (as the
    time in Peebles and Xie 2023, adaLN-Zero, without its gate).
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int,
        interval: int,
        window: int,
        mlp_ratio: float,
        bias: str,
        whole_image: bool = False,
        backend: str = "auto",
        described: int = 0,
    ):
        super().__init__()
        self.heads, self.interval, self.window = heads, interval, window
        self.whole_image, self.backend = whole_image, backend
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.bias = BIASES[bias](heads, window=window)
        self.merge = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        hidden = int(width * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.described = described
        if described:
            self.modulation = nn.Linear(described, 4 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, description: Tensor | None = None) -> Tensor:
        gains = self._gains(description, x.shape[1:3]) if self.described else ()
        plain = x.is_cuda or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if not plain and not self.whole_image and self.backend == "auto":
            return self._by_groups(x, gains)
        qkv = self.qkv(_modulated(self.attention_norm(x), *gains[:2])).unflatten(-1, (3, self.heads, -1))
        if self.whole_image:
            attended = whole_image_attention(qkv, self.bias.network, interval=self.interval)
        else:
            attended = retractable_attention(
                qkv, self.bias(), interval=self.interval, window=self.window, backend=self.backend
            )
        x = x + self.merge(attended.flatten(-2))
        if torch.is_grad_enabled():
            return x + self.mlp(_modulated(self.mlp_norm(x), *gains[2:]))
        del qkv, attended
        for first in range(0, x.shape[1], ROWS):  # a few rows at a time take little memory
            rows = slice(first, first + ROWS)
            some = (gain[:, rows] if gain.shape[1] > 1 else gain for gain in gains[2:])
            x[:, rows] += self.mlp(_modulated(self.mlp_norm(x[:, rows]), *some))
        return x

    def _by_groups(self, x: Tensor, gains: tuple[Tensor, ...]) -> Tensor:
        """The same, a few groups at a time through the whole block, which stay in a CPU's cache."""
        out, bias = x.new_empty(x.shape), self.bias()
        placed = [gain.expand(x.shape) for gain in gains if gain.numel() > x.shape[-1]]
        images = (x, out, *placed)
        most = KEPT * torch.get_num_threads() // x.shape[-1]
        for (view, result, *gathered), part in groups_in_turn(images, bias, self.interval, self.window, tokens=most):
            # [groups, tokens, features]; a product of few rows is rounded otherwise than one of many
            shape, copies = (-1, part.shape[-1], x.shape[-1]), LEAST if view.numel() < LEAST * x.shape[-1] else 1
            tokens, *some = (one.reshape(shape) for one in (view, *gathered))
            if copies > 1:
                tokens, *some = (one.repeat(copies, 1, 1) for one in (tokens, *some))
            some = some or [gain.flatten(0, 2) for gain in gains]
            qkv = self.qkv(_modulated(self.attention_norm(tokens), *some[:2])).unflatten(-1, (3, self.heads, -1))
            tokens = tokens + self.merge(attention_in_groups(qkv, part).flatten(-2))
            tokens += self.mlp(_modulated(self.mlp_norm(tokens), *some[2:]))
            result.copy_(tokens[: len(tokens) // copies].view(result.shape))
        return out

    def _gains(self, description: Tensor, size: Sequence[int]) -> tuple[Tensor, ...]:
        """Gain and shift of either norm at each token, [B, H or 1, W or 1, C] each; between places they are linear."""
        gains = self.modulation(description)
        if gains.shape[1:3] != (1, 1):
            gains = F.interpolate(gains.permute(0, 3, 1, 2), size=size, mode="bilinear").permute(0, 2, 3, 1)
        return gains.chunk(4, -1)


def _modulated(x: Tensor, *gains: Tensor) -> Tensor:
    """x (1 + gain) + shift, of gains (gain, shift) or none."""
    return torch.addcmul(gains[1], x, 1 + gains[0]) if gains else x


class Group(nn.Module):
    """Blocks in a row, a 3x3 convolution, and the group's input added (ART, Fig. 2); [B, C, H, W] in and out.

    Args:
        width: features.
        blocks: each maps [B, H, W, C] to the same.
        recompute: trade time for memory in training (gradient checkpointing).
    """

    def __init__(self, width: int, *, blocks: list[Block], recompute: bool):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.recompute = recompute

    def forward(self, x: Tensor, description: Tensor | None = None) -> Tensor:
        tokens = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            given = (tokens, description)
            again = self.recompute and self.training
            tokens = checkpoint(block, *given, use_reentrant=False) if again else block(*given)
        return x + self.convolution(tokens.permute(0, 3, 1, 2))


class Groups(nn.ModuleList):
    """Groups in a row; [B, C, H, W] in and out."""

    def forward(self, x: Tensor, description: Tensor | None = None) -> Tensor:
        for group in self:
            x = group(x, description)
        return x
