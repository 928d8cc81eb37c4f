"""Files in, masks out: each scan is asked slice by slice; beside the mask lie an overlay and a report."""

import io
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mptpn import faults
from mptpn.atomic import write_atomically
from mptpn.io import Scan, Slice, Writer, open_scans
from mptpn.segmentation.inference import Answer, Segmenter
from mptpn.segmentation.text import parse

OVERLAY_SIDE = 1024  # px, longer side of an overlay
PICTURES = ((".png",), (".tif",))  # endings of files whose masks are black and white
COLOUR = np.array([255.0, 60.0, 40.0])  # of the mask in the overlay


@dataclass(frozen=True)
class Settings:
    """What the user chose.

    Attributes:
        out: folder of the results. prompt: what to look for.
        instances: whether the numbers of the pieces are written too, as TIFF.
        denoise: what an image [H, W] or [H, W, 3] passes before it is asked; None: nothing.
        memory: bytes that the process may hold. overwrite: whether earlier results may be replaced.
    """

    out: Path
    prompt: str
    instances: bool = False
    denoise: Callable[[np.ndarray], np.ndarray] | None = None
    memory: int | None = None
    overwrite: bool = False


def segment_files(
    paths: Sequence[str | Path], segmenter: Segmenter, settings: Settings, tell: Callable[[Path, str], object]
) -> dict[str, str]:
    """Segment files and folders; one that fails does not stop the others.

    tell is called after each with the mask's file and what was found, in one sentence.

    Returns:
        for each path or scan without a result, one sentence.
    Raises:
        AskBack: the prompt cannot be answered as it stands.
    """
    parse(settings.prompt, segmenter.targets)
    scans, failures = open_scans(paths)
    for scan in scans:
        try:
            with closing(scan):
                tell(*segment_scan(scan, segmenter, settings))
        except (ValueError, OSError, RuntimeError) as error:
            failures[str(scan.path)] = faults.sentence(error, str(scan.path))
    return failures


def segment_scan(scan: Scan, segmenter: Segmenter, settings: Settings) -> tuple[Path, str]:
    """The mask of one scan in its own type and geometry, NAME.overlay.png and NAME.segment.json.

    Returns:
        the mask's file, and what was found.
    Raises:
        ValueError, OSError: one sentence; no half-written result is left.
    """
    inside = foreground(scan)
    shown, answers, numbers = None, [], []
    note = f"mask of {settings.prompt!r}: {inside:g} inside"
    with Writer(scan, settings.out, note=note, overwrite=settings.overwrite) as writer:
        writer.done = 0  # masks are quick: an interrupted call starts again
        for index in range(scan.slices):
            slice = scan.read(index)
            answer = _ask(slice, segmenter, settings)
            pixels = np.where(answer.mask, np.float32(inside), np.float32(0))
            writer.write(index, pixels if slice.pixels.ndim == 2 else np.repeat(pixels[..., None], 3, 2))
            answers.append(answer.to_dict() | ({"slice": index + 1} if scan.slices > 1 else {}))
            numbers += [answer.labels] if settings.instances else []
            if shown is None or answer.mask.sum() > shown[1].mask.sum():
                shown = slice, answer
        writer.close()
    target = writer.target
    _write_png(target.with_name(f"{target.name}.overlay.png"), overlay(*shown))
    if settings.instances:
        _write_instances(target.with_name(f"{target.name}.instances.tif"), numbers)
    report = _report(scan, answers, settings, inside, segmenter)
    write_atomically(target.with_name(f"{target.name}.segment.json"), partial(_write_json, report))
    return target, _sentence(shown[1], answers)


def foreground(scan: Scan) -> float:
    """The stored value of the inside of a mask: the largest in PNG and TIFF, which viewers show as white, else 1."""
    return float(scan.high) if scan.endings[:1] in PICTURES and scan.high else 1.0


def _ask(slice: Slice, segmenter: Segmenter, settings: Settings) -> Answer:
    pixels = slice.pixels
    if settings.denoise is not None:
        pixels = settings.denoise(pixels).reshape(pixels.shape)
    return segmenter.ask(pixels, settings.prompt, valid=slice.valid, memory=settings.memory)


def overlay(slice: Slice, answer: Answer) -> np.ndarray:
    """The image in gray or colour with the mask in red and its border brighter, [h, w, 3], uint8, at most 1024 px."""
    step = max(1, -(-max(answer.mask.shape) // OVERLAY_SIDE))
    pixels, mask = slice.pixels[::step, ::step].astype(np.float64), answer.mask[::step, ::step]
    low, high = np.percentile(pixels, (0.5, 99.5))
    gray = np.clip((pixels - low) / (high - low if high > low else 1), 0, 1) * 255
    picture = gray if gray.ndim == 3 else np.repeat(gray[..., None], 3, 2)
    border = mask.copy()
    border[1:-1, 1:-1] &= ~(mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:])
    share = np.where(border, 0.9, np.where(mask, 0.35, 0.0))[..., None]
    return (picture * (1 - share) + COLOUR * share + 0.5).astype(np.uint8)


def _report(scan: Scan, answers: list[dict], settings: Settings, inside: float, segmenter: Segmenter) -> dict:
    report = {"file": scan.path.name, "inside": inside, "denoised_first": settings.denoise is not None}
    report |= {"network": segmenter.note.get("name", "")}
    if scan.slices == 1:
        return report | answers[0]
    total = sum(answer["area_px"] for answer in answers)
    found = sum(answer["found"] for answer in answers)
    return report | {"found": found > 0, "slices_found": found, "area_px": total, "slices": answers}


def _sentence(shown: Answer, answers: list[dict]) -> str:
    if len(answers) == 1 or not shown.found:
        return shown.sentence
    return f"found in {sum(answer['found'] for answer in answers)} of {len(answers)} slices; most: {shown.sentence}"


def _write_json(report: dict, path: Path) -> None:
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_png(path: Path, pixels: np.ndarray) -> None:
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(pixels).save(buffer, "PNG")
    write_atomically(path, lambda temporary: temporary.write_bytes(buffer.getvalue()))


def _write_instances(path: Path, numbers: list[np.ndarray]) -> None:
    import tifffile

    stack = np.stack(numbers) if len(numbers) > 1 else numbers[0]
    stack = stack.astype(np.uint16 if stack.max(initial=0) < 2**16 else np.uint32)
    write_atomically(path, lambda temporary: tifffile.imwrite(temporary, stack, photometric="minisblack"))
