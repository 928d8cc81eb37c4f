"""What the runs of `support.text_worth` learn from: whole images with one sentence each, and folds."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mptpn.random import generator
from mptpn.segmentation import Example
from mptpn.segmentation.examples import ALL_TURNS
from mptpn.segmentation.words import Words, turn_words
from support import prompt_scenes, segmentation_sets

SIDE = 224  # px of a MoNuSeg image, the size at which the published networks are compared
BREAST_SIDE = 96  # px of an ultrasound image
TEXTS = ("own", "none", "constant", "shuffled", "contrary", "nonsense")
CONTRARY = {"upper": "lower", "lower": "upper", "left": "right", "right": "left", "evenly": "irregularly"}
CONTRARY |= {"irregularly": "evenly", "sparsely": "evenly"}
CONSTANT = "The nuclei are evenly distributed."
NONSENSE = ("purple", "elephants", "wisdom", "train", "station", "bicycle", "qwerty", "plugh")
NAMES = {"top": "upper", "bottom": "lower", "centre": "center"}
LEVELS = tuple(f"p{level}" for level in range(7))
FOLDS = 5


def words_of(sentence: str) -> Words:
    """Lower-case words; top and bottom are upper and lower, which turn with the image."""
    return tuple(NAMES.get(word, word) for word in re.findall(r"[a-z]+", sentence.lower()))


def resized(example: Example, side: int) -> Example:
    """The same example at side x side px, in all orientations, which turn its sentence too.

    A pixel of the mask is inside where at least half of it is.
    """
    image = F.interpolate(example.image.float(), size=(side, side), mode="bilinear", antialias=True)
    masks = {words: F.adaptive_avg_pool2d(mask.float(), side) >= 0.5 for words, mask in example.masks.items()}
    return replace(example, image=image, masks=masks, scales=(1.0, 1.0), turns=ALL_TURNS)


def asked(example: Example, words: Words, truth: Tensor) -> Example:
    """The example with one prompt, whatever its words say, and this truth."""
    return replace(example, masks={words: truth})


def histology(split: str, text: str, *, seed: int = 0) -> list[Example]:
    """MoNuSeg at 224 px, each image with one sentence.

    text: "own", "none" (no words), "constant" (one sentence for all), "shuffled" (of the image that follows in a drawn
    order), "contrary" (other places and distributions), or "nonsense" (words that no other text has).
    """
    told, found = segmentation_sets.sentences(split), []
    examples = [resized(example, SIDE) for example in segmentation_sets.monuseg(split)]
    own = [words_of(told[example.name]) for example in examples]
    for example, words in zip(examples, _texts(own, text, seed), strict=True):
        found.append(asked(example, words, example.masks[segmentation_sets.NUCLEI]))
    return found


def drawn(split: str, text: str, *, seed: int = 0) -> list[Example]:
    """Drawn cells in which the sentence decides: "nucleus in the left", as `histology` has them.

    Half of the images are asked for their nuclei and half for their cytoplasm, so that the sentence is needed.
    """
    count = 24 if split == "train" else 8
    examples = [prompt_scenes.drawn("cells", n, split=split, shape=(64, 64)) for n in range(count)]
    targets = [(prompt_scenes.NUCLEI, prompt_scenes.CYTOPLASM)[n % 2] for n in range(len(examples))]
    own = [words_of(f"the {target[0]} of each cell") for target in targets]
    rows = zip(examples, targets, _texts(own, text, seed), strict=True)
    return [replace(asked(e, words, e.masks[target]), scales=(1.0, 1.0)) for e, target, words in rows]


def _texts(own: Sequence[Words], text: str, seed: int) -> list[Words]:
    if text not in TEXTS:
        raise ValueError(f"text {text!r} is not known; give one of {', '.join(TEXTS)}.")
    draw = generator(seed, "texts", text, len(own))
    order = torch.randperm(len(own), generator=draw).tolist()
    later = dict(zip(order, order[1:] + order[:1], strict=True))
    if text == "contrary":
        swap = CONTRARY | {"nucleus": "cytoplasm", "cytoplasm": "nucleus"}
        return [tuple(swap.get(word, word) for word in words) for words in own]
    drawn_words = torch.randint(len(NONSENSE), (len(own), 6), generator=draw).tolist()
    made = {"own": own, "none": [()] * len(own), "constant": [words_of(CONSTANT)] * len(own)}
    made |= {"shuffled": [own[later[n]] for n in range(len(own))]}
    made |= {"nonsense": [tuple(NONSENSE[n] for n in row) for row in drawn_words]}
    return list(made[text])


def breast(split: str, level: str) -> list[Example]:
    """BUSI at 96 px, each image with its prompt of a level p0 .. p6, which was written from its mask."""
    rows = json.loads(segmentation_sets.fetch("busi_text", f"{split}/prompts.json"))
    told = {row["image"].removesuffix(".png"): words_of(row["prompts"][level][0]) for row in rows}
    examples = [resized(example, BREAST_SIDE) for example in segmentation_sets.breast(split)]
    return [asked(e, told[e.name], e.masks[segmentation_sets.LESION]) for e in examples]


def folds() -> list[list[Example]]:
    """The 30 MoNuSeg images at 224 px in five folds of six, every fifth by name, without any words."""
    both = [*segmentation_sets.monuseg("train"), *segmentation_sets.monuseg("val")]
    ordered = [resized(example, SIDE) for example in sorted(both, key=lambda example: example.name)]
    ordered = [asked(example, (), example.masks[segmentation_sets.NUCLEI]) for example in ordered]
    return [ordered[fold::FOLDS] for fold in range(FOLDS)]


def with_prompts(examples: Sequence[Example]) -> tuple[list[Example], list[Words]]:
    """Every sentence of the examples in all orientations; an example knows the truth of its own alone."""
    own = {words for example in examples for words in example.masks}
    prompts = sorted({turn_words(words, turn) for words in own for turn in range(8)})
    return [replace(e, unknown=frozenset(prompts) - set(e.masks)) for e in examples], prompts


def vocabulary(*groups: Sequence[Example]) -> tuple[str, ...]:
    """All words of the examples in all orientations, of the constant sentence and of nonsense."""
    prompts = [words for examples in groups for words in with_prompts(examples)[1]]
    return tuple(sorted({*NONSENSE, *words_of(CONSTANT), *(word for words in prompts for word in words)}))
