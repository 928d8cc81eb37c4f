"""A prepared predictor, tile by tile over images in their own unit, and what comes out."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mptpn import tiling
from mptpn.inference.hot_pixels import hot_pixels
from mptpn.inference.masks import PIECE, constant_areas, inpaint, unit_pixels
from mptpn.inference.orientation import place_back, turned, turned_back
from mptpn.inference.predictor import Place, Predictor, StabilisedPredictor, told_correlation
from mptpn.inference.runtime import accelerated
from mptpn.networks import BlindSpotNetwork, RetractableTransformer, load_weights
from mptpn.networks.noise_level import BANDS
from mptpn.noise import NoiseEstimate
from mptpn.noise.by_place import CELL, NoiseByPlace, cells_of
from mptpn.noise.lattice import lattice
from mptpn.random import generator

# px, about the largest side of a tile; where it fits with its halo (for an image of 4096 x 4096 px from 1 GiB of memory
# on, 1.1 GiB where noise correlates) the tiles, and with them every byte of the result, do not depend on the memory
SIDE = 512
ARRAYS = 24  # bytes per pixel that a Prediction holds
MARGIN = 32  # px, around the squares in which the level of the noise is measured
# a pixel on average, below which the level is not taken from place to place: a smooth phantom of 0.5 to 2.3 photons
# with read noise of 0.15 to 0.4 loses 3 to 14 dB by it, fluorescence of 1.9 to 3.9 (validation) gains 0.01 to 0.04
FEW_PHOTONS = 2.5
BESIDE = 150  # bytes per pixel of a tile that are held beside the network's, measured
SLACK = 32 * 2**20  # bytes that the allocator may not give back between tiles, measured 28 * 2**20
Network = BlindSpotNetwork | RetractableTransformer


@dataclass(frozen=True, eq=False)
class Prediction:
    """Full removal of the noise of one image or tile, [1, 1, H, W] float32 in unit and orientation inside the package.

    Attributes:
        noisy: the image, masked pixels inpainted. denoised: posterior mean.
        variance, noise: of its error and of the noise.
        restored: True where pixels stay as they are (masked, hot, or areas of one value).
        level: of the noise over its noise model's, from place to place. correlation: of the noise in cells, see
            NoiseByPlace; None: that of the noise model.
        unit: what 1 stands for, in the image's own unit.
        turn: of the image inside, see orientation.
    """

    noisy: Tensor
    denoised: Tensor
    variance: Tensor
    noise: Tensor
    restored: Tensor
    level: Tensor
    correlation: Tensor | None
    unit: float
    turn: int = 0

    def at(self, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """What is added to the image, and the standard deviation of the error then, [H, W] float32 in the own unit.

        Strength t gives y + t (f - y) of the posterior mean f; for the error see variance_left. The change is exactly
        0 where pixels stay as they are.
        """
        left = variance_left(self.variance, self.noise, strength)
        sigma = torch.where(self.restored, self.noise, left).sqrt() * self.unit
        change = torch.where(self.restored, 0.0, (self.denoised - self.noisy) * (strength * self.unit))
        return self._own(change), self._own(sigma)

    def applied(self, image: np.ndarray, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """The image [H, W] denoised at a strength, float64, and the standard deviation of the error, as at()."""
        change, sigma = self.at(strength)
        return image + change.astype(np.float64), sigma

    @property
    def noise_sigma(self) -> np.ndarray:
        """Standard deviation of the noise at each pixel, [H, W] float32 in the own unit."""
        return self._own(self.noise.sqrt()) * self.unit

    def _own(self, inside: Tensor) -> np.ndarray:
        return np.ascontiguousarray(turned_back(inside[0, 0].numpy(), self.turn))


def variance_left(error, noise, strength):
    """Variance of the error at a strength t: s^2 + (1 - t)^2 (sigma_n^2 - s^2), of tensors or arrays.

    The noisy image less the posterior mean, and the posterior mean less the truth, are uncorrelated.
    """
    return error + (1 - strength) ** 2 * (noise - error).clip(0)


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A predictor prepared for the noise of one image or a series, so that all images of a series are treated alike.

    Attributes:
        predictor: in the unit inside the package.
        noise: estimate in the images' own unit.
        unit: what 1 stands for inside, in the own unit.
        turn: of the images inside, see orientation.
    """

    predictor: Predictor
    noise: NoiseEstimate
    unit: float
    turn: int = 0

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
        image, valid = self._turned(image, valid)
        kept = 4 * uncertainty
        for place, part in self._tiles(image, valid, memory=memory, uncertainty=uncertainty, kept=kept):
            yield place_back(place, image.shape, self.turn), part

    def _turned(self, image: np.ndarray, valid: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
        return turned(image, self.turn), None if valid is None else turned(valid, self.turn)

    def _tiles(
        self, image: np.ndarray, valid: np.ndarray | None, *, memory: int | None, uncertainty: bool, kept: int
    ) -> Iterator[tuple[tuple[slice, slice], Prediction]]:
        """The same of an image in the orientation inside."""
        noise_by_place = self.noise_inside(image, valid)
        budget = tiling.default_budget() if memory is None else memory
        cuts = self.cuts(image.shape, budget, kept=kept)
        next_takes = self.tile_bytes(tiling.largest(cuts))
        for number, cut in enumerate(cuts):
            around = cut[0]
            part = None if valid is None else valid[around]
            if number:
                tiling.give_back(above=budget - next_takes)  # pieces of earlier tiles, more than a hundred MiB
            yield cut[2], self.tile(image[around], part, cut, noise_by_place, uncertainty=uncertainty)

    def tile(
        self,
        image: np.ndarray,
        valid: np.ndarray | None,
        cut: tiling.Cut,
        noise_by_place: NoiseByPlace | None,
        *,
        uncertainty: bool = True,
    ) -> Prediction:
        """One tile of an image in the orientation inside.

        Args:
            image, valid: the tile with its halo. cut: where it lies.
            noise_by_place: of the whole image, see noise_by_place.
        """
        around, inside, _ = cut
        pixels, measured = self.measured(image, valid)
        restored, seed = ~measured, pixels.numel()
        pixels = inpaint(
            pixels, measured, noise_model=self.predictor.noise_model, generator=generator(seed, "inpainting")
        )
        probes = generator(seed, "uncertainty") if uncertainty else None
        there = Place((around[0].start, around[1].start))
        if noise_by_place is not None:
            there = Place(there.origin, *noise_by_place.at(around))
        if bool(restored.all()):
            mean, sigma = pixels, torch.zeros_like(pixels)
        else:
            mean, sigma = self.predictor.predict(pixels, place=there, probes=probes)
        noise = there.noise(self.predictor.noise_model).variance(torch.where(restored, pixels, mean))
        level = there.level.expand_as(pixels)
        kept = [x[..., *inside] for x in (pixels, mean, sigma**2, noise, restored, level)]
        told = None if there.correlation is None else there.correlation[:, *cells_of(inside)]
        return Prediction(*kept, told, self.unit, self.turn)

    def noise_inside(self, image: np.ndarray, valid: np.ndarray | None) -> NoiseByPlace | None:
        """How the noise of an image in the orientation inside differs from place to place; None: it is not known to.

        It is measured in squares of one size, whatever the memory.
        """
        if not self.differs_by_place:
            return None
        return self.noise_by_place(
            image.shape,
            (
                (place, self.energies(image[around], None if valid is None else valid[around], inside))
                for around, inside, place in squares_of(image.shape)
            ),
        )

    @property
    def differs_by_place(self) -> bool:
        """Whether noise_by_place is measured; counted photons have one level, and where photons are few the transform
        leaves their noise uneven.
        """
        stabilised = isinstance(self.predictor, StabilisedPredictor)
        return stabilised and not (self.predictor.noise_model.counted or self.few_photons)

    @property
    def few_photons(self) -> bool:
        """Whether the noise has so few values that it is unlike Gaussian noise in any transform."""
        return isinstance(self.predictor, StabilisedPredictor) and self.predictor.photons < FEW_PHOTONS

    def energies(
        self, image: np.ndarray, valid: np.ndarray | None, inside: tuple[slice, slice]
    ) -> tuple[Tensor, Tensor]:
        """Of the cells inside one of squares_of(shape), which is given with its margin, and the noise's variance."""
        pixels, measured = self.measured(image, valid)
        found = self.predictor.energies(pixels - lattice(pixels, measured), valid=measured)
        return tuple(one[:, *cells_of(inside)] for one in found)

    def noise_by_place(
        self, shape: Sequence[int], found: Iterable[tuple[tuple[slice, slice], tuple[Tensor, Tensor]]]
    ) -> NoiseByPlace:
        """From the energies of all squares of an image of this shape, each with its place."""
        cells = [-(-side // CELL) for side in shape]
        wholes = torch.zeros(2 * BANDS, *cells), torch.zeros(1, *cells)
        for place, parts in found:
            for whole, part in zip(wholes, parts, strict=True):
                whole[:, *cells_of(place)] = part
        model = self.predictor.noise_model
        return NoiseByPlace.of(*wholes, told_correlation(model) if model.correlated else None)

    def measured(self, image: np.ndarray, valid: np.ndarray | None) -> tuple[Tensor, Tensor]:
        """Pixels in the unit inside, and which of them hold noise, [1, 1, H, W]."""
        pixels, masked = unit_pixels(image, valid, self.unit)
        model = self.predictor.noise_model
        hot = hot_pixels(pixels, sigma=lambda at: model.pointwise.variance(at).sqrt())
        return pixels, ~(masked | hot | constant_areas(pixels, counts=model.counted))

    def predict(
        self, image: np.ndarray, valid: np.ndarray | None = None, *, memory: int | None = None, uncertainty: bool = True
    ) -> Prediction:
        """The tiles of an image put together; arguments as in tiles()."""
        names, whole, told = ("noisy", "denoised", "variance", "noise", "restored", "level"), None, None
        image, valid = self._turned(image, valid)
        for place, part in self._tiles(image, valid, memory=memory, uncertainty=uncertainty, kept=ARRAYS):
            if part.noisy.shape[2:] == image.shape:
                return part
            if whole is None:
                whole = {name: getattr(part, name).new_empty(1, 1, *image.shape) for name in names}
                cells = [-(-side // CELL) for side in image.shape]
                known = part.correlation
                told = None if known is None else known.new_empty(1, *cells, *known.shape[3:])
            for name in names:
                whole[name][..., *place] = getattr(part, name)
            if told is not None:
                told[:, *cells_of(place)] = part.correlation
        return Prediction(**whole, correlation=told, unit=self.unit, turn=self.turn)

    def tile_bytes(self, pixels: int) -> int:
        """Bytes that a tile of so many pixels takes, its halo included."""
        return self.predictor.peak_bytes(pixels) + BESIDE * pixels

    def cuts(self, shape: Sequence[int], memory: int | None = None, *, kept: int = 0) -> list[tiling.Cut]:
        """Tiles of about SIDE px, or smaller ones of what the memory holds, each with its halo.

        kept: bytes per pixel that the caller will hold of all tiles.
        """
        predictor, pixels = self.predictor, math.prod(shape)
        align, halo, price = predictor.alignment, predictor.halo, predictor.bytes_per_pixel + BESIDE
        budget = tiling.default_budget() if memory is None else memory
        held = tiling.resident() + kept * pixels + SLACK
        cuts = tiling.cuts(shape, side=SIDE, multiple=align, halo=halo)
        if budget - held >= self.tile_bytes(tiling.largest(cuts)):
            return cuts
        try:
            most = tiling.tile_side(budget - held, bytes_per_pixel=price, halo=halo, multiple=align)
        except ValueError:
            least = held + min(price * (align + 2 * halo) ** 2, price * pixels)
            held, budget, least = (f"{math.ceil(x / 2**20)} MiB" for x in (held, budget, least))
            raise ValueError(
                f"a memory of {budget} is too little, for the process holds {held} already; give at least {least}."
            ) from None
        return tiling.cuts(shape, side=SIDE, multiple=align, halo=halo, most=most)


def squares_of(shape: Sequence[int]) -> list[tiling.Cut]:
    """Squares in which the noise is measured from place to place."""
    return tiling.cuts(shape, side=PIECE, multiple=PIECE, halo=MARGIN)


def load_network(model: str | Path | Network) -> Network:
    """A trained network for gray images, or for three channels of colour.

    Args:
        model: .safetensors from mptpn train, the name of a pretrained network, or a network in hand.
    Raises:
        FileNotFoundError, ValueError: see load_weights; a network for another number of channels.
    """
    network = load_weights(model, RetractableTransformer, BlindSpotNetwork)[0] if _is_name(model) else model
    if network.channels not in (1, 3):
        raise ValueError(f"{model if _is_name(model) else 'the network'}: a network for {network.channels} channels.")
    return accelerated(network)


def _is_name(model: object) -> bool:
    return isinstance(model, str | Path)


def check_strength(strength: float) -> None:
    """Raise ValueError for a strength outside 0 (the input) to 1 (all the noise)."""
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength}: give a number from 0 (the input) to 1 (all the noise).")
