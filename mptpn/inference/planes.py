"""Arrays of several planes: each channel has a noise model of its own, and its planes share it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mptpn.inference.assessment import VERDICTS, Assessment, assess, together
from mptpn.inference.denoiser import Network
from mptpn.inference.noisy_images import NoisyImages
from mptpn.io import Axes, gray_array
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise import NoiseEstimate, PoissonGaussian
from mptpn.tiling import spread

SAMPLES = 8  # planes of a channel from which its noise is learned
Place = tuple  # where a plane [H, W] lies in the array


@dataclass(frozen=True)
class DenoisedPlanes:
    """An array after denoising.

    Attributes:
        array: type and shape of the input. uncertainty: float32, same shape; 0 in alpha.
        noise: of each channel that holds noise, all together where there are several, in the array's unit.
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
    sigma: float | None = None,
) -> DenoisedPlanes:
    """Denoise all planes of an array; arguments as in mptpn.denoise.

    sigma: known standard deviation of white Gaussian noise, in the array's unit; None: estimated.
    """
    masks = _Masks(valid, axes)
    channels = [[place for place in own if not _is_constant(array[place])] for own in places(axes)]
    kept = {number: own for number, own in enumerate(channels) if own}
    chosen = {number: spread(own, SAMPLES) for number, own in kept.items()}
    of = {
        number: _images([array[place] for place in own], [masks.of(place) for place in own], sigma)
        for number, own in chosen.items()
    }
    together_ = [place for own in chosen.values() for place in own]
    first = next(iter(of.values()))
    images = first if len(of) == 1 else _images([array[p] for p in together_], [masks.of(p) for p in together_], sigma)
    network = images.network(model, minutes=minutes, seed=seed)
    out, uncertainty, worst = array.copy(), np.zeros(array.shape, np.float32), []
    for number, own in kept.items():
        denoiser, known, assessments = of[number].prepare(network), {}, []
        for place in chosen[number]:
            known[place_key(place)] = denoiser.predict(array[place], masks.of(place), memory=memory)
            assessments.append(assess(denoiser, array[place], known[place_key(place)], masks.of(place)))
        share = min(one.share for one in assessments)
        worst.append(max(assessments, key=lambda one: VERDICTS.index(one.verdict)))
        for place in own:
            prediction = known.get(place_key(place))
            if prediction is None:
                prediction = denoiser.predict(array[place], masks.of(place), memory=memory)
            change, uncertainty[place] = prediction.at(strength * share)
            out[place] = changed(out[place], change)
    noises = tuple(images.noise.in_unit(images.unit) for images in of.values())
    whole = images.noise.in_unit(images.unit)
    return DenoisedPlanes(out, uncertainty, whole, noises, together(worst, list(kept)))


def check_planes(array: np.ndarray, axes: Axes, *, valid: np.ndarray | None) -> None:
    """Refuses arrays that are no images, see gray_array; planes that are constant among others stay."""
    if axes.slices == 0 or 0 in array.shape:
        raise ValueError(f"the image: it is empty, shape {array.shape}; give one with pixels.")
    masks = _Masks(valid, axes)
    planes = [place for own in places(axes) for place in own]
    height, width = array[planes[0]].shape
    if min(height, width) < SMALLEST:  # with its sentence
        gray_array(array[planes[0]], name="the image", smallest=SMALLEST)
    rows = np.concatenate([array[place] for place in planes])
    mask = None if valid is None else np.concatenate([masks.of(place) for place in planes])
    gray_array(rows, name="the image", valid=mask, smallest=SMALLEST, remedy="replace, crop or mask")


def places(axes: Axes) -> list[list[Place]]:
    """Where the planes [H, W] of each channel lie, alpha left out; channels of a pixel are the last number."""
    count, found = axes.colours, []
    for channel in range(axes.channels):
        for colour in range(count):
            own = []
            for index in axes.of_channel(channel):
                place = list(axes.place(index))
                if axes.samples is not None:
                    place[axes.samples] = colour
                own.append(tuple(place))
            found.append(own)
    return found


def place_key(place: Place) -> tuple:
    """A place as a key: slices have no hash."""
    return tuple(-1 if isinstance(at, slice) else at for at in place)


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
        self._each = self._valid is not None and self._valid.shape == axes.shape

    def of(self, place: Place) -> np.ndarray | None:
        return self._valid[place] if self._each else self._valid


def _is_constant(plane: np.ndarray) -> bool:
    return bool((plane == plane.flat[0]).all())


def _images(arrays: Sequence[np.ndarray], valid: Sequence[np.ndarray | None], sigma: float | None) -> NoisyImages:
    images = NoisyImages.of(arrays, valid=valid)
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
