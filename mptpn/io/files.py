"""Any medical file or folder as scans, which are read and written slice by slice, or as images, 0 to 1."""

import gzip
import math
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from stat import S_ISREG

import numpy as np

from mptpn.io.image import Image, image_from_array
from mptpn.io.layout import GZIP, check_layout
from mptpn.io.ome_zarr import is_zarr
from mptpn.io.scan import NoImage, Scan, Unreadable, explained
from mptpn.io.states import state

KNOWN = "give DICOM, NIfTI, MGH, NRRD, TIFF, OME-Zarr, CZI, ND2, LIF, PNG, JPEG, BMP or .npy"
SLICES = 16  # of a scan, as images
ZIP = b"PK\x03\x04"  # of .npz, and of documents and archives
HEADERS = (".hdr", ".hdr.gz")
HEADER_SIZES = [size.to_bytes(4, order) for size in (348, 540) for order in ("little", "big")]  # Analyze, NIfTI
# A new format is a subclass of Scan in a file of its own, and its line here: the class, the first bytes of its files.
# A class is imported when the first of its files is met.
FORMATS = {
    "npy:Npy": (b"\x93NUMPY",),
    "npy:Npz": (ZIP,),
    "raster:Raster": (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"),
    "tiff:Tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
BY_ENDING = {  # the types that their endings tell
    (".nii", ".nii.gz"): "nifti:Nifti",
    (".mgh", ".mgz"): "nifti:Mgh",
    (".img", ".hdr", ".img.gz", ".hdr.gz"): "nifti:Pair",
    (".nrrd", ".nhdr", ".mha", ".mhd"): "itk:Itk",
    (".czi", ".nd2", ".lif"): "microscopes:Microscope",
}
# of images; a file of another name that is no image is passed over in a folder
ENDINGS = (".dcm", ".dicom", ".ima", ".tif", ".tiff", ".tif.gz", ".png", ".jpg", ".jpeg", ".bmp", ".npy", ".npz")
ENDINGS += tuple(ending for endings in BY_ENDING for ending in endings)


def open_scan(path: str | Path, *, axes: str | None = None) -> Scan:
    """One file as a scan; its first bytes give its type, for some its ending.

    Args:
        axes: names of its axes, one letter each (see Axes); None: as the file says, or guessed.
    Raises:
        FileNotFoundError, PermissionError, ValueError: it cannot be read; one sentence.
    """
    path = Path(path)
    whole = is_zarr(path)  # a folder that is one image
    if os.path.isdir(path) and not whole:
        raise Unreadable(f"{path}: is a folder; give one file, or open it with mptpn.io.open_scans.")
    with explained(path):
        before = state(path)
    kind = "ome_zarr:OmeZarr" if whole else format_of(path)
    empty = kind is None and not path.stat().st_size
    named = path.name.lower().endswith(ENDINGS)
    refusal = Unreadable if named and (empty or not path.name.lower().endswith(HEADERS)) else NoImage
    if empty:
        raise refusal(f"{path}: is empty, 0 bytes; copy it again.")
    if kind is None:
        raise refusal(f"{path}: is no image of a known type; {KNOWN}.")
    opened = resolve_name(f"mptpn.io.{kind}")
    with explained(path):
        if not whole:
            check_layout(path, kind)
        scan = opened(path, axes=axes) if opened.takes_axes else opened(path)
    scan.states = {path: before}
    if axes and scan.axes.names != axes:
        raise Unreadable(f"{path}: its axes are {scan.axes.names} by its type, not {axes}; leave --axes out for it.")
    return scan


def format_of(path: Path) -> str | None:
    """The class that reads a file, as in FORMATS; None: no image.

    Raises:
        FileNotFoundError, PermissionError, ValueError: it cannot be read, or is no regular file.
    """
    with explained(path):
        if not S_ISREG(path.stat().st_mode):
            raise Unreadable(f"{path}: is no regular file but a pipe, a device or the like; give a file.")
        with path.open("rb") as file:
            head = file.read(132)
    return _format(path, head) if head else None


def _format(path: Path, head: bytes) -> str | None:
    name = path.name.lower()
    if name.endswith(HEADERS) and _beginning(path, head, 4) not in HEADER_SIZES:
        return None  # text headers have this ending too
    named = next((kind for endings, kind in BY_ENDING.items() if name.endswith(endings)), None)
    if named:
        return named
    if head.startswith(GZIP):
        return "tiff:Tiff" if _beginning(path, head, 4).startswith(FORMATS["tiff:Tiff"]) else None
    if head[128:] == b"DICM" or head.startswith(b"DICM") or _is_bare_dicom(head):
        return "dicom:Dicom"
    if head.startswith(b"BM") and head[6:10] != bytes(4):  # BMP reserves four bytes; text may begin with BM
        return None
    if head.startswith(ZIP) and not name.endswith(".npz"):  # its first member's name begins at byte 30
        member = _beginning(path, head, 30 + int.from_bytes(head[26:28], "little"))
        return "npy:Npz" if member.endswith(b".npy") else None
    return next((kind for kind, magic in FORMATS.items() if head.startswith(magic)), None)


def _beginning(path: Path, head: bytes, count: int) -> bytes:
    """The first bytes of a file, of a gzipped one those that are packed in it."""
    with explained(path), gzip.open(path) if head.startswith(GZIP) else path.open("rb") as file:
        return file.read(count)


def belongs_to_another(file: Path) -> bool:
    """Whether a file is a part of another one: the header of an image in two files, the pixels of a text header."""
    pairs = {".hdr": (".img",), ".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",)}
    name = file.name.removesuffix(".gz")
    ending = Path(name).suffix.lower()
    others = (Path(name).stem + other + packed for other in pairs.get(ending, ()) for packed in ("", ".gz"))
    return any(file.with_name(other).exists() for other in others)


def _is_bare_dicom(head: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8, explicit or implicit."""
    for order in ("little", "big"):
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))
        if group in (2, 8) and element <= 0x60 and len(head) > 12:
            length = int.from_bytes(head[4:8], order)
            return head[4:6].isalpha() and head[4:6].isupper() or length <= 1024
    return False


def read_image(path: str | Path) -> Image:
    """One file as an image: the middle slice where there are several, the first channel where they are no colours.

    Returns:
        The image in the scan's unit, 0 to 1 over (0, 255) where the file holds plain bytes, else over its smallest to
        its largest value; the file's own padding has the smallest value of the others.
    Raises:
        FileNotFoundError, ValueError: it cannot be read, or carries no picture (see gray_array); one sentence.
    """
    try:
        with closing(open_scan(path)) as scan:
            return _images(scan, scan.middle, name=scan.name)[0]
    except FileNotFoundError:
        raise
    except OSError as error:
        message = str(error)
        message = message if message.startswith(str(path)) else f"{path}: cannot be read ({error.strerror})."
        raise Unreadable(message) from None


def spread_images(scan: Scan) -> list[Image]:
    """Up to 16 slices as images: of each sixteenth of a scan the first, from its middle on, that carries a picture.

    Returns:
        As read_image; " slice N", from 1, follows the name where the scan has several.
    Raises:
        ValueError, OSError: a slice cannot be read, or none carries a picture (see gray_array).
    """
    images, refusals = [], []
    with closing(scan):
        for part in np.array_split(range(scan.slices), min(SLICES, scan.slices)):
            for index in map(int, np.roll(part, -(len(part) // 2))):
                try:
                    images += _images(scan, index, name=scan.name + f" slice {index + 1}" * (scan.slices > 1))
                    break
                except Unreadable:
                    raise
                except ValueError as error:
                    refusals.append(str(error).removeprefix(f"{scan.path}: "))
    if not images:
        several = f"none of its {scan.slices} slices can be learned from: " * (scan.slices > 1)
        raise ValueError(f"{scan.path}: {several}{refusals[0]}")
    return images


def _images(scan: Scan, index: int, *, name: str) -> list[Image]:
    """A slice as an image, or one for each channel where its channels are no colours."""
    plain_bytes = scan.dtype == np.uint8 and scan.scale(index) == (1, 0)
    array, numbers = scan.in_unit(index), range(math.prod(scan.shape[2:]))
    apart = [(name, array)]
    if len(numbers) not in (1, 3):
        apart = [(f"{name} channel {number + 1}", array[..., number]) for number in numbers]
    images = [
        image_from_array(one, name=str(scan.path), value_range=(0.0, 255.0) if plain_bytes else None, unit=scan.unit)
        for _, one in apart
    ]
    return [replace(image, name=own, subject=scan.name) for image, (own, _) in zip(images, apart, strict=True)]
