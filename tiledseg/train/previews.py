"""Pictures and descriptions in a run's folder: the network's layers, curves, previews of images."""

from __future__ import annotations

import logging
import math
import re
import shutil
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._lazy import extra
from tiledseg._notebook import aligned
from tiledseg._storage import exists, write_bytes, write_text
from tiledseg._validate import invalid
from tiledseg.data import load_image, pixel_size_of_pair, shape_of_image
from tiledseg.engine import Network
from tiledseg.errors import ArrayError, SettingError
from tiledseg.io import images_in, open_image, read_image, stem_of, write_image, write_mask
from tiledseg.plots import (
    Picture,
    PictureRow,
    as_picture,
    as_rgb,
    contact_sheet,
    new_figure,
    overlay,
    png_of,
    shrunk,
)
from tiledseg.predict import tiled_predict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tiledseg.config import TrainConfig
    from tiledseg.data import Pair
    from tiledseg.models import Segmenter
    from tiledseg.tiling import ReceptiveField
    from tiledseg.train.run_folder import History

_log = logging.getLogger("tiledseg")
_PREVIEW_PX, _SHEET_PX = 1024, 400  # longest side of a preview, and of one on the sheet
_VALID = "val_"
_HEAD = ("layer", "type", "output", "parameters", "inputs")
_DPI = 96


def check_drawable() -> None:
    """Check that a network can be drawn."""
    extra("pydot", "diagram")
    if shutil.which("dot") is None:
        raise SettingError(
            "`diagram` needs Graphviz, whose program `dot` is not installed. "
            "Install it from graphviz.org/download or with the system's package manager."
        )


def write_overview(run_dir: Path, network: keras.Model, *, diagram: bool) -> None:
    """Write ``model.txt`` and, on request, ``model.png``."""
    # Keras cuts names in its own summary at the width of the terminal.
    left = range(len(_HEAD))
    layers, facts = aligned([_HEAD, *_layers(network)], left), aligned([*_facts(network)], left)
    write_text(run_dir / "model.txt", "\n".join([*layers, "", *facts, ""]))
    if diagram:
        graph = keras.utils.model_to_dot(
            network, show_shapes=True, show_layer_names=True, expand_nested=True, dpi=_DPI
        )
        write_bytes(run_dir / "model.png", graph.create(format="png"))


def _layers(network: Any, path: str = "") -> Iterator[tuple[str, ...]]:
    """Describe each layer in the order of computation, including layers of inner networks."""
    producers: dict[int, str] = {}
    for depth in sorted(network._nodes_by_depth, reverse=True):
        for node in network._nodes_by_depth[depth]:
            layer = node.operation
            several = len(node.outputs) > 1
            for number, tensor in enumerate(node.outputs):
                producers[id(tensor)] = f"{layer.name}[{number}]" if several else layer.name
            yield (
                f"{path}{layer.name}",
                type(layer).__name__,
                ", ".join(map(_shape, node.outputs)),
                f"{layer.count_params() if hasattr(layer, 'count_params') else 0:,}",
                ", ".join(producers[id(tensor)] for tensor in node.input_tensors),
            )
            if hasattr(layer, "_nodes_by_depth"):
                yield from _layers(layer, f"{path}{layer.name}/")


def _facts(network: keras.Model) -> Iterator[tuple[str, str]]:
    resolved = Network.of(network)
    trained = sum(math.prod(weight.shape) for weight in network.trainable_weights)
    yield "parameters", f"{network.count_params():,}, {trained:,} of them trained"
    yield "total stride", f"{_size(resolved.stride)} px"
    yield "receptive field", _receptive_field(resolved.receptive_field)


def _receptive_field(field: ReceptiveField) -> str:
    if field.extent is None:
        first, *others = field.tile_dependent or field.unknown
        named = f"{first} and {len(others)} more" if others else first
        return f"the whole tile, by {named}" if field.tile_dependent else f"not known, for {named}"
    return f"{_size(tuple(before + 1 + after for before, after in field.extent))} px"


def _shape(tensor: Any) -> str:
    return " x ".join("?" if size is None else str(size) for size in tensor.shape[1:])


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class Curves(keras.callbacks.Callback):
    """Draws the history after each epoch, as ``curves.png``."""

    def __init__(self, folder: Path, history: History) -> None:
        super().__init__()
        self._path, self._history = folder / "curves.png", history
        self._drawable = find_spec("matplotlib") is not None
        if not self._drawable:
            _log.info("no curves are drawn without matplotlib: pip install 'tiledseg[plot]'")

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Draw the curves."""
        if not self._drawable:
            return
        columns = self._history.columns
        names = [name for name in columns if name != "epoch" and not name.startswith(_VALID)]
        figure = new_figure(3.2 * len(names), 2.8)
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for key, label in ((name, "training"), (_VALID + name, "validation")):
                if key in columns:
                    axes.plot(columns["epoch"], columns[key], label=label, marker=".")
            axes.set(title=name.replace("_", " "), xlabel="epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            if len(axes.lines) > 1:
                axes.legend()
        write_bytes(self._path, png_of(figure))


def previewed(config: TrainConfig, valid: Sequence[Pair]) -> list[Pair]:
    """List the images of a preview, and check that the network takes them; their masks are not read."""
    if not config.preview_every:
        return []
    if not config.preview_images:
        return list(valid[: config.preview_count])
    paths = images_in(config.preview_images)[: config.preview_count]
    pairs = [replace(valid[0], name=stem_of(path), image=path) for path in paths]
    for pair in pairs:
        shape = shape_of_image(pair)
        found, wanted = shape[2] if len(shape) == 3 else 1, config.preprocessing.channels
        if found != wanted:
            must, fix = f"have {wanted} channels, as the training images", "Leave it out, or convert it."
            raise invalid(ArrayError, f"preview_images: {pair.name}", must=must, got=found, fix=fix)
    return pairs


class Previews(keras.callbacks.Callback):
    """Predicts a few whole images every few epochs, and shows all epochs so far on one sheet."""

    # An epoch writes ``previews/epoch-0004/NAME.png``, an overlay, and ``NAME_mask.png`` of the
    # image's own size; ``previews/sheet.png`` has a row for each epoch.

    def __init__(self, folder: Path, segmenter: Segmenter, pairs: Sequence[Pair], every: int) -> None:
        super().__init__()
        self._folder, self._segmenter, self._every = folder / "previews", segmenter, every
        self._pairs = {f"{place:02d}_{_plain(pair.name)}": pair for place, pair in enumerate(pairs)}
        self._rows: dict[Path, PictureRow] = {}

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Predict the images, if the epoch is a multiple of `every`."""
        if (epoch + 1) % self._every:
            return
        folder = self._folder / f"epoch-{epoch + 1:04d}"
        for name, pair in self._pairs.items():
            image = load_image(pair)
            size = pixel_size_of_pair(pair) or self._segmenter.preprocessing.pixel_size
            source = open_image(image, pixel_size=size)
            labels = tiled_predict(self._segmenter, source, output="mask", runtime={"engine": "keras"})
            white = 255 if len(self._segmenter.labels) == 1 else None
            write_mask(folder / f"{name}_mask.png", labels, foreground=white)
            write_image(folder / f"{name}.png", shrunk(overlay(as_picture(image), labels), _PREVIEW_PX))
        self._write_sheet(epoch + 1)

    def _write_sheet(self, until: int) -> None:
        """Draw all epochs so far, also those of before the run was resumed; a later one may be a leftover."""
        folders = [one for one in sorted(self._folder.glob("epoch-*")) if _number(one) <= until]
        for folder in folders:
            if folder not in self._rows:
                paths = [folder / f"{name}.png" for name in self._pairs]
                pictures = [shrunk(as_rgb(read_image(path)), _SHEET_PX) for path in paths if exists(path)]
                shown = (Picture(path.stem, one) for path, one in zip(paths, pictures, strict=False))
                self._rows[folder] = PictureRow(f"epoch {_number(folder)}", "", tuple(shown))
        rows = [self._rows[one] for one in folders if len(self._rows[one].pictures) == len(self._pairs)]
        title = ", ".join(pair.name for pair in self._pairs.values())
        write_image(self._folder / "sheet.png", contact_sheet(title, rows, columns=1))


def _number(folder: Path) -> int:
    return int(folder.name.partition("-")[2])


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80]
