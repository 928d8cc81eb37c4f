"""Denoise, then segment: the noise of training, pairs of rows, and that nothing is done twice."""

import numpy as np
import pandas as pd
import pytest
import torch

from mptpn.segmentation import Example
from support import denoise_then_segment as study
from support.segmentation_sets import NUCLEI


def scenes(*, gray: bool) -> list[Example]:
    """One image of 60 x 52 px, its nuclei a square."""
    image = torch.rand(1, 1 if gray else 3, 60, 52, generator=torch.Generator().manual_seed(0)).expand(1, 3, 60, 52)
    mask = torch.zeros(1, 1, 60, 52, dtype=torch.bool)
    mask[..., 10:30, 10:40] = True
    return [Example(image, {NUCLEI: mask}, name="one")]


def crops(sigma: float, *, gray: bool = False) -> dict:
    return study.NuclearCrops(scenes(gray=gray), sigmas=(sigma,), batch=8, side=48)(3)


@pytest.mark.parametrize("sigma", [25, 50])
def test_only_the_noise_differs_and_it_has_its_standard_deviation(sigma):
    clean, noisy = crops(0), crops(sigma)
    assert torch.equal(clean["mask"], noisy["mask"])
    noise = noisy["image"] - clean["image"]
    count = noise.numel()  # the standard deviation of a standard deviation is sigma / sqrt(2 n); five of them
    assert abs(255 * float(noise.std()) / sigma - 1) < 5 / (2 * count) ** 0.5
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 5 * (sigma / 255) ** 2 / (count / 3) ** 0.5


def test_gray_images_stay_gray():
    image = crops(50, gray=True)["image"]
    assert torch.equal(image[:, :1].expand_as(image), image)


def test_a_segmenter_takes_sizes_that_are_no_multiple_of_eight():
    segment = study.asked({True: study.untrained(study.UNET, 0).eval()})
    assert segment(np.zeros((37, 51, 3), np.float32)).shape == (37, 51)


def test_an_image_that_the_table_holds_is_not_done_again(monkeypatch, tmp_path):
    def once(segmenters, examples, *, sigmas, seed):
        return pd.DataFrame([{"image": e.name, "set": "", "segmenter": n, "cure": "noisy", "dice": 0.5}
                             for e in examples for n in segmenters])  # fmt: skip

    monkeypatch.setattr(study, "denoise_first", once)
    first = study.run({}, scenes(gray=True), tmp_path / "t.csv", tell=lambda _: None)
    monkeypatch.setattr(study, "denoise_first", lambda *rest, **settings: pytest.fail("done again"))
    again = study.run({}, scenes(gray=True), tmp_path / "t.csv", tell=lambda _: None)
    assert len(first) == len(again) == 1 and list(again.segmenter) == [study.CLASSIC]


def test_a_planted_gain_is_found_with_seeds_and_without():
    rows = []
    for cure in study.CURES:
        for image in ("a", "b", "c"):
            for segmenter, seeds in ((study.CLASSIC, (0,)), (study.CLEAN, (0, 1)), (study.NOISY, (0, 1))):
                gain = 0.2 * (cure == study.OURS) + 0.3 * (segmenter == study.NOISY)
                rows += [(25, cure, segmenter, seed, image, 0.5 + gain + 0.01 * seed) for seed in seeds]
    table = pd.DataFrame(rows, columns=["sigma", "cure", "segmenter", "seed", "image", "dice"])
    found = study.differences(table.assign(set="one"))
    assert set(found["set"]) == {study.ALL, "one"}
    found = found[found["set"] == study.ALL].set_index(["segmenter", "comparison"])
    gain = found.loc[(study.CLEAN, "mptpn denoise - NLM")]
    assert gain[["difference", "low", "high"]].tolist() == pytest.approx([0.2] * 3) and gain.seeds == 2
    assert found.loc[(study.NOISY, f"no cure - {study.CLEAN} with {study.OURS}"), "difference"] == pytest.approx(0.1)
    # the classic has one seed: it stands beside the mean of the others, 0.005 above their first
    assert found.loc[(study.NOISY, f"no cure - {study.CLASSIC} with {study.OURS}"), "difference"] == pytest.approx(
        0.105
    )
