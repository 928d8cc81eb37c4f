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
        ("benign lesion", "does not grade lesions"),
        ("a malignant tumour", "does not grade lesions"),
        ("the normal breast mass", "does not grade lesions"),
        ("breast lesion in the right breast", "not of the patient"),
        ("left breast lesion", "not of the patient"),
        ("lesion on the patient's left", "not of the patient"),
        ("vessels of the left eye", "not of the patient"),
        ("second largest nucleus", "'second' is not read"),
        ("the third largest nucleus", "'third' is not read"),
        ("last nucleus", "'last' is not read"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_answered_is_asked_back(text, words):
    with pytest.raises(AskBack, match=words):
        parse(text, TARGETS)


@pytest.mark.parametrize(
    "text",
    [
        "all but the largest nucleus",
        "all nuclei other than the small ones",
        "avoid nuclei",
        "ignore nuclei",
        "nuclei minus artifacts",
        "hardly any nuclei",
        "everything apart from nuclei",
        "small rather than large nuclei",
        "all excluding nuclei",
        "everything except nuclei",
        "nuclei outside the left half",
        "nuclei with the small ones left out",
        "no cytoplasm",
        "everything except the white blood cell nucleus",
        "nothing but nuclei",
    ],
)
def test_what_is_not_wanted_is_asked_back_and_never_answered_with_the_opposite(text):
    with pytest.raises(AskBack, match="says what is not wanted"):
        parse(text, TARGETS)


def test_a_negation_is_asked_back_of_a_users_own_target_too_but_may_stand_in_its_name():
    own = [Target("non tumor tissue", ("tissue",)), Target("gland", ("gland",))]
    assert parse("non tumor tissue", own).target is own[0]
    with pytest.raises(AskBack, match="says what is not wanted"):
        parse("all but the glands", own)


@pytest.mark.parametrize(
    "text",
    [
        "nuclei larger than 20 px",
        "nuclei larger than 20px",
        "nuclei with area > 100 px",
        "vessels over 5 microns",
        "5 \u00b5m nuclei",
        "nuclei in slice 3",
        "slice 3 nuclei",
        "5% nuclei",
        "top 10 % nuclei",
        "top 3 nuclei",
        "-3 nuclei",
        "3.5 nuclei",
        "nuclei at 3 o'clock",
        "0 nuclei",
        "100000 nuclei",
        "at least 3 nuclei",
        "3 to 5 nuclei",
        "2nd largest nucleus",
        "nuclei in one corner",
        "lesions on both sides",
    ],
)
def test_a_number_that_counts_no_pieces_is_asked_back(text):
    with pytest.raises(AskBack, match="no number right before what is counted.*sizes in px"):
        parse(text, TARGETS)


@pytest.mark.parametrize(
    "text, count",
    [
        ("5 nuclei", 5),
        ("Find 3 nuclei.", 3),
        ("three large nuclei", 3),
        ("largest three nuclei", 3),
        ("nuclei, only the 3 largest", 3),
        ("two of the dark nuclei", 2),
        ("both lesions", 2),
        ("One small circle-shaped regular tumor at the top right in the breast", 1),
        ("every single nucleus", None),
        ("the largest white blood cell", 1),
        ("the largest white blood cells", None),
        ("the largest nodules", None),
    ],
)
def test_a_number_right_before_the_target_or_its_size_counts(text, count):
    assert parse(text, TARGETS).count == count


@pytest.mark.parametrize(
    "text, words",
    [
        ("dark round purple elongated nuclei", ("dark", "round", "purple", "elongated")),
        ("malignant nuclei", ("malignant",)),
        ("few nuclei near the border", ("few", "near", "border")),
        ("many nuclei", ("many",)),
        ("several nuclei", ("several",)),
        ("half of the nuclei", ("half",)),
        ("a third of the nuclei on the left", ("third",)),
        ("nuclei in the corner", ("corner",)),
        ("dense nuclei in the left half", ("dense", "left", "half")),
    ],
)
def test_a_word_that_changes_the_meaning_but_nothing_reads_is_told(text, words):
    prompt = parse(text, TARGETS)
    assert prompt.ignored == words and prompt.count is None
    assert prompt.place is None or prompt.place.cols == (0.0, 0.5)


@pytest.mark.parametrize(
    "text, words",
    [
        ("the largest nucleus", "the largest nucleus"),
        ("one nucleus", "1 nucleus"),
        ("3 lesions", "3 breast lesions"),
        ("two WBC nuclei", "2 white blood cell nuclei"),
        ("largest white blood cells", "largest white blood cells"),
        ("small nuclei", "small nuclei"),
    ],
)
def test_what_was_understood_is_told_in_the_singular_or_the_plural(text, words):
    assert str(parse(text, TARGETS)) == words


def test_a_near_name_is_offered_only_where_one_is_near():
    assert "nearest" not in parse("liver", TARGETS).why and "known: nuclei" in parse("liver", TARGETS).why
    own = [Target("glomerulus", ("glomerulus",))]
    assert "nearest by spelling: glomerulus; known" in parse("glomeria", own).why


@pytest.mark.parametrize("text", [None, 3, b"", []])
def test_a_prompt_that_is_no_text_is_one_sentence(text):
    with pytest.raises(TypeError, match=f"of type {type(text).__name__}; say in words"):
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
    assert prompt.ignored == ("zebra",) and "without effect: zebra" in str(prompt)


def test_weights_that_lack_a_target_do_not_know_it_and_their_own_names_are_known():
    own = [Target("gland", ("gland",)), Target("left ventricle wall", ("left", "ventricle", "wall"))]
    assert parse("nuclei", own).target is None
    assert parse("all the glands", own).target.name == "gland"
    wall = parse("wall of the left ventricle", own)
    assert wall.target.name == "left ventricle wall" and wall.place is None


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
