"""What both viewers say, sentence by sentence, each in its colour."""

import html
from collections.abc import Iterable

from mptpn.inference.assessment import DO_NOT, LOOK, USE, Assessment
from mptpn.noise import NoiseEstimate
from mptpn.viewers.session import Result

PLAIN, GOOD, DOUBT, BAD = "", "#2e9b57", "#d08a00", "#d03030"  # on a dark and on a light window
COLOURS = {USE: GOOD, LOOK: DOUBT, DO_NOT: BAD}
MEANINGS = {
    USE: "what was removed looks like noise and like nothing else",
    LOOK: "read the marked lines, and compare noisy and denoised there",
    DO_NOT: "keep the noisy image",
}
Line = tuple[str, str]  # colour, sentence


def noise_lines(noise: NoiseEstimate) -> list[Line]:
    """Kind and level of the noise with its 95 % interval, then what to beware of, which the last check says too."""
    first, *findings = str(noise).splitlines()
    return [(PLAIN, f"noise: {first}"), *((DOUBT, f"note: {one}") for one in findings)]


def verdict_line(assessment: Assessment) -> Line:
    """The verdict and what it means."""
    verdict = assessment.verdict
    return COLOURS[verdict], f"{verdict.upper()}: {MEANINGS[verdict]}"


def result_lines(result: Result) -> list[Line]:
    """Verdict, gain, one sentence for each check, and notes."""
    checks = result.assessment.quality.checks
    marks = {True: (GOOD, "ok"), False: (BAD, "LOOK")}
    found = [(marks[one.passed][0], f"{marks[one.passed][1]}: {one.verdict}") for one in checks]
    lines = [verdict_line(result.assessment), (PLAIN, result.assessment.message), *found]
    return lines + [(DOUBT, f"note: {note}") for note in result.notes]


def as_html(lines: Iterable[Line]) -> str:
    """Lines of coloured text, for Qt and for a browser; verdicts, in capitals, stand out."""
    text = "<br>".join(_as_html(colour, words) for colour, words in lines)
    return f'<div style="line-height: 1.35">{text}</div>'


def _as_html(colour: str, words: str) -> str:
    verdict, _, meaning = words.partition(":")
    text = html.escape(words)
    if verdict.lower() in MEANINGS and verdict.isupper():
        text = f"<b>{html.escape(verdict)}</b>:{html.escape(meaning)}"
    return f'<span style="color: {colour}">{text}</span>' if colour else f"<span>{text}</span>"
