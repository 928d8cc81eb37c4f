"""The three stages on a folder of noisy images: weights, and a report of what was learned."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mptpn.atomic import write_atomically
from mptpn.io import Image, gray_array, open_scans, photographs, spread_images
from mptpn.io.array import check_number, shown
from mptpn.io.files import KNOWN
from mptpn.networks import save_weights
from mptpn.networks.noise_level import SMALLEST
from mptpn.stages import SetNoise, pipeline
from mptpn.training import launch

if TYPE_CHECKING:
    from lightning.fabric import Fabric

NO_NOISE = "no part of it holds noise that can be measured: all is constant or clipped"


def train(
    folder: str | Path,
    *,
    out: str | Path,
    minutes: float = 8.0,
    fabric: Fabric | None = None,
    photos: Sequence[Image] = (),
    seed: int = 0,
) -> dict:
    """Stages 1 to 3 on a folder of noisy images: out holds the denoiser, beside it its report and the stage-1 network.

    A stopped call goes on where it was, from checkpoints beside out; they are removed at the end.

    Args:
        folder: noisy images, also below it, best of 64 x 64 pixels or more; a series or volume gives up to 16 slices.
            Files that are no images, smaller than 16 x 16 px, constant or clipped all over are named and left out.
        out: ends in .safetensors; its stem + ".stage1.safetensors" is the blind-spot network, ".json" the report.
        minutes: wall-clock budget of the trainings together, over all calls that went on; 8 as in mptpn train.
        fabric: from training.launch; None: this machine's GPU, or its CPU where it has none.
        photos: clean natural photographs, such as read_folder(folder)[0]; empty: those inside the installed packages.
    Returns:
        the report: noise of the set and of each image in their own unit, as refined by the first network where it
        correlates; the learned range of levels relative to these; files used and left out; steps; seconds.
    Raises:
        FileNotFoundError, ValueError: no such folder, no noisy image in it, a wrong ending, no budget, no photos.
        TypeError: minutes that are no number, photos that are no images.
    """
    out, started = Path(out), time.monotonic()
    _check(out, minutes, photos)
    fabric = fabric or launch(accelerator="auto")
    images, pixels, unit, noise, left_out = _measured_folder(folder)
    whole = noise.whole.in_unit(unit[1], zero=unit[0])
    print(whole, file=sys.stderr)
    side = min(64, *(min(x.shape[2:]) for x in pixels))
    clean = _training_photographs(photos, side=side)
    settings = {"seconds": 60 * minutes, "patch": side, "seed": seed, "out": out}
    learned = pipeline.three_stages(pixels, clean, noise=noise, fabric=fabric, **settings)
    about = (
        {"noise": str(whole)}
        | _learned_noise(learned.noise, pixels, noise, span=unit[1])
        | {
            "images": [image.name for image in images],
            "left_out": left_out,
            "minutes": minutes,
            "steps": [network.history[-1]["step"] for network in (learned.blind, learned.student)],
            "seconds": round(time.monotonic() - started, 1),
            "seed": seed,
        }
    )
    save_weights(out, learned.student, arguments=learned.student.arguments, note=about)
    save_weights(out.with_suffix(".stage1.safetensors"), learned.blind, arguments=learned.blind.arguments)
    write_atomically(out.with_suffix(".json"), lambda path: path.write_text(json.dumps(about, indent=1)))
    for checkpoint in pipeline.checkpoints(out):
        checkpoint.unlink(missing_ok=True)
    return about


def _check(out: Path, minutes: float, photos: Sequence[Image]) -> None:
    """Refuses at once what would fail after the folder is read."""
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: weights are written as .safetensors; choose this ending.")
    check_number(minutes, name="minutes", remedy="give a finite budget above 0")
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes {minutes}: give a finite budget above 0.")
    if isinstance(photos, str | Path) or not all(isinstance(photo, Image) for photo in photos or ()):
        raise TypeError(f"photos {shown(photos)}: are no images; give those of mptpn.api.read_folder(FOLDER)[0].")


def _learned_noise(learned: SetNoise, pixels: Sequence[Tensor], before: SetNoise, *, span: float) -> dict:
    """What the report says of the learned noise, in the images' own unit; how far it was refined is printed."""
    models = learned.noise_models
    if models[0].correlated:
        first, second = (torch.tensor(noise.noise_models[0].correlation) for noise in (before, learned))
        change = float((first - second).abs().max())
        print(f"correlation refined from residuals: changed by up to {change:.2f}", file=sys.stderr)
    return {
        "sigma": [float(m.variance(x).mean().sqrt()) * span for m, x in zip(models, pixels, strict=True)],
        "correlation": models[0].correlation if models[0].correlated else before.whole.correlation.tolist(),
        "levels": before.levels,
        "blind_spot": [2 * half + 1 for half in before.whole.half_size],
    }


def _measured_folder(
    folder: str | Path,
) -> tuple[list[Image], list[Tensor], tuple[float, float], SetNoise, dict[str, str]]:
    """Images of a folder that hold noise, their pixels, their unit (zero, size), their noise, the files left out."""
    images, left_out = read_folder(folder)
    print(f"{len(images)} images; estimating their noise", file=sys.stderr)
    low, high = min(image.value_range[0] for image in images), max(image.value_range[1] for image in images)
    span = high - low  # one unit for all: a set has one noise model
    pixels = [_tensor((_gray(image, number) - low) / span) for number, image in enumerate(images)]
    measured = pipeline.measure_set(pixels, subjects=[image.subject for image in images])
    left_out |= {image.name: NO_NOISE for image, one in zip(images, measured, strict=True) if one is None}
    for name, reason in left_out.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    if not any(measured):
        raise ValueError(f"{folder}: no image holds noise that can be measured, all are constant or clipped.")
    images, pixels, measured = (list(compress(x, measured)) for x in (images, pixels, measured))
    return images, pixels, (low, span), pipeline.estimate_set(pixels, measured=measured), left_out


def _training_photographs(photos: Sequence[Image], *, side: int) -> list[Tensor]:
    """Clean photographs, gray, [1, 1, H, W], at least as large as a training patch."""
    large = [photo for photo in photos or photographs.natural("train") if min(photo.pixels.shape[2:]) >= side]
    if not large:
        raise ValueError(f"no photograph is as large as a training patch, {side} x {side} pixels; give larger ones.")
    return [_tensor(_gray(photo, number)) for number, photo in enumerate(large)]


def _gray(image: Image, number: int) -> np.ndarray:
    """[H, W], float64, in the image's own unit; refuses what carries no noise."""
    array = gray_array(image.array, name=f"image {number}", smallest=SMALLEST, colour="luminance")
    return array.astype(np.float64)


def _tensor(gray: np.ndarray) -> Tensor:
    """[H, W] becomes [1, 1, H, W], float32."""
    return torch.from_numpy(gray.astype(np.float32))[None, None]


def read_folder(folder: str | Path) -> tuple[list[Image], dict[str, str]]:
    """Images of at least 16 x 16 pixels in a folder and below, and the files that gave none, with the reason.

    Results of mptpn denoise are left out.

    Returns:
        The images in the order of open_scans, named by their path within the folder and the slice; reasons by path, for
        a series that of its first file.
    Raises:
        FileNotFoundError, ValueError: no such folder; no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give a folder of noisy images.")
    scans, refused = open_scans([folder])
    refused.pop(str(folder), None)  # it is empty
    images, alone = [], Counter(scan.path for scan in scans)
    for scan in scans:
        file = scan.sources()[0]
        if min(scan.shape[:2]) < SMALLEST:
            refused[str(file)] = f"smaller than {SMALLEST} x {SMALLEST} pixels"
        else:
            try:
                named = (scan.path if alone[scan.path] == 1 else file).relative_to(folder)
                named = named if named.parts else scan.name  # a series right in the folder
                images += [replace(x, name=f"{named}{x.name.removeprefix(scan.name)}") for x in spread_images(scan)]
            except (ValueError, OSError) as error:
                refused[str(file)] = str(error)
    if not images:
        raise ValueError(f"{folder}: no image in this folder ({len(refused)} other files); {KNOWN}.")
    return images, {str(Path(file).relative_to(folder)): _reason(file, words) for file, words in refused.items()}


def _reason(file: str, words: str) -> str:
    """A sentence without the path that it begins with: of the file, or of the folder of its series."""
    for path in (file, *map(str, Path(file).parents)):
        words = words.removeprefix(f"{path}: ")
    return words
