"""Runs that differ in one thing: their texts, their list, and the intervals of their differences."""

import pandas as pd
import pytest

from support import text_worth, text_worth_sets, text_worth_tables
from support.text_worth import Job
from support.text_worth_sets import TEXTS, drawn, with_prompts, words_of


def prompts(text: str, seed: int = 0) -> list[tuple[str, ...]]:
    return [next(iter(example.masks)) for example in drawn("val", text, seed=seed)]


def test_every_text_but_the_own_one_says_something_else_of_the_same_masks():
    own = prompts("own")
    assert prompts("none") == [()] * len(own) and len(set(prompts("constant"))) == 1
    assert sorted(prompts("shuffled")) == sorted(own) != prompts("shuffled") and prompts("shuffled", 1) != own
    assert all(set(a) != set(b) for a, b in zip(own, prompts("contrary"), strict=True))
    assert set().union(*prompts("nonsense")) <= set(text_worth_sets.NONSENSE)
    truths = [[next(iter(e.masks.values())).sum() for e in drawn("val", text)] for text in TEXTS]
    assert all(truth == truths[0] for truth in truths)
    with pytest.raises(ValueError, match="'loud' is not known"):
        drawn("val", "loud")


def test_a_sentence_turns_with_its_image_and_no_other_sentence_is_asked():
    (example, *_), words = drawn("val", "own"), words_of("Nuclei at the top left.")
    assert words == ("nuclei", "at", "the", "upper", "left")
    (one,), known = with_prompts([text_worth_sets.asked(example, words, example.masks[next(iter(example.masks))])])
    assert ("nuclei", "at", "the", "lower", "right") in known and len(known) == 8
    assert one.unknown == set(known) - {words}


def test_a_job_that_the_table_has_is_not_done_again(tmp_path, monkeypatch):
    done = []
    monkeypatch.setitem(text_worth.DO, "drawn", lambda job: (done.append(job), ([("own", "a", 0.5)], 7))[1])
    jobs = [Job("drawn", "own"), Job("drawn", "none"), Job("drawn", "own", steps=3)]
    text_worth.run(jobs[:2], tmp_path / "a.csv")
    table = text_worth.run(jobs, tmp_path / "a.csv")
    assert done == jobs and list(table.variant) == ["own", "none", "own"] and set(table.parameters) == {7}


def test_parameters_are_counted_without_those_that_the_mask_does_not_depend_on():
    net = text_worth.network(("a", "b"), 0)
    left_out = [*net.judge.parameters(), *net.ask.parameters(), *net.vectors.parameters()]
    assert text_worth.counted(net) == sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in left_out)
    equal = [text_worth.counted(text_worth.network(("a",), 0, **text_worth.VARIANTS[name])) for name in PARTNERS]
    assert abs(equal[0] - equal[1]) < 0.05 * equal[0]


PARTNERS = ("published", "repaired, as many parameters")


def table(rows: list[tuple]) -> pd.DataFrame:
    columns = ["experiment", "variant", "seed", "test", "image", "dice"]
    return pd.DataFrame(rows, columns=columns).assign(steps=1, batch=1, parameters=1, seconds=1.0)


def test_differences_are_paired_by_image_and_seed():
    """Every image loses 0.1 without words, however unlike the images are: an interval of no width."""
    rows = [("text", "own", s, "own", i, 0.2 * n + 0.3) for s in (0, 1) for n, i in enumerate("abc")]
    rows += [("text", "own", s, "none", i, 0.2 * n + 0.2) for s in (0, 1) for n, i in enumerate("abc")]
    rows += [("text", "own", 7, "none", "a", 0.0)]  # a seed that only one side has
    (found,) = text_worth_tables.intervals(table(rows)).to_dict("records")
    assert found["comparison"] == "own / own - own / none" and (found["images"], found["seeds"]) == (3, 2)
    assert [found[end] for end in ("difference", "low", "high")] == pytest.approx([0.1] * 3)


def test_lesion_images_are_told_from_all_and_a_paraphrase_is_compared_with_its_own_name():
    rows = [("ladder", level, 0, level, image, dice) for level, dice in (("p0", 0.2), ("p1", 0.5)) for image in "ab"]
    rows += [("ladder", "p0", 0, "p0", "normal_1", 1.0), ("ladder", "p1", 0, "p1", "normal_1", 0.0)]
    rows += [("encoder", "own", 0, kind, f"cell: {kind}", dice) for kind, dice in (("name", 0.9), ("typo", 0.4))]
    rows += [("encoder", "own", 0, "name", "nucleus: name", 0.1)]
    found = text_worth_tables.intervals(table(rows)).set_index("comparison").difference
    assert found["p1 - p0, lesion images"] == pytest.approx(0.3)
    assert found["p1 - p0, all images"] == pytest.approx(-0.4 / 3)
    assert found["own: typo - name"] == pytest.approx(-0.5)
