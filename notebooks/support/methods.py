"""Every method that notebook 10 compares behind one door: the same bytes in, the denoised image and the processor's
seconds out.
"""

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mptpn import metrics
from mptpn.atomic import write_atomically
from mptpn.inference import stabilise
from mptpn.noise.estimate import estimate_noise_model
from mptpn.noise.models import NoiseModel
from mptpn.stages import pipeline, profound
from support import baselines, datasets, scores

OURS = ("small", "base")  # as they are, given nothing; with what follows, by the noise that the image shows
BY_NOISE = ", estimated"
METHODS = (
    "noisy",
    "Gaussian, oracle",
    "TV, oracle",
    "NLM",
    "BM3D, told",
    "BM3D, estimated",
    *OURS,
    *(name + BY_NOISE for name in OURS),
    "Noise2Void",
)
CLASSICAL = ("NLM", "BM3D, estimated")  # without training and without the truth
ORACLES = ("Gaussian, oracle", "TV, oracle")
# they are given the estimated noise, whose time is theirs too
ESTIMATED = (*CLASSICAL, *(name + BY_NOISE for name in OURS))
# variables of this environment that break another: a Jupyter kernel sets the first, which Matplotlib refuses elsewhere
BREAKING = ("MPLBACKEND", "PYTHONPATH")


@dataclass(frozen=True)
class TestImage:
    """One noisy image of a test, and what is known of it.

    Attributes:
        test: name of the test; set: of datasets.comparable, which decides how the image is scored. image, subject:
            names.
        noisy, clean: [1, 1, H, W].
        found: the noise model that the image itself, or its set, shows; seconds: processor time that finding it took.
        told: the noise model that drew the noise; None: nobody knows it.
    """

    test: str
    set: str
    image: str
    subject: str
    noisy: Tensor
    clean: Tensor
    found: NoiseModel
    seconds: float = 0.0
    told: NoiseModel | None = None


def why_not(method: str, *, told: bool, outside: bool) -> str:
    """Why a method has no number, "" if it has one.

    Args:
        told: whether the noise model of the noise is known. outside: whether there is a Python with CAREamics.
    Raises:
        ValueError: unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if method.startswith("BM3D") and "BM3D" not in baselines.names():
        return "not installed: pip install bm3d"
    if method == "BM3D, told" and not told:
        return "nobody knows the level"
    return "not installed: set MPTPN_CAREAMICS" if method == "Noise2Void" and not outside else ""


@torch.no_grad()
def denoise(
    method: str,
    scene: TestImage,
    *,
    networks: dict[str, nn.Module],
    outside: Sequence[str] = (),
    kept: Path | None = None,
) -> tuple[Tensor, float]:
    """Denoised image [1, 1, H, W] and the processor's seconds that it took, those of the noise estimate included where
    the method is given it.

    NLM and "BM3D, estimated" are given the estimated noise (BM3D its power spectrum where it is correlated), "BM3D,
    told" the noise model that drew it; Gaussian and TV take the weight that is best against the truth; the networks are
    given nothing, or as "small, estimated" the estimated noise (stabilise.denoise).

    Args:
        networks: "small" and "base".
        outside: the command that denoises IN.npy into OUT.npy, see outside_denoise, for "Noise2Void". kept: where its
            results are kept.
    Raises:
        ValueError: the method cannot run here; RuntimeError: the command failed.
    """
    if reason := why_not(method, told=scene.told is not None, outside=bool(outside)):
        raise ValueError(f"{method!r} cannot run: {reason}.")
    if method == "Noise2Void":
        return outside_denoise(scene.noisy, command=outside, kept=kept)
    start = time.process_time()
    match method:
        case "noisy":
            found = scene.noisy
        case "Gaussian, oracle":
            found = scores.gaussian_oracle(scene.noisy, scene.clean)[0]
        case "TV, oracle":
            found = scores.tv_oracle(scene.noisy, scene.clean)
        case "BM3D, told":
            found = baselines.denoise("BM3D", scene.noisy, noise_model=scene.told)
        case "BM3D, estimated":
            found = baselines.denoise(
                "BM3D, spectrum" if scene.found.correlated else "BM3D", scene.noisy, noise_model=scene.found
            )
        case "NLM":
            found = baselines.denoise("NLM", scene.noisy, noise_model=scene.found)
        case _ if method in networks:
            found = profound.denoise(networks[method], scene.noisy)
        case _:
            found = stabilise.denoise(networks[method.removesuffix(BY_NOISE)], scene.noisy, noise_model=scene.found)
    return found, time.process_time() - start + (scene.seconds if method in ESTIMATED else 0.0)


def noise_model_of_image(noisy: Tensor, *, from_zero: bool = False) -> tuple[NoiseModel, float]:
    """The noise model of the noise that one image [1, 1, H, W] shows, and the processor's seconds; from_zero: see
    estimate.report.
    """
    start = time.process_time()
    return estimate_noise_model([noisy], from_zero=from_zero).noise_model, time.process_time() - start


def noise_models_of_set(noisy: list[Tensor]) -> tuple[tuple[NoiseModel, ...], float]:
    """The noise model of each image of a set, with the set's correlation (pipeline.noise_of), and the processor's
    seconds an image.
    """
    start = time.process_time()
    return pipeline.estimate_set(noisy).noise_models, (time.process_time() - start) / len(noisy)


def denoise_told(
    noisy: Tensor, clean: Tensor, *, method: str, noise_model: NoiseModel, networks: dict[str, nn.Module]
) -> Tensor:
    """denoise() of one image, [1, 1, H, W], with noise whose noise model every method is told that asks for one; clean
    is seen by the oracles alone.
    """
    return denoise(
        method, TestImage("", "", "", "", noisy, clean, found=noise_model, told=noise_model), networks=networks
    )[0]


def outside_denoise(noisy: Tensor, *, command: Sequence[str], kept: Path | None = None) -> tuple[Tensor, float]:
    """Denoise by a program in an environment of its own: `command IN.npy OUT.npy`, float32 [H, W] both; noisy [1, 1, H,
    W].

    It is told by OMP_NUM_THREADS to use as many threads as PyTorch does here.

    Args:
        kept: folder of earlier results and the seconds that they took; the same bytes, scripts and arguments after the
            program's name are not run again.
    Returns:
        what it wrote, [1, 1, H, W], and the processor's seconds of the whole program, its start included.
    Raises:
        RuntimeError: it failed (with the end of what it said), wrote nothing, or wrote another shape or a value that is
            not finite.
    """
    if kept is None:
        return _ran(noisy, command)
    asked = hashlib.sha256(
        repr((tuple(noisy.shape), torch.get_num_threads())).encode() + noisy.contiguous().numpy().tobytes()
    )
    for argument in command[1:]:
        asked.update(Path(argument).read_bytes() if Path(argument).is_file() else argument.encode())
    file = kept / f"{asked.hexdigest()}.pt"
    if not file.exists():
        write_atomically(file, partial(torch.save, _ran(noisy, command)))
    return torch.load(file)


def _ran(noisy: Tensor, command: Sequence[str]) -> tuple[Tensor, float]:
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / name for name in ("in.npy", "out.npy"))
        np.save(source, noisy[0, 0].numpy())
        theirs = {name: value for name, value in os.environ.items() if name not in BREAKING} | {
            "OMP_NUM_THREADS": str(torch.get_num_threads())
        }
        start = os.times()
        try:
            ran = subprocess.run(
                [*command, str(source), str(target)], cwd=folder, env=theirs, capture_output=True, text=True
            )
        except OSError as error:
            raise RuntimeError(
                f"{command[0]}: cannot be started ({error.strerror}); give the Python of the other environment by its absolute path."
            ) from error
        end = os.times()
        seconds = end.children_user - start.children_user + end.children_system - start.children_system
        if ran.returncode or not target.exists():
            raise RuntimeError(
                f"{' '.join(command)}: ended with {ran.returncode} and {'an' if target.exists() else 'no'} image: {ran.stderr.strip()[-500:]}"
            )
        found = np.load(target)
    if found.shape != tuple(noisy.shape[2:]) or not np.isfinite(found).all():
        raise RuntimeError(
            f"{' '.join(command)}: wrote an array {found.shape} for {tuple(noisy.shape[2:])}, or one that is not finite."
        )
    return torch.from_numpy(found.astype(np.float32))[None, None], seconds


def score(scene: TestImage, image: Tensor) -> dict[str, float]:
    """PSNR (dB), SSIM and shift (mean of image - truth) of one image by the rules of its set; where the noise was
    drawn, the image is cut to 0..1.

    That cut is the published tables'; the noisy image itself is never cut.
    """
    image = image if scene.told is None or image is scene.noisy else image.clamp(0, 1)
    image, truth, peak = datasets.comparable(scene.set, image, scene.clean)
    return {
        "psnr_db": metrics.psnr_db(image, truth, peak=peak),
        "ssim": metrics.ssim(image, truth, peak=peak),
        "shift": float((image - truth).mean()),
    }
