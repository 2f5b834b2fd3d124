"""Objects of large maps: labels, measurements, splitting, memory.

What: maps of ellipses (about 30,000 in 8192 x 8192 px, 16 % foreground, 5 % with a hole), and larger maps
made of such blocks and of empty ones; probabilities and an RGB image of noise. How: each contender
and each size in a process of its own, where it shares nothing with others; processor time, of which the
time to make the bands of the large maps is taken off; the peak of resident memory (VmHWM), of which the
mapped files of the input are taken off. Peers: scikit-image (label and regionprops_table with the same
properties, watershed from h-maxima), scipy.ndimage (label and the statistics that it has) and OpenCV. All
labels of the 4096 px map are compared with those of OpenCV, and the parts for three heights of
bands with each other. Targets: 2.5 s and 300 MB beside the input for 8192 px with all columns, three channels
and GeoJSON; 9 s and 500 MB for 30,000 px; 60 s and 1.2 GB for 65,536 px without storing the labels; labels of
4096 px in at most the time of cv2.connectedComponents; splitting in 2.5 s.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks._fresh import call_fresh
from benchmarks._memory import status_bytes
from benchmarks._rows import Row, of_samples

__all__ = ["run"]

_BLOCK = 8192
_SHARE = {30_000: 0.27, 65_536: 0.5}  # of blocks that have objects
_BAND = 256
_PROPERTIES = (
    "label", "centroid", "bbox", "area", "perimeter", "equivalent_diameter_area", "axis_major_length",
    "axis_minor_length", "orientation", "eccentricity", "solidity", "extent", "intensity_mean",
    "intensity_std", "intensity_min", "intensity_max",
)  # fmt: skip


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    size, rounds = (2048, 1) if quick else (_BLOCK, 3)
    with tempfile.TemporaryDirectory() as folder:
        call_fresh("benchmarks.objects:draw", folder=folder, size=size)

        def fresh(name: str, **arguments: Any) -> dict[str, float]:
            found: dict[str, float] = call_fresh(f"benchmarks.objects:{name}", folder=folder, **arguments)
            return found

        whole = [fresh("measured", geojson=True) for _ in range(rounds)]
        rows = _both(f"{size} px, all columns and GeoJSON", whole, (None, None) if quick else (2.5, 300))
        rows += _both(f"{size} px, all columns", [fresh("measured", geojson=False)])
        for peer in ("skimage_table", "scipy_statistics"):
            rows += _both(f"{size} px, {peer.replace('_', ' ')}", [fresh(peer)])
        for large, seconds, memory in () if quick else ((30_000, 9, 500), (65_536, 60, 1200)):
            found = [fresh("streamed", size=large)]
            rows += _both(f"{large} px, all columns, labels made", found, (seconds, memory))
        if not quick:
            found = [fresh("streamed", size=65_536, stored=True)]
            rows += _both("65536 px, all columns, labels in OME-Zarr", found, (None, 1200))
        ratios = [fresh("against_opencv")["ratio"] for _ in range(rounds)]
        most = {} if quick else {"at_most": 1.0}
        rows.append(of_samples("labels of 4096 px over cv2.connectedComponents", ratios, "x", **most))
        rows += _both(f"{size} px, split", [fresh("split")], (None, None) if quick else (2.5, None))
        rows += _both(
            f"{size} px, skimage watershed from h-maxima", [] if quick else [fresh("skimage_split")]
        )
        for kind in () if quick else ("comb", "specks", "full"):
            rows += _both(f"worst: {kind}", [fresh("worst", kind=kind)])
    return rows


def _both(
    what: str, found: list[dict[str, float]], most: tuple[float | None, float | None] = (None, None)
) -> list[Row]:
    """Make rows of seconds and of memory, with the most that is promised of each."""
    if not found:
        return []
    limits: list[Any] = [{} if one is None else {"at_most": one} for one in most]
    beside = f"{found[0]['objects']:.0f} objects" if "objects" in found[0] else ""
    rows = [of_samples(what, [one["seconds"] for one in found], "s CPU", beside=beside, **limits[0])]
    if "memory" in found[0]:
        memory = [one["memory"] for one in found]
        rows.append(of_samples(f"{what}, memory beside the input", memory, "MB", **limits[1]))
    return rows


def draw(folder: str, size: int) -> None:
    """Draw the maps: cells, cells that touch, probabilities and an image."""
    rng = np.random.default_rng(1)
    for name, touching in (("mask", 0.0), ("touching", 0.3)):
        np.save(Path(folder, name), _cells(size, rng, touching))
    mask = np.load(Path(folder, "mask.npy"))
    high, low = rng.uniform(0.5, 1, mask.shape), rng.uniform(0, 0.49, mask.shape)
    np.save(Path(folder, "probs"), np.where(mask, high, low).astype(np.float32))
    np.save(Path(folder, "image"), rng.integers(0, 255, (*mask.shape, 3), dtype=np.uint8))


def _cells(size: int, rng: np.random.Generator, touching: float) -> np.ndarray[Any, Any]:
    mask, step = np.zeros((size, size), np.uint8), 47.0
    for row in range(int(size / step)):
        for column in range(int(size / step)):
            y, x = (int((place + 0.5) * step + rng.uniform(-6, 6)) for place in (row, column))
            radius, angle = rng.uniform(0.18, 0.26) * step, rng.uniform(0, 180)
            axes = (int(radius * 1.1), int(radius))
            cv2.ellipse(mask, (x, y), axes, angle, 0, 360, 1, -1)
            if rng.random() < touching:
                cv2.ellipse(mask, (int(x + 1.3 * radius), y), axes, angle, 0, 360, 1, -1)
            if rng.random() < 0.05:
                cv2.circle(mask, (x, y), int(radius * 0.3), 0, -1)
    return mask


def _inputs(folder: str, *names: str) -> list[Any]:
    return [np.load(Path(folder, f"{name}.npy"), mmap_mode="r") for name in names]


def _peak() -> float:
    """Return the peak of resident memory in MB, without the px of mapped inputs."""
    mapped, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            mapped += int(line.split()[1]) if inside else 0
        elif "-" in line.split(maxsplit=1)[0]:
            inside = line.endswith(".npy")
    return status_bytes("VmHWM") / 1e6 - mapped * 1024 / 1e6


def measured(folder: str, geojson: bool) -> dict[str, float]:  # noqa: FBT001  JSON
    """Label and measure the map with its image."""
    from tiledseg.export import GeoJsonWriter, Style  # noqa: PLC0415  in the process that is measured
    from tiledseg.objects import ObjectsSink  # noqa: PLC0415

    probs, image = _inputs(folder, "probs", "image")
    started = time.process_time()
    sink = ObjectsSink(probs.shape, probs.dtype, image=image)
    for row in range(0, len(probs), _BAND):
        sink[row : row + _BAND] = probs[row : row + _BAND]
    if geojson:
        with GeoJsonWriter(Path(folder, "cells.geojson"), Style()) as writer:
            objects = sink.finish(each=writer.add)
    else:
        objects = sink.finish()
    seconds = time.process_time() - started
    return {"seconds": seconds, "memory": _peak(), "objects": len(objects)}


def skimage_table(folder: str) -> dict[str, float]:
    """Measure the same with scikit-image."""
    from skimage.measure import label, regionprops_table  # noqa: PLC0415

    probs, image = _inputs(folder, "probs", "image")
    started = time.process_time()
    labels = label(probs >= 0.5, connectivity=1)
    table = regionprops_table(labels, np.dstack([probs, image]), _PROPERTIES)
    seconds = time.process_time() - started
    return {"seconds": seconds, "memory": _peak(), "objects": len(table["label"])}


def scipy_statistics(folder: str) -> dict[str, float]:
    """Measure with scipy.ndimage: boxes, centroids, and mean and deviation of four channels."""
    from scipy import ndimage  # noqa: PLC0415

    probs, image = _inputs(folder, "probs", "image")
    started = time.process_time()
    labels, n = ndimage.label(probs >= 0.5)
    index = np.arange(1, n + 1)
    ndimage.find_objects(labels)
    ndimage.center_of_mass(labels > 0, labels, index)
    for channel in (probs, *(image[..., place] for place in range(3))):
        for statistic in (ndimage.mean, ndimage.standard_deviation):  # the others sort all px, for minutes
            statistic(channel, labels, index)
    seconds = time.process_time() - started
    return {"seconds": seconds, "memory": _peak(), "objects": n}


class _Discarded:
    """A sink of labels that stores nothing."""

    def __init__(self, size: int) -> None:
        self.shape, self.dtype = (size, size), np.uint32

    def __setitem__(self, _region: Any, _labels: Any) -> None:
        pass


class _Blocks:
    """Rows of a large map that is made of one block and of empty ones, and the time that they took."""

    def __init__(self, block: Any, size: int) -> None:
        self.shape, self.dtype, self.seconds = (size, size, *block.shape[2:]), block.dtype, 0.0
        self._block, n = block, -(-size // _BLOCK)
        self._full = np.random.default_rng(0).random((n, n)) < _SHARE[size]

    def __getitem__(self, key: Any) -> Any:
        started = time.process_time()
        rows = key[0]
        out = np.zeros((rows.stop - rows.start, *self.shape[1:]), self.dtype)
        top = rows.start % _BLOCK
        for column in np.flatnonzero(self._full[rows.start // _BLOCK]).tolist():
            width = min(_BLOCK, self.shape[1] - column * _BLOCK)
            part = self._block[top : top + len(out), :width]
            out[:, column * _BLOCK : column * _BLOCK + width] = part
        self.seconds += time.process_time() - started
        return out


def streamed(folder: str, size: int, stored: bool = False) -> dict[str, float]:  # noqa: FBT001, FBT002  JSON
    """Label and measure a map that no memory holds: with its image up to 30,000 px, above without."""
    from tiledseg.objects import ObjectsSink  # noqa: PLC0415

    probs, picture, mask = _inputs(folder, "probs", "image", "mask")
    image = _Blocks(picture, size) if size <= 30_000 else None
    rows = _Blocks(mask if image is None else probs, size)
    started = time.process_time()
    sink = ObjectsSink(rows.shape, rows.dtype, image=image)
    for first in range(0, size, _BAND):
        band = slice(first, min(first + _BAND, size))
        sink[band] = rows[band, slice(0, size)]
    objects = sink.finish(Path(folder, f"{size}.ome.zarr") if stored else _Discarded(size))
    making = rows.seconds + (0.0 if image is None else image.seconds)
    return {
        "seconds": time.process_time() - started - making,
        "memory": _peak(),
        "objects": len(objects),
    }


def against_opencv(folder: str) -> dict[str, float]:
    """Compare labels from bands with those of the whole map by OpenCV, on one thread."""
    from tiledseg.objects import ObjectsSink  # noqa: PLC0415

    cv2.setNumThreads(1)
    mask = np.ascontiguousarray(_inputs(folder, "mask")[0][:4096, :4096])
    ours, theirs = [], []
    for _ in range(7):
        started = time.process_time()
        _, labels = cv2.connectedComponents(mask, connectivity=4)
        theirs.append(time.process_time() - started)
        started = time.process_time()
        sink, out = ObjectsSink(mask.shape, mask.dtype), np.empty(mask.shape, np.uint32)
        for row in range(0, len(mask), 512):
            sink[row : row + 512] = mask[row : row + 512]
        sink.finish(out, measure=False)
        ours.append(time.process_time() - started)
    pairs = np.unique(np.stack([out.ravel(), labels.ravel()]), axis=1)
    if len(pairs[0]) != labels.max() + 1 or len(np.unique(pairs[0])) != len(pairs[0]):
        raise ArithmeticError("the labels differ from those of OpenCV")
    return {"ratio": min(ours) / min(theirs)}


def split(folder: str) -> dict[str, float]:
    """Split cells that touch: the time beside that of labels alone; bands of three heights agree."""
    from tiledseg.objects import ObjectsSink  # noqa: PLC0415

    mask = _inputs(folder, "touching")[0]

    def labelled(height: int, config: dict[str, Any]) -> tuple[float, int, Any]:
        out = np.empty(mask.shape, np.uint32)
        started = time.process_time()
        sink = ObjectsSink(mask.shape, mask.dtype, config)
        for row in range(0, len(mask), height):
            sink[row : row + height] = mask[row : row + height]
        found = sink.finish(out, measure=False)
        return time.process_time() - started, len(found), out

    plain, _, _ = labelled(_BAND, {})
    seconds, n, out = labelled(_BAND, {"split": "watershed"})
    for height in (100, len(mask)):
        if not np.array_equal(labelled(height, {"split": "watershed"})[2], out):
            raise ArithmeticError(f"the parts differ with bands of {height} rows")
    return {"seconds": seconds - plain, "objects": n}


def skimage_split(folder: str) -> dict[str, float]:
    """Split the same cells with scikit-image: h-maxima of the distance as markers."""
    from scipy.ndimage import distance_transform_edt  # noqa: PLC0415
    from skimage.measure import label  # noqa: PLC0415
    from skimage.morphology import h_maxima  # noqa: PLC0415
    from skimage.segmentation import watershed  # noqa: PLC0415

    mask = np.asarray(_inputs(folder, "touching")[0])
    started = time.process_time()
    distance = distance_transform_edt(mask)
    parts = watershed(-distance, label(h_maxima(distance, 1)), mask=mask)
    return {"seconds": time.process_time() - started, "objects": int(parts.max())}


def worst(folder: str, kind: str) -> dict[str, float]:
    """Label and measure a comb of 33 million runs, 10 million specks, or one object over 65,536 px."""
    from tiledseg.objects import ObjectsSink  # noqa: PLC0415

    del folder  # nothing is read
    size = {"comb": 8192, "specks": 16_384, "full": 65_536}[kind]
    started = time.process_time()
    sink = ObjectsSink((size, size), np.uint8)
    for first in range(0, size, _BAND):
        band = np.full((_BAND, size), kind == "full", np.uint8)
        if kind == "comb":
            band[:, ::2] = 1
            band[0] |= first == 0
        elif kind == "specks":
            band[(-first) % 5 :: 5, ::5] = 1
        sink[first : first + _BAND] = band
    objects = sink.finish(_Discarded(size))
    return {"seconds": time.process_time() - started, "memory": _peak(), "objects": len(objects)}
