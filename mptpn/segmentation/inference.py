"""Asking a network for a mask: the image normalised, the whole image looked at once, tiles that equal the whole."""

import torch
from torch import Tensor

SAMPLES = 2**20  # pixels from which the ends of the gray range are taken


def normalised(image: Tensor) -> Tensor:
    """An image in any unit, [1, 1 or 3, H, W], as [1, 3, H, W]: its 1st percentile is 0 and its 99.5th is 1.

    Percentiles are of all channels together; a constant image is 0. Pixels are cut off at -0.2 and 1.3.
    """
    pixels = image.flatten()[:: max(1, image.numel() // SAMPLES)].float()
    low, high = torch.quantile(pixels, torch.tensor([0.01, 0.995], device=pixels.device))
    if high <= low:
        low, high = pixels.min(), pixels.max()
    span = high - low if high > low else torch.ones_like(high)
    return ((image.float() - low) / span).clamp(-0.2, 1.3).expand(-1, 3, -1, -1)
