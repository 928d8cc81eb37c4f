"""The widget in the browser: pictures of one size that are zoomed and moved together."""

from pathlib import Path

import anywidget
import traitlets

SIDE_BY_SIDE, SWIPE = MODES = ("side by side", "swipe")


class Canvas(anywidget.AnyWidget):
    """Pictures side by side, or two of them with a line that is dragged; wheel, dragging and double click move all.

    Attributes:
        pictures: {"name": title, "png": bytes}, all of one size.
        size: height and width of each, px.
        mode: one of MODES. pair: numbers of the two pictures that are swiped.
        visible: rows and columns that are in view, [top, bottom, left, right], set by the browser; empty: not yet.
    """

    _esm = Path(__file__).with_name("canvas.js")
    _css = Path(__file__).with_name("canvas.css")
    pictures = traitlets.List().tag(sync=True)
    size = traitlets.List([1, 1]).tag(sync=True)
    mode = traitlets.Unicode(SIDE_BY_SIDE).tag(sync=True)
    pair = traitlets.List([0, 1]).tag(sync=True)
    visible = traitlets.List().tag(sync=True)

    def show(self, pictures: list[tuple[str, bytes]], size: tuple[int, int], *, pair: tuple[int, int] = (0, 1)) -> None:
        """Replace the pictures."""
        with self.hold_sync():
            self.size, self.pair = list(size), [min(i, len(pictures) - 1) for i in pair]
            self.pictures = [{"name": name, "png": data} for name, data in pictures]
