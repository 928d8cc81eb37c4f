"""Results as layers of napari: denoised, removed and uncertainty over their source, and what a prompt found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mptpn.viewers.layers import Place
from mptpn.viewers.session import Result

if TYPE_CHECKING:
    import napari.viewer
    from napari.layers import Image, Layer

    from mptpn.segmentation import Answer

LAYERS = ("denoised", "removed", "uncertainty")
OURS = "mptpn"  # key in the metadata of the layers of results


def is_ours(layer: Layer) -> bool:
    """Whether it shows a result."""
    return OURS in layer.metadata


@dataclass(eq=False)
class ResultLayers:
    """The layers that show the last result.

    Attributes:
        added: name of LAYERS -> its layer.
        source, result: what they lie on, and what they show; None: nothing yet.
    """

    viewer: napari.viewer.Viewer
    added: dict[str, Layer] = field(default_factory=dict)
    source: Image | None = None
    result: Result | None = None

    def show(self, result: Result, source: Image, place: Place, *, strength: float) -> None:
        """Layers of a result at a strength, over its source and with its scale, units and name."""
        self.source, self.result = source, result
        reach = 3 * float(np.quantile(result.level, 0.99)) or 1.0
        looks = {
            "denoised": {"contrast_limits": source.contrast_limits, "colormap": source.colormap, "visible": True},
            "removed": {"contrast_limits": (-reach, reach), "colormap": "gray", "visible": False},
            "uncertainty": {"contrast_limits": (0, reach / 3), "colormap": "magma", "visible": False},
        }
        shared, active = place.of_result(source), self.viewer.layers.selection.active
        for name, array in self._pictures(strength).items():
            look = {"visible": looks[name]["visible"], "rgb": True} if source.rgb else looks[name] | {"rgb": False}
            self._replace(f"{source.name} {name}", array, shared | look, name)
        self.viewer.layers.selection.active = active

    def at(self, strength: float) -> None:
        """The layers that are still there, at another strength."""
        if self.result is None:
            return
        for name, array in self._pictures(strength).items():
            layer = self.added.get(name)
            if layer is not None and layer in self.viewer.layers:
                layer.data = array

    def show_mask(self, answer: Answer, source: Image, place: Place, *, shape: tuple[int, ...]) -> None:
        """What a prompt found in the region of this shape, as labels over its source."""
        title = f"{source.name} {answer.prompt.text}"
        old = self._named(title)
        if old is not None:
            self.viewer.layers.remove(old)
        labels = answer.labels.reshape(shape[: source.ndim])
        self.viewer.add_labels(labels, name=title, metadata={OURS: "mask"}, **place.of_result(source))
        self.viewer.layers.selection.active = source

    def _pictures(self, strength: float) -> dict[str, np.ndarray]:
        return {name: self._drawn(getattr(self.result, name)(strength), name) for name in LAYERS}

    def _drawn(self, array: np.ndarray, name: str) -> np.ndarray:
        """What a layer shows; of colour, what was removed as a picture around middle gray."""
        if not self.source.rgb or name == "denoised":
            return array
        level = float(np.quantile(self.result.level, 0.99)) or 1.0
        shown = 0.5 + array / (6 * level) if name == "removed" else array / level
        shown = np.clip(shown, 0, 1).astype(np.float32)
        if shown.shape[-1] == 4:
            shown[..., 3] = 1
        return shown

    def _named(self, title: str) -> Layer | None:
        return next((one for one in self.viewer.layers if one.name == title and is_ours(one)), None)

    def _replace(self, title: str, array: np.ndarray, look: dict, name: str) -> None:
        """A layer of results; one that is there keeps how it looks."""
        old = self._named(title)
        if old is not None and (old.data.shape, old.dtype) == (array.shape, array.dtype):
            old.data, old.translate = array, look["translate"]
        else:
            if old is not None:
                self.viewer.layers.remove(old)
            old = self.viewer.add_image(array, name=title, metadata={OURS: name}, **look)
        self.added[name] = old
