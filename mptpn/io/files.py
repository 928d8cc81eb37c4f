"""Any medical file or folder as scans, which are read and written slice by slice, or as images, 0 to 1."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from stat import S_ISREG

import numpy as np

from mptpn.io.image import Image, image_from_array
from mptpn.io.layout import check_layout
from mptpn.io.scan import NoImage, Scan, Unreadable, explained
from mptpn.io.states import state

KNOWN = "give DICOM, NIfTI, TIFF, PNG, JPEG, BMP or .npy"
# a file of another name that is no image is passed over in a folder
ENDINGS = (".dcm", ".dicom", ".ima", ".nii", ".nii.gz", ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".npy")
SLICES = 16  # of a scan, as images
# A new format is a subclass of Scan in a file of its own, and its line here: the class, the first bytes of its files.
# A class is imported when the first of its files is met.
FORMATS = {
    "npy:Npy": (b"\x93NUMPY",),
    "raster:Raster": (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"),
    "tiff:Tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}


def open_scan(path: str | Path) -> Scan:
    """One file as a scan; its first bytes give its type, for NIfTI its ending.

    Raises:
        FileNotFoundError, PermissionError, ValueError: it cannot be read; one sentence.
    """
    path = Path(path)
    if path.is_dir():
        raise Unreadable(f"{path}: is a folder; give one file, or open it with mptpn.io.open_scans.")
    with explained(path):
        before = state(path)
    refusal = Unreadable if path.name.lower().endswith(ENDINGS) else NoImage
    kind = format_of(path)
    if kind is None and not path.stat().st_size:
        raise refusal(f"{path}: is empty, 0 bytes; copy it again.")
    if kind is None:
        raise refusal(f"{path}: is no image of a known type; {KNOWN}.")
    opened = resolve_name(f"mptpn.io.{kind}")
    with explained(path):
        check_layout(path, kind)
        scan = opened(path)
    scan.states = {path: before}
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
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return "nifti:Nifti"
    if head[128:] == b"DICM" or head.startswith(b"DICM") or _is_bare_dicom(head):
        return "dicom:Dicom"
    if head.startswith(b"BM") and head[6:10] != bytes(4):  # BMP reserves four bytes; text may begin with BM
        return None
    return next((kind for kind, magic in FORMATS.items() if head.startswith(magic)), None)


def _is_bare_dicom(head: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8, explicit or implicit."""
    for order in ("little", "big"):
        group, element = (int.from_bytes(head[at : at + 2], order) for at in (0, 2))
        if group in (2, 8) and element <= 0x60 and len(head) > 12:
            length = int.from_bytes(head[4:8], order)
            return head[4:6].isalpha() and head[4:6].isupper() or length <= 1024
    return False


def read_image(path: str | Path) -> Image:
    """One file as an image: the middle slice where there are several.

    Returns:
        The image in the scan's unit, 0 to 1 over (0, 255) where the file holds plain bytes, else over its smallest to
        its largest value; the file's own padding has the smallest value of the others.
    Raises:
        FileNotFoundError, ValueError: it cannot be read, or carries no picture (see gray_array); one sentence.
    """
    try:
        with closing(open_scan(path)) as scan:
            return _image(scan, scan.middle, name=scan.name)
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
                    images.append(_image(scan, index, name=scan.name + f" slice {index + 1}" * (scan.slices > 1)))
                    break
                except Unreadable:
                    raise
                except ValueError as error:
                    refusals.append(str(error).removeprefix(f"{scan.path}: "))
    if not images:
        several = f"none of its {scan.slices} slices can be learned from: " * (scan.slices > 1)
        raise ValueError(f"{scan.path}: {several}{refusals[0]}")
    return images


def _image(scan: Scan, index: int, *, name: str) -> Image:
    plain_bytes = scan.dtype == np.uint8 and scan.scale(index) == (1, 0)
    image = image_from_array(
        scan.in_unit(index), name=str(scan.path), value_range=(0.0, 255.0) if plain_bytes else None, unit=scan.unit
    )
    return replace(image, name=name, subject=scan.name)
