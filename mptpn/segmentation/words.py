"""What a network can be asked for: targets, the words that it reads, and how these turn with an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Words = tuple[str, ...]
# what becomes of a place when the image is turned by 90 degrees against the clock (torch.rot90), or mirrored
QUARTER = {"left": "lower", "lower": "right", "right": "upper", "upper": "left"}
MIRROR = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Target:
    """A structure that weights know.

    Attributes:
        name: what a user calls it. words: what the network reads.
        objects: it comes in separate pieces, which have sizes and can be counted; otherwise it is a net or a ground.
        side: px, longer side that an image is brought to before it is asked; 0: as it is.
        threshold: least probability of a pixel of the mask.
        presence: least probability that the image has the target at all.
        peak: least probability of the surest pixel; below it nothing is found.
        least: least area of a piece, px of the image that is asked.
        images: the kind of image that it was learned from.
        gray: only gray images have it, such as ultrasound or electron micrographs.
        caution: what a user has to know of every answer, with its measured numbers; "": nothing.
    """

    name: str
    words: Words
    objects: bool = True
    side: int = 0
    threshold: float = 0.5
    presence: float = 0.5
    least: int = 0
    images: str = ""
    peak: float = 0.0
    caution: str = ""
    gray: bool = False


def turn_words(words: Words, turn: int) -> Words:
    """The words of a prompt about an image in orientation `turn`, 0 to 7 (see `mptpn.filters.turned`)."""
    for _ in range(turn % 4):
        words = tuple(QUARTER.get(word, word) for word in words)
    return tuple(MIRROR.get(word, word) for word in words) if turn > 3 else words


def word_numbers(words: Words, vocabulary: Sequence[str], *, length: int) -> Tensor:
    """Numbers of the words in the vocabulary, [length], -1 where there is no word.

    Raises:
        ValueError: a word that is not in the vocabulary, or more words than length.
    """
    unknown = [word for word in words if word not in vocabulary]
    if unknown or len(words) > length:
        raise ValueError(f"words {words}: {unknown or len(words)} do not fit a vocabulary of {len(vocabulary)} words.")
    numbers = [list(vocabulary).index(word) for word in words]
    return torch.tensor(numbers + [-1] * (length - len(numbers)))
