"""A prompt is read as a question: which target, where, of what size, how many; or it is asked back, or not known."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher, get_close_matches

from mptpn.segmentation import lexicon
from mptpn.segmentation.words import Target

LONGEST = 300  # characters of a prompt
CLOSE = 0.75  # likeness (difflib) of a misspelt word to the word that is offered


class AskBack(ValueError):
    """A prompt that cannot be answered as it stands: the sentence says what was understood, and what to ask."""


@dataclass(frozen=True)
class Place:
    """A part of the image: rows and columns as shares, 0 to 1, of height and width."""

    words: str
    rows: tuple[float, float] = (0.0, 1.0)
    cols: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Prompt:
    """What was understood.

    Attributes:
        text: as it was typed.
        target: None where nothing in it is known: the answer is *not found*, `why` says so.
        place: part of the image that is asked for. size: "", "large", "small", "largest" or "smallest".
        count: how many are asked for; None: all.
        ignored: words that were not understood, and had no effect.
    """

    text: str
    target: Target | None = None
    place: Place | None = None
    size: str = ""
    count: int | None = None
    ignored: tuple[str, ...] = field(default=())
    why: str = ""

    def __str__(self) -> str:
        """In words, for reports."""
        if self.target is None:
            return self.why
        number = f"{self.count} " if self.count else ""
        size = f"{self.size} " if self.size else ""
        place = f", {self.place.words}" if self.place else ""
        ignored = f" (not understood: {', '.join(self.ignored)})" if self.ignored else ""
        return f"{number}{size}{self.target.name}{place}{ignored}"


def parse(text: str, targets: Sequence[Target]) -> Prompt:
    """The question that a prompt asks of a network that knows these targets.

    Raises:
        AskBack: empty or too long; a word like a known one, which is asked back; two targets or two sizes; places that
            exclude each other; a negation; a kind of a target that the weights do not tell from its like.
    """
    words = plain_words(text)
    own = _own_target(words, targets)
    concepts = _concepts(words)
    ignored = _ignored(words, own)
    _ask_back_misspelt(text, ignored, targets)
    foreign = [word for word in words if word in lexicon.OTHER_STRUCTURES]
    target = own or _built_in(text, words, concepts, targets)
    if target is None or (foreign and own is None):
        return Prompt(text, why=_unknown(text, foreign or ignored or words, targets))
    if own is None and len(set(words) & lexicon.NEGATIONS) and target.name != "white blood cell cytoplasm":
        raise AskBack(f"prompt {_short(text)}: says what is not wanted; ask for {target.name} or for another target.")
    described = bool(lexicon.DESCRIPTIONS & set(words))  # "the density in the upper right is high" selects nothing
    place = None if described else _place(text, words)
    return Prompt(text, target, place, _size(text, words), _count(words), tuple(ignored))


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def plain_words(text: str) -> list[str]:
    """Lower-case words without accents, in which phrases are one word."""
    if not isinstance(text, str) or not text.strip():
        raise AskBack("the prompt is empty; say what to look for, such as nuclei.")
    if len(text) > LONGEST:
        raise AskBack(f"the prompt has {len(text)} characters; say it in at most {LONGEST}.")
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = " ".join(re.findall(r"[^\W_]+", re.sub(r"n['’]t\b", " not", plain)))
    for phrase, word in lexicon.PHRASES.items():
        plain = re.sub(rf"\b({phrase})\b", word, plain)
    return plain.split()


def _concepts(words: list[str]) -> frozenset[str]:
    """Structures that are named; not what only says where: around the nucleus, inside the white blood cell."""
    kept = [word for at, word in enumerate(words) if not _is_reference(words, at)]
    found = {lexicon.WORD_CONCEPT[word] for word in kept if word in lexicon.WORD_CONCEPT}
    found = found if found <= {"cell"} else found - {"cell"}
    return frozenset(found if found <= {"interior"} or "membrane" in found else found - {"interior"})


def _is_reference(words: list[str], at: int) -> bool:
    """Whether a word names what something lies around: around the nucleus."""
    return words[at] in lexicon.WORD_CONCEPT and bool(set(words[max(0, at - 2) : at]) & lexicon.AROUND)


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _own_target(words: list[str], targets: Sequence[Target]) -> Target | None:
    """The target, not one of the package's, whose name's words all stand in the prompt; the longest name."""
    said, found = {_singular(word) for word in words}, []
    for target in targets:
        if target.name not in lexicon.BUILT_IN.values():
            named = {_singular(word) for word in plain_words(target.name)}
            found += [(len(named), target)] if named <= said else []
    return max(found, key=lambda one: one[0])[1] if found else None


def _built_in(text: str, words: list[str], concepts: frozenset[str], targets: Sequence[Target]) -> Target | None:
    if not concepts:
        kinds = [word for word in words if word in lexicon.FINER]
        return _finer(text, kinds, targets)
    if concepts == {"cell"}:
        names = ", ".join(target.name for target in targets)
        raise AskBack(f"prompt {_short(text)}: cells may mean several targets; ask for one of {names}.")
    if concepts == {"white", "nucleus"} and _without_nucleus(words):
        concepts = frozenset({"cytoplasm"})
    name = lexicon.BUILT_IN.get(concepts)
    if name is None:
        named = " and ".join(sorted(concepts))
        raise AskBack(f"prompt {_short(text)}: names {named}; ask for one target at a time.")
    return next((target for target in targets if target.name == name), None)


def _without_nucleus(words: list[str]) -> bool:
    places = [i for i, word in enumerate(words) if word in ("without", "except", "excluding")]
    return any(lexicon.WORD_CONCEPT.get(word) == "nucleus" for i in places for word in words[i:])


def _finer(text: str, kinds: list[str], targets: Sequence[Target]) -> Target | None:
    """The target of two kinds that make up the whole, as arteries and veins do; one kind alone is asked back."""
    if not kinds:
        return None
    whole = lexicon.FINER[kinds[0]]
    if whole == "vessels" and len({kind[0] for kind in kinds}) == 2:  # arteries and veins
        return next((target for target in targets if target.name == whole), None)
    raise AskBack(f"prompt {_short(text)}: {kinds[0]} are not told from other {whole} here; ask for {whole}.")


def _known_words() -> set[str]:
    effects = (lexicon.WORD_CONCEPT, lexicon.WORD_PLACE, lexicon.WORD_SIZE, lexicon.NUMBERS, lexicon.NEGATIONS)
    known = set().union(*effects, lexicon.FINER, lexicon.PARTS, lexicon.DESCRIPTIONS)
    return known | lexicon.FILLERS | lexicon.OTHER_STRUCTURES


def _ignored(words: list[str], own: Target | None) -> list[str]:
    named = {_singular(word) for word in plain_words(own.name)} if own else set()
    known = _known_words()
    words = [word if not _is_reference(words, at) else f"around {word}" for at, word in enumerate(words)]
    return [word for word in words if word not in known and _singular(word) not in named and not word.isdigit()]


def _ask_back_misspelt(text: str, unknown: list[str], targets: Sequence[Target]) -> None:
    """Raises AskBack where a word that is not known is like one that has an effect."""
    effects = {*lexicon.WORD_CONCEPT, *lexicon.WORD_PLACE, *lexicon.WORD_SIZE} - {"whitecell"}
    names = {word for target in targets for word in target.name.split()}
    for word in (word for word in unknown if " " not in word):
        near = get_close_matches(word, sorted(effects | names | {"leukocyte"}), n=1, cutoff=CLOSE)
        if near and len(word) > 3:
            raise AskBack(f"prompt {_short(text)}: {word!r} is not known; did you mean {near[0]!r}?")


def _unknown(text: str, words: list[str], targets: Sequence[Target]) -> str:
    names = [target.name for target in targets]
    near = max(names, key=lambda name: SequenceMatcher(None, name, " ".join(words)).ratio())
    known = f"nearest by spelling: {near}; known: {', '.join(names)}"
    return f"{_short(text)} names no target that these weights know; {known}"


def _place(text: str, words: list[str]) -> Place | None:
    sides = list(dict.fromkeys(lexicon.WORD_PLACE[word] for word in words if word in lexicon.WORD_PLACE))
    for one, other in (("left", "right"), ("upper", "lower")):
        if one in sides and other in sides:
            raise AskBack(f"prompt {_short(text)}: {one} and {other} exclude each other; ask for one place.")
    if not sides:
        return None
    part = next((lexicon.PARTS[word] for word in words if word in lexicon.PARTS), 0.5)
    part = 0.5 if len(sides) > 1 and part == 0.25 else part  # the upper left quarter is half by half
    rows = {"upper": (0.0, part), "lower": (1 - part, 1.0)}
    cols = {"left": (0.0, part), "right": (1 - part, 1.0)}
    whole = (0.25, 0.75) if "center" in sides else (0.0, 1.0)
    row = next((rows[side] for side in sides if side in rows), whole)
    col = next((cols[side] for side in sides if side in cols), whole)
    name = {1 / 3: "third", 0.25: "quarter"}.get(part, "half" if len(sides) == 1 and sides != ["center"] else "part")
    return Place(f"in the {' '.join(sides)} {name}", row, col)


def _size(text: str, words: list[str]) -> str:
    sizes = list(dict.fromkeys(lexicon.WORD_SIZE[word] for word in words if word in lexicon.WORD_SIZE))
    if len(sizes) > 1:
        raise AskBack(f"prompt {_short(text)}: {sizes[0]} and {sizes[1]} are two sizes; ask for one.")
    return sizes[0] if sizes else ""


def _count(words: list[str]) -> int | None:
    number = next((w for w in words if w in lexicon.NUMBERS or (w.isdigit() and 0 < int(w) < 10000)), None)
    if number is not None:
        return lexicon.NUMBERS.get(number) or int(number)
    superlative = any(lexicon.WORD_SIZE.get(word, "").endswith("est") for word in words)
    plural = any(word in words for word in ("nuclei", "lesions", "tumors", "tumours", "cells", "masses"))
    return 1 if superlative and not plural else None
