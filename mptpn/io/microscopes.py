"""Files of microscopes (CZI, ND2, LIF) as scans, one for each scene, written as OME-TIFF.

They are read by pylibCZIrw, nd2 and liffile (extra `microscopes`), on which the readers of bioio stand too; bioio's own
reader of ND2 asks for a client of cloud storage that contradicts the versions of this project.
"""

import re
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tifffile

from mptpn.io.scan import Scan, Unreadable, name_axes
from mptpn.io.tiff_writer import BIG

LIBRARIES = {".czi": "pylibCZIrw", ".nd2": "nd2", ".lif": "liffile"}


class Reader:
    """One scene of a file of a microscope; a subclass for each library.

    Attributes:
        sizes: size of each axis by its letter, in the order of the file; Y and X come last, S after them.
        dtype: of the samples. spacing: micrometres (seconds for T) by axis. channel_names: see Scan.
        scenes: names of all scenes of the file; "" where one has none.
    """

    sizes: dict[str, int]
    dtype: np.dtype
    spacing: dict[str, float]
    channel_names: tuple[str, ...] = ()
    scenes: tuple[str, ...] = ("",)

    def plane(self, at: dict[str, int]) -> np.ndarray:
        """[Y, X] or [Y, X, S] at a place along the other axes."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the file."""


class Czi(Reader):
    """Zeiss; the tiles of a mosaic are put together."""

    TYPES = {"Gray8": "u1", "Gray16": "u2", "Gray32Float": "f4", "Bgr24": "u1", "Bgr48": "u2"}

    def __init__(self, path: Path, scene: int = 0):
        from pylibCZIrw import czi

        self._context = czi.open_czi(str(path))
        self._file = self._context.__enter__()
        box, kind = self._file.total_bounding_box, str(next(iter(self._file.pixel_types.values())))
        scenes = self._file.scenes_bounding_rectangle
        self._scene = sorted(scenes)[scene] if scenes else None
        spans = {name: end - start for name, (start, end) in box.items()}
        further = {name: size for name, size in spans.items() if name not in "TCZXYSM" and size > 1}
        if further:
            raise Unreadable(f"{path}: has further axes, {further}, which are not read; export it as OME-TIFF.")
        self.sizes = {name: spans.get(name, 1) for name in "TCZ"}
        sides = scenes[self._scene] if scenes else self._file.total_bounding_rectangle
        self.sizes |= {"Y": sides.h, "X": sides.w} | ({"S": 3} if kind.startswith("Bgr") else {})
        self.dtype = np.dtype(self.TYPES.get(kind, "V1"))
        about = self._file.metadata.get("ImageDocument", {}).get("Metadata", {})
        distances = ((about.get("Scaling") or {}).get("Items") or {}).get("Distance") or []
        distances = distances if isinstance(distances, list) else [distances]
        self.spacing = {one["@Id"]: 1e6 * float(one["Value"]) for one in distances if one.get("Value")}
        image = (about.get("Information") or {}).get("Image") or {}
        channels = ((image.get("Dimensions") or {}).get("Channels") or {}).get("Channel") or []
        channels = channels if isinstance(channels, list) else [channels]
        self.channel_names = tuple(str(one.get("@Name", "")) for one in channels)
        named = (((image.get("Dimensions") or {}).get("S") or {}).get("Scenes") or {}).get("Scene") or []
        names = {str(one.get("@Index")): one.get("@Name") for one in (named if isinstance(named, list) else [named])}
        self.scenes = tuple(str(names.get(str(number)) or "") for number in sorted(scenes)) or ("",)

    def plane(self, at: dict[str, int]) -> np.ndarray:
        array = self._file.read(plane={name: at.get(name, 0) for name in "TCZ"}, scene=self._scene)
        return array[..., ::-1] if array.shape[-1] == 3 else array[..., 0]  # stored blue first

    def close(self) -> None:
        self._context.__exit__(None, None, None)


class Nd2(Reader):
    """Nikon; positions are an axis, P."""

    def __init__(self, path: Path, scene: int = 0):
        import nd2

        self._file = nd2.ND2File(path)
        sizes = dict(self._file.sizes)
        self._loops = {name: size for name, size in sizes.items() if name not in "CYXS"}
        self._has = [name for name in "CYXS" if name in sizes]
        self.sizes = self._loops | {name: sizes[name] for name in self._has}
        self.dtype = np.dtype(self._file.dtype)
        self.spacing = {name.upper(): float(size) for name, size in self._file.voxel_size()._asdict().items() if size}
        found = getattr(self._file.metadata, "channels", None) or []
        self.channel_names = tuple(str(one.channel.name) for one in found)

    def plane(self, at: dict[str, int]) -> np.ndarray:
        place = [at.get(name, 0) for name in self._loops]
        number = int(np.ravel_multi_index(place, list(self._loops.values()))) if place else 0
        frame = self._file.read_frame(number)
        return frame[at["C"]] if "C" in at and self.sizes["C"] > 1 else frame

    def close(self) -> None:
        self._file.close()


class Lif(Reader):
    """Leica; each image is a scene."""

    def __init__(self, path: Path, scene: int = 0):
        import liffile

        self._file = liffile.LifFile(path)
        self._image = self._file.images[scene]
        self.scenes = tuple(image.name for image in self._file.images)
        self.sizes, self.dtype = dict(self._image.sizes), np.dtype(self._image.dtype)
        steps = {name: np.diff(values[:2]) for name, values in self._image.coords.items() if name in "XYZT"}
        scale = {"T": 1.0}  # others are in metres
        self.spacing = {name: abs(float(x[0])) * scale.get(name, 1e6) for name, x in steps.items() if len(x) and x[0]}

    def plane(self, at: dict[str, int]) -> np.ndarray:
        return np.asarray(self._image.frame(**at))

    def close(self) -> None:
        self._file.close()


READERS = {".czi": Czi, ".nd2": Nd2, ".lif": Lif}


class Microscope(Scan):
    """One scene of a file; planes, names of channels and physical sizes are written as OME-TIFF."""

    takes_axes = True
    endings = (".ome.tif", ".ome.tiff")

    def __init__(self, path: Path, axes: str | None = None, number: int = 0):
        """number: of the scene, from 0."""
        suffix = path.suffix.lower()
        if find_spec(LIBRARIES[suffix]) is None:
            library = LIBRARIES[suffix]
            raise Unreadable(f"{path}: {suffix} needs a reader that is not installed; pip install {library}.")
        self._given, self._number = axes, number
        with self._opened(path) as reader:
            sizes = {name: size for name, size in reader.sizes.items() if size > 1 or name in "YXS"}
            named = name_axes(path, tuple(sizes.values()), given=axes, known="".join(sizes))
            super().__init__(path, axes=named, dtype=reader.dtype)
            self._known = "".join(sizes)
            sizes = {name: float(f"{size:.12g}") for name, size in reader.spacing.items()}
            self.spacing = {name: (size, "s" if name == "T" else "µm") for name, size in sizes.items()}
            names = reader.channel_names
            self.channel_names = names if len(names) == named.channels and all(names) else ()
            self.scenes, self._scene = len(reader.scenes), _scene_name(reader.scenes, number)
        self.note = f"{suffix[1:].upper()} is written as OME-TIFF: planes, names of channels and physical sizes."

    @contextmanager
    def _opened(self, path: Path):
        reader = self._reader(path)
        try:
            yield reader
        finally:
            reader.close()

    def _reader(self, path: Path) -> Reader:
        return READERS[path.suffix.lower()](path, self._number)

    def scene(self, number: int) -> "Microscope":
        return Microscope(self.path, self._given, number)

    def default_name(self) -> str:
        return Path(self.name).stem + self._scene + self.endings[0]

    def stored(self, index: int) -> np.ndarray:
        if self._handle is None:
            self._handle = self._reader(self.path)
        place = zip(self._known, self.axes.place(index), strict=True)
        return np.asarray(self._handle.plane({name: at for name, at in place if isinstance(at, int)}))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        write_ome(self, temporary, planes)


def _scene_name(names: tuple[str, ...], number: int) -> str:
    """What follows the file's name in that of a scene's result: its name, or its number from 1; "" of the only one."""
    if len(names) == 1:
        return ""
    plain = [re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in names]
    own = plain[number] if plain[number] and plain.count(plain[number]) == 1 else f"scene{number + 1}"
    return f"_{own}"


def write_ome(scan: Scan, target: Path, planes: np.ndarray) -> None:
    """A scan as OME-TIFF with its axes, physical sizes and names of channels; each place along other axes an image.

    Args:
        planes: [slices, H, W] or [slices, H, W, S], in the order of the scan.
    """
    array, names = scan.axes.arrange(planes), scan.axes.names
    for name in names:  # axes that OME does not know come first
        if name not in "TZCYXS":
            array, names = np.moveaxis(array, names.index(name), 0), name + names.replace(name, "")
    others = sum(name not in "TZCYXS" for name in names)
    metadata: dict = {"axes": names[others:]}
    for axis, (size, unit) in scan.spacing.items():
        if axis in "XYZ":
            metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
        elif axis == "T":
            metadata |= {"TimeIncrement": size, "TimeIncrementUnit": unit}
    if scan.channel_names:
        metadata["Channel"] = {"Name": list(scan.channel_names)}
    photometric = "rgb" if scan.axes.samples is not None and scan.colours == 3 else "minisblack"
    with tifffile.TiffWriter(target, ome=True, bigtiff=array.nbytes > BIG) as out:
        for place in np.ndindex(array.shape[:others]):
            out.write(array[place], photometric=photometric, metadata=metadata, software=False)
