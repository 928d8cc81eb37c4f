"""Every method has a number or a reason, on the same bytes; a program outside is run and its failures are told."""

import importlib.util
import os
import sys

import numpy as np
import pytest
import torch

import mptpn
from mptpn import metrics
from mptpn.filters import center_crop
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support import embedded, methods

CLEAN = center_crop(embedded.natural("val")[0].pixels, side=65)[..., :60]
LAW = PoissonGaussian(25 / 255)
SCENE = methods.TestImage(
    "test",
    "bsd68",
    "rocket",
    "rocket",
    LAW.sample(CLEAN, generator=generator(1)),
    CLEAN,
    PoissonGaussian(0.1),
    seconds=5.0,
    told=LAW,
)
STUB = "import numpy as np, sys\nimage = np.load(sys.argv[1])\n"


@pytest.fixture
def stub(tmp_path):
    """A command that runs the stub with these lines at its end."""

    def make(lines: str) -> list[str]:
        (tmp_path / "stub.py").write_text(STUB + lines)
        return [sys.executable, str(tmp_path / "stub.py")]

    return make


def test_every_method_here_is_better_than_its_input_and_has_a_time():
    networks = {"small": mptpn.load("small"), "base": mptpn.load("base")}
    noisy = methods.score(SCENE, SCENE.noisy)["psnr_db"]
    assert noisy == metrics.psnr_db(SCENE.noisy, CLEAN)  # never cut
    for method in methods.METHODS[1:]:
        if not methods.why_not(method, told=True, outside=False):
            image, seconds = methods.denoise(method, SCENE, networks=networks)
            assert image.shape == CLEAN.shape and methods.score(SCENE, image)["psnr_db"] > noisy + 1
            assert seconds > (5 if method in methods.ESTIMATED else 0)


def test_a_method_that_cannot_run_has_a_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert methods.why_not("BM3D, told", told=True, outside=True) == "not installed: pip install bm3d"
    assert methods.why_not("Noise2Void", told=True, outside=False) == "not installed: set MPTPN_CAREAMICS"
    assert not methods.why_not("Noise2Void", told=False, outside=True)
    with pytest.raises(ValueError, match="'Noise2Void' cannot run: not installed: set MPTPN_CAREAMICS"):
        methods.denoise("Noise2Void", SCENE, networks={})
    with pytest.raises(ValueError, match="method 'BM4D' is unknown"):
        methods.why_not("BM4D", told=True, outside=True)


def test_told_level_of_real_noise_is_nobody_s():
    assert methods.why_not("BM3D, told", told=False, outside=True) != ""


def test_program_outside_sees_the_same_bytes(stub):
    image, seconds = methods.denoise("Noise2Void", SCENE, networks={}, outside=stub("np.save(sys.argv[2], 2 * image)"))
    assert torch.equal(image, 2 * SCENE.noisy) and 0 < seconds < 60


def test_seconds_of_a_program_outside_are_the_processor_s(stub):
    _, asleep = methods.outside_denoise(CLEAN, command=stub("np.save(sys.argv[2], image); import time; time.sleep(2)"))
    _, awake = methods.outside_denoise(
        CLEAN, command=stub("np.save(sys.argv[2], image); import time\nwhile time.process_time() < 3: pass")
    )
    assert awake >= 2.9 and asleep < 2  # importing NumPy takes a fifth of a second; the clock ticks in hundredths


def test_program_outside_is_spared_this_environment(stub, monkeypatch):
    """A Jupyter kernel's MPLBACKEND, inherited, ends the import of Matplotlib, and so of CAREamics, where
    matplotlib-inline is not installed.
    """
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONPATH", "ours")
    lines = "import os\nassert not {'MPLBACKEND', 'PYTHONPATH'} & set(os.environ)\nnp.save(sys.argv[2], image * int(os.environ['OMP_NUM_THREADS']))"
    image, _ = methods.outside_denoise(CLEAN, command=stub(lines))
    assert torch.equal(image, CLEAN * torch.get_num_threads())


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("sys.exit('out of memory')", "ended with 1 and no image: out of memory"),
        ("", "ended with 0 and no image"),
        ("np.save(sys.argv[2], image[1:])", r"wrote an array \(64, 60\) for \(65, 60\)"),
        ("np.save(sys.argv[2], image * np.nan)", "not finite"),
    ],
)
def test_program_outside_that_fails_is_told(stub, lines, sentence):
    with pytest.raises(RuntimeError, match=sentence):
        methods.outside_denoise(SCENE.noisy, command=stub(lines))
    with pytest.raises(RuntimeError, match="cannot be started"):
        methods.outside_denoise(SCENE.noisy, command=["/nowhere/python"])


def test_results_of_a_program_outside_are_kept_by_bytes_and_arguments(stub, tmp_path):
    lines = "open(__file__ + '.runs', 'a').write('x')\nnp.save(sys.argv[-1], image * len(sys.argv))"
    command = stub(lines)
    first = methods.outside_denoise(CLEAN, command=command, kept=tmp_path / "kept")
    again = methods.outside_denoise(CLEAN, command=command, kept=tmp_path / "kept")
    assert torch.equal(first[0], again[0]) and first[1] == again[1] and os.path.getsize(command[-1] + ".runs") == 1
    methods.outside_denoise(SCENE.noisy, command=command, kept=tmp_path / "kept")
    assert os.path.getsize(command[-1] + ".runs") == 2
    methods.outside_denoise(CLEAN, command=[command[0], "-O", *command[1:]], kept=tmp_path / "kept")
    assert os.path.getsize(command[-1] + ".runs") == 3
    stub(lines + "\n")
    methods.outside_denoise(CLEAN, command=command, kept=tmp_path / "kept")
    assert os.path.getsize(command[-1] + ".runs") == 4


def test_careamics_script_hands_the_image_through(tmp_path):
    """The script itself with a stub in the place of CAREamics: its calls, and [1, 1, H, W] predictions come back as [H,
    W].
    """
    (tmp_path / "careamics").mkdir()
    (tmp_path / "careamics/__init__.py").write_text(
        "class CAREamist:\n"
        "    def __init__(self, config, *, work_dir, enable_progress_bar):\n"
        "        assert config['num_epochs'] == 3 and config['num_steps'] == 50 and config['axes'] == 'SYX' and config['seed'] == 1\n"
        "        self.patch = config['patch_size']\n"
        "    def train(self, *, train_data): self.seen = train_data\n"
        "    def predict(self, pred_data, *, tile_size):\n"
        "        assert (self.seen == pred_data[:, :65, :60]).all() and len(self.seen) == 51 * 16 and self.patch == [56, 56]\n"
        "        assert pred_data.shape == (1, 128, 128) and pred_data.min() > 0  # no zeros\n"
        "        return [pred_data[0][None, None] + 1], []\n"
    )
    (tmp_path / "careamics/config.py").write_text("def create_advanced_n2v_config(name, **given): return given\n")
    script = os.path.join(os.path.dirname(__file__), "../../notebooks/support/careamics_noise2void.py")
    np.save(tmp_path / "in.npy", CLEAN[0, 0].numpy())
    command = ["env", f"PYTHONPATH={tmp_path}", sys.executable, os.path.abspath(script), "120"]
    image, _ = methods.outside_denoise(CLEAN, command=command)
    assert torch.equal(image, CLEAN + 1)


def test_middle_of_an_odd_image():
    image = torch.arange(35.0).view(1, 1, 5, 7)
    assert center_crop(image, side=3).flatten().tolist() == [9, 10, 11, 16, 17, 18, 23, 24, 25]
    assert center_crop(image, side=0).shape == image.shape and center_crop(image, side=6).shape == (1, 1, 5, 6)
