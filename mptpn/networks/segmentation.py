"""The prompt segmentation network: prompt encoder, scale fusion (MSFF) and gated decoder (UpAttention)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.networks.prompt_encoder import PATCH, SIDE, WORDS, ChannelNorm, PromptEncoder, unit

GLANCE = 96  # px, side of the reduced image by which presence is judged


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions of 3 x 3, each with batch normalisation and ReLU."""
    return nn.Sequential(*unit(inputs, outputs), *unit(outputs, outputs))


class Merge(nn.Sequential):
    """Patch merging: 2 x 2 pixels to one, layer normalisation, a linear layer; c channels become 2 c."""

    def __init__(self, width: int):
        super().__init__(nn.PixelUnshuffle(2), ChannelNorm(4 * width), nn.Conv2d(4 * width, 2 * width, 1))


class Expand(nn.Sequential):
    """Patch expanding: depth to space, layer normalisation, a linear layer; 2 c channels become c."""

    def __init__(self, width: int):
        super().__init__(nn.PixelShuffle(2), ChannelNorm(width // 2), nn.Conv2d(width // 2, width, 1))


class ScaleFusion(nn.Module):
    """MSFF: each scale gets the features of all three, by patch merging and patch expanding.

    [B, w, H, W], [B, 2 w, H / 2, W / 2], [B, 4 w, H / 4, W / 4] -> three times the channels at each scale. Otherwise
    than published, merging and expanding are strided convolutions (the same linear layers without normalisation, a
    third of the time on a CPU), and the first scale gets the sum of the other two: twice its channels.
    """

    def __init__(self, width: int, *, published: bool):
        super().__init__()
        self.published, pair = published, (width, 2 * width)
        if published:
            self.merge, self.expand = nn.ModuleList(map(Merge, pair)), nn.ModuleList(map(Expand, pair))
        else:
            self.merge = nn.ModuleList(nn.Conv2d(c, 2 * c, 2, stride=2) for c in pair)
            self.expand = nn.ModuleList(nn.ConvTranspose2d(2 * c, c, 2, stride=2) for c in pair)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        first, second, third = maps
        first_down, third_up = self.merge[0](first), self.expand[1](third)
        higher = (second, third_up) if self.published else (second + third_up,)
        return [
            torch.cat([first, *(self.expand[0](x) for x in higher)], 1),
            torch.cat([first_down, second, third_up], 1),
            torch.cat([self.merge[1](first_down), self.merge[1](second), third], 1),
        ]


class UpAttention(nn.Module):
    """Brings features one scale up and joins them with a skip, which a number per pixel gates.

    The gate: 1x1 convolution and ReLU, then mean, maximum and sum over channels through 3 - 6 - 1. Published: no
    sigmoid. Otherwise a sigmoid, and the prompt scales and shifts the channels of the result.
    """

    def __init__(self, below: int, skip: int, outputs: int, *, published: bool, gated: bool, condition: int):
        super().__init__()
        self.published, self.condition = published, None
        self.seen = nn.Conv2d(skip, skip, 1) if gated else None
        self.gate = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 1, 1)) if gated else None
        self.first, self.second = unit(below + skip, outputs), unit(outputs, outputs)
        if condition:
            self.condition = nn.Linear(condition, 2 * outputs)

    def gated(self, skip: Tensor) -> Tensor:
        """The skip times its gate."""
        if self.gate is None:
            return skip
        seen = F.relu(self.seen(skip))
        mean, largest = seen.mean(1, keepdim=True), seen.amax(1, keepdim=True)
        gate = self.gate(torch.cat([mean, largest, mean + largest], 1))
        return skip * (gate if self.published else gate.sigmoid())

    def forward(self, below: Tensor, skip: Tensor, condition: Tensor | None) -> Tensor:
        large = F.interpolate(below, size=skip.shape[2:], mode="bilinear")
        x = self.first(torch.cat([large, self.gated(skip)], 1))
        if self.condition is not None:
            scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
            x = x * (1 + scale) + shift
        return self.second(x)


def narrow(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1 x 1 convolution."""
    return nn.Conv2d(inputs, outputs, 1)


def mean_word(text: Tensor) -> Tensor:
    """Mean of the word vectors [B, T, D] that are not zeros, [B, D]."""
    count = text.detach().ne(0).any(2).sum(1, keepdim=True)
    return text.sum(1) / count.clamp(min=1)


class Glance(nn.Module):
    """What kind of image it is, [B, width], from the whole image at 96 x 96 px: seen once, then told to every tile."""

    def __init__(self, width: int):
        super().__init__()
        sizes = (3, 16, 24, 32, width // 2)
        steps = zip(sizes, sizes[1:], strict=False)
        self.layers = nn.Sequential(*(nn.Sequential(unit(a, b), nn.AvgPool2d(2)) for a, b in steps))

    def forward(self, reduced: Tensor) -> Tensor:
        x = self.layers(reduced)
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)


class Context(nn.Module):
    """Two more scales below the third, as in a U-Net: features [B, C, h, w] get what lies farther around them added.

    Convolutions at a half and a quarter of the size see enough around a pixel to tell a lesion from a shadow, or a
    membrane from a mitochondrion. h and w are multiples of 4.
    """

    def __init__(self, width: int):
        super().__init__()
        middle, lowest = width * 3 // 2, 2 * width
        self.fourth, self.fifth = double(width, middle), double(middle, lowest)
        self.join, self.back = double(middle + lowest, middle), nn.Conv2d(middle, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        fourth = self.fourth(F.max_pool2d(x, 2))
        fifth = self.fifth(F.max_pool2d(fourth, 2))
        joined = torch.cat([F.interpolate(fifth, size=fourth.shape[2:], mode="bilinear"), fourth], 1)
        return x + F.interpolate(self.back(self.join(joined)), size=x.shape[2:], mode="bilinear")


class SegmentationNetwork(nn.Module):
    """A mask, and whether the image has the target at all, from an image and the words of a prompt.

    Args:
        words: the vocabulary of the network's own encoder; () where word vectors come from a pretrained one.
        published: the network of arXiv 2307.00174 as its public code trains it (width 64, text_width 768, 224 x 224 px)
            without the parameters that never get a gradient there; otherwise the repaired one: text at every scale, any
            size, exact tiles, a judgement of presence.
        width: channels of the first scale; the others have 2 and 4 times as many.
        text_width: D of the word vectors.
        fusion, gates: scale fusion and gated skips, to be switched off in ablations.
        overview: the whole image at 96 x 96 px speaks in the mask too, not in the judgement of presence alone. A small
            set is then learned by heart (MoNuSeg: notebook 14). Not for `published`.
        linear_patches: see PromptEncoder. `published` always has them.
        deep: two more scales, see Context. Not for `published`.
    Raises:
        ValueError: `published` with `overview` or `deep`.
    """

    alignment = PATCH

    def __init__(
        self,
        words: tuple[str, ...] = (),
        *,
        published: bool = False,
        width: int = 16,
        text_width: int = 48,
        fusion: bool = True,
        gates: bool = True,
        overview: bool = False,
        linear_patches: bool = False,
        deep: bool = False,
    ):
        super().__init__()
        if published and (overview or deep):
            raise ValueError("the published network has neither overview nor deep; leave them out, or published.")
        # px, a multiple of PATCH: five token blocks reach 160, patches and convolutions less than 80 more, Context 88
        self.halo = 336 if deep else 256
        self.bytes_per_pixel = 60 * width  # 730 measured at width 16, float32, on a CPU
        self.published, self.words, widths = published, tuple(words), (width, 2 * width, 4 * width)
        self.arguments = {"words": list(words), "published": published, "width": width, "text_width": text_width}
        self.arguments |= {"fusion": fusion, "gates": gates, "overview": overview, "linear_patches": linear_patches}
        self.arguments |= {"deep": deep}
        self.overview = overview
        # the weights are given: nn.Embedding's own first ones, drawn on the device "meta", import a compiler (3 s)
        size = len(words), text_width
        self.vectors = nn.Embedding(*size, _weight=torch.randn(size)) if words else None
        stem = unit(3, width) if published else double(3, width)
        self.encoder = nn.ModuleList([stem, double(width, 2 * width), double(2 * width, 4 * width)])
        self.context = Context(widths[2]) if deep else None
        self.prompt = PromptEncoder(
            widths, text_width=text_width, published=published, linear_patches=linear_patches or published
        )
        self.fusion = ScaleFusion(width, published=published) if fusion else None
        first = 3 if published else 2
        seen = (first * widths[0], 3 * widths[1], 3 * widths[2]) if fusion else widths
        skips = seen if published or not fusion else widths
        self.narrow = None if published or not fusion else nn.ModuleList(map(narrow, seen, widths))
        self.glance = None if published else Glance(2 * text_width)
        condition = 0 if published else text_width * (3 if overview else 1)
        choices = {"published": published, "gated": gates, "condition": condition}
        self.up = nn.ModuleList(
            [UpAttention(skips[2], skips[1], skips[1], **choices), UpAttention(skips[1], skips[0], skips[0], **choices)]
        )
        self.logit = nn.Conv2d(skips[0], 1, 1)
        if not published:
            self.judge = nn.Sequential(
                nn.Linear(3 * text_width, text_width), nn.ReLU(), nn.Linear(text_width, text_width)
            )
            self.ask = nn.Linear(text_width, text_width + 1)

    def read(self, numbers: Tensor) -> Tensor:
        """Own word vectors [B, T, D] of word numbers [B, T]; -1 is no word, a vector of zeros."""
        vectors = self.vectors(numbers.clamp(min=0))
        return vectors * (numbers >= 0)[..., None]

    def look(self, image: Tensor) -> Tensor | None:
        """What is known of the whole image before its tiles, [B, 2 D]; None for the published network.

        image: [B, 3, H, W], any size; it is reduced here.
        """
        return None if self.glance is None else self.glance(F.adaptive_avg_pool2d(image, GLANCE))

    def presence(self, look: Tensor, text: Tensor) -> Tensor:
        """Logit [B] that the image has what the text [B, T, D] asks for."""
        summary = mean_word(text)
        question = self.ask(summary)
        answer = self.judge(torch.cat([look, summary], 1))
        return (answer * question[:, 1:]).sum(1) + question[:, 0]

    def forward(self, image: Tensor, text: Tensor, look: Tensor | None = None) -> Tensor:
        """Logits of the mask, [B, 1, H, W].

        Args:
            image: [B, 3, H, W], about 0..1, any size (published: 224 x 224).
            text: word vectors [B, T, D] (published: 10 words).
            look: of the whole image, from `look`, where image is a tile; read with `overview` alone.
        Raises:
            ValueError: the published network, and another size or number of words.
        """
        height, width = image.shape[2:]
        if self.published and ((height, width) != (SIDE * PATCH,) * 2 or text.shape[1] != WORDS):
            given = f"{height} x {width} px with {text.shape[1]} words"
            raise ValueError(f"{given} do not fit the published network; give 224 x 224 px with {WORDS} words.")
        condition = None
        if not self.published:
            condition = mean_word(text)
            if self.overview:
                condition = torch.cat([self.look(image) if look is None else look, condition], 1)
        x = F.pad(image, (0, -width % PATCH, 0, -height % PATCH), mode="replicate")
        maps = [x := self.encoder[0](x)]
        for block in self.encoder[1:]:
            maps.append(x := block(F.max_pool2d(x, 2)))
        if self.context is not None:
            maps[2] = self.context(maps[2])
        maps = self.prompt(maps, text)
        if self.fusion is not None:
            maps = self.fusion(maps)
        if self.narrow is not None:
            maps = [layer(x) for layer, x in zip(self.narrow, maps, strict=True)]
        x = self.up[0](maps[2], maps[1], condition)
        x = self.up[1](x, maps[0], condition)
        return self.logit(x)[..., :height, :width]
