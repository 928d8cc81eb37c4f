"""The public functions, on arrays and folders: denoise, estimate_noise, train, enlarge, segment."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from skimage import img_as_float
from torch import Tensor

from mptpn.inference import AUTO, Assessment, NoisyImages, QualityControl
from mptpn.inference.adaptation import check_adaptation
from mptpn.inference.denoiser import Network, check_strength
from mptpn.inference.planes import changed, check_planes, denoise_planes, noisy_planes
from mptpn.io import Image, gray_array, image_from_array, read_image
from mptpn.io.array import check_axis, check_number, check_unmasked, check_valid, check_whole, named_array, shown
from mptpn.io.image import as_array, check_type
from mptpn.networks import load_weights
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise import NoiseEstimate
from mptpn.stages.folder import read_folder, train

if TYPE_CHECKING:
    from mptpn.segmentation import Answer

__all__ = ["Denoised", "denoise", "denoise_image", "enlarge", "enlarge_image", "estimate_noise", "read_folder"]
__all__ += ["segment", "train"]
Picture = np.ndarray | Tensor | Image | str | Path


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
        minutes: wall-clock budget of model "self"; the others do not use it.
        adapt: minutes on one core, in a fixed number of steps, in which the pretrained network is adapted to the image
            first (about + 0.1 dB); None: it is not.
        memory: bytes that the process may hold in all; None: what it holds and half of what is free.
        valid: [H, W] bool, or one of the image's shape; False: padding, background or saturated pixels, which no
            estimate sees and which stay as they are. Areas of 9 x 9 px or more of one value are found without it.
        seed: of the training.
        axes: one letter an axis, such as "CZYX": T, Z and others share a noise model, each C has its own, S is RGB.
        channel_axis: the axis of the channels, instead of axes; the last two others are height and width.
    Returns:
        image and uncertainty of the input's shape, both in its unit, what the noise is, the estimated gain, and how far
        to trust it; see Denoised.
    Raises:
        ValueError: not an image, axes that do not fit, too small, constant, NaN or infinite, a setting out of range.
        TypeError: a setting of another type. FileNotFoundError: no such model.
    """
    _check_array(image, "denoise")
    check_settings(model=model, strength=strength, minutes=minutes, adapt=adapt, memory=memory)
    check_valid(valid)
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
    _check_array(image, "denoise")
    check_unmasked(image)
    array = as_array(image)
    check_type(array, name="the image")
    if channel_axis is not None:
        check_axis(channel_axis, array.shape)
    if sigma is not None:
        check_number(sigma, name="sigma", remedy="give a standard deviation above 0, or None")
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


def check_settings(
    *,
    model: str | Path | Network,
    strength: float,
    minutes: float,
    adapt: float | None = None,
    memory: int | None = None,
) -> None:
    """Refuses settings of denoise() by their name, before anything is computed."""
    if not isinstance(model, str | Path | Network):
        known = "the name of a network of the package, the path of a weights file or a network from mptpn.load"
        raise TypeError(f"model {shown(model)}: is no denoiser; give {known}.")
    check_number(strength, name="strength", remedy="give one from 0 (the input) to 1 (all the noise)")
    check_strength(strength)
    check_number(minutes, name="minutes", remedy="give one above 0")
    if adapt is not None:
        check_number(adapt, name="adapt", remedy="give minutes above 0, or None")
        check_adaptation(adapt, model)
    if memory is not None:
        check_number(memory, name="memory", remedy="give bytes, such as 2**30, or None")
        if not memory > 0:
            raise ValueError(f"memory {memory}: give a number of bytes above 0, or None.")


def _check_array(image: object, command: str, *, reader: str = "open_scan") -> None:
    """Refuses paths where an array is taken."""
    if isinstance(image, str | Path):
        instead = f"for files use `mptpn {command}`, or mptpn.io.{reader}"
        raise ValueError(f"{str(image)!r:.200}: {command} takes an array; {instead}.")


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
        check_valid(valid)
        array, named, _ = named_array(image_or_images, axes=axes, channel_axis=channel_axis)
        check_planes(array, named, valid=valid)
        arrays, masks = noisy_planes(array, named, valid=valid)
        return NoisyImages.of(arrays, valid=masks).estimate
    pictures = image_or_images if several else [image_or_images]
    masks = _one_each("valid", valid if several and valid is not None else [valid] * len(pictures), len(pictures))
    subjects = _one_each("subjects", range(len(pictures)) if subjects is None else subjects, len(pictures))
    arrays = [_gray(x, number, mask) for number, (x, mask) in enumerate(zip(pictures, masks, strict=True))]
    images = NoisyImages.of(arrays, valid=masks, subjects=subjects)
    return images.estimate


def _one_each(name: str, given: Sequence, count: int) -> list:
    """What is given for each image of a list; refuses what is no list of its length."""
    try:
        found = list(given)
    except TypeError:
        raise TypeError(f"{name} {shown(given)}: give a list with one for each of the {count} images.") from None
    if len(found) != count:
        raise ValueError(f"{name}: {len(found)} given for {count} images; give one for each of them.")
    return found


def _gray(picture: Picture, number: int, valid: np.ndarray | None = None) -> np.ndarray:
    """[H, W], float64, in the picture's own unit; refuses what carries no noise."""
    name = str(picture) if isinstance(picture, str | Path) else f"image {number}"
    if isinstance(picture, str | Path):
        picture = read_image(picture)
    array = picture.array if isinstance(picture, Image) else picture
    check_unmasked(array)
    return gray_array(array, name=name, valid=valid, smallest=SMALLEST, colour="luminance").astype(np.float64)


def enlarge(image: np.ndarray, *, scale: int = 2, tile: int = 0) -> np.ndarray:
    """Super-resolution of an image by the pretrained network for this scale (bicubic degradation).

    Args:
        image: [H, W] or [H, W, 3], any integer or float type.
        scale: 2 or 4.
        tile: side of the tiles, px, for little memory; 0: the whole image at once.
    Returns:
        [scale H, scale W] or with three channels, same type and unit.
    Raises:
        ValueError, TypeError: not an image, a constant one, another scale or tile.
    """
    _check_array(image, "enlarge", reader="read_image")
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
        memory: bytes that the process may hold in all; None: what it holds and half of what is free.
    Returns:
        mask, numbered pieces, whether anything was found and why not, and how sure that is.
    Raises:
        ValueError: not an image, NaN or infinite; or a prompt that cannot be answered as it stands (AskBack).
        FileNotFoundError: no such model.
    """
    from mptpn.segmentation import Segmenter

    _check_array(image, "segment", reader="read_image")
    pixels = as_array(image)
    pixels = pixels[..., :3] if pixels.ndim == 3 and pixels.shape[2] == 4 else pixels
    return Segmenter.load(model).ask(pixels, prompt, memory=memory)


def enlarge_image(image: Image, *, scale: int = 2, tile: int = 0) -> Image:
    """The same of an Image; arguments as in enlarge."""
    from mptpn.super_resolution import SuperResolutionNetwork
    from mptpn.super_resolution import enlarge as enlarged

    check_whole(scale, name="scale", remedy="the pretrained networks enlarge by 2 or 4")
    if scale not in (2, 4):
        raise ValueError(f"scale {scale}: the pretrained networks enlarge by 2 or 4.")
    network, _ = load_weights(f"x{scale}", SuperResolutionNetwork)
    return image.with_pixels(enlarged(network, image.pixels, tile=tile))
