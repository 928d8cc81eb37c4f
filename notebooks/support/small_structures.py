"""Small structures planted in a real noisy image: the share of their contrast that a denoiser keeps, and how well they
are told from nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from mptpn.random import generator

DIAMETERS, CONTRASTS = (2, 3, 4, 5, 6), (1, 2, 3)  # px; standard deviations of the noise there
PITCH, EDGE, REACH = 26, 20, 10  # px, between places, from the image's edge, of a square around each


@dataclass(frozen=True, eq=False)
class Structure:
    """One disc or soft spot.

    Attributes:
        place: rows and columns of the square that holds it. shape: in the square, 1 in its centre.
        contrast: standard deviations of the noise, below 0 for a dark one. sigma: of the noise there.
    """

    place: tuple[slice, slice]
    shape: np.ndarray
    contrast: float
    sigma: float


def plant(sigma: np.ndarray, inside: np.ndarray, *, seed: int) -> tuple[Structure, ...]:
    """Structures on a shifted lattice, one for each place whose centre is inside, half of them discs.

    Args:
        sigma: of the noise at each pixel, [H, W]. inside: [H, W] bool. seed: decides all.
    """
    random = np.random.default_rng(int(generator(seed, "small structures").initial_seed()))
    rows, columns = np.mgrid[-REACH : REACH + 1, -REACH : REACH + 1]
    out = []
    for row in range(EDGE, sigma.shape[0] - EDGE, PITCH):
        for column in range(EDGE, sigma.shape[1] - EDGE, PITCH):
            diameter, contrast = random.choice(DIAMETERS), random.choice(CONTRASTS) * random.choice((-1, 1))
            top, left = row + random.integers(-3, 4), column + random.integers(-3, 4)
            distance = np.hypot(rows, columns)
            soft = np.exp(-np.log(2) * (2 * distance / diameter) ** 2)
            shape = soft if random.random() < 0.5 else (distance <= diameter / 2).astype(float)
            if inside[top, left]:
                place = slice(top - REACH, top + REACH + 1), slice(left - REACH, left + REACH + 1)
                out.append(Structure(place, shape, float(contrast), float(sigma[top, left])))
    return tuple(out)


def planted(image: np.ndarray, structures: tuple[Structure, ...]) -> np.ndarray:
    """The image [H, W] with its structures."""
    out = image.astype(np.float64)
    for one in structures:
        out[one.place] += one.contrast * one.sigma * one.shape
    return out


def measure(
    denoise: Callable[[np.ndarray], np.ndarray], image: np.ndarray, structures: tuple[Structure, ...]
) -> dict[str, float]:
    """kept: mean share of the contrast that the denoised image has more with the structures than without; auc: of a
    filter of each structure's shape, on the image with it against the image without it.
    """
    without, with_them = denoise(image), denoise(planted(image, structures))
    kept, values = [], []
    for one in structures:
        shape = one.shape - one.shape.mean()
        first, second = (float((x[one.place] * shape).sum()) for x in (without, with_them))
        kept.append((second - first) / (shape**2).sum() / (one.contrast * one.sigma))
        values.append(np.array([first, second]) * np.sign(one.contrast) / one.sigma)
    without, with_them = np.array(values).T
    count = len(structures)
    ranks = rankdata(np.concatenate([with_them, without]))[:count]
    return {"kept": float(np.mean(kept)), "auc": float((ranks.sum() - count * (count + 1) / 2) / count**2)}
