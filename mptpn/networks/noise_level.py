"""Noise level of an image: a small network says in which windows the energy of each high-pass band is noise and not
structure, and how surely.
"""

import math
from importlib.resources import as_file, files

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.filters import SECOND_DIFFERENCE, autocorrelation, gaussian_blur, gaussian_taps, has_noise, robust_level
from mptpn.networks.weights import load_weights
from mptpn.random import generator
from mptpn.training.loop import Batch, fit

SMALLEST = 16  # px; below that, the window statistics are all border
WINDOW, STRIDE = 13, 4  # px, side of the local averages and step between them
RADIUS = 3  # px, largest lag of the correlation map
# one of each pair of opposite lags
LAGS = [(row, col) for row in range(RADIUS + 1) for col in range(-RADIUS, RADIUS + 1) if row > 0 or col > 0]
# lags at which noise is taken to be independent, so that half the squared difference is its variance
FAR = [(0, 6), (6, 0)]
BANDS = 1 + len(LAGS) + len(FAR)  # the second difference, then half the squared difference at each lag
CLIPPED = 0.05  # share of clipped pixels from which a window's variance is cut short
QUARTERS = 4  # parts of an image by intensity, each of which must get its own level right


class NoiseLevelNetwork(nn.Module):
    """Confidence that local energy is noise, for 27 high-pass bands; after CNN_est (Wu et al. 2020), but on local
    statistics instead of raw pixels.

    The published network averages a function of y alone and cannot tell texture from noise when levels differ. This one
    sees the local energies of all bands relative to a robust level, and their low quantiles over the image; it states
    the precision of each energy, learned from its own errors.

    forward(noisy [B, 1, H, W], H, W >= 16) -> log precision [B, bands, h, w], energy [B, bands, h, w] (intensity
    squared), mean intensity [B, 1, h, w]; h = ceil(H / 4). The energy of band 0 is the variance of white noise; that of
    lag k is variance (1 - correlation at k). Gain and offset of the image scale the energies and change no precision.
    """

    def __init__(self, *, width: int = 48):
        super().__init__()
        layers = [
            nn.Conv2d(3 * BANDS, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
        ]
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, BANDS, 1)
        )
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.ones_(self.layers[-1].bias)
        self.log_floor = nn.Parameter(torch.full((BANDS,), -8.0))  # error variance that no number of windows takes away
        self.register_buffer("log_bias", torch.zeros(BANDS))  # of the level, set by calibrate
        self.register_buffer("spread", torch.ones(()))  # true errors over stated ones, 68 % of them, set by calibrate
        # stated errors that hold 95 % of the true ones, set by calibrate
        self.register_buffer("tail", torch.tensor(1.96))

    def forward(self, noisy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if noisy.ndim != 4 or noisy.shape[1] != 1 or min(noisy.shape[2:]) < SMALLEST:
            raise ValueError(
                f"shape {tuple(noisy.shape)}: give gray images [B, 1, H, W] of at least {SMALLEST} x {SMALLEST} px."
            )
        valid, whole = counted(noisy)
        squares, counts = (_windows(x) for x in band_squares(noisy, valid))
        energy, robust = squares / counts.clamp_min(1e-6), robust_level(noisy)
        known = (counts > 0.3 * _windows(torch.ones_like(valid))) & whole
        logs = (energy / robust**2 + 1e-3).log()
        quantiles = (
            torch.stack([logs.masked_fill(~known, math.nan).flatten(2).nanquantile(q, dim=2) for q in (0.1, 0.5)], 1)
            .nan_to_num()
            .flatten(1)
        )
        logs = logs.masked_fill(~known, 0.0)
        precision = self.layers(
            torch.cat([logs, quantiles[:, :, None, None].expand(-1, -1, *logs.shape[2:])], 1)
        ).clamp(-8, 8)
        mean = _windows(noisy * valid) / _windows(valid).clamp_min(1e-6)
        return precision.masked_fill(~known, -30.0), energy * (-2 * self.log_bias).exp()[:, None, None], mean


def counted(noisy: Tensor) -> tuple[Tensor, Tensor]:
    """Which pixels, and which windows, say something about the noise.

    Pixels in constant surroundings (zeroed background, padding) do not count, nor does a window of which more than 5 %
    are clipped (the smallest or largest value where at least 8 pixels hold it), for its variance is cut short. A few
    clipped pixels do count: without its tail noise would seem weaker still. Where nothing would be left, everything
    counts.

    Returns:
        pixels [B, 1, H, W], 1 or 0, and windows [B, 1, h, w] bool.
    """
    inside = has_noise(noisy)
    flat = noisy.flatten(1)
    ends = torch.stack([flat.amin(1), flat.amax(1)], 1)
    held = [(noisy == end.view(-1, 1, 1, 1)) & inside for end in ends.unbind(1)]
    clipped = sum(at & (at.flatten(1).sum(1) >= 8).view(-1, 1, 1, 1) for at in held) > 0
    valid = inside.to(noisy)
    nothing = (valid.flatten(1).sum(1) < 64).view(-1, 1, 1, 1)
    valid = valid.masked_fill(nothing, 1.0)
    share = _windows(clipped.to(noisy)) / _windows(torch.ones_like(noisy))
    whole = share <= CLIPPED
    return valid, whole | ~whole.flatten(1).any(1).view(-1, 1, 1, 1) | nothing


def band_squares(noisy: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Squares of the bands at each pixel, and whether all pixels that they take are valid, each [B, bands, H, W]."""
    height, width = noisy.shape[2:]
    kernel = SECOND_DIFFERENCE.to(noisy)[None, None]
    all_valid = (F.conv2d(valid, torch.ones_like(kernel)) > 8.5).to(noisy)
    squares, counts = [F.pad(F.conv2d(noisy, kernel).square() * all_valid, (1,) * 4)], [F.pad(all_valid, (1,) * 4)]
    for row, col in LAGS + FAR:
        aside = abs(col)
        near, far = (slice(None, width - aside), slice(aside, None))[:: 1 if col >= 0 else -1]
        half = (noisy[:, :, : height - row, near] - noisy[:, :, row:, far]).square() / 2
        both = valid[:, :, : height - row, near] * valid[:, :, row:, far]
        margins = (aside // 2, aside - aside // 2, row // 2, row - row // 2)
        squares.append(F.pad(half * both, margins))
        counts.append(F.pad(both, margins))
    return torch.cat(squares, 1), torch.cat(counts, 1)


def _windows(x: Tensor) -> Tensor:
    """Sums over windows, divided by the window's area, on a grid of every fourth pixel."""
    return F.avg_pool2d(x, WINDOW, STRIDE, padding=WINDOW // 2)


def band_factors(covariance: Tensor) -> Tensor:
    """Energy of each band, [bands], of noise of this covariance at lags -r..r of rows and columns, [2 r + 1, 2 r + 1];
    0 beyond.
    """
    radius = max(len(covariance) // 2, *FAR[0])
    covariance = F.pad(covariance, (radius - len(covariance) // 2,) * 4)
    second = (
        autocorrelation(SECOND_DIFFERENCE).to(covariance) * covariance[radius - 2 : radius + 3, radius - 2 : radius + 3]
    ).sum()
    lags = torch.stack([covariance[radius, radius] - covariance[radius + row, radius + col] for row, col in LAGS + FAR])
    return torch.cat([second[None], lags])


def train(
    network: NoiseLevelNetwork,
    photos: list[Tensor],
    *,
    steps: int,
    fabric: Fabric,
    batch: int = 8,
    patch: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
    checkpoint: str | None = None,
) -> list[dict]:
    """Train in place on clean photographs with noise of known, random noise model; see draw for the noise and
    training.fit for the other arguments.
    """
    return fit(
        network,
        loss=loss,
        batches=lambda step: draw(photos, batch=batch, patch=patch, keys=(seed, "noise-level training", step)),
        steps=steps,
        lr=lr,
        ema=min(0.995, 1 - 3 / steps),
        fabric=fabric,
        checkpoint=checkpoint,
        title="noise level",
    )


def draw(photos: list[Tensor], *, batch: int, patch: int, keys: tuple[int | str, ...]) -> Batch:
    """Crops of photographs with noise of 2 to 80 gray levels of 255, half of it correlated, half of it signal-dependent
    to some degree.

    Half the crops are taken at half the sampling rate, 40 % are blurred by up to 2.4 px (medical images are smooth), 30
    % get dark surroundings, in 35 % the noise also varies smoothly over the image (CT, parallel MR), 15 % are rounded
    to 256 levels.

    Returns:
        noisy and variance (the true one at each pixel), [batch, 1, patch, patch]; factor, the share of the variance in
        each band, [batch, bands].
    """
    random = generator(*keys)
    rows = [_noisy_crop(photos, patch, random) for _ in range(batch)]
    noisy, variance, factor = zip(*rows, strict=True)
    return {"noisy": torch.cat(noisy), "variance": torch.cat(variance), "factor": torch.stack(factor)}


def _noisy_crop(photos: list[Tensor], patch: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    u = torch.rand(13, generator=random).tolist()
    photo = photos[int(u[0] * len(photos))]
    step = 2 if u[1] < 0.5 and min(photo.shape[2:]) >= 2 * patch else 1
    top, left = (int(u[2 + i] * (photo.shape[2 + i] - step * patch + 1)) for i in (0, 1))
    clean = F.avg_pool2d(photo[:, :, top : top + step * patch, left : left + step * patch], step)
    if u[4] < 0.4:
        clean = gaussian_blur(clean, sigma=0.4 + 2 * u[5])
    if u[6] < 0.3:
        clean = (clean - clean.mean() * (0.5 + u[7])).clamp_min(0)
    variance, share = (2 / 255 * 40 ** u[8]) ** 2, max(0.0, 2 * u[9] - 1)
    variance = variance * (1 - share + share * clean / clean.mean().clamp_min(0.02))
    if u[12] < 0.35:
        coarse = torch.randn(1, 1, 4, 4, generator=random)
        variance = variance * F.interpolate(coarse, size=clean.shape[2:], mode="bicubic").exp()
    kernel = random_kernel(random) if u[10] < 0.5 else torch.ones(1, 1)
    field = F.conv2d(torch.randn(1, 1, *(patch + len(kernel) - 1,) * 2, generator=random), kernel[None, None])
    noisy = clean + variance.sqrt() * field
    return (noisy * 255).round() / 255 if u[11] < 0.15 else noisy, variance, band_factors(autocorrelation(kernel))


def random_kernel(random: torch.Generator) -> Tensor:
    """A kernel [9, 9] of unit energy that correlates noise: Gaussian of 0.25 to 1.3 px along each axis, 60 % of them
    less a wider one (a sharp CT kernel).
    """
    u = torch.rand(7, generator=random).tolist()
    down, across = 0.25 + 1.05 * u[0], 0.25 + 1.05 * (u[1] if u[2] < 0.7 else u[0])
    kernel = torch.outer(gaussian_taps(down, radius=4), gaussian_taps(across, radius=4))
    if u[3] < 0.6:
        kernel = kernel - u[4] * torch.outer(
            gaussian_taps(down + 0.3 + 1.2 * u[5], radius=4), gaussian_taps(across + 0.3 + 1.2 * u[6], radius=4)
        )
    return kernel / kernel.square().sum().sqrt()


def loss(network: NoiseLevelNetwork, batch: Batch, fraction: float = 0.0) -> Tensor:
    """Negative log-likelihood of the log error of the level, Student's t of 4 degrees with the stated precision: whole
    images and their quarters.
    """
    error, precision = errors(network, batch)
    likelihood = -0.5 * precision.log() + 2.5 * torch.log1p(precision * error**2 / 4)
    return (likelihood * likelihood.new_tensor([2.0] + [1.0] * QUARTERS)).mean()


def errors(network: NoiseLevelNetwork, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log of estimated over true level in each band, for the whole image and its quarters by intensity, and its stated
    precision; each [B, bands, 5].
    """
    precision, energy, mean = (x.flatten(2) for x in network(batch["noisy"]))
    local = _windows(batch["variance"]) / _windows(torch.ones_like(batch["variance"]))
    true = local.flatten(2) * batch["factor"][:, :, None]
    quarter = mean[:, 0].argsort(1).argsort(1) * QUARTERS // mean.shape[2]
    # [B, 5, windows]
    parts = torch.stack([torch.ones_like(quarter), *(quarter == i for i in range(QUARTERS))], 1).to(energy)
    weight = precision.exp()
    total = torch.einsum("bjp,bsp->bjs", weight, parts)
    found, wanted = (torch.einsum("bjp,bsp->bjs", weight * x, parts) / total.clamp_min(1e-9) for x in (energy, true))
    return 0.5 * ((found + 1e-9) / (wanted + 1e-9)).log(), stated_precision(network, total)


def stated_precision(network: NoiseLevelNetwork, total: Tensor) -> Tensor:
    """1 / variance of the log level, from the sum of the windows' precisions [B, bands, ...]."""
    floor = network.log_floor.exp().view(1, -1, *[1] * (total.ndim - 2))
    return 1 / (floor + 1 / total.clamp_min(1e-9)) / network.spread**2


@torch.no_grad()
def calibrate(
    network: NoiseLevelNetwork, photos: list[Tensor], *, batches: int = 30, seed: int = 0
) -> dict[str, float]:
    """Take the median bias off each band and widen the stated errors to what is seen, on photographs that were not
    trained on.

    Returns:
        the largest bias that was taken off, the factor on the stated errors, and the number of stated errors that holds
        95 %.
    """
    network.log_bias.zero_()
    network.spread.fill_(1.0)
    side = min(128, *(min(photo.shape[2:]) for photo in photos))
    drawn = [
        errors(network, draw(photos, batch=8, patch=side, keys=(seed, "noise-level calibration", i)))
        for i in range(batches)
    ]
    error, precision = (torch.cat([pair[i] for pair in drawn]) for i in (0, 1))
    sure = precision > 25  # a stated error of 20 %: beyond, nothing is claimed
    bias = torch.stack([error[:, band, 0][sure[:, band, 0]].median() for band in range(BANDS)])
    network.log_bias.copy_(bias)
    scores = ((error - bias[None, :, None]).abs() * precision.sqrt())[sure]
    network.spread.fill_(float(scores.quantile(0.68)))
    network.tail.fill_(float(scores.quantile(0.95)) / float(network.spread))
    return {"largest_bias": float(bias.abs().max()), "spread": float(network.spread), "tail": float(network.tail)}


def pretrained_paths() -> NoiseLevelNetwork:
    """The network in the box, trained by reproduce/noise_level.py on BSDS500 and DIV2K photographs."""
    with as_file(files("mptpn") / "weights" / "noise_level.safetensors") as path:
        return load_weights(path, NoiseLevelNetwork)[0]
