"""Disks that are full or fail, and processes that die while they write: what stood there stays whole."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import tiledseg as ts
from benchmarks.scorecard._injection import WRITING, Calls, Disk, fail, kill
from benchmarks.scorecard._processes import RECORD, run_each
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg._storage import DiskCache, file_digest
from tiledseg.config import TileSetConfig
from tiledseg.data import Manifest, Pair, describe, write_manifest, write_tiles
from tiledseg.errors import TiledSegError
from tiledseg.evaluate import Evaluator
from tiledseg.export import write_coco, write_geojson, write_roi
from tiledseg.io import create_image, write_image, write_labels, write_mask, write_probs
from tiledseg.objects import ObjectsSink, tiled_objects
from tiledseg.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_TILING = {"tile_size": 64, "overlap": 16}
_SIZE = (96, 112)


def _labels(seed: int) -> Any:
    """Return 30 objects, whose places depend on the seed."""
    rng = np.random.default_rng(seed)
    return np.kron(rng.permutation(np.arange(42)).reshape(6, 7), np.ones((16, 16))).astype(np.uint16)


def _pixels(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (*_SIZE, 3), np.uint8)


def _mean(tiles: Any) -> Any:
    return tiles.mean(axis=-1, keepdims=True) / 255


def _predicted(folder: Path, seed: int) -> None:
    write = ("mask", "probs", "labels", "objects", "geojson", "coco", "roi", "overlay")
    formats = {
        "probs_format": "ome-zarr",
        "probs_dtype": "float32",
        "labels_format": "ome-tiff",
        "mask_format": "ome-tiff",
    }
    source = folder.parent / f"{seed}" / "a.png"
    config = {"write": write, "existing": "overwrite", **formats, "pixel_size": 0.5 + seed}
    found = ts.predict_files(_mean, [source], folder, config, tiling=_TILING)
    if found.failed:
        raise TiledSegError(str(found.failed[0].error))


def _segmented(folder: Path, seed: int) -> None:
    ts.segment(_mean, _pixels(seed), _TILING, out=folder / "labels.ome.zarr").save(folder / f"saved-{seed}")


def _objects(folder: Path, seed: int) -> None:
    label = partial(cv2.threshold, thresh=99, maxval=1, type=cv2.THRESH_BINARY)
    tiled_objects(lambda tile: label(tile[..., 0])[1], _pixels(seed), _TILING, out=folder / "labels.ome.tif")


def _blocks(folder: Path, seed: int) -> None:
    """Make objects of a map that arrives from below, so that it waits in a temporary file."""
    sink, probs = ObjectsSink(_SIZE, np.float32), _pixels(seed)[..., 0] / np.float32(255)
    for top in (64, 32, 0):
        sink[top : top + 32, :] = probs[top : top + 32]
    sink.finish(None).write_table(folder / "objects.csv")


def _exported(folder: Path, seed: int) -> None:
    labels = _labels(seed)
    write_geojson(folder / "a.geojson", labels, instances=True)
    write_coco(folder / "a.json", [("a", labels)], instances=True)
    write_roi(folder / "a.zip", labels, instances=True)


def _images(folder: Path, seed: int) -> None:
    write_image(folder / "a.png", _pixels(seed))
    write_image(folder / "a.tif", _pixels(seed))
    write_mask(folder / "mask.png", _labels(seed) > 9)
    write_probs(folder / "probs.tif", _pixels(seed)[..., :1] / np.float32(255))
    for name in ("a.ome.tif", "a.ome.zarr"):
        with create_image(folder / name, _SIZE, np.uint16) as sink:
            sink[:, :] = _labels(seed)


def _labelled(folder: Path, seed: int) -> None:
    write_labels(folder.parent / "zarr" / "a.ome.zarr", "cells", _labels(seed))
    (folder / "done").write_text(str(seed))


def _checkpointed(folder: Path, seed: int) -> None:
    from tiledseg.train import checkpoint  # noqa: PLC0415  it loads TensorFlow

    arrays = {f"weights/{n}": np.full((40, 50), n + seed, np.float32) for n in range(4)}
    checkpoint._write(folder, 1, checkpoint.Checkpoint(arrays, {"epoch": 1, "seed": seed}))


def _bundled(folder: Path, seed: int) -> None:
    ts.load_model("demo").changed(threshold=0.4 + seed / 10).save(folder / "bundle", overwrite=True)


def _reported(folder: Path, seed: int) -> None:
    pair = Pair("a", _pixels(seed), (_labels(seed) > 20).astype(np.uint8))
    result = Evaluator({"tiling": _TILING}).evaluate(_mean, [pair])
    result.to_csv(folder / "scores.csv")
    result.to_json(folder / "scores.json")
    write_report(folder / "report.html", title=str(seed), result=result)


def _records(folder: Path) -> Any:
    data = folder / "data"
    return describe([Pair("a", data / "a.png", data / "mask.png")], data)


def _listed(folder: Path, seed: int) -> None:
    target = folder / "data" / "all.jsonl"
    write_manifest(target, [one.changed(group=f"g{seed}") for one in _records(folder)], overwrite=True)


def _cut(folder: Path, seed: int) -> None:
    records = Manifest(folder / "data", tuple(_records(folder)))
    write_tiles(records, TileSetConfig(output=str(folder / f"tiles-{seed}"), tile_size=32))


def _cached(folder: Path, seed: int) -> None:
    DiskCache(folder).keep(f"key-{seed}", lambda part: (part / "data").write_bytes(bytes(9000)))


_JOBS: dict[str, Callable[[Path, int], None]] = {
    "predict": _predicted, "segment": _segmented, "objects": _objects, "objects in blocks": _blocks,
    "exports": _exported, "images": _images, "checkpoint": _checkpointed, "bundle": _bundled,
    "report": _reported, "manifest": _listed, "tile set": _cut, "cache": _cached,
}  # fmt: skip
_CHANGING = (
    "run.toml",
    "run.json",
    "report.html",
    "scores.json",
    "scores.csv",
)  # they say when they were made, and how long it took


def _tree(folder: Path) -> dict[str, str]:
    """Return the digests of files and of zarrs, by their names."""
    found = {}
    for place, folders, files in os.walk(folder):
        zarrs = [name for name in folders if name.endswith(".zarr")]
        folders[:] = [name for name in folders if name not in zarrs]
        for name in [*zarrs, *(name for name in files if name != RECORD)]:
            path = Path(place, name)
            digest = _without_digits(path) if name in _CHANGING else file_digest(path)
            found[path.relative_to(folder).as_posix()] = digest
    return found


def _without_digits(path: Path) -> str:
    return hashlib.sha256(re.sub(rb"[0-9]", b"", path.read_bytes())).hexdigest()


def _prepared(name: str, root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Do a job twice without faults: what stands there before, and what should stand there after it."""
    for seed in range(2):
        write_image(root / f"{seed}" / "a.png", _pixels(seed))
    data = root / "old" / "data"
    write_image(data / "a.png", _pixels(0))
    write_mask(data / "mask.png", (_labels(0) > 20).astype(np.uint8))
    _JOBS[name](root / "old", 0)
    shutil.copytree(root / "old", root / "new", dirs_exist_ok=True)
    _JOBS[name](root / "new", 1)
    return _tree(root / "old"), _tree(root / "new")


def _outcome(name: str, root: Path, known: tuple[dict[str, str], dict[str, str]], under: Any) -> str:
    """Do a job under a fault, and say what is wrong with what it left; nothing if nothing is."""
    old, new = known
    folder, error = root / "now", None
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "old", folder)
    before = {path.name for path in Path(tempfile.gettempdir()).iterdir()}
    try:
        with under:
            _JOBS[name](folder, 1)
    except TiledSegError as one:
        error = one
    except BaseException as one:  # noqa: BLE001  which is the fault
        return f"bare {one!r}"
    found = _tree(folder)
    left = {path.name for path in Path(tempfile.gettempdir()).iterdir()} - before
    if error is None and found != new:
        return f"no error, but {sorted(set(found.items()) ^ set(new.items()))[:2]}"
    wrong = [path for path in found if found[path] not in {old.get(path), new.get(path)}]
    return f"half written {wrong}" if wrong else f"left {left}" if left else _missing(old, found)


def _missing(old: dict[str, str], found: dict[str, str]) -> str:
    lost = old.keys() - found.keys()
    return f"lost {sorted(lost)}" if lost else ""


class _Full:
    """The disk is full in the block."""

    def __init__(self, disk: Disk, pages: int) -> None:
        self._disk, self._pages = disk, pages

    def __enter__(self) -> None:
        self._disk.leave(self._pages)

    def __exit__(self, *error: object) -> None:
        self._disk.leave(None)


def work(arguments: list[str]) -> None:
    """Do jobs under faults, ``JOB:calls:SEED:SIZE`` or ``JOB:full:SEED:SIZE``, and print what they left."""
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    logging.getLogger("tiledseg").setLevel(logging.CRITICAL)
    for text in arguments:
        name, kind, seed, size = text.split(":")
        with tempfile.TemporaryDirectory(prefix="disk-") as place:
            root = Path(place, "disk")
            root.mkdir()
            disk = Disk(root) if kind == "full" else None
            try:
                found = _attempts(name, root, disk, float(size), random.Random(int(seed)))
            finally:
                tempfile.tempdir = None
                if disk is not None:
                    disk.remove()
        bad = [one for one in found if one]
        texts = " ; ".join(bad[:4]).replace("\n", " ")[:900]
        print("FOUND", len(found), "|", len(bad), "|", texts, flush=True)


def _attempts(name: str, root: Path, disk: Disk | None, size: float, rng: random.Random) -> list[str]:
    """Do a job under one fault after the other, and list what is wrong with each."""
    (root / "tmp").mkdir()
    tempfile.tempdir = str(root / "tmp")
    known, found = _prepared(name, root), []
    for nth in _chosen(_total(name, root, known, disk), size, rng):
        calls = Calls(nth, fail)
        fault = _outcome(name, root, known, calls.watched() if disk is None else _Full(disk, nth - 1))
        found.append(f"{nth} {calls.kind}: {fault}" if fault else "")
    return found


def _total(name: str, root: Path, known: Any, disk: Disk | None) -> int:
    """Count the calls that a job makes, or the pages that it takes."""
    if disk is not None:
        pages = 1
        while _outcome(name, root, known, _Full(disk, pages)) or _tree(root / "now") != known[1]:
            pages *= 2
        return pages
    calls = Calls(0, fail)
    fault = _outcome(name, root, known, calls.watched())
    if fault:
        raise RuntimeError(fault)
    return calls.count


def _chosen(total: int, size: float, rng: random.Random) -> list[int]:
    """Choose calls or pages: all, or a share of them."""
    return sorted(rng.sample(range(1, total + 1), max(min(total, 6), round(total * min(size, 1)))))


_WORK = "import sys; from benchmarks.scorecard.disk import work; work(sys.argv[1:])"


@row(4, "a failing call at every write, fsync, rename and close, and a full disk at every size")
def failing_disk(trial: Trial) -> Iterator[Figure]:
    for kind, what in (("calls", "calls that fail"), ("full", "pages that a full disk leaves")):
        cases = [Path(f"{name}:{kind}:{trial.seed}:{trial.size}") for name in _JOBS]
        count, faults = 0, []
        for case, found, text in run_each(_WORK, cases, seconds=600):
            if "|" in found:
                done, bad, texts = found.split("|")
                count, faults = count + int(done), faults + [f"{case}: {texts}"] * int(bad)
            else:
                faults.append(f"{case}: {found} {text}")
        yield Figure(
            f"{what} ({count}) and lose, leave or hide something",
            len(faults),
            most=0,
            faults=tuple(dict.fromkeys(faults)),
        )


@row(2, "kill at every write call of one checkpoint commit: the newest or the previous one loads")
def killed_commit(trial: Trial) -> Iterator[Figure]:
    from tiledseg.train import checkpoint  # noqa: PLC0415  it loads TensorFlow

    def write(folder: Path, epoch: int) -> None:
        arrays = {f"weights/{n}": np.full((40, 50), epoch, np.float32) for n in range(6)}
        checkpoint._write(folder, epoch, checkpoint.Checkpoint(arrays, {"epoch": epoch}))

    def killed(nth: int) -> str | None:
        folder = trial.folder / str(nth)
        folder.mkdir()
        write(folder, 1)
        write(folder, 2)
        child = os.fork()  # it computes nothing, so that no thread is missed
        if not child:
            with Calls(nth, kill, (*WRITING, "unlink")).watched():
                write(folder, 3)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = checkpoint.latest_checkpoint(folder)
        epoch = found.facts["epoch"] if found is not None else 0
        whole = found is not None and all((values == epoch).all() for values in found.arrays.values())
        if code == 0:
            return "end" if epoch == 3 and whole else f"call {nth}: not killed, but epoch {epoch}"
        return (
            None if epoch in {2, 3} and whole and code == -signal.SIGKILL else f"call {nth}: {code}, {epoch}"
        )

    outcomes: list[str | None] = []
    while "end" not in outcomes:
        outcomes.append(killed(len(outcomes) + 1))
    yield good("kills after which a whole checkpoint loads", outcomes[:-1])
