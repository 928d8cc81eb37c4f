"""From noisy images in their own unit to denoised ones: masks, noise, network and tiles brought together once."""

import math
import warnings
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mptpn import tiling
from mptpn.filters import robust_level
from mptpn.inference.masks import MaskedImage, bounding_box, inpaint, masked_image, pieces, restored_pixels, select
from mptpn.inference.predictor import BlindSpotPredictor, Predictor, StabilisedPredictor, TransformerPredictor
from mptpn.inference.stabilise import VarianceStabilisingTransform, cut, whitening_noise
from mptpn.io import gray_array
from mptpn.networks import BlindSpotNetwork, RetractableTransformer, load_weights
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise import EMCCD, NoiseEstimate, NoiseModel, Poisson, PoissonGaussian, detect_skew, estimate_from, measure
from mptpn.random import generator
from mptpn.stages import pipeline, preliminary
from mptpn.tiling import spread
from mptpn.training import launch

if TYPE_CHECKING:
    from lightning.fabric import Fabric

SIDE = 1024  # px, about the largest side of a tile
ARRAYS = 20  # bytes per pixel that a call holds beside its tiles: image, result, uncertainty, noise, mask
SKEW_IMAGES = 4  # of a series, whose noise is examined for skew
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
            pixels, restored = restored_pixels(image[around], mask, self.unit, counts=counted)
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


@dataclass(frozen=True, eq=False)
class NoisyImages:
    """Images of one series as they are inside the package, and their noise.

    Attributes:
        images: pixels over `unit`, and their masks.
        unit: what 1 stands for inside, in the own unit.
        noise: of all images together, inside. noise_models: of each image.
    """

    images: tuple[MaskedImage, ...]
    unit: float
    noise: NoiseEstimate
    noise_models: tuple[NoiseModel, ...]

    @classmethod
    def of(
        cls,
        arrays: Sequence[np.ndarray],
        *,
        valid: Sequence[np.ndarray | None] | None = None,
        subjects: Sequence[Hashable] | None = None,
    ) -> "NoisyImages":
        """Estimate the noise of arrays [H, W] in one unit, each with a mask or None.

        subjects: of whom each array is; None: all of one.
        """
        subjects = [0] * len(arrays) if subjects is None else subjects
        masks = [None] * len(arrays) if valid is None else list(valid)
        if not arrays or len(masks) != len(arrays):
            raise ValueError(
                f"{len(arrays)} images and {len(masks)} masks; give at least one image, and a mask or None for each."
            )
        arrays = [
            gray_array(x, name=f"image {i}", valid=mask, smallest=SMALLEST, remedy="replace, crop or mask")
            for i, (x, mask) in enumerate(zip(arrays, masks, strict=True))
        ]
        inside = [x if mask is None else x[np.asarray(mask)] for x, mask in zip(arrays, masks, strict=True)]
        unit = max(max(abs(float(x.min())), abs(float(x.max()))) for x in inside) or 1.0
        images = tuple(masked_image(x, mask, unit) for x, mask in zip(arrays, masks, strict=True))
        measured = [
            [
                measure(
                    image.pixels[piece], valid=~image.restored[piece], counts=image.counts, number=i, subject=subject
                )
                for piece in pieces(image.measured)
            ]
            for i, (image, subject) in enumerate(zip(images, subjects, strict=True))
        ]
        from_zero = min(float(select(image.pixels, ~image.restored).min()) for image in images) >= 0
        whole = estimate_from([one for many in measured for one in many], from_zero=from_zero)
        if len(images) == 1:
            return cls(images, unit, whole, (whole.noise_model,))
        each = (pipeline.noise_model_in_set(many, whole, from_zero=from_zero) for many in measured)
        return cls(images, unit, whole, tuple(each))

    def fit(
        self,
        *,
        minutes: float,
        fabric: "Fabric | None" = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        steps: int = pipeline.STEPS,
    ) -> BlindSpotNetwork:
        """Stage 1 on the images themselves: a blind-spot network for this noise, from nothing else.

        Each image is cut to the box around its measured pixels, and what is masked in there is inpainted.

        Args:
            minutes: wall-clock budget. fabric: from training.launch; None: this CPU.
            checkpoint, steps: as in training.fit.
        """
        if not 0 < minutes < math.inf:
            raise ValueError(f"minutes {minutes}: give a finite budget above 0.")
        noisy, noise_models = [], []
        for i, (image, model) in enumerate(zip(self.images, self.noise_models, strict=True)):
            random = generator(seed, "padding", i)
            inpainted = inpaint(image.pixels, image.measured, noise_model=model, generator=random)
            inpainted = inpainted[..., *bounding_box(image.measured)]
            if min(inpainted.shape[2:]) >= SMALLEST:
                noisy.append(inpainted)
                noise_models.append(model)
        patch = min(64, *(min(x.shape[2:]) for x in noisy))
        noise = pipeline.SetNoise(self.noise, tuple(noise_models))
        budget = {"steps": steps, "seconds": 60 * minutes, "checkpoint": checkpoint}
        return pipeline.stage_1(noisy, noise=noise, fabric=fabric or launch(), patch=patch, seed=seed, **budget)

    def prepare(self, network: Network) -> Denoiser:
        """The denoiser of these images by a trained network; warns where the network does not know this noise."""
        wanted, known = self.noise.half_size, getattr(network, "half_size", self.noise.half_size)
        if any(own < most for own, most in zip(known, wanted, strict=True)):
            warnings.warn(
                "this noise correlates farther than the network's blind spot covers "
                f"(half sizes {wanted}, it has {known})",
                stacklevel=3,
            )
        if network.for_white_noise and wanted != (0, 0):
            warnings.warn(
                "the network is for white noise, and this noise is correlated: noise is added that makes it white, "
                "and a network that learns it may do better (mptpn train)",
                stacklevel=3,
            )
        seen = self.with_skew() if network.for_white_noise else self
        return seen.around(predictor_of(network, seen.noise.noise_model, self.images))

    def with_skew(self) -> "NoisyImages":
        """The same with the skewed noise model that most images show, if they do: the inverse transform needs it."""
        model, boxes = self.noise.noise_model, [(image, bounding_box(image.measured)) for image in self.images]
        if type(model) is not PoissonGaussian or not model.gain:
            return self
        found = []
        for i, (image, box) in enumerate(spread(boxes, SKEW_IMAGES)):
            pixels, measured = image.pixels[..., *box], image.measured[..., *box]
            pixels = inpaint(pixels, measured, noise_model=model, generator=generator(i, "inpainting"))
            found.append(detect_skew(pixels, noise_model=model, families=(Poisson, EMCCD)))
        skewed = [one for one in found if isinstance(one, Poisson)]
        if 2 * len(skewed) <= len(found):
            return self
        chosen = sorted(skewed, key=lambda one: (one.excess, one.read))[len(skewed) // 2]
        return replace(self, noise=replace(self.noise, noise_model=chosen))

    def around(self, predictor: Predictor) -> Denoiser:
        """The denoiser of these images by a predictor of their noise model, in the unit inside the package."""
        return Denoiser(predictor, self.noise.in_unit(self.unit), self.unit)


def predictor_of(network: Network, noise_model: NoiseModel, images: Sequence[MaskedImage]) -> Predictor:
    """The predictor of images of one noise model, both in the unit inside the package, by a trained network."""
    known = [select(image.pixels, image.measured) for image in images]
    ends = torch.tensor([min(x.min() for x in known), max(x.max() for x in known)])
    if isinstance(network, BlindSpotNetwork):
        return BlindSpotPredictor(network, noise_model, _offset(known), preliminary.tabulated(noise_model, ends))
    places = [(image, piece) for image in images for piece in pieces(image.measured)]
    noise = {"noise_model": noise_model, "generator": generator(0, "inpainting")}  # else the level would be too low
    seen = [inpaint(image.pixels[piece], image.measured[piece], **noise) for image, piece in places]
    if not network.for_white_noise:
        return TransformerPredictor(network, noise_model, _offset(known), _level(seen))
    low, high = ends.tolist()
    transform = VarianceStabilisingTransform.of(noise_model, low=low, high=high)
    known = [transform(torch.from_numpy(x)).numpy() for x in known]
    field = whitening_noise(noise_model)[:1]
    seen = [
        transform(x) + cut(field, (piece[1].start, piece[2].start), x.shape[2:])
        for x, (_, piece) in zip(seen, places, strict=True)
    ]
    return StabilisedPredictor(network, noise_model, _offset(known), _level(seen), transform)


def _offset(known: Sequence[np.ndarray]) -> Tensor:
    """Mean over images of their mean intensity, [1, 1, 1, 1]."""
    means = torch.tensor([x.mean(dtype=np.float64) for x in known], dtype=torch.float32)
    return means.mean().view(1, 1, 1, 1)


def _level(seen: Sequence[Tensor]) -> Tensor:
    """Median over pieces of their robust noise level, [1, 1, 1, 1]."""
    return torch.cat([robust_level(x) for x in seen]).median().view(1, 1, 1, 1)


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
