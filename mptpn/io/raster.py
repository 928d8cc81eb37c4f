"""PNG, JPEG and BMP files as scans."""

import struct
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mptpn.io.scan import Scan, Unreadable
from mptpn.io.tiff_layout import CODECS, has_imagecodecs

MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}  # Pillow's modes and their samples
DEEP = {2: 3, 4: 2, 6: 4}  # samples of the colour types of PNG that Pillow cuts to 8 bits, and their number


class Raster(Scan):
    """PNG, and JPEG and BMP that are written as PNG; palette colours become RGB.

    Text, resolution and colour profile are kept.
    """

    endings = (".png",)

    def __init__(self, path: Path):
        with path.open("rb") as file:
            head = file.read(26)
        with Image.open(path) as image:
            kind, mode, frames, (width, height) = image.format, image.mode, getattr(image, "n_frames", 1), image.size
            self.mode = ("RGBA" if "transparency" in image.info else "RGB") if mode == "P" else mode
        if frames > 1:
            raise Unreadable(f"{path}: holds {frames} pictures; save each of them as a file.")
        self.deep = DEEP.get(head[25], 0) if kind == "PNG" and head[24] == 16 else 0
        if self.deep and not has_imagecodecs():
            raise Unreadable(f"{path}: 16-bit colour or alpha in PNG needs a decoder that is not installed; {CODECS}.")
        if self.mode not in MODES:
            raise Unreadable(
                f"{path}: pixels of mode {mode} are no gray levels or RGB; convert it to 8- or 16-bit gray or to RGB."
            )
        self.becomes_png = kind != "PNG"
        notes = [f"{kind} is written as PNG, which keeps every pixel."] * self.becomes_png
        notes += ["Palette colours are written as RGB."] * (mode == "P")
        self.note = " ".join(notes)
        samples = self.deep or MODES[self.mode]
        shape = (height, width) + (samples,) * (samples > 1)
        dtype, colours = np.uint16 if self.deep or self.mode == "I;16" else np.uint8, 3 if samples > 2 else 1
        super().__init__(path, slices=1, sample_shape=shape, dtype=dtype, colours=colours)

    def default_name(self) -> str:
        return Path(self.name).stem + ".png" if self.becomes_png else super().default_name()

    def stored(self, index: int) -> np.ndarray:
        if self.deep:
            from imagecodecs import png_decode

            return png_decode(self.path.read_bytes())
        with Image.open(self.path) as image:
            return np.array(image if image.mode == self.mode else image.convert(self.mode))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        samples, text = np.frombuffer(part.read_bytes(), self.dtype).reshape(self.sample_shape), PngInfo()
        if self.deep:
            temporary.write_bytes(_with_chunks(samples, self.path.read_bytes()))
            return
        with Image.open(self.path) as image:
            image.load()  # text may follow the pixels
            kept = ("dpi", "icc_profile", "exif") + ("transparency",) * (image.mode == self.mode)
            kept = {key: image.info[key] for key in kept if key in image.info}
            for key, value in getattr(image, "text", {}).items():
                text.add_text(key, value)
            if "gamma" in image.info:
                text.add(b"gAMA", struct.pack(">I", round(image.info["gamma"] * 100000)))
        Image.fromarray(samples).save(temporary, format="PNG", pnginfo=text, **kept)


def _with_chunks(samples: np.ndarray, before: bytes) -> bytes:
    """16-bit samples as PNG, with all chunks of the file before but those of its pixels."""
    from imagecodecs import png_encode

    new = _chunks(png_encode(np.ascontiguousarray(samples)))
    pixels = [chunk for kind, chunk in new if kind == b"IDAT"]
    kept = [(kind, chunk) for kind, chunk in _chunks(before)]
    first = next(i for i, (kind, _) in enumerate(kept) if kind == b"IDAT")
    header = next(chunk for kind, chunk in new if kind == b"IHDR")
    start = [chunk for kind, chunk in kept[:first] if kind != b"IHDR"]
    end = [chunk for kind, chunk in kept[first:] if kind != b"IDAT"]
    return b"".join([before[:8], header, *start, *pixels, *end])


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and bytes of each chunk."""
    found, at = [], 8
    while at + 12 <= len(png):
        size = 12 + int.from_bytes(png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at : at + size]))
        at += size
    return found
