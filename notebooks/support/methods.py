"""Every method that notebook 10 compares: the same noisy image in, the denoised image and processor seconds out."""

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
from mptpn.inference import NoisyImages
from mptpn.noise import NoiseModel
from mptpn.stages import profound
from support import baselines, datasets, scores

PRETRAINED = ("small", "base")  # without a noise model; with the suffix below, by the noise that the image shows
BY_NOISE = ", estimated"
CLASSICAL = ("NLM", "BM3D, estimated")  # without training and without the truth
ORACLES = ("Gaussian, oracle", "TV, oracle")  # their weights are chosen by the truth
BY_ESTIMATE = tuple(name + BY_NOISE for name in PRETRAINED)
ESTIMATED = (*CLASSICAL, *BY_ESTIMATE)  # they use the estimated noise, whose time is theirs too
KNOWN, OUTSIDE = "BM3D, known sigma", "Noise2Void"
METHODS = ("noisy", *ORACLES, "NLM", KNOWN, "BM3D, estimated", *PRETRAINED, *BY_ESTIMATE, OUTSIDE)
# a Jupyter kernel sets the first, which Matplotlib refuses in another environment
NOT_PASSED_ON = ("MPLBACKEND", "PYTHONPATH")


@dataclass(frozen=True)
class TestImage:
    """One noisy image of a test, and what is known of it.

    Attributes:
        test: name of the test; set: of datasets.comparable, which decides how the image is scored. image, subject:
            names.
        noisy, clean: [1, 1, H, W].
        estimated: noise model that the image itself shows; alone: the image with that estimate.
        seconds: processor time of the estimate.
        drawn: noise model that drew the noise; None: unknown.
    """

    test: str
    set: str
    image: str
    subject: str
    noisy: Tensor
    clean: Tensor
    estimated: NoiseModel
    alone: NoisyImages | None = None
    seconds: float = 0.0
    drawn: NoiseModel | None = None


def why_not(method: str, *, known: bool, outside: bool) -> str:
    """Why a method has no number, "" if it has one.

    Args:
        known: whether the noise model that drew the noise is known. outside: whether there is a Python with CAREamics.
    Raises:
        ValueError: unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown; choose one of {', '.join(METHODS)}.")
    if method.startswith("BM3D") and "BM3D" not in baselines.names():
        return "not installed: pip install bm3d"
    if method == KNOWN and not known:
        return "the level is unknown"
    return "not installed: set MPTPN_CAREAMICS" if method == OUTSIDE and not outside else ""


@torch.no_grad()
def denoise(
    method: str,
    image: TestImage,
    *,
    networks: dict[str, nn.Module],
    outside: Sequence[str] = (),
    kept: Path | None = None,
) -> tuple[Tensor, float]:
    """Denoised image [1, 1, H, W] and processor seconds, those of the noise estimate included where it is used.

    NLM and "BM3D, estimated" get the estimated noise (BM3D its power spectrum where it is correlated), "BM3D, known
    sigma" the noise model that drew it; Gaussian and TV take the weight that is best against the truth; the networks
    get nothing, or as "small, estimated" the estimated noise.

    Args:
        networks: "small" and "base".
        outside, kept: command and folder of outside_denoise, for "Noise2Void".
    Raises:
        ValueError: the method cannot run here; RuntimeError: the command failed.
    """
    if reason := why_not(method, known=image.drawn is not None, outside=bool(outside)):
        raise ValueError(f"{method!r} cannot run: {reason}.")
    if method == OUTSIDE:
        return outside_denoise(image.noisy, command=outside, kept=kept)
    noisy, start = image.noisy, time.process_time()
    match method:
        case "noisy":
            found = noisy
        case "Gaussian, oracle":
            found = scores.gaussian_oracle(noisy, image.clean)[0]
        case "TV, oracle":
            found = scores.tv_oracle(noisy, image.clean)
        case "BM3D, known sigma":
            found = baselines.denoise("BM3D", noisy, noise_model=image.drawn)
        case "BM3D, estimated":
            name = "BM3D, spectrum" if image.estimated.correlated else "BM3D"
            found = baselines.denoise(name, noisy, noise_model=image.estimated)
        case "NLM":
            found = baselines.denoise("NLM", noisy, noise_model=image.estimated)
        case _ if method in networks:
            found = profound.denoise(networks[method], noisy)
        case _:
            found = by_estimated_noise(networks[method.removesuffix(BY_NOISE)], image)
    return found, time.process_time() - start + (image.seconds if method in ESTIMATED else 0.0)


def by_estimated_noise(network: nn.Module, image: TestImage) -> Tensor:
    """A pretrained network by the noise that the image shows, as `mptpn denoise` does, [1, 1, H, W]."""
    array = image.noisy[0, 0].numpy()
    change = image.alone.prepare(network).predict(array, uncertainty=False).at(1.0)[0]
    return torch.from_numpy(array + change)[None, None]


def estimate_noise(noisy: Tensor) -> tuple[NoisyImages, NoiseModel, float]:
    """Noise of one image [1, 1, H, W], as `mptpn denoise` finds it in a file of one image.

    Returns:
        the image with its estimate, its noise model in its own unit, processor seconds.
    """
    start = time.process_time()
    alone = NoisyImages.of([noisy[0, 0].numpy()])
    return alone, alone.noise_models[0].in_unit(alone.unit), time.process_time() - start


def denoise_known(
    noisy: Tensor, clean: Tensor, *, method: str, noise_model: NoiseModel, networks: dict[str, nn.Module]
) -> Tensor:
    """denoise() of one image [1, 1, H, W] whose noise model is known; clean is seen by the oracles alone."""
    image = TestImage("", "", "", "", noisy, clean, estimated=noise_model, drawn=noise_model)
    return denoise(method, image, networks=networks)[0]


def outside_denoise(noisy: Tensor, *, command: Sequence[str], kept: Path | None = None) -> tuple[Tensor, float]:
    """Denoise [1, 1, H, W] by a program of another environment: `command IN.npy OUT.npy`, float32 [H, W] both.

    OMP_NUM_THREADS gives it as many threads as PyTorch has here.

    Args:
        kept: folder of earlier results and their seconds; the same pixels, scripts and arguments after the program's
            name are not run again.
    Returns:
        what it wrote, [1, 1, H, W], and processor seconds of the whole program, its start included.
    Raises:
        RuntimeError: it failed, wrote nothing, or wrote another shape or a value that is not finite.
    """
    if kept is None:
        return _ran(noisy, command)
    given = repr((tuple(noisy.shape), torch.get_num_threads())).encode() + noisy.contiguous().numpy().tobytes()
    asked = hashlib.sha256(given)
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
        environment = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
        full, start = [*command, str(source), str(target)], os.times()
        try:
            ran = subprocess.run(full, cwd=folder, env=environment, capture_output=True, text=True)
        except OSError as error:
            advice = "give the Python of the other environment by its absolute path"
            raise RuntimeError(f"{command[0]}: cannot be started ({error.strerror}); {advice}.") from error
        end = os.times()
        if ran.returncode or not target.exists():
            what = f"ended with {ran.returncode} and {'an' if target.exists() else 'no'} image"
            raise RuntimeError(f"{' '.join(command)}: {what}: {ran.stderr.strip()[-500:]}")
        found = np.load(target)
    if found.shape != tuple(noisy.shape[2:]) or not np.isfinite(found).all():
        wrong = f"wrote an array {found.shape} for {tuple(noisy.shape[2:])}, or one that is not finite"
        raise RuntimeError(f"{' '.join(command)}: {wrong}.")
    seconds = end.children_user - start.children_user + end.children_system - start.children_system
    return torch.from_numpy(found.astype(np.float32))[None, None], seconds


def score(image: TestImage, denoised: Tensor) -> dict[str, float]:
    """PSNR (dB), SSIM and shift (mean of denoised - truth) by the rules of the image's set.

    Where the noise was drawn, a denoised image is cut to 0..1 as in the published tables; the noisy one never is.
    """
    denoised = denoised if image.drawn is None or denoised is image.noisy else denoised.clamp(0, 1)
    denoised, truth, peak = datasets.comparable(image.set, denoised, image.clean)
    psnr, ssim = (measure(denoised, truth, peak=peak) for measure in (metrics.psnr_db, metrics.ssim))
    return {"psnr_db": psnr, "ssim": ssim, "shift": float((denoised - truth).mean())}
