"""Files that are broken or made to harm, by name: bytes that small functions make. Each has to be refused."""

import gzip
import struct
import zlib

import nibabel
import numpy as np
import tifffile
from pydicom.uid import ExplicitVRLittleEndian

from file_makers import dataset, samples, write_ome

GRAY = samples((40, 50), "u2")
NOISE = np.random.default_rng(0).integers(0, 4000, (64, 64)).astype(np.uint16)


def through(path, save) -> bytes:
    """What a library writes."""
    path.parent.mkdir(exist_ok=True, parents=True)
    save(path)
    return path.read_bytes()


# PNG


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png(width=50, height=40, *, rows: bytes | None = None, crc: int | None = None, end=True, declared=None) -> bytes:
    rows = (
        zlib.compress(b"".join(b"\0" + row.tobytes() for row in samples((height, width), "u1")))
        if rows is None
        else rows
    )
    header = struct.pack(">II5B", *(declared or (width, height)), 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows, crc)
    return data + (chunk(b"IEND", b"") if end else b"")


# TIFF


def tiff(tags: dict[int, tuple[int, int]], *, following=0, pixels=b"") -> bytes:
    """One page; tags: {code: (type, value)}; following: offset of the next page."""
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags))
    for code, (kind, value) in sorted(tags.items()):
        data += struct.pack("<HHII", code, kind, 1, value)
    return data + struct.pack("<I", following) + pixels


def page(width=50, height=40, *, at=146, size=2000, bits=8, compression=1, **more) -> dict:
    tags = {256: (4, width), 257: (4, height), 258: (3, bits), 259: (3, compression), 262: (3, 1), 273: (4, at)}
    return tags | {277: (3, 1), 278: (4, height), 279: (4, size)} | more


def chain(count: int, *, back: int | None = None, shared=False, side=16) -> bytes:
    """Pages that follow each other, each with its pixels unless shared; back: the last points to this page."""
    one, step = side * side, 2 + 9 * 12 + 4
    data = b"II*\0" + struct.pack("<I", 8)
    start = 8 + count * step
    for number in range(count):
        following = 8 + (number + 1) * step if number + 1 < count else 0 if back is None else 8 + back * step
        data += tiff(page(side, side, at=start + (0 if shared else number * one), size=one), following=following)[8:]
    return data + NOISE.astype(np.uint8).tobytes()[:one] * (1 if shared else count)


def tiff_without(path, *, what) -> bytes:
    data = bytearray(through(path, lambda p: tifffile.imwrite(p, NOISE, rowsperstrip=16)))
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags[what]
        at = tag.valueoffset
    data[at : at + 4] = bytes(4)
    return bytes(data)


# NIfTI


def nifti(shape=(20, 20, 3), *, dims=None, changes=(), dtype=np.int16) -> bytes:
    data = bytearray(nibabel.Nifti1Image(np.zeros(shape, dtype), np.eye(4)).to_bytes())
    if dims:
        data[40:56] = struct.pack("<8h", *dims)
    for at, form, value in changes:
        struct.pack_into(form, data, at, value)
    return bytes(data)


def gzipped(data: bytes, *, change: int | None = None, cut=0) -> bytes:
    packed = bytearray(gzip.compress(data, mtime=0))
    if change is not None:
        packed[change] ^= 0xFF
    return bytes(packed[: len(packed) - cut])


def bomb(count: int) -> bytes:
    """`count` MiB of zeros after a header of a NIfTI file of one large slice, gzipped; made piece by piece."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    side = int((count * 2**20 / 2) ** 0.5)
    data = pack.compress(nifti(dims=(2, side, side, 1, 1, 1, 1, 1))[:352])
    return data + b"".join(pack.compress(bytes(2**20)) for _ in range(count)) + pack.flush()


# DICOM


def dicom(path, pixels=GRAY, *, without=(), deflated=False, **arguments) -> bytes:
    data = dataset(pixels, **arguments)
    for keyword in without:
        delattr(data, keyword)
    return through(path, lambda p: data.save_as(p, enforce_file_format=True))


def replaced(path, old: bytes, new: bytes, **arguments) -> bytes:
    data = dicom(path, **arguments)
    assert old in data
    return data.replace(old, new)


def element(keyword_bytes: bytes, kind: bytes, value: bytes) -> bytes:
    return keyword_bytes + kind + struct.pack("<H", len(value)) + value


def deflated_bomb(path, count: int) -> bytes:
    plain = dicom(path)
    head, rest = plain[: 144 + int.from_bytes(plain[140:144], "little")], None
    rest = plain[len(head) :]
    uid = str(ExplicitVRLittleEndian).encode()
    old = element(b"\x02\0\x10\0", b"UI", uid + b"\0")
    new = element(b"\x02\0\x10\0", b"UI", uid + b".99")
    head = bytearray(head.replace(old, new))
    head[140:144] = struct.pack("<I", len(head) - 144)
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = pack.compress(rest) + b"".join(pack.compress(bytes(2**20)) for _ in range(count))
    return bytes(head) + data + pack.flush()


def run_length(path, *, rows=40, cols=50, pixels=b"\0" * 64, frames=1) -> bytes:
    """One RLE fragment that is far too short for what is declared."""
    data = dataset(samples((rows, cols) if rows < 100 else (4, 5), "u1"))
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.5"
    data.Rows, data.Columns, data.NumberOfFrames = rows, cols, frames
    fragment = struct.pack("<16I", 1, 64, *[0] * 14) + pixels
    data.PixelData = b"\xfe\xff\0\xe0" + bytes(4) + b"\xfe\xff\0\xe0" + struct.pack("<I", len(fragment)) + fragment
    data["PixelData"].is_undefined_length = True
    return through(path, lambda p: data.save_as(p, enforce_file_format=True))


# NumPy


def npy(header: str, data: bytes = b"", *, version=1) -> bytes:
    text = header.encode("latin1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + data


def big_npy(shape: tuple, data: bytes = b"\0" * 64) -> bytes:
    return npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n", data)


NESTED = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
BYTES = samples((40, 50), "u1").tobytes()
FILES = {
    "crc.png": lambda path: png(crc=1),
    "no_end.png": lambda path: png(end=False),
    "long_chunk.png": lambda path: png()[:33] + struct.pack(">I", 2**31 - 1) + png()[37:],
    "large.png": lambda path: png(declared=(30000, 30000)),
    "wide.png": lambda path: png(declared=(2**31 - 1, 1)),
    "no_rows.png": lambda path: png(rows=zlib.compress(b"")),
    "damaged_rows.png": lambda path: png(rows=b"\0" * 99),
    "no_size.png": lambda path: png(declared=(0, 0)),
    "cut.jpg": lambda path: b"\xff\xd8\xff\xe0" + bytes(40),
    "large.bmp": lambda path: (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 200, 0, 54, 40, 30000, 30000, 1, 24, 0, 0, 1, 1, 0, 0)
    ),
    "large.tif": lambda path: tiff(page(40000, 40000, at=8, size=100), pixels=bytes(64)),
    "larger.tif": lambda path: tiff(page(2**31, 2**31, at=8, size=100), pixels=bytes(64)),
    "packed.tif": lambda path: tiff(
        page(60000, 60000, at=146, size=60, compression=8), pixels=zlib.compress(bytes(9999))[:60].ljust(60)
    ),
    "circle.tif": lambda path: chain(3, back=0),
    "circle.tif.gz": lambda path: gzip.compress(chain(3, back=0)),
    "self.tif": lambda path: tiff(page(), following=8, pixels=bytes(24) + BYTES),
    "late_circle.tif": lambda path: chain(50, back=20),
    "shared_pixels.tif": lambda path: chain(5000, shared=True),
    "no_offset.tif": lambda path: tiff_without(path, what="StripOffsets"),
    "no_count.tif": lambda path: tiff_without(path, what="StripByteCounts"),
    "strip_outside.tif": lambda path: tiff(page(at=10**6), pixels=BYTES),
    "short_strip.tif": lambda path: tiff(page(size=200), pixels=bytes(24) + BYTES),
    "no_tags.tif": lambda path: b"II*\0\x08\0\0\0" + bytes(6),
    "page_outside.tif": lambda path: b"II*\0" + struct.pack("<I", 10**6) + bytes(100),
    "next_outside.tif": lambda path: tiff(page(), following=10**6, pixels=bytes(24) + BYTES),
    "many_tags.tif": lambda path: b"II*\0\x08\0\0\0\xff\xff" + bytes(100),
    "zero_size.tif": lambda path: tiff(page(0, 0), pixels=bytes(24) + BYTES),
    "big.tif": lambda path: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(50),
    "planes.ome.tif": lambda path: through(
        path, lambda p: write_ome(p, NOISE[None], 'SizeZ="100000" SizeC="1000" SizeT="1000"')
    ),
    "named_block.ome.tif": lambda path: through(
        path, lambda p: write_ome(p, NOISE[None], 'SizeZ="100000" SizeC="1000" SizeT="1"', '<TiffData IFD="0"/>')
    ),
    "many_strips.tif": lambda path: tiff(page() | {273: (4, 2**31), 278: (4, 0)}, pixels=bytes(24) + BYTES),
    "large.nii": lambda path: nifti(dims=(3, 30000, 30000, 3, 1, 1, 1, 1)),
    "negative.nii": lambda path: nifti(dims=(3, -5, 20, 3, 1, 1, 1, 1)),
    "axes.nii": lambda path: nifti(dims=(99, 20, 20, 3, 1, 1, 1, 1)),
    "offset.nii": lambda path: nifti(changes=[(108, "<f", 1e9)]),
    "negative_offset.nii": lambda path: nifti(changes=[(108, "<f", -400.0)]),
    "type.nii": lambda path: nifti(changes=[(70, "<h", 999)]),
    "text.nii.gz": lambda path: b"no gzip at all" * 9,
    "crc.nii.gz": lambda path: gzipped(nifti(), change=-6),
    "cut.nii.gz": lambda path: gzipped(nifti((40, 40, 9)), cut=20),
    "middle.nii.gz": lambda path: gzipped(np.random.default_rng(0).bytes(9000), change=300),
    "bomb.nii.gz": lambda path: bomb(900),
    "declares.nii.gz": lambda path: gzipped(nifti(dims=(3, 30000, 30000, 3, 1, 1, 1, 1))),
    "large.npy": lambda path: big_npy((10**6, 10**6)),
    "huge.npy": lambda path: big_npy((2**40, 2**40)),
    "negative.npy": lambda path: big_npy((-5, 7)),
    "text_shape.npy": lambda path: npy("{'descr': '<f4', 'fortran_order': False, 'shape': ('a', 7)}\n"),
    "code.npy": lambda path: npy("__import__('os').system('true')\n"),
    "header.npy": lambda path: npy("[" * 9000 + "\n"),
    "long_header.npy": lambda path: b"\x93NUMPY\x02\0" + struct.pack("<I", 2**31) + b"{}",
    "endless.npy": lambda path: through(path, lambda p: np.save(p, np.full((40, 50), 1e308) * (1 + GRAY % 2))),
    "finite.npy": lambda path: through(path, lambda p: np.save(p, NOISE * 1e300)),
    "large.dcm": lambda path: dicom(path, Rows=60000, Columns=60000),
    "frames.dcm": lambda path: dicom(path, NumberOfFrames=2**30),
    "negative_frames.dcm": lambda path: dicom(path, NumberOfFrames=-3),
    "cut.dcm": lambda path: dicom(path)[:-500],
    "run_length.dcm": lambda path: run_length(path),
    "run_length_large.dcm": lambda path: run_length(path, rows=65535, cols=65535),
    "run_length_frames.dcm": lambda path: run_length(path, frames=10**8),
    "deflated_bomb.dcm": lambda path: deflated_bomb(path, 600),
    "deflated_cut.dcm": lambda path: deflated_bomb(path, 0)[:-300],
    "slope_0.dcm": lambda path: dicom(path, RescaleSlope=0),
    "slope_text.dcm": lambda path: replaced(path, b"DS\x04\x001.5 ", b"DS\x04\x00abcd", RescaleSlope="1.5"),
    "bits_stored.dcm": lambda path: dicom(path, BitsStored=20),
    "high_bit.dcm": lambda path: dicom(path, BitsStored=12, HighBit=20),
    "low_bits.dcm": lambda path: dicom(path, BitsStored=12, HighBit=15),
    "no_rows.dcm": lambda path: dicom(path, Rows=None),
    "signed.dcm": lambda path: dicom(path, PixelRepresentation=7),
    "element.dcm": lambda path: dicom(path)[:400] + b"\x08\0\x60\0LO\xff\xff" + b"x" * 40,
    "private_length.dcm": lambda path: dicom(path)[:400] + b"\x09\0\x10\x10OB\0\0\xf0\xff\xff\xff" + b"x" * 40,
    "nested.dcm": lambda path: (
        dicom(path)[:376] + b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff" * 3000
    ),
    "empty.tif": lambda path: b"",
    "text.dcm": lambda path: b"no picture at all\n" * 30,
}
