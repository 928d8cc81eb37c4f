"""Noisy images of one instrument, drawn by its physics on embedded medical images, with the truth known.

The instrument is a detector behind a lens that is read out row by row. Its noise depends on the signal and on the
place, and correlates along rows. It is a model: no real instrument images fundus, CT and MR alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.io.image import Image, image_from_array, luminance
from mptpn.random import generator
from support import embedded

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Detector:
    """What happens between the light and the stored pixel (photon transfer: Janesick 2001, Scientific CCDs, Ch. 2, 5).

    1. Quanta: Poisson of mean photons * exposure * illumination * (clean + haze).
    2. Read-out: the amplifier has not settled when the next pixel of a row comes, which keeps a share `carry` of the
       one before. Noise that passed it is correlated by carry (1 - carry) / (carry^2 + (1 - carry)^2) at lag 1 across.
    3. Read noise: white Gaussian.
    4. Flat-field correction: divided by the illumination, so that the noise is strongest in the corners; haze is
       subtracted.

    Attributes:
        photons: quanta of a white pixel in the middle of the image.
        haze: scattered light, share of white (of X-rays, a scatter-to-primary ratio: Siewerdsen and Jaffray 2001).
        carry: share of a pixel that the next one of the row keeps.
        read: standard deviation of read noise, quanta.
        corner: illumination of the corners, the middle has 1; it falls as cos^4 of the angle (natural vignetting).
        exposure: each image has an exposure of its own, between 1 / exposure and exposure.
    """

    photons: float = 100.0
    haze: float = 0.3
    carry: float = 0.2
    read: float = 1.0
    corner: float = 0.7
    exposure: float = 1.5

    def illumination(self, height: int, width: int) -> Tensor:
        """Share of the light at each place, [1, 1, height, width], 1 in the middle and `corner` in the corners."""
        down, across = (torch.linspace(-1, 1, side) for side in (height, width))
        radius = (down[:, None] ** 2 + across**2) / 2  # squared, 1 in the corners
        return (1 + (self.corner**-0.5 - 1) * radius)[None, None] ** -2  # cos^4 = (1 + tan^2)^-2

    def expose(self, clean: Tensor, *, exposure: float = 1.0, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A noisy image and its truth, both [1, 1, H, W]; the truth is the mean of all images of this scene.

        Args:
            clean: the scene, [1, 1, H, W], 0..1; it is cut there.
        """
        light = self.illumination(*clean.shape[2:])
        white = self.photons * exposure * light
        quanta = white * (clean.clamp(0, 1) + self.haze)
        signal = self._read_out(torch.poisson(quanta, generator=generator))
        signal = signal + self.read * torch.randn(clean.shape, generator=generator)
        return signal / white - self.haze, self._read_out(quanta) / white - self.haze

    def _read_out(self, quanta: Tensor) -> Tensor:
        before = F.pad(quanta, (1, 0, 0, 0), mode="replicate")[..., :-1]
        return (1 - self.carry) * quanta + self.carry * before

    def variance(self, truth: Tensor, *, exposure: float = 1.0) -> Tensor:
        """Variance of the noise at each pixel, [1, 1, H, W], where neighbours along a row are about equal."""
        white = self.photons * exposure * self.illumination(*truth.shape[2:])
        kept = self.carry**2 + (1 - self.carry) ** 2
        return kept * (truth + self.haze) / white + (self.read / white) ** 2

    @property
    def correlation(self) -> float:
        """Correlation of the quantum noise of neighbours along a row; none elsewhere."""
        return self.carry * (1 - self.carry) / (self.carry**2 + (1 - self.carry) ** 2)


@dataclass(frozen=True)
class Exposure:
    """One noisy image, the truth beside it, and the exposure, which no stage may see."""

    noisy: Image
    clean: Image
    exposure: float


def acquire(split: str, *, detector: Detector | None = None, seed: int = 0) -> list[Exposure]:
    """One noisy copy of each image of scenes(split), each at an exposure of its own; the same for the same seed."""
    detector, exposures = detector or Detector(), []
    for number, scene in enumerate(scenes(split)):
        draw = generator(seed, "acquisition", SPLITS.index(split), number)
        exposure = math.exp((2 * float(torch.rand((), generator=draw)) - 1) * math.log(detector.exposure))
        noisy, clean = detector.expose(scene.pixels, exposure=exposure, generator=draw)
        exposures.append(Exposure(scene.with_pixels(noisy), scene.with_pixels(clean), exposure))
    return exposures


@cache
def scenes(split: str) -> tuple[Image, ...]:
    """Embedded medical images, gray, 0..1; no subject is in both splits.

    train: fundus, histology, abdominal MR, head CT and scintigraphy of five subjects, 14 images. test: head MR, a
    second MR (64 px) and EPI (mean of two volumes, three slices), chest CT, head CT, a cell, a second fundus: 9 images
    of seven subjects.
    Sources: package data of scikit-image, pydicom, Matplotlib and nibabel.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    return _train() if split == "train" else _test()


def _stored(name: str, array: np.ndarray, low: float, high: float, *, subject: str = "") -> Image:
    about = {"value_range": (low, high), "unit": "stored value"}
    return image_from_array(np.clip(array, low, high), name=name, subject=subject or name, **about)


def _train() -> tuple[Image, ...]:
    retina = embedded.halved(luminance(embedded._skimage("retina.jpg")))
    histology = luminance(embedded._skimage("ihc.png"))
    return (
        *embedded.tiles(_stored("retina", retina, 0, 255), rows=2, cols=2),
        *embedded.tiles(_stored("histology", histology, 0, 255), rows=2, cols=1),
        *embedded.tiles(_stored("abdomen_mr", embedded._dicom("examples_overlay.dcm"), 0, 730), rows=1, cols=2),
        *embedded.tiles(_stored("head_ct", embedded._dicom("693_J2KI.dcm"), -1000, 2000), rows=2, cols=2),
        *embedded.tiles(_stored("scintigraphy", embedded._dicom("JPEG2000.dcm"), -10, 150), rows=2, cols=1),
    )


def _test() -> tuple[Image, ...]:
    import nibabel

    volume = nibabel.load(str(files("nibabel") / "tests" / "data" / "example4d.nii.gz")).get_fdata().mean(3)
    slices = {f"EPI {z}": np.rot90(volume[:, :, z]).copy() for z in (6, 12, 18)}
    epi = (_stored(name, array, 0, 1000, subject="example4d") for name, array in slices.items())
    second = _stored("second MR", embedded._dicom("MR_small.dcm"), 0, 1700)
    return (*map(_named, (*embedded.medical("test"), *embedded.medical("val"))), *epi, second)


def _named(image: Image) -> Image:
    names = {"head_mr": "head MR", "chest_ct": "chest CT", "skull_ct": "head CT", "microaneurysms": "fundus"}
    return replace(image, name=names.get(image.name, image.name))


def pixels(exposures: Sequence[Exposure]) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Noisy pixels and true pixels, [1, 1, H, W] each, and the subject of each image."""
    noisy, clean = ([getattr(one, part).pixels for one in exposures] for part in ("noisy", "clean"))
    return noisy, clean, [one.noisy.subject for one in exposures]
