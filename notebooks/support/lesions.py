"""Lesion detectability: low-contrast discs are planted in an image, and their contrast is measured after denoising."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.noise import PoissonGaussian
from mptpn.random import generator

GAP, RING = 2.0, 4.0  # px from a lesion's edge to the inner and the outer edge of its annulus


@dataclass(frozen=True)
class Lesion:
    """A planted disc: the pixels whose centres lie within diameter / 2 of its centre.

    Attributes:
        row, col: of its centre, px.
        diameter: px.
        contrast: added inside, below 0 for a dark lesion, intensity.
    """

    row: int
    col: int
    diameter: float
    contrast: float


def plant(
    clean: Tensor, *, diameters: Sequence[float], contrast: float, seed: int
) -> tuple[Tensor, tuple[Lesion, ...]]:
    """Lesions on a randomly shifted square lattice, each diameter equally often, half dark, no two annuli overlapping.

    A phantom of signal-known-exactly discs, as in the tests of CT, on an image's own background.

    Args:
        clean: [1, 1, H, W].
        diameters: px.
        contrast: of every lesion, intensity, not below 0; 0 marks places and plants nothing.
        seed: decides the places, whatever the contrast.
    Returns:
        the image with its lesions, [1, 1, H, W], and the lesions.
    Raises:
        ValueError: the image has not one place for each diameter.
    """
    reach = math.ceil(max(diameters) / 2 + RING)
    pitch = 2 * reach + 1
    draw = generator(seed, "lesion places")
    rows, cols = (
        [*range(reach + int(torch.randint(max(1, min(pitch, n - 2 * reach)), (), generator=draw)), n - reach, pitch)]
        for n in clean.shape[2:]
    )
    places = [(row, col) for row in rows for col in cols]
    if len(places) < len(diameters):
        found = f"an image of {tuple(clean.shape[2:])} px has {len(places)} places {pitch} px apart"
        raise ValueError(f"{found} for diameters {tuple(diameters)}; give a larger one.")
    order = torch.randperm(len(places), generator=draw).tolist()
    signs = torch.randperm(len(places), generator=draw) % 2 * 2 - 1
    drawn = (
        Lesion(*places[p], diameters[i % len(diameters)], contrast * int(sign))
        for i, (p, sign) in enumerate(zip(order, signs, strict=True))
    )
    lesions = tuple(sorted(drawn, key=lambda lesion: (lesion.row, lesion.col)))
    planted = clean.clone()
    for lesion in lesions:
        inside = _distance(lesion, clean.shape[2:]) <= lesion.diameter / 2
        planted[0, 0] += lesion.contrast * torch.from_numpy(inside).to(planted)
    return planted, lesions


def measure(image: Tensor, lesions: Sequence[Lesion]) -> np.ndarray:
    """Contrast at each lesion, mean inside less mean of the annulus 2 to 4 px beyond its edge, [lesions], intensity.

    Of (denoised with lesions) - (denoised without, same noise), over the planted contrast: the recovered share. Of
    (denoised without lesions) - (clean): false structure. image: [1, 1, H, W].
    """
    pixels = image[0, 0].double().numpy()
    templates = [_template(lesion, pixels.shape) for lesion in lesions]
    return np.array([pixels[inside].mean() - pixels[ring].mean() for inside, ring in templates])


def noise_spread(diameter: float, *, sigma: float) -> float:
    """Standard deviation of measure() in white noise, sigma sqrt(1 / pixels inside + 1 / pixels of the annulus)."""
    side = 2 * math.ceil(diameter / 2 + RING) + 1
    inside, ring = _template(Lesion(side // 2, side // 2, diameter, 0.0), (side, side))
    return sigma * math.sqrt(1 / inside.sum() + 1 / ring.sum())


def _distance(lesion: Lesion, shape: Sequence[int]) -> np.ndarray:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - lesion.row, cols - lesion.col)


def _template(lesion: Lesion, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    distance, edge = _distance(lesion, shape), lesion.diameter / 2
    return distance <= edge, (distance > edge + GAP) & (distance <= edge + RING)


def detectability(
    denoise: Callable[[Tensor, Tensor], Tensor],
    clean: Sequence[Tensor],
    *,
    sigma: float,
    diameters: Sequence[float] = (3, 5, 9, 15),
    contrasts: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    realisations: int = 2,
    seed: int = 0,
) -> list[dict]:
    """What a denoiser keeps of lesions in white noise and what it makes up, a row for each diameter and contrast.

    Each image and realisation has places and noise of its own, the same for every contrast and every denoiser.

    Args:
        denoise: (noisy, its truth with the lesions), [1, 1, H, W] both, to denoised; only an oracle uses the truth.
        clean: backgrounds, each [1, 1, H, W].
        sigma: standard deviation of the noise, in the images' unit.
        diameters: px. contrasts: in units of sigma. realisations: of the noise, for each image.
        seed: decides places and noise.
    Returns:
        rows of diameter (px), contrast (sigma); recovered, recovered_sd: mean and standard deviation over places of the
        recovered share; discs: number of places. Of measure() where nothing was planted: false_sd, its standard
        deviation, sigma; false_rate, the share beyond half the contrast; identity_sd, false_sd of the noisy image by
        formula. detectability: contrast-to-noise ratio, recovered contrast over false_sd.
    """
    kept, false = {}, {diameter: [] for diameter in diameters}
    for number, image in enumerate(clean):
        for again in range(realisations):
            draw = generator(seed, "lesion noise", number, again)
            noise = PoissonGaussian(sigma).sample(torch.zeros_like(image), generator=draw)
            where = int(torch.randint(2**31, (), generator=generator(seed, "lesion seeds", number, again)))
            plain = denoise(image + noise, image)
            lesions = plant(image, diameters=diameters, contrast=0.0, seed=where)[1]
            for diameter in diameters:
                places = [replace(lesion, diameter=diameter) for lesion in lesions]
                false[diameter].extend(measure(plain - image, places) / sigma)
            for contrast in contrasts:
                planted, lesions = plant(image, diameters=diameters, contrast=contrast * sigma, seed=where)
                change = measure(denoise(planted + noise, planted) - plain, lesions)
                for lesion, value in zip(lesions, change, strict=True):
                    kept.setdefault((lesion.diameter, contrast), []).append(value / lesion.contrast)
    return [_row(*key, np.array(shares), np.array(false[key[0]])) for key, shares in sorted(kept.items())]


def _row(diameter: float, contrast: float, shares: np.ndarray, false: np.ndarray) -> dict:
    """One row of detectability(); false in units of sigma."""
    recovered, spread = float(shares.mean()), float(false.std())
    row = {"diameter": diameter, "contrast": contrast, "recovered": recovered, "recovered_sd": float(shares.std())}
    row |= {"discs": len(shares), "false_sd": spread, "false_rate": float((np.abs(false) > contrast / 2).mean())}
    row |= {"identity_sd": noise_spread(diameter, sigma=1.0)}
    return row | {"detectability": contrast * recovered / spread if spread else math.inf}
