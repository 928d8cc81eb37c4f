"""Classical denoisers on the same images as ours: non-local means (scikit-image), BM3D and ndsafir where installed."""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from mptpn.inference import VarianceStabilisingTransform
from mptpn.noise import CorrelatedGaussian, NoiseModel, PoissonGaussian


def names() -> tuple[str, ...]:
    """What denoise() can run here; BM3D comes with `pip install .[baselines]`, its licence is non-commercial."""
    here = ["NLM"]
    here += ["BM3D", "BM3D, spectrum", "BM3D, stabilised"] if importlib.util.find_spec("bm3d") else []
    return (*here, "ndsafir") if importlib.util.find_spec("ndsafir") else tuple(here)


def filters() -> dict[str, Callable[..., Tensor]]:
    """Each of names() as a function (noisy, noise_model=) -> denoised."""
    return {name: partial(denoise, name) for name in names()}


def denoise(name: str, noisy: Tensor, *, noise_model: NoiseModel) -> Tensor:
    """Denoised image [1, 1, H, W], float32.

    Args:
        name: "NLM": non-local means, patches of 5 px searched within 6 px, h = 0.8 sigma (Buades et al. 2005, the fast
            form of scikit-image). "BM3D": Dabov et al. 2007 as revised by Makinen et al. 2020, by sigma. "BM3D,
            spectrum": by the power spectrum of correlated noise. "BM3D, stabilised": the same after the variance-
            stabilising transform of the noise model, and its inverse. "ndsafir": patches in growing neighbourhoods
            (Kervrann and Boulanger 2008), which finds Poisson-Gaussian noise itself.
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
    if name == "ndsafir":
        found = _ndsafir(image)
    elif name == "BM3D, stabilised":
        transform = VarianceStabilisingTransform.of(noise_model, low=float(noisy.min()), high=float(noisy.max()))
        white = noise_model if noise_model.correlated else PoissonGaussian(1.0)
        even = CorrelatedGaussian(PoissonGaussian(1.0), white.correlation) if white.correlated else white
        found = transform.inverse(denoise("BM3D, spectrum", transform(noisy), noise_model=even))[0, 0].numpy()
    elif name == "NLM":
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


def _ndsafir(image: np.ndarray) -> np.ndarray:
    import ndsafir

    given = (255 * image).astype(np.float32)
    (gain,), (offset,) = ndsafir.calibrate_poisson_gaussian(given)
    if gain > 0:
        found = ndsafir.denoise_poisson_gaussian(given, gains=[gain], offsets=[offset], nthreads=1)
    else:
        found = ndsafir.denoise_gaussian(given, noise_std=ndsafir.calibrate_gaussian(given), nthreads=1)
    return np.asarray(found) / 255
