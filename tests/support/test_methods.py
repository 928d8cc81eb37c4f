"""Every method has a number or a reason, on the same image; a program outside is run and its failures are reported."""

import importlib.util
import os
import sys

import pytest
import torch

import mptpn
from mptpn import metrics
from mptpn.filters import center_crop
from mptpn.noise.models import PoissonGaussian
from mptpn.random import generator
from support import embedded, methods

CLEAN = center_crop(embedded.natural("val")[0].pixels, side=65)[..., :60]
MODEL = PoissonGaussian(25 / 255)
NOISY = MODEL.sample(CLEAN, generator=generator(1))


def image(**about) -> methods.TestImage:
    return methods.TestImage("test", "bsd68", "rocket", "rocket", NOISY, CLEAN, PoissonGaussian(0.1), **about)


@pytest.fixture
def stub(tmp_path):
    """A command that runs the stub with these lines at its end."""

    def make(lines: str) -> list[str]:
        (tmp_path / "stub.py").write_text("import numpy as np, sys\nimage = np.load(sys.argv[1])\n" + lines)
        return [sys.executable, str(tmp_path / "stub.py")]

    return make


def test_every_method_here_is_better_than_its_input_and_has_a_time():
    networks = {"small": mptpn.load("small"), "base": mptpn.load("base")}
    alone, estimated, _ = methods.estimate_noise(NOISY)
    assert float(estimated.variance(CLEAN).mean()) ** 0.5 == pytest.approx(25 / 255, rel=0.2)
    scene = image(alone=alone, seconds=5.0, drawn=MODEL)
    noisy = methods.score(scene, NOISY)["psnr_db"]
    assert noisy == metrics.psnr_db(NOISY, CLEAN)  # never cut
    for method in methods.METHODS[1:]:
        if not methods.why_not(method, known=True, outside=False):
            found, seconds = methods.denoise(method, scene, networks=networks)
            assert found.shape == CLEAN.shape and methods.score(scene, found)["psnr_db"] > noisy + 1
            assert seconds > (5 if method in methods.ESTIMATED else 0)


def test_a_method_that_cannot_run_has_a_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install bm3d" in methods.why_not(methods.KNOWN, known=True, outside=True)
    assert not methods.why_not("Noise2Void", known=False, outside=True)
    with pytest.raises(ValueError, match="'Noise2Void' cannot run: not installed: set MPTPN_CAREAMICS"):
        methods.denoise("Noise2Void", image(drawn=MODEL), networks={})
    with pytest.raises(ValueError, match="method 'BM4D' is unknown"):
        methods.why_not("BM4D", known=True, outside=True)


def test_the_level_of_real_noise_is_unknown():
    assert methods.why_not(methods.KNOWN, known=False, outside=True) != ""


def test_a_program_outside_sees_the_same_pixels(stub):
    command = stub("np.save(sys.argv[2], 2 * image)")
    found, seconds = methods.denoise("Noise2Void", image(), networks={}, outside=command)
    assert torch.equal(found, 2 * NOISY) and 0 < seconds < 60


def test_seconds_of_a_program_outside_are_the_processor_s(stub):
    lines = "np.save(sys.argv[2], image); import time; "
    asleep = methods.outside_denoise(CLEAN, command=stub(lines + "time.sleep(2)"))[1]
    awake = methods.outside_denoise(CLEAN, command=stub(lines + "\nwhile time.process_time() < 3: pass"))[1]
    assert awake >= 2.9 and asleep < 2  # importing NumPy takes a fifth of a second; the clock ticks in hundredths


def test_a_program_outside_does_not_inherit_what_breaks_it(stub, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("PYTHONPATH", "ours")
    lines = "import os\nassert not {'MPLBACKEND', 'PYTHONPATH'} & set(os.environ)\n"
    found, _ = methods.outside_denoise(
        CLEAN, command=stub(lines + "np.save(sys.argv[2], image * int(os.environ['OMP_NUM_THREADS']))")
    )
    assert torch.equal(found, CLEAN * torch.get_num_threads())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("sys.exit('out of memory')", "ended with 1 and no image: out of memory"),
        ("", "ended with 0 and no image"),
        ("np.save(sys.argv[2], image[1:])", r"wrote an array \(64, 60\) for \(65, 60\)"),
        ("np.save(sys.argv[2], image * np.nan)", "not finite"),
    ],
)
def test_a_failure_of_a_program_outside_is_reported(stub, lines, message):
    with pytest.raises(RuntimeError, match=message):
        methods.outside_denoise(NOISY, command=stub(lines))


def test_a_program_that_cannot_be_started_is_named():
    with pytest.raises(RuntimeError, match="/nowhere/python: cannot be started"):
        methods.outside_denoise(NOISY, command=["/nowhere/python"])


def test_results_of_a_program_outside_are_kept_by_pixels_and_arguments(stub, tmp_path):
    lines = "open(__file__ + '.runs', 'a').write('x')\nnp.save(sys.argv[-1], image * len(sys.argv))"
    command = stub(lines)

    def runs(noisy, command):
        found = methods.outside_denoise(noisy, command=command, kept=tmp_path / "kept")
        return found, os.path.getsize(tmp_path / "stub.py.runs")

    first, again = runs(CLEAN, command), runs(CLEAN, command)
    assert torch.equal(first[0][0], again[0][0]) and first[0][1] == again[0][1] and first[1] == again[1] == 1
    assert runs(NOISY, command)[1] == 2
    assert runs(CLEAN, [command[0], "-O", *command[1:]])[1] == 3
    assert runs(CLEAN, stub(lines + "\n"))[1] == 4


def test_the_careamics_script_hands_the_image_through(tmp_path):
    """The script itself with a stub in the place of CAREamics: [1, 1, H, W] predictions come back as [H, W]."""
    (tmp_path / "careamics").mkdir()
    (tmp_path / "careamics/__init__.py").write_text(
        "class CAREamist:\n"
        "    def __init__(self, config, *, work_dir, enable_progress_bar):\n"
        "        assert config['num_epochs'] == 3 and config['num_steps'] == 50 and config['seed'] == 1\n"
        "    def train(self, *, train_data): self.seen = train_data\n"
        "    def predict(self, pred_data, *, tile_size):\n"
        "        assert (self.seen == pred_data[:, :65, :60]).all() and len(self.seen) == 51 * 16\n"
        "        assert pred_data.shape == (1, 128, 128) and pred_data.min() > 0  # no zeros\n"
        "        return [pred_data[0][None, None] + 1], []\n"
    )
    (tmp_path / "careamics/config.py").write_text("def create_advanced_n2v_config(name, **given): return given\n")
    script = os.path.join(os.path.dirname(__file__), "../../notebooks/support/careamics_noise2void.py")
    command = ["env", f"PYTHONPATH={tmp_path}", sys.executable, os.path.abspath(script), "120"]
    assert torch.equal(methods.outside_denoise(CLEAN, command=command)[0], CLEAN + 1)
