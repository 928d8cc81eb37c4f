"""Arrays of several planes: each channel has a noise model of its own, and its planes share it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mptpn.inference import colour
from mptpn.inference.assessment import VERDICTS, Assessment, assess, common_share, together
from mptpn.inference.denoiser import Denoiser, Network, Prediction
from mptpn.inference.noisy_images import NoisyImages
from mptpn.io import gray_array
from mptpn.io.axes import Axes
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise import NoiseEstimate, PoissonGaussian
from mptpn.tiling import spread

SAMPLES = 8  # planes of a channel from which its noise is learned
Place = tuple  # where a plane [H, W] lies in the array
Channels = list[list[Place]]  # of colours of one pixel, or a single one; the places of the planes of each


@dataclass(frozen=True)
class DenoisedPlanes:
    """An array after denoising.

    Attributes:
        array: type and shape of the input. uncertainty: float32, same shape; 0 in alpha.
        noise: of all channels together, in the array's unit. noises: of each channel that holds noise.
        assessment: of the worst plane that was judged of each channel, together.
    """

    array: np.ndarray
    uncertainty: np.ndarray
    noise: NoiseEstimate
    noises: tuple[NoiseEstimate, ...]
    assessment: Assessment


def denoise_planes(
    array: np.ndarray,
    axes: Axes,
    *,
    model: str | Path | Network,
    strength: float,
    minutes: float,
    memory: int | None,
    valid: np.ndarray | None,
    seed: int,
    adapt: float | None = None,
    sigma: float | None = None,
) -> DenoisedPlanes:
    """Denoise all planes of an array; arguments as in mptpn.denoise.

    sigma: known standard deviation of white Gaussian noise, in the array's unit; None: estimated.
    """
    planes = NoisyPlanes(array, axes, memory=memory, valid=valid, sigma=sigma)
    network = planes.network(model, minutes=minutes, seed=seed)
    out, uncertainty = array.copy(), np.zeros(array.shape, np.float32)
    for place, prediction, share in planes.solve(network, adapting=adapt, seed=seed):
        change, uncertainty[place] = prediction.at(strength * share)
        out[place] = changed(out[place], change)
    return DenoisedPlanes(out, uncertainty, planes.noise, planes.noises, planes.assessment)


class NoisyPlanes:
    """The planes of an array and their noise, measured once for any number of networks.

    Attributes:
        noise: of all channels together, in the array's unit.
        noises: of each channel that holds noise. assessment: see DenoisedPlanes. Both are there after solve().
    """

    def __init__(
        self,
        array: np.ndarray,
        axes: Axes,
        *,
        memory: int | None = None,
        valid: np.ndarray | None = None,
        sigma: float | None = None,
    ):
        """Measure the noise; arguments as in denoise_planes."""
        channels, self._groups = places(axes), _groups(array, axes, _Masks(valid, axes), memory)
        arrays, masked = zip(*_samples_of(self._groups), strict=True)
        self._images, self._sigma = _of_level(NoisyImages.of(arrays, valid=masked), sigma), sigma
        self._numbers = [number for number, own in enumerate(sum(channels, [])) if _holds_noise(array, own)]
        self.noise, self.noises = self._images.estimate, ()
        self.assessment: Assessment | None = None

    def network(self, model: str | Path | Network, *, minutes: float, seed: int = 0) -> Network | None:
        """The network that a user means, see NoisyImages.network."""
        return self._images.network(model, minutes=minutes, seed=seed)

    def solve(
        self, network: Network | None, *, adapting: float | None = None, seed: int = 0
    ) -> Iterator[tuple[Place, Prediction, float]]:
        """Place, prediction and share of the change of each plane that holds noise, channel by channel.

        adapting: minutes, see colour.prepare.
        """
        worst, noises = [], []
        for group in self._groups:
            own = [self._images] if len(self._groups) == len(group.channels) == 1 else group.images(self._sigma)
            noises += [one.estimate for one in own]
            group.denoisers = colour.prepare(own, network, adapting=adapting, seed=seed)
            worst += group.worst()
            yield from group.predictions()
        self.noises, self.assessment = tuple(noises), together(worst, self._numbers)


class _Group:
    """Channels that a network may take at once: the colours of a pixel, or one channel alone."""

    def __init__(self, array: np.ndarray, masks: "_Masks", channels: Channels, memory: int | None):
        self.array, self.masks, self.channels, self.memory = array, masks, channels, memory
        noisy = [[i for i, place in enumerate(own) if not _is_constant(array[place])] for own in channels]
        self.noisy = noisy
        self.chosen = [spread(own, SAMPLES) for own in noisy]
        self.denoisers: Sequence[Denoiser] = ()
        self._known: dict[tuple[int, int], Prediction] = {}
        self._shares = [1.0] * len(channels)

    def samples(self) -> list[list[tuple[np.ndarray, np.ndarray | None]]]:
        """The planes and masks from which the noise of each channel is learned."""
        return [[self._plane(own[i]) for i in some] for own, some in zip(self.channels, self.chosen, strict=True)]

    def images(self, sigma: float | None) -> list[NoisyImages]:
        """The noise of each channel, in one orientation."""
        found = colour.of_groups(self.samples(), size=len(self.channels))
        return [_of_level(one, sigma) for one in found if one]

    def worst(self) -> list[Assessment]:
        """Of each channel, that of the worst plane that was judged; the predictions are kept."""
        judged: list[list[Assessment]] = [[] for _ in self.channels]
        for index in sorted({i for some in self.chosen for i in some}):
            planes = self._planes(index)
            for number, denoiser in enumerate(colour.beside(self.denoisers, planes)):
                if index in self.chosen[number]:
                    prediction = denoiser.predict(*planes[number], memory=self.memory)
                    self._known[number, index] = prediction
                    judged[number].append(assess(denoiser, planes[number][0], prediction, planes[number][1]))
        self._shares = [common_share(own) for own in judged]
        return [max(own, key=lambda one: VERDICTS.index(one.verdict)) for own in judged]

    def predictions(self):
        """Place, prediction and share of the change of each plane that holds noise."""
        for index in range(len(self.channels[0])):
            planes = self._planes(index)
            wanted = [number for number, own in enumerate(self.noisy) if index in own]
            missing = any((number, index) not in self._known for number in wanted)
            seen = colour.beside(self.denoisers, planes) if missing else self.denoisers
            for number in wanted:
                prediction = self._known.pop((number, index), None)
                if prediction is None:
                    prediction = seen[number].predict(*planes[number], memory=self.memory)
                yield self.channels[number][index], prediction, self._shares[number]

    def _planes(self, index: int) -> list[tuple[np.ndarray, np.ndarray | None]]:
        return [self._plane(own[index]) for own in self.channels]

    def _plane(self, place: Place) -> tuple[np.ndarray, np.ndarray | None]:
        return self.array[place], self.masks.of(place)


def check_planes(array: np.ndarray, axes: Axes, *, valid: np.ndarray | None) -> None:
    """Refuses arrays that are no images, see gray_array; planes that are constant among others stay."""
    if axes.slices == 0 or 0 in array.shape:
        raise ValueError(f"the image: it is empty, shape {array.shape}; give one with pixels.")
    masks = _Masks(valid, axes)
    planes = [place for one in places(axes) for own in one for place in own]
    height, width = array[planes[0]].shape
    if min(height, width) < SMALLEST:  # with its sentence
        gray_array(array[planes[0]], name="the image", smallest=SMALLEST)
    if valid is not None and (masks.dtype != bool or not any(masks.of(place).any() for place in planes)):
        raise ValueError(f"the image: the mask is {masks.dtype}; give bool with some valid pixels.")
    bad = count = 0
    first, varies = None, False
    for place in planes:  # one after the other: a stack is not copied
        inside = array[place] if valid is None else array[place][masks.of(place)]
        bad, count = bad + inside.size - int(np.isfinite(inside).sum()), count + inside.size
        first = inside.flat[0] if first is None and inside.size else first
        varies = varies or bool((inside != first).any())
    if bad:
        raise ValueError(f"the image: {bad} of {count} pixels are NaN or infinite; replace, crop or mask them first.")
    if not varies:
        raise ValueError(f"the image: every pixel is {first:g}; a constant image holds no noise.")


def noisy_planes(
    array: np.ndarray, axes: Axes, *, valid: np.ndarray | None = None
) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """The planes [H, W] and masks from which the noise of all channels together is learned, as denoise_planes does."""
    arrays, masked = zip(*_samples_of(_groups(array, axes, _Masks(valid, axes), None)), strict=True)
    return list(arrays), list(masked)


def _groups(array: np.ndarray, axes: Axes, masks: "_Masks", memory: int | None) -> list["_Group"]:
    kept = [[own for own in one if _holds_noise(array, own)] for one in places(axes)]
    return [_Group(array, masks, one, memory) for one in kept if one]


def _samples_of(groups: Sequence["_Group"]) -> list[tuple[np.ndarray, np.ndarray | None]]:
    return [one for group in groups for channel in group.samples() for one in channel]


def places(axes: Axes) -> list[Channels]:
    """Where the planes [H, W] of each channel lie, alpha left out; the colours of a pixel belong together."""
    count, found = axes.colours, []
    for channel in range(axes.channels):
        one = []
        for number in range(count):
            own = []
            for index in axes.of_channel(channel):
                place = list(axes.place(index))
                if axes.samples is not None:
                    place[axes.samples] = number
                own.append(tuple(place))
            one.append(own)
        found += [one] if axes.is_colour else [[own] for own in one]
    return found


def changed(array: np.ndarray, change: np.ndarray) -> np.ndarray:
    """An array plus a change, in its own type, rounded and clipped; where nothing moves, no digit is lost."""
    moved = array + change.astype(np.float64)
    if np.issubdtype(array.dtype, np.integer):
        limits = np.iinfo(array.dtype)
        highest = float(limits.max) if limits.bits < 54 else np.nextafter(float(limits.max), 0)
        moved = np.clip(np.rint(moved), limits.min, highest)
    return np.where(change == 0, array, moved.astype(array.dtype, copy=False))


class _Masks:
    """The mask of each plane: one for all, [H, W], or one of the array's shape."""

    def __init__(self, valid: np.ndarray | None, axes: Axes):
        self._valid = None if valid is None else np.asarray(valid)
        sides = tuple(axes.shape[i] for i in axes.sides)
        if self._valid is not None and self._valid.shape not in (sides, axes.shape):
            raise ValueError(f"the image: the mask is {self._valid.shape}; give {sides} or {axes.shape}.")
        self.dtype = None if self._valid is None else self._valid.dtype
        self._each = self._valid is not None and self._valid.shape == axes.shape

    def of(self, place: Place) -> np.ndarray | None:
        return self._valid[place] if self._each else self._valid


def _holds_noise(array: np.ndarray, own: list[Place]) -> bool:
    return not all(_is_constant(array[place]) for place in own)


def _is_constant(plane: np.ndarray) -> bool:
    return bool((plane == plane.flat[0]).all())


def _of_level(images: NoisyImages, sigma: float | None) -> NoisyImages:
    """The same with white Gaussian noise of a known level, in the array's unit; None: as it was found."""
    if sigma is None:
        return images
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma {sigma}: give a finite standard deviation above 0, or None.")
    own, white = sigma / images.unit, torch.zeros_like(images.noise.correlation)
    white[tuple(side // 2 for side in white.shape)] = 1
    noise = replace(
        images.noise,
        sigma=own,
        sigma_interval=(own, own),
        kind="gaussian",
        noise_model=PoissonGaussian(own),
        parameters={"sigma": (own, 0.0)},
        correlation=white,
        half_size=(0, 0),
        findings=(),
    )
    return replace(images, noise=noise, noise_models=(noise.noise_model,) * len(images.images))
