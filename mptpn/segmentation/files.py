"""Files in, masks out: each scan is asked slice by slice; beside the mask lie an overlay and a report."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mptpn.io import Scan, Slice, Writer, walk
from mptpn.io.outcomes import Outcome, each
from mptpn.io.writer import BESIDE_MASK, DoneBefore
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

    def note(self, segmenter: Segmenter, inside: float) -> str:
        """All that decides the mask; DICOM keeps it."""
        how = f"{', denoised first' if self.denoise else ''}{', with instances' if self.instances else ''}"
        return f"mask of {self.prompt!r}: {inside:g} inside (network {segmenter.digest()}{how})"


def segment_files(paths: Sequence[str | Path], segmenter: Segmenter, settings: Settings) -> Iterator[Outcome]:
    """Segment files and folders, each scan as soon as it is found; one that fails does not stop the others.

    Raises:
        AskBack: the prompt cannot be answered as it stands; nothing is opened then.
    """
    parse(settings.prompt, segmenter.targets)
    return each(walk(paths), partial(segment_scan, segmenter=segmenter, settings=settings), _done_before)


def _done_before(scan: Scan, error: DoneBefore) -> Outcome:
    return Outcome(scan.path, error.target, message=f"done before; {error.about.get('message', '')}")


def segment_scan(scan: Scan, segmenter: Segmenter, settings: Settings) -> Outcome:
    """The mask of one scan in its own type and geometry, NAME.overlay.png and NAME.segment.json.

    Raises:
        ValueError, OSError: one sentence; no half-written result is left.
    """
    inside = foreground(scan)
    shown, answers, numbers = None, [], []
    about = {"note": settings.note(segmenter, inside), "overwrite": settings.overwrite, "beside": BESIDE_MASK}
    with Writer(scan, settings.out, **about) as writer:
        writer.done = 0  # masks are quick: an interrupted call starts again
        for index in range(scan.slices):
            slice = scan.read(index)
            answer = _ask(slice, segmenter, settings, scan.modality)
            pixels = np.where(answer.mask, np.float32(inside), np.float32(0))
            writer.write(index, pixels if slice.pixels.ndim == 2 else np.repeat(pixels[..., None], 3, 2))
            answers.append(answer.to_dict() | ({"slice": index + 1} if scan.slices > 1 else {}))
            numbers += [answer.labels] if settings.instances else []
            if shown is None or answer.mask.sum() > shown[1].mask.sum():
                shown = slice, answer
        report = _report(scan, answers, settings, inside, segmenter) | {"message": _sentence(shown[1], answers)}
        report |= {"source": scan.label, "key": writer.key}
        drawn = overlay(*shown)
        writes = {".segment.json": partial(_write_json, report), ".overlay.png": partial(_write_png, drawn)}
        if settings.instances:
            writes[".instances.tif"] = partial(_write_instances, numbers)
        writer.close(writes)
    return Outcome(scan.path, writer.target, message=report["message"])


def foreground(scan: Scan) -> float:
    """The stored value of the inside of a mask: the largest in PNG and TIFF, which viewers show as white, else 1."""
    return float(scan.high) if scan.endings[:1] in PICTURES and scan.high else 1.0


def _ask(slice: Slice, segmenter: Segmenter, settings: Settings, modality: str) -> Answer:
    pixels = slice.pixels
    if settings.denoise is not None:
        pixels = settings.denoise(pixels).reshape(pixels.shape)
    return segmenter.ask(pixels, settings.prompt, valid=slice.valid, memory=settings.memory, modality=modality)


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


def _write_png(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image as Picture

    Picture.fromarray(pixels).save(path, "PNG")


def _write_instances(numbers: list[np.ndarray], path: Path) -> None:
    import tifffile

    stack = np.stack(numbers) if len(numbers) > 1 else numbers[0]
    stack = stack.astype(np.uint16 if stack.max(initial=0) < 2**16 else np.uint32)
    tifffile.imwrite(path, stack, photometric="minisblack")
