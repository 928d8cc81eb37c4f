"""The networks that come with the package, trained once on photographs with noise of every level (notebook 09)."""

import torch
from torch import Tensor, nn

from mptpn.metrics import psnr_db
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import DENOISERS, load_weights, pretrained_paths
from mptpn.stages import profound


def load(name: str) -> RetractableTransformer:
    """A network of the package in eval mode, ready for `profound.denoise`; its attribute `about` says what it was
    trained on and how good it is.

    Args:
        name: "small" or "base", for gray images (each channel of colour is one); "colour", for three channels with
            noise of one level.
    Raises:
        ValueError: another name.
    """
    names = pretrained_paths(DENOISERS)
    if name not in names:
        raise ValueError(
            f"network {name!r} is no denoiser of the package; choose one of {', '.join(names)}, or read your own with load_weights."
        )
    network, about = load_weights(name, RetractableTransformer)
    network.about = about
    return network


@torch.no_grad()
def in_colour(gray: RetractableTransformer, *, channels: int = 3) -> RetractableTransformer:
    """A colour network that starts as a gray one: the mean of the channels is denoised as gray is, differences between
    channels pass.

    White noise of one level in all channels is sqrt(channels) times weaker in their mean, which is therefore shown as
    much larger: its noise has the level that the gray network knows.

    Args:
        gray: a network for one channel, from load or load_weights. channels: of the new one, which is in train mode.
    Raises:
        ValueError: a network for more channels.
    """
    if gray.arguments["channels"] != 1:
        raise ValueError(
            f"a network for {gray.arguments['channels']} channels cannot start one for colour; give one for gray images."
        )
    arguments = gray.arguments | {"channels": channels}
    network, state = RetractableTransformer(**arguments), dict(gray.state_dict())
    for name, copies in {
        "stem.weight": (1, channels, 1, 1),
        "head.weight": (channels, 1, 1, 1),
        "head.bias": (channels,),
    }.items():
        state[name] = state[name].repeat(copies) / channels**0.5
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
