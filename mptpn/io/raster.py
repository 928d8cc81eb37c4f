"""PNG, JPEG and BMP files as scans."""

import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from mptpn.io.scan import Scan, Unreadable
from mptpn.io.tiff_layout import CODECS, has_imagecodecs

MODES = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}  # Pillow's modes and their samples
MAGIC = b"\x89PNG\r\n\x1a\n"
Chunk = tuple[bytes, bytes]  # kind, and what is in it
OWN = (b"IHDR", b"IDAT")  # chunks of the pixels
INDEXED = (b"PLTE", b"tRNS", b"hIST", b"bKGD", b"sBIT")  # chunks that mean colours of a table
DEEP = {2: 3, 4: 2, 6: 4}  # samples of the colour types of PNG that Pillow cuts to 8 bits, and their number


class Raster(Scan):
    """PNG, and JPEG and BMP that are written as PNG; palette colours become RGB.

    All chunks of a PNG are kept; of others resolution, colour profile and EXIF.
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
        self.becomes_png, self.indexed = kind != "PNG", mode == "P"
        gray = head[24] if kind == "PNG" and head[25] == 0 else 8  # bits
        self.step = 255 // (2**gray - 1) if gray < 8 else 1  # of 8 bits, that is one of the file
        notes = [f"{kind} is written as PNG, which keeps every pixel."] * self.becomes_png
        notes += ["Palette colours are written as RGB."] * self.indexed
        notes += [f"Its gray levels of {gray} bits are written with 8 bits, times {self.step}."] * (gray < 8)
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

            chunks = _chunks(self.path.read_bytes())  # of the others it makes alpha, and words
            return png_decode(_joined([chunk for chunk in chunks if chunk[0] in (*OWN, b"IEND")]))
        with Image.open(self.path) as image:
            return np.array(image if image.mode == self.mode else image.convert(self.mode))

    def assemble(self, temporary: Path, part: Path, *, note: str) -> None:
        samples = np.frombuffer(part.read_bytes(), self.dtype).reshape(self.sample_shape)
        if self.becomes_png:
            with Image.open(self.path) as image:
                kept = {key: image.info[key] for key in ("dpi", "icc_profile", "exif") if key in image.info}
            Image.fromarray(samples).save(temporary, format="PNG", **kept)
            return
        dropped = INDEXED if self.indexed else ()
        before = [chunk for chunk in _chunks(self.path.read_bytes()) if chunk[0] not in dropped]
        temporary.write_bytes(_with_chunks(self._encoded(samples), before, step=self.step))

    def _encoded(self, samples: np.ndarray) -> bytes:
        """As PNG without further chunks."""
        if self.deep:
            from imagecodecs import png_encode

            return png_encode(np.ascontiguousarray(samples))
        file = BytesIO()
        Image.fromarray(samples).save(file, format="PNG")
        return file.getvalue()


def _with_chunks(png: bytes, before: list[Chunk], *, step: int) -> bytes:
    """A PNG with all chunks of the file before but those of its pixels. step: by which its gray levels have grown."""
    if step > 1:
        grown = (b"tRNS", b"bKGD")
        before = [(k, min(255, int.from_bytes(data) * step).to_bytes(2) if k in grown else data) for k, data in before]
    first = next(i for i, (kind, _) in enumerate(before) if kind == b"IDAT")
    start, end = ([chunk for chunk in part if chunk[0] not in OWN] for part in (before[:first], before[first:]))
    header, *pixels = [chunk for chunk in _chunks(png) if chunk[0] in OWN]
    return _joined([header, *start, *pixels, *end])


def _joined(chunks: list[Chunk]) -> bytes:
    sums = [zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks]
    parts = [len(data).to_bytes(4) + kind + data + crc for (kind, data), crc in zip(chunks, sums, strict=True)]
    return b"".join([MAGIC, *parts])


def _chunks(png: bytes) -> list[Chunk]:
    """Kind and bytes of each chunk, up to the last one."""
    found, at = [], 8
    while at < len(png) and (not found or found[-1][0] != b"IEND"):
        size = int.from_bytes(png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return found
