"""A prompt is understood, asked back or not known; it is never guessed in silence."""

import pytest

from mptpn.segmentation import AskBack, Target, parse
from mptpn.segmentation.words import turn_words, word_numbers

NAMES = ("nuclei", "vessels", "membranes", "cell interior", "breast lesion")
NAMES += ("white blood cell nucleus", "white blood cell cytoplasm", "white blood cell")
TARGETS = [Target(name, tuple(name.split())) for name in NAMES]


def target(text: str) -> str | None:
    found = parse(text, TARGETS).target
    return found and found.name


@pytest.mark.parametrize(
    "text, name",
    [
        ("Please outline every cell nucleus that you can see in this slide", "nuclei"),
        ("nuclear regions", "nuclei"),
        ("the blood vessels of the retina", "vessels"),
        ("arteries and veins", "vessels"),
        ("borders between neighbouring cells", "membranes"),
        ("everything inside the cells", "cell interior"),
        ("tumour", "breast lesion"),
        ("nucleus of the leukocyte", "white blood cell nucleus"),
        ("WBC nuclei", "white blood cell nucleus"),
        ("white blood cell without its nucleus", "white blood cell cytoplasm"),
        ("the whole cell", "white blood cell"),
    ],
)
def test_other_words_for_a_target_are_understood(text, name):
    assert target(text) == name


@pytest.mark.parametrize(
    "text",
    ["liver", "purple elephants", "qwerty", "noyaux", "\u7ec6\u80de\u6838", "\U0001f9e0", "red blood cells", "!!"],
)
def test_what_no_target_is_named_by_is_not_found_and_says_what_is_known(text):
    prompt = parse(text, TARGETS)
    assert prompt.target is None and text in prompt.why and all(name in prompt.why for name in NAMES)


@pytest.mark.parametrize(
    "text, near",
    [
        ("nuclie", "nuclei"),
        ("vesels", "vessels"),
        ("nuclei in the uper left", "upper"),
        ("citoplasm", "cytoplasm"),
        ("membrans", "membranes"),
        ("larg nuclei", "large"),
    ],
)
def test_a_typo_is_asked_back_with_the_nearest_known_word(text, near):
    with pytest.raises(AskBack, match=f"did you mean '{near}'"):
        parse(text, TARGETS)


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("x" * 10_000, "10000 characters"),
        ("nuclei and vessels", "nucleus and vessel"),
        ("left nuclei in the right half", "left and right exclude"),
        ("the upper nuclei at the bottom", "upper and lower exclude"),
        ("large small nuclei", "large and small"),
        ("no nuclei", "not wanted"),
        ("don't mark nuclei", "not wanted"),
        ("cells", "several targets"),
        ("arteries", "not told from other vessels"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_answered_is_asked_back(text, words):
    with pytest.raises(AskBack, match=words):
        parse(text, TARGETS)


def test_place_size_and_number_are_read():
    prompt = parse("the three largest nuclei in the lower left corner", TARGETS)
    assert (prompt.count, prompt.size, prompt.place.rows, prompt.place.cols) == (3, "largest", (0.5, 1.0), (0.0, 0.5))
    assert str(prompt) == "3 largest nuclei, in the lower left part"
    third = parse("nuclei in the right third", TARGETS).place
    assert third.cols == (pytest.approx(2 / 3), 1.0) and third.rows == (0.0, 1.0)
    assert parse("vessels in the center", TARGETS).place.rows == (0.25, 0.75)
    assert parse("the largest nucleus", TARGETS).count == 1 and parse("the largest nuclei", TARGETS).count is None
    assert parse("12 nuclei", TARGETS).count == 12


def test_a_description_of_density_selects_no_place():
    assert parse("The nuclei density in the upper right is high.", TARGETS).place is None


def test_a_word_that_had_no_effect_is_told():
    prompt = parse("zebra nuclei", TARGETS)
    assert prompt.ignored == ("zebra",) and "not understood: zebra" in str(prompt)


def test_weights_that_lack_a_target_do_not_know_it_and_their_own_names_are_known():
    own = [Target("gland", ("gland",)), Target("left ventricle wall", ("left", "ventricle", "wall"))]
    assert parse("nuclei", own).target is None
    assert parse("all the glands", own).target.name == "gland"
    assert parse("wall of the left ventricle", own).target.name == "left ventricle wall"


def test_words_turn_with_the_image():
    """rot90 brings the left column to the bottom; a flip after it changes left and right."""
    assert turn_words(("upper", "left", "nucleus"), 1) == ("left", "lower", "nucleus")
    assert turn_words(("upper", "left"), 2) == ("lower", "right")
    assert turn_words(("upper", "left"), 4) == ("upper", "right")
    assert turn_words(("left",), 5) == ("lower",) and turn_words(("upper",), 5) == ("right",)


def test_a_word_that_is_not_in_the_vocabulary_is_refused():
    assert word_numbers(("b",), ("a", "b"), length=3).tolist() == [1, -1, -1]
    with pytest.raises(ValueError, match="'c'"):
        word_numbers(("c",), ("a", "b"), length=3)
