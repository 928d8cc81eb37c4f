"""What a denoiser does to small faint things: discs are planted in an image, and their contrast is measured again after
the noise was taken away.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator

GAP, RING = 2.0, 4.0  # px from a disc's edge to the inner and to the outer edge of the annulus that it is compared with


@dataclass(frozen=True)
class Disc:
    """A disc that was planted: the pixels whose centres lie within diameter / 2 of the centre's.

    Attributes:
        row, col: of its centre, px.
        diameter: px.
        contrast: added inside, below 0 for a dark disc, intensity.
    """

    row: int
    col: int
    diameter: float
    contrast: float


def plant(clean: Tensor, *, diameters: Sequence[float], contrast: float, seed: int) -> tuple[Tensor, tuple[Disc, ...]]:
    """Low-contrast discs on a square lattice that is shifted at random, each diameter equally often, half of them dark;
    no disc's annulus meets another's.

    A phantom as in the tests of CT (signal-known-exactly discs), but on an image's own background. Equal seeds plant at
    equal places, whatever the contrast.

    Args:
        clean: [1, 1, H, W].
        diameters: px.
        contrast: of every disc, intensity, not below 0; 0 marks places and plants nothing.
        seed: decides the lattice's shift, and which place gets which diameter and sign.
    Returns:
        the image with its discs, [1, 1, H, W], and the discs.
    Raises:
        ValueError: the image holds not one disc for each diameter.
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
        size = tuple(clean.shape[2:])
        raise ValueError(
            f"an image of {size} px has {len(places)} places {pitch} px apart for diameters {tuple(diameters)}; give a larger one."
        )
    order = torch.randperm(len(places), generator=draw).tolist()
    signs = torch.randperm(len(places), generator=draw) % 2 * 2 - 1
    found = (
        Disc(*places[p], diameters[i % len(diameters)], contrast * int(sign))
        for i, (p, sign) in enumerate(zip(order, signs, strict=True))
    )
    discs = tuple(sorted(found, key=lambda disc: (disc.row, disc.col)))
    planted = clean.clone()
    for disc in discs:
        planted[0, 0] += disc.contrast * torch.from_numpy(_distance(disc, clean.shape[2:]) <= disc.diameter / 2).to(
            planted
        )
    return planted, discs


def measure(image: Tensor, discs: Sequence[Disc]) -> np.ndarray:
    """Contrast at each disc: mean inside less mean of the annulus 2 to 4 px beyond its edge, [discs], in the image's
    unit; image [1, 1, H, W].

    Of (denoised with discs) - (denoised without, same noise) over the planted contrast: how much of the disc is kept, 1
    = all. Of (denoised without discs) - (clean): false structure, 0 = none.
    """
    pixels = image[0, 0].double().numpy()
    found = []
    for disc in discs:
        inside, ring = _template(disc, pixels.shape)
        found.append(pixels[inside].mean() - pixels[ring].mean())
    return np.array(found)


def noise_spread(disc: Disc, *, sigma: float) -> float:
    """Standard deviation of measure() in white noise of standard deviation sigma: sigma sqrt(1 / pixels inside + 1 /
    pixels of the annulus), intensity.
    """
    side = 2 * math.ceil(disc.diameter / 2 + RING) + 1
    inside, ring = _template(Disc(side // 2, side // 2, disc.diameter, 0.0), (side, side))
    return sigma * math.sqrt(1 / inside.sum() + 1 / ring.sum())


def _distance(disc: Disc, shape: Sequence[int]) -> np.ndarray:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.hypot(rows - disc.row, cols - disc.col)


def _template(disc: Disc, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    distance, edge = _distance(disc, shape), disc.diameter / 2
    return distance <= edge, (distance > edge + GAP) & (distance <= edge + RING)


def trial(
    denoise: Callable[[Tensor, Tensor], Tensor],
    clean: Sequence[Tensor],
    *,
    sigma: float,
    diameters: Sequence[float] = (3, 5, 9, 15),
    contrasts: Sequence[float] = (0.25, 0.5, 1.0, 2.0),
    realisations: int = 2,
    seed: int = 0,
) -> list[dict]:
    """What a denoiser keeps of discs in white noise and what it makes up, a row for each diameter and contrast.

    Each image and realisation has places and noise of its own, the same for every contrast and every denoiser.

    Args:
        denoise: noisy and its truth, discs included, [1, 1, H, W] both, to denoised, the same shape and unit; only an
            oracle looks at the truth.
        clean: backgrounds, each [1, 1, H, W].
        sigma: standard deviation of the noise, in the images' unit.
        diameters: px.
        contrasts: in units of sigma.
        realisations: of the noise, for each image.
        seed: decides places and noise.
    Returns:
        rows of diameter (px), contrast (sigma); recovered, recovered_sd: mean and standard deviation over places of the
        kept share of the contrast; discs: how many places. Of measure() at every place with nothing planted: false_sd,
        its standard deviation, sigma; false_rate, the share of them where it exceeds half the contrast; identity_sd,
        false_sd of the noisy image by its formula. detectability: recovered contrast over false_sd, a contrast-to-noise
        ratio.
    """
    noise_model, kept, false = PoissonGaussian(sigma), {}, {}
    for number, image in enumerate(clean):
        for again in range(realisations):
            noise = noise_model.sample(
                torch.zeros_like(image), generator=generator(seed, "lesion noise", number, again)
            )
            where = int(torch.randint(2**31, (), generator=generator(seed, "lesion seeds", number, again)))
            plain = denoise(image + noise, image)
            discs = plant(image, diameters=diameters, contrast=0.0, seed=where)[1]
            for diameter in diameters:
                false.setdefault(diameter, []).extend(
                    measure(plain - image, [replace(disc, diameter=diameter) for disc in discs]) / sigma
                )
            for contrast in contrasts:
                planted, discs = plant(image, diameters=diameters, contrast=contrast * sigma, seed=where)
                for disc, value in zip(discs, measure(denoise(planted + noise, planted) - plain, discs), strict=True):
                    kept.setdefault((disc.diameter, contrast), []).append(value / disc.contrast)
    rows = []
    for (diameter, contrast), shares in sorted(kept.items()):
        spread, beyond = float(np.std(false[diameter])), float(np.mean(np.abs(false[diameter]) > contrast / 2))
        row = {
            "diameter": diameter,
            "contrast": contrast,
            "recovered": float(np.mean(shares)),
            "recovered_sd": float(np.std(shares)),
            "discs": len(shares),
        }
        row |= {
            "false_sd": spread,
            "false_rate": beyond,
            "identity_sd": noise_spread(Disc(0, 0, diameter, 0.0), sigma=1.0),
        }
        rows.append(row | {"detectability": contrast * row["recovered"] / spread if spread else math.inf})
    return rows
