"""High-resolution training images, and the super-resolution test sets with their low-resolution files."""

import shutil
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path
from typing import NamedTuple

import pooch
from torch import Tensor

from mptpn.io import read_image
from mptpn.super_resolution import as_bytes, check_scale, crop_to_multiple, shrink
from support import datasets

TRAIN = ("DIV2K", "DIV2K_crops", "BSDS", "cell", "embedded")
TEST = ("Set5", "Set14", "Urban100", "ER_cells", "DIV2K_crops", "embedded")
DIV2K = {  # for research alone; size and hash as in TensorFlow Datasets, datasets/div2k/checksums.tsv
    "url": "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
    "size": 3_530_603_713,
    "sha256": "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
}
EMBEDDED = {  # of scikit-image, by name; the test photographs are in no training
    "train": "astronaut.png chelsea.png coffee.png motorcycle_left.png camera.png brick.png gravel.png ihc.png "
    "retina.jpg",
    "test": "rocket.jpg coins.png",
}


class TestImage(NamedTuple):
    """A test image: low [1, C, H, W] and high [1, C, scale H, scale W], 0..1."""

    name: str
    low: Tensor
    high: Tensor


@cache
def training_images(data_train: str, *, data_range: str = "") -> tuple[tuple[Tensor, ...], ...]:
    """High-resolution images of each set in a name such as "DIV2K/cell", [1, 3, H, W], bytes or 0..1 (`as_floats`).

    - DIV2K: the 800 training images, in MPTPN_DATA/DIV2K_train_HR or the user's cache; missing: 3.5 GB are downloaded.
    - DIV2K_crops: one crop of 256 px from each of DIV2K's validation images in the registry, 0801-0900.
    - BSDS: BSDS500 train and test less what other test sets hold. cell: 60 microscopies of nuclei (DSB 2018).
    - embedded: photographs and two stained tissues inside scikit-image.

    Args:
        data_train: names joined by "/"; `super_resolution_training.Patches` draws each set equally often.
        data_range: "first-last", numbers of DIV2K images that are for testing and left out here.
    Raises:
        ValueError: an unknown or doubled name, a data_range that is none, nothing left; and what datasets.fetch raises.
    """
    names = data_train.split("/")
    unknown = [name for name in names if name not in TRAIN]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"data_train {data_train!r}: give some of {', '.join(TRAIN)}, each once, joined by '/'.")
    left_out = numbers(data_range)
    sets = tuple(_training_set(name, left_out) for name in names)
    if not all(sets):
        what = f"data_train {data_train!r} less data_range {data_range!r} leaves nothing to train on"
        raise ValueError(f"{what}; give a narrower data_range or another set.")
    return sets


def numbers(data_range: str) -> range:
    """Numbers of a range such as "801-900", both ends in; none for ""; ValueError for anything else."""
    ends = data_range.split("-") if data_range else ["1", "0"]
    if len(ends) != 2 or not all(end.isdecimal() for end in ends) or (data_range and int(ends[0]) > int(ends[1])):
        example = 'write first-last, for example "801-900"'
        raise ValueError(f"data_range {data_range!r} is no range of image numbers; {example}.")
    return range(int(ends[0]), int(ends[1]) + 1)


def _training_set(name: str, left_out: range) -> tuple[Tensor, ...]:
    if name == "DIV2K":
        paths = [path for path in _div2k() if int(path.stem) not in left_out]
    elif name == "DIV2K_crops":
        crops = [file for file in datasets.files("div2k") if int(Path(file).stem) not in left_out]
        paths = [datasets.fetch("div2k", file) for file in crops]
    elif name == "embedded":
        paths = [_embedded(file) for file in EMBEDDED["train"].split()]
    else:
        name = name.lower().replace("bsds", "bsds500")
        paths = [datasets.fetch(name, file) for file in datasets.files(name)]
    return tuple(as_bytes(read_image(path).pixels).expand(-1, 3, -1, -1) for path in paths)


def _div2k() -> list[Path]:
    folder = datasets.home() / "DIV2K_train_HR"
    if not folder.is_dir() or not any(folder.iterdir()):
        _download_div2k(folder)
    paths = sorted(folder.glob("0???.png"))
    if not paths:
        advice = "delete the folder and they are downloaded, or train on DIV2K_crops"
        raise FileNotFoundError(f"{folder}: no DIV2K images 0001.png to 0800.png there; {advice}.")
    return paths


def _download_div2k(folder: Path) -> None:
    """Download and unpack the archive; the folder appears whole or not at all.

    Raises:
        ValueError, ConnectionError: as datasets.download.
        OSError: no space for the archive and its images, or a folder that cannot be written.
    """
    archive, unpacked = folder.with_name("DIV2K_train_HR.zip"), folder.with_name("DIV2K_train_HR.unpacking")
    wanted = 2 * DIV2K["size"]  # photographs are no smaller unpacked
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free
        if free < wanted:
            needs = f"{archive.name} needs {wanted / 1e9:.1f} GB with its images"
            advice = "free some, or set MPTPN_DATA to a folder with more"
            raise OSError(f"{folder.parent}: {free / 1e9:.1f} GB are free, and {needs}; {advice}.")
        unzip = pooch.Unzip(extract_dir=unpacked.name)
        datasets.download(DIV2K["url"], path=archive, sha256=DIV2K["sha256"], processor=unzip, progress=True)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        (unpacked / folder.name).rename(folder)
        archive.unlink()
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _embedded(file: str) -> Path:
    return Path(str(package_files("skimage") / "data" / file))


@cache
def scenes(data_test: str, *, scale: int, data_range: str = "801-900") -> tuple[TestImage, ...]:
    """Low and high resolution of a test set; low is the set's own file of this scale, or else made by `shrink`.

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
        high, low = {Path(file).stem: _embedded(file) for file in EMBEDDED["test"].split()}, {}
    else:
        owner = {"DIV2K_crops": "div2k"}.get(data_test, data_test.lower())
        rows = {datasets.FILES[owner, file]["image"]: file for file in datasets.files(owner)}
        if owner == "div2k":
            rows = {image: file for image, file in rows.items() if int(image) in numbers(data_range)}
        given = {image: file for image, file in rows.items() if image.endswith(f"_x{scale}")}
        low = {image.rsplit("_x", 1)[0]: datasets.fetch(owner, file) for image, file in given.items()}
        names = dict.fromkeys(image.split("_")[0] for image in rows)
        best = {name: next(n for n in (f"{name}_mod{scale}", f"{name}_mod4", name) if n in rows) for name in names}
        high = {name: datasets.fetch(owner, rows[image]) for name, image in best.items()}
    if not high:
        where = f"data_test {data_test!r} has no image in data_range {data_range!r}"
        raise ValueError(f"{where}; its images are 801 to 900.")
    return tuple(
        scene(name, read_image(path).pixels, scale=scale, low=read_image(low[name]).pixels if name in low else None)
        for name, path in high.items()
    )


def scene(name: str, high: Tensor, *, scale: int, low: Tensor | None = None) -> TestImage:
    """A test image from its high resolution, cut to what low covers, or to a multiple of scale where low is made.

    Raises:
        ValueError: low is not 1 / scale of high.
    """
    high = crop_to_multiple(high, scale=scale)
    low = shrink(high, scale=scale) if low is None else low
    height, width = (side * scale for side in low.shape[2:])
    if not (0 <= high.shape[2] - height < scale and 0 <= high.shape[3] - width < scale):
        sizes = f"{low.shape[2]} x {low.shape[3]} px is not 1 / {scale} of {high.shape[2]} x {high.shape[3]} px"
        advice = "give files of one scale, or none and it is made"
        raise ValueError(f"{name}: the low-resolution image of {sizes}; {advice}.")
    return TestImage(name, low, high[:, :, :height, :width])
