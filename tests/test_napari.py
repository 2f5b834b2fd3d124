"""The plugin of napari: its manifest, what it reads of layers, the widget in a viewer.

The viewer needs napari, Qt and a display: ``xvfb-run python -m pytest -m slow tests/test_napari.py``.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import tiledseg
from tiledseg.errors import ArrayError
from tiledseg.napari import View, layers_of, sample_smear

FOLDER = Path(tiledseg.__file__).parent / "napari"


def bright(tiles: np.ndarray) -> np.ndarray:
    return tiles.mean(axis=-1, keepdims=True) / 255


class Identity(SimpleNamespace):
    """A layer as napari has it, with no transform but its scale."""

    def world_to_data(self, point):
        return np.asarray(point, float)[-self.ndim :] / self.scale

    def data_to_world(self, place):
        return np.asarray(place, float) * self.scale


def layer(data, **others) -> Identity:
    first = data[0] if isinstance(data, list) else data
    facts = {"data": data, "dtype": first.dtype, "ndim": first.ndim, "scale": np.ones(first.ndim)}
    facts |= {
        "rgb": False,
        "multiscale": isinstance(data, list),
        "name": "cells",
        "translate": np.zeros(first.ndim),
    }
    return Identity(**{**facts, "affine": SimpleNamespace(linear_matrix=np.eye(first.ndim)), **others})


def dims(ndim: int, point=None, **others) -> SimpleNamespace:
    facts = {"ndim": ndim, "ndisplay": 2, "displayed": (ndim - 2, ndim - 1), "point": point or (0,) * ndim}
    return SimpleNamespace(**{**facts, **others})


def test_the_manifest_names_what_there_is() -> None:
    manifest = yaml.safe_load((FOLDER / "napari.yaml").read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["display_name"]) == ("tiledseg", "napari-tiledseg")
    commands = {one["id"]: one["python_name"] for one in manifest["contributions"]["commands"]}
    for python_name in commands.values():
        module, _, name = python_name.partition(":")
        tree = ast.parse((FOLDER / f"{module.rpartition('.')[2]}.py").read_text(encoding="utf-8"))
        assert name in {getattr(node, "name", None) for node in tree.body}
    used = [one["command"] for kind in ("widgets", "sample_data") for one in manifest["contributions"][kind]]
    assert sorted(used) == sorted(commands)


@pytest.mark.slow
def test_npe2_accepts_the_manifest() -> None:
    pytest.importorskip("npe2", reason="needs npe2, which comes with napari")
    command = [sys.executable, "-m", "npe2", "validate", str(FOLDER / "napari.yaml")]
    assert "valid!" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_napari_finds_the_manifest() -> None:
    project = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["napari.manifest"] == {"tiledseg": "tiledseg.napari:napari.yaml"}


def test_the_plane_on_screen_is_segmented_and_its_labels_lie_there() -> None:
    stack = np.zeros((3, 200, 160), np.uint8)
    stack[2, 20:40, 30:60] = 255
    found = layer(stack, scale=np.array([2.0, 1.0, 1.0]))
    view = View.whole(found, dims(4, (7, 4.0, 0, 0)))  # the viewer has an axis more
    result = tiledseg.segment(bright, view.opened(), {"tile_size": 64, "overlap": 16})
    ((labels, options, kind),) = layers_of(view, result)
    assert (kind, labels.shape, options["translate"].tolist()) == ("labels", (1, 200, 160), [4, 0, 0])
    assert options["features"]["index"].tolist() == [1]
    assert np.array_equal(labels[0] > 0, stack[2] > 0)


def test_what_is_on_screen_has_a_margin_and_positions_of_the_layer() -> None:
    image = np.zeros((2000, 3000), np.uint8)
    image[1000:1010, 2000:2020] = 255
    corners = np.array([[240, 490], [259, 514]])  # of level 1, which is a quarter as large
    facts = {"corner_pixels": corners, "data_level": 1, "downsample_factors": [[1, 1], [4, 4]]}
    view = View.on_screen(layer([image, image[::4, ::4]], **facts), dims(2))
    assert (view.origin, view.shape) == ((960 - 128, 1960 - 128), (80 + 256, 100 + 256))
    result = tiledseg.segment(bright, view.opened(), {"tile_size": 64, "overlap": 16}, keep_map=True)
    (_, shown, _), (labels, options, _) = layers_of(view, result)
    features = {name: column[0] for name, column in options["features"].items()}
    assert (features["box_y0"], features["box_x1"], features["centroid_x"]) == (1000, 2020, 2009.5)
    assert options["translate"].tolist() == shown["translate"].tolist() == [832, 1832]
    assert labels[1000 - 832, 2000 - 1832] == 1


def test_maps_of_classes_without_names_have_the_background_first() -> None:
    view = View.whole(layer(np.full((70, 80), 200, np.uint8)), dims(2))
    network = lambda tiles: np.stack([bright(tiles)[..., 0], *[0.1 + 0 * tiles[..., 0]] * 2], -1)  # noqa: E731
    result = tiledseg.segment(network, view.opened(), {"tile_size": 64, "overlap": 16}, keep_map=True)
    maps = {options["name"]: values for values, options, kind in layers_of(view, result) if kind == "image"}
    assert list(maps) == ["cells: class 2", "cells: class 1", "cells: background"]
    assert maps["cells: background"].min() == pytest.approx(200 / 255)


def test_a_view_by_other_axes_and_a_transparent_image_are_refused() -> None:
    stack = layer(np.zeros((9, 8, 7), np.uint8))
    for view in (dims(3, displayed=(0, 2)), dims(3, ndisplay=3, displayed=(0, 1, 2))):
        with pytest.raises(ArrayError, match="2D"):
            View.whole(stack, view)
    clear = layer(np.zeros((8, 8, 4), np.uint8), rgb=True, ndim=2, scale=np.ones(2), translate=np.zeros(2))
    with pytest.raises(ArrayError, match=r"alpha.*RGB"):
        View.whole(clear, dims(2))[:, :]
    clear.data[..., 3] = 255
    assert View.whole(clear, dims(2))[:, :].shape == (8, 8, 3)


@pytest.fixture
def viewer():
    napari = pytest.importorskip(
        "napari", reason='needs napari: pip install "tiledseg[napari]" "napari[pyqt6]"'
    )
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        pytest.skip("needs a display: run it by xvfb-run")
    shown = napari.Viewer(show=True)
    yield shown
    shown.close()


def wait(widget, until=None) -> None:
    """Let Qt work until the widget has finished."""
    application = pytest.importorskip("qtpy.QtWidgets").QApplication
    end = time.monotonic() + 120
    while widget.worker is not None and not (until and until()):
        assert time.monotonic() < end
        application.processEvents()
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_widget_adds_labels_with_their_table_and_maps(viewer, tmp_path: Path) -> None:
    viewer.open_sample("tiledseg", "smear")
    _, widget = viewer.window.add_plugin_dock_widget("tiledseg", "Segment")
    image = viewer.layers["smear"]
    image.affine, image.scale, image.units = [[0, 1, 5], [-1, 0, 3], [0, 0, 1]], (0.25, 0.25), "um"
    widget.maps.setChecked(True)
    widget.start()
    wait(widget)
    labels, shown = viewer.layers["smear: objects"], viewer.layers["smear: plasma cell"]
    whole = tiledseg.segment(tiledseg.load_model("demo"), image.data, objects={"min_area": 30})
    assert np.array_equal(labels.data, whole.labels)
    assert labels.features["area"].tolist() == whole.objects.table["area"].tolist()
    assert "centroid_y_um" in labels.features
    assert np.allclose(labels.data_to_world((7, 9)), image.data_to_world((7, 9)))
    assert np.allclose(shown.extent.world, image.extent.world)
    assert widget.status.text().startswith(f"{len(whole.objects)} objects")
    assert widget.layer.count() == 1  # results are no images to segment


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_widget_cancels_and_says_what_is_wrong(viewer) -> None:
    _, widget = viewer.window.add_plugin_dock_widget("tiledseg", "Segment")
    assert not widget.run.isEnabled()
    viewer.add_image(sample_smear()[0][0], name="smear", rgb=True)
    widget.advanced.connect(lambda *_: widget.cancel.click())
    widget.start()
    wait(widget)
    assert "Cancelled" in widget.status.text()
    widget.model.setEditText("dmo")
    widget.start()
    wait(widget)
    assert "demo" in widget.status.text()
    assert [one.name for one in viewer.layers] == ["smear"]
    assert widget.run.isEnabled()


@pytest.mark.slow
def test_the_library_does_not_load_napari() -> None:
    pytest.importorskip("napari")
    code = "import tiledseg.napari, tiledseg, sys; tiledseg.segment; assert 'qtpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'napari' not in sys.modules"], check=True)
