"""Images that come inside the packages the project depends on: nothing to download, split by subject."""

from dataclasses import replace
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from mptpn.io import Image, image_from_array
from mptpn.io.image import luminance
from mptpn.io.photographs import SPLITS, _skimage, natural  # noqa: F401

# overlap() from which two images are one picture: unrelated embedded images reach 0.53, copies at least 0.84
SAME = 0.75


def halved(array: np.ndarray) -> np.ndarray:
    """Mean over 2 x 2 blocks, [H // 2, W // 2]: white noise halves too."""
    rows, cols = array.shape[0] // 2 * 2, array.shape[1] // 2 * 2
    return array[:rows, :cols].reshape(rows // 2, 2, cols // 2, 2).mean(axis=(1, 3))


def tiles(image: Image, *, rows: int, cols: int) -> list[Image]:
    """Cut an image into rows x cols equal tiles, all of the same subject."""
    height, width = image.pixels.shape[2] // rows, image.pixels.shape[3] // cols
    parts = image.pixels[..., : rows * height, : cols * width].unfold(2, height, height).unfold(3, width, width)
    return [
        replace(image, name=f"{image.name}_{r}{c}", pixels=parts[:, :, r, c].contiguous())
        for r in range(rows)
        for c in range(cols)
    ]


def _dicom(name: str) -> np.ndarray:
    import pydicom

    return pydicom.dcmread(str(files("pydicom") / "data" / "test_files" / name)).pixel_array


@cache
def medical(split: str) -> tuple[Image, ...]:
    """Embedded medical images that are nearly clean, gray, disjoint by subject between splits.

    train: retina, histology (immunohistochemistry), abdominal MR, head CT, whole-body scintigraphy, cut into 60 images
    of about 128 x 128 px. val: a second retina (microaneurysms). test: head MR, a cell, chest CT, a second head CT.
    Sources: scikit-image, pydicom and Matplotlib package data.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is unknown; choose one of {', '.join(SPLITS)}.")

    def image(name, array, low, high, unit="stored value"):
        return image_from_array(np.clip(array, low, high), name=name, value_range=(low, high), unit=unit)

    if split == "train":
        return (
            *tiles(image("retina", halved(luminance(_skimage("retina.jpg"))), 0, 255), rows=4, cols=4),
            *tiles(image("histology", luminance(_skimage("ihc.png")), 0, 255), rows=4, cols=4),
            *tiles(image("abdomen_mr", _dicom("examples_overlay.dcm"), 0, 730), rows=2, cols=4),
            *tiles(image("head_ct", halved(_dicom("693_J2KI.dcm")), -1000, 2000), rows=2, cols=2),
            *tiles(image("scintigraphy", _dicom("JPEG2000.dcm"), -10, 150), rows=8, cols=2),
        )
    if split == "val":
        return (image("microaneurysms", _skimage("microaneurysms.png"), 0, 255),)
    from matplotlib import cbook

    head = np.frombuffer(cbook.get_sample_data("s1045.ima.gz").read(), ">u2").reshape(256, 256)
    return (
        image("head_mr", head, 0, 240),
        image("cell", halved(_skimage("cell.png")), 0, 255),
        image("chest_ct", _dicom("CT_small.dcm"), 0, 2000),
        image("skull_ct", halved(_dicom("J2K_pixelrep_mismatch.dcm")), -1000, 1500),
    )


@cache
def really_noisy() -> tuple[Image, ...]:
    """Noisy images without a clean truth: an EPI slice (nibabel) and an echocardiogram frame (pydicom)."""
    import nibabel

    volume = nibabel.load(str(files("nibabel") / "tests" / "data" / "example4d.nii.gz")).get_fdata()
    epi = np.rot90(volume[:, :, 11, 0])
    echo = luminance(np.asarray(_dicom("examples_ybr_color.dcm"))[15])[20:216, 60:260]
    about = {"name": "epi", "subject": "nibabel example4d", "value_range": (0, 800), "unit": "stored value"}
    return (
        image_from_array(epi.copy(), **about),
        image_from_array(echo, name="echocardiogram", subject="pydicom ybr_color", value_range=(0, 255)),
    )


def overlap(first: Image, second: Image, *, sizes: tuple[int, ...] = (16, 24, 32)) -> float:
    """Largest correlation of two images' details over thumbnails and orientations, 0..1; SAME or more: one picture.

    It finds a photograph that was rescaled, re-encoded, flipped or turned, and half-size crops at the quarters of an
    image; other crops are not found.

    Args:
        first, second: images of any size. sizes: sides of the square thumbnails, px.
    """
    best = 0.0
    for size in sizes:
        a_all, b_all = _thumbnails(first, size), _thumbnails(second, size)
        best = max(best, float((a_all[:1] @ b_all.T).max()), float((b_all[:1] @ a_all.T).max()))
    return best


@lru_cache(maxsize=256)  # an image is compared with many others
def _thumbnails(image: Image, size: int) -> Tensor:
    """Normalised thumbnails [N, size * size]: the image, then its half-size windows, each in eight orientations."""
    gray = image.pixels.mean(dim=1, keepdim=True)
    height, width = gray.shape[2:]
    tall, wide = max(1, height - height // 2), max(1, width - width // 2)
    views = [gray]
    for top in (0, height // 4, height // 2):
        for left in (0, width // 4, width // 2):
            views.append(gray[:, :, top : top + tall, left : left + wide])
    small = torch.cat([torch.nn.functional.interpolate(v, (size, size), mode="area") for v in views])
    # details alone: a bright disc in the dark is no fingerprint (0.92 between a head and a retina)
    small = small - torch.nn.functional.avg_pool2d(small, 3, 1, 1, count_include_pad=False)
    turned = torch.cat([t for k in range(4) for t in (small.rot90(k, (2, 3)), small.rot90(k, (2, 3)).flip(3))], dim=1)
    flat = turned.reshape(len(views), 8, -1)
    flat = flat - flat.mean(-1, keepdim=True)
    # 1e-4: the rounding errors of a constant window are no details
    flat = flat / flat.norm(dim=-1, keepdim=True).clamp_min(1e-4)
    return flat.reshape(len(views) * 8, -1)
