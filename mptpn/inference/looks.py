"""The noise of the images of a series, looked at again where it is not known: in the light, or in the dark."""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from mptpn.inference.masks import Cut, MaskedImage, pieces, select
from mptpn.noise import NoiseEstimate, estimate_from, measure
from mptpn.noise.bands import Measurement
from mptpn.noise.estimate import MOST_UNKNOWN
from mptpn.noise.lattice import lattice

LOOKS = 3  # most measurements of whole images: the first, and those relative to it
LOOK_ERROR = 0.2  # most relative change, from one look to the next, of the levels that were known
MUCH_UNKNOWN = 0.3  # share of the images at intensities of unknown level, from which these are measured on their own
MARGIN = 0.5  # sigma: how far beyond the known intensities an image of its own begins

Measured = list[list[Measurement]]  # the pieces of each image


def look(images: Sequence[MaskedImage], subjects: Sequence[Hashable]) -> tuple[Measured, NoiseEstimate, float | None]:
    """What is measured in images, each of its subject; the noise of all; the share of zeros, see noise.estimate_from.

    Beside a large and dark background the noise of the light would seem to be structure. So where the level is not
    known in MUCH_UNKNOWN of the images, what is brighter or darker than all known intensities is measured as an image
    of its own. Where it is still not known in MOST_UNKNOWN (MUCH_UNKNOWN where noise correlates), Gaussian noise and
    that of photons are measured again, relative to what was found. Magnitudes, and noise that no model fits, are looked
    at once.
    """
    seen = [
        [_seen(image, piece) | {"number": i, "subject": subject} for piece in pieces(image.measured)]
        for i, (image, subject) in enumerate(zip(images, subjects, strict=True))
    ]
    zeros = _zeros([select(image.pixels, ~image.restored) for image in images])
    measured = [[measure(**piece) for piece in many] for many in seen]
    noise = _noise(measured, zeros)
    if noise.unknown > MUCH_UNKNOWN and not noise.kind.endswith(("rician", "free")):
        apart = [
            [_in_parts(one, piece, noise) for one, piece in zip(*both, strict=True)]
            for both in zip(measured, seen, strict=True)
        ]
        if _better(found := _noise(apart, zeros), noise):
            measured, noise = apart, found
    for _ in range(LOOKS - 1):
        if not _worth_another(noise):
            break
        again = [[measure(**piece, noise_model=noise.noise_model) for piece in many] for many in seen]
        found = _noise(again, zeros)
        if not _better(found, noise) or found.kind == "correlated free":
            break
        measured, noise = again, found
    return measured, noise, zeros


def _zeros(pixels: Sequence[np.ndarray]) -> float | None:
    """Share of the pixels that are 0; None where one is below, so that 0 does not mean that there is no signal."""
    if min(float(x.min()) for x in pixels) < 0:
        return None
    return sum(int((x == 0).sum()) for x in pixels) / sum(x.size for x in pixels)


def _seen(image: MaskedImage, piece: Cut) -> dict:
    """What measure() sees of a piece of an image: it without a fine periodic pattern, which is content."""
    pixels, valid = image.pixels[piece], ~image.restored[piece]
    return {"image": pixels - lattice(pixels, valid), "valid": valid, "counts": image.counts}


def _noise(measured: Measured, zeros: float | None) -> NoiseEstimate:
    return estimate_from([one for many in measured for one in many], zeros=zeros)


def _in_parts(measured: Measurement, piece: dict, noise: NoiseEstimate) -> Measurement:
    """The same with what is brighter, and what is darker, than all known intensities measured on its own."""
    dark, light = (noise.intensity[end] + side * MARGIN * noise.level[end] for end, side in ((0, -1), (-1, 1)))
    for low, high in ((light, math.inf), (-math.inf, dark)):
        if bool(((low < measured.mean) & (measured.mean < high)).any()):
            measured = measured.with_part(measure(**piece, between=(low, high)))
    return measured


def _worth_another(noise: NoiseEstimate) -> bool:
    """Whether Gaussian noise is unknown enough to be measured again."""
    gaussian = noise.kind.removeprefix("correlated ") in ("gaussian", "poisson_gaussian")
    return gaussian and noise.unknown > (MUCH_UNKNOWN if noise.noise_model.correlated else MOST_UNKNOWN)


def _better(new: NoiseEstimate, old: NoiseEstimate) -> bool:
    """Whether no more is unknown, levels that were known stay, by the root mean square of their relative change, and
    white noise stays white: texture would be called noise, and correlated.
    """
    off = np.log(new.variance(old.intensity)) / 2 - np.log(old.level)
    agrees = float(np.average(off**2, weights=np.square(old.error) ** -1)) <= LOOK_ERROR**2
    alike = new.noise_model.correlated == old.noise_model.correlated
    return new.unknown <= old.unknown and agrees and alike
