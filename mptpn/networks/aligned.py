"""The retractable transformer in the few operations that other runtimes know, for images whose groups are all whole."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.networks.block import Block, Groups
from mptpn.networks.transformer import RetractableTransformer


class AlignedBlock(nn.Module):
    """A Block on [B, H, W, C] where H and W are multiples of interval * window; the same result up to rounding.

    Its tokens are ordered by group once, for the attention and for what is done token by token.
    """

    def __init__(self, block: Block):
        super().__init__()
        if block.whole_image or block.described:
            raise ValueError("blocks of whole-image groups, and blocks that are told the noise, have no aligned form.")
        self.heads, self.interval, self.window = block.heads, block.interval, block.window
        self.attention_norm, self.mlp_norm = block.attention_norm, block.mlp_norm
        self.merge, self.mlp = block.merge, block.mlp
        self.qkv = copy.deepcopy(block.qkv)  # the logits' factor is folded into the queries
        features = self.qkv.in_features
        with torch.no_grad():
            for tensor in (self.qkv.weight, self.qkv.bias):
                tensor[:features] *= (features // self.heads) ** -0.5
        self.register_buffer("bias", block.bias().detach()[None])  # [1, heads, window**2, window**2]

    def forward(self, x: Tensor) -> Tensor:
        size, tokens, features = x.shape, self.window**2, x.shape[3]
        x = self._grouped(x)
        qkv = self.qkv(self.attention_norm(x)).reshape(-1, tokens, 3, self.heads, features // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = (query @ key.transpose(-1, -2) + self.bias).softmax(-1) @ value
        x = x + self.merge(attended.transpose(1, 2).reshape(-1, tokens, features))
        return self._placed(x + self.mlp(self.mlp_norm(x)), size)

    def _grouped(self, x: Tensor) -> Tensor:
        """[B, H, W, C] to [groups, window**2, C]."""
        batch, height, width, features = x.shape
        window, interval, tokens = self.window, self.interval, self.window**2
        rows, cols = height // (window * interval), width // (window * interval)
        if interval == 1:  # fewer axes are faster to move
            x = x.reshape(batch, rows, window, cols, window, features)
            return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, tokens, features)
        x = x.reshape(batch, rows, window, interval, cols, window, interval, features)
        return x.permute(0, 1, 3, 4, 6, 2, 5, 7).reshape(-1, tokens, features)

    def _placed(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The inverse of _grouped."""
        batch, height, width, features = size
        window, interval = self.window, self.interval
        rows, cols = height // (window * interval), width // (window * interval)
        if interval == 1:
            x = x.reshape(batch, rows, cols, window, window, features).permute(0, 1, 3, 2, 4, 5)
        else:
            x = x.reshape(batch, rows, interval, cols, interval, window, window, features)
            x = x.permute(0, 1, 5, 2, 3, 6, 4, 7)
        return x.reshape(batch, height, width, features)


class AlignedTransformer(nn.Module):
    """A trained RetractableTransformer for images whose sides are multiples of its `alignment`.

    torch.export, ONNX and OpenVINO take it as it is; nothing is drawn, cut or masked.

    forward(noisy [B, C, H, W]) -> denoised [B, C, H, W].

    Raises:
        ValueError: a network that is told the correlation of the noise, or one with whole-image groups.
    """

    def __init__(self, network: RetractableTransformer):
        super().__init__()
        self.alignment, self.unshuffle = network.alignment, network.unshuffle
        self.stem, self.last, self.head = network.stem, network.last, network.head
        self.down, self.up, self.join = network.down, network.up, network.join
        self.encoder = nn.ModuleList(_aligned(groups) for groups in network.encoder)
        self.bottom = _aligned(network.bottom)
        self.decoder = nn.ModuleList(_aligned(groups) for groups in network.decoder)

    def forward(self, noisy: Tensor) -> Tensor:
        shallow = self.stem(F.pixel_unshuffle(noisy, self.unshuffle))
        x, skips = shallow, []
        for encoder, down in zip(self.encoder, self.down, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        x = self.bottom(x)
        for up, join, decoder, skip in reversed(list(zip(self.up, self.join, self.decoder, skips, strict=True))):
            x = decoder(join(torch.cat([F.pixel_shuffle(up(x), 2), skip], dim=1)))
        return noisy + F.pixel_shuffle(self.head(self.last(x) + shallow), self.unshuffle)


class _AlignedGroup(nn.Module):
    """A Group of aligned blocks; [B, C, H, W] in and out."""

    def __init__(self, blocks: nn.ModuleList, convolution: nn.Conv2d):
        super().__init__()
        self.blocks, self.convolution = nn.Sequential(*map(AlignedBlock, blocks)), convolution

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def _aligned(groups: Groups) -> nn.Sequential:
    return nn.Sequential(*(_AlignedGroup(group.blocks, group.convolution) for group in groups))
