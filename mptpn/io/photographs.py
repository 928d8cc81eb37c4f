"""Clean natural photographs that come inside installed packages."""

from functools import cache
from importlib.resources import files

import numpy as np

from mptpn.io.image import Image, image_from_array, luminance

SPLITS = ("train", "val", "test")


def _skimage(name: str) -> np.ndarray:
    from skimage.io import imread

    return imread(str(files("skimage") / "data" / name))


@cache
def natural(split: str) -> tuple[Image, ...]:
    """Embedded clean natural photographs, gray, disjoint by photograph between splits (train 11, val 2, test none).

    Sources: scikit-image and PyWavelets package data; the camera man appears in both packages and is taken once.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")
    names = {
        "train": (
            "astronaut",
            "camera",
            "chelsea",
            "coins",
            "moon",
            "motorcycle_left",
            "brick",
            "gravel",
            "coffee",
            "hubble_deep_field",
        ),
        "val": ("rocket",),
        "test": (),
    }
    pywt_names = {"train": ("ascent",), "val": ("aero",), "test": ()}
    loaded = []
    for name in names[split]:
        file = next(f.name for f in (files("skimage") / "data").iterdir() if f.name.rsplit(".", 1)[0] == name)
        array = _skimage(file)
        loaded.append(image_from_array(luminance(array) if array.ndim == 3 else array, name=name, value_range=(0, 255)))
    for name in pywt_names[split]:
        loaded.append(
            image_from_array(
                np.load(str(files("pywt") / "data" / f"{name}.npz"))["data"], name=name, value_range=(0, 255)
            )
        )
    return tuple(loaded)
