"""A folder of images and masks that a user trains from: img/, mask/, and prompts.csv for several prompts."""

import csv
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mptpn.io import open_scan
from mptpn.segmentation.examples import Example
from mptpn.segmentation.inference import normalised
from mptpn.segmentation.text import plain_words
from mptpn.segmentation.words import Target, Words

COLUMNS = ("image", "prompt", "mask")


def read_folder(folder: str | Path, *, prompt: str = "") -> tuple[list[Example], list[Target]]:
    """Examples of img/ and mask/, and what can be asked for.

    prompts.csv has the columns image, prompt and mask (a file in mask/; empty: the image does not have it; left out:
    the name of the image). Without it every image has one mask of its own name, of the structure `prompt`.

    Raises:
        ValueError, OSError: one sentence: no images, an image without a row or with the same prompt twice, a mask of
            another size or with more than two values.
    """
    folder = Path(folder)
    images = _named(folder / "img")
    rows = _rows(folder, images, prompt)
    examples, names = [], sorted({row["prompt"] for row in rows})
    words = {name: tuple(plain_words(name)) for name in names}
    masks = _named(folder / "mask", required=False)
    for name, path in images.items():
        image = _image(path)
        found: dict[Words, Tensor] = {}
        for row in (row for row in rows if row["image"] == name):
            if row["mask"]:
                mask = _mask(masks, row["mask"], image.shape[2:], folder)
                found[words[row["prompt"]]] = mask
        asked = {words[row["prompt"]] for row in rows if row["image"] == name}
        unknown = frozenset(words.values()) - asked
        examples.append(Example(image, found, "", _scales(image), unknown=unknown, name=name))
    return examples, [Target(name, words[name], least=12) for name in names]


def _named(folder: Path, *, required: bool = True) -> dict[str, Path]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".")) if folder.is_dir() else []
    if required and not files:
        raise ValueError(f"{folder}: holds no images; put them there, and their masks into mask/ beside it.")
    return {file.stem: file for file in files}


def _rows(folder: Path, images: dict[str, Path], prompt: str) -> list[dict[str, str]]:
    path = folder / "prompts.csv"
    if not path.is_file():
        if not prompt:
            raise ValueError(f"{folder}: has no prompts.csv; say with --prompt what the masks show.")
        return [{"image": name, "prompt": prompt, "mask": name} for name in images]
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        if not {"image", "prompt"} <= set(table.fieldnames or ()):
            raise ValueError(f"{path}: has the columns {table.fieldnames}; give {', '.join(COLUMNS)}.")
        rows = [{key: (row.get(key) or "").strip() for key in COLUMNS} for row in table]
        has_masks = "mask" in (table.fieldnames or ())
    for row in rows:
        row["image"] = Path(row["image"]).stem
        row["mask"] = Path(row["mask"]).stem if has_masks else row["image"]
    _check_rows(path, rows, images)
    return rows


def _check_rows(path: Path, rows: list[dict[str, str]], images: dict[str, Path]) -> None:
    pairs = [(row["image"], row["prompt"]) for row in rows]
    double = next((pair for pair in pairs if pairs.count(pair) > 1), None)
    if double:
        raise ValueError(f"{path}: image {double[0]!r} has the prompt {double[1]!r} twice; delete one row.")
    missing = sorted(set(images) - {image for image, _ in pairs}) or sorted({i for i, _ in pairs} - set(images))
    if missing:
        raise ValueError(f"{path}: image {missing[0]!r} has no row here, or no file in img/; add it, or take it out.")
    if not all(prompt for _, prompt in pairs):
        raise ValueError(f"{path}: a row has an empty prompt; say what the mask shows.")


def _image(path: Path) -> Tensor:
    scan = open_scan(path)
    pixels = scan.read(scan.middle).pixels.astype(np.float32)
    tensor = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1)[None]
    return normalised(tensor).contiguous().half()


def _mask(masks: dict[str, Path], name: str, size: tuple[int, int], folder: Path) -> Tensor:
    if name not in masks:
        raise ValueError(f"{folder / 'mask' / name}: no such mask; add it, or leave the column empty for an empty one.")
    scan = open_scan(masks[name])
    pixels = scan.in_unit(scan.middle)
    pixels = pixels[..., 0] if pixels.ndim == 3 else pixels
    if pixels.shape != tuple(size):
        given = f"{pixels.shape[0]} x {pixels.shape[1]} px, its image {size[0]} x {size[1]}"
        raise ValueError(f"{masks[name]}: the mask has {given}; give masks of the image's size.")
    values = np.unique(pixels)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise ValueError(f"{masks[name]}: the mask has {len(values)} values; give 0 outside and one value inside.")
    return torch.from_numpy(pixels > 0)[None, None]


def _scales(image: Tensor) -> tuple[float, float]:
    """Factors from the whole image in one crop, at most twice smaller, to a little enlarged."""
    return max(0.5, min(1.0, 128 / min(image.shape[2:]))), 1.3
