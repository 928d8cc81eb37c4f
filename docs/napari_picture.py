"""Draws docs/napari.png from napari itself: docs/napari_picture.py, with a screen or under xvfb-run."""

import time
from pathlib import Path

import napari
from qtpy.QtWidgets import QApplication

LONGEST = 300  # s


def main() -> None:
    viewer = napari.Viewer()
    viewer.window.resize(1280, 860)
    viewer.open_sample("mptpn", "chest_ct")
    _, widget = viewer.window.add_plugin_dock_widget("mptpn", "Denoise")
    end = time.monotonic() + LONGEST
    widget.denoise()
    while not widget.results.added and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)
    viewer.layers["chest CT"].contrast_limits = viewer.layers["chest CT denoised"].contrast_limits = (-160, 240)
    for name in ("removed", "uncertainty"):
        viewer.layers[f"chest CT {name}"].visible = True
    viewer.grid.enabled, viewer.grid.shape = True, (2, 2)
    viewer.reset_view()
    for _ in range(50):
        QApplication.processEvents()
        time.sleep(0.02)
    viewer.window.screenshot(str(Path(__file__).with_name("napari.png")), canvas_only=False)
    viewer.close()


if __name__ == "__main__":
    main()
