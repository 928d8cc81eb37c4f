"""How often the stated intervals of `mptpn.denoise` hold: the gain's, and 68 and 95 % of the errors. From notebooks:

    MPTPN_DATA=... python -m support.interval_coverage OUT.csv --images 8 --seed 0

Noise of twelve kinds is drawn on photographs (BSD68) and on averages of many scans (OCT, fluorescence, MR).
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

import mptpn
from mptpn.metrics import NORMAL_95
from support import datasets

SIDE = 256  # px, of the middle that is taken
AVERAGES = ("oct", "w2s", "m4raw_t1")
BLUR = 0.6  # px: takes the noise that clean images have of their own
Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def main() -> None:
    """Writes one row for each image and kind, and prints the means of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=8, help="photographs; of averages there are six")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name, clean in contents(given.images):
        for number, (kind, draw) in enumerate(KINDS.items()):
            random = np.random.default_rng((given.seed, number))
            rows.append({"kind": kind, "image": name} | held(clean, draw(clean, random).astype(np.float32)))
            pd.DataFrame(rows).to_csv(given.out, index=False)
    table = pd.DataFrame(rows)
    print(table.groupby("kind")[["gain_held", "held_68", "held_95", "gain_db"]].mean().round(3).to_string())
    print(f"{len(table)} images, {table.gain_held.notna().sum()} with an estimated gain:")
    print(table[["gain_held", "held_68", "held_95"]].mean().round(3).to_string())


def contents(photographs: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and clean images [SIDE, SIDE], 0 to 255."""
    photos = datasets.awgn("bsd68")
    for photo in photos[:: max(1, len(photos) // photographs)][:photographs]:
        yield photo.name, _middle(photo.pixels[0, 0].numpy())
    for test in AVERAGES:
        pairs = datasets.pairs(test, "test")
        for pair in (pairs[0], pairs[-1]):
            average = datasets.target(test, pair)[0, 0].numpy()
            yield f"{test} {pair.clean.name}", _middle(average / np.quantile(average, 0.995))


def _middle(image: np.ndarray) -> np.ndarray:
    top, left = ((side - SIDE) // 2 for side in image.shape)
    cut = image[max(0, top) :, max(0, left) :][:SIDE, :SIDE].astype(np.float64)
    return gaussian_filter(255 * cut.clip(0, 1), BLUR)


def held(clean: np.ndarray, noisy: np.ndarray) -> dict[str, float]:
    """What is true of one image: whether the gain's interval held, and the shares of errors within the stated ones."""
    found = mptpn.denoise(noisy)
    before, after = (float(np.mean((x - clean) ** 2)) for x in (noisy, found.image))
    gain, errors = 10 * np.log10(before / after), np.abs(found.image - clean) / np.maximum(found.uncertainty, 1e-9)
    told, (low, high) = found.psnr_gain or (np.nan, (np.nan, np.nan))
    row = {"gain_db": gain, "told_db": told, "low_db": low, "high_db": high}
    row |= {"gain_held": float(low <= gain <= high) if found.psnr_gain else np.nan}
    return row | {"held_68": float(np.mean(errors < 1)), "held_95": float(np.mean(errors < NORMAL_95))}


def _white(clean: np.ndarray, random: np.random.Generator, *, sigma: float) -> np.ndarray:
    return clean + sigma * random.standard_normal(clean.shape)


def _correlated(clean: np.ndarray, random: np.random.Generator, *, blur: float | tuple[float, float]) -> np.ndarray:
    noise = gaussian_filter(random.standard_normal(clean.shape), blur, mode="wrap")
    return clean + 20 * noise / noise.std()


def _counted(clean: np.ndarray, random: np.random.Generator, *, peak: float, read: float = 0.0) -> np.ndarray:
    scale = clean.max() / peak
    return random.poisson(clean / scale) * scale + read * random.standard_normal(clean.shape)


def _rice(clean: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.hypot(*(part + 20 * random.standard_normal(clean.shape) for part in (clean, 0)))


def _sided(clean: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return clean + np.linspace(5, 20, clean.shape[1]) * random.standard_normal(clean.shape)


KINDS: dict[str, Draw] = {
    "white 5": partial(_white, sigma=5),
    "white 25": partial(_white, sigma=25),
    "white 60": partial(_white, sigma=60),
    "Poisson, peak 5": partial(_counted, peak=5),
    "Poisson, peak 30": partial(_counted, peak=30),
    "Poisson-Gaussian": partial(_counted, peak=40, read=8),
    "correlated, 0.7 px": partial(_correlated, blur=0.7),
    "correlated, 1.2 px": partial(_correlated, blur=1.2),
    "correlated along rows": partial(_correlated, blur=(0, 0.8)),
    "Rice": _rice,
    "speckle": lambda clean, random: clean * random.gamma(20, 1 / 20, clean.shape),
    "stronger on one side": _sided,
}

if __name__ == "__main__":
    main()
