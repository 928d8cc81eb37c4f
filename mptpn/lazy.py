"""Dask arrays larger than memory: denoised lazily, tile by tile, with one noise model for the whole."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mptpn import tiling
from mptpn.api import check_settings
from mptpn.batch import MIDDLE
from mptpn.batch.regions import LUMP, energies_within
from mptpn.inference import AUTO, Assessment, Denoiser, NoisyImages, assess, common_share
from mptpn.inference.denoiser import Network
from mptpn.inference.orientation import turned, turned_back
from mptpn.inference.planes import changed
from mptpn.inference.sampling import PIECE, PIECES, PIXELS, SAMPLES, may_hold_noise
from mptpn.io.array import check_axis

if TYPE_CHECKING:
    import dask.array as da

Span = tuple[slice, slice]


def denoise_dask(
    array: da.Array,
    *,
    model: str | Path | Network = AUTO,
    strength: float = 1.0,
    minutes: float = 3.0,
    channel_axis: int | None = None,
    seed: int = 0,
) -> da.Array:
    """Denoise a Dask array of any size on any Dask cluster; the result is computed when it is asked for.

    Up to 48 squares of each of up to 8 slices are computed at once, for the noise model that all tiles share. Each tile
    has the halo that its network sees, so that the result does not depend on the chunks: it is bit for bit that of
    `mptpn denoise` for a file with these pixels, but for the order of slices in which it judges. Unlike mptpn.denoise
    it has no memory (a tile is the most that is held), no valid (pixels that are NaN or infinite stay), no adapt and no
    axes, and gives the image alone.

    Args:
        array: [..., H, W], integers or floats; all but the last two axes are slices of one noise model.
        model, strength, minutes, seed: as in mptpn.denoise.
        channel_axis: axis whose items have a noise model each; None: there is none.
    Returns:
        Array of the same shape and type, in tiles of about 512 x 512 px.
    Raises:
        ImportError: Dask is not installed. TypeError: no Dask array. ValueError: no image, or one without noise.
    """
    try:
        import dask.array as da
    except ImportError:
        raise ImportError("denoise_dask needs Dask; pip install mptpn[dask].") from None
    if not isinstance(array, da.Array):
        remedy = "wrap an array with dask.array.from_array, or use mptpn.denoise"
        raise TypeError(f"denoise_dask takes a Dask array, not {type(array).__name__}; {remedy}.")
    check_settings(model=model, strength=strength, minutes=minutes)
    if channel_axis is not None:
        check_axis(channel_axis, array.shape)
        settings = {"model": model, "strength": strength, "minutes": minutes, "seed": seed}
        channels = [da.take(array, i, axis=channel_axis) for i in range(array.shape[channel_axis])]
        return da.stack([denoise_dask(channel, **settings) for channel in channels], axis=channel_axis)
    if array.ndim < 2 or array.dtype.kind not in "iuf":
        raise ValueError(f"an array of shape {array.shape} and type {array.dtype} is no image; give [..., H, W].")
    places = list(itertools.product(*map(range, array.shape[:-2])))
    planes = [array[place] for place in places]
    images, judged = _samples(planes)
    denoiser = images.prepare(images.network(model, minutes=minutes, seed=seed))
    share = common_share([_assessed(denoiser, *_pixels(one)) for one in judged])
    done = [_plane(plane, denoiser, strength * share) for plane in planes]
    return da.stack(done).reshape(array.shape) if array.ndim > 2 else done[0]


def _samples(planes: Sequence[da.Array]) -> tuple[NoisyImages, list[np.ndarray]]:
    """The noise from squares spread over some planes, and what the result is judged on."""
    import dask

    shape = planes[0].shape
    count = max(1, min(SAMPLES, len(planes), PIXELS // (shape[0] * shape[1])))
    chosen = [planes[round(i)] for i in np.linspace(0, len(planes) - 1, count + 2)[1:-1]]
    large = shape[0] * shape[1] > PIXELS
    cuts = tiling.spread(tiling.squares(shape, side=PIECE), PIECES) if large else [(slice(None), slice(None))]
    starts = [max(0, (side - MIDDLE) // 2) for side in shape] if large else (0, 0)
    middle = tuple(slice(start, start + MIDDLE) if large else slice(None) for start in starts)
    found, judged = dask.compute([plane[cut] for plane in chosen for cut in cuts], [plane[middle] for plane in chosen])
    pairs = [(image, valid) for image, valid in map(_pixels, found) if may_hold_noise(image, valid)]
    if not pairs:
        raise ValueError("no part of the array holds noise; there is nothing to denoise.")
    arrays, valid = zip(*pairs, strict=True)
    return NoisyImages.of(arrays, valid=valid), [one for one in judged if may_hold_noise(*_pixels(one))]


def _pixels(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite pixels in a type that a file has inside, and where they are valid."""
    valid = np.isfinite(block)
    return np.where(valid, block, 0).astype(np.float32 if block.dtype.itemsize <= 2 else np.float64), valid


def _assessed(denoiser: Denoiser, image: np.ndarray, valid: np.ndarray) -> Assessment:
    return assess(denoiser, image, denoiser.predict(image, valid, uncertainty=False), valid)


def _plane(plane: da.Array, denoiser: Denoiser, strength: float) -> da.Array:
    """One plane, turned as the denoiser has its images inside, tile by tile."""
    import dask
    import dask.array as da

    inside = turned(plane, denoiser.turn)  # NumPy's functions take Dask's arrays
    shared, noise = dask.delayed(denoiser), None
    if denoiser.differs_by_place:
        lumps = tiling.cuts(inside.shape, side=LUMP, multiple=PIECE, halo=PIECE)
        found = [
            dask.delayed(_energies)(shared, _block(inside, around), around, place, inside.shape)
            for around, _, place in lumps
        ]
        noise = dask.delayed(_noise)(shared, inside.shape, found)
    rows: dict[int, list] = {}
    for cut in denoiser.cuts(inside.shape, memory=2**62):
        around, _, place = cut
        one = dask.delayed(_tile)(shared, _block(inside, around), cut, noise, strength)
        shape = tuple(span.stop - span.start for span in place)
        rows.setdefault(place[0].start, []).append(da.from_delayed(one, shape, dtype=plane.dtype))
    return turned_back(da.block(list(rows.values())), denoiser.turn)


def _block(plane: da.Array, around: Span):
    """A part of a plane as one array, when it is computed."""
    part = plane[around]
    return part.rechunk(part.shape).to_delayed().item()


def _energies(denoiser: Denoiser, block: np.ndarray, around: Span, place: Span, shape: tuple[int, int]) -> list:
    """Energies of the squares of the image that lie in `place`; block: what lies `around`."""
    return list(energies_within(denoiser, *_pixels(block), around, place, shape))


def _noise(denoiser: Denoiser, shape: tuple[int, int], found: list[list]):
    return denoiser.noise_by_place(shape, itertools.chain.from_iterable(found))


def _tile(denoiser: Denoiser, block: np.ndarray, cut: tiling.Cut, noise, strength: float) -> np.ndarray:
    """One tile denoised, in the type of the array."""
    image, valid = _pixels(block)
    change = denoiser.tile(image, valid, cut, noise, uncertainty=False).at(strength)[0].astype(np.float64)
    before, own = (turned_back(x[cut[1]], denoiser.turn) for x in (block, image))
    if own.dtype == np.float32:  # as a file's slices are held
        change = (own + change).astype(np.float32).astype(np.float64) - own
    return np.ascontiguousarray(turned(changed(before, change), denoiser.turn))
