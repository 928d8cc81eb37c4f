"""A prepared predictor, tile by tile over images in their own unit, and what comes out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mptpn import tiling
from mptpn.inference.masks import constant_areas, inpaint, unit_pixels
from mptpn.inference.predictor import Predictor
from mptpn.networks import BlindSpotNetwork, RetractableTransformer, load_weights
from mptpn.noise import NoiseEstimate
from mptpn.random import generator

SIDE = 1024  # px, about the largest side of a tile
ARRAYS = 20  # bytes per pixel that a call holds beside its tiles: image, result, uncertainty, noise, mask
SLACK = 64 * 2**20  # bytes that the allocator may not give back between tiles
Network = BlindSpotNetwork | RetractableTransformer


@dataclass(frozen=True, eq=False)
class Prediction:
    """Full removal of the noise of one image or tile, [1, 1, H, W] float32 in the unit inside the package.

    Attributes:
        noisy: the image, masked pixels inpainted. denoised: posterior mean.
        variance, noise: of its error and of the noise.
        restored: True where pixels stay as they are (masked, or areas of one value).
        unit: what 1 stands for, in the image's own unit.
    """

    noisy: Tensor
    denoised: Tensor
    variance: Tensor
    noise: Tensor
    restored: Tensor
    unit: float

    def at(self, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """What is added to the image, and the standard deviation of the error then, [H, W] float32 in the own unit.

        Strength t gives y + t (f - y) of the posterior mean f; y - f and f - x are uncorrelated, so that the error's
        variance is s^2 + (1 - t)^2 (sigma_n^2 - s^2). The change is exactly 0 where pixels stay as they are.
        """
        left = self.variance + (1 - strength) ** 2 * (self.noise - self.variance).clamp_min(0)
        sigma = torch.where(self.restored, self.noise, left).sqrt() * self.unit
        change = torch.where(self.restored, 0.0, (self.denoised - self.noisy) * (strength * self.unit))
        return change[0, 0].numpy(), sigma[0, 0].numpy()

    def applied(self, image: np.ndarray, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The image [H, W] denoised at a strength, float64, and the standard deviation of the error, as at()."""
        change, sigma = self.at(strength)
        return image + change.astype(np.float64), sigma

    @property
    def noise_sigma(self) -> np.ndarray:
        """Standard deviation of the noise at each pixel, [H, W] float32 in the own unit."""
        return self.noise.sqrt()[0, 0].numpy() * self.unit


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A predictor prepared for the noise of one image or a series, so that all images of a series are treated alike.

    Attributes:
        predictor: in the unit inside the package.
        noise: estimate in the images' own unit.
        unit: what 1 stands for inside, in the own unit.
    """

    predictor: Predictor
    noise: NoiseEstimate
    unit: float

    def tiles(
        self, image: np.ndarray, valid: np.ndarray | None = None, *, memory: int | None = None, uncertainty: bool = True
    ) -> Iterator[tuple[tuple[slice, slice], Prediction]]:
        """An image tile by tile: the place of each tile, rows and columns, and its prediction.

        Args:
            image: [H, W], of the series, in the own unit.
            valid: [H, W] bool; False: pixels that no estimate sees and that stay as they are.
            memory: bytes that the process may hold in all; None: half of what is free more than now.
            uncertainty: whether the error is wanted; of a transformer it takes twice the time of the image.
        Raises:
            ValueError: too little memory; the message says how much it takes.
        """
        for around, inside, place in self._cuts(image.shape, memory):
            mask, counted = None if valid is None else valid[around], self.predictor.noise_model.counted
            pixels, masked = unit_pixels(image[around], mask, self.unit)
            restored = masked | constant_areas(pixels, counts=counted)
            seed = pixels.numel()
            pixels = inpaint(
                pixels, ~restored, noise_model=self.predictor.noise_model, generator=generator(seed, "inpainting")
            )
            probes = generator(seed, "uncertainty") if uncertainty else None
            origin = (around[0].start, around[1].start)
            if bool(restored.all()):
                mean, sigma = pixels, torch.zeros_like(pixels)
            else:
                mean, sigma = self.predictor.predict(pixels, origin=origin, probes=probes)
            kept = [x[..., *inside] for x in (pixels, mean, sigma**2, restored)]
            noise = self.predictor.noise_model.variance(torch.where(kept[3], kept[0], kept[1]))
            yield place, Prediction(*kept[:3], noise, kept[3], self.unit)

    def predict(
        self, image: np.ndarray, valid: np.ndarray | None = None, *, memory: int | None = None, uncertainty: bool = True
    ) -> Prediction:
        """The tiles of an image put together; arguments as in tiles()."""
        names, whole = ("noisy", "denoised", "variance", "noise", "restored"), None
        for (rows, columns), part in self.tiles(image, valid, memory=memory, uncertainty=uncertainty):
            if part.noisy.shape[2:] == image.shape:
                return part
            if whole is None:
                whole = {name: getattr(part, name).new_empty(1, 1, *image.shape) for name in names}
            for name in names:
                whole[name][..., rows, columns] = getattr(part, name)
        return Prediction(**whole, unit=self.unit)

    def mean(self, noisy: Tensor, *, memory: int | None = None) -> Tensor:
        """Posterior mean of [1, 1, H, W] in the unit inside the package, tile by tile."""
        whole = torch.empty_like(noisy)
        for around, inside, place in self._cuts(noisy.shape[2:], memory):
            origin = (around[0].start, around[1].start)
            whole[..., *place] = self.predictor.mean(noisy[..., *around], origin=origin)[..., *inside]
        return whole

    def _cuts(self, shape: Sequence[int], memory: int | None) -> list[tiling.Cut]:
        """Tiles of about SIDE px or of what the memory holds, each with its halo."""
        predictor, pixels = self.predictor, math.prod(shape)
        align, halo, price = predictor.alignment, predictor.halo, predictor.bytes_per_pixel + 64
        budget = tiling.default_budget() if memory is None else memory
        held = tiling.resident() + ARRAYS * pixels + SLACK
        if budget - held >= price * pixels:
            return tiling.cuts(shape, side=SIDE, multiple=align, halo=halo)
        try:
            most = tiling.tile_side(budget - held, bytes_per_pixel=price, halo=halo, multiple=align)
        except ValueError:
            least = held + min(price * (align + 2 * halo) ** 2, price * pixels)
            held, budget, least = (f"{math.ceil(x / 2**20)} MiB" for x in (held, budget, least))
            raise ValueError(
                f"a memory of {budget} is too little, for the process holds {held} already; give at least {least}."
            ) from None
        return tiling.cuts(shape, side=SIDE, multiple=align, halo=halo, most=most)


def load_network(model: str | Path | Network) -> Network:
    """A trained network for gray images.

    Args:
        model: .safetensors from mptpn train, the name of a pretrained network, or a network in hand.
    Raises:
        FileNotFoundError, ValueError: see load_weights; a network for colour.
    """
    network = load_weights(model, RetractableTransformer, BlindSpotNetwork)[0] if _is_name(model) else model
    if network.channels != 1:
        raise ValueError(
            f"{model if _is_name(model) else 'the network'}: a network for {network.channels} channels; "
            "give one for gray images, it serves each channel of colour."
        )
    return network


def _is_name(model: object) -> bool:
    return isinstance(model, str | Path)


def check_strength(strength: float) -> None:
    """Raise ValueError for a strength outside 0 (the input) to 1 (all the noise)."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength}: give a number from 0 (the input) to 1 (all the noise).")
