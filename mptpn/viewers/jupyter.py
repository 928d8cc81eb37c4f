"""The explorer in JupyterLab: a scan, its noise, up to three methods side by side, and what a prompt finds."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets
import numpy as np

from mptpn.inference import AUTO
from mptpn.io import Scan
from mptpn.viewers import controls, pictures, words
from mptpn.viewers.controls import NONE, VISIBLE
from mptpn.viewers.session import FILE, Result, Session
from mptpn.viewers.slices import LARGE, Slices
from mptpn.viewers.worker import DONE, FAILED, STOPPED, Job, sentence

if TYPE_CHECKING:
    from mptpn.segmentation import Answer

BEGINNING = 512  # px, side of the middle of a large slice that is denoised before anything is in view
TITLES = {"removed": "removed, ±3 sigma = ±{:.4g}", "uncertainty": "uncertainty, 0 to {:.4g}"}


def explore(
    scan: Scan | str | Path | np.ndarray | None = None,
    *,
    method: str | Path = AUTO,
    minutes: float = 1.0,
    folder: str | Path = "denoised",
) -> Explorer:
    """Open a scan in the explorer; what it shows is denoised beside the notebook, see Explorer.wait.

    Args:
        scan: from mptpn.io, or one file's path, or an array [H, W], [H, W, 3] or [N, H, W]; None: a noisy CT slice.
        method: with which it begins: "auto", "small", "correlated", "base", "tiny", "colour", "self", or weights.
        minutes: budget of the training of "self".
        folder: first text of the field that says where to save.
    Raises:
        ValueError, OSError: no image, or nothing in it that holds noise; one sentence.
    """
    return Explorer(Slices(scan), method=str(method), minutes=minutes, folder=str(folder))


class Explorer(ipywidgets.VBox):
    """The widget; its controls are attributes, so that a script can move them too.

    Attributes:
        file, methods, weights, slice, channel, part, strength, preset, window, mode: what is shown, see controls.
        prompts, asked, find: what is looked for, in which picture. folder, overwrite, save: where to write.
        canvas, masks: pictures. noise, reports, status, bar, stop: what is said.
        session: holds the results. slices: the scan.
    """

    def __init__(self, slices: Slices, *, method: str, minutes: float, folder: str):
        self.slices, self.session = slices, Session(minutes=minutes, tell=self._follow)
        self._lock, self._ended, self._wanted = threading.RLock(), None, []
        self._quiet = False  # while controls are set together
        controls.make(self, method=method, folder=folder)
        super().__init__(controls.laid_out(self))
        controls.connect(self)
        self._begin()

    def choose(self, scan: Scan | str | Path | np.ndarray) -> None:
        """Show another scan; where that fails, the status says why and the old one stays."""
        try:
            slices = Slices(scan)
            first = slices.first
        except Exception as error:  # whatever a file holds, the page says it in words
            return self._say(words.BAD, sentence(error, str(scan)))
        self.slices = slices
        self._begin(first)

    def _begin(self, first: int | None = None) -> None:
        with self._lock:
            self._set_ranges(self.slices.first if first is None else first)
            self.changed_slice()

    def _set_ranges(self, first: int) -> None:
        """The controls of another scan."""
        slices, self._quiet = self.slices, True
        try:
            self.slice.max, self.slice.value = slices.count - 1, first
            self.slice.layout.display = "" if slices.count > 1 else "none"
            self.channel.options = [(name, number) for number, name in enumerate(slices.channels)]
            self.channel.value, self.channel.layout.display = 0, "" if len(slices.channels) > 1 else "none"
            large = math.prod(slices.scan.shape[:2]) > LARGE
            self.part.value = VISIBLE if large else "whole slice"
            self.canvas.visible = []
        finally:
            self._quiet = False

    @property
    def chosen(self) -> list[str]:
        """The methods that are compared, without repetition; a weights file by its path."""
        named = [self.weights.value.strip() if one.value == FILE else one.value for one in self.methods]
        return list(dict.fromkeys(name for name in named if name and name != NONE))

    def wait(self, seconds: float | None = None) -> None:
        """Wait until every method that is chosen has its result, for scripts."""
        while (job := self.session.job) is not None and job.wait(seconds):
            if self.session.job is job:  # its end starts the next, in its own thread
                return

    def changed_slice(self) -> None:
        """Another slice, channel or part: show it, then measure and denoise it."""
        with self._lock:
            if not self._quiet:
                self._attempt(self._open_slice)

    def _open_slice(self) -> None:
        index, channel = self.slice.value, self.channel.value
        self._shown, self._valid = self.slices.read(index, channel)
        self._part = self._in_view()
        self.session.open(self.slices.region(index, channel, self._part))
        self.noise.value, self.masks.pictures = "", []
        for report in self.reports:
            report.value = ""
        self._set_window()
        self.draw()
        self.run()

    def _in_view(self) -> tuple[slice, slice]:
        """Rows and columns that are denoised."""
        height, width = self._shown.shape[:2]
        if self.part.value != VISIBLE:
            return slice(0, height), slice(0, width)
        if len(self.canvas.visible) == 4:
            top, bottom, left, right = map(int, self.canvas.visible)
            return slice(top, bottom), slice(left, right)
        starts = [max(0, (side - BEGINNING) // 2) for side in (height, width)]
        return tuple(slice(start, start + BEGINNING) for start in starts)

    def changed_view(self) -> None:
        """Another part is in view; it is denoised when the user asks for it."""
        self.again.disabled = self.part.value != VISIBLE

    def run(self) -> None:
        """Denoise by every chosen method that has no result yet, one after the other."""
        with self._lock:
            if self._quiet:
                return
            known = self.session.results
            self._wanted = [name for name in self.chosen if name not in known]
            if self.session.job is not None and self.session.job.running:
                self.session.stop()  # its end starts what is wanted
            else:
                self._next()
            self.draw()

    def _next(self) -> None:
        """Start the first of the methods that are wanted."""
        if self._wanted:
            name = self._wanted.pop(0)
            self._attempt(lambda: self.session.denoise(name))

    def halt(self) -> None:
        """Stop what runs and what waits; results that are there stay."""
        with self._lock:
            self._wanted = []
            self.session.stop()

    def ask(self) -> None:
        """Look for both prompts in the picture that is chosen."""
        texts = [prompt.value for prompt in self.prompts if prompt.value.strip()]
        self._attempt(lambda: self._ask(texts))

    def _ask(self, texts: list[str]) -> None:
        self._asked = texts, self._picture(self.asked.value)
        self.masks.pictures, self._answers = [], []
        self.session.ask(texts[0] if texts else "", self._asked[1])

    def _picture(self, which: str) -> np.ndarray:
        """The region as it is, or by the first method that has a result."""
        results = [self.session.results[name] for name in self.chosen if name in self.session.results]
        if which == "noisy":
            return self.session.region.array
        if not results:
            raise ValueError("nothing is denoised yet; wait for the result, or choose noisy.")
        return results[0].denoised(self.strength.value)

    def write(self) -> None:
        """Denoise the whole scan by the first method and write it in its own type."""
        self._attempt(
            lambda: self.session.save(
                self.slices.scan,
                self.chosen[0],
                strength=self.strength.value,
                folder=self.folder.value,
                overwrite=self.overwrite.value,
            )
        )

    def _follow(self) -> None:
        """How far the job is, and at its end what came out; called in the thread of the job."""
        with self._lock:
            job = self.session.job
            if job is None:
                return
            if self.session.noise is not None:
                lines = words.noise_lines(self.session.noise)
                self.noise.value = words.as_html(lines[:1] if self.session.results else lines)
            self.bar.value, self.bar.layout.display = job.share, "" if job.running else "none"
            self.stop.disabled = not job.running
            if job.running:
                self._say(words.PLAIN, f"{job.title} {100 * job.share:.0f} % …")
            elif self._ended is not job:
                self._ended = job
                self._attempt(lambda: self._end(job))
                if self.session.job is job:
                    self._next()

    def _end(self, job: Job) -> None:
        if job.state == FAILED:
            self._say(words.BAD, job.failure)
        elif job.state == STOPPED:
            self._say(words.DOUBT, f"stopped {job.title}; what was there before stays.")
        elif isinstance(job.outcome, Result):
            self._say(words.PLAIN, f"{job.title}: done")
            self.draw()
        elif isinstance(job.outcome, Path):
            self._say(words.GOOD, f"saved {job.outcome}")
        elif job.state == DONE and hasattr(job.outcome, "mask"):
            self._answered(job.outcome)

    def _answered(self, answer: Answer) -> None:
        texts, picture = self._asked
        self._answers.append(answer)
        low, high = self.window.value
        gray = pictures.eight_bits(picture, low, high)
        titles = [one.sentence if one.found else f"{one.prompt.text}: not found" for one in self._answers]
        masks = [pictures.png(pictures.with_mask(gray, one.mask)) for one in self._answers]
        shown = list(zip(titles, masks, strict=True))
        self.masks.show(shown, picture.shape[:2])
        if len(self._answers) < len(texts):
            self.session.ask(texts[len(self._answers)], picture)
        else:
            colour = words.GOOD if all(one.found for one in self._answers) else words.DOUBT
            self._say(colour, "; ".join(one.sentence for one in self._answers))

    def changed_preset(self) -> None:
        """The window of the preset."""
        with self._lock:
            self._set_window()
            self.draw()

    def _set_window(self) -> None:
        low, high = pictures.window(self.preset.value, self._shown, self._valid)
        span, (least, most) = high - low, pictures.window(pictures.FULL, self._shown, self._valid)
        quiet, self._quiet = self._quiet, True
        least, most = min(least, low - span), max(most, high + span)
        self.window.min, self.window.max = min(least, self.window.min), max(most, self.window.max)
        self.window.value, self.window.step = (low, high), (most - least) / 1000
        self.window.min, self.window.max = least, most
        self.window.readout_format = ".0f" if span > 20 else ".3g"
        self._quiet = quiet

    def draw(self) -> None:
        """All pictures, at the strength and within the window that are chosen; nothing runs."""
        with self._lock:
            if not self._quiet:
                self._attempt(self._draw)

    def _draw(self) -> None:
        results = {name: self.session.results[name] for name in self.chosen if name in self.session.results}
        shown = [("noisy", self._png(self._shown))]
        for name, result in results.items():
            title = f"{Path(name).name}, strength {self.strength.value:g}"
            shown.append((title, self._png(self._whole(result.denoised(self.strength.value)))))
        for name, result in results.items():
            shown += self._maps(Path(name).name if len(results) > 1 else "", result, alone=len(results) == 1)
        self.canvas.show(shown, self._shown.shape[:2], pair=(1, 2) if len(results) > 1 else (0, 1))
        for report, name in zip(self.reports, [*results, *[""] * 3], strict=False):
            title = f"<b>{Path(name).name}</b><br>" if len(results) > 1 and name else ""
            report.value = title + words.as_html(words.result_lines(results[name])) if name else ""
            report.layout.display = "" if name else "none"

    def _maps(self, name: str, result: Result, *, alone: bool) -> list[tuple[str, bytes]]:
        """What was removed, and of a single method the uncertainty too."""
        level = float(np.quantile(result.level, 0.99)) or 1.0
        removed = self._whole(result.removed(self.strength.value), 0.0)
        shown = [(TITLES["removed"].format(3 * level), pictures.eight_bits(removed, -3 * level, 3 * level))]
        if alone:
            error = self._whole(result.uncertainty(self.strength.value), 0.0)
            shown.append((TITLES["uncertainty"].format(level), pictures.eight_bits(error, 0, level)))
        return [(f"{name} {title}".strip(), pictures.png(picture)) for title, picture in shown]

    def _png(self, image: np.ndarray) -> bytes:
        return pictures.png(pictures.eight_bits(image, *self.window.value))

    def _whole(self, part: np.ndarray, beside: float | None = None) -> np.ndarray:
        """The slice with its denoised part put in; around it the noisy image, or a constant."""
        if part.shape == self._shown.shape:
            return part
        whole = self._shown.copy() if beside is None else np.full(self._shown.shape, beside, np.float32)
        whole[self._part] = part
        return whole

    def _attempt(self, step: Callable[[], object]) -> None:
        """A step, or its error as a sentence in the status line."""
        try:
            step()
        except ValueError as error:
            self._say(words.BAD, " ".join(str(error).split()))
        except Exception as error:  # whatever a file holds, the page says it in words
            self._say(words.BAD, sentence(error, self.slices.scan.name))

    def _say(self, colour: str, text: str) -> None:
        self.status.value = words.as_html([(colour, text)])

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The widget, and a still picture of it for where no kernel is live."""
        shown = [(one["name"], one["png"]) for one in self.canvas.pictures]
        return super()._repr_mimebundle_() | {"image/png": pictures.still(shown)}
