"""Denoise one image: a noisy array in, and out come the denoised one, its uncertainty, its noise and whether to trust
it.
"""

import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mptpn.inference.masks import as_array
from mptpn.inference.predictor import Denoiser, Solved, check_strength
from mptpn.inference.quality_control import Trust, assess
from mptpn.inference.sure import NORMAL_95, estimated_psnr
from mptpn.metrics import psnr_from_mse
from mptpn.noise.estimate import NoiseEstimate
from mptpn.random import generator

# px and number: of an image of more pixels, trust and quality are judged on blocks spread over it
BLOCK, BLOCKS = 256, 16


@dataclass(frozen=True)
class Denoised:
    """What denoise() gives.

    Attributes:
        image: type and shape of the input.
        uncertainty: standard deviation of its error at each pixel, float32, same shape; 0 in an alpha channel. A pixel
            that was left as it was has the noise's.
        noise: report in the image's unit; of colour, all channels together.
        trust: judgement of the full removal, whatever the strength; of colour, the checks of all channels.
        psnr_gain: estimated gain in PSNR of the full removal, dB, and its 95 % interval; None: see reason.
        reason: why there is no psnr_gain, or "".
    """

    image: np.ndarray
    uncertainty: np.ndarray
    noise: NoiseEstimate
    trust: Trust
    psnr_gain: tuple[float, tuple[float, float]] | None
    reason: str = ""


def denoise(
    image: np.ndarray,
    *,
    model: str | Path | None = None,
    strength: float = 1.0,
    minutes: float = 3.0,
    memory: int | None = None,
    valid: np.ndarray | None = None,
    seed: int = 0,
) -> Denoised:
    """Denoise one image: with a trained model, or with a blind-spot network that learns from the image itself.

    Args:
        image: [H, W], or [H, W, 3] or [H, W, 4] whose channels are denoised by one network, each with its own noise
            model (alpha, and a constant channel, stay); any integer or float type, at least 16 x 16 px.
        model: a network of the package ("small", "base"), or .safetensors from mptpn train; None: learn from the image
            within `minutes`.
        strength: 0 (the input, exactly) to 1. memory: bytes that the process may hold in all; None: half of what is
            free more than now.
        valid: [H, W] bool; False: padding, background or saturated pixels, which no estimate sees and which stay as
            they are. Areas of 9 x 9 px or more of one value are found without it.
    Raises:
        ValueError: not an image, too small, constant, NaN or infinite; FileNotFoundError: no such model.
    """
    check_strength(strength)
    if image is None or getattr(image, "ndim", np.ndim(image)) not in (2, 3):
        raise ValueError(f"the image has shape {np.shape(image)}; give [H, W] or [H, W, 3].")
    array = as_array(image)
    if array.ndim == 3 and array.shape[2] not in (3, 4):
        raise ValueError(f"the image has shape {array.shape}; give [H, W] or [H, W, 3], and a volume slice by slice.")
    channels = [array] if array.ndim == 2 else [array[..., i] for i in range(3)]
    kept = [
        i
        for i, channel in enumerate(channels)
        if array.ndim == 2 or channel.size == 0 or not (channel == channel.flat[0]).all()
    ] or [0]
    noisy, masks = [channels[i] for i in kept], [valid] * len(kept)
    series = (
        Denoiser.load(model, noisy, valid=masks)
        if model
        else Denoiser.learn(noisy, minutes=minutes, valid=masks, seed=seed)
    )
    out, uncertainty, verdicts = array.copy(), np.zeros(array.shape, np.float32), []
    for i, channel in zip(kept, noisy, strict=True):
        one = series if len(kept) == 1 else Denoiser.around(series.network, [channel], valid=[valid])
        solved = one.solve(channel, valid, memory=memory)
        verdicts.append(assess_prediction(one, solved, memory=memory))
        place = ... if array.ndim == 2 else (..., i)
        one.blended(channel, solved, strength, out[place])
        if array.ndim == 2:
            uncertainty = solved.sigma[0, 0].numpy()
        else:
            uncertainty[place] = solved.sigma[0, 0].numpy()
    trust = verdicts[0][0] if len(kept) == 1 else _together([trust for trust, _, _ in verdicts], kept)
    for check in trust.checks:
        if not check.passed and (
            check.name.startswith("model") or "nothing was removed" in check.verdict and check.name.startswith("size")
        ):
            warnings.warn(check.verdict, stacklevel=2)
    gains, reason = [gain for _, gain, _ in verdicts], next((reason for _, _, reason in verdicts if reason), "")
    mean = (
        None
        if reason
        else tuple(float(np.mean(x)) for x in zip(*((best, low, high) for best, (low, high) in gains), strict=True))
    )
    return Denoised(out, uncertainty, series.noise, trust, mean and (mean[0], mean[1:]), reason)


def _together(trusts: list[Trust], channels: list[int]) -> Trust:
    return Trust(
        tuple(
            replace(c, name=f"{c.name} of channel {i}", verdict=f"channel {i}: {c.verdict}")
            for t, i in zip(trusts, channels, strict=True)
            for c in t.checks
        )
    )


def assess_prediction(
    denoiser: Denoiser, solved: Solved, *, memory: int | None = None
) -> tuple[Trust, tuple[float, tuple[float, float]] | None, str]:
    """Trust in a full-strength result, the gain in PSNR with its interval, and why there is none; of a large image on
    blocks spread over it.
    """
    sigma = float(denoiser.noise_model.variance(denoiser.offset).sqrt())
    low, high = solved.ends
    # near an end the noise is cut off
    trusted = solved.counts & (solved.denoised > low + 3 * sigma) & (solved.denoised < high - 3 * sigma)
    trusted = trusted if int(trusted.sum()) >= 64 else solved.counts
    cuts = _blocks(trusted) if trusted.numel() > BLOCKS * BLOCK**2 else [...]
    noisy, denoised, counted = (torch.cat([x[cut] for cut in cuts]) for x in (solved.pixels, solved.denoised, trusted))
    trust = assess(
        noisy, denoised, noise_model=denoiser.noise_model, valid=counted, noise=denoiser.noise, unit=denoiser.unit
    )
    error = math.log(denoiser.noise.sigma_interval[1] / denoiser.noise.sigma_interval[0]) / 2 / NORMAL_95
    if not denoiser.noise_model.zero_mean_gaussian:
        return trust, None, f"{denoiser.noise.kind} noise: Stein's estimate is for Gaussian noise of mean 0"
    if error >= 1 / NORMAL_95:
        return trust, None, "the noise level is not known"
    if not bool(counted.all()):
        cuts = [cut for cut in _blocks(solved.counts, side=64) if bool(solved.counts[cut].all())]
        if not cuts:
            return trust, None, "no block of 64 x 64 px is free of masked or clipped pixels"
        noisy = torch.cat([solved.pixels[cut] for cut in cuts])

    def mean(batch: Tensor) -> Tensor:
        return torch.cat([denoiser.in_tiles(denoiser.mean, one[None], memory=memory) for one in batch])

    best, (least, most) = estimated_psnr(
        mean,
        noisy,
        noise_model=denoiser.noise_model,
        level_error=error,
        generator=generator(noisy.numel(), "risk"),
        draws=2,
    )
    denoised = torch.cat([solved.denoised[cut] for cut in cuts])
    own = psnr_from_mse(float(denoiser.noise_model.variance(denoised).mean()))
    return trust, (best - own, (least - own, most - own)), ""


def gain_said(gain: tuple[float, tuple[float, float]] | None, reason: str) -> str:
    """What judged() says of the gain, as a sentence."""
    return (
        f"estimated gain {gain[0]:.1f} dB in PSNR ({gain[1][0]:.1f} to {gain[1][1]:.1f})"
        if gain
        else f"no estimate of the gain: {reason}"
    )


def _blocks(counts: Tensor, *, side: int = BLOCK) -> list[tuple]:
    """Cuts of up to BLOCKS squares of pixels that count best, spread over the image."""
    height, width = counts.shape[2:]
    cuts = [
        (..., slice(top, top + side), slice(left, left + side))
        for top in range(0, height - side + 1, side)
        for left in range(0, width - side + 1, side)
    ]
    cuts = [cut for cut in cuts if float(counts[cut].float().mean()) > 0.5] or cuts
    return cuts[:: max(1, -(-len(cuts) // BLOCKS))]
