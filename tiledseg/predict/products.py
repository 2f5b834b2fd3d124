"""What is written of one image, where, and by what threshold its mask is cut; and what of its objects.

A product is written while its map is computed where its format allows it, else at the end.
"""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiledseg._arrays import read_bands
from tiledseg._storage import ScratchFile
from tiledseg._validate import invalid
from tiledseg.config import OBJECT_PRODUCTS, rgb_of
from tiledseg.errors import FileError, SettingError
from tiledseg.export import CocoWriter, GeoJsonWriter, RoiWriter, Style, with_runs
from tiledseg.io import (
    LEVEL_SCALE,
    MAX_PIXELS,
    ImageSink,
    Placement,
    PngRows,
    create_image,
    holds_labels,
    level_notes,
    open_image,
    write_image,
    write_labels,
    write_mask,
    write_probs,
)
from tiledseg.plots import as_picture, colourise, overlay
from tiledseg.predict.plan import classes_of, make_plan
from tiledseg.predict.results import format_of
from tiledseg.tiling import check_threshold, labels_of, map_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import AutoThreshold, PredictConfig, Product, TilingConfig
    from tiledseg.engine import Network
    from tiledseg.export import ObjectFile
    from tiledseg.io import ImageSource
    from tiledseg.objects import ObjectBatch
    from tiledseg.predict.segmentation import MapSink

_STREAMED = ("ome-tiff", "ome-zarr", "npy")
_WHITE = 255
_ROWS, _COLUMNS = 512, 4096
_BAND_PX = 1 << 21


def is_streamed(what: Product, config: PredictConfig) -> bool:
    """Say whether a product is written, or its objects are found, while the map is computed."""
    if what in OBJECT_PRODUCTS:
        return not config.blur and not isinstance(config.threshold, str)
    return format_of(what, config) in _STREAMED


def needs_whole(what: Product, config: PredictConfig) -> bool:
    """Say whether a product takes the whole map at once; a PNG of a mask is written row by row."""
    by_rows = what == "mask" and config.mask_format == "png"
    return not is_streamed(what, config) and not (
        by_rows and not config.blur and not isinstance(config.threshold, str)
    )


class ProductSink:
    """A sink that takes probabilities, and hands them to all that is written of an image."""

    needs_probabilities: bool = True

    def __init__(
        self,
        image: ImageSource,
        classes: int,
        threshold: float | AutoThreshold,
        objects: MapSink | None = None,
        *,
        stated: bool,
    ) -> None:
        _check_usable(threshold, classes, stated=stated)
        self.shape: tuple[int, int, int] = (image.shape[0], image.shape[1], classes)
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self.block_shape: tuple[int, int] | None = (512, 512) if objects is None else None  # whole rows
        self.whole: FloatArray | None = None
        self._image, self._threshold = image, threshold
        self._sinks: dict[Product, ImageSink | PngRows] = {}
        self._levels: _LevelMap | None = None
        self._objects = objects

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
                if needs_whole(what, config):
                    self.whole = np.zeros(self.shape, np.float32) if self.whole is None else self.whole
                    continue
                if what in OBJECT_PRODUCTS:
                    continue
                labels = what == "mask"
                if not is_streamed(what, config):
                    dtype = map_dtype("labels", self.shape[2])
                    notes = {name: text for name, text in provenance.items() if name == LEVEL_SCALE}
                    rows = PngRows(path, self.shape[:2], dtype, self._image.pixel_size, notes)
                    self._sinks[what] = stack.enter_context(rows)
                    self.block_shape = None
                    continue
                sink = create_image(
                    path,
                    self.shape[:2] if labels else self.shape,
                    map_dtype("labels", self.shape[2]) if labels else np.float32,
                    labels=labels,
                    pixel_size=self._image.pixel_size,
                    placement=self._image.placement,
                    provenance=provenance,
                    fingerprint=None if fingerprint is None else {**fingerprint, "product": what},
                )
                self._sinks[what] = stack.enter_context(sink)
                if labels and isinstance(self._threshold, str):
                    white = _WHITE if self.shape[2] == 1 else 1
                    self._levels = stack.enter_context(_LevelMap(sink, self._threshold, white))
            return stack.pop_all()

    def __setitem__(self, key: Any, probs: FloatArray) -> None:
        if self.whole is not None:
            self.whole[key] = probs
        if self._objects is not None:
            self._objects[key] = probs
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
        if self.whole is not None or self._levels is not None or self._objects is not None:
            return 0
        return min(
            sink.finished_rows(start, stop) if isinstance(sink, ImageSink) else 0
            for sink in self._sinks.values()
        )


def written_at_the_end(
    targets: Mapping[Product, Path],
    source: ImageSource,
    image: AnyArray,
    probs: FloatArray,
    threshold: float | AutoThreshold,
    config: PredictConfig,
) -> dict[Product, Path]:
    """Write what takes the whole map at once."""
    written: dict[Product, Path] = {}
    labels = _labels(probs, threshold)
    placement = source.placement
    if source.level:
        placement = replace(placement or Placement(), level_scale=source.level_scale)
    place: dict[str, Any] = {"pixel_size": source.pixel_size, "placement": placement}
    for what, target in targets.items():
        if not needs_whole(what, config) or what in OBJECT_PRODUCTS:
            continue
        if what == "mask":
            write_mask(target, labels, foreground=255 if probs.shape[2] == 1 else None, **place)
        elif what == "probs":
            write_probs(target, probs, dtype=config.probs_dtype or "float16", **place)
        elif what == "coloured":
            write_image(target, _painted(labels, config), **place)
        else:
            write_image(target, overlay(as_picture(image), labels), **place)
        written[what] = target
    return written


def _labels(probs: FloatArray, threshold: float | AutoThreshold) -> AnyArray:
    if not isinstance(threshold, str):
        return labels_of(probs, threshold)
    return (_levels_of(probs) > _level_in(probs, threshold)).astype(np.uint8)


def cut_of(probs: FloatArray, threshold: float | AutoThreshold) -> float:
    """Return the probability at which a mask is cut."""
    return (_level_in(probs, threshold) + 0.5) / _WHITE if isinstance(threshold, str) else threshold


def _level_in(probs: FloatArray, method: AutoThreshold) -> int:
    return _level_of(np.bincount(_levels_of(probs).ravel(), minlength=256), method)


def _check_usable(threshold: float | AutoThreshold, classes: int, *, stated: bool) -> None:
    if not isinstance(threshold, str):
        check_threshold(threshold, classes, stated=stated)
    elif classes > 2:
        fix = "The most probable class of each px counts."
        must = "be left out for more than one class besides the background"
        raise invalid(SettingError, "threshold", must=must, got=f"{threshold} for {classes} classes", fix=fix)


def _painted(labels: AnyArray, config: PredictConfig) -> AnyArray:
    if config.mask_colours is None:
        return colourise(labels)
    background, *colours = map(rgb_of, config.mask_colours)
    return colourise(labels, colours, background)


def check_size(image: ImageSource, targets: Mapping[Product, Path], config: PredictConfig) -> None:
    """Refuse to hold in memory what should be streamed."""
    whole = [what for what in targets if not is_streamed(what, config)]
    if whole and image.shape[0] * image.shape[1] > MAX_PIXELS:
        fix = "Set `mask_format` and `probs_format` to ome-tiff or ome-zarr, and leave overlays out."
        must = f"have at most {MAX_PIXELS} px for a {whole[0]} that is not streamed"
        raise invalid(
            FileError, image.name, must=must, got=f"{image.shape[0]} x {image.shape[1]} px", fix=fix
        )


def _levels_of(probs: FloatArray) -> NDArray[np.uint8]:
    """Give probabilities in 256 levels."""
    return np.rint(np.clip(probs[..., -1], 0, 1) * _WHITE).astype(np.uint8)


def _level_of(counts: NDArray[np.int64], method: AutoThreshold) -> int:
    """Find the level above which px are foreground."""
    if np.count_nonzero(counts) < 2:
        return _WHITE // 2
    return min(_otsu(counts) if method == "otsu" else _triangle(counts), _WHITE - 1)


def _otsu(counts: NDArray[np.int64]) -> int:
    share = counts / counts.sum()
    below = np.cumsum(share)[:-1]
    moment = np.cumsum(share * np.arange(256))
    apart = moment[-1] * below - moment[:-1]
    both = below * (1 - below)
    variance = np.divide(apart**2, both, out=np.zeros(255), where=both > 1e-12)
    return int(variance.argmax())


def _triangle(counts: NDArray[np.int64]) -> int:
    peak = int(counts.argmax())
    first, last = (int(np.flatnonzero(counts)[end]) for end in (0, -1))
    first, last = max(first - 1, 0), min(last + 1, _WHITE)  # where nothing is any more
    end = last if peak - first < last - peak else first
    outward = 1 if end > peak else -1
    tail = np.arange(end, peak, -outward)
    line = counts[peak] * (tail - end) / (peak - end)
    return int(np.clip(tail[(line - counts[tail]).argmax()] + outward, 0, _WHITE))


class _LevelMap:
    """A mask that is cut once all probabilities are there: until then they wait in a temporary file."""

    def __init__(self, sink: ImageSink, method: AutoThreshold, white: int) -> None:
        self._sink, self._method, self._white = sink, method, white  # value of foreground
        self._height, self._width = sink.shape[:2]

    def __enter__(self) -> Self:
        self._file = ScratchFile()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with closing(self._file):
            if kind is None:
                self._cut()

    def __setitem__(self, key: Any, probs: FloatArray) -> None:
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        top, left = rows.indices(self._height)[0], columns.indices(self._width)[0]
        for row, line in enumerate(_levels_of(probs), top):
            self._file.write(row * self._width + left, line.tobytes())

    def _read(self, y: int, x: int) -> NDArray[np.uint8]:
        rows, columns = range(y, min(y + _ROWS, self._height)), min(_COLUMNS, self._width - x)
        block = np.empty((len(rows), columns), np.uint8)
        for row in rows:
            block[row - y] = np.frombuffer(self._file.read(row * self._width + x, columns), np.uint8)
        return block

    def _cut(self) -> None:
        corners = [(y, x) for y in range(0, self._height, _ROWS) for x in range(0, self._width, _COLUMNS)]
        counts = np.zeros(256, np.int64)
        for y, x in corners:
            counts += np.bincount(self._read(y, x).ravel(), minlength=256)
        level = _level_of(counts, self._method)
        for y, x in corners:
            block = self._read(y, x)
            mask = (block > level).astype(np.uint8) * np.uint8(self._white)
            self._sink[y : y + block.shape[0], x : x + block.shape[1]] = mask


@contextmanager
def object_writers(
    targets: Mapping[Product, Path], image: ImageSource, names: Sequence[str], config: PredictConfig
) -> Iterator[list[ObjectFile]]:
    """Open what takes objects in batches; the files are written at the end, each whole or not at all."""
    shape, name = (image.shape[0], image.shape[1]), Path(image.name).name
    style = Style.of(names, name, config.formats.tolerance, image.level_scale)
    with ExitStack() as stack:
        writers: list[ObjectFile] = []
        if "geojson" in targets:
            writers.append(
                stack.enter_context(GeoJsonWriter(targets["geojson"], style, config.formats.object_type))
            )
        if "roi" in targets:
            writers.append(stack.enter_context(RoiWriter(targets["roi"], style, shape)))
        if "coco" in targets:
            coco = stack.enter_context(CocoWriter(targets["coco"], style, config.formats.coco_segmentation))
            stack.enter_context(coco.image(name, shape))
            writers.append(coco)
        yield writers


def write_objects(
    sink: MapSink, targets: Mapping[Product, Path], writers: Sequence[ObjectFile], image: ImageSource
) -> None:
    """Write the objects of a whole map, numbered and measured."""
    sink.objects.notes = level_notes(image)

    def each(batch: ObjectBatch) -> None:
        batch = with_runs(batch)
        for writer in writers if len(batch.first) > 1 else ():
            writer.add(batch)

    found = sink.objects.finish(targets.get("labels"), each=each)
    if "objects" in targets:
        found.write_table(targets["objects"])


def channels_in(path: Path) -> int:
    """Count the channels of a map that was written to a file."""
    with open_image(path) as probs:
        return 1 if len(probs.shape) == 2 else probs.shape[2]


def feed_file(sink: MapSink, path: Path) -> None:
    """Feed a map that was written to a file."""
    with open_image(path) as probs:
        for top, band in read_bands(probs, max(1, _BAND_PX // probs.shape[1])):
            sink[top : top + len(band)] = band.reshape(*band.shape[:2], -1)


def write_into_image(
    path: Path,
    targets: Mapping[Product, Path],
    network: Network,
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> None:
    """Write the mask or the labels into the image's own zarr, if that is asked for and not done yet."""
    name = config.into_image
    if name is None or holds_labels(path, name):
        return
    if "mask" not in targets:
        with open_image(targets["labels"]) as labels:
            write_labels(path, name, labels)
        return
    with open_image(path, **config.reading | {"level": 0}) as image, open_image(targets["mask"]) as mask:
        classes = network.classes or classes_of(make_plan(network, image, tiling), image.dtype)
        write_labels(path, name, mask if classes > 1 else _Foreground(mask))


class _Foreground:
    """A mask of 0 and 255 as labels 0 and 1."""

    def __init__(self, mask: ImageSource) -> None:
        self.shape: tuple[int, ...] = mask.shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._mask = mask

    def __getitem__(self, key: Any) -> AnyArray:
        return (self._mask[key] > 0).astype(np.uint8)
