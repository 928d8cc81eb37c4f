"""NRRD and MetaImage files as scans, by SimpleITK (extra `formats`)."""

from pathlib import Path

import numpy as np

from mptpn.io.scan import Scan, Unreadable, name_axes

INSTALL = "pip install SimpleITK"
ONE_FILE = {".nhdr": ".nrrd", ".mhd": ".mha"}  # headers with the pixels in a file of their own


class Itk(Scan):
    """.nrrd or .mha, and .nhdr or .mhd that are written as one file; gray or RGB, of two to four axes.

    Geometry and the fields that SimpleITK knows are kept.
    """

    takes_axes = True

    def __init__(self, path: Path, axes: str | None = None):
        try:
            import SimpleITK
        except ImportError:
            raise Unreadable(f"{path}: NRRD and MetaImage need a reader that is not installed; {INSTALL}.") from None
        self._itk = SimpleITK
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        samples, sizes = reader.GetNumberOfComponents(), reader.GetSize()
        name = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
        dtype = np.dtype(_dtype(name) or "V1")
        shape = sizes[::-1] + ((samples,) if samples > 1 else ())
        colour = "S" if samples in (3, 4) and dtype == np.uint8 else "C"
        known = ("TZYX"[-len(sizes) :] + colour * (samples > 1)) if len(sizes) <= 4 else ""
        named = name_axes(path, shape, given=axes, known=known)
        self.endings = (ONE_FILE.get(path.suffix.lower(), path.suffix.lower()),)
        super().__init__(path, axes=named, dtype=dtype)
        self.spacing = {name: (side, "mm") for name, side in zip("XYZ", reader.GetSpacing(), strict=False)}
        self.packed = _is_packed(path)
        if path.suffix.lower() in ONE_FILE:
            self.note = f"Its header and its pixels are written as one file, {self.endings[0]}."
        self._image = None

    def sources(self) -> list[Path]:
        beside = (self.path.with_suffix(ending) for ending in (".raw", ".zraw", ".raw.gz"))
        return [self.path, *(file for file in beside if self.path.suffix.lower() in ONE_FILE and file.exists())]

    def default_name(self) -> str:
        ending = Path(self.name).suffix
        if ending.lower() in ONE_FILE:
            return self.name.removesuffix(ending) + ONE_FILE[ending.lower()]
        return super().default_name()

    def _read(self):
        if self._image is None:
            self._image = self._itk.ReadImage(str(self.path))
        return self._image

    def stored(self, index: int) -> np.ndarray:
        return np.array(self.axes.take(self._itk.GetArrayViewFromImage(self._read()), index))

    def close(self) -> None:
        self._image = None
        super().close()

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        planes = self.planes(part)
        before = self._read()
        array = np.ascontiguousarray(self.axes.arrange(planes))
        several = before.GetNumberOfComponentsPerPixel() > 1
        image = self._itk.GetImageFromArray(array, isVector=several)
        image.CopyInformation(before)
        for key in before.GetMetaDataKeys():
            image.SetMetaData(key, before.GetMetaData(key))
        made = temporary.with_name(f"{temporary.name}{self.endings[0]}")  # the ending chooses the type
        try:
            self._itk.WriteImage(image, str(made), useCompression=self.packed)
            made.replace(temporary)
        finally:
            made.unlink(missing_ok=True)


def _dtype(name: str) -> str:
    """NumPy's type of SimpleITK's words, such as "vector of 16-bit signed integer"; empty for others."""
    words = name.removeprefix("vector of ")
    if words.endswith("float"):
        return {"32": "f4", "64": "f8"}[words[:2]]
    bits, _, kind = words.partition("-bit ")
    known = {"signed integer": "i", "unsigned integer": "u"}
    return f"{known[kind]}{int(bits) // 8}" if kind in known else ""


def _is_packed(path: Path) -> bool:
    """Whether the header says that the pixels are compressed."""
    head = path.open("rb").read(4096).lower()
    return b"compresseddata = true" in head or b"encoding: gz" in head or b"encoding: bz" in head
