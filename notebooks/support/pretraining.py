"""Training of the blind denoisers of the package (notebook 09): a colour network that starts as a gray one, scores."""

import torch
from torch import Tensor, nn

from mptpn.metrics import psnr_db
from mptpn.networks import RetractableTransformer
from mptpn.stages import profound


@torch.no_grad()
def in_colour(gray: RetractableTransformer, *, channels: int = 3) -> RetractableTransformer:
    """A colour network that starts as a gray one: the mean of the channels is denoised as gray is, differences between
    channels pass.

    White noise of one level in all channels is sqrt(channels) times weaker in their mean. The mean is therefore shown
    as much larger: its noise has the level that the gray network knows.

    Args:
        gray: a network for one channel, from load or load_weights. channels: of the new one, which is in train mode.
    Raises:
        ValueError: a network for more channels.
    """
    if gray.arguments["channels"] != 1:
        raise ValueError(
            f"a network for {gray.arguments['channels']} channels cannot start one for colour; "
            "give one for gray images."
        )
    network, state = RetractableTransformer(**gray.arguments | {"channels": channels}), dict(gray.state_dict())
    copies = {"stem.weight": (1, channels, 1, 1), "head.weight": (channels, 1, 1, 1), "head.bias": (channels,)}
    for name, shape in copies.items():
        state[name] = state[name].repeat(shape) / channels**0.5
    network.load_state_dict(state)
    return network


@torch.no_grad()
def psnrs(network: nn.Module, noisy: list[Tensor], clean: list[Tensor]) -> list[float]:
    """PSNR of each denoised image, cut to 0..1 as in the published tables of white noise, dB.

    Images are [1, C, H, W], 0..1; the work is done where the network is.
    """
    device = next(network.parameters()).device
    denoised = [profound.denoise(network, image.to(device)).cpu() for image in noisy]
    return [psnr_db(image.clamp(0, 1), truth) for image, truth in zip(denoised, clean, strict=True)]


def mean_psnrs(network: nn.Module, *, noisy: dict[int, list[Tensor]], clean: list[Tensor]) -> dict[str, float]:
    """Mean of psnrs for each level of the same clean images, {"val_<level>": dB}."""
    return {f"val_{level}": sum(psnrs(network, images, clean)) / len(clean) for level, images in noisy.items()}
