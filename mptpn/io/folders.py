"""Folders as scans, one after the other: what is no image is passed over, and results mirror the folders' tree."""

import csv
import filecmp
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonpath
from pathlib import Path

from mptpn.io.files import ENDINGS, KNOWN, belongs_to_another, format_of, open_scan
from mptpn.io.ome_zarr import is_zarr
from mptpn.io.refusals import NoImage
from mptpn.io.scan import Scan
from mptpn.io.writer import BESIDE

TABLE = "results.trust.csv"  # what it writes into the folder of its results; its column "result" names them
DICOM = "dicom:Dicom"
RESULT = "a result of mptpn denoise"


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


def open_scans(paths: Sequence[str | Path], *, axes: str | None = None) -> tuple[list[Scan], dict[str, str]]:
    """All of walk() at once: the scans; and for each path that gave none, one sentence."""
    found = list(walk(paths, axes=axes))
    left_out = {str(one.path): one.message for one in found if isinstance(one, LeftOut)}
    return [one for one in found if not isinstance(one, LeftOut)], left_out


def walk(
    paths: Sequence[str | Path], *, part: tuple[int, int] = (1, 1), axes: str | None = None
) -> Iterator[Scan | LeftOut]:
    """Files, and folders with what lies below them, as scans in a stable order, each as soon as it is found.

    Single-frame DICOM files of one series (SeriesInstanceUID) in a given folder are one scan, and follow the other
    files of the folder; of slices of several sizes or types the most frequent ones. Hidden files and results of mptpn
    denoise are passed over. A scan's `below` and name mirror the folders: they tell all scans of a call apart.

    Args:
        part: (i, n), the i-th of n shares, from 1: every n-th file or series. The shares together are the whole.
        axes: as in open_scan.
    """
    paths = list(dict.fromkeys(map(Path, paths)))
    call = _Call(part, axes)
    for path, root in zip(paths, _roots(paths), strict=True):
        if path.is_dir() and not is_zarr(path):
            yield from _in_folder(path, root, call)
        elif call.is_new(path) and call.is_mine():
            try:
                yield call.named(open_scan(path, axes=call.axes), root)
            except (ValueError, OSError) as error:
                yield LeftOut(path, str(error))


def _roots(paths: list[Path]) -> list[Path]:
    """The folder below which each given path is mirrored; it is common where names would not tell them apart."""
    alone = [not path.is_dir() or is_zarr(path) for path in paths]
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
    counted: int = 0
    seen: set[Path] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)

    def is_new(self, path: Path) -> bool:
        known = path.resolve() in self.seen
        self.seen.add(path.resolve())
        return not known

    def is_mine(self) -> bool:
        """Whether the next file or series is of this share."""
        self.counted += 1
        return (self.counted - 1) % self.part[1] == self.part[0] - 1

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
    series: dict[str, list[Scan]] = {}
    derived: list[Scan] = []
    image = failed = False
    for file, is_result in _below(folder):
        if not call.is_new(file):
            continue
        scan = LeftOut(file, f"{file}: {RESULT}", failed=False) if is_result else _opened(file, call)
        if isinstance(scan, LeftOut):
            failed |= scan.failed
            yield scan
        elif scan is not None and scan.derived:
            derived.append(scan)
        elif scan is not None and scan.series:
            series.setdefault(scan.series, []).append(scan)
        else:
            image = True
            if scan is not None:
                yield call.named(scan, root)
    if derived and (image or series):
        yield from (LeftOut(scan.path, f"{scan.path}: {RESULT}", failed=False) for scan in derived)
    else:  # a folder of results that was given by its own name
        for scan in derived:
            series.setdefault(scan.series or str(scan.path), []).append(scan)
    yield from _all_series(series, root, call)
    if not (image or series or failed):
        yield LeftOut(folder, f"{folder}: holds no image that was not given before; {KNOWN}.")


def _opened(file: Path, call: _Call) -> Scan | LeftOut | None:
    """A file of a folder; None: it is of another share. A DICOM file is counted with its series."""
    kind = None
    try:
        kind = "ome_zarr:OmeZarr" if file.is_dir() else format_of(file)
        alone = kind != DICOM and (kind is not None or file.name.lower().endswith(ENDINGS))
        if alone and not call.is_mine():
            return None  # it is not even opened
        scan = open_scan(file, axes=call.axes)
    except NoImage as error:
        return LeftOut(file, str(error), failed=False)
    except (ValueError, OSError) as error:
        return LeftOut(file, str(error)) if kind != DICOM or call.is_mine() else None
    return scan if kind != DICOM or scan.series or scan.derived or call.is_mine() else None


def _below(folder: Path) -> Iterator[tuple[Path, bool]]:
    """Images in a folder and below in a stable order, and whether each is a result of mptpn denoise."""
    results: set[Path] = set()
    for here, folders, files in os.walk(folder):
        place, names = Path(here), set(files)
        results |= _listed(place / TABLE) if TABLE in names else set()
        inner = [name for name in sorted(folders) if not name.startswith(".")]
        results |= {place / name for name in inner if f"{name}.trust.json" in names}
        inside = any(up in results for up in (place, *place.parents))
        images = [name for name in inner if is_zarr(place / name)]
        folders[:] = [name for name in inner if name not in images]
        for name in sorted([*files, *images]):
            file = place / name
            if not name.startswith(".") and (file.is_file() or name in images) and not belongs_to_another(file):
                known = name == TABLE or name.endswith(BESIDE) or f"{name}.trust.json" in names
                yield file, known or inside or file in results


def _listed(table: Path) -> set[Path]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {table.parent / row["result"] for row in csv.DictReader(file) if row.get("result")}
    except (OSError, UnicodeDecodeError, csv.Error):
        return set()


def _all_series(series: dict[str, list[Scan]], root: Path, call: _Call) -> Iterator[Scan | LeftOut]:
    """Each share names all of them, so that names do not depend on the shares."""
    sorted_out = [one for files in series.values() for one in _by_kind(files)]
    places = Counter(_place(wanted) for wanted, _ in sorted_out if len(wanted) > 1)
    for number, (wanted, left_out) in enumerate(sorted_out, 1):
        first, place = wanted[0], _place(wanted)
        if len(wanted) == 1:
            scan = call.named(first, root)
        else:
            scan = first.join(wanted, place)
            scan.states = {path: state for one in wanted for path, state in one.states.items()}
            several = f"_{scan.number or number}" if places[place] > 1 else ""
            call.named(scan, root, place.absolute(), f"{place.absolute().name or 'scan'}{several}")
        if call.is_mine():
            yield from left_out
            yield scan


def _place(files: list[Scan]) -> Path:
    return Path(commonpath([scan.path.parent for scan in files]))


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
