"""The default of `mptpn denoise` and the best methods without training, on the same real images (notebook 11)."""

import os
import time
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

import mptpn
from mptpn.inference import VarianceStabilisingTransform, assess
from mptpn.inference.colour import prepare
from mptpn.metrics import psnr_db
from mptpn.noise import NoiseModel, PoissonGaussian
from support import baselines, datasets, methods, small_structures

CLASSICAL = ("BM3D, stabilised", "ndsafir")
FFDNET = "FFDNet, stabilised"  # in the environment whose Python MPTPN_FFDNET names
WHITENED, DEFAULT, ADAPTED = "small, estimated", "default", "default, adapted"
STRENGTHS = (0.9, 0.8, 0.7, 0.5)  # of the default, below 1
Scene = tuple[str, str, str, Tensor, Tensor]  # test, image, subject, noisy and clean [1, 1, H, W]


def labels(*, adapt: float = 0.0) -> tuple[str, ...]:
    """The methods that can run here; adapt: minutes, see denoise."""
    here = ("noisy", *(name for name in CLASSICAL if name in baselines.names()))
    here += (FFDNET,) if os.environ.get("MPTPN_FFDNET") else ()
    return (*here, WHITENED, DEFAULT, *((ADAPTED,) if adapt else ()))


def denoise(label: str, noisy: Tensor, *, adapt: float = 0.0) -> tuple[Tensor, float]:
    """Denoised [1, 1, H, W], float32, and processor seconds, the noise estimate included.

    adapt: minutes of `mptpn denoise --adapt`, of the method ADAPTED.
    """
    start = time.process_time()
    if label == "noisy":
        return noisy, 0.0
    if label == "ndsafir":  # it is told nothing
        return baselines.denoise(label, noisy, noise_model=PoissonGaussian(1.0)), time.process_time() - start
    alone, noise_model, _ = methods.estimate_noise(noisy)
    if label in CLASSICAL:
        return baselines.denoise(label, noisy, noise_model=noise_model), time.process_time() - start
    if label == FFDNET:
        found, seconds = _ffdnet(noisy, noise_model)
        return found, time.process_time() - start + seconds
    array, network = noisy[0, 0].numpy(), mptpn.load("small") if label == WHITENED else None
    (denoiser,) = prepare([alone], network, adapting=adapt if label == ADAPTED else None)
    prediction = denoiser.predict(array, uncertainty=False)
    share = 1.0 if label == WHITENED else assess(denoiser, array, prediction).share  # as mptpn denoise applies it
    found = prediction.applied(array, share)[0]
    return torch.from_numpy(found).float()[None, None], time.process_time() - start


def _ffdnet(noisy: Tensor, noise_model: NoiseModel) -> tuple[Tensor, float]:
    """FFDNet after the variance-stabilising transform, told the level; processor seconds of its program."""
    transform = VarianceStabilisingTransform.of(noise_model, low=float(noisy.min()), high=float(noisy.max()))
    command = (os.environ["MPTPN_FFDNET"], str(Path(__file__).with_name("ffdnet_denoise.py")))
    found, seconds = methods.outside_denoise(transform(noisy), command=command)
    return transform.inverse(found), seconds


def scores(scenes: Iterable[Scene], *, seed: int, adapt: float = 0.0) -> pd.DataFrame:
    """Every method on every scene: PSNR and seconds; on the first of each test what it keeps of small structures.

    Not of ADAPTED, which would adapt to each image with planted structures anew.
    """
    rows, seen = [], set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network for white noise says that it is one
        for test, image, subject, noisy, clean in scenes:
            structures = () if test in seen else _structures(test, noisy, clean, seed=seed)
            seen.add(test)
            for label in labels(adapt=adapt):
                found, seconds = denoise(label, noisy, adapt=adapt)
                compared, truth, peak = datasets.comparable(test, found, clean)
                row = {"test": test, "image": image, "subject": subject, "method": label}
                row |= {"psnr_db": psnr_db(compared, truth, peak=peak), "seconds": seconds}
                if structures and label != ADAPTED:
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
