"""Ablations of the prompt network: what differs, pairs of rows, and that nothing is trained twice."""

import pandas as pd
import pytest

from support import segmentation_ablations as study
from support.text_worth import counted


def test_the_networks_of_equal_size_differ_by_less_than_two_percent_in_parameters():
    published, equal = (counted(study.untrained(name, 0)) for name in (study.PUBLISHED, study.EQUAL))
    assert abs(equal / published - 1) < 0.02
    assert counted(study.untrained(study.REPAIRED, 0)) < 0.2 * published  # the plain row is not of equal size


@pytest.mark.parametrize("name", ["without fusion", "without gates"])
def test_what_is_switched_off_has_fewer_parameters(name):
    assert counted(study.untrained(name, 0)) < counted(study.untrained(study.REPAIRED, 0))


def test_what_the_table_holds_is_not_trained_again(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "learn", lambda net, *rest, **settings: net.eval())
    cells = study.drawn(4)
    given = {"variants": (study.REPAIRED, "without gates"), "steps": 0, "tell": lambda _: None}
    first = study.run(cells, tmp_path / "t.csv", **given)
    assert len(first) == 8 and not first.duplicated(["variant", "image"]).any() and set(first.seed) == {0, 1}
    monkeypatch.setattr(study, "learn", lambda *rest, **settings: pytest.fail("trained again"))
    again = study.run(cells, tmp_path / "t.csv", **given)
    pd.testing.assert_frame_equal(first, again, check_dtype=False, rtol=1e-5)


def test_no_image_trains_the_network_that_is_asked_for_it(monkeypatch, tmp_path):
    seen = []

    def learn(net, examples, *rest, **settings):
        seen.append({e.name for e in examples})
        return net.eval()

    monkeypatch.setattr(study, "learn", learn)
    table = study.run(study.drawn(4), tmp_path / "t.csv", variants=(study.REPAIRED,), steps=0, tell=lambda _: None)
    asked = [set(rows.image) for _, rows in table.groupby("seed")]
    assert all(not training & test for training, test in zip(seen, asked, strict=True))
    assert set.union(*asked) == set.union(*seen) and len(asked) == 2


def test_a_planted_difference_is_found_and_the_range_of_single_seeds():
    rows = [(study.REPAIRED, seed, image, 0.5) for seed in (0, 1) for image in "abc"]
    rows += [("without gates", seed, image, 0.5 + 0.1 * seed) for seed in (0, 1) for image in "abc"]
    found = study.differences(pd.DataFrame(rows, columns=["variant", "seed", "image", "dice"])).iloc[0]
    assert found.comparison == "without gates - repaired" and found.seeds == 2
    assert found[["difference", "least_seed", "most_seed"]].tolist() == pytest.approx([0.05, 0.0, 0.1])
