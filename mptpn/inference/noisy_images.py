"""Images of one series and their noise: estimated once, for training on them and for the denoiser of them all."""

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mptpn.filters import robust_level
from mptpn.inference.denoiser import Denoiser, Network, load_network
from mptpn.inference.looks import look
from mptpn.inference.masks import MaskedImage, bounding_box, inpaint, masked_image, pieces, select
from mptpn.inference.orientation import orientation, turned
from mptpn.inference.predictor import (
    BlindSpotPredictor,
    Predictor,
    StabilisedPredictor,
    TransformerPredictor,
    told_correlation,
)
from mptpn.inference.stabilise import VarianceStabilisingTransform, added_noise, cut, photons_at
from mptpn.io import gray_array
from mptpn.networks import BlindSpotNetwork, RetractableTransformer
from mptpn.networks.noise_level import SMALLEST
from mptpn.noise import EMCCD, NoiseEstimate, NoiseModel, Poisson, detect_skew, may_be_skewed
from mptpn.random import generator
from mptpn.stages import pipeline, preliminary
from mptpn.tiling import spread
from mptpn.training import launch

if TYPE_CHECKING:
    from lightning.fabric import Fabric

AUTO, SELF = "auto", "self"  # models: the package's network for this noise; one trained on the images themselves
PRETRAINED = ("small", "correlated")  # networks of the package for white and for correlated noise
# level of the noise that the network is told: noise of longer range than is measured makes it stronger than estimated
# (chosen on validation images: 0.02 to 0.06 dB on CT, OCT and MR)
TOLD_LEVEL = 1.1
SKEW_IMAGES = 4  # of a series, whose noise is examined for skew


@dataclass(frozen=True, eq=False)
class NoisyImages:
    """Images of one series as they are inside the package, and their noise.

    Attributes:
        images: pixels over `unit`, turned, and their masks.
        unit: what 1 stands for inside, in the own unit.
        noise: of all images together, inside. noise_models: of each image.
        turn: of the images inside, see orientation.
    """

    images: tuple[MaskedImage, ...]
    unit: float
    noise: NoiseEstimate
    noise_models: tuple[NoiseModel, ...]
    turn: int = 0

    @classmethod
    def of(
        cls,
        arrays: Sequence[np.ndarray],
        *,
        valid: Sequence[np.ndarray | None] | None = None,
        subjects: Sequence[Hashable] | None = None,
        turn: int | None = None,
    ) -> "NoisyImages":
        """Estimate the noise of arrays [H, W] in one unit, each with a mask or None.

        subjects: of whom each array is; None: all of one. turn: as orientation tells; None: as it tells of these.
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
        turn = orientation(arrays, masks) if turn is None else turn
        arrays = [turned(x, turn) for x in arrays]
        masks = [None if mask is None else turned(np.asarray(mask), turn) for mask in masks]
        inside = [x if mask is None else x[mask] for x, mask in zip(arrays, masks, strict=True)]
        unit = max(max(abs(float(x.min())), abs(float(x.max()))) for x in inside) or 1.0
        images = tuple(masked_image(x, mask, unit) for x, mask in zip(arrays, masks, strict=True))
        measured, whole, zeros = look(images, subjects)
        if len(images) == 1:
            return cls(images, unit, whole, (whole.noise_model,), turn)
        each = (pipeline.noise_model_in_set(many, whole, zeros=zeros) for many in measured)
        return cls(images, unit, whole, tuple(each), turn)

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

    @property
    def pretrained(self) -> str:
        """Name of the network of the package for this noise."""
        return PRETRAINED[self.noise.noise_model.correlated]

    def network(self, model: str | Path | Network, *, minutes: float, seed: int = 0) -> Network | None:
        """The network that a user means: None for AUTO (prepare chooses), trained on these images for SELF, else what
        load_network knows.
        """
        if str(model) == AUTO:
            return None
        return self.fit(minutes=minutes, seed=seed) if str(model) == SELF else load_network(model)

    def prepare(self, network: Network | None = None) -> Denoiser:
        """The denoiser of these images by a trained network; warns where the network does not know this noise.

        network: None: the one of the package for this noise.
        """
        network = load_once(self.pretrained) if network is None else network
        wanted, known = self.noise.half_size, getattr(network, "half_size", self.noise.half_size)
        if any(own < most for own, most in zip(known, wanted, strict=True)):
            warnings.warn(
                "this noise correlates farther than the network's blind spot covers "
                f"(half sizes {wanted}, it has {known})",
                stacklevel=3,
            )
        if network.for_white_noise and network.description is None and wanted != (0, 0):
            warnings.warn(
                "the network is for white noise, and this noise is correlated: noise is added that makes it white, "
                "and a network that learns it may do better (mptpn train)",
                stacklevel=3,
            )
        seen = self.with_skew() if network.for_white_noise else self
        return seen.around(predictor_of(network, seen.noise.noise_model, self.images))

    def with_skew(self) -> "NoisyImages":
        """The same with the skewed noise model that most images show, if they do: the inverse transform needs it."""
        model, found = self.noise.noise_model, []
        if not may_be_skewed(model):
            return self
        for i, image in enumerate(spread(self.images, SKEW_IMAGES)):
            box = bounding_box(image.measured)
            pixels, measured = image.pixels[..., *box], image.measured[..., *box]
            pixels = inpaint(pixels, measured, noise_model=model, generator=generator(i, "inpainting"))
            found.append(detect_skew(pixels, noise_model=model, families=(Poisson, EMCCD)))
        skewed = [one for one in found if isinstance(one, Poisson)]
        if 2 * len(skewed) <= len(found):
            return self
        chosen = sorted(skewed, key=lambda one: (one.excess, one.read))[len(skewed) // 2]
        return replace(self, noise=replace(self.noise, noise_model=chosen))

    def around(self, predictor: Predictor) -> Denoiser:
        """The denoiser of these images by a predictor of their noise model, as they are inside the package."""
        return Denoiser(predictor, self.estimate, self.unit, self.turn)

    @property
    def estimate(self) -> NoiseEstimate:
        """The noise of all images together, in their own unit and orientation."""
        return self.noise.in_unit(self.unit).turned_back(self.turn)


@cache
def load_once(name: str) -> RetractableTransformer:
    """A network of the package, read once for all scans and channels."""
    return load_network(name)


def predictor_of(network: Network, noise_model: NoiseModel, images: Sequence[MaskedImage]) -> Predictor:
    """The predictor of images of one noise model, both in the unit inside the package, by a trained network."""
    known = [select(image.pixels, image.measured) for image in images]
    if isinstance(network, BlindSpotNetwork):
        ends = torch.tensor([min(x.min() for x in known), max(x.max() for x in known)])
        return BlindSpotPredictor(network, noise_model, _offset(known), preliminary.tabulated(noise_model, ends))
    places = [(image, piece) for image in images for piece in pieces(image.measured)]
    noise = {"noise_model": noise_model, "generator": generator(0, "inpainting")}  # else the level would be too low
    seen = [inpaint(image.pixels[piece], image.measured[piece], **noise) for image, piece in places]
    if not network.for_white_noise:
        return TransformerPredictor(network, noise_model, _offset(known), _level(seen))
    transform = stabilised(noise_model, images)
    photons = photons_at(noise_model, float(np.mean([x.mean(dtype=np.float64) for x in known])))
    known = [transform(torch.from_numpy(x)).numpy() for x in known]
    if network.description is not None:
        told = told_correlation(noise_model)[None]
        level = torch.full((1, 1, 1, 1), TOLD_LEVEL)
        return StabilisedPredictor(network, noise_model, _offset(known), level, transform, told, photons=photons)
    field = added_noise(noise_model, photons)[:1]
    seen = [
        transform(x) + cut(field, (piece[1].start, piece[2].start), x.shape[2:])
        for x, (_, piece) in zip(seen, places, strict=True)
    ]
    return StabilisedPredictor(network, noise_model, _offset(known), _level(seen), transform, photons=photons)


def stabilised(noise_model: NoiseModel, images: Sequence[MaskedImage]) -> VarianceStabilisingTransform:
    """The transform that makes the variance of the noise 1, over the range of the images."""
    ends = [(float(x.min()), float(x.max())) for x in (select(image.pixels, image.measured) for image in images)]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return VarianceStabilisingTransform.of(noise_model, low=low, high=high)


def _offset(known: Sequence[np.ndarray]) -> Tensor:
    """Mean over images of their mean intensity, [1, 1, 1, 1]."""
    means = torch.tensor([x.mean(dtype=np.float64) for x in known], dtype=torch.float32)
    return means.mean().view(1, 1, 1, 1)


def _level(seen: Sequence[Tensor]) -> Tensor:
    """Median over pieces of their robust noise level, [1, 1, 1, 1]."""
    return torch.cat([robust_level(x) for x in seen]).median().view(1, 1, 1, 1)
