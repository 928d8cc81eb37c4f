"""The report beside a denoised scan: one verdict, the numbers that matter, the checks, and pictures of one slice."""

import json
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mptpn.inference import Assessment, Denoiser, Prediction
from mptpn.inference.assessment import VERDICTS
from mptpn.io import Scan

NONE, SHORT, FULL = REPORTS = ("none", "short", "full")
PANEL, GAP, LINE = 384, 8, 20  # px, of the short report: side of a picture, between pictures, height of a line
WINDOW = (0.002, 0.998)  # share of the denoised pixels below the ends of the gray range
MARKS = {True: ("ok", (0, 90, 0)), False: ("LOOK", (190, 0, 0))}


@dataclass(frozen=True, eq=False)
class Judged:
    """One channel of one slice that was denoised and assessed; the full removal, whatever the strength.

    Attributes:
        slice, channel: their numbers. own, valid: [H, W], in the scan's unit.
    """

    slice: int
    channel: int
    own: np.ndarray
    valid: np.ndarray
    denoiser: Denoiser
    prediction: Prediction
    assessment: Assessment

    def to_dict(self) -> dict:
        """Numbers and sentences for JSON."""
        return {"slice": self.slice, "channel": self.channel} | self.assessment.to_dict()


def verdict(judged: Sequence[Judged]) -> str:
    """The worst verdict, see Assessment."""
    return max((one.assessment.verdict for one in judged), key=VERDICTS.index)


def sentence(judged: Sequence[Judged]) -> str:
    """Verdict, gain and noise in one line, those of the middle slice that was judged."""
    one = judged[len(judged) // 2]
    noise, unit = one.denoiser.noise, one.denoiser.noise.sigma_interval
    words = f"{verdict(judged)}; {one.assessment.message}; noise {noise.sigma:.4g} ({unit[0]:.4g} to {unit[1]:.4g})"
    faults = dict.fromkeys(fault for each in judged for fault in each.assessment.quality.faults)
    return "; ".join([words, *faults][:3])


def files(
    scan: Scan,
    target: Path,
    judged: Sequence[Judged],
    *,
    strengths: Sequence[float],
    kind: str,
    settings: str,
    judged_on: str,
    key: str,
) -> dict[str, Callable[[Path], object]]:
    """What writes NAME.trust.json and NAME.trust.png of a kind of REPORTS, by these endings.

    strengths: the share of the full removal that was written of each channel; the pictures show it. settings and
    judged_on: sentences for the JSON. key: see Writer.
    """
    middle = judged[len(judged) // 2]
    strength = strengths[middle.channel]
    denoisers = list({id(one.denoiser): one.denoiser for one in judged}.values())
    about = {
        "verdict": verdict(judged),
        "message": sentence(judged),
        "file": scan.path.name,
        "source": scan.label,
        "files": [path.name for path in scan.sources()] if scan.path.is_dir() else [],
        "written": target.name,
        "key": key,
        "lost": scan.note,
        "settings": settings,
        "unit": scan.unit,
        "slices": scan.slices,
        "judged_on": judged_on,
        "written_share": [round(one, 4) for one in strengths],
        "noise": [one.noise.to_dict() for one in denoisers],
        "judged": [one.to_dict() for one in judged],
    }
    name = os.fsencode(scan.name).decode(errors="replace")  # fonts know no other bytes
    title = f"{name}, slice {middle.slice + 1} of {scan.slices}"
    words = json.dumps(about, indent=1)
    if kind == FULL:
        png = _sheet(scan, middle, title, strength)
        return {".trust.json": lambda path: path.write_text(words), ".trust.png": lambda path: path.write_bytes(png)}
    picture = strip(middle, title=f"{verdict(judged).upper()} · {title}", strength=strength)
    return {
        ".trust.json": lambda path: path.write_text(words),
        ".trust.png": lambda path: picture.save(path, format="png"),
    }


def _sheet(scan: Scan, one: Judged, title: str, strength: float) -> bytes:
    from mptpn.inference import quality_figure  # here, so that the command starts without what draws

    result, sigma = one.prediction.applied(one.own, strength)
    window = tuple(map(float, np.quantile(result[one.valid], WINDOW)))
    region = tuple(slice(0, side) for side in one.own.shape)
    shown = {"window": window, "region": region, "row": len(one.own) // 2, "unit": scan.unit}
    shown |= {"denoised": result, "uncertainty": sigma, "sigma": one.prediction.noise_sigma, "strength": strength}
    words = f"{title}\n{one.denoiser.noise}\n{_message(one, strength)}\n{one.assessment.quality}"
    return quality_figure.sheet(quality_figure.View(one.own, one.valid, **shown), words=words)


def strip(one: Judged, *, title: str, strength: float = 1.0) -> Image.Image:
    """Noisy and denoised in one gray range, and what was removed within 3 sigma, side by side; the report above."""
    result, sigma = one.prediction.applied(one.own, strength)[0], one.prediction.noise_sigma
    low, high = np.quantile(result[one.valid], WINDOW)
    reach = 3 * float(np.quantile(sigma[one.valid], 0.99)) or 1.0
    panels = [_gray(x, low, high) for x in (one.own, result)] + [_gray(one.own - result, -reach, reach)]
    width, height = panels[0].size
    total = 3 * width + 4 * GAP
    lines = [(True, title, "black")]
    said = [(True, _message(one, strength)), (True, str(one.denoiser.noise).splitlines()[0])]
    said += [(check.passed, check.verdict) for check in one.assessment.quality.checks]
    for number, (passed, words) in enumerate(said):
        mark, colour = MARKS[passed]
        text = words if number < 2 else f"{mark}: {words}"
        lines += [(False, part, "black" if number < 2 else colour) for part in textwrap.wrap(text, total // 7)]
    weaker = "" if strength == 1 else f", strength {strength:.3g}"
    names = ("noisy", f"denoised{weaker}, same gray range", f"removed, -{reach:.3g} to {reach:.3g}")
    text = LINE * (len(lines) + 1) + GAP
    picture = Image.new("RGB", (total, text + LINE + height + GAP), "white")
    draw, fonts = (
        ImageDraw.Draw(picture),
        {large: ImageFont.load_default(18 if large else 13) for large in (True, False)},
    )
    for row, (large, part, colour) in enumerate(lines):
        draw.text((GAP, GAP + LINE * row), part, fill=colour, font=fonts[large])
    for column, (name, panel) in enumerate(zip(names, panels, strict=True)):
        left = GAP + column * (width + GAP)
        draw.text((left, text), name, fill="black", font=fonts[False])
        picture.paste(panel, (left, text + LINE))
    return picture


def _message(one: Judged, strength: float) -> str:
    """The gain, or why there is none, and what it is of."""
    if strength == 1:
        return one.assessment.message
    share = f"{100 * strength:.0f} % of it is written"
    return f"{one.assessment.message}; that and the checks are of the full removal, {share}"


def _gray(array: np.ndarray, low: float, high: float) -> Image.Image:
    """Gray picture of about PANEL px, a whole number of pixels larger or smaller."""
    share = np.clip((np.nan_to_num(array) - low) / max(high - low, 1e-30), 0, 1)
    picture = Image.fromarray((255 * share).astype(np.uint8))
    factor = PANEL / max(picture.size)
    size = [max(1, round(side * factor)) for side in picture.size]
    return picture.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BOX)
