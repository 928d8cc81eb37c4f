"""The transform of MONAI: in a Compose of a public tutorial, its meta data, its axes, what it refuses."""

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

import mptpn

pytest.importorskip("monai", reason="MONAI is not installed: pip install mptpn[monai]")
pytestmark = pytest.mark.filterwarnings("ignore")  # of MONAI, and the verdicts of so small images

from monai.data import MetaTensor  # noqa: E402
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd  # noqa: E402

from mptpn.monai import Denoise, Denoised  # noqa: E402

SIGMA = 20.0
AFFINE = np.array([[-1.5, 0, 0, 40], [0, -1.5, 0, 50], [0, 0, 4.0, -60], [0, 0, 0, 1]])


def scene(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """A smooth volume without noise, and with white noise of SIGMA."""
    random = np.random.default_rng(seed)
    clean = gaussian_filter(random.normal(size=shape), (6, 6, 0)[: len(shape)])
    clean = 400 * (clean - clean.min()) / np.ptp(clean)
    return clean, clean + SIGMA * random.normal(size=shape)


CLEAN, NOISY = scene(0, 72, 56, 3)


@pytest.fixture
def files(tmp_path) -> dict[str, str]:
    nib.save(nib.Nifti1Image(NOISY.astype(np.int16), AFFINE), tmp_path / "image.nii.gz")
    nib.save(nib.Nifti1Image((CLEAN > 200).astype(np.uint8), AFFINE), tmp_path / "label.nii.gz")
    return {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}


def test_it_denoises_in_the_compose_of_the_spleen_tutorial_and_keeps_its_geometry(files):
    def transforms(*denoised):
        return Compose(
            [
                LoadImaged(keys=["image", "label"]),
                EnsureChannelFirstd(keys=["image", "label"]),
                Orientationd(keys=["image", "label"], axcodes="RAS"),
                *denoised,
                Spacingd(keys=["image", "label"], pixdim=(1.5, 1.5, 2.0), mode=("bilinear", "nearest")),
                ScaleIntensityRanged(keys=["image"], a_min=0, a_max=400, b_min=0.0, b_max=1.0, clip=True),
            ]
        )

    plain, done = transforms()(files), transforms(Denoised(keys="image"))(files)
    image = done["image"]
    assert isinstance(image, MetaTensor) and image.dtype == plain["image"].dtype
    assert torch.equal(image.affine, plain["image"].affine)
    assert len(image.applied_operations) == len(plain["image"].applied_operations)
    assert image.meta["noise_sigma"] == pytest.approx(SIGMA, rel=0.1)
    assert torch.equal(done["label"], plain["label"])
    truth = torch.from_numpy(CLEAN[::-1, ::-1].copy()) / 400  # in RAS
    error = [float((x["image"][0, :, :, ::2] - truth).square().mean()) for x in (plain, done)]
    assert error[1] < error[0] / 4


def test_a_volume_has_one_noise_model_and_its_slices_lie_along_the_axis_that_is_said():
    volume = MetaTensor(torch.from_numpy(NOISY[None].astype(np.float32)), affine=torch.eye(4))
    last = Denoise()(volume)
    expected = mptpn.denoise(NOISY.astype(np.float32), axes="YXZ").image
    np.testing.assert_array_equal(last[0].numpy(), expected)
    first = Denoise(slice_axis=0)(volume.permute(0, 3, 1, 2))
    np.testing.assert_array_equal(first[0].permute(1, 2, 0).numpy(), expected)


def test_channels_have_a_noise_model_each():
    image = np.stack([NOISY[..., 0], 10 * NOISY[..., 1]]).astype(np.float32)
    done = Denoise()(image)
    for channel, alone in zip(done, image, strict=True):
        np.testing.assert_array_equal(channel, mptpn.denoise(alone).image)


@pytest.mark.parametrize("dtype", [np.float64, np.int16])
def test_class_and_type_stay_and_the_same_input_gives_the_same_output(dtype):
    image = NOISY[None, :, :, 0].astype(dtype)
    before, denoise = image.copy(), Denoise(strength=0.5)
    first, tensor = denoise(image), denoise(torch.from_numpy(image))
    assert type(first) is np.ndarray and type(tensor) is torch.Tensor
    assert first.dtype == dtype and tensor.numpy().dtype == dtype
    np.testing.assert_array_equal(first, tensor.numpy())
    np.testing.assert_array_equal(image, before)
    assert (first != image).any()


def test_strength_0_is_the_input():
    image = NOISY[None, :, :, 0].astype(np.float32)
    np.testing.assert_array_equal(Denoise(strength=0.0)(image), image)


def test_a_missing_key_is_named_with_those_that_are_there():
    data = {"image": NOISY[None, :, :, 0], "label": 1}
    with pytest.raises(KeyError, match="there is no 'imgae' to denoise; the data has 'image', 'label'."):
        Denoised(keys="imgae")(data)
    assert Denoised(keys="imgae", allow_missing_keys=True)(data).keys() == data.keys()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64)), r"image: an image of shape \(64, 64\) is not channel-first"),
        (np.zeros((1, 1, 8, 64, 64)), r"is not channel-first"),
        (np.zeros((1, 64, 64)), "image: .*constant"),
        (np.full((1, 64, 64), np.nan), "image: "),
        (np.random.default_rng(0).normal(size=(1, 64, 8)), "image: .*16"),
    ],
)
def test_a_wrong_image_is_refused_by_its_key(image, message):
    with pytest.raises(ValueError, match=message):
        Denoised(keys="image")({"image": image})


def test_a_wrong_setting_is_refused_at_once():
    with pytest.raises(ValueError, match="slice_axis 3"):
        Denoise(slice_axis=3)
    with pytest.raises(ValueError, match="strength"):
        Denoised(keys="image", strength=2)
