"""The public door: what a user calls with images in their own unit, or with a folder of them."""

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor

from mptpn.atomic import write_atomically
from mptpn.inference.masks import checked, gray_levels
from mptpn.io import photographs
from mptpn.io.files import KNOWN, open_scans, read_image, spread_images
from mptpn.io.image import Image, luminance
from mptpn.networks.noise_level import SMALLEST
from mptpn.networks.weights import save_weights
from mptpn.noise.estimate import NoiseEstimate, estimate_noise_model
from mptpn.noise.models import CorrelatedGaussian
from mptpn.stages import pipeline, profound, refinement

Picture = np.ndarray | Tensor | Image | str | Path
STAGE_1, STAGE_3 = 0.4, 0.5  # shares of the wall-clock budget; estimates and pairs A take the rest
# share of stage 3's part for the first network, which tells correlated noise better and gives the set's own content
FIRST = 0.3
SILENT = "no part of it says anything of its noise: all is constant or clipped"
REPORTS = (".trust.png", ".uncertainty.npy")  # what mptpn denoise writes beside its results
STEPS = 100_000  # more than any budget on a CPU allows: the clock decides


def estimate_noise(
    image_or_images: Picture | Sequence[Picture], *, subjects: Sequence[Hashable] | None = None
) -> NoiseEstimate:
    """The noise of one image, or of images that share one noise model, from the images alone, in their own unit;
    seconds for 512 x 512 pixels.

    Args:
        image_or_images: arrays or tensors [H, W], [H, W, 3] or [H, W, 4] (alpha is dropped), Image objects or paths (of
            several slices the middle one), or a list of these. Colour is turned into luminance.
        subjects: of whom each image of a list is, for images of one subject show the same things; None: each of its
            own.
    Returns:
        sigma with its interval, the noise-level function, the correlation, the noise model that fits best, and what to
        beware of: see NoiseReport.
    Raises:
        ValueError, FileNotFoundError: no image, or one that is too small, constant or not finite; the message names it.
    """
    several = isinstance(image_or_images, Sequence) and not isinstance(image_or_images, Picture)
    arrays = [
        _own_unit(picture, number) for number, picture in enumerate(image_or_images if several else [image_or_images])
    ]
    lowest, highest = (
        min((float(array.min()) for array in arrays), default=0.0),
        max((float(array.max()) for array in arrays), default=1.0),
    )
    scale = max(abs(lowest), abs(highest)) or 1.0
    return in_unit(
        estimate_noise_model([_tensor(array / scale) for array in arrays], subjects=subjects, from_zero=lowest >= 0), scale
    )


def _own_unit(picture: Picture, number: int) -> np.ndarray:
    """[H, W], float64, in the picture's own unit; refuses what carries no noise."""
    name = str(picture) if isinstance(picture, str | Path) else f"image {number}"
    if isinstance(picture, str | Path):
        if Path(picture).is_dir():
            raise ValueError(f"{name}: a folder; give the images in it.")
        picture = read_image(picture)
    if isinstance(picture, Image):
        array = picture.array
    else:
        array = gray_levels(picture, name)
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(
            f"{name}: shape {array.shape} is not an image; give [H, W] or [H, W, 3], and a list for several images."
        )
    return checked(luminance(array) if array.ndim == 3 else array.astype(np.float64), name, remedy="replace or crop")


def _tensor(gray: np.ndarray) -> Tensor:
    """[H, W] becomes [1, 1, H, W], float32."""
    return torch.from_numpy(gray.astype(np.float32))[None, None]


def in_unit(found: NoiseEstimate, scale: float, *, zero: float = 0.0) -> NoiseEstimate:
    """A report of images from which `zero` was taken before they were divided by `scale`, in the unit that they had
    before.
    """
    low, high = found.sigma_interval
    parameters = {name: _parameter(name, *pair, scale=scale, zero=zero) for name, pair in found.parameters.items()}
    return replace(
        found,
        sigma=found.sigma * scale,
        sigma_interval=(low * scale, high * scale),
        mean=found.mean * scale + zero,
        noise_model=found.noise_model.in_unit(scale, zero=zero),
        parameters=parameters,
        intensity=tuple(x * scale + zero for x in found.intensity),
        level=tuple(x * scale for x in found.level),
    )


def _parameter(name: str, value: float, error: float, *, scale: float, zero: float) -> tuple[float, float]:
    if name == "looks":  # a number
        return value, error
    return value * scale + (zero if name == "black" else 0.0), error * scale


def train(
    folder: str | Path, *, out: str | Path, minutes: float, fabric: Fabric, photos: Sequence[Image] = (), seed: int = 0
) -> dict:
    """Stages 1 to 3 on a folder of noisy images: out holds the denoiser, out's stem + ".stage1.safetensors" the
    blind-spot network, ".json" the report.

    A stopped call goes on where it was, from checkpoints beside out; they are removed at the end.

    Args:
        folder: images in any format that open_scans knows, also below it, of 64 x 64 pixels or more (the smallest one
            sets the side of the training patches, down to 16); a series, a volume or a file of many pages gives up to
            16 slices. Files that are no images, smaller, constant, or clipped all over are named and left out.
        out: ends in .safetensors.
        minutes: wall-clock budget of both trainings together, over all calls that went on.
        photos: clean natural photographs; empty: those inside the installed packages.
    Returns:
        the report: noise of the set and of each image in the images' unit (where it correlates, as a first network of
            stage 3 told it
        better, see refinement.refined; the sentences are of the estimate before), the lowest and highest level relative
        to these that stage 3 has learned, files used and left out, steps of each training, seconds of this call.
    Raises:
        FileNotFoundError, ValueError: no such folder, no image in it that shows noise, another ending of out, no
            budget, photographs that are all smaller than a patch.
    """
    out, started = Path(out), time.monotonic()
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: weights are written as .safetensors; choose this ending.")
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes {minutes}: give a finite budget above 0.")
    images, left_out = read_folder(folder)
    print(f"{len(images)} images; estimating their noise", file=sys.stderr)
    arrays = [_own_unit(image, number) for number, image in enumerate(images)]
    ends = [(float(array.min()), float(array.max())) for array in arrays]
    own = [_tensor((array - least) / (most - least)) for array, (least, most) in zip(arrays, ends, strict=True)]
    measured = pipeline.measure_set(own, subjects=[image.subject for image in images])
    left_out |= {image.name: SILENT for image, one in zip(images, measured, strict=True) if one is None}
    for name, reason in left_out.items():
        print(f"left out {name}: {reason}", file=sys.stderr)
    if not any(measured):
        raise ValueError(f"{folder}: no image says anything of its noise, all are constant or clipped; give others.")
    images, arrays, ends, measured = (list(compress(x, measured)) for x in (images, arrays, ends, measured))
    low, high = min(image.value_range[0] for image in images), max(image.value_range[1] for image in images)
    span = high - low  # one unit for all: a set has one noise noise model
    measured = [
        one.in_unit((most - least) / span, zero=(least - low) / span)
        for one, (least, most) in zip(measured, ends, strict=True)
    ]
    pixels = [_tensor((array - low) / span) for array in arrays]
    side = min(64, *(min(x.shape[2:]) for x in pixels))
    photos = [
        _tensor(_own_unit(photo, number))
        for number, photo in enumerate(photos or photographs.natural("train"))
        if min(photo.pixels.shape[2:]) >= side
    ]
    if not photos:
        raise ValueError(f"no photograph is as large as a training patch, {side} x {side} pixels; give larger ones.")
    noise = pipeline.estimate_set(pixels, measured=measured)
    whole = in_unit(noise.whole, span, zero=low)
    print(whole, file=sys.stderr)
    *parts, early = (out.with_suffix(f".{part}.checkpoint.pt") for part in ("stage1", "stage3", "first"))
    common = {"steps": STEPS, "fabric": fabric, "seed": seed}
    blind = pipeline.stage_1(
        pixels, noise=noise, patch=side, checkpoint=parts[0], seconds=60 * minutes * STAGE_1, **common
    )
    paired = partial(pipeline.stage_2, pixels, photos, blind=blind, batch=4, patch=side, seed=seed)
    pairs, seconds = paired(noise=noise), 60 * minutes * STAGE_3
    first = pipeline.stage_3(pairs, checkpoint=early, seconds=FIRST * seconds, title="first network", **common)
    if noise.whole.noise_model.correlated:
        found = refinement.refine(noise.noise_models, pixels, denoise=partial(profound.denoise, first), seed=seed)
        print(
            f"correlation told again from residuals: changed by up to {_farthest(noise.noise_models[0], found[0]):.2f}",
            file=sys.stderr,
        )
        noise = replace(noise, noise_models=found)
    pairs = paired(noise=noise, first=first)
    student = pipeline.stage_3(pairs, checkpoint=parts[1], seconds=(1 - FIRST) * seconds, **common)
    about = {
        "noise": str(whole),
        "sigma": [
            float(noise_model.variance(x).mean().sqrt()) * span
            for noise_model, x in zip(noise.noise_models, pixels, strict=True)
        ],
        "correlation": noise.noise_models[0].correlation
        if noise.noise_models[0].correlated
        else whole.correlation.tolist(),
        "levels": noise.levels,
        "blind_spot": [2 * half + 1 for half in whole.half_size],
        "images": [image.name for image in images],
        "left_out": left_out,
        "minutes": minutes,
        "steps": [torch.load(part, weights_only=True)["step"] for part in parts],
        "seconds": round(time.monotonic() - started, 1),
        "seed": seed,
    }
    save_weights(out, student, arguments=student.arguments, note=about)
    save_weights(
        out.with_suffix(".stage1.safetensors"), blind, arguments=pipeline.BLIND | {"half_size": blind.half_size}
    )
    write_atomically(out.with_suffix(".json"), lambda path: path.write_text(json.dumps(about, indent=1)))
    for part in (*parts, early):
        part.unlink(missing_ok=True)
    return about


def _farthest(before: CorrelatedGaussian, after: CorrelatedGaussian) -> float:
    """Largest difference between two correlation maps."""
    return float((torch.tensor(before.correlation) - torch.tensor(after.correlation)).abs().max())


def read_folder(folder: str | Path) -> tuple[list[Image], dict[str, str]]:
    """Images of at least 16 x 16 pixels in a folder and below, as spread_images gives them, and the files that gave
    none, with the reason.

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
    images = []
    alone = Counter(scan.path for scan in scans)
    for scan in scans:
        file = str(scan.sources()[0])
        if any(
            path.name.endswith(REPORTS) or path.with_name(f"{path.name}.trust.json").exists()
            for path in (scan.path, scan.sources()[0])
        ):
            refused[file] = "a result of mptpn denoise"
            continue
        if min(scan.shape[:2]) < SMALLEST:
            refused[file] = f"smaller than {SMALLEST} x {SMALLEST} pixels"
            continue
        try:
            named = (scan.path if alone[scan.path] == 1 else scan.sources()[0]).relative_to(folder)
            named = named if named.parts else scan.name  # a series right in the folder
            images += [
                replace(image, name=f"{named}{image.name.removeprefix(scan.name)}") for image in spread_images(scan)
            ]
        except (ValueError, OSError) as error:
            refused[file] = str(error)
    if not images:
        raise ValueError(f"{folder}: no image in this folder ({len(refused)} other files); {KNOWN}.")
    return images, {str(Path(file).relative_to(folder)): _reason(file, said) for file, said in refused.items()}


def _reason(file: str, said: str) -> str:
    """A sentence without the path that it begins with: of the file, or of the folder of its series."""
    for path in (file, *map(str, Path(file).parents)):
        said = said.removeprefix(f"{path}: ")
    return said
