"""Filters, crops and autocovariances of images, a robust first guess of the noise level, and where noise is visible."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

# Unit gain for white noise, blind to planes (Immerkaer 1996, Eq. 2).
SECOND_DIFFERENCE = torch.tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6

FEW = 20480  # px, up to which PyTorch takes another convolution, which is as fast


@contextmanager
def one_thread() -> Iterator[None]:
    """For sums of many numbers to one, which PyTorch rounds otherwise for each number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gaussian_taps(sigma: float, *, radius: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights of a Gaussian of sigma px at -radius..radius, [2 radius + 1], sum 1."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=dtype) / sigma) ** 2)
    return taps / taps.sum()


def gaussian_blur(image: Tensor, *, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, H, W] with reflected borders; sigma in px, 0 leaves the image."""
    if sigma == 0:
        return image
    radius = min(math.ceil(3 * sigma), min(image.shape[2:]) - 1)
    taps = gaussian_taps(sigma, radius=radius, dtype=image.dtype)
    return correlate(correlate(F.pad(image, (radius,) * 4, mode="reflect"), taps[:, None]), taps[None])


def correlate(image: Tensor, kernel: Tensor) -> Tensor:
    """Correlation of each channel of [B, C, H, W] with a kernel [K, L], where it fits, [B, C, H - K + 1, W - L + 1].

    PyTorch's convolution is made for many channels: the sum of shifted images is the same to the bit, and faster.
    """
    if len(image) == image.shape[1] == 1 and image.numel() <= FEW:
        return F.conv2d(image, kernel[None, None])
    height, width = (side - reach + 1 for side, reach in zip(image.shape[2:], kernel.shape, strict=True))
    total = image.new_zeros(*image.shape[:2], height, width)
    for row, taps in enumerate(kernel):
        for column, tap in enumerate(taps):
            total.addcmul_(image[:, :, row : row + height, column : column + width], tap)
    return total


def dihedral_crop(pixels: Tensor, *, top: int, left: int, side: int, turn: int) -> Tensor:
    """The square of [B, C, H, W] at (top, left) in orientation turn, 0 to 7, of the square; [B, C, side, side]."""
    return turned(pixels[:, :, top : top + side, left : left + side], turn).contiguous()


def turned(image: Tensor, turn: int) -> Tensor:
    """[..., H, W] in one of the eight orientations, 0 to 7, of the square."""
    image = image.rot90(turn % 4, (-2, -1))
    return image.flip(-1) if turn > 3 else image


def turned_back(image: Tensor, turn: int) -> Tensor:
    """What turned() was given, [..., H, W]."""
    return (image.flip(-1) if turn > 3 else image).rot90(-turn % 4, (-2, -1))


def center_crop(image: Tensor, *, side: int) -> Tensor:
    """The middle square of at most side px of [B, C, H, W]; all of it for side 0."""
    (top, height), (left, width) = (
        (max(0, (n - side) // 2), min(n, side)) if side else (0, n) for n in image.shape[2:]
    )
    return image[:, :, top : top + height, left : left + width].contiguous()


def lagged(image: Tensor, row: int, col: int) -> tuple[Tensor, Tensor]:
    """Pixels of [..., H, W] that have another one `row` down and `col` across, and those others; two views."""
    height, width = image.shape[-2:]
    first = image[..., max(0, -row) : height - max(0, row), max(0, -col) : width - max(0, col)]
    return first, image[..., max(0, row) : height + min(0, row), max(0, col) : width + min(0, col)]


def autocovariance(images: Sequence[Tensor], *, radius: int, valid: Sequence[Tensor] | None = None) -> Tensor:
    """Mean product of pixels at lags -radius..radius of rows and columns, [2 radius + 1, 2 radius + 1], float64.

    Images are [1, 1, H, W], of mean 0; valid: their pixels that count, bool, a pair at every lag; None: all.
    """
    valid = [torch.ones_like(image, dtype=torch.bool) for image in images] if valid is None else valid
    products = sum(_products((image * v)[0, 0].double(), radius) for image, v in zip(images, valid, strict=True))
    return products / sum(_products(v[0, 0].double(), radius) for v in valid)


def _products(image: Tensor, radius: int) -> Tensor:
    size = tuple(side + radius for side in image.shape)  # lags meet no other around the torus
    power = torch.fft.rfft2(image, s=size).abs().square()
    return torch.fft.irfft2(power, s=size).roll((radius, radius), (0, 1))[: 2 * radius + 1, : 2 * radius + 1]


def autocorrelation(kernel: Tensor) -> Tensor:
    """Sums of products of a kernel [K, K] at lags -(K - 1)..K - 1: the covariance of white noise filtered by it."""
    return F.conv2d(F.pad(kernel, (len(kernel) - 1,) * 4)[None, None], kernel[None, None])[0, 0]


def robust_level(noisy: Tensor, valid: Tensor | None = None) -> Tensor:
    """A first guess of the level of white noise, median |second difference| / 0.6745 (Donoho and Johnstone 1994).

    Too high on texture. The median is over the channels of [B, C, H, W], without constant surroundings (background,
    padding, saturation) and without differences that take an invalid pixel; valid: [B, C, H, W] bool, None: all.
    Returns [B, 1, 1, 1], at least 1e-6.
    """
    padded = F.pad(noisy, (1, 1, 1, 1), mode="replicate").flatten(0, 1)[:, None]
    response = correlate(padded, SECOND_DIFFERENCE.to(noisy)).abs().view_as(noisy)
    response = response.masked_fill(constant(noisy), math.nan)
    if valid is not None and not bool(valid.all()):
        response = response.masked_fill(F.max_pool2d((~valid).to(noisy), 3, 1, 1) > 0, math.nan)
    response = response.flatten(1)
    return (response.nanmedian(dim=1).values / 0.6745).nan_to_num(0.0).clamp_min(1e-6).view(-1, 1, 1, 1)


def constant(noisy: Tensor) -> Tensor:
    """Where a pixel equals all its eight neighbours, [B, C, H, W] bool."""
    across = F.pad(noisy[..., 1:] == noisy[..., :-1], (1, 1), value=True)
    down = F.pad(noisy[..., 1:, :] == noisy[..., :-1, :], (0, 0, 1, 1), value=True)
    rows = F.pad(across[..., 1:] & across[..., :-1], (0, 0, 1, 1), value=True)
    return rows[..., 2:, :] & rows[..., 1:-1, :] & rows[..., :-2, :] & down[..., 1:, :] & down[..., :-1, :]


def has_noise(noisy: Tensor) -> Tensor:
    """Where noise is visible, [B, C, H, W] bool: outside constant surroundings; everywhere in a constant image."""
    flat = constant(noisy)
    if not bool(flat.any()):  # most images
        return ~flat
    inside = F.max_pool2d(flat.to(noisy), 3, 1, 1) < 0.5
    return inside | ~inside.flatten(1).any(1).view(-1, 1, 1, 1)


def mean_intensity(noisy: Tensor) -> Tensor:
    """Mean of each image over the pixels that hold noise, [B, 1, 1, 1]."""
    valid = has_noise(noisy).to(noisy)
    return (noisy * valid).sum((1, 2, 3), keepdim=True) / valid.sum((1, 2, 3), keepdim=True)
