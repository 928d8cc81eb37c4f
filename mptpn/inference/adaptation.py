"""Adaptation of a pretrained network to noisy images, and to nothing else."""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mptpn.inference.denoiser import Denoiser
from mptpn.inference.masks import MaskedImage, inpaint
from mptpn.inference.noisy_images import SELF, NoisyImages
from mptpn.inference.predictor import StabilisedPredictor
from mptpn.noise.by_place import CELL
from mptpn.random import generator
from mptpn.stages import profound
from mptpn.tiling import spread
from mptpn.training import Batch, fit, launch

A_MINUTE = 15  # steps of a minute: the number is fixed, so that a busy machine gives the same bytes
SIDE, BATCH, IMAGES = 96, 4, 8  # px, patches a step, images of a series
RATE, STEP = 2e-3, 0.1  # peak learning rate; size in sigmas of the noise whose passage is measured
TURNS = 8  # orientations of the square
JUDGED = 6  # batches by which start and end are compared
ATTEMPTS = 20  # at a patch of which at least half is measured
CANNOT = "cannot be adapted"


@dataclass(frozen=True, eq=False)
class _Stable:
    """An image as it is learned from, [1, 1, H, W]: stabilised pixels, level of the noise, what is measured."""

    pixels: Tensor
    level: Tensor
    measured: Tensor


def adapt(images: NoisyImages, denoiser: Denoiser, *, minutes: float, seed: int = 0) -> Denoiser:
    """The denoiser averaged over the eight orientations, with a network that has learned from these images.

    The mean over orientations has at most their mean squared error (validation images: + 0.05 to + 0.16 dB). The
    network learns where the noise is white, and is taken where its estimated error is smaller. Only the gains of the
    normalisations learn (GainTuning; Mohan et al. 2021): all weights learn the noise (- 0.4 to - 3.3 dB on two
    validation images). The loss is Stein's unbiased risk estimate, |f(y) - y|^2 + 2 n'^T (f(y + e n') - f(y)) / e,
    where the noise has variance 1. Correlated noise of scanners reaches farther than is measured, and Stein's estimate
    takes the rest for content: it promised + 0.1 to + 0.5 dB where + 0.1 to - 0.1 dB were true (three validation images
    of CT).

    Args:
        images: of one noise model. denoiser: from images.prepare, of a pretrained network for gray images.
        minutes: A_MINUTE steps each, on one quiet core about that time.
    Raises:
        ValueError: a network that cannot be adapted, or images that are too small.
    """
    check(denoiser)
    if not denoiser.predictor.noise_model.correlated:
        denoiser = _learned(images, denoiser, steps=max(1, round(A_MINUTE * minutes)), seed=seed)
    return replace(denoiser, predictor=replace(denoiser.predictor, turns=TURNS))


def _learned(images: NoisyImages, denoiser: Denoiser, *, steps: int, seed: int) -> Denoiser:
    """The denoiser with learned gains, or as it was where they have no smaller estimated error."""
    stable = [one for image in spread(images.images, IMAGES) if (one := _stable(denoiser, image)) is not None]
    if not stable:
        raise ValueError(f"too few pixels to adapt to: --adapt takes {SIDE} x {SIDE} px of noise that is measured.")
    predictor = denoiser.predictor
    network = copy.deepcopy(predictor.network).train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for part in network.modules():
        if isinstance(part, nn.LayerNorm):
            part.weight.requires_grad_(True)
    risk = _Risk(predictor)
    given = {"loss": risk, "batches": lambda step: _batch(stable, seed, "adaptation", step), "title": "adapting"}
    fit(network, steps=steps, lr=RATE, fabric=launch(), **given)
    network.eval().requires_grad_(False)
    judged = [_batch(stable, seed, "adaptation judged", number) for number in range(JUDGED)]
    with torch.no_grad():
        before, after = (sum(float(risk(net, batch)) for batch in judged) for net in (predictor.network, network))
    if after >= before:
        warnings.warn("learning did not lower the estimated error; the network stays as it was", stacklevel=3)
        return denoiser
    return replace(denoiser, predictor=replace(predictor, network=network))


def check_adaptation(minutes: float | None, model: object) -> None:
    """Raises ValueError for minutes that are not finite and above 0, and for a model that learns from the images."""
    if minutes is None:
        return
    if not 0 < minutes < math.inf:
        raise ValueError(f"adapt {minutes:g}: give a finite number of minutes above 0, or None.")
    if str(model) == SELF:
        raise ValueError("adapt with model 'self': that network learns from the images already; leave one out.")


def check(denoiser: Denoiser) -> None:
    """Raises ValueError for a denoiser that cannot be adapted."""
    predictor = denoiser.predictor
    if not isinstance(predictor, StabilisedPredictor):
        raise ValueError(f"the network {CANNOT}: give --adapt with auto, small, base or correlated.")
    if predictor.network.channels != 1:
        raise ValueError(f"three channels at once: their network {CANNOT}; give --adapt with --model small.")
    if predictor.correlation is None and predictor.noise_model.correlated:
        raise ValueError(f"correlated noise, which the network is not told: it {CANNOT}; give --adapt with auto.")
    if predictor.noise_model.counted:
        raise ValueError(f"counted photons: the network {CANNOT} to them; leave --adapt out.")


def _stable(denoiser: Denoiser, image: MaskedImage) -> _Stable | None:
    """None: too small."""
    shape, predictor = tuple(image.pixels.shape[2:]), denoiser.predictor
    if min(shape) < SIDE or int(image.measured.sum()) < SIDE**2:
        return None
    whole = tuple(slice(0, side) for side in shape)
    array, valid = (image.pixels[0, 0].numpy() * denoiser.unit), (~image.restored)[0, 0].numpy()
    level, _ = denoiser.noise_inside(array, valid).at(whole)
    random = generator(image.pixels.numel(), "inpainting")
    pixels = inpaint(image.pixels, image.measured, noise_model=predictor.noise_model, generator=random)
    return _Stable(predictor.transform(pixels), level.expand_as(pixels), image.measured)


def _batch(stable: Sequence[_Stable], *stream: int | str) -> Batch:
    """BATCH patches and noise that is drawn for them, a function of the stream alone."""
    random = generator(*stream)
    patches = [_patch(stable[_below(len(stable), random)], random) for _ in range(BATCH)]
    return {name: torch.cat([one[name] for one in patches]) for name in patches[0]}


def _patch(image: _Stable, random: torch.Generator) -> Batch:
    for _ in range(ATTEMPTS):
        corner = [CELL * _below((side - SIDE) // CELL + 1, random) for side in image.pixels.shape[2:]]
        place = tuple(slice(start, start + SIDE) for start in corner)
        if float(image.measured[..., *place].float().mean()) >= 0.5:
            break
    pixels, level, measured = (x[..., *place] for x in (image.pixels, image.level, image.measured))
    patch = {"pixels": pixels, "level": level, "measured": measured.float()}
    patch["noise"] = level * torch.randn(pixels.shape, generator=random)
    return patch


def _below(count: int, random: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=random))


@dataclass(frozen=True)
class _Risk:
    """Stein's unbiased risk estimate of a network on a batch, over the noise's variance, less a constant."""

    predictor: StabilisedPredictor

    def __call__(self, network: nn.Module, batch: Batch, fraction: float = 0.0) -> Tensor:
        pixels, noise, level = batch["pixels"], batch["noise"], batch["level"]
        known = {"offset": self.predictor.offset, "scale": self.predictor.scale * level}
        known["correlation"] = self.predictor.correlation
        denoised, moved = (profound.denoise(network, x, **known) for x in (pixels, pixels + STEP * noise))
        risk = (denoised - pixels).square() + 2 * noise * (moved - denoised) / STEP
        return (batch["measured"] * risk / level.square()).mean()
