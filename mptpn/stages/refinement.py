"""Refinement of correlated noise models: a denoiser must leave equal residuals of the images and of drawn copies."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mptpn.filters import autocovariance, center_crop, has_noise
from mptpn.networks.noise_level import RADIUS
from mptpn.noise import CorrelatedGaussian, NoiseModel
from mptpn.random import generator
from mptpn.tiling import spread

IMAGES, SIDE = 6, 512  # most images that are denoised, and the side of the center crop of each, px
ROUNDS = 3  # steps towards equal residuals
GAIN = 1.5  # share of the difference that a step adds: the denoiser takes out a part of the noise alone
LARGEST_FACTOR = 2.0  # of the level; beyond, the residuals fit no noise


@torch.no_grad()
def refine(
    noise_models: Sequence[NoiseModel], noisy: Sequence[Tensor], *, denoise: Callable[[Tensor], Tensor], seed: int = 0
) -> tuple[NoiseModel, ...]:
    """Noise models whose common level and correlation fit a denoiser's residuals: a parametric bootstrap.

    The autocovariance of noisy - denoise(noisy) lacks the noise that the denoiser leaves in, and has errors of its own.
    So it is compared with that of copies: the denoised images with noise drawn from the noise models, denoised again.
    What the noisy images have more than the copies, at each lag, is added to the covariance. Noise that was left in
    looks like content: one call finds a third to three quarters of the way to the truth, and a denoiser trained with
    what it found finds the rest.

    Args:
        noise_models: of each image, with one correlation at lags -3..3, as stage 1 states it.
        noisy: [1, 1, H, W] each.
        denoise: image -> image of the same shape, blind to the noise model.
    Returns:
        the noise models with other levels, all by one factor, and another correlation, of lags up to 3 px. They are as
        they were without correlation, and where the level would move by more than a factor of two or a lag outweigh
        the variance.
    """
    crops = [center_crop(image, side=SIDE) for image in noisy]
    varied = [i for i, image in enumerate(crops) if image.amin() < image.amax()]
    if not varied or not all(noise_model.correlated for noise_model in noise_models):
        return tuple(noise_models)
    chosen = spread(varied, IMAGES)
    images = [crops[i] for i in chosen]
    valid, contents = [has_noise(image) for image in images], [denoise(image) for image in images]
    residuals = [image - content for image, content in zip(images, contents, strict=True)]
    variances = [
        noise_models[i].variance(content)[mask].double()
        for i, content, mask in zip(chosen, contents, valid, strict=True)
    ]
    first = torch.cat(variances).mean() * torch.tensor(noise_models[0].correlation, dtype=torch.float64)
    wanted, covariance = autocovariance(residuals, radius=RADIUS, valid=valid), first
    for turn in range(ROUNDS):
        now = _with_covariance(noise_models, first, covariance)
        if now is None:
            return tuple(noise_models)
        draws = [generator(seed, "refinement", turn, i) for i in chosen]
        copies = [now[i].sample(x, generator=draw) for i, x, draw in zip(chosen, contents, draws, strict=True)]
        found = autocovariance([copy - denoise(copy) for copy in copies], radius=RADIUS, valid=valid)
        covariance = covariance + GAIN * (wanted - found)
    return _with_covariance(noise_models, first, covariance) or tuple(noise_models)


def _with_covariance(
    noise_models: Sequence[CorrelatedGaussian], first: Tensor, covariance: Tensor
) -> tuple[CorrelatedGaussian, ...] | None:
    """The noise models, whose covariance is first, with another one; None where no noise has it, or it is too far."""
    variance = covariance[RADIUS, RADIUS]
    ratio = float(variance / first[RADIUS, RADIUS])
    if not LARGEST_FACTOR**-2 < ratio < LARGEST_FACTOR**2 or float((covariance / variance).abs().max()) > 1:
        return None
    scaled = (noise_model.noise_model.scaled(math.sqrt(ratio)) for noise_model in noise_models)
    return tuple(CorrelatedGaussian(noise_model, covariance / variance) for noise_model in scaled)
