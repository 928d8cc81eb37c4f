"""A widget to look at a scan and at what denoising does to it: linked pictures, the report, and a button that saves."""

import html
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import ipywidgets
import numpy as np

from mptpn.inference import quality_figure
from mptpn.inference.quality_figure import PANELS, View
from mptpn.io.scan import Scan
from mptpn.trials import NOISES, Choice, Session

FAULTS = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)  # become a sentence in the status line
CHANGED_BY = {  # the panels that each control changes: strength leaves the noisy image as it is
    "strength": [name for name in PANELS if name != "noisy"],
    "window": ["noisy", "denoised", "profile"],
    "row": ["noisy", "denoised", "profile"],
    "region": list(PANELS),
}


def explore(
    scan: Scan | str | Path | np.ndarray,
    *,
    minutes: float = 1.0,
    model: str | Path = "",
    method: str | None = None,
    folder: str | Path = "denoised",
    baselines: Mapping[str, Callable] = {},
    seed: int = 0,
) -> "Explorer":
    """Open a scan in the explorer; without a live kernel what it shows stays as a still picture.

    Args:
        scan: from mptpn.files, or one file's path, or an array [H, W] or [N, H, W].
        minutes: budget of each training of stage 1 on the scan itself. model: .safetensors or a network of the package,
            one more method; empty: none.
        method: with which it opens; None: the model, or else stage 1.
        baselines: name -> filter (noisy, noise model=) -> denoised: further methods.
        folder: first text of the field that says where to save.
    Raises:
        ValueError: the scan holds no noise, or there is no such method.
    """
    return Explorer(
        Session(scan, minutes=minutes, model=model, baselines=baselines, seed=seed), method=method, folder=folder
    )


class Explorer(ipywidgets.VBox):
    """The widget; its controls are attributes, so that a script can move them too.

    Attributes:
        method, strength, noise, level, slice, channel, window, centre_row, centre_col, size, row: what is tried and
        shown; row is the profile's.
        folder, overwrite, save: where and with which button to write. report, status: what is said.
        panels: name -> picture. trial: what is shown, None after a failure.
    """

    def __init__(self, trials: Session, *, method: str | None, folder: str | Path):
        if method is not None and method not in trials.methods:
            raise ValueError(f"method {method!r}: choose one of {', '.join(trials.methods)}.")
        self.trials, self.trial = trials, None
        self._make_controls(method or trials.methods[0], folder)
        # no Output widget: see figures.browse
        self.panels = {name: ipywidgets.Image(format="png", layout={"width": "98%", "margin": "0"}) for name in PANELS}
        self.report, self.status = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__(self._laid_out())
        for control in (self.method, self.noise, self.level, self.slice, self.channel):
            control.observe(lambda _: self._try(), names="value")
        for control, changed in self._drawing_controls():
            control.observe(lambda _, changed=changed: self._draw(changed), names="value")
        self.save.on_click(lambda _: self._save())
        self._try()

    def _make_controls(self, method: str, folder: str | Path) -> None:
        trials, scan = self.trials, self.trials.scan
        (height, width), (low, high) = scan.shape[:2], trials.span
        room = 0.3 * (high - low) or 1.0
        self.method = ipywidgets.Dropdown(options=trials.methods, value=method, description="method")
        self.strength = _slider(1.0, 0.0, 1.0, "strength", step=0.05)
        self.noise = ipywidgets.Dropdown(options=NOISES, description="add noise")
        self.level = _slider(10.0, 1.0, 50.0, "its level, %", step=1.0)
        self.slice = _whole(trials.samples[len(trials.samples) // 2], 0, scan.slices - 1, "slice")
        self.channel = ipywidgets.Dropdown(
            options=[("red", 0), ("green", 1), ("blue", 2)] if scan.shape[2:] else [("gray", 0)], description="channel"
        )
        self.window = ipywidgets.FloatRangeSlider(
            value=(low, high),
            min=low - room,
            max=high + room,
            step=room / 100,
            description="window",
            continuous_update=False,
            readout_format=".0f" if high - low > 50 else ".3g",
        )
        self.centre_row, self.centre_col = (
            _whole(height // 2, 0, height - 1, "region row"),
            _whole(width // 2, 0, width - 1, "region col"),
        )
        self.size = _whole(max(height, width), min(16, height, width), max(height, width), "region size")
        self.row = _whole(height // 2, 0, height - 1, "profile row")
        self.folder = ipywidgets.Text(
            value=str(folder), description="folder", layout={"width": "60%", "max_width": "600px"}
        )
        self.overwrite = ipywidgets.Checkbox(description="overwrite", indent=False, layout={"width": "100px"})
        self.save = ipywidgets.Button(description="Save", icon="save", layout={"width": "100px"})

    def _drawing_controls(self) -> list[tuple[ipywidgets.Widget, list[str]]]:
        region = [(control, CHANGED_BY["region"]) for control in (self.centre_row, self.centre_col, self.size)]
        return [
            (self.strength, CHANGED_BY["strength"]),
            (self.window, CHANGED_BY["window"]),
            (self.row, CHANGED_BY["row"]),
            *region,
        ]

    def _laid_out(self) -> list[ipywidgets.Widget]:
        several = [
            control
            for control, wanted in ((self.slice, self.slice.max > 0), (self.channel, len(self.channel.options) > 1))
            if wanted
        ]
        columns = (
            [self.method, self.strength, self.noise, self.level],
            [*several, self.window, self.row],
            [self.centre_row, self.centre_col, self.size],
        )
        for control in (control for column in columns for control in column):
            control.layout.width = "98%"
        grid = {"grid_template_columns": "repeat(3, minmax(0, 1fr))", "max_width": "1100px", "overflow": "hidden"}
        top = ipywidgets.GridBox([ipywidgets.VBox(column) for column in columns], layout=grid)
        bottom = ipywidgets.HBox([self.folder, self.overwrite, self.save])
        return [top, ipywidgets.GridBox(list(self.panels.values()), layout=grid), bottom, self.status, self.report]

    @property
    def choice(self) -> Choice:
        """What the controls ask for."""
        return Choice(self.method.value, self.slice.value, self.channel.value, self.noise.value, self.level.value / 100)

    @property
    def view(self) -> View:
        """What the pictures show."""
        (height, width), size = self.trials.scan.shape[:2], self.size.value
        region = tuple(
            _around(at.value, size, side) for at, side in ((self.centre_row, height), (self.centre_col, width))
        )
        shown = {
            "window": self.window.value,
            "region": region,
            "row": self.row.value,
            "unit": self.trials.scan.unit,
            "strength": self.strength.value,
        }
        if self.trial is None:
            noisy, valid = self.trials.shown(self.choice)
            return View(noisy, valid, **shown)
        denoised, uncertainty = self.trial.at(self.strength.value)
        return View(
            self.trial.noisy,
            self.trial.valid,
            **shown,
            denoised=denoised,
            uncertainty=uncertainty,
            sigma=self.trial.sigma,
            method=self.method.value,
        )

    def _try(self) -> None:
        """The expensive step: denoise and judge, then draw all."""
        choice = self.choice
        self._say(
            f"working… ({choice.method}"
            + (f", up to {60 * self.trials.minutes:.0f} s of training)" if choice.method.startswith("stage 1") else ")")
        )
        self.trial = self._attempt(lambda: self.trials.run(choice))
        self.report.value = _as_html(self.trial.report if self.trial else "")
        self._draw(PANELS, keep=self.trial is None)

    def _draw(self, changed: Iterable[str], *, keep: bool = False) -> None:
        """Draw these panels again; keep: the status line stays, it says what failed."""
        view = self._attempt(lambda: self.view)
        for name in changed if view else ():
            self.panels[name].value = quality_figure.panel(name, view)
        if view and not keep:
            self._say("")

    def _save(self) -> None:
        self._say("working… (saving)")
        self.save.disabled = True
        try:
            target = self._attempt(self._write)
        finally:
            self.save.disabled = False
        if target:
            self._say(f"saved {target}" + (f"; {self.trials.scan.note}" if self.trials.scan.note else ""))

    def _write(self) -> Path:
        def tell(done: int) -> None:
            self._say(f"working… (saving, slice {done} of {self.trials.scan.slices})")

        return self.trials.save(
            self.choice,
            strength=self.strength.value,
            folder=self.folder.value,
            overwrite=self.overwrite.value,
            tell=tell,
        )

    def _attempt(self, step: Callable):
        """The step's result, or None and its error as a sentence in the status line."""
        try:
            return step()
        except FAULTS as error:
            self._say(" ".join(str(error).split()) or type(error).__name__, colour="#c00000")
            return None

    def _say(self, words: str, *, colour: str = "inherit") -> None:
        self.status.value = f'<span style="color: {colour}">{html.escape(words) or "ready"}</span>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The widget, and a still picture of it for where no kernel is live."""
        return super()._repr_mimebundle_() | {
            "image/png": quality_figure.sheet(self.view, words=self.trial.report if self.trial else "")
        }


def _slider(value: float, least: float, most: float, name: str, *, step: float) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        value=value, min=least, max=most, step=step, description=name, continuous_update=False
    )


def _whole(value: int, least: int, most: int, name: str) -> ipywidgets.IntSlider:
    return ipywidgets.IntSlider(value=value, min=least, max=most, description=name, continuous_update=False)


def _around(centre: int, size: int, side: int) -> slice:
    """`size` px around the centre, moved to lie inside."""
    size = min(size, side)
    start = min(max(0, centre - size // 2), side - size)
    return slice(start, start + size)


def _as_html(report: str) -> str:
    """The report, its doubts in red."""
    lines = (
        f'<span style="color: {"#c00000" if line.startswith("DOUBT") else "inherit"}">{html.escape(line)}</span>'
        for line in report.splitlines()
    )
    return '<div style="line-height: 1.4; max-width: 1100px">' + "<br>".join(lines) + "</div>"
