"""The napari plug-in: noise, result, removed and uncertainty of the chosen layer, with the verdicts in colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Qt, QTimer, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSlider,
    QVBoxLayout,
    QWidget,
)

from mptpn.viewers import samples, words
from mptpn.viewers.layers import PARTS, SLICE, Place, read_region
from mptpn.viewers.result_layers import ResultLayers, is_ours
from mptpn.viewers.session import FILE, MEANINGS, METHODS, Result, Session
from mptpn.viewers.worker import DONE, FAILED, STOPPED, Job, sentence

if TYPE_CHECKING:
    import napari.types
    import napari.viewer
    from napari.layers import Image

STEPS = 100  # of the strength


class DenoiseWidget(QWidget):
    """Denoise a layer; its controls are attributes, so that a script can move them too.

    Attributes:
        layer, part, method, strength, prompt: what is tried. run, ask: buttons. status, report: what is said.
        session: holds what was tried. results: the layers of the last result.
    """

    told = Signal()  # from the thread of the job to that of the window

    def __init__(self, napari_viewer: napari.viewer.Viewer):
        super().__init__()
        self.viewer, self.session = napari_viewer, Session(tell=self._tell)
        self.results = ResultLayers(napari_viewer)
        self._source: tuple[Image, Place] | None = None
        self._file, self._method, self._ended = "", "", None
        self._make_controls()
        self._lay_out()
        self.told.connect(self._follow)
        self.destroyed.connect(self.session.stop)
        layers = self.viewer.layers.events
        for event in (layers.inserted, layers.removed, layers.reordered):
            event.connect(lambda _: self._list_layers())
        self.viewer.layers.selection.events.active.connect(lambda _: self._take_active())
        self._list_layers()
        self._take_active()

    def _make_controls(self) -> None:
        self.layer, self.part, self.method = QComboBox(), QComboBox(), QComboBox()
        self.part.addItems(PARTS)
        self.part.setCurrentText(SLICE)
        for name in (*METHODS, FILE):
            self.method.addItem(MEANINGS[name], name)
        self.run, self.bar = QPushButton("Denoise"), QProgressBar()
        self.bar.setRange(0, 1000)
        self.bar.setTextVisible(False)
        self.strength = QSlider(Qt.Orientation.Horizontal)
        self.strength.setRange(0, STEPS)
        self.strength.setValue(STEPS)
        self.percent = QLabel("100 %")
        self.prompt, self.ask, self.seen = QLineEdit(), QPushButton("Find"), QComboBox()
        self.seen.addItems(("noisy", "denoised"))
        self.prompt.setPlaceholderText("such as: large nuclei")
        self.status, self.noise, self.report = QLabel(), QLabel(), QLabel()
        for label in (self.status, self.noise, self.report):
            label.setWordWrap(True)
            label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.layer.currentIndexChanged.connect(lambda _: self.measure())
        self.part.currentIndexChanged.connect(lambda _: self.measure())
        self.method.activated.connect(self._choose_file)
        self.run.clicked.connect(lambda _: self.stop() if self._busy() else self.denoise())
        self.strength.valueChanged.connect(lambda _: self._show())
        self.ask.clicked.connect(lambda _: self.find())
        self.prompt.returnPressed.connect(self.find)

    def _lay_out(self) -> None:
        form, inside = QFormLayout(), QWidget()
        for name, control in (("layer", self.layer), ("part", self.part), ("method", self.method)):
            form.addRow(name, control)
        for name, several in (
            ("strength", (self.strength, self.percent)),
            ("find", (self.prompt, self.seen, self.ask)),
        ):
            row = QHBoxLayout()
            for control in several:
                row.addWidget(control)
            form.addRow(name, row)
        column = QVBoxLayout(inside)
        column.addLayout(form)
        for control in (self.run, self.bar, self.status, self.noise, self.report):
            column.addWidget(control)
        column.addStretch(1)
        scroll, whole = QScrollArea(), QVBoxLayout(self)
        scroll.setWidgetResizable(True)
        scroll.setWidget(inside)
        whole.addWidget(scroll)
        whole.setContentsMargins(0, 0, 0, 0)

    def _tell(self) -> None:
        try:
            self.told.emit()
        except RuntimeError:  # the window is gone
            self.session.stop()

    def measure(self) -> None:
        """Tell the noise of the chosen part of the layer; while it is denoised nothing else is looked at."""
        if not self._busy():
            self._attempt(lambda: self._open() and self.session.measure())

    def denoise(self) -> None:
        """Denoise it by the chosen method; layers are added or replaced at the end."""
        method = self._file or self.method.currentData()
        self._attempt(lambda: self._open() and self.session.denoise(method))

    def find(self) -> None:
        """Find what the prompt names in the part, or in what is left of it when it is denoised."""

        def start() -> Job:
            region = self._open()
            result, denoised = self.session.results.get(self._method), self.seen.currentText() == "denoised"
            if denoised and result is None:
                raise ValueError(f"{region.name}: is not denoised yet; press Denoise, or choose noisy.")
            picture = result.denoised(self._share) if denoised else region.array
            return self.session.ask(self.prompt.text(), picture.reshape([side for side in picture.shape if side > 1]))

        self._attempt(start)

    def stop(self) -> None:
        """Stop what runs; what is there stays."""
        self.session.stop()

    def _open(self):
        """Read the part that is chosen, if it is another one than before."""
        layer = self.layer.currentData()
        if layer is None:
            self.session.stop()
            self.noise.clear()
            raise ValueError("there is no layer; open an image, or choose File, Open Sample, mptpn.")
        if self._busy():
            raise ValueError(f"still {self.session.job.title}; stop it, or wait for its end.")
        region, place = read_region(layer, self.viewer.dims, part=self.part.currentText())
        self._source = layer, place
        old = self.session.region
        same = old is not None and (old.name, old.axes) == (region.name, region.axes)
        if same and old.array.shape == region.array.shape and np.array_equal(old.array, region.array, equal_nan=True):
            return old
        self.session.open(region)
        return region

    def _attempt(self, start) -> None:
        """Start a job, or say in a sentence why not."""
        try:
            started = start()
        except ValueError as error:
            self._say(words.BAD, str(error))
        except Exception as error:  # whatever a layer holds, the window says it in words
            layer = self.layer.currentData()
            self._say(words.BAD, sentence(error, layer.name if layer is not None else "mptpn"))
        else:
            if started:
                self._follow()

    def _busy(self) -> bool:
        job = self.session.job
        return job is not None and job.running and job.title != "measuring the noise"

    def _follow(self) -> None:
        """Show how far the job is, and at its end what came out."""
        job = self.session.job
        if job is None:
            return
        self.bar.setValue(round(1000 * job.share) if job.running else 0)
        self.run.setText("Stop" if self._busy() else "Denoise")
        if self.session.noise is not None:
            lines = words.noise_lines(self.session.noise)
            self.noise.setText(words.as_html(lines[:1] if self.session.results else lines))
        if job.running:
            share = f", {100 * job.share:.0f} %" if job.share else ""
            return self._say(words.PLAIN, f"{job.title}{share} …")
        if self._ended is not job:
            self._ended = job
            self._end(job)

    def _end(self, job: Job) -> None:
        if job.state == FAILED:
            self._say(words.BAD, job.failure)
        elif job.state == STOPPED:
            self._say(words.DOUBT, f"stopped {job.title}; what was there before stays.")
        elif job.state == DONE and isinstance(job.outcome, Result):
            self._method = job.outcome.method
            self.report.setText(words.as_html(words.result_lines(job.outcome)))
            self.results.show(job.outcome, *self._source, strength=self._share)
            self._say(words.PLAIN, f"{job.title}: done")
        elif hasattr(job.outcome, "labels"):
            self._say(words.GOOD if job.outcome.found else words.DOUBT, job.outcome.sentence)
            if job.outcome.found:
                self.results.show_mask(job.outcome, *self._source, shape=self.session.region.array.shape)
        else:
            self._say(words.PLAIN, "ready")
        if self._source is not None and self.layer.currentData() is not self._source[0]:
            self.measure()  # another layer was chosen meanwhile

    def _show(self) -> None:
        """The layers at the strength of the slider; nothing runs again."""
        self.percent.setText(f"{100 * self.strength.value() // STEPS} %")
        self.results.at(self._share)

    @property
    def _share(self) -> float:
        return self.strength.value() / STEPS

    def _say(self, colour: str, text: str) -> None:
        self.status.setText(words.as_html([(colour, text)]))

    def _list_layers(self) -> None:
        """The list of layers follows the viewer, without those that this widget made."""
        chosen, known = self.layer.currentData(), [one for one in self.viewer.layers if not is_ours(one)]
        self.layer.blockSignals(True)
        self.layer.clear()
        for one in reversed(known):
            self.layer.addItem(one.name, one)
        index = next((i for i in range(self.layer.count()) if self.layer.itemData(i) is chosen), 0)
        self.layer.setCurrentIndex(index)
        self.layer.blockSignals(False)
        if self.layer.currentData() is not chosen:
            QTimer.singleShot(0, self.measure)  # after napari has finished with the new layer

    def _take_active(self) -> None:
        """The layer that is chosen in napari's list is the one here, but for results."""
        active = self.viewer.layers.selection.active
        index = next((i for i in range(self.layer.count()) if self.layer.itemData(i) is active), -1)
        if index >= 0:
            self.layer.setCurrentIndex(index)

    def _choose_file(self, index: int) -> None:
        """Ask for the weights where the last method is chosen."""
        if self.method.itemData(index) != FILE:
            self._file = ""
            return
        path, _ = QFileDialog.getOpenFileName(self, "Weights from mptpn train", "", "weights (*.safetensors)")
        self.use_file(path)

    def use_file(self, path: str) -> None:
        """Denoise by a weights file from now on; an empty path: by auto."""
        self._file = path
        self.method.setCurrentIndex(self.method.findData(FILE if path else METHODS[0]))


def _sample(name: str) -> list[napari.types.LayerData]:
    from mptpn.io import open_scan

    path = samples.sample(name)
    scan = open_scan(path)
    about = {"name": name, "scale": samples.pixel_size(path), "units": ("mm", "mm"), "axis_labels": ("y", "x")}
    return [(scan.in_unit(0).astype(np.float32), about, "image")]


def chest_ct() -> list[napari.types.LayerData]:
    """A noisy CT slice, HU."""
    return _sample("chest CT")


def abdominal_mr() -> list[napari.types.LayerData]:
    """A noisy MR slice."""
    return _sample("abdominal MR")
