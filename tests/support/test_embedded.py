"""The embedded images: all there, none in two splits, and the test for that finds planted copies."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch.nn.functional import interpolate

from mptpn.io.image import Image, image_from_array
from mptpn.random import generator
from support import embedded
from support.embedded import SAME, SPLITS, overlap

EMPTY_TILES = {"scintigraphy_70", "scintigraphy_71"}  # below the feet: nothing but the noise that is put on them
COUNTS = {"medical train": 60, "medical val": 1, "medical test": 4}
COUNTS |= {"photos train": 11, "photos val": 2, "photos test": 0, "really noisy": 2}


def pools() -> dict[str, tuple[Image, ...]]:
    named = {f"medical {split}": embedded.medical(split) for split in SPLITS}
    named |= {f"photos {split}": embedded.natural(split) for split in SPLITS}
    return named | {"really noisy": embedded.really_noisy()}


def other(pixels) -> Image:
    return Image(name="copy", subject="copy", pixels=pixels, value_range=(0, 1))


def test_the_images_are_gray_float32_in_range_and_large_enough_for_a_patch():
    assert {pool: len(images) for pool, images in pools().items()} == COUNTS
    for pool, images in pools().items():
        for image in images:
            assert image.pixels.dtype == torch.float32 and image.pixels.shape[:2] == (1, 1)
            assert min(image.pixels.shape[2:]) >= 64
            # the EPI's brightest pixels lie beyond what is shown as white
            assert pool == "really noisy" or 0 <= image.pixels.min() <= image.pixels.max() <= 1


def test_every_image_shows_something():
    flat = {image.name for images in pools().values() for image in images if image.pixels.min() == image.pixels.max()}
    assert flat == EMPTY_TILES


def test_no_name_bytes_or_subject_is_there_twice():
    images = [image for pool in pools().values() for image in pool]
    hashes = [image.sha256 for image in images if image.name not in EMPTY_TILES]
    assert len({image.name for image in images}) == len(images) and len(set(hashes)) == len(hashes)
    subjects = [{image.subject for image in pool} for pool in pools().values()]
    assert len(set.union(*subjects)) == sum(map(len, subjects))


@pytest.mark.slow
def test_no_picture_is_in_two_pools_and_no_photograph_there_twice():
    """Every second medical training image against all others; the largest of all pairs is 0.53."""
    named = pools()
    named["medical train"] = named["medical train"][::2]
    across = [(i, j) for a in named for b in named if a < b for i in named[a] for j in named[b]]
    photos = [*embedded.natural("train"), *embedded.natural("val")]
    within = [(i, j) for k, i in enumerate(photos) for j in photos[:k]]
    assert max(overlap(i, j) for i, j in across + within) < SAME - 0.15


def jpeg(pixels):
    file = io.BytesIO()
    Picture.fromarray((pixels[0, 0] * 255).round().byte().numpy()).save(file, "JPEG", quality=60)
    return torch.from_numpy(np.asarray(Picture.open(file)).copy()).float()[None, None] / 255


def half(pixels, top=0.25, left=0.25):
    height, width = pixels.shape[2:]
    return pixels[:, :, int(top * height) :, int(left * width) :][:, :, : height // 2, : width // 2]


def rescaled(pixels):
    size = (int(pixels.shape[2] * 0.6), int(pixels.shape[3] * 0.6))
    return interpolate(pixels, size, mode="bilinear", antialias=True)


COPIES = {
    "rescaled to 60 %": rescaled,
    "squeezed": lambda x: interpolate(x, (x.shape[2] // 2, x.shape[3] // 3), mode="area"),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "corner half": lambda x: half(x, 0.0, 0.5),
    "JPEG, flipped, half": lambda x: half(jpeg(x).flip(3), 0.0, 0.25),
    "darker": lambda x: 0.3 * x + 0.1,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_planted_copy_is_found(how):
    originals = [image for pool in pools().values() for image in pool[::8]]
    assert min(overlap(image, other(COPIES[how](image.pixels))) for image in originals) > SAME + 0.05


def test_a_head_and_a_retina_do_not_look_like_copies():
    """Without the high-pass of the thumbnails their correlation is 0.92."""
    retina = next(image for image in embedded.medical("train") if image.name == "retina_03")
    assert overlap(embedded.medical("test")[0], retina) < SAME - 0.15


def test_flat_windows_overlap_with_nothing():
    flat = torch.full((1, 1, 40, 61), 0.1)
    flat[..., 0, 0] = 0.1 + 1e-7
    assert overlap(other(flat), embedded.medical("test")[0]) < 0.1


@pytest.mark.parametrize("pool", [embedded.medical, embedded.natural])
def test_an_unknown_split_is_refused(pool):
    with pytest.raises(ValueError, match="'validation'.*train, val, test"):
        pool("validation")


def test_tiles_cover_the_image_once_and_share_its_subject():
    image = image_from_array(np.arange(8.0 * 9).reshape(8, 9), name="x", subject="somebody")
    cut = embedded.tiles(image, rows=2, cols=3)
    pixels = torch.cat([tile.pixels.flatten() for tile in cut])
    assert sorted(pixels.tolist()) == sorted(image.pixels.flatten().tolist())
    assert cut[1].pixels.equal(image.pixels[:, :, :4, 3:6]) and cut[1].name == "x_01"
    assert {tile.subject for tile in cut} == {"somebody"}


def test_halving_is_the_mean_of_2_by_2_blocks():
    array = torch.rand(41, 30, generator=generator(0), dtype=torch.float64).numpy()
    blocks = [array[r:40:2, c:30:2] for r in (0, 1) for c in (0, 1)]
    np.testing.assert_allclose(embedded.halved(array), np.mean(blocks, 0), atol=1e-12)
