"""A network prepared for the noise of one image or a series: the posterior mean of each image and its standard
deviation, in the images' own unit.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from mptpn import tiling
from mptpn.api import STEPS, in_unit
from mptpn.filters import robust_level
from mptpn.inference import stabilise
from mptpn.inference.masks import bounding_box, checked, inpaint, mask_for_estimate, masks_of, pieces, select
from mptpn.networks.blind_spot import BlindSpotNetwork
from mptpn.networks.noise_level import SMALLEST
from mptpn.networks.transformer import RetractableTransformer
from mptpn.networks.weights import load_weights, pretrained_paths
from mptpn.noise.bands import measure
from mptpn.noise.estimate import NoiseEstimate, estimate_from
from mptpn.noise.models import NoiseModel
from mptpn.random import generator
from mptpn.stages import pipeline, preliminary, profound
from mptpn.training.loop import launch

# fields that probe a transformer's Jacobian, their size in units of the noise, side of the averages, px
PROBES, STEP, WINDOW = 2, 0.05, 9
LEAST = 0.01  # of the noise's variance: a smaller error is chance in the probes
# px, around tiles of the transformer: in gray levels of 255 `small` then differs from the whole image by 0.20 at most
# where the noise's sigma
HALO = 128
# is 12, `base` by 0.06 (sigma 17); with 256 px it is 0.0005, and a tile takes 0.8 GB
# The fields that whiten correlated noise are drawn for each tile: where two tiles meet, results on CT noise of a smooth
# kernel differ by 0.12 of its sigma.
ARRAYS = 12  # bytes per pixel that a call will hold beside its tiles: denoised, uncertainty, masks
# bytes that the allocator may not give back between tiles: without it 4096 x 4096 px peaked 35 MiB above a budget of 1
# GiB
SLACK = 64 * 2**20


@dataclass(frozen=True)
class Solved:
    """Full-strength result of one image inside the package, [1, 1, H, W] float32: image (filled), denoised, sigma;
    restored, ends: see validity.masks_of.
    """

    pixels: Tensor
    denoised: Tensor
    sigma: Tensor
    restored: Tensor
    counts: Tensor
    ends: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A network and the noise of an image or a series, prepared once: all images of a series are treated alike, without
    flicker.

    Attributes:
        noise: report in the images' own unit.
        unit: what 1 stands for inside, in the own unit.
        noise model: of the noise, inside. offset, level: mean and robust level of the series as the network sees it,
            [1, 1, 1, 1]; table: the noise model as numbers over its range, [1, 67].
        stabilised: the transform of intensities before a network for white noise, whose noise is then filled up to
            white (see whitened); None: no such network.
    """

    network: BlindSpotNetwork | RetractableTransformer
    noise: NoiseEstimate
    unit: float
    noise_model: NoiseModel
    offset: Tensor
    level: Tensor
    table: Tensor
    stabilised: stabilise.VarianceStabilisingTransform | None = None

    @classmethod
    def learn(
        cls,
        images: Sequence[np.ndarray],
        *,
        minutes: float,
        fabric: Fabric | None = None,
        valid: Sequence[np.ndarray | None] | None = None,
        seed: int = 0,
        checkpoint: str | Path | None = None,
    ) -> "Denoiser":
        """Stage 1 on the images themselves: a blind-spot network for this noise, from nothing else.

        Each image is cut to the box around its valid pixels, and what is invalid in there becomes the mean of the valid
        neighbours under noise of the noise model.

        Args:
            images: arrays [H, W] in one unit. minutes: wall-clock budget of the training. valid: a mask for each, see
                denoise.
            fabric: from training.launch; None: this CPU. checkpoint: as in training.fit.
        """
        if not 0 < minutes < math.inf:
            raise ValueError(f"minutes {minutes}: give a finite budget above 0.")
        found = _look(images, valid)
        boxes = [(..., *bounding_box(counts)) for counts in found.counts]
        noisy = [
            inpaint(x, c, noise_model=noise_model, generator=generator(seed, "padding", i))
            for i, (x, c, noise_model) in enumerate(zip(found.pixels, found.counts, found.noise_models, strict=True))
        ]
        noisy = [x[box] for x, box in zip(noisy, boxes, strict=True)]
        noisy, noise_models = zip(
            *[
                (x, noise_model)
                for x, noise_model in zip(noisy, found.noise_models, strict=True)
                if min(x.shape[2:]) >= SMALLEST
            ],
            strict=True,
        )
        patch = min(64, *(min(x.shape[2:]) for x in noisy))
        settings = {
            "noise": pipeline.SetNoise(found.inside, tuple(noise_models)),
            "steps": STEPS,
            "fabric": fabric or launch(),
            "patch": patch,
            "seed": seed,
        }
        return found.prepared(pipeline.stage_1(list(noisy), seconds=60 * minutes, checkpoint=checkpoint, **settings))

    @classmethod
    def load(
        cls, model: str | Path, images: Sequence[np.ndarray], *, valid: Sequence[np.ndarray | None] | None = None
    ) -> "Denoiser":
        """A trained network, of stage 3 or of stage 1, for images of one series.

        Args:
            model: .safetensors, from mptpn train, or the name of a network of the package. The others: see learn.
        """
        network, _ = load_weights(model, RetractableTransformer, BlindSpotNetwork)
        if network.channels != 1:
            raise ValueError(
                f"{model}: a network for {network.channels} channels; give one for gray images, it serves each channel of colour."
            )
        network.for_white_noise = str(model) in pretrained_paths()
        found = cls.around(network, images, valid=valid)
        if network.for_white_noise and found.noise.half_size != (0, 0):
            advice = "noise is added that makes it white, and a network that learns it may do better (mptpn train)"
            warnings.warn(f"{model} is for white noise, and this noise is correlated: {advice}", stacklevel=3)
        return found

    @classmethod
    def around(
        cls,
        network: BlindSpotNetwork | RetractableTransformer,
        images: Sequence[np.ndarray],
        *,
        valid: Sequence[np.ndarray | None] | None = None,
    ) -> "Denoiser":
        """The same for a network in hand; valid: a mask for each image."""
        return _look(images, valid).prepared(network)

    def __call__(
        self,
        image: np.ndarray,
        *,
        strength: float = 1.0,
        memory: int | None = None,
        valid: np.ndarray | None = None,
        uncertainty: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The denoised image and the standard deviation of its error, [H, W] each, in the own unit.

        Strength t gives y + t (f - y) of the posterior mean f; y - f and f - x are uncorrelated, so the error's
        variance is s^2 + (1 - t)^2 (sigma_n^2 - s^2).

        Args:
            image: [H, W], of the series. strength: 0 (the input) to 1. memory: bytes that the process may hold; None:
                half of what is free more than now.
            valid: see denoise. uncertainty: whether it is wanted; of a transformer it takes twice the time of the
                image. progress: called with the share done.
        Returns:
            float32, or float64 for numbers that float32 does not hold (int32 and more, float64); the uncertainty is
            float32, None if it is not wanted.
        """
        check_strength(strength)
        array = checked(image, "the image", valid)
        solved = self.solve(array, valid, memory=memory, uncertainty=uncertainty, progress=progress)
        kind = np.float32 if np.result_type(array.dtype, np.float32) == np.float32 else np.float64
        return self.blended(array, solved, strength, np.empty(array.shape, kind)), solved.sigma[
            0, 0
        ].numpy() if uncertainty else None

    def solve(
        self,
        array: np.ndarray,
        valid: np.ndarray | None,
        *,
        memory: int | None,
        uncertainty: bool = True,
        progress: Callable[[float], None] | None = None,
    ) -> Solved:
        """Full-strength result of an image; without uncertainty its sigma is that of the noise."""
        pixels, restored, counts, ends = masks_of(array, valid, self.unit)
        pixels = inpaint(pixels, ~restored, noise_model=self.noise_model, generator=generator(array.size, "inpainting"))
        probes = generator(array.size, "uncertainty")
        result = self.in_tiles(
            lambda crop: self._posterior(crop, probes if uncertainty else None),
            pixels,
            memory=memory,
            progress=progress,
        )
        return Solved(pixels, result["denoised"], result["sigma"], restored, counts, ends)

    @property
    def geometry(self) -> tuple[int, int]:
        """What the sides and corners of tiles are multiples of, and the halo around them, px."""
        multiple, halo = self.network.alignment, self.network.halo
        return multiple, halo if isinstance(self.network, BlindSpotNetwork) else min(
            halo, -(-HALO // multiple) * multiple
        )

    def in_tiles(
        self, function: Callable, pixels: Tensor, *, memory: int | None, progress: Callable[[float], None] | None = None
    ):
        multiple, halo = self.geometry
        budget, held = (
            tiling.default_budget() if memory is None else memory,
            tiling.resident() + ARRAYS * pixels.numel() + SLACK,
        )
        free, price = budget - held, self.network.bytes_per_pixel + 64
        whole = free >= price * pixels.numel()
        try:
            tile = (
                max(pixels.shape[2:])
                if whole
                else tiling.tile_side(free, bytes_per_pixel=price, halo=halo, multiple=multiple)
            )
        except ValueError:
            least = held + min(price * (multiple + 2 * halo) ** 2, price * pixels.numel())
            held, budget, least = (f"{math.ceil(x / 2**20)} MiB" for x in (held, budget, least))
            raise ValueError(
                f"a memory of {budget} is too little, for the process holds {held} already; give at least {least}."
            ) from None
        return tiling.tiled(function, pixels, tile=tile, halo=halo, progress=progress)

    @torch.no_grad()
    def mean(self, noisy: Tensor) -> Tensor:
        """Posterior mean of [B, 1, H, W], with the offset, level and noise model of the series."""
        if isinstance(self.network, BlindSpotNetwork):
            return self._blind(noisy)[0]
        if self.stabilised is None:
            return profound.denoise(self.network, noisy, offset=self.offset, scale=self.level)
        stable, fields = (
            self.stabilised(noisy),
            stabilise.whitening_noise(self.noise_model, tuple(noisy.shape[2:])).to(noisy),
        )
        found = [
            profound.denoise(self.network, stable + field, offset=self.offset, scale=self.level) for field in fields
        ]
        return self.stabilised.inverse(torch.stack(found).mean(0))

    def _blind(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        offset, table = self.offset.expand(len(noisy), -1, -1, -1), self.table.expand(len(noisy), -1)
        mean, sigma_mu, sigma_n = preliminary.predict(self.network, noisy, offset=offset, noise_model=table)
        return preliminary.fuse(noisy, mean, sigma_mu=sigma_mu, sigma_n=sigma_n)

    @torch.no_grad()
    def _posterior(self, noisy: Tensor, random: torch.Generator | None) -> dict[str, Tensor]:
        """Posterior mean and standard deviation of [B, 1, H, W].

        The transformer's variance is the diagonal of J S, J its Jacobian and S the noise's covariance (second-order
        Tweedie, Manor and Michaeli 2023, Thm. 1), E n' (f(y + e n') - f(y)) / e over noise n'; ours averages over 9 x 9
        px and keeps it between 1 % of the noise's and all of it.
        """
        if isinstance(self.network, BlindSpotNetwork):
            denoised, sigma = self._blind(noisy)
            return {"denoised": denoised, "sigma": sigma}
        denoised = self.mean(noisy)
        if random is None:
            return {"denoised": denoised, "sigma": self.noise_model.variance(denoised).sqrt()}
        variance = torch.zeros_like(noisy)
        for _ in range(PROBES):
            probe = self.noise_model.sample(denoised, generator=random) - self.noise_model.mean(denoised)
            variance += probe * (self.mean(noisy + STEP * probe) - denoised) / (STEP * PROBES)
        variance = F.avg_pool2d(variance, WINDOW, 1, WINDOW // 2, count_include_pad=False)
        noise = self.noise_model.variance(denoised)
        return {"denoised": denoised, "sigma": torch.maximum(torch.minimum(variance, noise), LEAST * noise).sqrt()}

    def level_at(self, solved: Solved) -> np.ndarray:
        """Standard deviation of the noise at each pixel of a result, [H, W], own unit."""
        return self.noise_model.variance(solved.denoised).sqrt()[0, 0].numpy() * self.unit

    def blended(self, array: np.ndarray, solved: Solved, strength: float, out: np.ndarray) -> np.ndarray:
        """Write the image at this strength into out, [H, W] of any type; solved.sigma becomes its uncertainty in the
        own unit. A few rows at a time.
        """
        for top in range(0, len(array), 256):
            rows = (..., slice(top, top + 256), slice(None))
            noisy, denoised, sigma, restored = (
                x[rows] for x in (solved.pixels, solved.denoised, solved.sigma, solved.restored)
            )
            noise = self.noise_model.variance(torch.where(restored, noisy, denoised))
            sigma.copy_(
                torch.where(restored, noise, sigma**2 + (1 - strength) ** 2 * (noise - sigma**2).clamp_min(0)).sqrt()
                * self.unit
            )
            step = torch.where(restored, 0.0, (denoised - noisy) * (strength * self.unit))[0, 0].numpy()
            own = array[top : top + 256]
            moved = own + step.astype(np.float64)
            if np.issubdtype(out.dtype, np.integer):
                limits = np.iinfo(out.dtype)
                moved = np.clip(
                    np.rint(moved),
                    limits.min,
                    float(limits.max) if limits.bits < 54 else np.nextafter(float(limits.max), 0),
                )
            # where nothing moves, no digit is lost
            out[top : top + 256] = np.where(step == 0, own, moved.astype(out.dtype, copy=False))
        return out


@dataclass(frozen=True)
class _Looked:
    """Images as they are inside the package, what counts in them, and their noise."""

    pixels: list[Tensor]
    counts: list[Tensor]
    unit: float
    inside: NoiseEstimate
    noise_models: list[NoiseModel]

    def prepared(self, network: BlindSpotNetwork | RetractableTransformer) -> Denoiser:
        half_size = getattr(network, "half_size", self.inside.half_size)
        if any(own < wanted for own, wanted in zip(half_size, self.inside.half_size, strict=True)):
            warnings.warn(
                f"this noise correlates farther than the network's blind spot covers (half sizes {self.inside.half_size}, it has {half_size})",
                stacklevel=4,
            )
        known = [select(x, c) for x, c in zip(self.pixels, self.counts, strict=True)]
        ends = torch.tensor([min(x.min() for x in known), max(x.max() for x in known)])
        noise_model, stabilised = self.inside.noise_model, None
        seen = [inpaint(x[cut], c[cut]) for x, c in zip(self.pixels, self.counts, strict=True) for cut in pieces(c)]
        if getattr(network, "for_white_noise", False):
            stabilised = stabilise.VarianceStabilisingTransform.of(noise_model, low=float(ends[0]), high=float(ends[1]))
            known = [stabilised(torch.from_numpy(x)).numpy() for x in known]
            seen = [
                stabilised(x) + stabilise.whitening_noise(noise_model, tuple(x.shape[2:]), pairs=1)[:1] for x in seen
            ]
        offset = torch.tensor([x.mean(dtype=np.float64) for x in known], dtype=torch.float32).mean().view(1, 1, 1, 1)
        level = torch.cat([robust_level(x) for x in seen]).median().view(1, 1, 1, 1)
        return Denoiser(
            network,
            in_unit(self.inside, self.unit),
            self.unit,
            noise_model,
            offset,
            level,
            preliminary.tabulated(noise_model, ends),
            stabilised,
        )


def _look(images: Sequence[np.ndarray], valid: Sequence[np.ndarray | None] | None) -> _Looked:
    masks = [None] * len(images) if valid is None else list(valid)
    if not images or len(masks) != len(images):
        raise ValueError(
            f"{len(images)} images and {len(masks)} masks; give at least one image, and a mask or None for each."
        )
    arrays = [checked(image, f"image {i}", mask) for i, (image, mask) in enumerate(zip(images, masks, strict=True))]
    inside = [array if mask is None else array[np.asarray(mask)] for array, mask in zip(arrays, masks, strict=True)]
    unit = max(max(abs(float(x.min())), abs(float(x.max()))) for x in inside) or 1.0
    seen = [masks_of(array, mask, unit) for array, mask in zip(arrays, masks, strict=True)]
    measured = [
        [measure(_marked(pixels[cut], counts[cut], ~restored[cut]), number=i, subject=0) for cut in pieces(counts)]
        for i, (pixels, restored, counts, _) in enumerate(seen)
    ]
    from_zero = min(float(select(pixels, ~restored).min()) for pixels, restored, _, _ in seen) >= 0
    whole = estimate_from([one for many in measured for one in many], from_zero=from_zero)
    noise_models = [whole.noise_model]
    if len(images) > 1:
        correlated = whole.noise_model.correlated  # as pipeline.noise_of: the set decides
        plain = [
            estimate_from(many, from_zero=from_zero, correlated=correlated).noise_model.pointwise for many in measured
        ]
        noise_models = (
            [replace(whole.noise_model, noise_model=noise_model) for noise_model in plain] if correlated else plain
        )
    return _Looked([one[0] for one in seen], [one[2] for one in seen], unit, whole, noise_models)


def _marked(*images: Tensor) -> Tensor:
    return torch.from_numpy(mask_for_estimate(*(image[0, 0].numpy() for image in images)))[None, None]


def check_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength}: give a number from 0 (the input) to 1 (all the noise).")
