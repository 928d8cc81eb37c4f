"""Colour: a denoiser for each channel, which sees the other two where their noise allows it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.inference.adaptation import adapt
from mptpn.inference.denoiser import Denoiser, Network
from mptpn.inference.masks import inpaint, pieces
from mptpn.inference.noisy_images import NoisyImages, load_once, predictor_of, stabilised
from mptpn.inference.orientation import orientation, turned
from mptpn.inference.predictor import ANYWHERE, Place, StabilisedPredictor
from mptpn.noise.bands import measure
from mptpn.noise.estimate import estimate_from
from mptpn.random import generator
from mptpn.stages import profound

COLOUR = "colour"  # network of the package for three channels
# ratio of the channels' levels up to which `colour`, trained with one level, is better than channel by channel (four
# photographs, levels of 10 to 30 gray levels: + 0.3 to + 2 dB at 1.67, - 3 to + 0.3 at 4)
LEVEL_RATIO = 1.6
INDEPENDENT = 0.25  # correlation of the noise of two channels up to which it counts as independent


@dataclass(frozen=True, eq=False)
class ColourPredictor(StabilisedPredictor):
    """One channel by a network that takes three at once.

    Attributes:
        channel: its number.
        planes: all channels of the image that is denoised, as the network sees them, [1, 3, H, W]; None: see beside().
    """

    channel: int = 0
    planes: Tensor | None = None

    def plane(self, pixels: Tensor, measured: Tensor) -> Tensor:
        """The whole channel [1, 1, H, W] as the network sees it; what is not measured is inpainted."""
        random = generator(pixels.numel(), "inpainting")
        pixels = inpaint(pixels, measured, noise_model=self.noise_model, generator=random)
        return (self.transform(pixels) - self.offset) / self.scale

    @torch.no_grad()
    def mean(self, noisy: Tensor, *, place: Place = ANYWHERE) -> Tensor:
        rows, columns = (slice(start, start + side) for start, side in zip(place.origin, noisy.shape[2:], strict=True))
        stack = self.planes[..., rows, columns] / place.level
        stack[:, self.channel] = ((self.transform(noisy) - self.offset) / (self.scale * place.level))[:, 0]
        seen = {"offset": torch.zeros(1, 1, 1, 1), "scale": torch.ones(1, 1, 1, 1)}
        found = profound.denoise(self.network, stack, **seen)[:, self.channel, None]
        found = self.transform.inverse(found * self.scale * place.level + self.offset)
        return self._of_its_brightness(found, noisy, place.noise(self.noise_model))


def of_groups(
    found: Sequence[Sequence[tuple[np.ndarray, np.ndarray | None]]], *, size: int
) -> list[NoisyImages | None]:
    """The noise of each channel of a scan; None where it has no image.

    Args:
        found: images [H, W] and masks of each channel.
        size: number of channels, one after the other, that are colours of one pixel and have one orientation.
    """
    result: list[NoisyImages | None] = []
    for first in range(0, len(found), size):
        group = found[first : first + size]
        turn = orientation(*zip(*sum(map(list, group), []), strict=True)) if size > 1 and any(group) else None
        for own in group:
            pixels, valid = (list(x) for x in zip(*own, strict=True)) if own else ((), ())
            result.append(NoisyImages.of(pixels, valid=valid, turn=turn) if own else None)
    return result


def prepare_groups(
    channels: Sequence[NoisyImages | None],
    network: Network | None = None,
    *,
    size: int,
    adapting: float | None = None,
    seed: int = 0,
) -> list[Denoiser | None]:
    """A denoiser for each channel that has noise; arguments as in of_groups and prepare."""
    result: list[Denoiser | None] = []
    for first in range(0, len(channels), size):
        group = channels[first : first + size]
        some = [one for one in group if one]
        prepared = iter(prepare(some, network, adapting=adapting, seed=seed) if some else ())
        result += [next(prepared) if one else None for one in group]
    return result


def prepare(
    channels: Sequence[NoisyImages], network: Network | None = None, *, adapting: float | None = None, seed: int = 0
) -> list[Denoiser]:
    """A denoiser for each channel; network: None: that of the package for this noise.

    adapting: minutes, see adapt; None: the network stays as it is.

    Raises:
        ValueError: a network for three channels, and one channel, or noise that is not white; see adapt.
    """
    found = _prepare(channels, network)
    if adapting is None:
        return found
    return [adapt(one, denoiser, minutes=adapting, seed=seed) for one, denoiser in zip(channels, found, strict=True)]


def _prepare(channels: Sequence[NoisyImages], network: Network | None) -> list[Denoiser]:
    three = network is not None and network.channels == 3
    if three and len(channels) != 3:
        raise ValueError("the network takes three channels of colour, and this image has one; choose a gray network.")
    if three and any(one.noise.noise_model.correlated for one in channels):
        raise ValueError("the network takes colour with white noise, and this noise is correlated; choose auto.")
    if not three and not (network is None and at_once(channels)):
        return [one.prepare(network) for one in channels]
    network = network or load_once(COLOUR)
    seen = [one.with_skew() for one in channels]
    found = []
    for number, one in enumerate(seen):
        plain = predictor_of(network, one.noise.noise_model, one.images)
        parts = (plain.network, plain.noise_model, plain.offset, plain.scale, plain.transform)
        found.append(one.around(ColourPredictor(*parts, channel=number)))
    return found


def at_once(channels: Sequence[NoisyImages]) -> bool:
    """Whether the noise of three channels is white, of like level, and independent between them."""
    models = [one.noise.noise_model for one in channels]
    if len(channels) != 3 or any(model.correlated or model.counted for model in models):
        return False
    levels = [one.noise.sigma * one.unit for one in channels]
    if max(levels) > LEVEL_RATIO * min(levels):
        return False
    stable = [stabilised(model, one.images) for model, one in zip(models, channels, strict=True)]
    pairs = [(a, b) for a in range(3) for b in range(a)]
    return all(_shared(*((channels[i], stable[i]) for i in pair)) < INDEPENDENT for pair in pairs)


def _shared(first: tuple, second: tuple) -> float:
    """Correlation of the noise of two channels: the difference of both, of variance 1 each, has 2 (1 - correlation)."""
    images = [one.images[0] for one, _ in (first, second)]
    measured = images[0].measured & images[1].measured
    found = []
    for piece in pieces(measured):
        a, b = (transform(one.pixels[piece]) for one, (_, transform) in zip(images, (first, second), strict=True))
        difference = (a - b) / 2**0.5
        if float(difference.std()) < INDEPENDENT:
            return 1.0
        found.append(measure(difference, valid=measured[piece], counts=0.0))
    return 1 - estimate_from(found).sigma ** 2


def beside(
    denoisers: Sequence[Denoiser | None], planes: Sequence[tuple[np.ndarray, np.ndarray | None]]
) -> Sequence[Denoiser | None]:
    """The denoisers of the channels of one image, which see its other channels.

    Args:
        denoisers: as prepare_groups gives them.
        planes: image [H, W] in the own unit and mask of each channel.
    """
    if not all(denoisers) or not denoisers or len(planes) != len(denoisers):
        return denoisers
    if not isinstance(denoisers[0].predictor, ColourPredictor):
        return denoisers
    seen = torch.cat([_plane(one, *plane) for one, plane in zip(denoisers, planes, strict=True)], 1)
    return [replace(one, predictor=replace(one.predictor, planes=seen)) for one in denoisers]


def _plane(denoiser: Denoiser, image: np.ndarray, valid: np.ndarray | None) -> Tensor:
    image, valid = (x if x is None else turned(x, denoiser.turn) for x in (image, valid))
    return denoiser.predictor.plane(*denoiser.measured(image, valid))
