"""The retractable transformer: blocks of dense and sparse attention in turn, flat as in ART or on several scales."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.attention import RETRACTABLE_BACKENDS as BACKENDS
from mptpn.networks.block import BIASES, RADIUS, Block, Group, Groups, NoiseDescription

ATTENTION = ("both", "dense", "sparse")
SPARSE_GROUPS = ("fixed", "whole_image")
# Peak resident bytes per pixel and feature of the finest scale, measured as in blind_spot: 42 to 65 (pipeline.STUDENT,
# the same with mlp_ratio 4, flat of 48 features) with each step on the whole image, as on a GPU; a CPU takes less.
BYTES = 68
# The same on a CPU from so many pixels on, beside 96 of every pixel. Measured with 8, 16 and 24 features: 349, 546 and
# 901 bytes a pixel; with 16 and the noise told from place to place: 725. The allocator moves it: 8 had 272 to 349.
CPU_BYTES, CPU_BYTES_TOLD, CPU_PIXEL, MANY = 35, 42, 96, 768**2


class RetractableTransformer(nn.Module):
    """Noisy image to clean one, output = input + residual; defaults: ART for colour (Zhang et al. 2023, Sec. 4.1).

    With one scale it is flat as ART; with several it is a U: every scale but the last has groups on the way down and on
    the way up, joined by a skip. Unlike ART's, a sparse group holds window x window tokens whatever the image's size,
    so that cost is linear in pixels, and training and testing see the same groups.

    Args:
        channels: channels of the image.
        widths: features on each scale; the sampling halves from one scale to the next.
        intervals: for each scale, the stride of sparse attention in each of its groups.
        blocks: attention blocks in a group, dense and sparse in turn.
        head_dim: features of one head; divides every width.
        window: side of a group of tokens.
        mlp_ratio: hidden features of the MLP over width.
        unshuffle: side of the pixel block that becomes one token at the finest scale (1: every pixel is a token).
        attention: "both", "dense" or "sparse" (the last two are ablations).
        sparse_groups: "fixed", window x window tokens, or "whole_image", every token at the stride (ART's own,
            quadratic in pixels; an ablation).
        bias: "dynamic" (ART) or "relative" position bias; the latter knows no offset beyond the window, so not with
            "whole_image".
        recompute: trade time for memory in training (gradient checkpointing).
        backend: what computes the attention in windows and fixed groups, see `retractable_attention`. With "auto" and
            without gradient a CPU takes a few groups at a time through a whole block.
        described: features of the description of the noise; 0: the network is told nothing of it.

    forward(noisy [B, C, H, W]) -> denoised [B, C, H, W], any H, W >= 1; never writes to self. A network with
    `described` also takes the correlation of the noise, [B, 7, 7] at lags of -3..3 rows and columns; None: white noise.
    """

    for_white_noise = False  # set by load_weights

    def __init__(
        self,
        channels: int = 3,
        *,
        widths: tuple[int, ...] = (180,),
        intervals: tuple[tuple[int, ...], ...] = ((16, 16, 12, 12, 8, 8),),
        blocks: int = 6,
        head_dim: int = 30,
        window: int = 8,
        mlp_ratio: float = 4.0,
        unshuffle: int = 1,
        attention: str = "both",
        sparse_groups: str = "fixed",
        bias: str = "dynamic",
        recompute: bool = False,
        backend: str = "auto",
        described: int = 0,
    ):
        super().__init__()
        self.arguments = {"channels": channels, "widths": widths, "intervals": intervals, "blocks": blocks}
        self.arguments |= {"head_dim": head_dim, "window": window, "mlp_ratio": mlp_ratio, "unshuffle": unshuffle}
        self.arguments |= {"attention": attention, "sparse_groups": sparse_groups, "bias": bias}
        self.arguments |= {"recompute": recompute, "backend": backend}
        self.arguments |= {"described": described} if described else {}
        _check(self.arguments)
        self.channels, self.unshuffle, self.multiple = channels, unshuffle, unshuffle * 2 ** (len(widths) - 1)
        steps = list(zip(widths, widths[1:], strict=False))
        self.description = NoiseDescription(described) if described else None
        self.stem = nn.Conv2d(channels * unshuffle**2, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_groups(self.arguments, scale) for scale in range(len(steps)))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in steps)
        self.bottom = _groups(self.arguments, len(widths) - 1)
        self.up = nn.ModuleList(nn.Conv2d(coarse, 4 * fine, 1) for fine, coarse in steps)
        self.join = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for fine, _ in steps)
        self.decoder = nn.ModuleList(_groups(self.arguments, scale) for scale in range(len(steps)))
        self.last = nn.Conv2d(widths[0], widths[0], 3, padding=1)
        self.head = nn.Conv2d(widths[0], channels * unshuffle**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def alignment(self) -> int:
        """Side of the squares, px, in which the groups of attention lie: the least common multiple over all blocks.

        Tiles whose corners are multiples of it hold the same groups as the whole image. pipeline.STUDENT: 64 px.
        """
        scales = enumerate([*self.decoder, self.bottom])
        squares = (_square(b, self.unshuffle * 2**i) for i, groups in scales for group in groups for b in group.blocks)
        return math.lcm(self.multiple, *squares)

    @property
    def halo(self) -> int:
        """Pixels around a tile, a multiple of `alignment`, with which the tile equals the whole image up to rounding.

        Attention spreads news over the whole square that its groups fill, and never beyond; 3x3 convolutions alone
        carry it to the next square. Followed from the last layer to the first, this is a reach. STUDENT: 256 px.
        """
        far, down = 2 * self.unshuffle, len(self.down)  # of head and last
        for scale in [*range(down), down, *reversed(range(down))]:
            groups = self.decoder[scale] if scale < down else self.bottom
            far = _reach_before(far, groups, pixels=self.unshuffle * 2**scale)
        return -(-(far + self.unshuffle) // self.alignment) * self.alignment  # the stem's step is the last

    @property
    def bytes_per_pixel(self) -> int:
        """Peak resident bytes of one call without gradient, per pixel, float32; 544 for pipeline.STUDENT."""
        return math.ceil(BYTES * self.stem.out_channels / self.unshuffle**2)

    def peak_bytes(self, pixels: int) -> int:
        """Peak resident bytes of one call without gradient on an image of so many pixels, float32."""
        if pixels < MANY or self.stem.weight.device.type != "cpu":
            return self.bytes_per_pixel * pixels
        each = CPU_BYTES if self.description is None else CPU_BYTES_TOLD
        return math.ceil(each / BYTES * self.bytes_per_pixel + CPU_PIXEL) * pixels

    def forward(self, noisy: Tensor, correlation: Tensor | None = None) -> Tensor:
        description = self.described_by(correlation, like=noisy)
        height, width = noisy.shape[2:]
        padded = F.pad(noisy, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")
        shallow = self.stem(F.pixel_unshuffle(padded, self.unshuffle))
        x, skips = shallow, []
        for encoder, down in zip(self.encoder, self.down, strict=True):
            skips.append(encoder(x, description))
            x = down(skips[-1])
        x = self.bottom(x, description)
        for scale in reversed(range(len(skips))):
            x = self.join[scale](torch.cat([F.pixel_shuffle(self.up[scale](x), 2), skips[scale]], dim=1))
            x = self.decoder[scale](x, description)
        residual = F.pixel_shuffle(self.head(self.last(x) + shallow), self.unshuffle)
        return noisy + residual[..., :height, :width]

    def described_by(self, correlation: Tensor | None, *, like: Tensor) -> Tensor | None:
        """Features of the noise's correlation, [B or 1, places, places, described]; None if it is told nothing."""
        if self.description is None:
            return None
        if correlation is None:
            correlation = like.new_zeros(1, 2 * RADIUS + 1, 2 * RADIUS + 1)
            correlation[:, RADIUS, RADIUS] = 1
        correlation = correlation if correlation.ndim == 5 else correlation[:, None, None]
        return self.description(correlation.to(like))


def _check(given: dict) -> None:
    """Refuse arguments of RetractableTransformer that do not fit together."""
    attention, bias, sparse_groups, backend = (given[k] for k in ("attention", "bias", "sparse_groups", "backend"))
    if attention not in ATTENTION or bias not in BIASES:
        known = f"one of {ATTENTION} and bias {bias!r} one of {tuple(BIASES)}"
        raise ValueError(f"attention {attention!r} must be {known}.")
    if sparse_groups not in SPARSE_GROUPS or backend not in BACKENDS:
        known = f"one of {SPARSE_GROUPS} and backend {backend!r} one of {BACKENDS}"
        raise ValueError(f"sparse_groups {sparse_groups!r} must be {known}.")
    if sparse_groups == "whole_image" and bias != "dynamic":
        reason = 'has no number for the offsets of sparse_groups "whole_image"; only "dynamic" has'
        raise ValueError(f"bias {bias!r} {reason}.")
    widths, intervals, head_dim = given["widths"], given["intervals"], given["head_dim"]
    if len(widths) != len(intervals) or any(width % head_dim for width in widths):
        wanted = f"multiples of head_dim {head_dim}, one for each of the {len(intervals)} tuples of intervals"
        raise ValueError(f"widths {widths} must be {wanted}.")
    blocks, unshuffle, window = given["blocks"], given["unshuffle"], given["window"]
    least = min([blocks, unshuffle, *(interval for scale in intervals for interval in scale)])
    if least < 1 or not 2 <= window <= 32 or not 8 <= head_dim <= 128:
        limits = f"blocks {blocks}, unshuffle {unshuffle} and intervals {intervals} start at 1"
        raise ValueError(f"{limits}; window {window} is 2 to 32, head_dim {head_dim} 8 to 128.")


def _groups(given: dict, scale: int) -> Groups:
    """The groups of one scale, one for each of its intervals, from the arguments of RetractableTransformer."""
    width, made = given["widths"][scale], []
    shared = {name: given[name] for name in ("window", "mlp_ratio", "bias", "backend")} | {
        "described": given.get("described", 0)
    }
    shared |= {"heads": width // given["head_dim"]}
    for interval in given["intervals"][scale]:
        strides = {"both": (1, interval), "dense": (1, 1), "sparse": (interval, interval)}[given["attention"]]
        whole = [given["sparse_groups"] == "whole_image" and stride > 1 for stride in strides]
        blocks = [
            Block(width, interval=strides[i % 2], whole_image=whole[i % 2], **shared) for i in range(given["blocks"])
        ]
        made.append(Group(width, blocks=blocks, recompute=given["recompute"]))
    return Groups(made)


def _reach_before(far: int, groups: Groups, *, pixels: int) -> int:
    """How far beyond an aligned tile the input of these groups matters, px, if their output matters as far as `far`.

    Args:
        pixels: side of a token.
    """
    far = -(-far // pixels) * pixels  # a token is read as a whole
    for group in reversed(groups):
        far += pixels
        for block in reversed(group.blocks):
            far = -(-far // _square(block, pixels)) * _square(block, pixels)
    return far


def _square(block: Block, pixels: int) -> int:
    """Side of the square that the groups of a block fill, px."""
    if block.whole_image and block.interval > 1:
        raise ValueError(
            'sparse_groups "whole_image": every pixel sees the whole image, which no tile holds; '
            "give the image as one tile."
        )
    return block.interval * block.window * pixels
