"""The prompt encoder (PPE): patch tokens of three scales meet the words of a prompt (arXiv 2307.00174, its code)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 16  # px of the image a token stands for, at every scale
SIDE, WORDS = 14, 10  # tokens along a side, and words of a sentence, of the published network: 224 x 224 px


def unit(inputs: int, outputs: int, side: int = 3) -> nn.Sequential:
    """Convolution that keeps the size, batch normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def linear_patch(width: int, side: int) -> nn.Module:
    """A token from every pixel of a patch, each with weights of its own: width**2 * side**2 of them."""
    return nn.Conv2d(width, width, side, stride=side)


def mean_patch(width: int, side: int) -> nn.Module:
    """A token from the mean of a patch: width**2 weights."""
    return nn.Sequential(nn.AvgPool2d(side), nn.Conv2d(width, width, 1))


class TextLadder(nn.Module):
    """Word vectors [B, T, D] in each of the given widths (one after the other), a list of [B, T, width]."""

    def __init__(self, text_width: int, widths: tuple[int, ...]):
        super().__init__()
        steps = zip((text_width, *widths), widths, strict=False)
        self.steps = nn.ModuleList(nn.Conv1d(a, b, 3, padding=1) for a, b in steps)

    def forward(self, text: Tensor) -> list[Tensor]:
        found, words = [], text.mT
        for step in self.steps:
            words = F.relu(step(words))
            found.append(words.mT)
        return found


class GlobalMixing(nn.Module):
    """Self-attention among all tokens, as published: the image has one size, and no tile is exact."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 8, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, C, h, w] in and out."""
        flat = tokens.flatten(2).mT
        return self.attention(flat, flat, flat, need_weights=False)[0].mT.unflatten(2, tokens.shape[2:])


class LocalMixing(nn.Module):
    """A 5 x 5 convolution of each channel: any image size, and influence ends two tokens away."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Conv2d(width, width, 5, padding=2, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of [B, C, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TokenBlock(nn.Module):
    """Pre-norm transformer block on tokens [B, C, h, w]; a block that reads looks up the words first (cross-attention).

    Args:
        width: C. local: mixing among neighbours instead of among all. reads: words are given to forward, [B, T, C].
    """

    def __init__(self, width: int, *, local: bool, reads: bool):
        super().__init__()
        self.norm, self.mixing = ChannelNorm(width), (LocalMixing if local else GlobalMixing)(width)
        self.mlp_norm = ChannelNorm(width)
        self.mlp = nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1))
        self.query = nn.Conv2d(width, width, 1) if reads else None
        self.value = nn.Linear(width, width) if reads else None

    def forward(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        if self.query is not None:
            query = self.query(tokens).flatten(2).mT  # [B, N, C]
            found = F.scaled_dot_product_attention(query, words, self.value(words))
            tokens = tokens + found.mT.unflatten(2, tokens.shape[2:])
        tokens = tokens + self.mixing(self.norm(tokens))
        return tokens + self.mlp(self.mlp_norm(tokens))


class PromptEncoder(nn.Module):
    """Adds what the prompt asks for to the image's features of three scales (strides 1, 2, 4).

    Tokens are patches of 16 x 16 px at every scale: their mean through a linear layer, or, with `linear_patches` (as
    published), a weight for each of their pixels. They pass the scales down and up again, one block each.
    `published`: global attention and positions (224 x 224 px alone), the text added at the first scale only by a
    convolution over the word axis. Otherwise each block looks up the words, and mixes neighbours only.

    Args:
        widths: channels of the three scales. text_width: D of the word vectors.
    """

    def __init__(self, widths: tuple[int, int, int], *, text_width: int, published: bool, linear_patches: bool):
        super().__init__()
        self.published = published
        steps = (512, 256, 128, widths[0]) if published else widths
        self.text = TextLadder(text_width, steps)
        sides = (PATCH, PATCH // 2, PATCH // 4)
        patch = linear_patch if linear_patches else mean_patch
        self.patches = nn.ModuleList(patch(c, s) for c, s in zip(widths, sides, strict=True))
        block = {"local": not published, "reads": not published}
        self.down = nn.ModuleList(TokenBlock(width, **block) for width in widths)
        self.up = nn.ModuleList(TokenBlock(width, **block) for width in widths[:2])
        self.deeper = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.higher = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.back = nn.ModuleList(unit(width, width, 1) for width in widths)
        if published:
            self.spread = nn.Conv1d(WORDS, SIDE**2, 1)
            positions = (torch.zeros(1, width, SIDE, SIDE) for width in widths)
            self.positions = nn.ParameterList(nn.Parameter(nn.init.trunc_normal_(p, std=0.02)) for p in positions)

    def tokens(self, maps: list[Tensor], text: Tensor) -> list[Tensor]:
        """Tokens of the three scales that have met the text, each [B, width, H / 16, W / 16]."""
        words = self.text(text)
        tokens = [patch(x) for patch, x in zip(self.patches, maps, strict=True)]
        if self.published:
            tokens = [token + place for token, place in zip(tokens, self.positions, strict=True)]
            tokens[0] = tokens[0] + self.spread(words[-1]).mT.unflatten(2, (SIDE, SIDE))
            words = [None] * 3
        for level in range(3):
            tokens[level] = self.down[level](tokens[level], words[level])
            if level < 2:
                tokens[level + 1] = tokens[level + 1] + self.deeper[level](tokens[level])
        for level in (1, 0):
            tokens[level] = self.up[level](tokens[level] + self.higher[level](tokens[level + 1]), words[level])
        return tokens

    def forward(self, maps: list[Tensor], text: Tensor) -> list[Tensor]:
        """maps: [B, width, H / s, W / s] for s = 1, 2, 4, H and W multiples of 16; text: [B, T, D]."""
        tokens, added = self.tokens(maps, text), []
        for x, token, back in zip(maps, tokens, self.back, strict=True):
            large = F.interpolate(back(token), size=x.shape[2:], mode="bilinear")
            added.append(x + large)
        return added
