"""The explorer's controls: what they are, where they stand, what they call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as w

from mptpn.viewers import pictures, samples
from mptpn.viewers.canvas import MODES, Canvas
from mptpn.viewers.session import FILE, MEANINGS, METHODS

if TYPE_CHECKING:
    from mptpn.viewers.jupyter import Explorer

NONE, WHOLE, VISIBLE = "none", "whole slice", "visible part"
COMPARED = 3  # methods
LISTED = 200  # files of a folder
WIDE = {"width": "98%"}


def make(one: Explorer, *, method: str, folder: str) -> None:
    """The controls and pictures of an explorer, as its attributes."""
    named = [(MEANINGS[name], name) for name in (*METHODS, FILE)]
    first = method if method in METHODS else FILE
    one.file = w.Combobox(placeholder="path of a file or folder, or a sample", description="file", layout=WIDE)
    one.file.continuous_update, one.file.ensure_option = True, False
    one.open_button = w.Button(description="Open", icon="folder-open", layout={"width": "90px"})
    one.methods = [w.Dropdown(options=named, value=first, description="method", layout=WIDE)]
    for _ in range(COMPARED - 1):
        one.methods.append(w.Dropdown(options=[("none", NONE), *named], value=NONE, description="compare", layout=WIDE))
    one.weights = w.Text(value="" if first != FILE else method, description="weights", layout=WIDE)
    one.weights.continuous_update, one.weights.placeholder = False, ".safetensors from mptpn train"
    one.slice = w.IntSlider(0, 0, 0, description="slice", continuous_update=False, layout=WIDE)
    one.channel = w.Dropdown(options=[("channel 1", 0)], description="channel", layout=WIDE)
    one.part = w.Dropdown(options=(WHOLE, VISIBLE), description="denoise", layout=WIDE)
    one.again = w.Button(description="Denoise what is in view", layout=WIDE)
    one.strength = w.FloatSlider(1.0, min=0.0, max=1.0, step=0.05, description="strength", layout=WIDE)
    one.preset = w.Dropdown(options=pictures.PRESETS, description="window", layout=WIDE)
    one.window = w.FloatRangeSlider(value=(0.0, 1.0), min=0.0, max=1.0, description="gray range", layout=WIDE)
    one.mode = w.ToggleButtons(options=MODES, style={"button_width": "110px"})
    hints = ("such as: nuclei", "a second prompt, beside the first")
    one.prompts = [w.Text(placeholder=hint, description="find", layout=WIDE) for hint in hints]
    one.asked = w.ToggleButtons(options=("noisy", "denoised"), style={"button_width": "85px"})
    one.asked.layout.flex = "0 0 190px"
    one.find = w.Button(description="Find", icon="search", layout={"flex": "0 0 90px"})
    one.folder = w.Text(value=folder, description="folder", layout=WIDE)
    one.overwrite = w.Checkbox(description="overwrite", indent=False, layout={"width": "100px"})
    one.save = w.Button(description="Save", icon="save", layout={"width": "90px"})
    one.stop = w.Button(description="Stop", icon="stop", disabled=True, layout={"width": "90px"})
    one.bar = w.FloatProgress(0.0, min=0.0, max=1.0, layout={"width": "200px", "display": "none"})
    one.status, one.noise = w.HTML(), w.HTML(layout={"max_width": "1200px"})
    one.reports = [w.HTML(layout={"display": "none"}) for _ in range(COMPARED)]
    one.canvas, one.masks = Canvas(), Canvas()


def laid_out(one: Explorer) -> list[w.Widget]:
    """The controls from top to bottom."""
    columns = (
        [*one.methods, one.weights],
        [one.slice, one.channel, one.strength, one.part, one.again],
        [one.preset, one.window, one.mode],
    )
    thirds = {"grid_template_columns": "repeat(3, minmax(0, 1fr))", "max_width": "1200px", "overflow": "hidden"}
    top = w.GridBox([w.VBox(column) for column in columns], layout=thirds)
    columns = "repeat(auto-fit, minmax(300px, 1fr))"
    reports = w.GridBox(one.reports, layout=thirds | {"grid_gap": "10px", "grid_template_columns": columns})
    asked = w.HBox([*one.prompts, one.asked, one.find], layout={"max_width": "1200px"})
    return [
        w.HBox([one.file, one.open_button], layout={"max_width": "1200px"}),
        top,
        w.HBox([one.stop, one.bar, one.status]),
        one.canvas,
        one.noise,
        reports,
        asked,
        one.masks,
        w.HBox([one.folder, one.overwrite, one.save], layout={"max_width": "1200px"}),
    ]


def connect(one: Explorer) -> None:
    """What happens when a control is moved."""
    shown(one)
    for control, called in (
        (one.slice, one.changed_slice),
        (one.channel, one.changed_slice),
        (one.part, one.changed_slice),
        (one.strength, one.draw),
        (one.window, one.draw),
        (one.preset, one.changed_preset),
        (one.weights, one.run),
        *((method, one.run) for method in one.methods),
    ):
        control.observe(lambda _, called=called: called(), names="value")
    for control in (*one.methods, one.part):
        control.observe(lambda _: shown(one), names="value")
    one.mode.observe(lambda change: setattr(one.canvas, "mode", change["new"]), names="value")
    one.canvas.observe(lambda _: one.changed_view(), names="visible")
    one.file.observe(lambda change: setattr(one.file, "options", choices(change["new"])), names="value")
    one.file.options = choices("")
    one.open_button.on_click(lambda _: one.choose(path_of(one.file.value)))
    for button, called in ((one.again, one.changed_slice), (one.find, one.ask), (one.save, one.write)):
        button.on_click(lambda _, called=called: called())
    one.stop.on_click(lambda _: one.halt())


def shown(one: Explorer) -> None:
    """The field for weights is there where a method needs it."""
    one.weights.layout.display = "" if any(method.value == FILE for method in one.methods) else "none"
    one.again.layout.display = "" if one.part.value == VISIBLE else "none"


def choices(text: str) -> list[str]:
    """Samples, and what lies in the folder that was typed so far, folders with a slash."""
    folder = Path(text).expanduser() if text.endswith("/") else Path(text).expanduser().parent
    try:
        found = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    except OSError:  # a folder that may not be read
        found = []
    inside = [f"{path}/" if path.is_dir() else str(path) for path in found if not path.name.startswith(".")]
    return [*map(_sample, samples.SAMPLES), *inside[:LISTED]]


def path_of(text: str) -> Path | str:
    """The file that a text means: a sample, or a path."""
    known = {_sample(name): samples.sample(name) for name in samples.SAMPLES}
    return known.get(text.strip(), text.strip())


def _sample(name: str) -> str:
    return f"sample: {name}"
