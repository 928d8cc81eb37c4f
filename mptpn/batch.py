"""Files in, files out: each scan is denoised slice by slice by one denoiser, written back in its own type, and judged
in a report.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mptpn.atomic import write_atomically
from mptpn.denoised import assess_prediction, gain_said
from mptpn.inference.masks import mask_for_estimate
from mptpn.inference.predictor import Denoiser
from mptpn.io.files import Scan, Slice, Writer, open_scans
from mptpn.networks.noise_level import SMALLEST
from mptpn.networks.weights import save_weights, weights_path
from mptpn.noise.estimate import NoiseEstimate
from mptpn.stages import pipeline
from mptpn.tiling import blocks, squares

# slices of a scan, and their pixels together, from which its noise is learned and by which it is judged; at least one
# slice
SAMPLES, PIXELS = 8, 2**22
PIECE, PIECES = 256, 48  # px and number: squares of a larger slice from which its noise is learned
# px, about the side of the blocks in which a large slice is denoised, and the side of its middle that is judged
SIDE, MIDDLE = 1024, 512
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"  # slices, the blocks of a large one as parts

Channels = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        out: folder of the results.
        model: weights; None: a blind-spot network learns from each scan within `minutes`.
        strength: 0 (the input) to 1. memory: bytes that the process may hold; None: half of what is free more than now.
        overwrite: whether earlier results may be replaced. uncertainty: whether the error's standard deviation is
            written too, as .npy.
    """

    out: Path
    model: Path | None = None
    strength: float = 1.0
    minutes: float = 3.0
    memory: int | None = None
    overwrite: bool = False
    uncertainty: bool = False
    seed: int = 0

    @property
    def note(self) -> str:
        """All that decides the pixels: an interrupted result is gone on with only under the same note."""
        how = (
            f"model {hashlib.sha256(weights_path(self.model).read_bytes()).hexdigest()[:12]}"
            if self.model
            else f"trained on itself for {self.minutes:g} min, seed {self.seed}"
        )
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
    """Denoise one scan, slice by slice in constant memory; NAME.trust.json and .trust.png beside the result say how far
    to trust it.

    An interrupted call leaves the slices that are done, and its network, in hidden files; the same call goes on from
    there.

    Raises:
        ValueError, OSError: one sentence; no half-written result is left.
    """
    with scan.writer(settings.out, note=settings.note, overwrite=settings.overwrite) as writer:
        chosen = samples(scan)
        each = _denoisers(scan, chosen, settings, writer)
        spread = _uncertainty(scan, writer.target, settings)
        with tqdm(
            total=scan.slices, initial=writer.done, desc=scan.name, bar_format=BAR, file=sys.stderr, mininterval=0.5
        ) as bar:
            for index in range(writer.done, scan.slices):
                pixels, error = denoised(scan.read(index), each, settings, bar.update)
                if spread is not None:
                    spread[index] = error
                writer.write(index, pixels)
        estimate(scan, writer.target, each, chosen, settings)
    _network(writer.target).unlink(missing_ok=True)
    return writer.target


def samples(scan: Scan) -> list[int]:
    """Slices, spread over a scan, that hold noise: up to eight, fewer where slices are large."""
    wanted = max(1, min(SAMPLES, scan.slices, PIXELS // math.prod(scan.shape)))
    order = sorted({round(i) for i in np.linspace(0, scan.slices - 1, min(scan.slices, 4 * wanted))})
    order = order if len(order) > wanted else list(range(scan.slices))
    good = [index for index in order if pieces(scan.read(index))]
    return good if len(good) <= wanted else [good[round(i)] for i in np.linspace(0, len(good) - 1, wanted + 2)[1:-1]]


def pieces(slice: Slice) -> list[Channels]:
    """What the noise of a slice is estimated from: all of it, or of a large one squares spread over it."""
    cuts = [...]
    if slice.valid.size > PIXELS:
        cuts = squares(slice.valid.shape, side=PIECE)
        cuts = cuts[:: -(-len(cuts) // PIECES)]
    return [found for cut in cuts if (found := channels(slice, cut))]


def whole_slices(scan: Scan, chosen: list[int]) -> list[np.ndarray]:
    """These slices in the scan's unit, each channel by itself, [H, W]; what is masked is marked for the estimate."""
    found = [channel for index in chosen for piece in pieces(scan.read(index)) for channel in piece]
    return [mask_for_estimate(own, valid, valid) for own, valid in found]


def channels(slice: Slice, cut=...) -> Channels:
    """Image in the scan's unit and mask, both [H, W], of each channel of a slice; none where it is constant, masked or
    too small for noise to be told.
    """
    pixels, valid = slice.pixels[cut], slice.valid[cut]
    inside = pixels[valid]
    if len(inside) < SMALLEST**2 or min(valid.shape) < SMALLEST or (inside == inside[0]).all():
        return []
    own = pixels if (slice.slope, slice.intercept) == (1, 0) else pixels * np.float64(slice.slope) + slice.intercept
    return [(own, valid)] if own.ndim == 2 else [(own[..., i], valid) for i in range(3)]


def _denoisers(scan: Scan, chosen: list[int], settings: Settings, writer: Writer) -> list[Denoiser]:
    """One for each channel, of one network: from the model, from what an interrupted call left, or newly learned and
    kept for the case of an interruption.
    """
    images = [channel for index in chosen for piece in pieces(scan.read(index)) for channel in piece]
    if not images:
        raise ValueError(
            f"{scan.path}: no slice of at least {SMALLEST} x {SMALLEST} px holds noise; there is nothing to denoise."
        )
    pixels, valid = (list(x) for x in zip(*images, strict=True))
    kept = _network(writer.target)
    if settings.model or (writer.done and kept.is_file()):
        series = Denoiser.load(settings.model or kept, pixels, valid=valid)
    else:
        series = Denoiser.learn(pixels, minutes=settings.minutes, valid=valid, seed=settings.seed)
        save_weights(kept, series.network, arguments=pipeline.BLIND | {"half_size": series.network.half_size})
    if not scan.shape[2:]:
        return [series]
    return [Denoiser.around(series.network, pixels[i::3], valid=valid[i::3]) for i in range(3)]


def _network(target: Path) -> Path:
    return target.with_name(f".{target.name}.network.safetensors")


def denoised(
    slice: Slice, each: list[Denoiser], settings: Settings, tick: Callable[[float], object] = float
) -> tuple[np.ndarray, np.ndarray | None]:
    """A slice in stored values and, if it is wanted, the uncertainty in the scan's unit, float32, same shape; what
    holds no noise stays as it is.

    A large slice goes through block by block, with a halo: nothing but the slice and its result is held whole. tick is
    called after each with its share.
    """
    out, error = slice.pixels.copy(), np.zeros(slice.pixels.shape, np.float32) if settings.uncertainty else None
    multiple, halo = each[0].geometry
    cuts = blocks(slice.valid.shape, side=SIDE, multiple=multiple, halo=halo)
    for around, inside, place in cuts:
        for i, ((own, valid), denoiser) in enumerate(zip(channels(slice, around), each, strict=False)):
            colour = () if slice.pixels.ndim == 2 else (i,)
            result, unsure = denoiser(
                own, strength=settings.strength, memory=settings.memory, valid=valid, uncertainty=settings.uncertainty
            )
            step = (result[inside] - own[inside]) / np.float64(slice.slope)
            # where nothing moves, no digit is lost
            out[place + colour] = np.where(step == 0, out[place + colour], out[place + colour] + step)
            if error is not None:
                error[place + colour] = unsure[inside]
        tick(1 / len(cuts))
    return out, error


def _uncertainty(scan: Scan, target: Path, settings: Settings) -> np.ndarray | None:
    """The file that the uncertainty is written into, [slices, ...] float32, in the scan's unit; an interrupted one is
    gone on with.
    """
    if not settings.uncertainty:
        return None
    path = settings.out / f"{target.name}.uncertainty.npy"
    shape = (scan.slices, *scan.shape)
    if path.is_file() and (old := np.load(path, mmap_mode="r+")).shape == shape:
        return old
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def estimate(scan: Scan, target: Path, each: list[Denoiser], chosen: list[int], settings: Settings) -> None:
    """NAME.trust.json and NAME.trust.png: the full removal, whatever the strength, judged on some slices; numbers are
    in the scan's unit.
    """
    from mptpn.inference import quality_figure  # here, so that the command starts without what draws

    large, middle, rows = math.prod(scan.shape[:2]) > PIXELS, chosen[len(chosen) // 2], []
    starts = [max(0, (side - MIDDLE) // 2) for side in scan.shape[:2]]
    cut = tuple(slice(start, start + MIDDLE) for start in starts) if large else ...
    for index in chosen:
        for number, ((own, valid), denoiser) in enumerate(zip(channels(scan.read(index), cut), each, strict=False)):
            solved = denoiser.solve(own, valid, memory=settings.memory)
            trust, gain, reason = assess_prediction(denoiser, solved, memory=settings.memory)
            best = (
                {"psnr_gain_db": gain[0], "interval_db": gain[1]} if gain else {"psnr_gain_db": None, "reason": reason}
            )
            rows.append({"slice": index, "channel": number} | best | trust.as_dict())
            if index == middle and number == 0:
                words = f"{scan.name}, slice {index + 1} of {scan.slices}\n{denoiser.noise}\n{gain_said(gain, reason)}\n{trust}"
                sigma = denoiser.level_at(solved)
                result, error = denoiser.blended(own, solved, 1.0, np.empty(own.shape)), solved.sigma[0, 0].numpy()
                window = tuple(map(float, np.quantile(result[valid], [0.002, 0.998])))
                shown = {
                    "window": window,
                    "region": tuple(slice(0, side) for side in own.shape),
                    "row": len(own) // 2,
                    "unit": scan.unit,
                }
                png = quality_figure.sheet(
                    quality_figure.View(own, valid, **shown, denoised=result, uncertainty=error, sigma=sigma),
                    words=words,
                )
                write_atomically(
                    target.with_name(f"{target.name}.trust.png"), lambda path, png=png: path.write_bytes(png)
                )
    about = {
        "file": scan.name,
        "written": target.name,
        "lost": scan.note,
        "settings": settings.note,
        "unit": scan.unit,
        "slices": scan.slices,
        "judged_on": f"the middle {MIDDLE} x {MIDDLE} px of slices" if large else "whole slices",
        "noise": [to_dict(one.noise) for one in each],
        "judged": rows,
    }
    write_atomically(
        target.with_name(f"{target.name}.trust.json"), lambda path: path.write_text(json.dumps(about, indent=1))
    )


def to_dict(noise: NoiseEstimate) -> dict:
    """A noise report for JSON."""
    return {
        "said": str(noise),
        "kind": noise.kind,
        "sigma": noise.sigma,
        "sigma_interval": noise.sigma_interval,
        "at_intensity": noise.mean,
        "noise_level_function": {"intensity": noise.intensity, "sigma": noise.level, "relative_error": noise.error},
        "correlation": noise.correlation.tolist(),
    }
