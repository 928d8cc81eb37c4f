"""The training of the package's network runs from its images to a weights file."""

import os
from pathlib import Path

import pytest

from mptpn.segmentation import Segmenter
from support import segmentation_sets, train_segmentation

SPLITS, GROUPS = ("train", "val"), segmentation_sets.GROUPS.values()
REAL = Path(os.environ.get("MPTPN_DATA") or Path(__file__).parents[3] / "shared/data")


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real images are not here: {REAL} is no folder")
def test_a_training_of_seconds_on_a_few_images_writes_weights_with_thresholds_and_a_caution(tmp_path, monkeypatch):
    monkeypatch.setenv("MPTPN_DATA", str(REAL))
    few = {split: [e for group in GROUPS for e in (*group(split)[:2], *group(split)[-1:])] for split in SPLITS}
    monkeypatch.setattr(segmentation_sets, "examples", few.get)
    train_segmentation.main(tmp_path / "a.safetensors", 0, 0.05)
    segmenter = Segmenter.load(tmp_path / "a.safetensors")
    lesion = segmenter.targets[4]
    assert segmenter.note["minutes"] == 0.05 and len(segmenter.note["phases"]) == 3
    assert segmenter.targets[5].threshold == 0.8 and 0 < lesion.peak < 1 and "without one" in lesion.caution
    assert set(segmenter.note["images"]) == {e.group for e in few["train"]}
