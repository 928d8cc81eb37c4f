"""The embedded images: all there, none in two splits, and the test for that finds planted copies."""

import io

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from torch.nn.functional import avg_pool2d, interpolate

from mptpn.io.image import Image, image_from_array
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support import embedded
from support.embedded import SAME, SPLITS, overlap

EMPTY_TILES = {"scintigraphy_70", "scintigraphy_71"}  # below the feet: nothing but the noise that is put on them


def pools() -> dict[str, tuple[Image, ...]]:
    medical = {f"medical {split}": embedded.medical(split) for split in SPLITS}
    return (
        medical
        | {f"photos {split}": embedded.natural(split) for split in SPLITS}
        | {"really noisy": embedded.really_noisy()}
    )


def other(pixels) -> Image:
    return Image(name="copy", subject="copy", pixels=pixels, value_range=(0, 1))


def across_pools() -> list[tuple[Image, Image]]:
    named = pools()
    named["medical train"] = named["medical train"][::2]
    return [(i, j) for a in named for b in named if a < b for i in named[a] for j in named[b]]


@pytest.mark.parametrize("pool", pools())
def test_images_are_gray_float32_and_large_enough_for_a_patch(pool):
    for image in pools()[pool]:
        assert (
            image.pixels.dtype == torch.float32
            and image.pixels.shape[:2] == (1, 1)
            and min(image.pixels.shape[2:]) >= 64
        )


# the EPI's brightest pixels lie beyond what is shown as white
@pytest.mark.parametrize("pool", sorted(pools().keys() - {"really noisy"}))
def test_images_lie_inside_their_range(pool):
    assert all(0 <= image.pixels.min() and image.pixels.max() <= 1 for image in pools()[pool])


def test_every_image_shows_something():
    flat = {image.name for images in pools().values() for image in images if image.pixels.min() == image.pixels.max()}
    assert flat == EMPTY_TILES


def test_the_sets_are_as_large_as_they_say():
    assert {pool: len(images) for pool, images in pools().items()} == {
        "medical train": 60, "medical val": 1, "medical test": 4, "photos train": 11, "photos val": 2, "photos test": 0, "really noisy": 2,
    }  # fmt: skip


def test_names_are_unique():
    names = [image.name for images in pools().values() for image in images]
    assert len(names) == len(set(names))


def test_no_subject_is_in_two_pools():
    subjects = [{image.subject for image in images} for images in pools().values()]
    assert len(set.union(*subjects)) == sum(map(len, subjects))


def test_no_bytes_are_there_twice():
    hashes = [image.sha256 for images in pools().values() for image in images if image.name not in EMPTY_TILES]
    assert len(hashes) == len(set(hashes))


def test_no_picture_is_in_two_pools():
    """Every second medical training image against all others; the largest of all pairs is 0.53 (a rocket, a
    scintigraphy).
    """
    assert max(overlap(i, j) for i, j in across_pools()) < SAME - 0.15


def test_no_photograph_is_there_twice():
    photos = [*embedded.natural("train"), *embedded.natural("val")]
    assert max(overlap(i, j) for k, i in enumerate(photos) for j in photos[:k]) < SAME - 0.15


def jpeg(pixels):
    file = io.BytesIO()
    Picture.fromarray((pixels[0, 0] * 255).round().byte().numpy()).save(file, "JPEG", quality=60)
    return torch.from_numpy(np.asarray(Picture.open(file)).copy()).float()[None, None] / 255


def half(pixels, top=0.25, left=0.25):
    height, width = pixels.shape[2:]
    return pixels[:, :, int(top * height) :, int(left * width) :][:, :, : height // 2, : width // 2]


COPIES = {
    "rescaled to 60 %": lambda x: interpolate(
        x, (int(x.shape[2] * 0.6), int(x.shape[3] * 0.6)), mode="bilinear", antialias=True
    ),
    "rescaled to 137 %": lambda x: interpolate(x, (int(x.shape[2] * 1.37), int(x.shape[3] * 1.37)), mode="bicubic"),
    "squeezed": lambda x: interpolate(x, (x.shape[2] // 2, x.shape[3] // 3), mode="area"),
    "flipped": lambda x: x.flip(3),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "middle half": half,
    "corner half": lambda x: half(x, 0.0, 0.5),
    "JPEG at quality 60": jpeg,
    "JPEG, flipped, half": lambda x: half(jpeg(x).flip(3), 0.0, 0.25),
    "darker": lambda x: 0.3 * x + 0.1,
}


@pytest.mark.parametrize("how", COPIES)
def test_a_planted_copy_is_found(how):
    originals = [image for pool in pools().values() for image in pool[::4]]
    assert min(overlap(image, other(COPIES[how](image.pixels))) for image in originals) > SAME + 0.05


def test_without_the_high_pass_a_head_and_a_retina_look_like_copies():
    """The fault that the high-pass cures: on raw thumbnails the head MR and a retina tile correlate more than SAME."""

    def thumbnail(image):
        small = interpolate(image.pixels, (16, 16), mode="area").flatten()
        return (small - small.mean()) / (small - small.mean()).norm()

    head = embedded.medical("test")[0]
    retina = next(image for image in embedded.medical("train") if image.name == "retina_03")
    quarters = [half(head.pixels, top, left) for top in (0, 0.25, 0.5) for left in (0, 0.25, 0.5)]
    assert (
        max(float(thumbnail(retina) @ thumbnail(other(x.rot90(k, (2, 3))))) for x in quarters for k in range(4))
        > SAME
        > overlap(head, retina) + 0.15
    )


def test_overlap_is_symmetric():
    first, second = embedded.medical("test")[0], embedded.natural("val")[0]
    assert overlap(first, second) == pytest.approx(overlap(second, first), abs=1e-6)  # float32 sums of 1024 products


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
    assert sorted(torch.cat([tile.pixels.flatten() for tile in cut]).tolist()) == sorted(
        image.pixels.flatten().tolist()
    )
    assert {tile.subject for tile in cut} == {"somebody"} and len({tile.name for tile in cut}) == 6


def test_halving_the_sampling_halves_white_noise():
    noisy = PoissonGaussian(1.0).sample(torch.zeros(1, 1, 400, 301), generator=generator(0)).double()
    # 30 000 independent means of 4: relative standard error of a deviation 1 / sqrt(2 n) = 0.4 %; five of them
    assert np.std(embedded.halved(noisy[0, 0].numpy())) == pytest.approx(0.5, rel=0.02)
    np.testing.assert_allclose(embedded.halved(noisy[0, 0].numpy()), avg_pool2d(noisy, 2)[0, 0].numpy(), atol=1e-12)
