"""What OME-XML and ImageJ's words say of a TIFF file: where its planes are, physical sizes, names of the channels."""

import math
import re
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from mptpn.io.scan import Scan, Unreadable

Grid = tuple[str, tuple[int, ...], list[int]]  # names and sizes of the axes of planes, and their pages in this order


def planes_here(path: Path, file: tifffile.TiffFile) -> Grid | None:
    """The planes of a file whose OME-XML names planes in other files too; None: it does not.

    tifffile would open the others, and takes memory for every plane that is named.

    Raises:
        ValueError: the file does not hold all planes that it names for itself.
    """
    root, held = _root(file), len(file.pages)
    images = [pixels for pixels in root.iter() if _name(pixels) == "Pixels"] if root is not None else []
    sizes = [_sizes(pixels, file.pages[0].samplesperpixel) for pixels in images]
    named = max((math.prod(each.values()) for each in sizes), default=0)
    blocks = [[block for block in pixels if _name(block) == "TiffData"] for pixels in images]
    here = [[block for block in each if _is_here(block, path, own=root.get("UUID"))] for each in blocks]
    if here == blocks and named <= held:
        return None
    if here == blocks:
        raise _missing(path, named)
    found = [_places(path, *each, held=held) for each in zip(sizes, here, strict=True)]
    grids = [_grid("".join(each), places) for each, places in zip(sizes, found, strict=True) if places]
    if not grids or None in grids:  # no order of these pages is known
        return "I", (held,), list(range(held))
    names, shape, _ = grids[0]
    alike = [pages for *about, pages in grids if about == [names, shape]]
    several = len(alike) > 1
    return "P" * several + names, (len(alike),) * several + shape, sum(alike, [])


def _missing(path: Path, named: int) -> Unreadable:
    return Unreadable(f"{path}: names {named} planes and does not hold them all; copy it again.")


def _root(file: tifffile.TiffFile) -> ElementTree.Element | None:
    """Of the OME-XML; None where there is none that can be read."""
    try:
        return ElementTree.fromstring(file.ome_metadata or "") if file.is_ome else None
    except ElementTree.ParseError:
        return None


def _name(element: ElementTree.Element) -> str:
    return re.sub(r"{.*}", "", element.tag)


def _sizes(pixels: ElementTree.Element, samples: int) -> dict[str, int]:
    """Sizes of the axes of planes by name, the slowest first. samples: of a pixel of a page."""
    channel = next((child for child in pixels if _name(child) == "Channel"), {})
    samples = max(samples, int(channel.get("SamplesPerPixel", 1)))
    sizes = {name: int(pixels.get(f"Size{name}")) for name in pixels.get("DimensionOrder")[:1:-1]}
    return sizes | {"C": max(1, sizes["C"] // samples)}


def _is_here(block: ElementTree.Element, path: Path, *, own: str | None) -> bool:
    """Whether planes are in the file of this path, whose identity is `own`."""
    uuid = next((child for child in block if _name(child) == "UUID"), None)
    if uuid is None:
        return True
    return uuid.text == own if own else uuid.get("FileName", "").lower() == path.name.lower().removesuffix(".gz")


def _places(path: Path, sizes: dict[str, int], blocks: list, *, held: int) -> dict[tuple[int, ...], int]:
    """The page of each place along the axes."""
    places = {}
    for block in blocks:
        page, start = int(block.get("IFD", 0)), 0
        count = int(block.get("PlaneCount", block.get("NumPlanes", 1 if "IFD" in block.attrib else held)))
        if not 0 <= page <= page + count <= held:
            raise _missing(path, page + count)
        for name, size in sizes.items():
            start = start * size + int(block.get(f"First{name}", 0))
        if start + count <= math.prod(sizes.values()):
            at = np.unravel_index(np.arange(start, start + count), tuple(sizes.values()))
            places |= {tuple(map(int, place)): page + i for i, place in enumerate(zip(*at, strict=True))}
    return places


def _grid(names: str, places: dict[tuple[int, ...], int]) -> Grid | None:
    """None where the places do not fill a grid, or where two of them are one page."""
    sides = [sorted(set(side)) for side in zip(*places, strict=True)]
    if math.prod(map(len, sides)) != len(places) or len(set(places.values())) != len(places):
        return None
    long = [(name, len(side)) for name, side in zip(names, sides, strict=True) if len(side) > 1]
    return "".join(name for name, _ in long), tuple(size for _, size in long), [places[at] for at in product(*sides)]


def describe(scan: Scan, file: tifffile.TiffFile) -> None:
    """Physical sizes and the channels' names, from OME-XML or ImageJ's words; what is no number is not known."""
    if file.is_ome:
        root = _root(file)
        pixels = None if root is None else next((x for x in root.iter() if _name(x) == "Pixels"), None)
        if pixels is not None:
            _describe_ome(scan, pixels)
        return
    metadata = (file.imagej_metadata or {}) if file.is_imagej else {}
    unit = str(metadata.get("unit", ""))
    found = {"Z": (_number(metadata.get("spacing")), unit), "T": (_number(metadata.get("finterval")), "s")}
    for axis, value in zip("XY" * bool(unit), file.pages[0].resolution, strict=False):
        found[axis] = 1 / value if value else None, unit
    scan.spacing |= {axis: size for axis, size in found.items() if size[0] is not None}


def _describe_ome(scan: Scan, pixels: ElementTree.Element) -> None:
    for axis in "XYZ":
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        if size:
            scan.spacing[axis] = size, pixels.get(f"PhysicalSize{axis}Unit", "µm")
    names = [child.get("Name") for child in pixels if _name(child) == "Channel"]
    if len(names) == scan.axes.channels and all(names):
        scan.channel_names = tuple(names)


def _number(value: object) -> float | None:
    """None where it is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
