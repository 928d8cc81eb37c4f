"""Any medical file or folder as scans, which are read and written slice by slice, or as images, 0 to 1."""

import gzip
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from mptpn.io.image import Image, image_from_array
from mptpn.io.ome_zarr import is_zarr
from mptpn.io.scan import Scan, Unreadable, explained

KNOWN = "give DICOM, NIfTI, TIFF, PNG, JPEG, BMP or .npy"
SLICES = 16  # of a scan, as images
# A new format is a subclass of Scan in a file of its own, and its line here: the class, the first bytes of its files.
# A class is imported when the first of its files is met.
FORMATS = {
    "npy:Npy": (b"\x93NUMPY",),
    "npy:Npz": (b"PK\x03\x04",),
    "raster:Raster": (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"),
    "tiff:Tiff": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "dicom:Dicom": (b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x02\0\0\0"),  # without its preamble
}
GZIP = b"\x1f\x8b"
ENDINGS = {  # the types that their endings tell
    (".nii", ".nii.gz"): "nifti:Nifti",
    (".mgh", ".mgz"): "nifti:Mgh",
    (".img", ".hdr", ".img.gz", ".hdr.gz"): "nifti:Pair",
    (".nrrd", ".nhdr", ".mha", ".mhd"): "itk:Itk",
    (".czi", ".nd2", ".lif"): "microscopes:Microscope",
}


def open_scan(path: str | Path, *, axes: str | None = None) -> Scan:
    """One file as a scan; its first bytes give its type, for some its ending.

    Args:
        axes: names of its axes, one letter each (see Axes); None: as the file says, or guessed.
    Raises:
        FileNotFoundError, PermissionError, ValueError: it cannot be read; one sentence.
    """
    path = Path(path)
    if is_zarr(path):
        kind = "ome_zarr:OmeZarr"
    elif path.is_dir():
        raise Unreadable(f"{path}: is a folder; give one file, or open it with open_scans.")
    else:
        with explained(path), path.open("rb") as file:
            head = file.read(132)
        if not head:
            raise Unreadable(f"{path}: is empty, 0 bytes; copy it again.")
        kind = _format(path, head)
    if kind is None:
        raise Unreadable(f"{path}: is no image of a known type; {KNOWN}.")
    opened = resolve_name(f"mptpn.io.{kind}")
    with explained(path):
        scan = opened(path, axes=axes) if opened.takes_axes else opened(path)
    if axes and scan.axes.names != axes:
        raise Unreadable(f"{path}: its axes are {scan.axes.names} by its type, not {axes}; leave --axes out for it.")
    return scan


def _format(path: Path, head: bytes) -> str | None:
    named = next((kind for endings, kind in ENDINGS.items() if path.name.lower().endswith(endings)), None)
    if named:
        return named
    if head.startswith(GZIP):
        with explained(path), gzip.open(path) as file:
            head = file.read(4)
        return "tiff:Tiff" if head.startswith(FORMATS["tiff:Tiff"]) else None
    if head[128:] == b"DICM":
        return "dicom:Dicom"
    if head.startswith(b"BM") and head[6:10] != bytes(4):  # BMP reserves four bytes; text may begin with BM
        return None
    return next((kind for kind, magic in FORMATS.items() if head.startswith(magic)), None)


def open_scans(paths: Sequence[str | Path], *, axes: str | None = None) -> tuple[list[Scan], dict[str, str]]:
    """Files, and folders with what lies below them, as scans in a stable order, and what was left out.

    Single-frame DICOM files of one series (SeriesInstanceUID) in a folder are one scan; any other file is one.
    Hidden files are passed over. Names are made unique.

    Returns:
        The scans; and for each path that gave none, one sentence.
    """
    scans: list[Scan] = []
    left_out: dict[str, str] = {}
    seen: set[Path] = set()
    for path in map(Path, paths):
        before = len(scans), len(left_out)
        series: dict[str, list[Scan]] = {}
        for file in _below(path) if path.is_dir() and not is_zarr(path) else [path]:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                scan = open_scan(file, axes=axes)
            except (ValueError, OSError) as error:
                left_out[str(file)] = str(error)
                continue
            (series.setdefault(scan.series, []) if path.is_dir() and scan.series else scans).append(scan)
        for files in series.values():
            _join(path, files, scans, left_out)
        if path.is_dir() and before == (len(scans), len(left_out)):
            left_out[str(path)] = f"{path}: holds no image that was not given before; {KNOWN}."
    _make_names_unique(scans)
    return scans, left_out


def _below(folder: Path) -> list[Path]:
    """Files below a folder, and folders that are one image, but none that is hidden or a part of another."""
    found, zarrs = [], set()
    for file in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts) or zarrs & set(file.parents):
            continue
        if file.is_dir() and is_zarr(file):
            zarrs.add(file)
            found.append(file)
        elif file.is_file() and not _belongs_to_another(file):
            found.append(file)
    return sorted(found)


def _belongs_to_another(file: Path) -> bool:
    """Whether a file is a part of another one: the header of an image in two files, the pixels of a text header."""
    pairs = {".hdr": (".img",), ".raw": (".mhd", ".nhdr"), ".zraw": (".mhd",)}
    name = file.name.removesuffix(".gz")
    ending = Path(name).suffix.lower()
    others = (Path(name).stem + other + packed for other in pairs.get(ending, ()) for packed in ("", ".gz"))
    return any(file.with_name(other).exists() for other in others)


def _join(folder: Path, files: list[Scan], scans: list[Scan], left_out: dict[str, str]) -> None:
    """Appends the files of one series to scans, as one scan, and its copies to left_out."""
    first, parents, slices = files[0], set(), {}
    for scan in files:
        same = slices.setdefault(scan.identity or str(scan.path), scan)
        if same is scan:
            parents.add(scan.path.parent)
        else:
            left_out[str(scan.path)] = (
                f"{scan.path}: is the same image as {same.path.name} by its SOPInstanceUID; delete one of them."
            )
    try:
        one = len(slices) == 1
        place = parents.pop() if len(parents) == 1 else folder
        scans.append(first if one else first.join(list(slices.values()), place))
    except ValueError as error:
        left_out[str(first.path)] = str(error)


def _make_names_unique(scans: list[Scan]) -> None:
    taken: set[str] = set()
    for scan in scans:
        name, number = scan.name or "scan", 1
        scan.name = name
        ending = Path(name).suffix if scan.path.is_file() else ""
        ending = next((known for known in scan.endings if name.lower().endswith(known)), ending)
        stem = name[: len(name) - len(ending)]
        while scan.default_name().lower() in taken:
            number += 1
            scan.name = f"{stem}_{number}{name[len(stem) :]}"
        taken.add(scan.default_name().lower())


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
