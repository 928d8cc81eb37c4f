"""The dilated blind-spot network D-BSN: it predicts a pixel from its surroundings and never sees the pixel itself."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

RINGS = (1, 2)  # px by which the masked kernel of each branch passes the blind spot: 3 and 5 px around one pixel
# variance of mu per unit of softplus: a new network states a standard deviation of 0.25, as its input has
SPREAD = 0.09
HalfSize = tuple[int, int]  # half height and half width of the blind spot, px; (0, 0) is the pixel alone

# Peak resident bytes per pixel and feature without gradient: growth of ru_maxrss in a process of its own from a call on
# 64 x 64 px to three calls on 256 x 256 and on 640 x 640, divided by the pixels; torch 2.11, 2 CPU threads, float32.
# 34 to 80 (width 16 and 32, depth 3 and 8, both memory formats); tests/test_tiling.py measures again.
BYTES = 96


class MaskedConv2d(nn.Conv2d):
    """A convolution with weight 0 in the blind spot; padded with zeros, for reflection would bring the pixel back."""

    def __init__(self, channels: int, *, ring: int, half_size: HalfSize):
        padding = tuple(half + ring for half in half_size)
        super().__init__(channels, channels, tuple(2 * side + 1 for side in padding), padding=padding)
        self.register_buffer("mask", _around(half_size, ring=ring), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class DilatedBlock(nn.Module):
    """Three paths {1x1, 5x5 dilated; 1x1, 3x3 dilated; 1x1}, joined, added to the input, two 1x1 (D-BSN, Fig. 3)."""

    def __init__(self, channels: int, *, dilation: tuple[int, int]):
        super().__init__()
        twice = tuple(2 * step for step in dilation)
        conv = partial(nn.Conv2d, channels, channels)
        self.wide = _with_relu(conv(1), conv(5, padding=twice, dilation=dilation))
        self.narrow = _with_relu(conv(1), conv(3, padding=dilation, dilation=dilation))
        self.point = _with_relu(conv(1))
        self.join = nn.Conv2d(3 * channels, channels, 1)
        self.after = _with_relu(conv(1), conv(1))

    def forward(self, x: Tensor) -> Tensor:
        paths = torch.cat([self.wide(x), self.narrow(x), self.point(x)], dim=1)
        return self.after(x + F.relu(self.join(paths)))


def _with_relu(*convolutions: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(*(layer for convolution in convolutions for layer in (convolution, nn.ReLU())))


class Branch(nn.Module):
    """One masked convolution, two 1x1, `depth` dilated blocks, one 1x1.

    Dilation ring + 2 half + 1 along an axis: the masked convolution reaches offsets of at most half + ring. Two offsets
    that are equal modulo the dilation, one of them within half, are then equal: no sum of steps leads back into the
    blind spot.
    """

    def __init__(self, channels: int, *, ring: int, half_size: HalfSize, depth: int):
        super().__init__()
        dilation = _dilation(ring, half_size)
        conv = partial(nn.Conv2d, channels, channels)
        layers = [*_with_relu(MaskedConv2d(channels, ring=ring, half_size=half_size), conv(1), conv(1))]
        layers += [DilatedBlock(channels, dilation=dilation) for _ in range(depth)]
        self.layers = nn.Sequential(*layers, conv(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class BlindSpotNetwork(nn.Module):
    """D-BSN (Wu et al. 2020, Fig. 3) with a head for the spread of the clean pixel given its surroundings.

    Args:
        channels: channels of the image.
        width: channels inside.
        depth: dilated blocks in each of the two branches.
        local_means: sides, odd, 3 to 11 px, of windows around a pixel. The mean is then D-BSN's output plus a learned,
            per-pixel mixture of the windows' averages without the blind spot. () is D-BSN as published; (3, 5, 7, 11)
            learns in far fewer steps. A wider window would fill the gaps of visible_offsets.
        half_size: half height and half width of the blind spot, px, for noise that is correlated so far (as AT-BSN,
            Chen et al. 2023); (0, 0) is D-BSN.

    forward(noisy [B, C, H, W]) -> mean mu [B, C, H, W] and standard deviation sigma_mu [B, C, H, W], both in the
    image's unit; any H, W >= 1. Neither depends on a noisy value inside the blind spot around its pixel, in train and
    in eval mode, at any weights. No normalisation layer: it would carry the pixel past the blind spot.
    """

    for_white_noise = False  # set by load_weights

    def __init__(
        self,
        channels: int = 1,
        *,
        width: int = 96,
        depth: int = 8,
        local_means: tuple[int, ...] = (),
        half_size: HalfSize = (0, 0),
    ):
        super().__init__()
        if len(half_size) != 2 or min(half_size) < 0:
            wanted = "half height and half width of the blind spot, px, not negative"
            raise ValueError(f"half_size {half_size} must be {wanted}.")
        if any(side % 2 == 0 or not 3 <= side <= 11 for side in local_means):
            wanted = "odd sides from 3 to 11 px: wider windows would fill the gaps of visible_offsets"
            raise ValueError(f"local_means {local_means} must be {wanted}.")
        self.channels, self.depth = channels, depth
        self.local_means, self.half_size = tuple(local_means), tuple(half_size)
        self.arguments = {"channels": channels, "width": width, "depth": depth}
        self.arguments |= {"local_means": self.local_means, "half_size": self.half_size}
        self.head = nn.Sequential(nn.Conv2d(channels, width, 1), nn.ReLU())
        self.branches = nn.ModuleList(Branch(width, ring=ring, half_size=half_size, depth=depth) for ring in RINGS)
        self.features = nn.Sequential(
            nn.Conv2d(len(RINGS) * width, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU()
        )
        known = width + 2 * channels * len(local_means)  # features, and the windows' averages and log variances
        self.mean = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, channels, 1))
        self.spread = nn.Sequential(
            nn.Conv2d(known, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, channels, 1),
        )
        if local_means:
            self.mixture = nn.Sequential(nn.Conv2d(known, width, 1), nn.ReLU(), nn.Conv2d(width, len(local_means), 1))
        for layer in self.modules():
            # variance kept through 1x1 after 1x1: PyTorch's default shrinks it and learns nothing for hundreds of steps
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        if local_means:
            for layer in (self.mixture[-1], self.mean[-1]):
                nn.init.normal_(layer.weight, std=0.1 / width**0.5)

    def forward(self, noisy: Tensor, *, mean_frozen: bool = False) -> tuple[Tensor, Tensor]:
        context = self.head(noisy)
        features = self.features(torch.cat([branch(context) for branch in self.branches], dim=1))
        mean = self.mean(features)
        if self.local_means:
            windows, squares = (self._averages(x) for x in (noisy, noisy**2))  # [B, C, windows, H, W]
            logs = ((squares - windows**2).clamp_min(0) + 1e-3).log()
            contrasts = windows - windows[:, :, -1:]
            features = torch.cat([features, contrasts.flatten(1, 2), logs.flatten(1, 2)], dim=1)
            shares = self.mixture(features).softmax(dim=1)[:, None]  # [B, 1, windows, H, W]
            mean = mean + (shares * windows).sum(dim=2)
        if mean_frozen:
            mean, features = mean.detach(), features.detach()
        return mean, (SPREAD * F.softplus(self.spread(features)) + 1e-6).sqrt()

    def _averages(self, x: Tensor) -> Tensor:
        averages = [blind_average(x, side=side, half_size=self.half_size) for side in self.local_means]
        return torch.stack(averages, dim=2)

    @property
    def halo(self) -> int:
        """Pixels around a tile with which the tile equals the whole image."""
        windows = max(self.half_size) + max(self.local_means, default=0) // 2
        return max(reach(depth=self.depth, half_size=self.half_size), windows)

    @property
    def alignment(self) -> int:
        """What corners and sides of tiles are multiples of, px: a convolution is alike everywhere."""
        return 1

    @property
    def bytes_per_pixel(self) -> int:
        """Peak resident bytes of one call without gradient, per pixel, float32; 1536 for pipeline.BLIND."""
        return BYTES * self.arguments["width"]

    def peak_bytes(self, pixels: int) -> int:
        """Peak resident bytes of one call without gradient on an image of so many pixels, float32."""
        return self.bytes_per_pixel * pixels


def _around(half_size: HalfSize, *, ring: int, like: Tensor | None = None) -> Tensor:
    """Ones that pass the blind spot by `ring`, zeros in the blind spot, [1, 1, 2 (h + ring) + 1, 2 (w + ring) + 1]."""
    sides = (2 * (half + ring) + 1 for half in half_size)
    mask = torch.ones(1, 1, *sides, **({} if like is None else {"dtype": like.dtype, "device": like.device}))
    mask[..., ring : mask.shape[2] - ring, ring : mask.shape[3] - ring] = 0
    return mask


def _dilation(ring: int, half_size: HalfSize) -> tuple[int, int]:
    return ring + 2 * half_size[0] + 1, ring + 2 * half_size[1] + 1


def blind_average(noisy: Tensor, *, side: int, half_size: HalfSize = (0, 0)) -> Tensor:
    """Average of a window without its blind spot; [B, C, H, W] in and out, 0 where the window holds nothing else.

    Args:
        side: of the window around a single pixel, odd, px; a larger blind spot widens it by as much.
        half_size: half height and half width of the blind spot, px.
    """

    def total(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=(window.shape[2] // 2, window.shape[3] // 2))

    # 0 in the kernel: the sum less the pixel would leave rounding errors of the pixel behind
    window = _around(half_size, ring=side // 2, like=noisy)
    flat = noisy.flatten(0, 1)[:, None]
    return (total(flat) / total(torch.ones_like(flat[:1])).clamp_min(1)).view_as(noisy)


def reach(*, depth: int = 8, half_size: HalfSize = (0, 0)) -> int:
    """Largest distance, px, from which a pixel can influence the prediction: the halo that makes a tile exact."""
    return max(
        half + ring + depth * 2 * step
        for ring in RINGS
        for half, step in zip(half_size, _dilation(ring, half_size), strict=True)
    )


def visible_offsets(*, depth: int = 8, half_size: HalfSize = (0, 0)) -> np.ndarray:
    """Which neighbours a prediction can depend on, [2 r + 1, 2 r + 1] bool with r = reach(depth).

    False in the blind spot and in the gaps that dilation leaves. The layers' supports are dilated: a masked kernel,
    then `depth` times {-2..2} x {-2..2} in steps of the dilation (the 5 x 5 path contains the others).
    """
    from scipy.ndimage import binary_dilation

    radius = reach(depth=depth, half_size=half_size)
    seen = np.zeros((2 * radius + 1,) * 2, dtype=bool)
    for ring in RINGS:
        (high, wide), (down, across) = half_size, _dilation(ring, half_size)
        support = np.zeros_like(seen)
        support[radius - high - ring : radius + high + ring + 1, radius - wide - ring : radius + wide + ring + 1] = (
            _around(half_size, ring=ring)[0, 0].numpy() > 0
        )
        layer = np.zeros((4 * down + 1, 4 * across + 1), dtype=bool)
        layer[::down, ::across] = True
        for _ in range(depth):
            support = binary_dilation(support, structure=layer)
        seen |= support
    return seen


def leak(
    network: nn.Module, shape: tuple[int, int, int, int], *, generator: torch.Generator, half_size: HalfSize = (0, 0)
) -> float:
    """Largest |d mu[p] / d y[q]| and |d sigma_mu[p] / d y[q]| over pixels p and q in the blind spot of p; 0.0 if blind.

    Args:
        network: maps [B, C, H, W] to (mu, sigma_mu).
        shape: [B, C, H, W] of a random image, which generator draws.
        half_size: half height and half width of the blind spot, px.
    """
    noisy = torch.rand(shape, generator=generator).requires_grad_()
    worst = 0.0
    for output in network(noisy):
        for index in np.ndindex(*output.shape):
            (gradient,) = torch.autograd.grad(output[index], noisy, retain_graph=True)
            batch, _, row, col = index
            spot = (slice(max(0, at - half), at + half + 1) for at, half in zip((row, col), half_size, strict=True))
            worst = max(worst, float(gradient[(batch, slice(None), *spot)].abs().max()))
    return worst
