"""What can be looked at while a run goes on: curves of its history, previews of images."""

from __future__ import annotations

import logging
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tiledseg._backend import keras
from tiledseg.data import load_pair
from tiledseg.io import read_image, write_bytes, write_image, write_mask
from tiledseg.plots import as_rgb, new_figure, overlay, png_of
from tiledseg.predict import tiled_predict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tiledseg._types import AnyArray
    from tiledseg.data import Pair
    from tiledseg.models import Segmenter
    from tiledseg.plots import Rgb
    from tiledseg.train._run import History

__all__ = ["Curves", "Previews"]

_log = logging.getLogger("tiledseg")
_LONGEST_PX, _STRIP_PX = 1024, 256  # of an epoch's picture, and of the same in a strip
_VALID = "val_"


class Curves(keras.callbacks.Callback):
    """Draws the history anew after each epoch, as ``curves.png``."""

    def __init__(self, folder: Path, history: History) -> None:
        super().__init__()
        self._path, self._history = folder / "curves.png", history
        self._can = find_spec("matplotlib") is not None
        if not self._can:
            _log.info("no curves are drawn without matplotlib: pip install 'tiledseg[plot]'")

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Draw them."""
        if not self._can:
            return
        columns = self._history.columns
        names = [name for name in columns if name != "epoch" and not name.startswith(_VALID)]
        figure = new_figure(3.2 * len(names), 2.8)
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            for key, label in ((name, "training"), (_VALID + name, "validation")):
                if key in columns:
                    axes.plot(columns["epoch"], columns[key], label=label, marker=".")
            axes.set(title=name.replace("_", " "), xlabel="epoch")
            axes.legend()
        write_bytes(self._path, png_of(figure))


class Previews(keras.callbacks.Callback):
    """Predicts a few whole images every few epochs, and lays the epochs out beside each other.

    An epoch leaves ``previews/epoch-0004/NAME.png``, an overlay, and ``NAME_mask.png`` of the
    image's own size; ``previews/NAME.png`` is one strip over the epochs.
    """

    def __init__(self, folder: Path, segmenter: Segmenter, pairs: Sequence[Pair], every: int) -> None:
        super().__init__()
        self._folder, self._segmenter, self._every = folder / "previews", segmenter, every
        self._pairs = {f"{place:02d}_{_plain(pair.name)}": pair for place, pair in enumerate(pairs)}

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        """Predict, where it is time."""
        if (epoch + 1) % self._every:
            return
        folder = self._folder / f"epoch-{epoch + 1:04d}"
        for name, pair in self._pairs.items():
            image, _ = load_pair(pair)
            probs = tiled_predict(self._segmenter, image, engine="keras", progress=False)
            labels = _labels(probs, self._segmenter.threshold)
            write_mask(folder / f"{name}_mask.png", labels, foreground=255 if probs.shape[-1] == 1 else None)
            write_image(folder / f"{name}.png", _shrunk(overlay(_shown(image), labels), _LONGEST_PX))
            self._lay_out(name, epoch + 1)

    def _lay_out(self, name: str, until: int) -> None:
        """Put the previews of an image so far side by side."""
        folders = sorted(self._folder.glob("epoch-*"))
        paths = [one / f"{name}.png" for one in folders if int(one.name.partition("-")[2]) <= until]
        small = [_shrunk(as_rgb(read_image(path)), _STRIP_PX) for path in paths if path.exists()]
        write_image(self._folder / f"{name}.png", np.concatenate(small, axis=1))


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:80]


def _labels(probs: AnyArray, threshold: float) -> AnyArray:
    several = probs.shape[-1] > 1
    return (probs.argmax(axis=-1) if several else probs[..., 0] >= threshold).astype(np.uint8)


def _shown(image: AnyArray) -> Rgb:
    """Show any image as RGB; floats from their least to their largest value."""
    flat = image[..., 0] if image.ndim == 3 and image.shape[-1] != 3 else image
    if flat.dtype.kind != "f":
        return as_rgb(flat)
    low, high = float(flat.min()), float(flat.max())
    return as_rgb(flat, (low, high if high > low else low + 1))


def _shrunk(picture: Rgb, longest_px: int) -> Rgb:
    factor = longest_px / max(picture.shape[:2])
    if factor >= 1:
        return picture
    size = [max(1, round(factor * length)) for length in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
