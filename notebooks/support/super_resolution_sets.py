"""High-resolution photographs and cells to train on, and the super-resolution test sets with their low-resolution
files.
"""

from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from mptpn.io.files import read_image
from mptpn.super_resolution.bicubic import as_bytes, check_scale, crop_to_multiple, shrink
from support import datasets
from support.archive import unpack_from

TRAIN = ("DIV2K", "DIV2K_crops", "BSDS", "cell", "embedded")
TEST = ("Set5", "Set14", "Urban100", "ER_cells", "DIV2K_crops", "embedded")
DIV2K = {  # for research alone; size and hash as in TensorFlow Datasets, datasets/div2k/checksums.tsv
    "url": "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
    "size": 3_530_603_713,
    "sha256": "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
}
EMBEDDED = {  # of scikit-image, by name; the test photographs are in no training
    "train": (
        "astronaut.png",
        "chelsea.png",
        "coffee.png",
        "motorcycle_left.png",
        "camera.png",
        "brick.png",
        "gravel.png",
        "ihc.png",
        "retina.jpg",
    ),
    "test": ("rocket.jpg", "coins.png"),
}


class TestImage(NamedTuple):
    """A test image: low [1, C, H, W] and high [1, C, scale H, scale W], 0..1."""

    name: str
    low: Tensor
    high: Tensor


@cache
def training_images(data_train: str, *, data_range: str = "") -> tuple[tuple[Tensor, ...], ...]:
    """High-resolution images of each set in a name such as "DIV2K/cell", [1, 3, H, W], bytes or 0..1 (`as_floats`);
    gray ones in three equal channels.

    | name        | images                                                                                                             |
    | ----------- | ------------------------------------------------------------------------------------------------------------------ |
    | DIV2K       | the 800 whole training images, in MPTPN_DATA/DIV2K_train_HR or the user's cache; missing: 3.5 GB are downloaded     |
    | DIV2K_crops | one crop of 256 px from each of DIV2K's validation images that the registry has, 0801-0900                         |
    | BSDS        | BSDS500 train and test less what other test sets hold                                                              |
    | cell        | 60 microscopies of nuclei (DSB 2018)                                                                               |
    | embedded    | photographs and two stained tissues inside scikit-image, nothing to download                                       |

    Args:
        data_train: names joined by "/"; `super_resolution_training.Patches` draws each set equally often.
        data_range: "first-last", numbers of DIV2K images that are for testing and left out here.
    Raises:
        ValueError: an unknown or doubled name, a data_range that is none, nothing left; and what datasets.fetch and
            archive.unpack_from raise.
    """
    names = data_train.split("/")
    unknown = [name for name in names if name not in TRAIN]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"data_train {data_train!r}: give some of {', '.join(TRAIN)}, each once, joined by '/'.")
    left_out = numbers(data_range)
    sets = tuple(_training_set(name, left_out) for name in names)
    if not all(sets):
        raise ValueError(
            f"data_train {data_train!r} less data_range {data_range!r} leaves nothing to train on; give a narrower data_range or another set."
        )
    return sets


def numbers(data_range: str) -> range:
    """Numbers of a range such as "801-900", both ends in; none for "".

    Raises:
        ValueError: anything else.
    """
    ends = data_range.split("-") if data_range else ["1", "0"]
    if len(ends) != 2 or not all(end.isdecimal() for end in ends) or (data_range and int(ends[0]) > int(ends[1])):
        raise ValueError(
            f'data_range {data_range!r} is no range of image numbers; write first-last, for example "801-900".'
        )
    return range(int(ends[0]), int(ends[1]) + 1)


def _training_set(name: str, left_out: range) -> tuple[Tensor, ...]:
    if name == "DIV2K":
        paths = [path for path in _div2k() if int(path.stem) not in left_out]
    elif name == "DIV2K_crops":
        paths = [
            datasets.fetch("div2k", file) for file in datasets.files("div2k") if int(Path(file).stem) not in left_out
        ]
    elif name == "embedded":
        paths = [_embedded(file) for file in EMBEDDED["train"]]
    else:
        name = name.lower().replace("bsds", "bsds500")
        paths = [datasets.fetch(name, file) for file in datasets.files(name)]
    return tuple(as_bytes(read_image(path).pixels).expand(-1, 3, -1, -1) for path in paths)


def _div2k() -> list[Path]:
    folder = datasets.home() / "DIV2K_train_HR"
    if not folder.is_dir() or not any(folder.iterdir()):
        unpack_from(**DIV2K, folder=folder)
    paths = sorted(folder.glob("0???.png"))
    if not paths:
        raise FileNotFoundError(
            f"{folder}: no DIV2K images 0001.png to 0800.png there; delete the folder and they are downloaded, or train on DIV2K_crops."
        )
    return paths


def _embedded(file: str) -> Path:
    return Path(str(package_files("skimage") / "data" / file))


@cache
def scenes(data_test: str, *, scale: int, data_range: str = "801-900") -> tuple[TestImage, ...]:
    """Low and high resolution of the images of a test set; where the set has low-resolution files of this scale, those,
    else made by `shrink`.

    Args:
        data_test: Set5 (5), Set14 (14), Urban100 (20 crops of 256 px), ER_cells (16 fluorescence microscopies of
            endoplasmic reticulum, 256 px, 16 bits; in no training), DIV2K_crops or embedded (2).
        scale: 2, 3 or 4.
        data_range: numbers of the DIV2K images; the other sets have no use for it.
    Raises:
        ValueError: an unknown set, another scale or a data_range without images; and what datasets.fetch raises.
    """
    check_scale(scale)
    if data_test not in TEST:
        raise ValueError(f"data_test {data_test!r} is unknown; choose one of {', '.join(TEST)}.")
    if data_test == "embedded":
        high, low = {Path(file).stem: _embedded(file) for file in EMBEDDED["test"]}, {}
    else:
        owner = {"DIV2K_crops": "div2k"}.get(data_test, data_test.lower())
        rows = {datasets.FILES[owner, file]["image"]: file for file in datasets.files(owner)}
        if owner == "div2k":
            rows = {image: file for image, file in rows.items() if int(image) in numbers(data_range)}
        low = {
            image.rsplit("_x", 1)[0]: datasets.fetch(owner, file)
            for image, file in rows.items()
            if image.endswith(f"_x{scale}")
        }
        names = dict.fromkeys(image.split("_")[0] for image in rows)
        best = {name: next(n for n in (f"{name}_mod{scale}", f"{name}_mod4", name) if n in rows) for name in names}
        high = {name: datasets.fetch(owner, rows[image]) for name, image in best.items()}
    if not high:
        raise ValueError(
            f"data_test {data_test!r} has no image in data_range {data_range!r}; its images are 801 to 900."
        )
    return tuple(
        scene(name, read_image(path).pixels, scale=scale, low=read_image(low[name]).pixels if name in low else None)
        for name, path in high.items()
    )


def scene(name: str, high: Tensor, *, scale: int, low: Tensor | None = None) -> TestImage:
    """A test image from its high resolution, which is cut to what low covers, or to a multiple of scale where low is to
    be made.

    Raises:
        ValueError: low is not 1 / scale of high.
    """
    high = crop_to_multiple(high, scale=scale)
    low = shrink(high, scale=scale) if low is None else low
    height, width = (side * scale for side in low.shape[2:])
    if not (0 <= high.shape[2] - height < scale and 0 <= high.shape[3] - width < scale):
        sizes = f"{low.shape[2]} x {low.shape[3]} px is not 1 / {scale} of {high.shape[2]} x {high.shape[3]} px"
        raise ValueError(
            f"{name}: the low-resolution image of {sizes}; give files of one scale, or none and it is made."
        )
    return TestImage(name, low, high[:, :, :height, :width])
