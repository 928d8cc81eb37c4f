"""The networks as the packages of the BioImage Model Zoo know them: an image in its own range in, the same out."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mptpn.filters import SECOND_DIFFERENCE
from mptpn.networks import RetractableTransformer
from mptpn.networks.aligned import AlignedTransformer
from mptpn.stages import profound
from mptpn.super_resolution import SuperResolutionNetwork


class ZooDenoiser(nn.Module):
    """A blind denoiser of white noise in the image's own unit; `profound.denoise` with a network.

    forward(noisy [B, C, H, W]) -> denoised [B, C, H, W], any size.

    Args:
        arguments: of the RetractableTransformer, as the weights file states them.
    """

    def __init__(self, arguments: dict):
        super().__init__()
        self.network = RetractableTransformer(**arguments)

    def forward(self, noisy: Tensor) -> Tensor:
        return profound.denoise(self.network, noisy)


class ExportedDenoiser(nn.Module):
    """The same in operations that ONNX knows, for sides that are multiples of the network's alignment.

    All pixels are taken to hold noise: on images with areas of one value its unit is another than `ZooDenoiser`'s.
    """

    def __init__(self, network: RetractableTransformer):
        super().__init__()
        self.network = AlignedTransformer(network)
        self.register_buffer("kernel", SECOND_DIFFERENCE[None, None].clone())

    def forward(self, noisy: Tensor) -> Tensor:
        offset = noisy.mean((1, 2, 3), keepdim=True)
        batch, channels, height, width = noisy.shape
        planes = F.pad(noisy, (1, 1, 1, 1), mode="replicate").reshape(batch * channels, 1, height + 2, width + 2)
        response = F.conv2d(planes, self.kernel).abs().reshape(batch, channels * height * width)
        ordered = torch.sort(response, dim=1).values
        middle = ordered[:, (channels * height * width - 1) // 2].reshape(-1, 1, 1, 1)  # the lower median, as torch's
        scale = (middle / 0.6745).clamp_min(1e-6) / profound.UNIT
        return self.network((noisy - offset) / scale) * scale + offset


class ZooEnlarger(nn.Module):
    """Super-resolution of an image of 0 to 1; forward(low [1, 3, H, W]) -> [1, 3, scale H, scale W], cut to 0..1.

    Args:
        arguments: of the SuperResolutionNetwork, as the weights file states them.
    """

    def __init__(self, arguments: dict):
        super().__init__()
        self.network = SuperResolutionNetwork(**arguments)

    def forward(self, low: Tensor) -> Tensor:
        return self.network(low).clamp(0, 1)
