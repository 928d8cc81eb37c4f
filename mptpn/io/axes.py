"""Named axes of an array: the two sides of a plane, the channels, and the planes that share a noise model."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

FEW = 4  # planes of an axis without a name, up to which they are taken for channels
SIDE = 16  # px, least side of a plane that can be denoised
REMEDY = "give one letter an axis, such as ZYX or TCZYX: T time, C channel, Z slice, Y row, X column, S colour"


@dataclass(frozen=True)
class Axes:
    """Names and sizes of the axes of an array, in its own order.

    Each place along C has a noise model of its own; T, Z and all other axes share them. S holds RGB, or RGB and alpha.

    Attributes:
        names: one letter an axis; X and Y are the sides of a plane, in the array's order its height and its width.
        shape: sizes of the axes.
        guess: how the names were found where the source has none, in one sentence; empty where it names them.
        first_fastest: whether planes follow each other with the first of their axes fastest, as in NIfTI.
    """

    names: str
    shape: tuple[int, ...]
    guess: str = ""
    first_fastest: bool = False

    def __post_init__(self):
        names = self.names
        good = names.isascii() and names.isalpha() and names.isupper() and len(set(names)) == len(names)
        if not good or not {"Y", "X"} <= set(names):
            raise ValueError(f"axes {names!r}: each letter stands once, and X and Y are among them; {REMEDY}.")
        if len(names) != len(self.shape):
            raise ValueError(f"axes {names!r} do not fit shape {self.shape}; {REMEDY}.")

    @cached_property
    def sides(self) -> tuple[int, int]:
        """Places of X and Y among the axes, in their order."""
        return tuple(sorted((self.names.index("X"), self.names.index("Y"))))

    @cached_property
    def samples(self) -> int | None:
        """Place of the axis whose values belong to one pixel: S, or C that comes last."""
        if "S" in self.names:
            return self.names.index("S")
        return len(self.names) - 1 if self.names[-1] == "C" else None

    @cached_property
    def others(self) -> tuple[int, ...]:
        """Places of the axes along which the planes lie, in their order."""
        return tuple(i for i in range(len(self.names)) if i not in self.sides and i != self.samples)

    @property
    def slices(self) -> int:
        """Number of planes."""
        return math.prod(self.shape[i] for i in self.others)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one plane, [H, W] or [H, W, samples]."""
        last = () if self.samples is None else (self.shape[self.samples],)
        return tuple(self.shape[i] for i in self.sides) + last

    @property
    def colours(self) -> int:
        """Samples of a pixel that are a picture; those after them are alpha."""
        if self.samples is None:
            return 1
        count = self.shape[self.samples]
        return count if self.names[self.samples] == "C" else {2: 1, 4: 3}.get(count, count)

    @property
    def is_colour(self) -> bool:
        """Whether the samples of a pixel are RGB."""
        return self.samples is not None and self.names[self.samples] == "S" and self.colours == 3

    @property
    def channels(self) -> int:
        """Number of channels that lie in planes of their own."""
        return max(1, math.prod(self.shape[i] for i in self.others if self.names[i] == "C"))

    def place(self, index: int) -> tuple[int | slice, ...]:
        """Where plane `index` lies in the array."""
        order = "F" if self.first_fastest else "C"
        numbers = np.unravel_index(index, [self.shape[i] for i in self.others], order=order) if self.others else ()
        found: list[int | slice] = [slice(None)] * len(self.names)
        for i, number in zip(self.others, numbers, strict=True):
            found[i] = int(number)
        return tuple(found)

    def channel(self, index: int) -> int:
        """Channel of plane `index`; 0 where channels do not lie in planes of their own."""
        at = self.names.find("C")
        return self.place(index)[at] if at in self.others else 0

    def of_channel(self, number: int) -> list[int]:
        """The planes of one channel."""
        at = self.names.find("C")
        if at not in self.others:
            return list(range(self.slices))
        order = "F" if self.first_fastest else "C"
        numbers = np.arange(self.slices).reshape([self.shape[i] for i in self.others], order=order)
        return sorted(numbers.take(number, self.others.index(at)).ravel().tolist())

    def take(self, array: np.ndarray, index: int) -> np.ndarray:
        """Plane `index` of an array, a view, [H, W] or [H, W, samples]."""
        plane = array[self.place(index)]
        if self.samples is None:
            return plane
        return np.moveaxis(plane, sum(side < self.samples for side in self.sides), -1)

    def arrange(self, planes: np.ndarray) -> np.ndarray:
        """All planes in their order, [slices, H, W] or [slices, H, W, samples], as the array, a view."""
        others = self.others[::-1] if self.first_fastest else self.others
        order = [*others, *self.sides, *([] if self.samples is None else [self.samples])]
        whole = planes.reshape([self.shape[i] for i in order])
        return whole.transpose(np.argsort(order))


def guess_axes(shape: Sequence[int], *, alpha: bool) -> Axes:
    """Axes of an array that has no names; the sentence in `guess` says what was assumed.

    A last axis of 3 is colour; of 4 colour and alpha where `alpha`; any other too short for an image holds channels.
    A first axis of 2 to 4 holds channels too: a noise model for each is right for slices as well. Of three axes, the
    last holds slices where the first two are equal and at least twice as long. Several last axes of 1 hold nothing.

    Raises:
        ValueError: fewer than two axes, or too many to guess.
    """
    shape = tuple(map(int, shape))
    held = len(shape)
    while held > 2 and shape[held - 1] == 1:
        held -= 1
    if len(shape) - held > 1:  # one alone holds a channel
        names = guess_axes(shape[:held], alpha=alpha).names
        names += "".join(name for name in "CTZABDEF" if name not in names)[: len(shape) - held]
        return Axes(names, shape, _told(names, shape))
    if len(shape) == 2:
        return Axes("YX", shape)
    if len(shape) == 3 and SIDE <= shape[2] <= shape[0] / 2 and shape[0] == shape[1]:  # a volume, slices last
        return Axes("YXZ", shape, _told("YXZ", shape))
    tail = ""
    if len(shape) > 2 and (shape[-1] <= FEW or shape[-1] < SIDE <= min(shape[-3:-1])):
        tail = "S" if shape[-1] == 3 or (shape[-1] == 4 and alpha) else "C"
    first = shape[: len(shape) - 2 - len(tail)]
    if len(shape) < 2 or len(first) > 3 - len(tail):
        raise ValueError(f"shape {shape} is no image; save two to five axes, or name them with --axes.")
    names = guess_first(first, channels=not tail) + "YX" + tail
    colour = f" (the last of {shape[-1]} is colour{' and alpha' * (shape[-1] == 4)})" if tail == "S" else ""
    return Axes(names, shape, _told(names, shape, colour))


def _told(names: str, shape: tuple[int, ...], more: str = "") -> str:
    return f"axes {names} were guessed from shape {shape}{more}; name others with --axes."


def guess_first(sizes: Sequence[int], *, channels: bool = True) -> str:
    """Names of up to three axes before Y and X, else ValueError; channels: whether one of them may hold channels."""
    if len(sizes) > 3:
        raise ValueError(f"{len(sizes)} axes before Y and X, of sizes {tuple(sizes)}, have no names; {REMEDY}.")
    few = [channels and 1 < size <= FEW for size in sizes]
    if len(sizes) == 3:
        return "TZC" if few == [few[0], False, True] else "TCZ"
    if len(sizes) == 2:
        return "TC" if few[1] else "CZ" if few[0] else "TZ"
    return "C" if any(few) else "Z" * len(sizes)
