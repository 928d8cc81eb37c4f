"""A Writer collects the denoised slices of a scan in a part file; the target appears whole or not at all."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from errno import ENAMETOOLONG
from functools import cached_property
from pathlib import Path

import numpy as np

from mptpn import __version__
from mptpn.atomic import Lock, remove, restore, staged
from mptpn.io.ome_zarr import is_zarr
from mptpn.io.parts import Parts
from mptpn.io.scan import Scan, explained
from mptpn.io.states import check_states, content

OTHER = "choose another folder or name"
REPLACE = "replace it with --overwrite (in Python overwrite=True)"
UNCERTAINTY = ".uncertainty.npy"
MAP = ".uncertainty.dcm"
BESIDE = (".trust.json", ".trust.png", UNCERTAINTY, MAP)  # endings of the files of one result, after its name
BESIDE_MASK = (".segment.json", ".overlay.png", ".instances.tif")  # the same of a mask
LONGEST = 120  # bytes of a name within a hidden one


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an error of the disk into one sentence."""
    try:
        yield
    except BlockingIOError:
        raise BlockingIOError(f"{path}: another call writes it; wait until that is done, or {OTHER}.") from None
    except PermissionError:
        raise PermissionError(f"{path}: may not be written; choose a folder that you may write to.") from None
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            raise OSError(f"{path}: its name is too long for a result and what stands beside it; shorten it.") from None
        reason = error.strerror or type(error).__name__
        raise OSError(f"{path}: cannot be written ({reason}); free space or choose another folder.") from None


class DoneBefore(FileExistsError):
    """The target is a whole result of the same input and settings.

    Attributes:
        target: that result. about: the report beside it.
    """

    def __init__(self, target: Path, about: dict):
        super().__init__(f"{target}: exists already, of the same input and settings.")
        self.target, self.about = target, about


class Writer:
    """Writes a scan slice by slice, in order, in the type of its input; an interrupted call is resumed.

    Attributes:
        target: file or folder that exists after close().
        done: number of written slices; above 0 at the start where an interrupted call is resumed.
    """

    def __init__(
        self,
        scan: Scan,
        folder: str | Path,
        *,
        name: str | None = None,
        note: str = "",
        overwrite: bool = False,
        uncertainty: bool = False,
        parametric_map: bool = False,
        beside: tuple[str, ...] = BESIDE,
    ):
        """Opens the part file in scan.below in `folder`, which is made where it is missing.

        Args:
            name: of the target; None: that of the input.
            note: settings of the result, which DICOM keeps; an interrupted result of another note is not resumed.
            overwrite: whether an existing target may be replaced once the new one is whole.
            uncertainty: whether each slice comes with the error's standard deviation, for NAME.uncertainty.npy.
            parametric_map: whether that of DICOM is written as a Parametric Map too, NAME.uncertainty.dcm.
            beside: endings of the files of one result, after its name; the first is that of the report.
        Raises:
            ValueError: a name that leaves the folder or has another type's ending, or the input itself as target.
            FileExistsError: the target exists and overwrite is False, or it is no earlier result of this input.
            BlockingIOError: another process writes this target.
        """
        folder, name = Path(folder), scan.default_name() if name is None else name
        if name in ("", ".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
            raise ValueError(f"name {name!r} leaves the folder {folder}; give a bare file name.")
        if scan.endings and not name.lower().endswith(scan.endings):
            raise ValueError(
                f"name {name!r} has another type's ending; {scan.path} is written as {' or '.join(scan.endings)}."
            )
        place = folder / scan.below
        self.scan, self.note, self.overwrite, self.target = scan, note, overwrite, place / name
        self._series = scan.path.is_dir() and not is_zarr(scan.path)  # files in a folder that others may share
        self._check_links(folder)
        self.beside = beside
        self.uncertainty, self.map = uncertainty, uncertainty and parametric_map and scan.has_map
        if self.map:
            scan.check_map()
        if self._series:
            self._finish()
        self._check_target()
        with writing(folder):
            place.mkdir(parents=True, exist_ok=True)
        self._check_length()
        self._begin()

    def _begin(self) -> None:
        self._hold()
        try:
            self._open()
        except BaseException:
            self._lock.release()
            raise

    def _hold(self) -> None:
        """Keeps other processes from this target, and clears what killed ones left."""
        with writing(self.target):
            self._lock = Lock(self._hidden("lock"))
            for ending in ("", *self.beside):
                restore(self.target.with_name(self.target.name + ending))
            if self._series:
                restore(self._files)

    @cached_property
    def content(self) -> str:
        """Hash of the input as it was opened."""
        with explained(self.scan.path):
            found = content(self.scan.sources())
        check_states(self.scan.states)
        return found

    @cached_property
    def key(self) -> str:
        """Hash of all that decides the result: only slices of the same key are resumed."""
        about = (self.target.name, self.content, self.note, __version__, self.uncertainty, self.map)
        return hashlib.sha256(repr(about).encode()).hexdigest()[:16]

    def _open(self) -> None:
        count, shape, beside = self.scan.slices, self.scan.sample_shape, self.scan.shape
        sizes = {"": self.scan.dtype.itemsize * int(np.prod(shape))}
        sizes |= {"uncertainty.": 4 * int(np.prod(beside))} if self.uncertainty else {}
        with writing(self.target):
            self._parts = [
                Parts(self._hidden(f"{self.key}.{kind}part"), size=size, count=count) for kind, size in sizes.items()
            ]
            self.done = min(part.done for part in self._parts)
            try:
                for part in self._parts:
                    part.reserve()
            except OSError:
                self._abandon()
                raise
        if self.uncertainty and not self.done:
            self._check_beside()

    def _hidden(self, kind: str) -> Path:
        name = self.target.name
        whole = os.fsencode(name)
        short = name if len(whole) <= LONGEST else hashlib.sha256(whole).hexdigest()
        return self.target.with_name(f".{short}.{kind}")

    @property
    def network(self) -> Path:
        """Where the network of this scan alone is kept until the target exists."""
        return self._hidden(f"{self.key}.network.safetensors")

    def _check_links(self, folder: Path) -> None:
        files = self.scan.files_in(self.target) if self._series else [self.target]
        for place in {self.target.parent: 0} | {file.parent: 0 for file in files}:
            if not place.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{place}: is a link that leaves the folder {folder}; remove the link, or {OTHER}.")

    def _check_target(self) -> None:
        scan, target = self.scan, self.target
        own = [scan.path, *scan.sources()]
        exists, folder = os.path.lexists(target), os.path.isdir(target)
        if exists and folder and self._series:
            exists = any(map(os.path.lexists, scan.files_in(target)))
        same = os.path.exists(target) and any(path.exists() and target.samefile(path) for path in own)
        if same or target.resolve() in {path.resolve() for path in own}:
            raise ValueError(f"{target}: is the input itself; {OTHER}.")
        about = self._report()
        if exists and not self.overwrite and about.get("key") == self.key:
            raise DoneBefore(target, about)
        if exists and not self.overwrite:
            unknown = "" if about else f"; without {target.name}{self.beside[0]} it is not known what it was made of"
            raise FileExistsError(f"{target}: exists already; {OTHER}, or {REPLACE}{unknown}.")
        if exists and (folder != scan.path.is_dir() or (folder and not scan.may_replace(target))):
            raise FileExistsError(f"{target}: is not an earlier result of this input; move it away, or {OTHER}.")
        source = about.get("source", scan.label)
        if exists and source != scan.label:
            raise FileExistsError(f"{target}: is the result of another input, {source}; move it away, or {OTHER}.")

    def _check_length(self) -> None:
        """Every name that is given or looked for beside the target is one of the disk."""
        name = self.target.name
        with writing(self.target):
            for one in (f".{os.getpid()}.old.{name}", *(name + ending for ending in self.beside)):
                with suppress(FileNotFoundError):
                    self.target.with_name(one).lstat()

    def _report(self) -> dict:
        """The report beside an earlier result; {} where there is none."""
        try:
            about = json.loads(self.target.with_name(self.target.name + self.beside[0]).read_text())
        except (OSError, ValueError):
            return {}
        return about if isinstance(about, dict) else {}

    def _check_beside(self) -> None:
        path = self.target.with_name(self.target.name + UNCERTAINTY)
        if not self.overwrite and (path.exists() or path.is_symlink()):
            self._abandon()
            raise FileExistsError(f"{path}: exists already; {OTHER}, or {REPLACE}.")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.close()
            elif self.done == 0:
                self._abandon()  # nothing to resume
        finally:
            try:
                with writing(self.target):
                    for part in self._parts:
                        part.close()
            finally:
                self._lock.release()

    def _abandon(self) -> None:
        for part in self._parts:
            part.remove()

    def bind(self, text: str) -> None:
        """Says what decides the slices beside the input and the note; slices of another text are written again."""
        with writing(self.target):
            for part in self._parts:
                part.bind(text)
        self.done = min(part.done for part in self._parts)

    def write(self, index: int, pixels: np.ndarray, uncertainty: np.ndarray | None = None) -> None:
        """Writes the next slice (`done`), in stored values, see Scan.rounded; ValueError for any other, or NaN.

        uncertainty: [H, W] or [H, W, 3], float32, in the scan's unit.
        """
        if index != self.done:
            raise ValueError(
                f"{self.target}: slice {index} is out of order; write slice {self.done} of {self.scan.slices} next."
            )
        arrays = [self.scan.rounded(index, pixels)]
        arrays += [] if uncertainty is None else [np.ascontiguousarray(uncertainty, "<f4")]
        with writing(self._parts[0].path):
            for part, array in zip(self._parts, arrays, strict=True):
                part.write(index, array.tobytes())
        self.done += 1

    def close(self, beside: Mapping[str, Callable[[Path], object]] | None = None) -> None:
        """Makes the target; ValueError where slices are missing: those that are written stay for the next call.

        Args:
            beside: what writes the other files of the result, by their endings; older ones are removed.
        """
        if not self._parts[0].path.exists():
            return  # closed before
        if self.done < self.scan.slices:
            raise ValueError(
                f"{self.target}: {self.done} of {self.scan.slices} slices are written; write the others first."
            )
        self._publish(dict(beside or {}), self._parts[0].check)

    def _publish(self, writes: dict[str, Callable[[Path], object]], check: Callable[[], object]) -> None:
        """Gives the result and what stands beside it their names, after a check of what was written."""
        self._check_target()
        if self.uncertainty:
            writes[UNCERTAINTY] = self._write_uncertainty
        if self.map:
            writes[MAP] = self._write_map
        with writing(self.target), staged() as stage:
            check()
            for ending in self.beside:
                stage(self.target.with_name(self.target.name + ending), writes.get(ending))
            stage(self._files if self._series else self.target, self._assemble)
            self._check_input()
        with writing(self.target):
            if self._series:
                self._place()
            self._clear()
        self.scan.close()

    def _check_input(self) -> None:
        """Pixels and header are of one file: it is still the one that was opened."""
        check_states(self.scan.states)
        with explained(self.scan.path):
            same = content(self.scan.sources()) == self.content
        if not same:
            raise ValueError(
                f"{self.scan.path}: was changed while it was read; nothing of it is written, repeat the call."
            )

    @property
    def _files(self) -> Path:
        """Where the files of a series wait, all of them whole, to be moved into their folder."""
        return self._hidden("files")

    def _finish(self) -> None:
        """Moves what a killed call left waiting."""
        if self._files.is_dir():
            self._hold()
            try:
                with writing(self.target):
                    self._place()
                    self._remove_parts()
            finally:
                self._lock.release()

    def _place(self) -> None:
        """Moves the files of a series into their folder: at once where nothing else is in it, else one by one."""
        if not self._files.is_dir():
            return  # another process was quicker
        target, earlier = self.target, set(self.scan.earlier(self.target))
        older = target.with_name(f".{os.getpid()}.old.{target.name}")  # atomic.restore brings it back
        if earlier and not target.is_symlink() and earlier == {file for file in target.rglob("*") if not file.is_dir()}:
            os.replace(target, older)
        else:
            for file in earlier - set(self.scan.files_in(target)):
                file.unlink()
        _move(self._files, target)
        if older.is_dir():
            for file in earlier:
                (older / file.relative_to(target)).unlink()
            _move(older, target)  # what another process wrote there meanwhile

    def _clear(self) -> None:
        """Removes the part files and networks of this target, also those of other notes."""
        self._abandon()
        self._remove_parts()
        self._lock.release()

    def _remove_parts(self) -> None:
        pattern = re.compile(re.escape(self._hidden("").name) + r"[0-9a-f]{16}\..*(part|sums|safetensors|tiles)")
        for file in self.target.parent.iterdir():
            if pattern.fullmatch(file.name):
                remove(file)

    def _assemble(self, temporary: Path) -> None:
        if self.scan.path.is_dir():
            temporary.mkdir()
        with explained(self.scan.path):
            self.scan.assemble(temporary, self._parts[0].path, note=self.note)

    def _write_uncertainty(self, temporary: Path) -> None:
        shape = (self.scan.slices, *self.scan.shape)
        with temporary.open("xb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for piece in self._uncertainties():
                file.write(piece)

    def _write_map(self, temporary: Path) -> None:
        shape = (self.scan.slices, *self.scan.shape)
        planes = np.memmap(self._parts[1].path, "<f4", mode="r", shape=shape)
        self.scan.write_map(temporary, planes, note=self.note)

    def _uncertainties(self) -> Iterator[bytes]:
        """The uncertainty of all slices in their order, in pieces."""
        return self._parts[1].pieces()


def _move(folder: Path, target: Path) -> None:
    """Moves the files of a folder into another one: at once where that is missing or empty, else one by one."""
    try:
        os.replace(folder, target)
    except OSError:  # it holds others
        for file in sorted(file for file in folder.rglob("*") if not file.is_dir()):
            into = target / file.relative_to(folder)
            into.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, into)
        remove(folder)
