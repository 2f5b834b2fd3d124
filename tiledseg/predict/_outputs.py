"""The files of one image: written while its map is computed where their format allows it, else at the end."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from tiledseg._validate import invalid
from tiledseg.config import rgb_of
from tiledseg.errors import FileError, SettingError
from tiledseg.io import MAX_PIXELS, create_image, write_image, write_mask, write_probs
from tiledseg.plots import colourise, overlay
from tiledseg.predict._cut import LevelMap, cut_level, levels_of
from tiledseg.tiling import labels_of, reduced_dtype

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import AutoThreshold, PredictConfig, Product
    from tiledseg.io import ImageSink, ImageSource

__all__ = ["SUFFIXES", "Tee", "check_size", "is_streamed", "written_at_the_end"]

SUFFIXES = {
    "png": ".png",
    "tiff": ".tif",
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
    "npy": ".npy",
}
"""What files of each format end in."""

_STREAMED = ("ome-tiff", "ome-zarr", "npy")


def is_streamed(what: Product, config: PredictConfig) -> bool:
    """Say whether a product is written while it is computed."""
    formats = {"mask": config.mask_format, "probs": config.probs_format}
    return formats.get(what, "png") in _STREAMED


class Tee:
    """A sink that takes probabilities, and hands them to all that is written of an image."""

    def __init__(self, image: ImageSource, classes: int, threshold: float | AutoThreshold) -> None:
        _check_threshold(threshold, classes)
        self.shape: tuple[int, int, int] = (image.shape[0], image.shape[1], classes)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self.block_shape: tuple[int, int] = (512, 512)
        self.whole: FloatArray | None = None
        self._image, self._threshold = image, threshold
        self._sinks: dict[Product, ImageSink] = {}
        self._levels: LevelMap | None = None

    def open(
        self,
        targets: Mapping[Product, Path],
        config: PredictConfig,
        provenance: Mapping[str, str],
        fingerprint: Mapping[str, Any] | None,
    ) -> ExitStack:
        """Open the files."""
        with ExitStack() as stack:
            for what, path in targets.items():
                if not is_streamed(what, config):
                    self.whole = np.zeros(self.shape, np.float32) if self.whole is None else self.whole
                    continue
                labels = what == "mask"
                sink = create_image(
                    path,
                    self.shape[:2] if labels else self.shape,
                    reduced_dtype("argmax", self.shape[2]) if labels else np.float32,
                    labels=labels,
                    pixel_size=self._image.pixel_size,
                    provenance=provenance,
                    fingerprint=None if fingerprint is None else {**fingerprint, "product": what},
                )
                self._sinks[what] = stack.enter_context(sink)
                if labels and isinstance(self._threshold, str):
                    self._levels = stack.enter_context(LevelMap(sink, self._threshold))
            return stack.pop_all()

    def __setitem__(self, key: Any, probs: FloatArray) -> None:  # noqa: ANN401
        if self.whole is not None:
            self.whole[key] = probs
        for what, sink in self._sinks.items():
            if what == "mask" and self._levels is not None:
                self._levels[key] = probs
            elif what == "mask":
                labels = _labels(probs, self._threshold)
                sink[key] = labels * np.uint8(255) if self.shape[2] == 1 else labels
            else:
                sink[key] = probs

    def finished_rows(self, start: int, stop: int) -> int:
        """Count the rows from the top that all files have in some columns."""
        if self.whole is not None or self._levels is not None:
            return 0
        return min(sink.finished_rows(start, stop) for sink in self._sinks.values())


def written_at_the_end(
    targets: Mapping[Product, Path],
    image: AnyArray,
    probs: FloatArray,
    threshold: float | AutoThreshold,
    config: PredictConfig,
) -> dict[Product, Path]:
    """Write what takes the whole map at once."""
    written: dict[Product, Path] = {}
    if config.blur:
        probs = _blurred(probs, config.blur)
    labels = _labels(probs, threshold)
    for what, target in targets.items():
        if is_streamed(what, config):
            continue
        if what == "mask":
            write_mask(target, labels, foreground=255 if probs.shape[2] == 1 else None)
        elif what == "probs":
            write_probs(target, probs, dtype=config.probs_dtype)
        elif what == "coloured":
            write_image(target, _painted(labels, config))
        else:
            write_image(target, overlay(image, labels, limits=_limits(image)))
        written[what] = target
    return written


def _labels(probs: FloatArray, threshold: float | AutoThreshold) -> AnyArray:
    if not isinstance(threshold, str):
        return labels_of(probs, threshold)
    levels = levels_of(probs)
    counts = np.bincount(levels.ravel(), minlength=256)
    return (levels > cut_level(counts, threshold)).astype(np.uint8)


def _check_threshold(threshold: float | AutoThreshold, classes: int) -> None:
    if isinstance(threshold, str) and classes > 1:
        fix = "Leave it out: of several classes the most probable counts."
        must = "be found for one class alone"
        raise invalid(SettingError, "threshold", must=must, got=f"{threshold} for {classes} classes", fix=fix)


def _blurred(probs: FloatArray, sigma: float) -> FloatArray:
    """Blur one class after the other, mirrored at the edges; OpenCV takes no more than 128 at once."""
    blurred = np.empty_like(probs)
    for channel in range(probs.shape[2]):
        one = np.ascontiguousarray(probs[..., channel])
        blurred[..., channel] = cv2.GaussianBlur(one, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blurred


def _painted(labels: AnyArray, config: PredictConfig) -> AnyArray:
    if config.mask_colours is None:
        return colourise(labels)
    background, *colours = map(rgb_of, config.mask_colours)
    return colourise(labels, colours, background)


def check_size(image: ImageSource, targets: Mapping[Product, Path], config: PredictConfig) -> None:
    """Refuse to hold in memory what should be streamed."""
    whole = [what for what in targets if not is_streamed(what, config)]
    if whole and image.shape[0] * image.shape[1] > MAX_PIXELS:
        fix = "Set mask_format and probs_format to ome-tiff or ome-zarr, and leave overlays out."
        must = f"have at most {MAX_PIXELS} px for a {whole[0]} that is not streamed"
        raise invalid(
            FileError, image.name, must=must, got=f"{image.shape[0]} x {image.shape[1]} px", fix=fix
        )


def _limits(image: AnyArray) -> tuple[float, float] | None:
    """Say which values an overlay shows as black and white: all that there are, where 8 bits are too few."""
    low, high = float(image.min()), float(image.max())
    return None if image.dtype == np.uint8 or low == high else (low, high)
