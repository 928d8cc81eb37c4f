"""Clean natural photographs that come inside installed packages."""

from functools import cache
from importlib.resources import files

import numpy as np

from mptpn.io.image import Image, image_from_array, luminance

SPLITS = ("train", "val", "test")
SKIMAGE = {
    "train": "astronaut camera chelsea coins moon motorcycle_left brick gravel coffee hubble_deep_field",
    "val": "rocket",
}
PYWAVELETS = {"train": "ascent", "val": "aero"}  # its camera man is scikit-image's


def _skimage(file: str) -> np.ndarray:
    from skimage.io import imread

    return imread(str(files("skimage") / "data" / file))


@cache
def natural(split: str) -> tuple[Image, ...]:
    """Photographs of scikit-image and PyWavelets, gray, disjoint between splits: train 11, val 2, test none."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    stored = {file.name.rsplit(".", 1)[0]: file.name for file in (files("skimage") / "data").iterdir()}
    arrays = {name: _skimage(stored[name]) for name in SKIMAGE.get(split, "").split()}
    for name in PYWAVELETS.get(split, "").split():
        arrays[name] = np.load(str(files("pywt") / "data" / f"{name}.npz"))["data"]
    gray = {name: luminance(array) if array.ndim == 3 else array for name, array in arrays.items()}
    return tuple(image_from_array(array, name=name, value_range=(0, 255)) for name, array in gray.items())
