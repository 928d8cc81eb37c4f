"""The numbers of the pages: each agrees with its file, a planted wrong one is found, and none stands without a file."""

import re
import shutil

import pytest

import verify

QUICK = {"quick": True}
TABLE = "| a | b |\n|---|---|\n| one | 1.20 · 3 s |\n| two | 2.0 |\n"


@pytest.fixture
def pages(tmp_path):
    """A copy of the pages that claims speak of."""
    for name in {claim["page"] for claim in verify.claims()}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(verify.ROOT / name, tmp_path / name)
    return tmp_path


def wrong(root) -> list[str]:
    numbers, lost = verify.verify(root, verify.claims(), **QUICK)
    return [one.stands for one in numbers if one.found is not None and not one.agrees] + lost


def changed(root, page: str, old: str, new: str) -> list[str]:
    text = (root / page).read_text()
    assert old in text
    (root / page).write_text(text.replace(old, new, 1))
    return wrong(root)


def test_every_number_of_the_pages_agrees_with_its_file():
    numbers, lost = verify.verify(verify.ROOT, verify.claims(), **QUICK)
    checked = [one for one in numbers if one.found is not None]
    assert lost == [] and [one for one in checked if not one.agrees] == []
    assert len(checked) >= 60 and sum(one.page == "README.md" for one in checked) >= 30


@pytest.mark.parametrize("place", range(8))
def test_a_wrong_digit_in_the_readme_is_found(pages, place):
    found = list(re.finditer(r"\d\d\.\d\d(?= \||\*\*)", (pages / "README.md").read_text()))
    one = found[place * len(found) // 8].group()
    planted = one[:-1] + str((int(one[-1]) + 1) % 10)
    assert changed(pages, "README.md", one, planted) == [planted]


def test_a_number_of_the_readme_without_a_file_is_named(pages):
    lost = changed(pages, "README.md", "Sharp CT: a tie.", "Sharp CT: a tie (0.17 dB).")
    assert lost == ["README.md: no claim speaks of 0.17; give it a file."]


@pytest.mark.parametrize(
    ("page", "old", "new", "message"),
    [
        ("README.md", "| ndsafir |", "| nd-safir |", "has no row 'ndsafir'"),
        ("docs/results.md", "It beats stage 1 by", "It is above stage 1 by", "is not there"),
        ("docs/results.md", "| test, images, subjects | noisy", "| tests | noisy", "no table begins with"),
        ("docs/results.md", "| OCT, 2, 2 | 17.26 |", "| OCT, 2, 2 | low |", "has not the form"),
    ],
)
def test_a_claim_whose_place_is_gone_is_named(pages, page, old, new, message):
    lost = changed(pages, page, old, new)
    assert len(lost) == 1 and message in lost[0] and lost[0].startswith(page)


def test_a_number_agrees_within_half_of_its_last_digit():
    claim = {"page": "page", "table": "| a |", "rows": {"one": 1.204, "two": 2.06}, "columns": ["b"]}
    one, seconds = verify.compared(claim | {"cells": "{row} · {3.4} s", "rows": {"one": 1.204}}, TABLE)
    assert (one.stands, one.found, one.agrees) == ("1.20", 1.204, True) and seconds.agrees
    (two,) = verify.compared(claim | {"cells": "{row}", "rows": {"two": 2.06}}, TABLE)
    assert not two.agrees and two.line == 4


def test_minus_signs_and_line_breaks_of_a_page_are_read():
    claim = {"page": "page", "text": "loses {-0.384} dB, from {-0.68} to {0.08}"}
    found = list(verify.compared(claim, "It loses\n- 0.38 dB, from − 0.68\nto + 0.08 here"))
    assert [one.agrees for one in found] == [True, True, True]


def test_a_number_whose_images_are_not_here_is_named_and_fails_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path))
    claim = {"page": "page", "text": "has {psnr('small', 'bsd68', 1)} dB", "command": "./reproduce/verify"}
    assert verify.report(list(verify.compared(claim, "It has 40.1 dB.")), []) == 0
    assert "need more (1): the images of bsd68, which are not on this machine" in capsys.readouterr().out


def test_the_report_says_how_many_agree_and_names_what_costs_more(capsys):
    costly = {"page": "page", "text": "takes {minutes} minutes", "costs": "./reproduce/run"}
    given = [{"page": "page", "text": "loses {0.4} dB"}, costly]
    numbers = [one for claim in given for one in verify.compared(claim, "It takes 9 minutes and loses 0.5 dB.")]
    assert verify.report(numbers, []) == 1
    said = capsys.readouterr().out
    assert "0 of 1 within their stated tolerance" in said and "page:1: 0.5 stands there" in said
    assert "page: not computed, for they cost or need more (1): ./reproduce/run" in said
