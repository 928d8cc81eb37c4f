"""Classical denoisers on the same images as ours: non-local means (scikit-image), and BM3D where it is installed."""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from mptpn.noise import NoiseModel


def names() -> tuple[str, ...]:
    """What denoise() can run here; BM3D comes with `pip install .[baselines]`, its licence is non-commercial."""
    return ("NLM", "BM3D", "BM3D, spectrum") if importlib.util.find_spec("bm3d") else ("NLM",)


def filters() -> dict[str, Callable[..., Tensor]]:
    """Each of names() as a function (noisy, noise_model=) -> denoised."""
    return {name: partial(denoise, name) for name in names()}


def denoise(name: str, noisy: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Denoised image [1, 1, H, W], float32.

    Args:
        name: "NLM": non-local means, patches of 5 px searched within 6 px, h = 0.8 sigma (Buades et al. 2005, the fast
            form of scikit-image). "BM3D": Dabov et al. 2007 as revised by Makinen et al. 2020, by sigma. "BM3D,
            spectrum": by the power spectrum of correlated noise.
        noisy: [1, 1, H, W].
        noise_model: of the noise; sigma is its root mean variance over the image.
    Raises:
        ValueError: another name, or one that is not installed.
    """
    if name not in names():
        known = ", ".join(names())
        raise ValueError(f"{name!r} cannot run here; choose one of {known}, or install the others: pip install bm3d.")
    image = noisy[0, 0].double().numpy()
    sigma = math.sqrt(float(noise_model.variance(noisy).mean()))
    if name == "NLM":
        found = denoise_nl_means(image, patch_size=5, patch_distance=6, h=0.8 * sigma, sigma=sigma, fast_mode=True)
    else:
        from bm3d import bm3d

        noise = sigma if name == "BM3D" or not noise_model.correlated else _power(noise_model, sigma, image.shape)
        with patch.object(np, "trapz", np.trapezoid, create=True):  # BM3D asks for the name that NumPy 2.4 dropped
            found = bm3d(image, noise)
    return torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32))[None, None]


def _power(noise_model: NoiseModel, sigma: float, shape: tuple[int, int]) -> np.ndarray:
    """Power |FFT|^2 expected of correlated noise on [H, W]: pixels times the transform of its covariance."""
    return sigma**2 * math.prod(shape) * noise_model.spectrum(*shape).numpy()
