"""The default of `mptpn denoise` and the best methods without training, on the same real images (notebook 11)."""

import time
import warnings
from collections.abc import Iterable
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import mptpn
from mptpn.inference import assess
from mptpn.metrics import psnr_db
from mptpn.noise import PoissonGaussian
from support import baselines, datasets, methods, small_structures

CLASSICAL = ("BM3D, stabilised", "ndsafir")
WHITENED, DEFAULT = "small, estimated", "default"
STRENGTHS = (0.9, 0.8, 0.7, 0.5)  # of the default, below 1
Scene = tuple[str, str, str, Tensor, Tensor]  # test, image, subject, noisy and clean [1, 1, H, W]


def labels() -> tuple[str, ...]:
    """The methods that can run here."""
    return ("noisy", *(name for name in CLASSICAL if name in baselines.names()), WHITENED, DEFAULT)


def denoise(label: str, noisy: Tensor) -> tuple[Tensor, float]:
    """Denoised [1, 1, H, W], float32, and processor seconds, the noise estimate included."""
    start = time.process_time()
    if label == "noisy":
        return noisy, 0.0
    if label == "ndsafir":  # it is told nothing
        return baselines.denoise(label, noisy, noise_model=PoissonGaussian(1.0)), time.process_time() - start
    alone, noise_model, _ = methods.estimate_noise(noisy)
    if label in CLASSICAL:
        return baselines.denoise(label, noisy, noise_model=noise_model), time.process_time() - start
    array = noisy[0, 0].numpy()
    denoiser = alone.prepare(mptpn.load("small") if label == WHITENED else None)
    prediction = denoiser.predict(array, uncertainty=False)
    share = assess(denoiser, array, prediction).share if label == DEFAULT else 1.0  # as mptpn denoise applies it
    found = prediction.applied(array, share)[0]
    return torch.from_numpy(found).float()[None, None], time.process_time() - start


def scores(scenes: Iterable[Scene], *, seed: int) -> pd.DataFrame:
    """Every method on every scene: PSNR and seconds; on the first of each test what it keeps of small structures."""
    rows, seen = [], set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network for white noise says that it is one
        for test, image, subject, noisy, clean in scenes:
            structures = () if test in seen else _structures(test, noisy, clean, seed=seed)
            seen.add(test)
            for label in labels():
                found, seconds = denoise(label, noisy)
                compared, truth, peak = datasets.comparable(test, found, clean)
                row = {"test": test, "image": image, "subject": subject, "method": label}
                row |= {"psnr_db": psnr_db(compared, truth, peak=peak), "seconds": seconds}
                if structures:
                    array = noisy[0, 0].numpy()
                    row |= small_structures.measure(partial(_on_array, label), array, structures)
                rows.append(row)
                if label == DEFAULT:
                    rows += [_at(strength, row, noisy, found, clean) for strength in STRENGTHS]
    return pd.DataFrame(rows)


def _at(strength: float, full: dict, noisy: Tensor, found: Tensor, clean: Tensor) -> dict:
    """The row of the default at a strength below 1: noisy + strength (denoised - noisy), whose contrast is linear."""
    compared, truth, peak = datasets.comparable(full["test"], noisy + strength * (found - noisy), clean)
    row = full | {"method": f"{DEFAULT}, strength {strength:g}", "psnr_db": psnr_db(compared, truth, peak=peak)}
    row |= {"kept": 1 - strength + strength * full["kept"]} if "kept" in full else {}
    return {name: value for name, value in row.items() if name != "auc"}


def _structures(test: str, noisy: Tensor, clean: Tensor, *, seed: int) -> tuple[small_structures.Structure, ...]:
    """Planted where the noise is estimated to be; in CT inside the window."""
    alone, _, _ = methods.estimate_noise(noisy)
    sigma = alone.prepare().predict(noisy[0, 0].numpy(), uncertainty=False).noise_sigma
    low, high = datasets.CT_WINDOW if test.startswith("ldct") else (-np.inf, np.inf)
    inside = ((clean > low) & (clean < high))[0, 0].numpy()
    return small_structures.plant(np.maximum(sigma, 1e-9), inside, seed=seed)


def _on_array(label: str, array: np.ndarray) -> np.ndarray:
    return denoise(label, torch.from_numpy(array).float()[None, None])[0][0, 0].double().numpy()
