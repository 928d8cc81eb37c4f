"""One scan: denoised slice by slice or tile by tile, written back in its own type, and judged in a report."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mptpn.batch import regions, report
from mptpn.batch.report import NONE, Judged
from mptpn.batch.settings import Settings
from mptpn.inference import SELF, Denoiser, NoisyImages, Prediction, assess, colour, common_share, load_network
from mptpn.inference.sampling import channels, colours, is_constant, is_large, laws, sampled, samples
from mptpn.io import Scan, Slice, Writer
from mptpn.io.limits import check_size
from mptpn.io.outcomes import Outcome
from mptpn.io.tile_writer import TileWriter
from mptpn.networks import save_weights
from mptpn.networks.noise_level import SMALLEST

MIDDLE = 512  # px, side of the middle of a large slice that is judged
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"  # slices, the tiles of a large one as parts
SHOWN = {"bar_format": BAR, "file": sys.stderr, "mininterval": 0.5}

WHOLE = (slice(None), slice(None))


def denoise_scan(scan: Scan, settings: Settings) -> Outcome:
    """Denoise one scan, slice by slice in constant memory; NAME.trust.json and .trust.png say how far to trust it.

    An interrupted call leaves the slices that are done, and its network, in hidden files; the same call goes on from
    there.

    Raises:
        DoneBefore: the same call was done before.
        ValueError, OSError: one sentence; no half-written result is left.
    """
    if scan.in_parts:
        return _denoise_in_parts(scan, settings)
    one = scan.dtype.itemsize * math.prod(scan.sample_shape)
    check_size(scan.path, one, one=one, size=one, memory=settings.memory)
    with (
        Writer(scan, settings.out, **settings.written) as writer,
        tqdm(total=scan.slices, initial=writer.done, disable=not settings.progress, desc=scan.name, **SHOWN) as bar,
    ):
        chosen = samples(scan)
        denoisers = _denoisers(scan, chosen, settings, writer)
        writer.bind(_noise_of(denoisers))
        judged = _judge(scan, denoisers, chosen, settings)
        whole = {index: [one for one in judged if one.slice == index] for index in chosen if not is_large(scan)}
        strengths = _strengths(judged, denoisers, settings)
        for index in range(writer.done, scan.slices):
            known, own = {one.channel: one.prediction for one in whole.get(index, [])}, laws(scan, index)
            of_slice = [[items[law] for law in own] for items in (denoisers, strengths)]
            known = [known.get(law) for law in own]
            pixels, error = denoise_slice(scan.read(index), of_slice[0], settings, bar.update, known, of_slice[1])
            writer.write(index, pixels, error)
        writer.close(_beside(scan, writer, judged, strengths, settings))
    return _outcome(scan, writer.target, denoisers, judged)


def _noise_of(denoisers: Sequence[Denoiser | None]) -> str:
    return json.dumps([denoiser and denoiser.noise.to_dict() for denoiser in denoisers])


def _denoise_in_parts(scan: Scan, settings: Settings) -> Outcome:
    """The share settings.part of the tiles of a large scan; the process that finds all of them makes the result.

    Raises: as denoise_scan.
    """
    part = settings.part if settings.divides else (1, 1)
    with TileWriter(scan, settings.out, **settings.written) as writer:
        chosen = samples(scan)
        denoisers = _denoisers(scan, chosen, settings, writer)
        judged = _judge(scan, denoisers, chosen, settings)
        strengths = _strengths(judged, denoisers, settings)
        own = [laws(scan, index)[0] for index in range(scan.slices)]
        applied = [regions.Applied(denoisers[law], strengths[law]) for law in own]
        work = regions.Regions(scan, applied, memory=settings.memory, uncertainty=settings.uncertainty)
        writer.bind(_noise_of(denoisers) + repr(strengths), work.places)
        shown = {"desc": scan.name, "disable": not settings.progress} | SHOWN
        with tqdm(total=work.count(part), **shown) as bar:
            for done in work.denoise(writer, part):
                bar.update(done)
        if writer.is_complete() and writer.close(_beside(scan, writer, judged, strengths, settings)):
            return _outcome(scan, writer.target, denoisers, judged)
    words = f"share {part[0]} of {part[1]} is done; the result appears when all shares are"
    return Outcome(scan.path, message=words, waits=True)


def _beside(
    scan: Scan, writer: Writer, judged: list[Judged], strengths: Sequence[float], settings: Settings
) -> dict[str, Callable[[Path], object]]:
    if settings.report == NONE or not judged:
        return {}
    judged_on = f"the middle {MIDDLE} x {MIDDLE} px of slices" if is_large(scan) else "whole slices"
    about = {"settings": settings.note, "judged_on": judged_on, "key": writer.key}
    return report.files(scan, writer.target, judged, strengths=strengths, kind=settings.report, **about)


def _outcome(scan: Scan, target: Path, denoisers: list[Denoiser | None], judged: list[Judged]) -> Outcome:
    level = next(one.noise.sigma for one in denoisers if one is not None)
    if not judged:
        return Outcome(scan.path, target, level=level, unit=scan.unit)
    gain = judged[len(judged) // 2].assessment.gain
    said = {"verdict": report.verdict(judged), "message": report.sentence(judged), "gain": gain and gain[0]}
    return Outcome(scan.path, target, level=level, unit=scan.unit, **said)


def _strengths(judged: Sequence[Judged], denoisers: Sequence[Denoiser | None], settings: Settings) -> list[float]:
    """The share of the full removal that is written of each channel."""
    of_channels = ([one.assessment for one in judged if one.channel == law] for law in range(len(denoisers)))
    return [settings.strength * common_share(own) for own in of_channels]


def _denoisers(scan: Scan, chosen: list[int], settings: Settings, writer: Writer) -> list[Denoiser | None]:
    """One for each channel, of one network: the model, what an interrupted call left, or newly learned and kept.

    None: a channel that holds no noise.
    """
    found = sampled(scan, chosen)
    if not any(found):
        raise ValueError(
            f"{scan.path}: no slice of at least {SMALLEST} x {SMALLEST} px holds noise in shape {scan.axes.shape}, "
            f"axes {scan.axes.names}; there is nothing to denoise."
        )
    kept, size = writer.network, colours(scan)
    own = colour.of_groups(found, size=size)
    if str(settings.model) != SELF:
        network = settings.network
    elif writer.done and kept.is_file():
        network = load_network(kept)
    else:
        pixels, valid = (list(x) for x in zip(*sum(found, []), strict=True))
        together = own[0] if len(own) == 1 else NoisyImages.of(pixels, valid=valid)
        network = together.fit(minutes=settings.minutes, seed=settings.seed)
        save_weights(kept, network, arguments=network.arguments)
    return colour.prepare_groups(own, network, size=size, adapting=settings.adapt, seed=settings.seed)


def denoise_slice(
    slice: Slice,
    denoisers: Sequence[Denoiser | None],
    settings: Settings,
    tick: Callable[[float], object] = float,
    known: Sequence[Prediction | None] = (),
    strengths: Sequence[float] = (),
) -> tuple[np.ndarray, np.ndarray | None]:
    """A slice in stored values and, if it is wanted, the uncertainty in the scan's unit, float32, same shape.

    It goes through tile by tile: nothing but the slice and its result is held whole. What holds no noise stays as it
    is.

    Args:
        denoisers: of the channels of the slice; None: it stays as it is.
        tick: called after each tile with its share of the slice.
        known: predictions of the channels, if they are there. strengths: of each channel; none: that of settings.
    """
    out, error = slice.pixels.copy(), np.zeros(slice.pixels.shape, np.float32) if settings.uncertainty else None
    found = channels(slice)
    seen = denoisers if all(known) and known else colour.beside(denoisers, found)
    for i, ((own, valid), denoiser) in enumerate(zip(found, seen, strict=False)):
        if denoiser is None or is_constant(own, valid):
            tick(1 / len(found))
            continue
        channel = () if slice.pixels.ndim == 2 else (i,)
        settled = {"memory": settings.memory, "uncertainty": settings.wants_uncertainty}
        parts = [(WHOLE, known[i])] if known and known[i] else denoiser.tiles(own, valid, **settled)
        for place, part in parts:
            change, unsure = part.at(strengths[i] if strengths else settings.strength)
            out[place + channel] = slice.moved(out[place + channel], change)
            if error is not None:
                error[place + channel] = unsure
            tick(change.size / own.size / len(found))
    if not found:
        tick(1.0)
    return out, error


def _judge(scan: Scan, denoisers: list[Denoiser | None], chosen: list[int], settings: Settings) -> list[Judged]:
    """The full removal judged on some slices, or on the middle of large ones: it decides how much is applied."""
    starts, judged = [max(0, (side - MIDDLE) // 2) for side in scan.shape[:2]], []
    cut = tuple(slice(start, start + MIDDLE) for start in starts)
    for index in chosen:
        seen = scan.read_part(index, cut) if is_large(scan) else scan.read(index)
        found, numbers = channels(seen), laws(scan, index)
        seen = colour.beside([denoisers[law] for law in numbers], found)
        for law, (own, valid), denoiser in zip(numbers, found, seen, strict=False):
            if denoiser is None or is_constant(own, valid):
                continue
            prediction = denoiser.predict(own, valid, memory=settings.memory, uncertainty=settings.wants_uncertainty)
            assessment = assess(denoiser, own, prediction, valid)
            judged.append(Judged(index, law, own, valid, denoiser, prediction, assessment))
    return judged
