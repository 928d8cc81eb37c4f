"""Correlated noise, learned better after a first training: what a denoiser takes out of the noisy images must be what
it takes out of copies of its results.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mptpn.filters import center_crop, has_noise
from mptpn.networks.noise_level import RADIUS
from mptpn.noise.models import CorrelatedGaussian, NoiseModel
from mptpn.random import generator

IMAGES, SIDE = 6, 512  # number of images that are looked at, and the middle square of each, px
# steps towards equal residuals, and how much of the difference each adds: the denoiser takes out a part of the noise
# alone
ROUNDS, GAIN = 3, 1.5
FARTHEST = 2.0  # factor of the level, beyond which nothing was learned


@torch.no_grad()
def refine(
    noise_models: Sequence[NoiseModel], noisy: Sequence[Tensor], *, denoise: Callable[[Tensor], Tensor], seed: int = 0
) -> tuple[NoiseModel, ...]:
    """Laws whose common level and correlation fit the residuals of a denoiser that was trained with the given ones: a
    parametric bootstrap.

    The autocovariance of noisy - denoise(noisy) holds less than the noise's, for the denoiser leaves some of it in, and
    errors of its own besides. So it is
    compared with that of copies: the denoised images with noise drawn from the noise models, denoised again. What the
    noisy images have more than the copies, at each lag, is added to the noise models' covariance. Noise that was left
    in looks like content, so that one call finds a third to three quarters of the way to the truth, and a denoiser
    trained with what it found finds the more.

    Args:
        noise models: of each image, with one correlation at lags -3..3, as stage 1 states it; without any they come
            back as they are.
        noisy: [1, 1, H, W] each. denoise: image -> image of the same shape, blind to the noise model.
    Returns:
        the noise models with other levels, all by one factor, and another correlation map, of lags up to 3 px; as they
        were where the residuals fit no noise, that is where the level would move by more than a factor of two or a lag
        outweigh the variance.
    """
    cut = [center_crop(image, side=SIDE) for image in noisy]
    telling = [i for i, image in enumerate(cut) if image.amin() < image.amax()]
    if not telling or not all(noise_model.correlated for noise_model in noise_models):
        return tuple(noise_models)
    chosen = telling[:: -(-len(telling) // IMAGES)]
    images = [cut[i] for i in chosen]
    counts = [has_noise(image) for image in images]
    contents = [denoise(image) for image in images]
    seen = autocovariance([image - content for image, content in zip(images, contents, strict=True)], counts)
    shares = [
        noise_model.variance(content)[count].double()
        for noise_model, content, count in zip((noise_models[i] for i in chosen), contents, counts, strict=True)
    ]
    first = torch.cat(shares).mean() * torch.tensor(noise_models[0].correlation, dtype=torch.float64)
    covariance = first
    for turn in range(ROUNDS):
        now = _with_covariance(noise_models, first, covariance)
        if now is None:
            return tuple(noise_models)
        copies = [
            now[i].sample(content, generator=generator(seed, "refinement", turn, i))
            for i, content in zip(chosen, contents, strict=True)
        ]
        covariance = covariance + GAIN * (seen - autocovariance([copy - denoise(copy) for copy in copies], counts))
    return _with_covariance(noise_models, first, covariance) or tuple(noise_models)


def autocovariance(residuals: Sequence[Tensor], counts: Sequence[Tensor], *, radius: int = RADIUS) -> Tensor:
    """Mean product of pixels at lags -radius..radius of rows and columns over all images, [2 radius + 1, 2 radius + 1],
    float64, intensity squared.

    Args:
        residuals: [1, 1, H, W] each. counts: which of their pixels count, bool, the same shapes; every lag must have a
            pair of them.
    """
    products = pairs = 0
    for residual, count in zip(residuals, counts, strict=True):
        masked = (residual * count)[0, 0].double()
        products, pairs = products + _correlated(masked, radius), pairs + _correlated(count[0, 0].double(), radius)
    return products / pairs


def _correlated(image: Tensor, radius: int) -> Tensor:
    size = tuple(side + radius for side in image.shape)  # lags meet no other around the torus
    whole = torch.fft.irfft2(torch.fft.rfft2(image, s=size).abs().square(), s=size)
    return whole.roll((radius, radius), (0, 1))[: 2 * radius + 1, : 2 * radius + 1]


def _with_covariance(
    noise_models: Sequence[CorrelatedGaussian], first: Tensor, covariance: Tensor
) -> tuple[CorrelatedGaussian, ...] | None:
    """The noise models, whose covariance is first, with another one; None: it is none that noise can have, or too far
    away.
    """
    middle = covariance[RADIUS, RADIUS]
    ratio = float(middle / first[RADIUS, RADIUS])
    if not FARTHEST**-2 < ratio < FARTHEST**2 or float((covariance / middle).abs().max()) > 1:
        return None
    return tuple(
        CorrelatedGaussian(noise_model.noise_model.scaled(math.sqrt(ratio)), covariance / middle)
        for noise_model in noise_models
    )
