"""Files in, files out: each scan is denoised slice by slice, written back in its own type, and judged in a report."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mptpn.atomic import write_atomically
from mptpn.inference import Denoiser, NoisyImages, assess, load_network
from mptpn.inference.denoiser import Network
from mptpn.io import Scan, Slice, Writer, open_scans
from mptpn.networks import save_weights, weights_path
from mptpn.networks.noise_level import SMALLEST
from mptpn.tiling import spread, squares

# slices of a scan, and their pixels together, from which its noise is learned and by which it is judged; at least one
SAMPLES, PIXELS = 8, 2**22
PIECE, PIECES = 256, 48  # px and number: squares of a larger slice from which its noise is learned
MIDDLE = 512  # px, side of the middle of a large slice that is judged
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"  # slices, the tiles of a large one as parts

Channel = tuple[np.ndarray, np.ndarray]  # image in the scan's unit and mask, [H, W] both


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        out: folder of the results.
        model: weights; None: a blind-spot network learns from each scan within `minutes`.
        strength: 0 (the input) to 1.
        memory: bytes that the process may hold; None: half of what is free more than now.
        overwrite: whether earlier results may be replaced.
        uncertainty: whether the error's standard deviation is written too, as .npy.
    """

    out: Path
    model: Path | None = None
    strength: float = 1.0
    minutes: float = 3.0
    memory: int | None = None
    overwrite: bool = False
    uncertainty: bool = False
    seed: int = 0

    @cached_property
    def network(self) -> Network:
        """The model, read once for all scans."""
        return load_network(self.model)

    @cached_property
    def note(self) -> str:
        """All that decides the pixels: an interrupted result is gone on with only under the same note."""
        if self.model:
            how = f"model {hashlib.sha256(weights_path(self.model).read_bytes()).hexdigest()[:12]}"
        else:
            how = f"trained on itself for {self.minutes:g} min, seed {self.seed}"
        return f"({how}, strength {self.strength:g})"


def denoise_files(paths: Sequence[str | Path], settings: Settings) -> tuple[list[Path], dict[str, str]]:
    """Denoise files and folders; one that fails does not stop the others.

    Returns:
        What was written, and for each path or scan that was not, one sentence.
    Raises:
        FileNotFoundError: no such model.
    """
    if settings.model:
        weights_path(settings.model)
    scans, failures = open_scans(paths)
    written = []
    for scan in scans:
        try:
            written.append(denoise_scan(scan, settings))
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            failures[str(scan.path)] = message(str(scan.path), error)
        finally:
            scan.close()
    return written, failures


def message(name: str, error: Exception) -> str:
    """What went wrong, with the name of the input."""
    return str(error) if name in str(error) else f"{name}: {error}"


def denoise_scan(scan: Scan, settings: Settings) -> Path:
    """Denoise one scan, slice by slice in constant memory; NAME.trust.json and .trust.png say how far to trust it.

    An interrupted call leaves the slices that are done, and its network, in hidden files; the same call goes on from
    there.

    Raises:
        ValueError, OSError: one sentence; no half-written result is left.
    """
    with Writer(scan, settings.out, note=settings.note, overwrite=settings.overwrite) as writer:
        chosen = samples(scan)
        denoisers = _denoisers(scan, chosen, settings, writer)
        errors = _uncertainty_file(scan, writer.target, settings)
        shown = {"desc": scan.name, "bar_format": BAR, "file": sys.stderr, "mininterval": 0.5}
        with tqdm(total=scan.slices, initial=writer.done, **shown) as bar:
            for index in range(writer.done, scan.slices):
                pixels, error = denoise_slice(scan.read(index), denoisers, settings, bar.update)
                if errors is not None:
                    errors[index] = error
                writer.write(index, pixels)
        report(scan, writer.target, denoisers, chosen, settings)
    _kept_network(writer.target).unlink(missing_ok=True)
    return writer.target


def samples(scan: Scan) -> list[int]:
    """Slices, spread over a scan, that hold noise: up to eight, fewer where slices are large."""
    wanted = max(1, min(SAMPLES, scan.slices, PIXELS // math.prod(scan.shape)))
    order = sorted({round(i) for i in np.linspace(0, scan.slices - 1, min(scan.slices, 4 * wanted))})
    order = order if len(order) > wanted else list(range(scan.slices))
    good = [index for index in order if pieces(scan.read(index))]
    return good if len(good) <= wanted else [good[round(i)] for i in np.linspace(0, len(good) - 1, wanted + 2)[1:-1]]


def pieces(slice: Slice) -> list[list[Channel]]:
    """What the noise of a slice is estimated from: all of it, or of a large one squares spread over it."""
    cuts = [...]
    if slice.valid.size > PIXELS:
        cuts = squares(slice.valid.shape, side=PIECE)
        cuts = spread(cuts, PIECES)
    return [found for cut in cuts if (found := channels(slice, cut))]


def sampled(scan: Scan, chosen: list[int]) -> list[Channel]:
    """What the noise of a scan is estimated from: these slices, or pieces of them, each channel by itself."""
    return [channel for index in chosen for piece in pieces(scan.read(index)) for channel in piece]


def channels(slice: Slice, cut=...) -> list[Channel]:
    """Each channel of a slice; none where it is constant, masked or too small for noise to be measured."""
    pixels, valid = slice.pixels[cut], slice.valid[cut]
    inside = pixels[valid]
    if len(inside) < SMALLEST**2 or min(valid.shape) < SMALLEST or (inside == inside[0]).all():
        return []
    own = pixels if (slice.slope, slice.intercept) == (1, 0) else pixels * np.float64(slice.slope) + slice.intercept
    return [(own, valid)] if own.ndim == 2 else [(own[..., i], valid) for i in range(3)]


def _denoisers(scan: Scan, chosen: list[int], settings: Settings, writer: Writer) -> list[Denoiser]:
    """One for each channel, of one network: the model, what an interrupted call left, or newly learned and kept."""
    found = sampled(scan, chosen)
    if not found:
        raise ValueError(
            f"{scan.path}: no slice of at least {SMALLEST} x {SMALLEST} px holds noise; there is nothing to denoise."
        )
    pixels, valid = (list(x) for x in zip(*found, strict=True))
    count, kept = 3 if scan.shape[2:] else 1, _kept_network(writer.target)
    own = [NoisyImages.of(pixels[i::count], valid=valid[i::count]) for i in range(count)]
    if settings.model:
        network = settings.network
    elif writer.done and kept.is_file():
        network = load_network(kept)
    else:
        together = own[0] if count == 1 else NoisyImages.of(pixels, valid=valid)
        network = together.fit(minutes=settings.minutes, seed=settings.seed)
        save_weights(kept, network, arguments=network.arguments)
    return [images.prepare(network) for images in own]


def _kept_network(target: Path) -> Path:
    return target.with_name(f".{target.name}.network.safetensors")


def denoise_slice(
    slice: Slice, denoisers: list[Denoiser], settings: Settings, tick: Callable[[float], object] = float
) -> tuple[np.ndarray, np.ndarray | None]:
    """A slice in stored values and, if it is wanted, the uncertainty in the scan's unit, float32, same shape.

    It goes through tile by tile: nothing but the slice and its result is held whole. What holds no noise stays as it
    is. tick is called after each tile with its share of the slice.
    """
    out, error = slice.pixels.copy(), np.zeros(slice.pixels.shape, np.float32) if settings.uncertainty else None
    found = channels(slice)
    for i, ((own, valid), denoiser) in enumerate(zip(found, denoisers, strict=False)):
        colour = () if slice.pixels.ndim == 2 else (i,)
        settled = {"memory": settings.memory, "uncertainty": settings.uncertainty}
        for place, part in denoiser.tiles(own, valid, **settled):
            change, unsure = part.at(settings.strength)
            step = change / np.float64(slice.slope)
            target = out[place + colour]
            out[place + colour] = np.where(step == 0, target, target + step)  # where nothing moves, no digit is lost
            if error is not None:
                error[place + colour] = unsure
            tick(change.size / own.size / len(found))
    if not found:
        tick(1.0)
    return out, error


def _uncertainty_file(scan: Scan, target: Path, settings: Settings) -> np.ndarray | None:
    """The file that the uncertainty is written into, [slices, ...] float32; an interrupted one is gone on with."""
    if not settings.uncertainty:
        return None
    path = settings.out / f"{target.name}.uncertainty.npy"
    shape = (scan.slices, *scan.shape)
    if path.is_file() and (old := np.load(path, mmap_mode="r+")).shape == shape:
        return old
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def report(scan: Scan, target: Path, denoisers: list[Denoiser], chosen: list[int], settings: Settings) -> None:
    """NAME.trust.json and NAME.trust.png: the full removal, whatever the strength, judged on some slices."""
    large, middle, rows = math.prod(scan.shape[:2]) > PIXELS, chosen[len(chosen) // 2], []
    starts = [max(0, (side - MIDDLE) // 2) for side in scan.shape[:2]]
    cut = tuple(slice(start, start + MIDDLE) for start in starts) if large else ...
    for index in chosen:
        found = channels(scan.read(index), cut)
        for number, ((own, valid), denoiser) in enumerate(zip(found, denoisers, strict=False)):
            prediction = denoiser.predict(own, valid, memory=settings.memory)
            assessment = assess(denoiser, own, prediction, valid, memory=settings.memory)
            rows.append({"slice": index, "channel": number} | assessment.to_dict())
            if index == middle and number == 0:
                title = f"{scan.name}, slice {index + 1} of {scan.slices}\n{denoiser.noise}"
                words = f"{title}\n{assessment.message}\n{assessment.quality}"
                _draw(target, own, valid, prediction, words=words, unit=scan.unit)
    about = {
        "file": scan.name,
        "written": target.name,
        "lost": scan.note,
        "settings": settings.note,
        "unit": scan.unit,
        "slices": scan.slices,
        "judged_on": f"the middle {MIDDLE} x {MIDDLE} px of slices" if large else "whole slices",
        "noise": [one.noise.to_dict() for one in denoisers],
        "judged": rows,
    }
    path = target.with_name(f"{target.name}.trust.json")
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(about, indent=1)))


def _draw(target: Path, own: np.ndarray, valid: np.ndarray, prediction, *, words: str, unit: str) -> None:
    from mptpn.inference import quality_figure  # here, so that the command starts without what draws

    result, sigma = prediction.applied(own)
    window = tuple(map(float, np.quantile(result[valid], [0.002, 0.998])))
    region = tuple(slice(0, side) for side in own.shape)
    shown = {"window": window, "region": region, "row": len(own) // 2, "unit": unit}
    view = quality_figure.View(own, valid, **shown, denoised=result, uncertainty=sigma, sigma=prediction.noise_sigma)
    png = quality_figure.sheet(view, words=words)
    write_atomically(target.with_name(f"{target.name}.trust.png"), lambda path: path.write_bytes(png))
