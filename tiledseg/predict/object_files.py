"""What is written of the objects of an image: labels, table, outlines for other programs."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._validate import read_region
from tiledseg.export import CocoWriter, GeoJsonWriter, RoiWriter, Style, with_runs
from tiledseg.io import open_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tiledseg.config import PredictConfig, Product
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
