"""The public functions, on arrays and folders: denoise, estimate_noise, train, enlarge, segment."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from skimage import img_as_float
from torch import Tensor

from mptpn.atomic import write_atomically
from mptpn.inference import AUTO, Assessment, NoisyImages, QualityControl
from mptpn.inference.adaptation import check_adaptation
from mptpn.inference.denoiser import Network, check_strength
from mptpn.inference.planes import changed, check_planes, denoise_planes, noisy_planes
from mptpn.io import Image, gray_array, image_from_array, open_scans, photographs, read_image, spread_images
from mptpn.io.array import named_array
from mptpn.io.files import KNOWN
from mptpn.io.image import as_array, check_type
from mptpn.networks import load_weights, save_weights
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise import NoiseEstimate
from mptpn.stages import SetNoise, pipeline

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from mptpn.segmentation import Answer

Picture = np.ndarray | Tensor | Image | str | Path
NO_NOISE = "no part of it holds noise that can be measured: all is constant or clipped"


@dataclass(frozen=True)
class Denoised:
    """What denoise() gives.

    Attributes:
        image: type and shape of the input.
        uncertainty: standard deviation of its error at each pixel, float32, same shape; 0 in an alpha channel. A pixel
            that was left as it was has the noise's.
        noise: estimate in the image's unit; of colour, all channels together.
        trust: checks of the full removal, whatever the strength; of colour, those of all channels.
        psnr_gain: estimated gain in PSNR of the full removal, dB, and its 95 % interval; None: see reason.
        reason: why there is no psnr_gain, or "".
        noises: estimate of each channel that holds noise.
    """

    image: np.ndarray
    uncertainty: np.ndarray
    noise: NoiseEstimate
    trust: QualityControl
    psnr_gain: tuple[float, tuple[float, float]] | None
    reason: str = ""
    noises: tuple[NoiseEstimate, ...] = ()


def denoise(
    image: np.ndarray,
    *,
    model: str | Path | Network = AUTO,
    strength: float = 1.0,
    minutes: float = 3.0,
    adapt: float | None = None,
    memory: int | None = None,
    valid: np.ndarray | None = None,
    seed: int = 0,
    axes: str | None = None,
    channel_axis: int | None = None,
) -> Denoised:
    """Denoise an image, or the planes of a stack, with a pretrained network for their noise or another one.

    Args:
        image: [H, W], or [H, W, 3] or [H, W, 4] whose channels have a noise model each (alpha of uint8, and a constant
            channel, stay); or any array whose axes are named; any integer or float type, planes of at least
            16 x 16 px. An xarray.DataArray names its axes by its dims, which are kept.
        model: "auto", the pretrained network for this noise; "small", "correlated", "base", "colour" or
            "tiny" (a preview) to choose it; "self", a blind-spot network that learns from the image within `minutes`;
            .safetensors from mptpn train, or a network from load().
        strength: 0 (the input, exactly) to 1.
        adapt: minutes on one core, in a fixed number of steps, in which the pretrained network is adapted to the image
            first (about + 0.1 dB); None: it is not.
        memory: bytes that the process may hold in all; None: half of what is free more than now.
        valid: [H, W] bool, or one of the image's shape; False: padding, background or saturated pixels, which no
            estimate sees and which stay as they are. Areas of 9 x 9 px or more of one value are found without it.
        seed: of the training.
        axes: one letter an axis, such as "CZYX": T, Z and others share a noise model, each C has its own, S is RGB.
        channel_axis: the axis of the channels, instead of axes; the last two others are height and width.
    Raises:
        ValueError: not an image, axes that do not fit, too small, constant, NaN or infinite.
        FileNotFoundError: no such model.
    """
    check_strength(strength)
    check_adaptation(adapt, model)
    array, named, wrap = named_array(image, axes=axes, channel_axis=channel_axis)
    if named.names == "YXS" and named.shape[-1] == 4:
        warnings.warn("the fourth channel is taken for alpha and stays; axes='YXC' denoises all four", stacklevel=2)
    check_planes(array, named, valid=valid)
    settings = {"strength": strength, "minutes": minutes, "memory": memory, "valid": valid, "seed": seed}
    settings |= {"adapt": adapt}
    done = denoise_planes(array, named, model=model, **settings)
    assessment = done.assessment
    _warn(assessment)
    about = done.noise, assessment.quality, assessment.gain, assessment.reason
    return Denoised(wrap(done.array), wrap(done.uncertainty), *about, done.noises)


def denoise_image(
    image: np.ndarray, sigma: float | None = None, *, channel_axis: int | None = None, preserve_range: bool = False
) -> np.ndarray:
    """Denoise an image in the manner of scikit-image's restoration functions.

    Args:
        image: [H, W], or with further axes, whose planes share a noise model; integers or floats.
        sigma: standard deviation of white Gaussian noise, in the range of the result; None: the noise is estimated.
        channel_axis: the axis of the channels, each with a noise model of its own; None: there is none.
        preserve_range: keep the range of the input; else integers become 0 to 1 (or -1 to 1), see img_as_float.
    Returns:
        Same shape; float32 or float64, as img_as_float gives it.
    Raises:
        ValueError: as denoise().
    """
    array = as_array(image)
    check_type(array, name="the image")
    if preserve_range:
        array = array.astype(array.dtype if array.dtype in (np.float32, np.float64) else np.float64)
    else:
        array = img_as_float(array)
    rank = array.ndim - (channel_axis is not None)
    if rank < 2:
        raise ValueError(f"the image: shape {array.shape} has {rank} axes beside the channels; give two or more.")
    names = None if channel_axis is not None else "QPRTZ"[5 - (rank - 2) :] + "YX"
    array, named, _ = named_array(array, axes=names, channel_axis=channel_axis)
    check_planes(array, named, valid=None)
    settings = {"model": AUTO, "strength": 1.0, "minutes": 3.0, "memory": None, "valid": None, "seed": 0}
    done = denoise_planes(array, named, sigma=sigma, **settings)
    _warn(done.assessment)
    return done.array


def _warn(assessment: Assessment) -> None:
    for check in assessment.quality.checks:
        if check.alarm:
            warnings.warn(check.verdict, stacklevel=3)


def estimate_noise(
    image_or_images: Picture | Sequence[Picture],
    *,
    valid: np.ndarray | Sequence[np.ndarray | None] | None = None,
    subjects: Sequence[Hashable] | None = None,
    axes: str | None = None,
    channel_axis: int | None = None,
) -> NoiseEstimate:
    """The noise of one image, or of images that share one noise model, from the images alone, in their own unit.

    It takes seconds for 512 x 512 pixels.

    Args:
        image_or_images: arrays or tensors [H, W], [H, W, 3] or [H, W, 4] (alpha is dropped), Image objects or paths (of
            several slices the middle one), or a list of these. Colour is turned into luminance.
        valid: [H, W] bool, or one for each image of a list; as in denoise(), which finds the same noise.
        subjects: of whom each image of a list is, for images of one subject show the same things; None: each of its
            own.
        axes, channel_axis: of one array of several planes, as in denoise(): one estimate for all of them together, that
            of denoise(). An xarray.DataArray names its axes.
    Returns:
        sigma with its interval, the noise-level function, the correlation, the noise model that fits best, and what to
        beware of.
    Raises:
        ValueError, FileNotFoundError: no image, or one that is too small, constant or not finite; the message names it.
    """
    several = isinstance(image_or_images, Sequence) and not isinstance(image_or_images, Picture)
    if axes is not None or channel_axis is not None or hasattr(image_or_images, "dims"):
        if several or isinstance(image_or_images, Image | str | Path):
            raise ValueError("axes and channel_axis are those of one array; give one array, or leave them out.")
        array, named, _ = named_array(image_or_images, axes=axes, channel_axis=channel_axis)
        check_planes(array, named, valid=valid)
        arrays, masks = noisy_planes(array, named, valid=valid)
        return NoisyImages.of(arrays, valid=masks).estimate
    pictures = image_or_images if several else [image_or_images]
    masks = valid if several and valid is not None else [valid] * len(pictures)
    arrays = [_gray(x, number, mask) for number, (x, mask) in enumerate(zip(pictures, masks, strict=True))]
    subjects = range(len(arrays)) if subjects is None else subjects
    images = NoisyImages.of(arrays, valid=masks, subjects=subjects)
    return images.estimate


def _gray(picture: Picture, number: int, valid: np.ndarray | None = None) -> np.ndarray:
    """[H, W], float64, in the picture's own unit; refuses what carries no noise."""
    name = str(picture) if isinstance(picture, str | Path) else f"image {number}"
    if isinstance(picture, str | Path):
        picture = read_image(picture)
    array = picture.array if isinstance(picture, Image) else picture
    return gray_array(array, name=name, valid=valid, smallest=SMALLEST, colour="luminance").astype(np.float64)


def _tensor(gray: np.ndarray) -> Tensor:
    """[H, W] becomes [1, 1, H, W], float32."""
    return torch.from_numpy(gray.astype(np.float32))[None, None]


def train(
    folder: str | Path, *, out: str | Path, minutes: float, fabric: Fabric, photos: Sequence[Image] = (), seed: int = 0
) -> dict:
    """Stages 1 to 3 on a folder of noisy images: out holds the denoiser, beside it its report and the stage-1 network.

    A stopped call goes on where it was, from checkpoints beside out; they are removed at the end.

    Args:
        folder: noisy images, also below it, best of 64 x 64 pixels or more; a series or volume gives up to 16 slices.
            Files that are no images, smaller than 16 x 16 px, constant or clipped all over are named and left out.
        out: ends in .safetensors; its stem + ".stage1.safetensors" is the blind-spot network, ".json" the report.
        minutes: wall-clock budget of the trainings together, over all calls that went on.
        fabric: from training.launch.
        photos: clean natural photographs; empty: those inside the installed packages.
    Returns:
        the report: noise of the set and of each image in their own unit, as refined by the first network where it
        correlates; the learned range of levels relative to these; files used and left out; steps; seconds.
    Raises:
        FileNotFoundError, ValueError: no such folder, no noisy image in it, a wrong ending, no budget, no photos.
    """
    out, started = Path(out), time.monotonic()
    if out.suffix != ".safetensors":
        raise ValueError(f"{out}: weights are written as .safetensors; choose this ending.")
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes {minutes}: give a finite budget above 0.")
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


def enlarge(image: np.ndarray, *, scale: int = 2, tile: int = 0) -> np.ndarray:
    """Super-resolution of an image by the pretrained network for this scale (bicubic degradation).

    Args:
        image: [H, W] or [H, W, 3], any integer or float type.
        scale: 2 or 4.
        tile: side of the tiles, px, for little memory; 0: the whole image at once.
    Returns:
        [scale H, scale W] or with three channels, same type and unit.
    Raises:
        ValueError: not an image, or another scale.
    """
    pixels = gray_array(image, name="the image", colour="kept")
    larger = enlarge_image(image_from_array(pixels, name="the image"), scale=scale, tile=tile).array
    zeros = np.zeros(larger.shape, pixels.dtype)
    return changed(zeros, larger)


def segment(image: np.ndarray, prompt: str, *, model: str | Path = "segmentation", memory: int | None = None) -> Answer:
    """Find what a prompt names in an image, or say that it is not there.

    Args:
        image: [H, W], [H, W, 3] or [H, W, 4] (alpha is dropped), any integer or float type and unit.
        prompt: in English, such as "large nuclei in the left half".
        model: weights from mptpn train-segment; default: those of the package.
        memory: bytes that the process may hold in all; None: half of what is free more than now.
    Returns:
        mask, numbered pieces, whether anything was found and why not, and how sure that is.
    Raises:
        ValueError: not an image, NaN or infinite; or a prompt that cannot be answered as it stands (AskBack).
        FileNotFoundError: no such model.
    """
    from mptpn.segmentation import Segmenter

    pixels = as_array(image)
    pixels = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels
    return Segmenter.load(model).ask(pixels, prompt, memory=memory)


def enlarge_image(image: Image, *, scale: int = 2, tile: int = 0) -> Image:
    """The same of an Image; arguments as in enlarge."""
    from mptpn.super_resolution import SuperResolutionNetwork
    from mptpn.super_resolution import enlarge as enlarged

    if scale not in (2, 4):
        raise ValueError(f"scale {scale}: the pretrained networks enlarge by 2 or 4.")
    network, _ = load_weights(f"x{scale}", SuperResolutionNetwork)
    return image.with_pixels(enlarged(network, image.pixels, tile=tile))
