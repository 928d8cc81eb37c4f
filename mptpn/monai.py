"""Denoising as a transform of MONAI: `Denoised` in a Compose of dictionaries, `Denoise` of arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
import torch

from mptpn.api import denoise
from mptpn.inference import AUTO
from mptpn.inference.denoiser import Network, check_strength

try:
    from monai.config import KeysCollection
    from monai.data import MetaTensor
    from monai.transforms import MapTransform, Transform
    from monai.utils import TransformBackends, convert_to_dst_type
except ImportError:
    raise ImportError("mptpn.monai needs MONAI; pip install mptpn[monai].") from None


class Denoise(Transform):
    """Denoise a channel-first image or volume, mptpn.denoise in a Compose; the noise is estimated, no level is given.

    A channel has one noise model, for all slices of a volume.

    Args:
        model, strength, minutes, memory, seed: as in mptpn.denoise.
        slice_axis: spatial axis of a volume along which its slices lie, 0, 1 or 2 (or -1, the last, as Orientationd
            and most scanners have it); of an image it has no meaning.
    Raises:
        ValueError: a strength outside 0 to 1, or another slice_axis.
    """

    backend = [TransformBackends.NUMPY]

    def __init__(
        self,
        model: str | Path | Network = AUTO,
        strength: float = 1.0,
        slice_axis: int = -1,
        minutes: float = 3.0,
        memory: int | None = None,
        seed: int = 0,
    ):
        check_strength(strength)
        if slice_axis not in range(-3, 3):
            raise ValueError(f"slice_axis {slice_axis} is no spatial axis of a volume; give 0, 1 or 2.")
        self.slice_axis = slice_axis % 3
        self.settings = {"model": model, "strength": strength, "minutes": minutes, "memory": memory, "seed": seed}

    def __call__(self, img: np.ndarray | torch.Tensor) -> np.ndarray | torch.Tensor:
        """Denoised image of the same class, type, device, affine and meta data.

        A MetaTensor also gets meta["noise_sigma"], the noise's standard deviation in the unit of the image, and
        meta["doubts"], the failed checks of the quality report as text, empty if all passed.

        Args:
            img: [C, H, W] or [C, H, W, D], integers or floats, slices of at least 16 x 16 px.
        Raises:
            ValueError: another shape, and what mptpn.denoise refuses.
        """
        array = img.detach().cpu().numpy() if isinstance(img, torch.Tensor) else np.asarray(img)
        if array.ndim not in (3, 4):
            raise ValueError(
                f"an image of shape {array.shape} is not channel-first; give [C, H, W] or [C, H, W, D], "
                "with EnsureChannelFirst before."
            )
        planes = list("YX")
        if array.ndim == 4:
            planes.insert(self.slice_axis, "Z")
        result = denoise(array, axes="".join(["C", *planes]), **self.settings)
        denoised, *_ = convert_to_dst_type(result.image, dst=img)
        if isinstance(denoised, MetaTensor):
            denoised.meta |= {"noise_sigma": float(result.noise.sigma), "doubts": "; ".join(result.trust.faults)}
        return denoised


class Denoised(MapTransform):
    """Denoise of the images under some keys of a dictionary, as MONAI's dictionary transforms.

    Args:
        keys: of the images; each has a noise model of its own.
        model, strength, slice_axis, minutes, memory, seed: as in Denoise.
        allow_missing_keys: whether a dictionary may lack some of the keys.
    """

    backend = Denoise.backend

    def __init__(
        self,
        keys: KeysCollection,
        model: str | Path | Network = AUTO,
        strength: float = 1.0,
        slice_axis: int = -1,
        minutes: float = 3.0,
        memory: int | None = None,
        seed: int = 0,
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.denoise = Denoise(model, strength, slice_axis, minutes, memory, seed)

    def __call__(self, data: Mapping[Hashable, torch.Tensor]) -> dict[Hashable, torch.Tensor]:
        """A copy of the dictionary with these images denoised.

        Raises:
            KeyError: a key is missing. ValueError: as Denoise; the message names the key.
        """
        missing = [key for key in self.keys if key not in data]
        if missing and not self.allow_missing_keys:
            raise KeyError(f"there is no {missing[0]!r} to denoise; the data has {', '.join(map(repr, data))}.")
        done = dict(data)
        for key in self.key_iterator(done):
            try:
                done[key] = self.denoise(done[key])
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from error
        return done
