"""What a TIFF file holds: which pages are one scan, the names of its axes, its reduced copies, and further pictures."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from mptpn.io.axes import Axes, guess_first
from mptpn.io.scan import Unreadable
from mptpn.io.tiff_ome import planes_here

JPEG = (COMPRESSION.JPEG, COMPRESSION.ALT_JPEG, COMPRESSION.OJPEG)
COLOURS = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3, PHOTOMETRIC.SEPARATED: 4}  # samples; 1 of all others
KNOWN = {*COLOURS, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.PALETTE}
CODECS = "pip install imagecodecs"
# what tifffile decodes by itself
PLAIN = (COMPRESSION.NONE, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.LZMA, COMPRESSION.PACKBITS)
STEP = 1 / 8  # of the range of a colour: largest step between neighbours in a table that is a scale


@dataclass(frozen=True)
class Layout:
    """Where the planes of a scan lie in a TIFF file.

    Attributes:
        pages: number of the page of each slice.
        axes, colours: see Scan.
        planar: whether a page holds its samples one after the other, [S, Y, X].
        run: offset of planes that follow each other without pages of their own, in bytes; None: each has its page.
        reduced: pages that are reduced copies, and the page of each.
        notes: what becomes of other pages, in sentences.
    """

    pages: tuple[int, ...]
    axes: Axes
    colours: int
    planar: bool = False
    run: int | None = None
    reduced: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_layout(path: Path, source: Path, given: str | None) -> Layout:
    """Layout of a file.

    Args:
        path: for messages. source: the file, unpacked.
        given: names of the axes by the user, or None.
    Raises:
        ValueError: no picture of a kind that is supported.
    """
    with tifffile.TiffFile(source) as file:
        run, levels, grid = None, {}, planes_here(path, file)
        if grid is None:
            first, shape, names, numbers, run, levels = _of_series(path, source, file)
        else:
            names, shape, numbers = grid
            first = file.pages[numbers[0]]
            names, shape = names + first.axes, shape + first.shape
        is_imagej = file.is_imagej or first.description.startswith("ImageJ=")
    colours = check_page(path, first, is_imagej=is_imagej)
    axes = _axes(path, shape, names, page=first.axes, given=given)
    layout = Layout(tuple(numbers), axes, colours, planar=first.axes == "SYX", run=run)
    if given and "S" not in axes.names and axes.samples is not None:
        layout = replace(layout, colours=axes.colours)
    return layout if run is not None else _with_other_pages(path, source, layout, levels)


def _of_series(path: Path, source: Path, file: tifffile.TiffFile) -> tuple:
    """As tifffile groups pages: first page, shape and names of the axes, pages, run and reduced copies, see Layout."""
    series = next((x for x in file.series if not x.keyframe.is_reduced), file.series[0])
    first, sets = series.keyframe, [x for x in file.series if _like(x, series)]
    shape, names, numbers = tuple(series.shape), series.axes, _numbers(sets, file)
    if series.kind == "generic":  # tifffile parts pages that are compressed in different ways
        numbers = [page.index for page in file.pages if page.shape == first.shape and _kind(page) == _kind(first)]
        sets, several = [series], len(numbers) > 1
        shape, names = (len(numbers),) * several + first.shape, "I" * several + first.axes
    count = int(np.prod(shape)) * len(sets) // first.size if numbers else 0
    run = series.dataoffset if numbers and count > len(numbers) and len(sets) == 1 else None
    end = (run or 0) + series.size * series.dtype.itemsize
    _check_held(path, file, planes=count, held=len(numbers), cut=run is None or end > source.stat().st_size)
    if not numbers or (run is None and count != len(numbers)):  # planes that are missing
        first, sets, numbers = file.pages[0], [series], list(range(len(file.pages)))
        shape, names = (len(numbers), *first.shape), f"I{first.axes}"
    if len(sets) > 1:
        shape, names = (len(sets), *shape), f"P{names}"
    levels = [level.pages[0] for level in series.levels[1:] if len(level.pages) == 1 and level.pages[0] is not None]
    own = {page.offset for page in file.pages} if levels else ()  # others are within a page
    return first, shape, names, numbers, run, {page.index: numbers[0] for page in levels if page.offset in own}


def _check_held(path: Path, file: tifffile.TiffFile, *, planes: int, held: int, cut: bool) -> None:
    """Refuses a file of fewer planes than it names. held: pages of the planes, 0: unknown. cut: no room for more."""
    named = planes
    if file.is_imagej and len(file.pages) == 1:
        named = max(named, int(file.imagej_metadata.get("images", 1)))
    if held and named > held and (cut or named > planes):
        raise Unreadable(f"{path}: names {named} planes and does not hold them all; copy it again.")


def _like(one: tifffile.TiffPageSeries, other: tifffile.TiffPageSeries) -> bool:
    return one.shape == other.shape and one.axes == other.axes and _kind(one.keyframe) == _kind(other.keyframe)


def _kind(page: tifffile.TiffPage) -> tuple:
    """What pages of one scan share; not how they are compressed."""
    return page.dtype, page.bitspersample, page.axes, page.photometric, page.samplesperpixel, page.extrasamples


def _numbers(sets: list[tifffile.TiffPageSeries], file: tifffile.TiffFile) -> list[int]:
    """Numbers of the pages of series, in the order of their axes; empty where one is missing or in another file."""
    pages = [page for series in sets for page in series.pages]
    if any(page is None or page.parent is not file or not isinstance(page.index, int) for page in pages):
        return []
    numbers = [page.index for page in pages]
    return numbers if len(set(numbers)) == len(numbers) else []


def _axes(path: Path, shape: tuple[int, ...], names: str, *, page: str, given: str | None) -> Axes:
    """Axes of the whole; those of a page are fixed, and the others are guessed where the file does not name them."""
    first = tuple(size for size, name in zip(shape, names, strict=True) if name not in page)
    if page not in ("YX", "YXS", "SYX") or not names.endswith(page):
        raise Unreadable(f"{path}: pages of axes {page} in {names} are no pictures; save one plane a page.")
    try:
        if given:
            axes = Axes(given, shape)
            if axes.sides != Axes(_unique(names), shape).sides:
                raise ValueError(f"axes {given} do not fit its pages, {page}; name X, Y and those before them.")
            return axes
        if set(names) <= set("TCZYXSP") and len(set(names)) == len(names):
            return Axes(names, shape)
        guess = guess_first(first) + page
    except ValueError as error:
        raise Unreadable(f"{path}: {error}") from None
    words = f"axes {guess} were guessed for {int(np.prod(first))} pages without names; name others with --axes."
    return Axes(guess, shape, words)


def _unique(names: str) -> str:
    spare = iter("ABDEFGHIJKLMNOPQRUVW")
    return "".join(name if name in "YXS" else next(spare) for name in names)


def check_page(path: Path, page: tifffile.TiffPage, *, is_imagej: bool) -> int:
    """Number of samples of a pixel that are a picture; refuses a page that is none."""
    missing = _missing_codec(page)
    if missing:
        raise Unreadable(f"{path}: {missing}")
    photometric = page.photometric
    converted = photometric != PHOTOMETRIC.YCBCR or page.compression in JPEG
    if page.dtype is None or page.axes not in ("YX", "YXS", "SYX") or photometric not in KNOWN or not converted:
        raise Unreadable(
            f"{path}: pages of kind {page.axes} {getattr(photometric, 'name', photometric)} are no gray or RGB "
            "pictures; convert them."
        )
    if photometric == PHOTOMETRIC.PALETTE and not (is_imagej or is_scale(page.colormap)):
        raise Unreadable(f"{path}: its palette is no scale of one quantity; convert it to RGB.")
    if photometric == PHOTOMETRIC.PALETTE and page.bitspersample not in (8, 16):
        raise Unreadable(f"{path}: its palette has {page.bitspersample} bits; convert it to gray levels of 8 bits.")
    own = COLOURS.get(photometric, 1)
    if page.samplesperpixel < own:
        raise Unreadable(f"{path}: {page.samplesperpixel} samples a pixel are no {photometric.name}; export it again.")
    extra = [int(kind) for kind in page.extrasamples]
    extra += [0 if own == 1 else 2] * (page.samplesperpixel - own - len(extra))
    return own + next((i for i, kind in enumerate(extra) if kind), len(extra))  # what is unspecified is a channel


def _missing_codec(page: tifffile.TiffPage) -> str:
    """Why the pixels cannot be decoded here, or an empty string."""
    name, kind = getattr(page.compression, "name", page.compression), page.compression
    if has_imagecodecs():
        known = kind in tifffile.TIFF.DECOMPRESSORS
        return "" if known else f"is compressed by {name}, which is not known here; save it with deflate."
    if page.bitspersample not in (8, 16, 32, 64):
        return f"packs its pixels in {page.bitspersample} bits, and the decoder is not installed; {CODECS}."
    if kind == COMPRESSION.LZW:  # by Pillow, which knows few types
        gray = page.samplesperpixel == 1 and page.photometric != PHOTOMETRIC.MINISWHITE
        good = page.dtype == np.uint8 and page.photometric != PHOTOMETRIC.MINISWHITE
        good |= page.dtype == np.uint16 and gray
    else:
        good = kind in PLAIN
    if good and page.predictor < 3:
        return ""
    return f"is compressed by {name} with pixels of type {page.dtype}, and the decoder is not installed; {CODECS}."


def has_imagecodecs() -> bool:
    """Whether the decoders of the extra `formats` are there."""
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        return False
    return True


def is_scale(table: np.ndarray) -> bool:
    """Whether a colour table, [3, N], is a scale of one quantity: brighter (or darker) in small steps."""
    colours = np.asarray(table, float) / 65535
    brightness = np.array([0.299, 0.587, 0.114]) @ colours
    steps = np.diff(brightness)
    largest = max(STEP, 2 / len(brightness))
    if np.ptp(brightness) < largest:
        return False
    return bool((steps >= -1e-3).all() or (steps <= 1e-3).all()) and np.abs(np.diff(colours)).max() <= largest


def _with_other_pages(path: Path, source: Path, layout: Layout, levels: dict[int, int]) -> Layout:
    """The layout with the pages that are not of the scan: reduced copies, and others, which are copied."""
    own, kinds, reduced, above = set(layout.pages), set(), dict(levels), None
    with tifffile.TiffFile(source, is_ome=False) as file:
        count = len(file.pages)
        for number, page in enumerate(file.pages):
            if number in own:
                above = number
                kinds.add((page.shape, page.dtype, page.axes, int(page.photometric)))
            elif not levels and above is not None and _is_copy(page, file.pages[above]):
                reduced[number] = above
    if len(kinds) > 1:
        raise Unreadable(f"{path}: its {len(own)} pages differ in size or type; save pages of one kind in one file.")
    copied = count - len(own) - len(reduced)
    words = f"{copied} of its {count} pages are other pictures, they are copied and not denoised."
    return replace(layout, reduced=reduced, notes=(words,) if copied else ())


def _is_copy(page: tifffile.TiffPage, large: tifffile.TiffPage) -> bool:
    """Whether a page says that it is a reduced copy, and has the other's sides divided by one number."""
    alike = page.dtype == large.dtype and page.samplesperpixel == large.samplesperpixel
    if not page.is_reduced or not alike or page.imagelength >= large.imagelength:
        return False
    factor = large.imagelength / page.imagelength
    return abs(large.imagewidth / factor - page.imagewidth) < 1
