"""A user's folder: img/, mask/, prompts.csv; what is wrong with it is one sentence."""

import numpy as np
import pytest
from PIL import Image as Picture

from mptpn.segmentation import read_folder

RAMP = (np.arange(1200) % 256).reshape(30, 40).astype(np.uint8)


def make(tmp_path, *, images=("a", "b"), masks=None, csv=None, size=(30, 40)):
    for folder in ("img", "mask"):
        (tmp_path / folder).mkdir()
    for name in images:
        Picture.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40).astype(np.uint8)).save(
            tmp_path / "img" / f"{name}.png"
        )
    for name, array in (masks or {name: np.eye(*size, dtype=np.uint8) * 255 for name in images}).items():
        Picture.fromarray(array).save(tmp_path / "mask" / f"{name}.png")
    if csv is not None:
        (tmp_path / "prompts.csv").write_text(csv)
    return tmp_path


def test_without_a_table_each_image_has_one_mask_of_its_name(tmp_path):
    examples, targets = read_folder(make(tmp_path), prompt="glands")
    assert [e.name for e in examples] == ["a", "b"] and [t.words for t in targets] == [("glands",)]
    assert int(examples[0].masks[("glands",)].sum()) == 30


def test_a_table_gives_several_prompts_and_empty_truths(tmp_path):
    csv = "image,prompt,mask\na.png,glands,a.png\na.png,ducts,b.png\nb.png,glands,\n"
    examples, targets = read_folder(make(tmp_path, csv=csv))
    assert [t.name for t in targets] == ["ducts", "glands"]
    first, second = examples
    assert first.has(("glands",)) and first.has(("ducts",)) and not second.has(("glands",))
    assert second.unknown == {("ducts",)}  # nobody said whether b has ducts


SMALL = {"a": np.zeros((30, 39), np.uint8), "b": np.zeros((30, 40), np.uint8)}
THREE = {"a": RAMP % 3, "b": np.zeros((30, 40), np.uint8)}


@pytest.mark.parametrize(
    "settings, prompt, words",
    [
        ({}, "", "no prompts.csv; say with --prompt"),
        ({"masks": SMALL}, "glands", "30 x 39 px, its image 30 x 40"),
        ({"masks": THREE}, "glands", "3 values"),
        ({"masks": {"a": SMALL["b"]}}, "glands", "no such mask"),
        ({"images": (), "masks": SMALL}, "glands", "holds no images"),
        ({"csv": "image,prompt\na,glands\n"}, "", "'b' has no row"),
        ({"csv": "image,prompt\na,glands\nb,glands\nc,glands\n"}, "", "'c' has no row here, or no file"),
        ({"csv": "image,prompt\na,glands\na,glands\nb,glands\n"}, "", "'glands' twice"),
        ({"csv": "picture,prompt\na,glands\n"}, "", "give image, prompt, mask"),
        ({"csv": "image,prompt\na,\nb,glands\n"}, "", "empty prompt"),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_sentence(tmp_path, settings, prompt, words):
    with pytest.raises(ValueError, match=words) as error:
        read_folder(make(tmp_path, **settings), prompt=prompt)
    assert "\n" not in str(error.value)
