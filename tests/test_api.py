"""The public door and the command: images come in any unit and leave in it, a folder becomes three files, what is wrong
is said in one sentence.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture

import mptpn
from file_makers import save_dicom
from mptpn import api
from mptpn.__main__ import main
from mptpn.api import estimate_noise
from mptpn.io import photographs
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load_weights
from mptpn.noise.estimate import NoiseEstimate
from mptpn.noise.models import CorrelatedGaussian, NoiseLevelFunction, PoissonGaussian, Rician, Speckle
from mptpn.random import generator
from mptpn.stages import pipeline
from mptpn.stages.folder import NO_NOISE
from mptpn.stages.profound import denoise

PAIR = ((0.0, 0.0, 0.0), (0.5, 1.0, 0.5), (0.0, 0.0, 0.0))
LAWS = {
    "gaussian": PoissonGaussian(0.05),
    "poisson_gaussian": PoissonGaussian(0.02, gain=0.02),
    "free": NoiseLevelFunction((0.1, 0.5, 0.9), (0.0004, 0.0064, 0.0004)),
    "rician": Rician(0.15),
    "speckle": Speckle(12.0),
    "correlated gaussian": CorrelatedGaussian(PoissonGaussian(0.05), PAIR),
}


def waves(height: int, width: int) -> torch.Tensor:
    rows, cols = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (0.5 + 0.4 * torch.sin(rows / 25) * torch.cos(cols / 31))[None, None]


def noisy(height: int = 90, width: int = 111, *, key: int = 2) -> np.ndarray:
    """Whole gray levels of 255 under white noise of 10, none of them cut off."""
    clean = 255 * (0.3 + 0.4 * waves(height, width))
    return (
        (clean + 10 * torch.randn(clean.shape, generator=generator(key, height, width)))[0, 0]
        .round()
        .clamp(1, 254)
        .numpy()
        .astype(np.float64)
    )


def numbers(found: NoiseEstimate) -> list[float]:
    return [
        found.sigma,
        *found.sigma_interval,
        found.mean,
        *found.level,
        *found.intensity,
        *(x for pair in found.parameters.values() for x in pair),
    ]


def same(found: NoiseEstimate, wanted: NoiseEstimate, *, rel: float = 1e-6) -> bool:
    return (found.kind, found.half_size, found.findings) == (
        wanted.kind,
        wanted.half_size,
        wanted.findings,
    ) and numbers(found) == pytest.approx(numbers(wanted), rel=rel)


@pytest.fixture(scope="module")
def wanted() -> NoiseEstimate:
    return estimate_noise(noisy())


def test_the_level_of_an_array_is_found_in_its_own_unit(wanted):
    """Errors of the level are 3 % on 10 000 pixels; whole gray levels add 1/12 to a variance of 100."""
    assert wanted.sigma == pytest.approx(10, rel=0.08) and wanted.sigma_interval[0] < 10 < wanted.sigma_interval[1]
    assert (
        wanted.mean == pytest.approx(noisy().mean(), rel=0.02)
        and wanted.kind == "gaussian"
        and wanted.noise_model == PoissonGaussian(wanted.sigma)
    )


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int64, np.float16, np.float32, np.float64])
def test_every_type_of_number_gives_the_same_report(wanted, kind):
    assert same(estimate_noise(noisy().astype(kind)), wanted)


def test_a_set_has_one_unit_and_not_one_for_each_image():
    """The second image is brighter by half and its noise as strong: in a unit of its own it would seem weaker."""
    both = estimate_noise([noisy(), noisy(key=1) * 0.1 + 900])
    assert estimate_noise([noisy(), noisy(key=1) + 900]).sigma == pytest.approx(10, rel=0.08)
    assert both.variance(900) < 0.1 * both.variance(100)  # the planted fault: its noise is a tenth


def test_colour_becomes_luminance_and_alpha_is_dropped(wanted):
    gray = np.repeat(noisy()[..., None], 3, axis=2)
    assert same(estimate_noise(gray), wanted, rel=1e-4)
    assert same(estimate_noise(np.concatenate([gray, np.full((*gray.shape[:2], 1), 7.0)], 2)), wanted, rel=1e-4)


@pytest.mark.parametrize("factor", [1000.0, 1e-6])
@pytest.mark.parametrize("kind", LAWS)
def test_the_estimate_of_a_multiple_is_the_multiple_of_the_estimate(kind, factor):
    array = LAWS[kind].sample(0.05 + 0.9 * waves(120, 151), generator=generator(3))[0, 0].double().abs().numpy()
    plain, scaled = estimate_noise(array), estimate_noise(factor * array)
    assert plain.kind == scaled.kind == kind
    for name in ("sigma", "mean", "sigma_interval", "intensity", "level"):
        assert getattr(scaled, name) == pytest.approx(factor * np.array(getattr(plain, name)), rel=1e-5)
    for name, pair in plain.parameters.items():
        assert scaled.parameters[name] == pytest.approx(np.array(pair) * (1 if name == "looks" else factor), rel=1e-4)
    at = np.array(plain.intensity)
    np.testing.assert_allclose(scaled.variance(factor * at), factor**2 * plain.variance(at), rtol=1e-4)
    assert scaled.error == pytest.approx(plain.error, rel=1e-5) and torch.allclose(
        scaled.correlation, plain.correlation, atol=1e-5
    )


@pytest.mark.parametrize(
    "noise_model",
    [noise_model for noise_model in LAWS.values() if not isinstance(noise_model, Rician | Speckle)],
    ids=str,
)
def test_a_law_in_another_unit_has_the_same_noise_at_the_same_place(noise_model):
    """Unit 40 and zero -1000, as from 0..1 to Hounsfield units."""
    at = torch.linspace(0, 1, 50, dtype=torch.float64)
    blank = NoiseEstimate(
        0.1, (0.05, 0.2), 0.5, "free", noise_model, {}, (0.1,), (0.2,), (0.3,), torch.ones(7, 7), (0, 0), ()
    )
    moved = blank.in_unit(40.0, zero=-1000.0)
    np.testing.assert_allclose(moved.noise_model.variance(40 * at - 1000), 1600 * noise_model.variance(at), rtol=1e-9)
    assert (moved.sigma, moved.sigma_interval, moved.mean, moved.intensity, moved.level, moved.error) == (
        4,
        (2, 8),
        -980,
        (-996,),
        (8,),
        (0.3,),
    )


@pytest.mark.parametrize("shift", [-1024.0, 1e3, 3e4])
def test_an_offset_moves_intensities_and_no_level(shift):
    """Hounsfield units have air at -1000. At 3e4 float32 has steps of 2e-3 to noise of 10 and more."""
    array = LAWS["poisson_gaussian"].sample(waves(120, 151), generator=generator(4))[0, 0].double().numpy() * 1000
    plain, moved = estimate_noise(array), estimate_noise(array + shift)
    assert moved.kind == plain.kind == "poisson_gaussian" and moved.mean == pytest.approx(plain.mean + shift, abs=0.01)
    assert moved.sigma == pytest.approx(plain.sigma, rel=2e-3)
    at = np.array(plain.intensity)
    np.testing.assert_allclose(moved.variance(at + shift), plain.variance(at), rtol=5e-3)


def test_nothing_below_zero_means_that_noise_may_be_magnitude_noise():
    array = Rician(0.15).sample(waves(120, 151), generator=generator(3))[0, 0].numpy()
    assert estimate_noise(array).kind == "rician" and estimate_noise(array - 0.3).kind != "rician"


def test_the_package_itself_offers_the_door():
    assert mptpn.estimate_noise is estimate_noise and all(callable(getattr(mptpn, name)) for name in mptpn.PUBLIC)
    with pytest.raises(AttributeError, match="'mptpn' has no attribute 'estimate'"):
        mptpn.estimate  # noqa: B018
    code = (
        "import sys, mptpn, mptpn.io; print('torch' in sys.modules, 'mptpn.api' in sys.modules); mptpn.estimate_noise"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "True False\n" and answer.returncode == 0, answer.stderr


def test_what_only_training_needs_is_not_imported_by_the_commands():
    code = "import sys, mptpn.api, mptpn.batch; print({'lightning', 'torch._dynamo', 'matplotlib'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "set()\n", answer.stderr


def test_no_command_loads_the_compiler_of_pytorch(tmp_path):
    """It takes 1.5 s of every call; sums on the meta device and custom operators load it unasked."""
    np.save(tmp_path / "scan.npy", noisy(96, 96))
    calls = ["denoise scan.npy --out denoised", "noise scan.npy", "enlarge scan.npy --out large.npy"]
    code = "import sys; from mptpn.__main__ import main; main(); print('compiler', 'torch._dynamo' in sys.modules)"
    for call in calls:
        command = [sys.executable, "-c", code, *call.split()]
        answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert answer.stdout.endswith("compiler False\n"), call + answer.stdout + answer.stderr


GOOD = noisy(40, 41)
WRONG = {
    "nan": (np.where(np.arange(40)[:, None] == 3, np.nan, GOOD), r"image 1: 41 of 1640 pixels are NaN or infinite"),
    "inf": (np.where(np.eye(40, 41) > 0, np.inf, GOOD), r"image 1: 40 of 1640 pixels are NaN or infinite"),
    "constant": (np.full((30, 30), 7), r"image 1: every pixel is 7; a constant image holds no noise"),
    "zeros": (torch.zeros(30, 30), r"image 1: every pixel is 0"),
    "bool": (GOOD > 100, r"image 1: pixels of type bool are not gray levels"),
    "complex": (GOOD * 1j, r"image 1: pixels of type complex128"),
    "text": (np.array([["a"] * 20] * 20), r"image 1: pixels of type <U1"),
    "None": (None, r"image 1: pixels of type object"),
    "empty": (np.zeros((0, 40)), r"image 1: the image is empty"),
    "number": (3.0, r"image 1: shape \(\) is not an image"),
    "line": (np.arange(50), r"image 1: shape \(50,\) is not an image; give \[H, W\]"),
    "stack": (np.zeros((10, 40, 40)), r"image 1: shape \(10, 40, 40\) is not an image; .*several images as a list"),
    "small": (GOOD[:5, :5], r"image 1: 5 x 5 pixels are too few .* at least 16 x 16"),
    "narrow": (GOOD[:, :15], r"image 1: 40 x 15 pixels are too few"),
}


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        ([GOOD, GOOD], {"subjects": [1]}, "^subjects: 1 given for 2 images"),
        ([GOOD, GOOD], {"subjects": 5}, "^subjects 5: give a list"),
        ([GOOD, GOOD], {"valid": [GOOD > 0]}, "^valid: 1 given for 2 images"),
        (GOOD, {"valid": GOOD < 0}, "no pixel is valid"),
        (GOOD, {"valid": np.ones(GOOD.shape, int)}, "the mask is int64"),
        (np.stack([GOOD] * 3), {"valid": GOOD < 0, "axes": "ZYX"}, "no pixel is valid"),
        (np.ma.masked_greater(GOOD, 120), {}, "a masked array: .* valid=~image.mask"),
        ([GOOD, np.ma.masked_greater(GOOD, 120)], {}, "a masked array"),
    ],
)
def test_masks_and_subjects_that_do_not_fit_are_named(images, settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        estimate_noise(images, **settings)


def test_a_masked_array_without_a_masked_pixel_is_an_array():
    assert estimate_noise(np.ma.masked_array(GOOD)).sigma == estimate_noise(GOOD).sigma


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"photos": "photos"}, "^photos 'photos': are no images; give those of mptpn.api.read_folder"),
        ({"photos": [GOOD]}, "^photos .array.*: are no images"),
        ({"minutes": "3"}, "^minutes '3': is no number"),
    ],
)
def test_what_a_training_cannot_take_is_named_before_the_folder_is_read(settings, message):
    with pytest.raises(TypeError, match=message):
        mptpn.train("nowhere", out="x.safetensors", **settings)


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """A folder to stand in, with a noisy image and many other things."""
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", noisy())
    np.save("five.npy", noisy()[:5, :5])
    np.save("six.npy", np.zeros((1, 2, 2, 3, 40, 40)))
    np.save("constant.npy", np.full((40, 40), 7.0))
    np.save("nan.npy", np.full((40, 40), np.nan))
    np.save("pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    Path("b.txt").write_text("hello\n")
    Path("text.png").write_text("no picture")
    Path("zero.tif").touch()
    Path("folder").mkdir()
    return tmp_path


FILES = {
    "five.npy": r"five\.npy: 5 x 5 pixels are too few",
    "six.npy": r"six\.npy: shape \(1, 2, 2, 3, 40, 40\) is no image",
    "constant.npy": r"constant\.npy: every pixel is 7",
    "nan.npy": r"nan\.npy: 1600 of 1600 pixels are NaN",
    "pickled.npy": r"pickled\.npy: holds pickled objects",
    "b.txt": r"b\.txt: is no image of a known type",
    "text.png": r"text\.png: is no image of a known type",
    "zero.tif": r"zero\.tif: is empty, 0 bytes",
    "folder": r"folder: is a folder; give one file",
    "nowhere.png": r"nowhere\.png: no such file",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_image_is_refused_by_its_name(shelf, name):
    for path in (name, Path(name), [shelf / "a.npy", name]):
        with pytest.raises(
            FileNotFoundError if name == "nowhere.png" else ValueError, match=f"^{FILES[name]}"
        ) as caught:
            estimate_noise(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["noise"],
        ["train", "folder"],
        ["train", "folder", "--out", "x.safetensors", "--minutes", "soon"],
        ["denoise"],
    ],
)
def test_a_command_that_lacks_something_is_explained_before_torch_is_loaded(arguments, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    assert capsys.readouterr().err.startswith("usage: mptpn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minutes", "3"], "--minutes is the budget of --model self"),
        (["--minutes", "3", "--model", "small"], "--minutes is the budget of --model self"),
        (["--parametric-map"], "--parametric-map writes the uncertainty; give --uncertainty too"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(options, message, capsys):
    with pytest.raises(SystemExit, match="^2$"):
        main(["denoise", "a.npy", "--out", "out", *options])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["enlarge", "a.npy", "--out", "large.npy"], "large.npy"),
        (["train", "folder", "--out", "my.safetensors"], "my.safetensors"),
        (["train", "folder", "--out", "my.safetensors"], "my.json"),
    ],
)
def test_what_is_there_is_replaced_on_purpose_alone(shelf, command, name, capsys):
    Path(name).write_text("mine")
    assert main(command) == 1 and Path(name).read_text() == "mine"
    assert f"{name}: exists already; choose another name, or replace it with --overwrite." in capsys.readouterr().err
    code = main([*command, "--overwrite"])
    assert (code, Path(name).read_bytes() != b"mine") == ((0, True) if name == "large.npy" else (1, False))
    assert "exists already" not in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["HU", ""])
def test_the_noise_is_printed_in_the_unit_of_the_file(tmp_path, unit, capsys):
    tags = {"RescaleSlope": 1, "RescaleIntercept": 0, "RescaleType": unit} if unit else {}
    save_dicom(tmp_path / "scan.dcm", noisy(64, 70).astype(np.int16), **tags)
    assert main(["noise", str(tmp_path / "scan.dcm")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert re.search(rf"at intensity [\d.e+-]+{unit and ' ' + unit}$", first)


def test_help_needs_no_torch():
    """The answer comes at once: nothing heavy is imported for it."""
    code = "import sys; from mptpn.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: "
    code += "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert "noise" in answer.stdout and "train" in answer.stdout and answer.stdout.endswith("[]\n")


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """A folder of three small noisy images of level 20 in units of their own, others that teach nothing (one of them
    smaller, of another range) and other files among them, and two photographs.
    """
    torch.set_num_threads(1)
    box = tmp_path_factory.mktemp("box")
    (box / "noisy/inside").mkdir(parents=True)
    np.save(box / "noisy/black.npy", np.zeros((64, 64)))
    np.save(box / "noisy/inside/0.npy", np.where(np.arange(20)[:, None] < 10, -1e7, 1e7) * np.ones(20))
    for i, (height, width) in enumerate([(64, 64), (65, 80), (70, 33)]):
        np.save(box / f"noisy/{i}.npy", 2 * noisy(height, width, key=i) - 1000)
    (box / "noisy/notes.txt").write_text("not an image")
    (box / "noisy/.hidden").write_text("left alone")
    np.save(box / "noisy/stamp.npy", noisy(9, 9))
    (box / "photos").mkdir()
    for i in range(2):
        Picture.fromarray(noisy(70, 81, key=9 + i).astype(np.uint8)).save(box / f"photos/{i}.png")
    return box


def command(box: Path, name: str = "net", *, minutes: str = "0.04", folder: str = "noisy") -> list[str]:
    out = str(box / f"{name}/denoiser.safetensors")
    return [
        "train",
        str(box / folder),
        "--out",
        out,
        "--minutes",
        minutes,
        "--photos",
        str(box / "photos"),
        "--accelerator",
        "cpu",
    ]


def interrupted(*_, **__):
    raise KeyboardInterrupt


def is_no_number(text: str):
    raise AssertionError(f"{text} is no JSON")


@pytest.fixture(scope="module")
def trained(box) -> tuple[dict, str, str, str]:
    """The report of a training that was stopped between stages 1 and 3 and went on; what the first and the second call
    said; what is printed at the end.
    """
    said = [StringIO(), StringIO()]
    out = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said[0]):
        patch.setattr(pipeline, "stage_3", interrupted)
        assert main(command(box)) == 130
    assert sorted(path.name for path in (box / "net").iterdir()) == ["denoiser.stage1.checkpoint.pt"]
    steps = torch.load(box / "net/denoiser.stage1.checkpoint.pt", weights_only=True)["step"]
    with redirect_stderr(said[1]), redirect_stdout(out):
        assert main(command(box)) == 0
    about = json.loads((box / "net/denoiser.json").read_text(), parse_constant=is_no_number)
    assert about["steps"][0] == steps > 0  # its budget was spent: not one step more
    return about, said[0].getvalue(), said[1].getvalue(), out.getvalue()


def test_the_report_says_what_was_trained_on_and_what_was_left_out(trained):
    about, _, said, out = trained
    assert about["images"] == ["0.npy", "1.npy", "2.npy"] and set(about["left_out"]) == {
        "notes.txt",
        "stamp.npy",
        "black.npy",
        "inside/0.npy",
    }
    assert (
        about["left_out"]["notes.txt"].startswith("is no image of a known type")
        and "smaller than 16 x 16" in about["left_out"]["stamp.npy"]
    )
    assert (
        "every pixel is 0" in about["left_out"]["black.npy"]
        and "all is constant or clipped" in about["left_out"]["inside/0.npy"]
    )
    assert all(f"left out {name}: {reason}" in said for name, reason in about["left_out"].items())
    assert (
        about["minutes"] == 0.04
        and about["seed"] == 0
        and about["seconds"] > 0
        and len(about["steps"]) == 2
        and min(about["steps"]) > 0
    )
    assert f"trained on 3 images, {about['steps'][0]} and {about['steps'][1]} steps" in out


def test_the_noise_in_the_report_is_in_the_images_own_unit(trained):
    """Level 20 at intensities about -750; images of 2300 pixels at least, errors of 5 %."""
    about = trained[0]
    assert (
        about["sigma"] == pytest.approx([20, 20, 20], rel=0.15)
        and len(about["correlation"]) == 7
        and about["blind_spot"] == [1, 1]
    )
    assert about["levels"][0] <= 0.9 and about["levels"][1] >= 1.1
    assert "Gaussian noise, sigma " in about["noise"] and about["noise"] in trained[2]
    assert float(about["noise"].split("sigma ")[1].split()[0]) == pytest.approx(20, rel=0.1)
    assert float(about["noise"].split("intensity ")[1].split()[0]) == pytest.approx(-745, rel=0.05)


def test_both_networks_load_and_carry_what_they_are(trained, box):
    student, note = load_weights(box / "net/denoiser.safetensors", RetractableTransformer)
    blind, _ = load_weights(box / "net/denoiser.stage1.safetensors", BlindSpotNetwork)
    assert note == trained[0] and blind.half_size == (0, 0) and not blind.training
    with torch.no_grad():
        image = torch.from_numpy(noisy(37, 51)).float()[None, None]
        assert denoise(student, image).isfinite().all() and all(x.isfinite().all() for x in blind(image / 255))


def test_a_training_without_photographs_takes_those_in_the_box(box, monkeypatch, capsys):
    """Up to the point where stage 2 has them."""
    seen = []
    monkeypatch.setattr(
        pipeline, "stage_2", lambda noisy, photos, *, patch, **_: seen.append((len(photos), patch)) or interrupted()
    )
    arguments = command(box, "boxed", minutes="0.001")
    del arguments[arguments.index("--photos") : arguments.index("--photos") + 2]
    assert main(arguments) == 130 and seen == [(len(photographs.natural("train")), 33)]  # the smallest that is kept


def test_a_folder_gives_the_slices_of_all_that_lies_in_it_and_below(tmp_path):
    random = np.random.default_rng(0)
    volume = random.random((5, 20, 21))
    np.save(tmp_path / "v.npy", volume)
    np.save(tmp_path / "flat.npy", np.full((3, 20, 20), 7.0))
    Picture.fromarray(noisy(20, 33).astype(np.uint8)).save(tmp_path / "lzw.tif", compression="tiff_lzw")
    slices = random.integers(0, 999, (3, 18, 19), dtype=np.int16)
    for number in range(3):
        save_dicom(tmp_path / f"below/ct/{number}.dcm", slices[number], number=number + 1, place=2.5 * number)
        save_dicom(tmp_path / f"below/void/{number}.dcm", 0 * slices[number], number=number + 1, series="1.9")
        save_dicom(tmp_path / f"below/sizes/{number}.dcm", slices[number][number:], number=number + 1, series="1.8")
    images, left_out = api.read_folder(tmp_path)
    assert [image.name for image in images] == [
        "lzw.tif",
        *(f"v.npy slice {n}" for n in range(1, 6)),
        *(f"below/ct slice {n}" for n in range(1, 4)),
        *(f"below/sizes/{n}.dcm" for n in range(3)),
    ]
    np.testing.assert_allclose([image.array for image in images[1:6]], volume, atol=1e-6)
    np.testing.assert_allclose([image.array for image in images[6:9]], slices, atol=1e-3)
    assert [image.name for image in api.read_folder(tmp_path / "below/ct")[0]] == [f"ct slice {n}" for n in range(1, 4)]
    none = "none of its 3 slices can be learned from: every pixel is"
    assert sorted(left_out) == ["below/void/0.dcm", "flat.npy"]
    assert all(left_out[name].startswith(none) for name in ("below/void/0.dcm", "flat.npy"))


def test_results_of_denoise_are_no_noisy_images(tmp_path):
    Picture.fromarray(noisy(40, 42).astype(np.uint8)).save(tmp_path / "a.png")
    for number in (1, 2):
        save_dicom(tmp_path / f"out/ct/{number}.dcm", noisy(20, 20).astype(np.int16), number=number, place=2.5 * number)
    for name in ("a.png", "a.png.trust.png"):
        shutil.copy(tmp_path / "a.png", tmp_path / f"out/{name}")
    np.save(tmp_path / "out/a.png.uncertainty.npy", noisy(40, 42))
    for name in ("a.png", "ct"):
        (tmp_path / f"out/{name}.trust.json").write_text("{}")
    images, left_out = api.read_folder(tmp_path)
    assert [image.name for image in images] == ["a.png"]
    assert {name for name, reason in left_out.items() if reason == "a result of mptpn denoise"} == {
        "out/a.png",
        "out/a.png.trust.png",
        "out/a.png.uncertainty.npy",
        "out/a.png.trust.json",
        "out/ct.trust.json",
        "out/ct/1.dcm",
        "out/ct/2.dcm",
    }


@pytest.mark.parametrize(
    "change, message",
    [
        ({1: "nowhere"}, "nowhere: no such folder; give a folder of noisy images."),
        ({1: "noisy/0.npy"}, "noisy/0.npy: no such folder"),
        ({1: "empty"}, "empty: no image in this folder (0 other files)"),
        ({1: "words"}, "words: no image in this folder (1 other files)"),
        ({3: "net.pt"}, "net.pt: weights are written as .safetensors; choose this ending."),
        ({3: "net"}, "net: weights are written as .safetensors"),
        ({5: "0"}, "minutes 0.0: give a finite budget above 0."),
        ({5: "-1"}, "minutes -1.0: give"),
        ({5: "nan"}, "minutes nan: give"),
        ({5: "inf"}, "minutes inf: give"),
        ({7: "words"}, "words: no image in this folder"),
        ({7: "nowhere"}, "nowhere: no such folder"),
        ({7: "stamps"}, "no photograph is as large as a training patch, 33 x 33 pixels; give larger ones."),
    ],
)
def test_a_training_that_cannot_start_ends_with_one_sentence(box, change, message, capsys, monkeypatch):
    monkeypatch.chdir(box)
    for name in ("empty", "words", "stamps"):
        (box / name).mkdir(exist_ok=True)
    (box / "words/a.txt").write_text("word")
    np.save(box / "stamps/a.npy", noisy(32, 40))
    arguments = command(Path("."), "refused")
    for place, value in change.items():
        arguments[place] = value
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith(f"mptpn train: {message}") and err.count("mptpn train") == 1
    assert not (box / "refused").exists() and not list(box.glob("net.*"))


def test_a_folder_of_clipped_images_alone_trains_nothing(box, capsys):
    (box / "clipped").mkdir()
    shutil.copy(box / "noisy/inside/0.npy", box / "clipped")
    assert main(command(box, "refused", folder="clipped")) == 1
    left_out, said = capsys.readouterr().err.splitlines()[-2:]
    assert left_out == f"left out 0.npy: {NO_NOISE}"
    assert said.endswith("clipped: no image holds noise that can be measured, all are constant or clipped.")


def test_a_first_network_refines_correlated_noise_and_a_stopped_training_goes_on_from_it(box, capsys, monkeypatch):
    """Means over three pixels of a row: a correlation of 2 / 3, a blind spot of 3 px or more; stopped after the first
    network.
    """
    (box / "rows").mkdir()
    for i in range(3):
        rough = noisy(96, 100, key=20 + i)
        np.save(box / f"rows/{i}.npy", (rough[:, :-2] + rough[:, 1:-1] + rough[:, 2:]) / 3)
    stage_3, calls = pipeline.stage_3, []

    def stopped_at_the_second(pairs, **settings):
        calls.append(pairs.targets)
        return stage_3(pairs, **settings) if len(calls) == 1 else interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "stage_3", stopped_at_the_second)
        assert main(command(box, "again", folder="rows")) == 130
    assert calls[0][0].noise_model != calls[1][0].noise_model
    capsys.readouterr()
    assert sorted(path.name for path in (box / "again").iterdir()) == [
        "denoiser.first.checkpoint.pt",
        "denoiser.stage1.checkpoint.pt",
    ]
    assert main(command(box, "again", folder="rows")) == 0
    words = capsys.readouterr().err
    assert re.search(r"going on from step [1-9]\d* of denoiser\.first\.checkpoint\.pt", words)
    assert "correlation refined from residuals: changed by up to" in words
    assert sorted(path.name for path in (box / "again").iterdir()) == [
        "denoiser.json",
        "denoiser.safetensors",
        "denoiser.stage1.safetensors",
    ]
    about = json.loads((box / "again/denoiser.json").read_text(), parse_constant=is_no_number)
    assert np.array(about["correlation"]).shape == (7, 7) and max(about["blind_spot"]) > 1
    # the same noise was found again
    assert about["correlation"] == [list(row) for row in calls[1][0].noise_model.correlation]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_named(box, capsys):
    assert main([*command(box, "refused")[:-1], "cuda"]) == 1
    assert capsys.readouterr().err.startswith('mptpn train: accelerator="cuda": PyTorch finds no CUDA device here')


def test_a_loss_that_is_no_number_ends_with_one_sentence(box, capsys, monkeypatch):
    def diverged(*_, **__):
        raise FloatingPointError("stage 1: the loss is nan at step 3")

    monkeypatch.setattr(pipeline, "stage_1", diverged)
    assert main(command(box, "diverged")) == 1
    assert capsys.readouterr().err.endswith("mptpn train: stage 1: the loss is nan at step 3\n")


def test_another_folder_does_not_go_on_from_the_checkpoint_of_this_one(box, capsys, monkeypatch):
    """One image less is another training, even where the same files are written."""
    monkeypatch.setattr(pipeline, "stage_3", interrupted)
    assert main(command(box, "other", minutes="0.002")) == 130
    shutil.copytree(box / "noisy", box / "fewer")
    os.remove(box / "fewer/2.npy")
    assert main(command(box, "other", minutes="0.002", folder="fewer")) == 130
    assert "denoiser.stage1.checkpoint.pt belongs to another training" in capsys.readouterr().err
