"""A prompt is read as a question: which target, where, of what size, how many; or it is asked back, or not known."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from mptpn.segmentation import lexicon
from mptpn.segmentation.words import Target

LONGEST = 300  # characters of a prompt
CLOSE, NEAR = 0.75, 0.6  # likeness (difflib) of a misspelt word to the word that is offered, and to a target's name
MOST = 9999  # pieces that can be asked for
# a digit with a sign, a comparison, a decimal point, a unit: no number of pieces
MEASURE = re.compile(
    r"[<>=\u2264\u2265~\u2248\u00b1#.,]\s*\d|(^|[\s(])[-+\u2212\u2013]\s*\d|\d\s*[-+%\u2030\u00b0'\"/:\u00d7*^=]"
)


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
        ignored: words that had no effect.
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
        size = f"{self.size} " if self.size else ""
        alone = self.count == 1 and size.endswith("est ")  # the largest nucleus, not 1 largest nucleus
        number = "the " if alone else f"{self.count} " if self.count else ""
        place = f", {self.place.words}" if self.place else ""
        ignored = f" (without effect: {', '.join(self.ignored)})" if self.ignored else ""
        name = _counted(self.target.name, self.count or 2 * size.endswith("est "))
        return f"{number}{size}{name}{place}{ignored}"


def parse(text: str, targets: Sequence[Target]) -> Prompt:
    """The question that a prompt asks of a network that knows these targets.

    Raises:
        AskBack: empty or too long; a word like a known one, which is asked back; two targets or two sizes; places that
            exclude each other, or sides of a person; a negation; a number that counts no pieces; a kind of a target
            that the weights do not tell from its like.
        TypeError: no text.
    """
    words = plain_words(text)
    own = _own_target(words, targets)
    concepts, known = _concepts(words), _known_words()
    unknown = _outside(words, own, known)
    _ask_back_misspelt(text, unknown, targets)
    foreign = [word for word in words if word in lexicon.OTHER_STRUCTURES]
    target = own or _built_in(text, words, concepts, targets)
    if target is None or (foreign and own is None):
        return Prompt(text, why=_unknown(text, foreign or unknown or words, targets))
    free = _without_name(words, own)
    _check_wish(text, free, target)
    count, shares = _count(text, words, own), _shares(words, own)
    described = bool(lexicon.DESCRIPTIONS & set(free))  # "the density in the upper right is high" selects nothing
    place = None if described else _place(text, [word for word in free if word not in shares])
    idle = lexicon.NO_EFFECT | lexicon.ORDINALS - {"third"} | shares
    idle |= set() if place else lexicon.CORNERS | set(lexicon.PARTS)
    idle |= lexicon.DESCRIPTIONS | set(lexicon.WORD_PLACE) if described else set()
    return Prompt(text, target, place, _size(text, free), count, tuple(_outside(words, own, known - idle)))


def _check_wish(text: str, words: list[str], target: Target) -> None:
    """Raises AskBack where the answer would be the opposite of what is asked, or of another side or kind."""
    cytoplasm = target.name == "white blood cell cytoplasm" and _without_nucleus(words)
    if lexicon.NEGATIONS & set(words) and not cytoplasm:
        raise AskBack(f"prompt {_short(text)}: says what is not wanted; ask for {target.name} or for another target.")
    if target.name == "breast lesion" and lexicon.GRADES & set(words):
        raise AskBack(f"prompt {_short(text)}: this network does not grade lesions; ask for {target.name}.")
    pairs = {frozenset(pair) for pair in zip(words, words[1:], strict=False)}
    beside = any(one & {"left", "right"} and one & lexicon.BODY for one in pairs)
    if beside or ({"left", "right"} & set(words) and lexicon.PERSON & set(words)):
        side = f"say, for example, {target.name} in the left half"
        raise AskBack(f"prompt {_short(text)}: left and right are those of the picture, not of the patient; {side}.")


def _counted(name: str, count: int) -> str:
    """The name in the singular or the plural for a number of pieces; as it is for 0."""
    if not count:
        return name
    one = _singular(name.removesuffix("nuclei") + "nucleus" * name.endswith("nuclei"))
    if count == 1 or one.endswith("ss"):
        return one
    return one.removesuffix("nucleus") + "nuclei" if one.endswith("nucleus") else f"{one}s"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")


def plain_words(text: str) -> list[str]:
    """Lower-case words without accents, in which phrases are one word."""
    if not isinstance(text, str):
        raise TypeError(f"the prompt is of type {type(text).__name__}; say in words what to look for.")
    if not text.strip():
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
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


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
    """Whether exactly this is said: the white blood cell without its nucleus."""
    [first, *others] = [at for at, word in enumerate(words) if word in lexicon.NEGATIONS] or [len(words)]
    before, after = ([lexicon.WORD_CONCEPT.get(word) for word in part] for part in (words[:first], words[first:]))
    without = not others and words[first : first + 1] in (["without"], ["except"], ["excluding"], ["minus"])
    return without and "white" in before and "nucleus" in after and "white" not in after


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
    known = set().union(*effects, lexicon.FINER, lexicon.PARTS, lexicon.DESCRIPTIONS, lexicon.ORDINALS)
    return known | lexicon.FILLERS | lexicon.CORNERS | lexicon.NO_EFFECT | lexicon.OTHER_STRUCTURES


def _named(own: Target | None) -> set[str]:
    return {_singular(word) for word in plain_words(own.name)} if own else set()


def _without_name(words: list[str], own: Target | None) -> list[str]:
    """The words but for one of each of the target's own name: the left in left ventricle wall is no place."""
    left = list(words)
    for named in _named(own):
        left.remove(next(word for word in left if _singular(word) == named))
    return left


def _outside(words: list[str], own: Target | None, known: set[str]) -> list[str]:
    """Words that are not among the known ones, nor of the target's own name; those of a reference with around."""
    named = _named(own)
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
    near = get_close_matches(" ".join(words), names, n=1, cutoff=NEAR)
    near = f"nearest by spelling: {near[0]}; " if near else ""
    return f"{_short(text)} names no target that these weights know; {near}known: {', '.join(names)}"


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


def _count(text: str, words: list[str], own: Target | None) -> int | None:
    """How many pieces are asked for; AskBack where a number or an ordinal says something else."""
    _ask_back_ordinal(text, words, own)
    numbers = [at for at, word in enumerate(words) if _is_number(words, at) and word not in _named(own)]
    if numbers:
        at = numbers[0]
        value = lexicon.NUMBERS.get(words[at]) or (int(words[at]) if words[at].isdigit() else 0)
        alone = len(numbers) == 1 and not MEASURE.search(unicodedata.normalize("NFKD", text))
        if not (alone and 0 < value <= MOST and _counts(words, at, own)):
            ask = "such as 3 nuclei or the 3 largest nuclei; sizes in px or \u00b5m are not read, say large or small"
            raise AskBack(f"prompt {_short(text)}: {words[at]!r} is no number right before what is counted, {ask}.")
        return value
    superlative = any(lexicon.WORD_SIZE.get(word, "").endswith("est") for word in words)
    said = re.findall(r"[^\W\d_]+", text.lower())  # white blood cells are one word in words
    plural = any(word == "nuclei" or word != _singular(word) and _is_counted(word, own) for word in said)
    return 1 if superlative and not plural else None


def _is_number(words: list[str], at: int) -> bool:
    if words[at] in ("one", "single") and words[at - 1 : at] in (["each"], ["every"], ["any"]):
        return False
    return words[at] in lexicon.NUMBERS or words[at][0].isdigit()


def _is_counted(word: str, own: Target | None) -> bool:
    return word in lexicon.WORD_CONCEPT or word in lexicon.MORE_WHITE or _singular(word) in _named(own)


def _leads(words: list[str], at: int, own: Target | None) -> bool:
    """Whether the word stands before a target, or before a size that ends the sentence or a part of it."""
    rest = words[at + 1 :]
    while rest and (rest[0] in lexicon.BETWEEN or rest[0] in {*lexicon.WORD_SIZE, *lexicon.WORD_PLACE}):
        rest = rest[1:]
    sized = words[at + 1 : at + 2] and words[at + 1] in lexicon.WORD_SIZE
    return _is_counted(rest[0], own) if rest and rest[0] not in ("ones", "in", "on", "at", "from") else bool(sized)


def _counts(words: list[str], at: int, own: Target | None) -> bool:
    """Whether a number is one of pieces: the 3 largest nuclei, not in slice 3, over 3 px, top 3."""
    before = words[at - 1] if at else "the"
    asking = before in lexicon.ASKING or before in lexicon.WORD_SIZE or before in lexicon.WORD_PLACE
    return asking and before not in lexicon.UNCOUNTED and _leads(words, at, own)


def _ask_back_ordinal(text: str, words: list[str], own: Target | None) -> None:
    for at, word in enumerate(words):
        part = word == "third" and words[at - 1 : at] and words[at - 1] in lexicon.WORD_PLACE  # the left third
        share = at in _share_places(words, own)
        if word in lexicon.ORDINALS and not part and not share and _leads(words, at, own):
            raise AskBack(f"prompt {_short(text)}: {word!r} is not read; ask for the largest, or for the 3 largest.")


def _shares(words: list[str], own: Target | None) -> set[str]:
    return {words[at] for at in _share_places(words, own)}


def _share_places(words: list[str], own: Target | None) -> list[int]:
    """Where half, third and quarter are not of the image: half of the nuclei, not the left half."""
    parts = [at for at, word in enumerate(words) if word in lexicon.PARTS]
    parts = [at for at in parts if words[at - 1 : at] == [] or words[at - 1] not in lexicon.WORD_PLACE]
    return [at for at in parts if words[at + 1 : at + 2] == ["of"] and _leads(words, at, own)]
