"""What is written of the objects of an image: labels, table, outlines; labels in the image's own zarr."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import read_region
from tiledseg.export import CocoWriter, GeoJsonWriter, RoiWriter, Style, with_runs
from tiledseg.io import holds_labels, open_image, write_labels
from tiledseg.predict.dask import count_classes
from tiledseg.predict.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tiledseg._types import AnyArray
    from tiledseg.config import PredictConfig, Product, TilingConfig
    from tiledseg.engine import Network
    from tiledseg.export import ObjectFile
    from tiledseg.io import ImageSource
    from tiledseg.objects import ObjectBatch
    from tiledseg.predict.segment import MapSink

_BAND_PX = 1 << 21


@contextmanager
def object_writers(
    targets: Mapping[Product, Path], image: ImageSource, names: Sequence[str], config: PredictConfig
) -> Iterator[list[ObjectFile]]:
    """Open what takes objects in batches; the files are written at the end, each whole or not at all."""
    full, shape = image.levels[0], (image.shape[0], image.shape[1])
    scale = (full[0] / shape[0], full[1] / shape[1]) if image.level else (1.0, 1.0)
    name = Path(image.name).name
    style = Style.of(names, name, config.formats.tolerance, scale)
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


def write_objects(sink: MapSink, targets: Mapping[Product, Path], writers: Sequence[ObjectFile]) -> None:
    """Write the objects of a whole map, numbered and measured."""

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
        height, width = probs.shape[:2]
        rows = max(1, _BAND_PX // width)
        for top in range(0, height, rows):
            band = read_region(probs, slice(top, min(top + rows, height)), slice(0, width))
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
        classes = network.classes
        if classes is None:
            classes = count_classes(Plan.of(network, image, tiling), image.dtype)
        write_labels(path, name, mask if classes > 1 else _Foreground(mask))


class _Foreground:
    """A mask of 0 and 255 as labels 0 and 1."""

    def __init__(self, mask: ImageSource) -> None:
        self.shape: tuple[int, ...] = mask.shape
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self._mask = mask

    def __getitem__(self, key: Any) -> AnyArray:  # noqa: ANN401
        return (self._mask[key] > 0).astype(np.uint8)
