"""The segmentation sets: registered bytes, and splits that share nothing."""

import os
import re
from pathlib import Path

import pytest
import torch

from mptpn.segmentation import parse
from support import prompt_figures, prompt_scenes, segmentation_scores, segmentation_sets

ROOT = Path(__file__).parents[2]
REAL = Path(os.environ.get("MPTPN_DATA") or ROOT.parent / "shared/data")
real = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not here: {REAL} is no folder")


@pytest.fixture
def data(monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(REAL))


def test_the_registry_is_text_of_hashes_and_relative_paths():
    text = (ROOT / "notebooks/support/segmentation_registry.tsv").read_text()
    assert text.isascii() and "/work" not in text and "://" not in text
    for row in segmentation_sets.SETS.values():
        assert re.fullmatch("[0-9a-f]{40}", row["commit"]) and row["licence"] and row["citation"]
    for row in segmentation_sets.FILES.values():
        assert re.fullmatch("[0-9a-f]{64}", row["sha256"]) and int(row["bytes"]) > 0 and row["path"]
        assert row["set"] in segmentation_sets.SETS and ".." not in Path(row["file"]).parts
    assert len(text.split("\n\n")[1].splitlines()) - 1 == len(segmentation_sets.FILES)


def test_a_derived_file_that_is_missing_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="it is derived"):
        segmentation_sets.fetch("dsb2018_labels", "index.tsv")
    with pytest.raises(ValueError, match="has no file 'x'"):
        segmentation_sets.fetch("wbc", "x")
    assert not segmentation_sets.available("wbc")


def test_other_bytes_than_the_registered_ones_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("MPTPN_DATA", str(tmp_path))
    (tmp_path / "dsb2018_labels").mkdir()
    (tmp_path / "dsb2018_labels/index.tsv").write_text("image")
    with pytest.raises(ValueError, match="other bytes than the registered ones"):
        segmentation_sets.fetch("dsb2018_labels", "index.tsv")


@real
def test_no_image_is_in_two_splits_and_one_slice_lies_between(data):
    for group in (segmentation_sets.dsb, segmentation_sets.membranes):
        names = [{example.name for example in group(split)} for split in ("train", "val")]
        assert names[0] and names[1] and not names[0] & names[1]
    train, val = segmentation_sets.EM_SLICES["train"], segmentation_sets.EM_SLICES["val"]
    assert min(val) - max(train) >= 2 and not set(segmentation_sets.CHILDREN["train"]) & set(
        segmentation_sets.CHILDREN["val"]
    )


@real
def test_counts_and_truths_of_the_sets(data):
    counts = {"dsb": (44, 16), "em": (7, 2)}
    for name, (train, val) in counts.items():
        assert [len(segmentation_sets.GROUPS[name](split)) for split in ("train", "val")] == [train, val]
    for example in (*segmentation_sets.dsb("val"), *segmentation_sets.membranes("val")):
        assert all(0 < mask.float().mean() < 0.95 for mask in example.masks.values())
    inside, between = (segmentation_sets.membranes("val")[0].masks[words] for words in (("interior",), ("membrane",)))
    assert torch.equal(inside, ~between)


@real
def test_each_histology_image_has_its_sentence(data):
    told = segmentation_sets.sentences("val")
    assert len(told) == 6 and all(
        parse(text, segmentation_sets.TARGETS).target.name == "nuclei" for text in told.values()
    )


def test_every_paraphrase_is_understood_as_its_target_and_nonsense_as_none():
    class Asked:
        targets = segmentation_sets.TARGETS

    found = segmentation_scores.wording(Asked())
    assert found.groupby("target").size().eq(10).all() and found.understood.all()
    nonsense = [parse(text, segmentation_sets.TARGETS).target for text in segmentation_scores.NONSENSE]
    assert nonsense == [None] * len(nonsense)


def test_drawn_scenes_have_exact_truths_and_splits_of_their_own():
    scene, again, other = (prompt_scenes.drawn("cells", 0, split=split) for split in ("train", "train", "val"))
    assert torch.equal(scene.image, again.image) and not torch.equal(scene.image, other.image)
    nuclei, cytoplasm = scene.masks[prompt_scenes.NUCLEI], scene.masks[prompt_scenes.CYTOPLASM]
    assert nuclei.any() and not (nuclei & cytoplasm).any() and not prompt_scenes.drawn("texture", 0).masks


def test_the_share_of_empty_answers_counts_absent_targets_alone():
    segmenter = prompt_scenes.untrained(0)
    examples = [prompt_scenes.drawn(kind, 0) for kind in ("cells", "texture")]
    table, answers = prompt_figures.ask_all(segmenter, examples, ["nuclei", "vessels", "qwerty", "nuclie"])
    assert len(table) == len(answers) == 6 and table.here.sum() == 1
    table["share"] = [0.5, 0, 0, 0.0009, 0.002, 0]
    assert prompt_figures.empty_share(table) == pytest.approx(4 / 5)
