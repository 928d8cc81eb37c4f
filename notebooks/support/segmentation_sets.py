"""Segmentation sets of segmentation_registry.tsv: images with one mask a prompt, split by image, slice or person."""

import csv
import hashlib
import io
import zipfile
from functools import cache
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor

from mptpn.segmentation.examples import Example
from mptpn.segmentation.inference import normalised
from mptpn.segmentation.words import Target
from support import datasets

NUCLEI, VESSELS, MEMBRANES = ("nucleus",), ("vessel",), ("membrane",)
INTERIOR, LESION = ("interior",), ("lesion",)
WHITE_NUCLEUS, CYTOPLASM, WHITE_CELL = (("white", word) for word in ("nucleus", "cytoplasm", "cell"))
PROMPTS = (NUCLEI, VESSELS, MEMBRANES, INTERIOR, LESION, WHITE_NUCLEUS, CYTOPLASM, WHITE_CELL)
WORDS = ("nucleus", "vessel", "membrane", "interior", "lesion", "white", "cytoplasm", "cell")
LESION_SIDE = 128  # px, longer side at which ultrasound is read
TARGETS = (  # thresholds other than 0.5 were chosen on training images
    Target("nuclei", NUCLEI, least=12, images="stained tissue, blood smears and fluorescence"),
    Target("vessels", VESSELS, objects=False, least=20, images="photographs of the retina"),
    Target(
        "membranes", MEMBRANES, objects=False, threshold=0.3, images="electron micrographs of nerve tissue", gray=True
    ),
    Target("cell interior", INTERIOR, objects=False, images="electron micrographs of nerve tissue", gray=True),
    Target("breast lesion", LESION, side=LESION_SIDE, least=60, images="ultrasound of the breast", gray=True),
    Target("white blood cell nucleus", WHITE_NUCLEUS, threshold=0.8, least=50, images="blood smears"),
    Target("white blood cell cytoplasm", CYTOPLASM, objects=False, least=50, images="blood smears"),
    Target("white blood cell", WHITE_CELL, least=50, images="blood smears"),
)
EM_SLICES = {"train": (0, 1, 10, 11, 12, 13, 14), "val": (16, 17)}  # slice 15 is the gap
CHILDREN = {"train": range(1, 6), "val": range(6, 8)}


def _tables() -> list[list[dict[str, str]]]:
    path = Path(__file__).with_name("segmentation_registry.tsv")
    blocks = path.read_text(encoding="utf-8").split("\n\n")
    return [list(csv.DictReader(block.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)) for block in blocks]


_sets, _files = _tables()
SETS = {row["set"]: row for row in _sets}  # set (also its folder): repository, commit, licence, citation
FILES = {(row["set"], row["file"]): row for row in _files}  # bytes, sha256, path; "-": derived, no public address


def available(*sets: str) -> bool:
    """Whether every file of these sets is here, in its registered size."""
    rows = [row for (name, _), row in FILES.items() if name in (sets or SETS)]
    paths = [(datasets.home() / row["set"] / row["file"], int(row["bytes"])) for row in rows]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def fetch(set: str, file: str) -> bytes:
    """The registered bytes of one file, downloaded where it is missing and has a public address.

    Raises:
        ValueError: not in the registry, or other bytes. FileNotFoundError: missing, and derived from another file.
        ConnectionError: the public address does not answer.
    """
    if (set, file) not in FILES:
        raise ValueError(f"set {set!r} has no file {file!r}; segmentation_registry.tsv lists them.")
    row, path = FILES[set, file], datasets.home() / set / file
    if not path.is_file():
        if row["path"] == "-":
            raise FileNotFoundError(f"{path}: missing; it is derived, docs/segmentation.md says from what.")
        place = quote("/".join((SETS[set]["repository"], SETS[set]["commit"], row["path"])))
        datasets.download(f"{datasets.ADDRESS}/{place}", path=path, sha256=row["sha256"])
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != row["sha256"]:
        raise ValueError(f"{path}: other bytes than the registered ones; delete the file.")
    return content


def _files_of(set: str, beginning: str) -> list[str]:
    return sorted(file for name, file in FILES if name == set and file.startswith(beginning))


def _pixels(set: str, file: str) -> np.ndarray:
    picture = Picture.open(io.BytesIO(fetch(set, file)))
    if picture.mode in ("RGBA", "P"):
        picture = picture.convert("RGB")
    return np.asarray(picture)


def as_input(array: np.ndarray) -> Tensor:
    """[H, W] or [H, W, 3] as a normalised image [1, 3, H, W], float16."""
    tensor = torch.from_numpy(np.array(array, dtype=np.float32)).reshape(*array.shape[:2], -1)
    return normalised(tensor.permute(2, 0, 1)[None]).contiguous().half()


def _mask(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=bool))[None, None]


@cache
def monuseg(split: str) -> tuple[Example, ...]:
    """H&E, 500 x 500 px (24 train, 6 val); masks are reduced from 1000 px, a pixel where at least half is nucleus."""
    found = []
    for file in _files_of("monuseg_text", f"{split}/img/"):
        mask = _pixels("monuseg_text", file.replace("/img/", "/labelcol/")) > 127
        mask = mask.reshape(500, 2, 500, 2).mean((1, 3)) >= 0.5
        image = as_input(_pixels("monuseg_text", file))
        found.append(Example(image, {NUCLEI: _mask(mask)}, "monuseg", (0.45, 1.2), name=Path(file).stem))
    return tuple(found)


def sentences(split: str) -> dict[str, str]:
    """The sentence of each MoNuSeg image, by its name."""
    book = zipfile.ZipFile(io.BytesIO(fetch("monuseg_text", f"{split}/{split.capitalize()}_text.xlsx")))
    space = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
    texts = ["".join(item.itertext()) for item in ElementTree.fromstring(book.read("xl/sharedStrings.xml"))]
    rows = ElementTree.fromstring(book.read("xl/worksheets/sheet1.xml")).iter(f"{space}row")
    cells = [[texts[int(cell.findtext(f"{space}v"))] for cell in row.iter(f"{space}c")][:2] for row in rows]
    return {Path(image).stem: text for image, text in cells[1:]}


@cache
def dsb(split: str) -> tuple[Example, ...]:
    """Nuclei of DSB 2018, 60 images; of each kind every fourth by name validates."""
    rows = list(csv.DictReader(fetch("dsb2018_labels", "index.tsv").decode().splitlines(), delimiter="\t"))
    found = []
    for kind in ("fluorescence", "histology", "brightfield"):
        names = sorted(row["image"] for row in rows if row["kind"] == kind)
        for number, name in enumerate(names):
            if (number % 4 == 1) == (split == "val"):
                mask = _mask(labels(name) > 0)
                group = "dsb fluorescence" if kind == "fluorescence" else "dsb stained"
                image = as_input(_pixels("dsb2018_nuclei", f"{name}.png"))
                scales = (0.5, 1.2) if kind == "fluorescence" else (0.3, 1.2)
                found.append(Example(image, {NUCLEI: mask}, group, scales, name=name))
    return tuple(found)


def labels(name: str) -> np.ndarray:
    """Numbers of the nuclei of a DSB 2018 image, [H, W]."""
    return _pixels("dsb2018_labels", f"{name}.png")


@cache
def vessels(split: str) -> tuple[Example, ...]:
    """CHASE_DB1, 999 x 960 px: children 01-05 (10 images) train, 06-07 (4) validate; the first person's mask."""
    found = []
    for child in CHILDREN[split]:
        for eye in "LR":
            name = f"Image_{child:02d}{eye}"
            image = as_input(_pixels("retina_drive_chase", f"CHASEDB1/{name}.jpg"))
            mask = _mask(_pixels("chase_vessels", f"{name}_1stHO.png") > 0)
            found.append(Example(image, {VESSELS: mask}, "retina", (0.5, 1.1), name=name))
    return tuple(found)


@cache
def membranes(split: str) -> tuple[Example, ...]:
    """ISBI 2012, 512 x 512 px: 7 slices train, 2 validate, one between them is left out."""
    found = []
    for number in EM_SLICES[split]:
        inside = _pixels("em_membranes", f"label/{number}.png") > 127
        masks = {INTERIOR: _mask(inside), MEMBRANES: _mask(~inside)}
        image = as_input(_pixels("em_isbi2012", f"image/{number}.png"))
        found.append(Example(image, masks, "em", (0.85, 1.2), name=str(number)))
    return tuple(found)


@cache
def breast(split: str) -> tuple[Example, ...]:
    """BUSI ultrasound (171 train, 76 val); images without a lesion have an empty truth."""
    found = []
    for file in _files_of("busi_text", f"{split}/img/"):
        mask = _mask(_pixels("busi_text", file.replace("/img/", "/labelcol/")) > 127)
        image = as_input(_pixels("busi_text", file))
        scale = LESION_SIDE / max(image.shape[2:])
        scales = 0.8 * scale, 1.3 * scale
        found.append(Example(image, {LESION: mask}, "ultrasound", scales, name=Path(file).stem, turns=(0, 4)))
    return tuple(found)


@cache
def white_cells(split: str) -> tuple[Example, ...]:
    """White blood cells: "train" (200) and "val" (40) of data set 1, "shift" (20) of data set 2, another stain."""
    folder = {"train": "dataset1_train", "val": "dataset1_val", "shift": "dataset2_val"}[split]
    found = []
    for file in _files_of("wbc", f"{folder}/"):
        if not file.endswith(".bmp"):
            continue
        mask = _pixels("wbc", file.replace(".bmp", ".png"))
        nucleus, cytoplasm = mask > 191, (mask > 63) & (mask < 192)
        masks = {WHITE_NUCLEUS: nucleus, NUCLEI: nucleus, CYTOPLASM: cytoplasm, WHITE_CELL: nucleus | cytoplasm}
        masks = {words: _mask(truth) for words, truth in masks.items()}
        found.append(Example(as_input(_pixels("wbc", file)), masks, "white cells", (0.8, 1.8), name=Path(file).stem))
    return tuple(found)


@cache
def others(split: str) -> tuple[Example, ...]:
    """Images that have none of the targets: photographs, CT, OCT, MR and noise."""
    arrays = [image.array.squeeze() for image in datasets.natural(split, colour=True)][:: 5 if split == "train" else 1]
    for name in ("oct", "ldct_d45f", "m4raw_t1"):
        pairs = datasets.pairs(name, split)
        arrays += [side.array.squeeze() for pair in pairs for side in (pair.clean, pair.noisy)]
    draw = np.random.default_rng(0 if split == "train" else 1)
    arrays += [draw.normal(size=(160, 200)) for _ in range(4)] + [np.full((90, 120), 7.0)]
    ramp = np.linspace(0, 1, 200)
    arrays += [np.outer(ramp, ramp), np.tile(ramp, (150, 1))]
    return tuple(Example(as_input(a), {}, "others", (0.5, 1.2), name=f"other {i}") for i, a in enumerate(arrays))


GROUPS = {"monuseg": monuseg, "dsb": dsb, "retina": vessels, "em": membranes, "ultrasound": breast}
GROUPS |= {"white cells": white_cells, "others": others}
WEIGHTS = {"monuseg": 2.0, "dsb fluorescence": 1.2, "dsb stained": 0.8, "retina": 2.0, "em": 1.5}
WEIGHTS |= {"ultrasound": 2.0, "white cells": 1.5, "others": 0.6}


def examples(split: str) -> list[Example]:
    """All sets together."""
    return [example for group in GROUPS.values() for example in group(split)]


def is_gray(image: np.ndarray) -> bool:
    """Whether the channels of [H, W, 3] are alike."""
    return bool(np.allclose(image[..., 0], image[..., 1], atol=1e-3))
