"""Files of microscopes (CZI, ND2, LIF) as scans, read by bioio (extra `microscopes`) and written as OME-TIFF."""

from pathlib import Path

import numpy as np
import tifffile

from mptpn.io.scan import Scan, Unreadable, name_axes

READERS = {".czi": "bioio-czi", ".nd2": "bioio-nd2", ".lif": "bioio-lif"}
NAMES = "TCZYX"


class Bio(Scan):
    """The first scene of a file; its planes, the names of its channels and its physical sizes are written."""

    takes_axes = True
    endings = (".ome.tif", ".ome.tiff")

    def __init__(self, path: Path, axes: str | None = None):
        reader = READERS[path.suffix.lower()]
        try:
            from bioio import BioImage

            module = __import__(reader.replace("-", "_"))
        except ImportError:
            raise Unreadable(
                f"{path}: {path.suffix} needs a reader that is not installed; pip install bioio {reader}."
            ) from None
        self._image = BioImage(path, reader=module.Reader)
        data = self._image.dims
        samples = "S" if "S" in data.order else ""
        names = NAMES + samples
        shape = tuple(int(getattr(data, name)) for name in names)
        named = name_axes(path, shape, given=axes, known=names)
        super().__init__(path, axes=named, dtype=np.dtype(self._image.dtype))
        sizes = self._image.physical_pixel_sizes
        self.spacing = {name: (float(size), "µm") for name in "XYZ" if (size := getattr(sizes, name, None))}
        found = [str(name) for name in self._image.channel_names or []]
        self.channel_names = tuple(found) if len(found) == named.channels else ()
        scenes = len(self._image.scenes)
        self.note = f"{path.suffix[1:].upper()} is written as OME-TIFF: planes, channels' names and physical sizes."
        self.note += f" The first of its {scenes} scenes is denoised; the others are not written." * (scenes > 1)

    def default_name(self) -> str:
        return Path(self.name).stem + self.endings[0]

    def stored(self, index: int) -> np.ndarray:
        place = dict(zip(self.axes.names, self.axes.place(index), strict=True))
        fixed = {name: at for name, at in place.items() if isinstance(at, int)}
        kept = "".join(name for name in self.axes.names if name not in fixed)
        return np.asarray(self._image.get_image_dask_data(kept, **fixed).compute())

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = np.memmap(part, self.dtype, mode="r", shape=(self.slices, *self.sample_shape))
        write_ome(self, temporary, planes)


def write_ome(scan: Scan, target: Path, planes: np.ndarray) -> None:
    """A scan as OME-TIFF with its axes, physical sizes and names of channels.

    Args:
        planes: [slices, H, W] or [slices, H, W, S], in the order of the scan.
    """
    metadata: dict = {"axes": scan.axes.names}
    for axis, (size, unit) in scan.spacing.items():
        metadata |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": unit}
    if scan.channel_names:
        metadata["Channel"] = {"Name": list(scan.channel_names)}
    colour = scan.axes.samples is not None and scan.colours == 3
    array = scan.axes.arrange(planes)
    big = array.nbytes > 2**32 - 2**25
    photometric = "rgb" if colour else "minisblack"
    with tifffile.TiffWriter(target, ome=True, bigtiff=big) as out:
        out.write(array, photometric=photometric, metadata=metadata, software=False)
