"""Clean-noisy pairs of photographs with Gaussian noise of every correlation: what the network `correlated` learns from.

It is told the correlation as the package would estimate it, see noise.correlation_map.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.filters import dihedral_crop, gaussian_blur
from mptpn.networks.noise_level import FAR, LAGS, RADIUS
from mptpn.noise.correlation import far_energy
from mptpn.random import generator
from mptpn.stages.profound import UNIT
from mptpn.training import Batch

LEVELS = (4 / 255, 110 / 255)  # smallest and largest standard deviation of the noise, photographs span 0..1
MISTOLD = 0.08  # relative standard deviation of the level by which the noise differs from what is told
MISSED = 0.015  # standard deviation of the error of each correlation that is told
SMALL = (1.0, 8.0)  # px, width of planted structures
CONTRAST = (0.4, 4.0)  # of planted structures, standard deviations of the noise
FLOOR = 2e-3  # least power, of a mean of 1


def uniform(random: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=random))


def random_power(side: int, random: torch.Generator) -> Tensor:
    """Power of noise on a torus [side, side], in the order of fft2, of mean 1.

    A fifth is white. The rest: a ramp of any order under a window (reconstructed CT), blurred less more blurred (sharp
    and smooth kernels), a cut band (zero-filled MR, enlarged images), correlation along one axis (scanners); in half of
    all a part of white noise beside.
    """
    frequency = torch.fft.fftfreq(side)
    kind = int(uniform(random) * 10)
    turn, stretch = uniform(random, 0, math.pi), math.exp(uniform(random, -0.5, 0.5) * (uniform(random) < 0.6))
    turn = turn if uniform(random) < 0.5 else 0.0
    row, col = frequency[:, None].expand(side, side), frequency[None].expand(side, side)
    along, across = row * math.cos(turn) + col * math.sin(turn), col * math.cos(turn) - row * math.sin(turn)
    radius = torch.hypot(along * stretch, across / stretch)
    if kind < 2:
        power = torch.ones(side, side)
    elif kind < 5:  # ramp under a window
        order, width, steep = uniform(random, 0.2, 2.2), uniform(random, 0.08, 0.6), uniform(random, 1.5, 6)
        power = (radius + uniform(random, 0.0, 0.03)) ** order * (-((radius / width) ** steep)).exp()
    elif kind < 7:  # blurred, less more blurred
        first = math.exp(uniform(random, math.log(0.25), math.log(2.2)))
        second = first + uniform(random, 0.2, 2.0)
        share = uniform(random) if uniform(random) < 0.6 else 0.0
        power = (
            (-((radius * 2 * math.pi * first) ** 2) / 2).exp()
            - share * (-((radius * 2 * math.pi * second) ** 2) / 2).exp()
        ) ** 2
    elif kind < 8:  # a cut band
        edges = [uniform(random, 0.12, 0.6) for _ in range(2)]
        soft = uniform(random, 0.005, 0.05)
        power = torch.sigmoid((edges[0] - along.abs()) / soft) * torch.sigmoid((edges[1] - across.abs()) / soft)
    else:  # along the axes, each with its own range
        ranges = [
            math.exp(uniform(random, math.log(0.2), math.log(3.0))) if uniform(random) < 0.7 else 0.0 for _ in range(2)
        ]
        one = [1 / (1 + (2 * math.pi * r * f) ** 2) for r, f in zip(ranges, (row, col), strict=True)]
        power = one[0] * one[1]
    power = power / power.mean()
    if uniform(random) < 0.5:
        share = uniform(random, 0, 0.5)
        power = (1 - share) * power + share
    power = power.clamp_min(FLOOR)
    return power / power.mean()


def told(power: Tensor) -> tuple[Tensor, float]:
    """The correlation [7, 7] that is measured of noise of this power, and the measured over the true level.

    The package takes noise as independent at the map's rim and beyond: there is its 0.
    """
    lags = torch.fft.ifft2(power).real
    far = float(far_energy(torch.stack([lags[lag] for lag in LAGS + FAR])).clamp_max(0.9))
    step = torch.arange(-RADIUS, RADIUS + 1)
    correlation = (lags[step[:, None], step] - far) / (1 - far)
    correlation[RADIUS, RADIUS] = 1
    return correlation, math.sqrt(1 - far)


def structures(side: int, random: torch.Generator) -> Tensor:
    """Discs, soft spots and curved lines [side, side], contrasts in standard deviations of the noise, either sign."""
    row, col = torch.meshgrid(torch.arange(side) + 0.0, torch.arange(side) + 0.0, indexing="ij")
    out = torch.zeros(side, side)
    for _ in range(1 + int(uniform(random) * 14)):
        top, left = uniform(random, 0, side), uniform(random, 0, side)
        width = math.exp(uniform(random, *map(math.log, SMALL)))
        contrast = math.exp(uniform(random, *map(math.log, CONTRAST))) * (1 if uniform(random) < 0.6 else -1)
        turn = uniform(random, 0, math.pi)
        along, across = (
            (row - top) * math.cos(turn) + (col - left) * math.sin(turn),
            (col - left) * math.cos(turn) - (row - top) * math.sin(turn),
        )
        kind = uniform(random)
        if kind < 0.35:  # a disc with an edge of less than a pixel
            shape = torch.sigmoid((width / 2 - torch.hypot(along, across)) / 0.25)
        elif kind < 0.65:  # a soft spot, longer than wide
            shape = (-((along / width) ** 2 + (across / width / uniform(random, 0.5, 1)) ** 2) * 2).exp()
        else:  # a curved line
            bend, length = uniform(random, -0.02, 0.02), uniform(random, 2, 10) * width
            away = across - bend * along**2
            shape = (-((away / (width / 2)) ** 2) - (along / length) ** 4).exp()
        out = out + contrast * shape
    return out


class CorrelatedPhotographs:
    """Batches of pairs, a function of seed and step: random crops, new noise of random level and correlation.

    Half the crops are taken at half the sampling rate, two fifths are blurred, half of them get small structures of few
    standard deviations of the noise, some are inverted. Everything is in the unit in which the network sees it.

    Args:
        photographs: clean, each [1, 1, H, W], 0..1.
        batch, patch: pairs a step and their side, px.
        seed: decides every draw.
    """

    def __init__(self, photographs: list[Tensor], *, batch: int, patch: int, seed: int = 0):
        self.photographs, self.batch, self.patch, self.seed = photographs, batch, patch, seed

    def __call__(self, step: int) -> Batch:
        """noisy, clean [batch, 1, patch, patch] and correlation [batch, 7, 7]."""
        random = generator(self.seed, "correlated photographs", step)
        rows = [self._pair(random) for _ in range(self.batch)]
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _pair(self, random: torch.Generator) -> Batch:
        clean, patch = self._crop(random), self.patch
        level = math.exp(uniform(random, *map(math.log, LEVELS)))
        clean = (clean - clean.mean()) / level
        if uniform(random) < 0.5:
            clean = clean + structures(patch, random)
        power = random_power(2 * patch, random)
        white = torch.randn(2 * patch, 2 * patch, generator=random)
        noise = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real[:patch, :patch]
        correlation, share = told(power)
        error = MISSED * torch.randn(correlation.shape, generator=random)
        error = (error + error.flip(0, 1)) / 2**0.5
        error[RADIUS, RADIUS] = 0
        factor = UNIT / share * math.exp(MISTOLD * float(torch.randn((), generator=random)))
        given = {"noisy": (clean + noise) * factor, "clean": clean * factor}
        # what is unknown of the mean of the whole image, in which the network sees it
        offset = uniform(random, -1, 1) * 0.2 / level * factor
        return {name: (x + offset).view(1, 1, patch, patch) for name, x in given.items()} | {
            "correlation": (correlation + error)[None].clamp(-1, 1)
        }

    def _crop(self, random: torch.Generator) -> Tensor:
        photo = self.photographs[int(uniform(random) * len(self.photographs))]
        step = 2 if uniform(random) < 0.4 and min(photo.shape[2:]) >= 2 * self.patch else 1
        side = step * self.patch
        top, left = (int(uniform(random) * (photo.shape[i] - side + 1)) for i in (2, 3))
        clean = dihedral_crop(photo, top=top, left=left, side=side, turn=int(uniform(random) * 8))
        clean = F.avg_pool2d(clean, step)
        if uniform(random) < 0.4:
            clean = gaussian_blur(clean, sigma=uniform(random, 0.3, 2.0))
        if uniform(random) < 0.15:
            clean = 1 - clean
        if uniform(random) < 0.2:
            clean = (clean - clean.mean() * uniform(random, 0.5, 1.5)).clamp_min(0)  # a dark background
        return clean[0, 0]


def loss(network: torch.nn.Module, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Mean squared error, in which the noise's variance is 1 / 16 for every pair."""
    return (network(batch["noisy"], batch["correlation"]) - batch["clean"]).square().mean()
