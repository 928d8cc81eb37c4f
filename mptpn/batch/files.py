"""Files and folders, one scan after the other; one that fails does not stop the others."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from mptpn.batch.scans import denoise_scan
from mptpn.batch.settings import Settings
from mptpn.inference import AUTO, SELF
from mptpn.inference.adaptation import check_adaptation
from mptpn.io import Scan, walk
from mptpn.io.outcomes import Outcome, each
from mptpn.io.writer import DoneBefore
from mptpn.networks import weights_path


def denoise_files(
    paths: Sequence[str | Path], settings: Settings, tell: Callable[[Outcome], object] = lambda _: None
) -> tuple[list[Path], dict[str, str]]:
    """Denoise files and folders; one that fails does not stop the others; tell is called after each.

    Returns:
        What was written, and for each path or scan that failed, one sentence.
    Raises:
        FileNotFoundError: no such model.
    """
    written, failures = [], {}
    for outcome in outcomes(paths, settings):
        if outcome.result is not None:
            written.append(outcome.result)
        elif not (outcome.passed_over or outcome.waits):
            failures[str(outcome.file)] = outcome.failure
        tell(outcome)
    return written, failures


def outcomes(paths: Sequence[str | Path], settings: Settings) -> Iterator[Outcome]:
    """Denoise the files of a share one after the other; arguments and errors as in denoise_files."""
    check_adaptation(settings.adapt, settings.model)
    if str(settings.model) not in (AUTO, SELF):
        weights_path(settings.model)
    scans = walk(paths, part=settings.part, axes=settings.axes, divided=settings.divides)
    yield from each(scans, partial(denoise_scan, settings=settings), _done_before)


def _done_before(scan: Scan, error: DoneBefore) -> Outcome:
    about = error.about
    noise = about.get("noise") or [{}]
    verdict, level = about.get("verdict", ""), noise[0].get("sigma")
    return Outcome(scan.path, error.target, verdict, f"done before; {verdict}", level=level, unit=scan.unit)
