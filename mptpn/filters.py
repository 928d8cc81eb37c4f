"""Filters and crops of images: blurs, the second difference, a robust first guess of the noise level, and where an
image is constant.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# Unit gain for white noise, blind to planes (Immerkaer 1996, Eq. 2).
SECOND_DIFFERENCE = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6


def gaussian_taps(sigma: float, *, radius: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of a Gaussian of sigma px at -radius..radius, [2 radius + 1], sum 1."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=dtype) / sigma) ** 2)
    return taps / taps.sum()


def gaussian_blur(image: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W] with reflected borders; sigma in px, 0 leaves the image."""
    if sigma == 0:
        return image
    radius = min(math.ceil(3 * sigma), min(image.shape[2:]) - 1)
    taps = gaussian_taps(sigma, radius=radius, dtype=image.dtype).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, taps[..., None], groups=image.shape[1]), taps[:, :, None], groups=image.shape[1])


def dihedral_crop(pixels: Tensor, *, top: int, left: int, side: int, turn: int) -> Tensor:
    """The square of [B, C, H, W] at (top, left), in one of the eight orientations of the square, turn 0 to 7; [B, C,
    side, side].
    """
    cut = pixels[:, :, top : top + side, left : left + side].rot90(turn % 4, (2, 3))
    return (cut.flip(3) if turn > 3 else cut).contiguous()


def center_crop(image: Tensor, *, side: int) -> Tensor:
    """The middle square of at most side px of [B, C, H, W]; all of it for side 0."""
    (top, height), (left, width) = (
        (max(0, (n - side) // 2), min(n, side)) if side else (0, n) for n in image.shape[2:]
    )
    return image[:, :, top : top + height, left : left + width].contiguous()


def autocorrelation(kernel: Tensor) -> Tensor:
    """Of a kernel [K, K] with itself at lags -(K - 1)..K - 1, [2 K - 1, 2 K - 1]: the covariance of white noise of
    variance 1 that was filtered by it.
    """
    return F.conv2d(F.pad(kernel, (len(kernel) - 1,) * 4)[None, None], kernel[None, None])[0, 0]


def robust_level(noisy: Tensor) -> Tensor:
    """A first guess of white noise's standard deviation, median |second difference| / 0.6745 (Donoho and Johnstone
    1994), too high on texture.

    Pixels in constant surroundings (zeroed background, padding, saturation) carry no noise and do not count.

    Args:
        noisy: [B, C, H, W]; the median is over all channels.
    Returns:
        [B, 1, 1, 1], at least 1e-6.
    """
    padded = F.pad(noisy, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    response = F.conv2d(padded, SECOND_DIFFERENCE.to(noisy)[None, None]).abs().view_as(noisy)
    response = response.masked_fill(constant(noisy), math.nan).flatten(1)
    return (response.nanmedian(dim=1).values / 0.6745).nan_to_num(0.0).clamp_min(1e-6).view(-1, 1, 1, 1)


def constant(noisy: Tensor) -> Tensor:
    """Where a pixel equals all its eight neighbours, [B, C, H, W] bool."""
    padded = F.pad(noisy, (1, 1, 1, 1), mode="replicate")
    return F.max_pool2d(padded, 3, 1) == -F.max_pool2d(-padded, 3, 1)


def has_noise(noisy: Tensor) -> Tensor:
    """Where noise is seen, [B, C, H, W] bool: not in constant surroundings (zeroed background, padding, saturation);
    everywhere in an all-constant image.
    """
    inside = F.max_pool2d(constant(noisy).to(noisy), 3, 1, 1) < 0.5
    return inside | ~inside.flatten(1).any(1).view(-1, 1, 1, 1)


def mean_intensity(noisy: Tensor) -> Tensor:
    """Mean of each image over its informative pixels, [B, 1, 1, 1]."""
    counts = has_noise(noisy).to(noisy)
    return (noisy * counts).sum((1, 2, 3), keepdim=True) / counts.sum((1, 2, 3), keepdim=True)
