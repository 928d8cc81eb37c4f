"""Folders as scans, one after the other: what is no image is passed over, and results mirror the folders' tree."""

import csv
import filecmp
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path

from mptpn import faults
from mptpn.io.files import ENDINGS, KNOWN, belongs_to_another, format_of, open_scan
from mptpn.io.ome_zarr import is_zarr
from mptpn.io.refusals import NoImage
from mptpn.io.scan import Scan
from mptpn.io.writer import BESIDE, BESIDE_MASK

TABLE = "results.trust.csv"  # what it writes into the folder of its results; its column "result" names them
DICOM = "dicom:Dicom"
RESULT = "a result of mptpn denoise"
SEGMENTED = "a result of mptpn segment"
BROKEN = "is a broken link; mend or remove it."
FAULTS = (ValueError, OSError, MemoryError)  # of one file, which do not stop the others


@dataclass(frozen=True)
class LeftOut:
    """A file or series that gives no scan.

    Attributes:
        message: one sentence that begins with the path.
        failed: False where it is no image, or one that is not wanted: all that is wanted is done without it.
    """

    path: Path
    message: str
    failed: bool = True


@dataclass(frozen=True)
class Glance:
    """A DICOM file that is not opened yet.

    Attributes:
        series: its SeriesInstanceUID; "" where it has none, or cannot be read.
        derived: whether it says that it is a result of mptpn denoise.
    """

    series: str
    derived: bool


def open_scans(paths: Sequence[str | Path], *, axes: str | None = None) -> tuple[list[Scan], dict[str, str]]:
    """All of walk() at once: the scans; and for each path that gave none, one sentence."""
    found = list(walk(paths, axes=axes))
    left_out = {str(one.path): one.message for one in found if isinstance(one, LeftOut)}
    return [one for one in found if not isinstance(one, LeftOut)], left_out


def walk(
    paths: Sequence[str | Path], *, part: tuple[int, int] = (1, 1), axes: str | None = None, divided: bool = False
) -> Iterator[Scan | LeftOut]:
    """Files, and folders with what lies below them, as scans in a stable order, each as soon as it is found.

    Single-frame DICOM files of one series (SeriesInstanceUID) in a given folder are one scan, and follow the other
    files of the folder; of slices of several sizes or types the most frequent ones. Hidden files and results of mptpn
    denoise are passed over. A scan's `below` and name mirror the folders: they tell all scans of a call apart.

    Args:
        part: (i, n), the i-th of n shares, from 1: every n-th file or series. The shares together are the whole.
        axes: as in open_scan.
        divided: whether a scan that is read in parts belongs to all shares, each of which does some of its tiles.
    """
    if "" in paths:
        raise ValueError("an empty path; give a file or a folder, . for the current one.")
    paths = list(dict.fromkeys(map(Path, paths)))
    call = _Call(part, axes, divided)
    for path, root in zip(paths, _roots(paths), strict=True):
        if os.path.isdir(path) and not is_zarr(path):
            yield from _in_folder(path, root, call)
        elif call.is_new(path):
            mine = call.is_mine()
            try:
                scan = open_scan(path, axes=call.axes) if mine or call.may_share(path) else None
            except FAULTS as error:
                scan = None
                if mine:
                    yield LeftOut(path, _words(path, error))
            if scan is not None and (mine or scan.in_parts):
                yield from _scenes(scan, root, call)


def _roots(paths: list[Path]) -> list[Path]:
    """The folder below which each given path is mirrored; it is common where names would not tell them apart."""
    alone = [not os.path.isdir(path) or is_zarr(path) for path in paths]
    folders, files = ([path for path, one in zip(paths, alone, strict=True) if one == file] for file in (False, True))
    root = Path(commonpath([path.absolute() for path in folders])) if folders else Path()
    one = Path(commonpath([path.absolute().parent for path in files])) if files else Path()
    distinct = len({path.name.lower() for path in files}) == len(files)
    return [
        (path.absolute().parent if distinct else one) if file else root for path, file in zip(paths, alone, strict=True)
    ]


@dataclass
class _Call:
    """What one call has met so far."""

    part: tuple[int, int]
    axes: str | None
    divided: bool
    counted: int = 0
    seen: set[Path] = field(default_factory=set)
    folders: dict[Path, Path] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def is_new(self, path: Path) -> bool:
        if (os.path.islink(path) or os.path.isdir(path)) and not _is_no_image(path):
            whole = path.resolve()
        else:  # a folder is resolved once for all of its files
            if path.parent not in self.folders:
                self.folders[path.parent] = path.parent.resolve()
            whole = self.folders[path.parent] / path.name
        known = whole in self.seen
        self.seen.add(whole)
        return not known

    def is_mine(self) -> bool:
        """Whether the next file or series is of this share."""
        self.counted += 1
        return (self.counted - 1) % self.part[1] == self.part[0] - 1

    def may_share(self, path: Path) -> bool:
        """Whether a scan may belong to all shares."""
        return self.divided and path.is_dir()

    def named(self, scan: Scan, root: Path, place: Path | None = None, name: str = "") -> Scan:
        """Gives a scan its place below the folder of results. place: of a series; name: its name there."""
        if place is None:
            scan.below, scan.name = scan.path.absolute().parent.relative_to(root), scan.path.name
            if scan.default_name() != scan.name and _has_sibling(scan.path):
                scan.name += scan.endings[0]  # a.jpg beside a.png becomes a.jpg.png
        else:
            scan.below, scan.name = Path() if place == root else place.parent.relative_to(root), name
        name, number = scan.name, 1
        while (key := str(scan.below / scan.default_name()).lower()) in self.taken:
            number += 1
            ending = next((known for known in scan.endings if name.lower().endswith(known)), "")
            scan.name = f"{name[: len(name) - len(ending)]}_{number}{name[len(name) - len(ending) :]}"
        self.taken.add(key)
        return scan


def _scenes(first: Scan, root: Path, call: _Call) -> Iterator[Scan | LeftOut]:
    """All images of a file; one that cannot be read does not stop the others."""
    yield call.named(first, root)
    for number in range(1, first.scenes):
        try:
            scan = first.scene(number)
        except FAULTS as error:
            words = _words(first.path, error)
            yield LeftOut(first.path, f"{words} It is image {number + 1} of {first.scenes} of its file.")
            continue
        scan.states = first.states
        yield call.named(scan, root)


def _words(path: Path, error: Exception) -> str:
    return faults.sentence(error, str(path)) if isinstance(error, MemoryError) else str(error)


def _has_sibling(path: Path) -> bool:
    """Whether another image beside it has its name but for the ending."""
    return any(
        other.name != path.name
        and other.stem == path.stem
        and other.name.lower().endswith(ENDINGS)
        and not belongs_to_another(other)
        for other in path.parent.iterdir()
    )


def _in_folder(folder: Path, root: Path, call: _Call) -> Iterator[Scan | LeftOut]:
    groups: dict[str, list[Path]] = {}
    derived: dict[str, list[Path]] = {}
    image = failed = False
    for file, found in _below(folder):
        if not call.is_new(file):
            continue
        found = found or _opened(file, call)
        if isinstance(found, LeftOut):
            failed |= found.failed
            yield found
        elif isinstance(found, Glance):
            (derived if found.derived else groups).setdefault(found.series or str(file), []).append(file)
        else:
            image = True
            if found is not None:
                yield from _scenes(found, root, call)
    if derived and (image or groups):
        yield from (LeftOut(file, f"{file}: {RESULT}", failed=False) for files in derived.values() for file in files)
    else:  # a folder of results that was given by its own name
        groups |= derived
    for found in _all_series(list(groups.values()), root, call):
        image, failed = image or not isinstance(found, LeftOut), failed or isinstance(found, LeftOut) and found.failed
        yield found
    if not (image or failed or groups):
        yield LeftOut(folder, f"{folder}: holds no image that was not given before; {KNOWN}.")


def _opened(file: Path, call: _Call) -> Scan | LeftOut | Glance | None:
    """A file of a folder; None: it is of another share. A DICOM file is opened and counted with its series."""
    mine = True
    try:
        if not file.exists():
            mine = call.is_mine()
            return LeftOut(file, f"{file}: {BROKEN}") if mine else None
        kind = "ome_zarr:OmeZarr" if file.is_dir() else format_of(file)
        if kind == DICOM:
            from mptpn.io.dicom_glance import glance  # here, so that a folder of other files does not wait for pydicom

            return Glance(*glance(file))
        if kind is not None or file.name.lower().endswith(ENDINGS):
            mine = call.is_mine()
            if not (mine or call.may_share(file)):
                return None  # it is not even opened
        scan = open_scan(file, axes=call.axes)
    except NoImage as error:
        return LeftOut(file, str(error), failed=False) if mine else None
    except FAULTS as error:
        return LeftOut(file, _words(file, error)) if mine else None
    return scan if mine or scan.in_parts else None


def _below(folder: Path) -> Iterator[tuple[Path, LeftOut | None]]:
    """Images in a folder and below in a stable order; LeftOut: a result, or what is not opened and why."""
    results: set[Path] = set()
    refused: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=refused.append):
        place, names = Path(here), set(files)
        if not _is_open(here, refused):
            folders.clear()
            continue
        results |= _listed(place / TABLE) if TABLE in names else set()
        inner = [name for name in sorted(folders) if not name.startswith(".")]
        results |= {place / name for name in inner if f"{name}.trust.json" in names}
        inside = any(up in results for up in (place, *place.parents))
        images = [name for name in inner if is_zarr(place / name)]
        folders[:] = [name for name in inner if name not in images]
        links = {name for name in (*folders, *files) if _is_no_image(place / name)}
        for name in sorted({*files, *images, *links}):
            file = place / name
            shown = file.is_file() or name in images or name in links
            if shown and not name.startswith(".") and not belongs_to_another(file):
                known = name == TABLE or name.endswith(BESIDE) or f"{name}.trust.json" in names
                mask = name.endswith(BESIDE_MASK) or f"{name}.segment.json" in names
                said = RESULT if known or inside or file in results else SEGMENTED if mask else ""
                said = said or (_link(file) if name in links else "")
                yield file, LeftOut(file, f"{file}: {said}", failed=False) if said else None
    for error in refused:
        place = Path(error.filename)
        words = f"{place}: cannot be searched ({error.strerror}); ask for permission or check the disk."
        yield place, LeftOut(place, words)


def _is_open(folder: str, refused: list[OSError]) -> bool:
    """Whether the files of a folder whose names may be read may be opened."""
    try:
        os.stat(os.path.join(folder, "."))
    except OSError as error:
        error.filename = folder
        refused.append(error)
        return False
    return True


def _is_no_image(link: Path) -> bool:
    """Whether it is a link to nothing, or to a folder that is no image."""
    return os.path.islink(link) and (os.path.isdir(link) and not is_zarr(link) or not os.path.exists(link))


def _link(file: Path) -> str:
    """Why a link to no image is not opened; "": it has the name of an image, and is a failure."""
    if file.is_dir():
        return "is a link to a folder, which is not followed: give it by name."
    return "" if file.name.lower().endswith(ENDINGS) else BROKEN


def _listed(table: Path) -> set[Path]:
    try:
        with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return {table.parent / row["result"] for row in csv.DictReader(file) if row.get("result")}
    except (OSError, csv.Error):
        return set()


def _all_series(groups: list[list[Path]], root: Path, call: _Call) -> Iterator[Scan | LeftOut]:
    """DICOM files of one SeriesInstanceUID each, one series after the other.

    Each share names all of them, so that names do not depend on the shares.
    """
    places, number = Counter(_place(files) for files in groups if len(files) > 1), 0
    for files in groups:
        scans = []
        for file in files:
            try:
                scans.append(open_scan(file, axes=call.axes))
            except NoImage as error:
                yield LeftOut(file, str(error), failed=False)
            except FAULTS as error:
                if call.is_mine():
                    yield LeftOut(file, _words(file, error))
        apart, together = ([scan for scan in scans if bool(scan.series) == own] for own in (False, True))
        kinds = [([scan], []) for scan in apart] + (_by_kind(together) if together else [])
        many = sum(len(wanted) > 1 for wanted, _ in kinds)
        for wanted, left_out in kinds:
            number += 1
            if len(wanted) == 1:
                scan = call.named(wanted[0], root)
            else:
                place = _place([scan.path for scan in wanted])
                scan = wanted[0].join(wanted, place)
                scan.states = {path: state for one in wanted for path, state in one.states.items()}
                several = f"_{scan.number or number}" if places[_place(files)] > 1 or many > 1 else ""
                call.named(scan, root, place.absolute(), f"{place.absolute().name or 'scan'}{several}")
            if call.is_mine():
                yield from left_out
                yield scan


def _place(files: list[Path]) -> Path:
    return Path(commonpath([file.parent for file in files]))


def _by_kind(files: list[Scan]) -> list[tuple[list[Scan], list[LeftOut]]]:
    """The slices of a series, and what is left out: copies, and slices of another kind than more than half of them.

    Where no kind has more than half, as in a series of X-ray images, each kind is a scan.
    """
    unique, left_out = {}, []
    for scan in files:
        same = unique.setdefault(scan.identity or str(scan.path), scan)
        if same is not scan:
            copy = filecmp.cmp(same.path, scan.path, shallow=False)
            what = "is the same image as" if copy else "has other content, but the SOPInstanceUID of"
            words = f"{scan.path}: {what} {same.path.name}; delete one of them, or give it alone."
            left_out.append(LeftOut(scan.path, words, failed=not copy))
    kinds: dict[tuple, list[Scan]] = {}
    for scan in unique.values():
        kinds.setdefault(scan.kind, []).append(scan)
    groups = sorted(kinds.values(), key=len, reverse=True)
    if 2 * len(groups[0]) > len(unique):
        others = [scan for group in groups[1:] for scan in group]
        left_out += [LeftOut(scan.path, _unlike(scan, groups[0][0]), failed=False) for scan in others]
        groups = groups[:1]
    return [(group, left_out if group is groups[0] else []) for group in groups]


def _unlike(scan: Scan, rest: Scan) -> str:
    own, common = (f"{one.shape[0]} x {one.shape[1]}" for one in (scan, rest))
    fault = f"is {own} px, not {common} as" if own != common else "is of another type or a localizer, unlike"
    return f"{scan.path}: {fault} the rest of its series; give it alone to denoise it."
