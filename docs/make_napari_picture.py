"""Make ``docs/images/napari.jpg``: the plugin in napari, with a smear that it has segmented.

Needs napari with Qt and a display:
``xvfb-run -s "-screen 0 1400x900x24" python docs/make_napari_picture.py``.
"""

from __future__ import annotations

import time
from pathlib import Path

import napari
from PIL import Image
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QApplication


def work(seconds: float) -> None:
    """Let Qt draw."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()


def main() -> None:
    """Segment a smear in the viewer, and save the window."""
    viewer = napari.Viewer()
    viewer.window.resize(1300, 820)
    viewer.open_sample("tiledseg", "smear")
    _, widget = viewer.window.add_plugin_dock_widget("tiledseg", "Segment")
    widget.start()
    while widget.worker is not None:
        work(0.1)
    viewer.layers[-1].contour = 6
    table, _ = viewer.window.add_plugin_dock_widget("napari", "Features table widget")
    viewer.window._qt_window.addDockWidget(Qt.BottomDockWidgetArea, table)
    work(2)
    viewer.reset_view()
    work(1)
    window = viewer.screenshot(canvas_only=False, flash=False)
    Image.fromarray(window[..., :3]).save(Path(__file__).parent / "images" / "napari.jpg", quality=85)
    viewer.close()


if __name__ == "__main__":
    main()
