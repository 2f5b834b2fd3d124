"""Exports of about 30,000 objects: GeoJSON, COCO, ImageJ regions.

What: the label image of the ellipses of ``benchmarks.objects`` (8192 x 8192 px), in which each label is one
object, and a mask of 30,000 x 30,000 px with about 100,000 of them; written with all measurements of the
geometry. How: each format in a process of its own; processor time, and the peak of resident memory (VmHWM)
without the mapped input. Peers: pycocotools (run lengths of each object from its px) and OpenCV's outlines
through json (which follow the centres of px, and are no valid polygons where they touch themselves).
Targets: GeoJSON of 30,000 objects in 2.5 s and 400 MB; of the mask of 30,000 px in 15 s and 500 MB.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from benchmarks._fresh import call_fresh
from benchmarks.objects import _BAND, _Blocks, _both, _inputs, _peak

if TYPE_CHECKING:
    from benchmarks._rows import Row

__all__ = ["run"]

_LARGE = 30_000


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    size = 2048 if quick else 8192
    with tempfile.TemporaryDirectory() as folder:
        call_fresh("benchmarks.objects:draw", folder=folder, size=size)
        call_fresh("benchmarks.exports:label", folder=folder)
        rows = []
        for kind in ("geojson", "simplified", "gzip", "coco", "polygons", "roi"):
            most = (2.5, 400) if kind == "geojson" and not quick else None
            found = call_fresh("benchmarks.exports:written", folder=folder, kind=kind)
            rows += _both(f"{size} px, {kind}", [found], most)
        for peer in ("pycocotools_runs", "opencv_outlines"):
            found = call_fresh(f"benchmarks.exports:{peer}", folder=folder)
            rows += _both(f"{size} px, {peer.replace('_', ' ')}", [found])
        if not quick:
            found = call_fresh("benchmarks.exports:large", folder=folder)
            rows += _both(f"{_LARGE} px mask, geojson", [found], (15, 500))
    return rows


def label(folder: str) -> None:
    """Store the labels of the map."""
    from tiledseg.objects import label_objects  # noqa: PLC0415  in the process that is measured

    label_objects(_inputs(folder, "mask")[0], out=Path(folder, "labels.npy"), measure=False)


def written(folder: str, kind: str) -> dict[str, float]:
    """Write the labels in one format."""
    from tiledseg import export  # noqa: PLC0415

    labels = _inputs(folder, "labels")[0]
    started = time.process_time()
    if kind in {"coco", "polygons"}:
        form = "rle" if kind == "coco" else "polygons"
        images = [("a.png", labels)]
        n = export.write_coco(Path(folder, "a.json"), images, instances=True, segmentation=form)
    elif kind == "roi":
        n = export.write_roi(Path(folder, "a.zip"), labels, instances=True)
    else:
        suffix, more = ".gz" if kind == "gzip" else "", {"tolerance": 1.0} if kind == "simplified" else {}
        n = export.write_geojson(Path(folder, f"a.geojson{suffix}"), labels, instances=True, **more)
    return {"seconds": time.process_time() - started, "memory": _peak(), "objects": n}


def large(folder: str) -> dict[str, float]:
    """Write the objects of a mask that is made of blocks."""
    from tiledseg.export import GeoJsonWriter, Style  # noqa: PLC0415
    from tiledseg.objects import ObjectsSink  # noqa: PLC0415

    rows = _Blocks(_inputs(folder, "mask")[0], _LARGE)
    started = time.process_time()
    sink = ObjectsSink(rows.shape, rows.dtype)
    for first in range(0, _LARGE, _BAND):
        band = slice(first, min(first + _BAND, _LARGE))
        sink[band] = rows[band, slice(0, _LARGE)]
    with GeoJsonWriter(Path(folder, "large.geojson"), Style()) as writer:
        sink.finish(each=writer.add)
    seconds = time.process_time() - started - rows.seconds
    return {"seconds": seconds, "memory": _peak(), "objects": len(writer)}


def _crops(labels: Any) -> Any:
    """Give the px of each object in its box."""
    from scipy.ndimage import find_objects  # noqa: PLC0415

    for number, place in enumerate(find_objects(np.asarray(labels, np.int32)), start=1):
        yield place, (labels[place] == number).astype(np.uint8)


def pycocotools_runs(folder: str) -> dict[str, float]:
    """Encode each object with pycocotools, in its box alone."""
    from pycocotools import mask  # noqa: PLC0415

    labels = _inputs(folder, "labels")[0]
    started = time.process_time()
    found = [mask.encode(np.asfortranarray(px))["counts"].decode() for _, px in _crops(labels)]
    Path(folder, "p.json").write_text(json.dumps(found))
    return {"seconds": time.process_time() - started, "memory": _peak(), "objects": len(found)}


def opencv_outlines(folder: str) -> dict[str, float]:
    """Outline each object with OpenCV, and write the corners as JSON."""
    labels = _inputs(folder, "labels")[0]
    started = time.process_time()
    found = []
    for (rows, columns), px in _crops(labels):
        rings, _ = cv2.findContours(px, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        found.append([(ring[:, 0] + (columns.start, rows.start)).tolist() for ring in rings])
    Path(folder, "p.json").write_text(json.dumps(found))
    return {"seconds": time.process_time() - started, "memory": _peak(), "objects": len(found)}
