"""Denoisers of others, on the same images as ours: non-local means (scikit-image), and BM3D where it is installed."""

import importlib.util
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from mptpn.noise.models import NoiseModel


def names() -> tuple[str, ...]:
    """What denoise() can run here; BM3D comes with `pip install .[peers]`, its licence is non-commercial."""
    return ("NLM", "BM3D", "BM3D, spectrum") if importlib.util.find_spec("bm3d") else ("NLM",)


def filters() -> dict[str, Callable[..., Tensor]]:
    """Each of names() as a function (noisy, noise model=) -> denoised."""
    return {name: partial(denoise, name) for name in names()}


def denoise(name: str, noisy: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Denoised image [1, 1, H, W], float32.

    Args:
        name: "NLM": non-local means, patches of 5 px searched within 6 px, h = 0.8 sigma (Buades et al. 2005,
            scikit-image's fast form). "BM3D": Dabov et al. 2007 as revised by Makinen et al. 2020, told sigma. "BM3D,
            spectrum": told the power spectrum of the correlated noise.
        noisy: [1, 1, H, W].
        noise model: of the noise; all three take its root mean variance over the image for sigma.
    Raises:
        ValueError: another name, or one that is not installed.
    """
    if name not in names():
        raise ValueError(
            f"{name!r} cannot run here; choose one of {', '.join(names())}, or install the others: pip install bm3d."
        )
    image = noisy[0, 0].double().numpy()
    sigma = math.sqrt(float(noise_model.variance(noisy).mean()))
    if name == "NLM":
        found = denoise_nl_means(image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True)
    else:
        if not hasattr(np, "trapz"):
            np.trapz = np.trapezoid  # BM3D 4.0 asks for the name that NumPy dropped in 2.4
        from bm3d import bm3d

        found = bm3d(image, sigma if name == "BM3D" else sigma**2 * power_spectrum(noise_model, image.shape))
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))[None, None]


def power_spectrum(noise_model: NoiseModel, shape: tuple[int, int]) -> np.ndarray:
    """Power |FFT|^2 expected of noise of variance 1 and the noise model's correlation on [H, W]: pixels times the
    transform of the correlation, not negative.
    """
    map = np.array(noise_model.correlation)
    wrapped, radius = np.zeros(shape), len(map) // 2
    for (row, col), value in np.ndenumerate(map):
        wrapped[(row - radius) % shape[0], (col - radius) % shape[1]] += value
    power = np.fft.fft2(wrapped).real.clip(min=1e-3)
    return shape[0] * shape[1] * power / power.mean()
