"""NoiseByPlace of an image that is too large for its energies to be held: they are read for each tile."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from mptpn.noise.by_place import CELL, NoiseByPlace, cells_of, correlation_of, level_of, mean_energies, strengths_of

REACH = 16  # cells, more than energies are averaged over
Place = tuple[slice, slice]


def packed(energies: Tensor, variance: Tensor, correlation: Tensor | None) -> Tensor:
    """What is kept of cell_energies of a part of an image, [kept, h, w]; of white noise two means suffice."""
    if correlation is None:
        return torch.cat(mean_energies(energies, None), 1)[0]
    return torch.cat([energies, variance])


class LargeNoiseByPlace:
    """The noise of one large image in cells, see NoiseByPlace.

    Attributes:
        level: standard deviation over the noise model's, [1, 1, h, w].
    """

    def __init__(
        self,
        shape: Sequence[int],
        parts: Iterable[Place],
        read: Callable[[list[slice]], Tensor],
        correlation: Tensor | None,
    ):
        """Reads all energies once, for what is of the whole image.

        Args:
            shape: [H, W] of the image. parts: places that cover it, corners at those of cells.
            read: what is packed of some rows and columns of cells.
            correlation: of the noise model, [7, 7]; None: it is white.
        """
        self._cells, self._read = [-(-side // CELL) for side in shape], read
        self._white, self._strongest = correlation is None, 0.0
        means = torch.zeros(2, 1, 1, *self._cells)
        for place in parts:
            cells = cells_of(place)
            if self._white:
                means[:, 0, 0, *cells] = read(cells)
                continue
            around, inside = self._window(cells)
            found = read(around)
            means[..., *cells] = torch.stack(mean_energies(found[:-1], correlation))[..., *inside]
            strengths = strengths_of(found[:-1], found[-1:])[2]
            self._strongest = max(self._strongest, float(strengths[..., *inside].amax()))
        self.level = level_of(*means)

    def at(self, around: Place) -> tuple[Tensor, Tensor | None]:
        """Level of each pixel of a tile, [1, 1, H, W], and correlation of its cells; its corner is one of a cell."""
        level, _ = NoiseByPlace(self.level, None).at(around)
        if self._white:
            return level, None
        window, inside = self._window(cells_of(around))
        found = self._read(window)
        return level, correlation_of(found[:-1], found[-1:], self._strongest)[:, *inside]

    def _window(self, cells: Sequence[slice]) -> tuple[list[slice], list[slice]]:
        """Some cells with those around them, and the cells in these."""
        window = [
            slice(max(0, one.start - REACH), min(count, one.stop + REACH))
            for one, count in zip(cells, self._cells, strict=True)
        ]
        inside = [slice(one.start - w.start, one.stop - w.start) for one, w in zip(cells, window, strict=True)]
        return window, inside
