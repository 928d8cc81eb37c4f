"""The share of noise in what a denoiser took away: a noise model fits fine texture as well, a network does not."""

from functools import cache
from importlib.resources import as_file, files

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.networks.weights import load_weights

SIDE = 128  # px, of the squares that it was trained on
SMALLEST = 48  # px, side of the smallest square that it judges
AROUND = 9  # px, side of the mean that is taken off the denoised image


class NoiseShareNetwork(nn.Module):
    """Share of the noise in the residual of a denoiser, from the residual and the denoised image.

    For an image y = x + n with clean x and its denoised f, the residual is r = y - f, and the share <n, r> / <r, r>
    is the part of the change whose squared error is least: 1 for a posterior mean, 0 where texture was removed.

    forward(residual, denoised [B, 1, H, W], in standard deviations of the noise) -> logit of the share, [B];
    H, W >= SMALLEST. The level of the residual does not count, its shape does.
    """

    def __init__(self, *, width: int = 16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(width, 3 * width, 3),
            nn.ReLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(3 * width, 3 * width, 3),
            nn.ReLU(),
        )
        self.head = nn.Sequential(nn.Linear(6 * width, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, residual: Tensor, denoised: Tensor) -> Tensor:
        if residual.shape != denoised.shape or residual.shape[1] != 1 or min(residual.shape[2:]) < SMALLEST:
            shapes = f"{tuple(residual.shape)} and {tuple(denoised.shape)}"
            raise ValueError(f"shapes {shapes}: give two of [B, 1, H, W] with sides of at least {SMALLEST} px.")
        power = residual.square().mean((2, 3), keepdim=True)
        around = F.pad(denoised, (AROUND // 2,) * 4, mode="replicate")
        detail = torch.asinh(denoised - F.avg_pool2d(around, AROUND, 1)) / 2
        found = self.layers(torch.cat([residual / power.sqrt().clamp_min(1e-12), detail], 1))
        spread = (found.var((2, 3)) + 1e-6).sqrt()
        return self.head(torch.cat([found.mean((2, 3)), spread], 1))[:, 0]


@cache
def pretrained_noise_share() -> NoiseShareNetwork:
    """The pretrained network, trained by notebooks/support/train_noise_share.py; see MODEL_CARD.md."""
    with as_file(files("mptpn") / "weights" / "noise_share.safetensors") as path:
        return load_weights(path, NoiseShareNetwork)[0]
