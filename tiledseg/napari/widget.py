"""The widget of napari: a layer or what is on screen, through a network, to labels and their table."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING, Any

from napari.layers import Image, Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.QtCore import Signal
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QFileDialog,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from tiledseg._validate import counted
from tiledseg.errors import CancelledError, TiledSegError
from tiledseg.models import Segmenter, load_model
from tiledseg.napari.layers import RESULT, View, layers_of
from tiledseg.predict import segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from napari.viewer import Viewer

    from tiledseg.predict import Segmentation
    from tiledseg.tiling import Tile

_LAYER, _SCREEN = "whole layer", "what is on screen"
_PACKED = "Networks (*.onnx *.zip rdf.yaml);;All files (*)"


class SegmentWidget(QWidget):  # type: ignore[misc]  # Qt has no types
    """Segments the current layer: labels whose features are the table, and maps on request."""

    advanced = Signal(int, int)  # tiles done, and all of them; from any thread

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self._viewer = viewer = napari_viewer
        self._loaded: tuple[str, Any] = ("", None)  # the last model, by what was typed
        self._stop = Event()
        self.worker: Any = None
        self._make_fields()
        self._lay_out()
        self.advanced.connect(self._show_progress)
        layers = viewer.layers
        for event in (layers.events.inserted, layers.events.removed, layers.selection.events.active):
            event.connect(self._list_layers)
        self._list_layers()

    def _make_fields(self) -> None:
        self.layer, self.part, self.model = QComboBox(), QComboBox(), QComboBox()
        self.part.addItems([_LAYER, _SCREEN])
        self.model.addItem("demo")
        self.model.setEditable(True)
        self.model.setToolTip(
            "A model of the package, a bundle's folder, an ONNX file, a BioImage.IO package, or hf://owner/name"
        )
        self.threshold = QDoubleSpinBox(minimum=0.0, maximum=0.99, singleStep=0.05, value=0.0)
        self.threshold.setSpecialValueText("model's own")
        self.min_area = QSpinBox(minimum=1, maximum=10**9, value=30, suffix=" px")
        self.split = QCheckBox("Split objects that touch")
        self.maps = QCheckBox("Show probabilities")
        self.run, self.cancel = QPushButton("Segment"), QPushButton("Cancel")
        self.cancel.setEnabled(False)
        self.run.clicked.connect(self.start)
        self.cancel.clicked.connect(self._stop.set)
        self.bar, self.status = QProgressBar(), QLabel()
        self.bar.setVisible(False)
        self.status.setWordWrap(True)

    def _lay_out(self) -> None:
        form = QFormLayout()
        form.addRow("Image", self.layer)
        form.addRow("Segment", self.part)
        form.addRow("Model", self.model)
        form.addRow("", _row(_button("File…", self._pick_file), _button("Folder…", self._pick_folder)))
        form.addRow("Threshold", self.threshold)
        form.addRow("Least area", self.min_area)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        for one in (self.split, self.maps, _row(self.run, self.cancel), self.bar, self.status):
            layout.addWidget(one)
        layout.addStretch()

    def _pick_file(self) -> None:
        path, _ = QFileDialog.getOpenFileName(self, "A network", filter=_PACKED)
        if path:
            self.model.setEditText(path)

    def _pick_folder(self) -> None:
        path = QFileDialog.getExistingDirectory(self, "A bundle")
        if path:
            self.model.setEditText(path)

    def _list_layers(self, _event: object = None) -> None:
        """List the images that are no results, and choose the one that is selected in the viewer, if any."""
        images = [one for one in self._viewer.layers if isinstance(one, Image) and RESULT not in one.metadata]
        active = self._viewer.layers.selection.active
        chosen = active if active in images else self.layer.currentData()
        self.layer.clear()
        for one in reversed(images):
            self.layer.addItem(one.name, one)
        if chosen in images:
            self.layer.setCurrentIndex(len(images) - 1 - images.index(chosen))
        self.run.setEnabled(bool(images) and self.worker is None)

    def start(self) -> None:
        """Segment in a thread of its own; the viewer stays usable."""
        layer = self.layer.currentData()
        take = View.on_screen if self.part.currentText() == _SCREEN else View.whole
        try:
            view = take(layer, self._viewer.dims)
        except TiledSegError as error:
            self._fail(error)
            return
        objects: dict[str, Any] = {"min_area": self.min_area.value()}
        if self.threshold.value():
            objects["threshold"] = self.threshold.value()
        if self.split.isChecked():
            objects["split"] = "watershed"
        self._stop.clear()
        self._set_running("Loading the model…")
        options = {"objects": objects, "keep_map": self.maps.isChecked()}
        self.worker = create_worker(
            self._segment,
            view,
            self.model.currentText().strip(),
            options,
            _start_thread=False,
            _ignore_errors=True,
        )
        self.worker.returned.connect(self._finish)
        self.worker.errored.connect(self._fail)
        self.worker.finished.connect(self._set_idle)
        self.worker.start()

    def _segment(self, view: View, model: str, options: dict[str, Any]) -> tuple[View, Segmentation, float]:
        """Do the work; in the other thread."""
        if self._loaded[0] != model:
            self._loaded = (model, load_model(model))
        started = time.monotonic()
        with view.opened() as image:
            result = segment(self._loaded[1], image, callback=self._advance, **options)
        return view, result, time.monotonic() - started

    def _advance(self, _tile: Tile, done: int, total: int) -> bool:
        self.advanced.emit(done, total)
        return not self._stop.is_set()

    def _show_progress(self, done: int, total: int) -> None:
        self.bar.setRange(0, total)
        self.bar.setValue(done)
        self.status.setText(f"{done} of {counted(total, 'tile')}")

    def _finish(self, done: tuple[View, Segmentation, float]) -> None:
        """Add the layers, and say what was found and whether tiled equals whole."""
        view, result, seconds = done
        for found in layers_of(view, result):
            layer = self._viewer.add_layer(Layer.create(*found))
        self._viewer.layers.selection.active = layer
        counts = ", ".join(f"{number} {name}" for name, number in result.counts().items())
        model = self._loaded[1]
        licence = model.facts().get("licence") if isinstance(model, Segmenter) else None
        lines = [f"{counted(len(result.objects), 'object')} ({counts}) in {seconds:.1f} s"]
        lines += [f"Verdict {result.plan.verdict}: {result.plan.reason}"]
        lines += [f"Licence of the model: {licence}"] if licence else []
        self.status.setText("\n".join(lines))

    def _fail(self, error: Exception) -> None:
        """Show an error's text; that of a mistake in the code goes on to napari."""
        if isinstance(error, CancelledError):
            self.status.setText("Cancelled. No layer was added.")
        elif isinstance(error, TiledSegError):
            self.status.setText(str(error))
            show_error(str(error))
        else:
            self.status.setText(f"{type(error).__name__}: {error}")
            raise error

    def _set_running(self, text: str) -> None:
        self.bar.setRange(0, 0)
        self.bar.setVisible(True)
        self.run.setEnabled(False)
        self.cancel.setEnabled(True)
        self.status.setText(text)

    def _set_idle(self) -> None:
        self.worker = None
        self.bar.setVisible(False)
        self.cancel.setEnabled(False)
        self._list_layers()


def _button(text: str, action: Callable[[], None]) -> QPushButton:
    """Make a button that does something."""
    button = QPushButton(text)
    button.clicked.connect(action)
    return button


def _row(*widgets: QWidget) -> QWidget:
    """Put widgets side by side."""
    box = QWidget()
    layout = QHBoxLayout(box)
    layout.setContentsMargins(0, 0, 0, 0)
    for one in widgets:
        layout.addWidget(one)
    return box
