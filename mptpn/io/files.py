"""Any medical file or folder becomes scans, read slice by slice and written back in the same type, or images, 0 to 1."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from mptpn.io.dicom import Dicom, Head, head_of, in_order
from mptpn.io.formats import Nifti, Npy, Picture, Tiff
from mptpn.io.image import Image, image_from_array
from mptpn.io.scan import Scan, Slice, Unreadable, Writer, explained

__all__ = ["Scan", "Slice", "Unreadable", "Writer", "open_scan", "open_scans", "read_image", "spread_images"]
KNOWN = "give DICOM, NIfTI, TIFF, PNG, JPEG, BMP or .npy"
SLICES = 16  # of a scan, that stand for it in a set
MAGIC = {
    b"\x93NUMPY": Npy,
    b"\x89PNG\r\n\x1a\n": Picture,
    b"\xff\xd8\xff": Picture,
    b"BM": Picture,
    b"II*\0": Tiff,
    b"MM\0*": Tiff,
    b"II+\0": Tiff,
    b"MM\0+": Tiff,
}


def open_scan(path: str | Path) -> Scan:
    """One file as a scan; its type is told by its first bytes, NIfTI by its ending.

    Raises:
        FileNotFoundError: no such file.
        PermissionError: it may not be read.
        ValueError: it cannot be read; one sentence.
    """
    found = _opened(Path(path))
    return Dicom([found]) if isinstance(found, Head) else found


def _opened(path: Path) -> Scan | Head:
    if path.is_dir():
        raise Unreadable(f"{path}: is a folder; give one file, or open it with open_scans.")
    with explained(path):
        with path.open("rb") as file:
            head = file.read(132)
        if not head:
            raise Unreadable(f"{path}: is empty, 0 bytes; copy it again.")
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return Nifti(path)
        # the latter without preamble
        if head[128:] == b"DICM" or head[:4] in (b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x02\0\0\0"):
            return head_of(path)
        kind = next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), None)
        # BMP reserves four bytes; text may begin with BM
        if kind is None or (head.startswith(b"BM") and head[6:10] != bytes(4)):
            raise Unreadable(f"{path}: is no image of a known type; {KNOWN}.")
        return kind(path)


def open_scans(paths: Sequence[str | Path]) -> tuple[list[Scan], dict[str, str]]:
    """Files and folders, with what lies below them, as scans in a stable order, and what was left out.

    The single-frame DICOM files of a folder and below are one scan a SeriesInstanceUID, sorted by position along the
    normal of the slices, else by InstanceNumber; any other file, and one that is alone in its series, is one scan.
    Hidden files are passed over. Names are made unique.

    Returns:
        The scans; and for each path that gave none, one sentence.
    """
    scans: list[Scan] = []
    left_out: dict[str, str] = {}
    seen: set[Path] = set()
    for path in map(Path, paths):
        before = len(scans), len(left_out)
        heads: list[Head] = []
        for file in _below(path) if path.is_dir() else [path]:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            try:
                found = _opened(file)
                if isinstance(found, Head) and path.is_dir() and found.series and found.frames == 1:
                    heads.append(found)
                else:
                    scans.append(Dicom([found]) if isinstance(found, Head) else found)
            except (ValueError, OSError) as error:
                left_out[str(file)] = str(error)
        _add_series(path, heads, scans, left_out)
        if path.is_dir() and before == (len(scans), len(left_out)):
            left_out[str(path)] = f"{path}: holds no image that was not given before; {KNOWN}."
    _name_apart(scans)
    return scans, left_out


def _below(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts))


def _add_series(folder: Path, found: list[Head], scans: list[Scan], left_out: dict[str, str]) -> None:
    series: dict[str, dict[str, Head]] = {}
    for head in found:
        first = series.setdefault(head.series, {}).setdefault(head.uid or str(head.path), head)
        if first is not head:
            left_out[str(head.path)] = (
                f"{head.path}: is the same image as {first.path.name} by its SOPInstanceUID; delete one of them."
            )
    for slices in series.values():
        try:
            heads = in_order(list(slices.values()))
            scans.append(Dicom(heads, folder=_common(folder, heads) if len(heads) > 1 else None))
        except ValueError as error:
            left_out[str(next(iter(slices.values())).path)] = str(error)


def _common(folder: Path, heads: list[Head]) -> Path:
    parents = {head.path.parent for head in heads}
    return parents.pop() if len(parents) == 1 else folder


def _name_apart(scans: list[Scan]) -> None:
    taken: set[str] = set()
    for scan in scans:
        name, number = scan.name or "scan", 1
        scan.name = name
        ending = next(
            (ending for ending in scan.endings if name.lower().endswith(ending)),
            Path(name).suffix if scan.path.is_file() else "",
        )
        while scan.default_name().lower() in taken:
            number += 1
            scan.name = f"{name[: len(name) - len(ending)]}_{number}{name[len(name) - len(ending) :]}"
        taken.add(scan.default_name().lower())


def read_image(path: str | Path) -> Image:
    """One file as an image: the middle slice where there are several.

    Returns:
        The image in the scan's unit, 0 to 1 over (0, 255) where the file holds plain bytes, else over its smallest to
        its largest value; the file's own padding has the smallest value of the others.
    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or carries no picture (see image_from_array); one sentence.
    """
    try:
        with closing(open_scan(path)) as scan:
            return _image(scan, scan.middle, name=scan.name)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(
            str(error) if str(error).startswith(str(path)) else f"{path}: cannot be read ({error.strerror})."
        ) from None


def spread_images(scan: Scan) -> list[Image]:
    """Up to 16 slices, spread evenly over a scan, as images: of each sixteenth the first one, from its middle on, that
    carries a picture.

    Returns:
        As read_image; " slice N", from 1, follows the name where the scan has several.
    Raises:
        ValueError, OSError: a slice cannot be read, or none carries a picture (see image_from_array).
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
    array = scan.in_unit(index)
    value_range = (0.0, 255.0) if scan.dtype == np.uint8 and scan.scale(index) == (1, 0) else None
    return replace(
        image_from_array(array, name=str(scan.path), value_range=value_range, unit=scan.unit),
        name=name,
        subject=scan.name,
    )
