"""Large scans, tile by tile: each of several processes does its share, and nothing but a tile is held whole."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mptpn import tiling
from mptpn.inference import Denoiser
from mptpn.inference.denoiser import SIDE, squares_of
from mptpn.inference.masks import PIECE
from mptpn.inference.orientation import place_back, turned
from mptpn.inference.predictor import told_correlation
from mptpn.io import Scan
from mptpn.io.tile_writer import ERROR, PIXELS, TileWriter
from mptpn.noise.by_place import cells_of
from mptpn.noise.large_by_place import LargeNoiseByPlace, packed

LUMP = 2048  # px, about the side of the parts in which the noise is measured from place to place
ENERGIES = "energies"  # kind of what is kept of a lump
Span = tuple[slice, slice]


@dataclass(frozen=True)
class Applied:
    """How a slice is denoised. strength: of the change."""

    denoiser: Denoiser | None
    strength: float


class Regions:
    """The tiles of a scan, in the orientation in which each slice is denoised.

    Attributes:
        places: of the tiles of each slice in the file's rows and columns.
    """

    def __init__(self, scan: Scan, applied: Sequence[Applied], *, memory: int | None, uncertainty: bool):
        """applied: for each slice. memory: bytes that the process may hold in all.

        Raises:
            ValueError: too little memory for a tile; the message says how much it takes.
        """
        self.scan, self.applied, self.uncertainty = scan, applied, uncertainty
        self.memory = tiling.default_budget() if memory is None else memory
        known: dict[int, tuple[list[tiling.Cut], list[Span]]] = {}
        for index, one in enumerate(applied):
            if id(one.denoiser) not in known:
                cuts, turn = self._cuts_of(index), self._turn(index)
                places = [place_back(place, self._shape(index), turn) for _, _, place in cuts]
                known[id(one.denoiser)] = cuts, places
        self.cuts, self.places = zip(*(known[id(one.denoiser)] for one in applied), strict=True)

    def _cuts_of(self, index: int) -> list[tiling.Cut]:
        """Tiles of a slice, of at most SIDE px, whatever the memory."""
        denoiser = self.applied[index].denoiser
        if denoiser is None:
            return tiling.cuts(self.scan.shape, side=LUMP, multiple=1, halo=0)
        predictor, align = denoiser.predictor, denoiser.predictor.alignment
        most = max(1, SIDE // align) * align
        cuts = tiling.cuts(self._shape(index), side=SIDE, multiple=align, halo=predictor.halo, most=most)
        needed = tiling.resident() + self._takes(denoiser, cuts)
        if needed > self.memory:
            raise ValueError(
                f"{self.scan.path}: the memory is too little for a tile, whose size is the same for all shares, and a "
                f"chunk of the store; give at least {math.ceil(needed / 2**20)}M a process."
            )
        return cuts

    def _takes(self, denoiser: Denoiser | None, cuts: Sequence[tiling.Cut]) -> int:
        """Bytes that a tile of a slice takes, and what is read of the store for it."""
        return self.scan.chunk + (0 if denoiser is None else denoiser.tile_bytes(tiling.largest(cuts)))

    def _turn(self, index: int) -> int:
        denoiser = self.applied[index].denoiser
        return 0 if denoiser is None else denoiser.turn

    def _shape(self, index: int) -> tuple[int, int]:
        """Of a slice in its orientation."""
        return self.scan.shape[:: -1 if self._turn(index) % 2 else 1]

    def denoise(self, writer: TileWriter, part: tuple[int, int]) -> Iterator[int]:
        """Denoises the i-th of n shares of the tiles, and yields the number of tiles done after each.

        What is of a whole slice, the energies of its noise, is measured by all shares together; what others have not
        measured yet, each measures itself, so that no share waits.
        """
        first, shares = part
        begun = 0
        for index, cuts in enumerate(self.cuts):
            own = [number for number in range(len(cuts)) if (begun + number) % shares == first - 1]
            begun += len(cuts)
            kinds = (PIXELS, ERROR) if self.uncertainty else (PIXELS,)
            missing = [number for number in own if not all(writer.has(kind, index, number) for kind in kinds)]
            if len(own) > len(missing):
                yield len(own) - len(missing)
            noise = self._noise(writer, index, part) if missing else None
            next_takes = self._takes(self.applied[index].denoiser, cuts)
            for number in missing:
                tiling.give_back(above=self.memory - next_takes)  # of the last tile
                pixels, error = self._tile(index, number, noise)
                if error is not None:
                    writer.keep(ERROR, index, number, error)
                writer.keep(PIXELS, index, number, pixels)
                yield 1

    def count(self, part: tuple[int, int]) -> int:
        """Number of tiles of a share."""
        return len(range(part[0] - 1, sum(map(len, self.cuts)), part[1]))

    def _inside(self, index: int, around: Span) -> tuple[np.ndarray, np.ndarray]:
        """Pixels in the scan's unit and mask of a part of a slice in its orientation."""
        turn = self._turn(index)
        found = self.scan.read_part(index, place_back(around, self._shape(index), turn))
        return turned(found.in_unit(found.pixels), turn), turned(found.valid, turn)

    def _noise(self, writer: TileWriter, index: int, part: tuple[int, int]) -> LargeNoiseByPlace | None:
        denoiser = self.applied[index].denoiser
        if denoiser is None or not denoiser.differs_by_place:
            return None
        shape = self._shape(index)
        lumps = tiling.cuts(shape, side=LUMP, multiple=PIECE, halo=PIECE)
        start = (part[0] - 1) * len(lumps) // part[1]
        for number in [*range(start, len(lumps)), *range(start)]:  # each share begins with its own
            if not writer.has(ENERGIES, index, number):
                writer.keep(ENERGIES, index, number, self._energies(index, lumps[number]))
        model = denoiser.predictor.noise_model
        correlation = told_correlation(model) if model.correlated else None
        places = [place for _, _, place in lumps]

        def read(cells: Sequence[slice]) -> Tensor:
            return _read_cells(writer, index, places, cells)

        return LargeNoiseByPlace(shape, places, read, correlation)

    def _energies(self, index: int, lump: tiling.Cut) -> np.ndarray:
        """What is packed of the cells of a lump."""
        denoiser, (around, _, place) = self.applied[index].denoiser, lump
        image, valid = self._inside(index, around)
        model, found = denoiser.predictor.noise_model, None
        correlation = told_correlation(model) if model.correlated else None
        for square, energies in energies_within(denoiser, image, valid, around, place, self._shape(index)):
            some = packed(*energies, correlation)
            if found is None:
                cells = cells_of(place)
                found = some.new_zeros(len(some), *(one.stop - one.start for one in cells))
            spans = [slice(a.start - b.start, a.stop - b.start) for a, b in zip(cells_of(square), cells, strict=True)]
            found[:, *spans] = some
        return found.numpy()

    def _tile(self, index: int, number: int, noise: LargeNoiseByPlace | None) -> tuple[np.ndarray, np.ndarray | None]:
        """Stored values of a tile and, if it is wanted, the standard deviation of its error, in the file's rows."""
        applied, cut, place = self.applied[index], self.cuts[index][number], self.places[index][number]
        before = self.scan.read_part(index, place)
        if applied.denoiser is None:
            error = np.zeros(before.pixels.shape, "<f4") if self.uncertainty else None
            return self.scan.rounded_part(index, place, before.pixels), error
        image, valid = self._inside(index, cut[0])
        prediction = applied.denoiser.tile(image, valid, cut, noise, uncertainty=self.uncertainty)
        change, error = prediction.at(applied.strength)
        after = before.moved(before.pixels, change).astype(before.pixels.dtype)
        return self.scan.rounded_part(index, place, after), error if self.uncertainty else None


def energies_within(
    denoiser: Denoiser, image: np.ndarray, valid: np.ndarray, around: Span, place: Span, shape: Sequence[int]
) -> Iterator[tuple[Span, tuple[Tensor, Tensor]]]:
    """Each square of the image (of this shape) that lies in `place`, and its energies; image, valid: `around` it."""
    for wide, inside, square in squares_of(shape):
        if all(span.start <= one.start < span.stop for one, span in zip(square, place, strict=True)):
            own = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(wide, around, strict=True))
            yield square, denoiser.energies(image[own], valid[own], inside)


def _read_cells(writer: TileWriter, index: int, places: Sequence[Span], cells: Sequence[slice]) -> Tensor:
    """Rows and columns of cells from the lumps in which they lie."""
    found = None
    for number, place in enumerate(places):
        own = cells_of(place)
        shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(own, cells, strict=True)]
        if any(span.start >= span.stop for span in shared):
            continue
        sizes = [span.stop - span.start for span in own]
        lump = writer.kept(ENERGIES, index, number, np.dtype("<f4"), [-1, *sizes])
        if found is None:
            found = torch.empty(len(lump), *(span.stop - span.start for span in cells))
        into, out = (
            [slice(s.start - o.start, s.stop - o.start) for s, o in zip(shared, around, strict=True)]
            for around in (cells, own)
        )
        found[:, *into] = torch.from_numpy(lump.copy())[:, *out]
    return found
