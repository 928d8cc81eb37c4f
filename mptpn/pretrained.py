"""The networks that come with the package, trained once on photographs with noise of every level (notebook 09)."""

import torch
from torch import Tensor, nn

from mptpn import profound
from mptpn.metrics import psnr_db
from mptpn.transformer import RetractableTransformer
from mptpn.weights import DENOISERS, load_weights, shipped


def load(name: str) -> RetractableTransformer:
    """A network of the package in eval mode, ready for `profound.denoise`; its attribute `about` says what it was trained on and how good it is.

    Args:
        name: "small" or "base", for gray images (each channel of colour is one); "colour".
    Raises:
        ValueError: another name.
    """
    names = shipped(DENOISERS)
    if name not in names:
        raise ValueError(f"network {name!r} is no denoiser of the package; choose one of {', '.join(names)}, or read your own with load_weights.")
    network, about = load_weights(name, RetractableTransformer)
    network.about = about
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
