"""Damaged data: flipped bits, and folders of images some of which are broken."""

from __future__ import annotations

import json
import random
import shutil
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

import tiledseg as ts
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg._storage import DiskCache, array_digest
from tiledseg.errors import FileError, TiledSegError
from tiledseg.models import load_model, shipped_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def _flipped(path: Path, rng: random.Random) -> tuple[int, int]:
    """Flip one bit of a file, and say which."""
    data = bytearray(path.read_bytes())
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    data[place] ^= 1 << bit
    path.write_bytes(data)
    return place, bit


def _flips(
    folder: Path, rng: random.Random, count: int, result: Callable[[], object]
) -> Iterator[str | None]:
    """Flip bits of the files of a folder, one at a time: each is detected, or the result is the same."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    wanted = result()
    for _ in range(count):
        path = rng.choice(files)
        whole = path.read_bytes()
        place, bit = _flipped(path, rng)
        try:
            fault = None if result() == wanted else "another result"
        except TiledSegError:
            fault = None
        except Exception as error:  # noqa: BLE001  which is the fault
            fault = repr(error)
        path.write_bytes(whole)
        yield fault and f"bit {bit} of byte {place} of {path.name}: {fault}"


@row(5, "single-bit flips are detected, or the result is the same")
def bit_flips(trial: Trial) -> Iterator[Figure]:
    rng, count = random.Random(trial.seed), trial.count(1000, 10)
    bundle = trial.folder / "bundle"
    shutil.copytree(shipped_folder("demo"), bundle)
    image = np.random.default_rng(trial.seed).integers(0, 256, (64, 64, 3), np.uint8)

    def predicted() -> object:
        segmenter = load_model(bundle)
        probs = ts.tiled_predict(segmenter, image)
        return array_digest(probs), repr(segmenter.labels), segmenter.threshold, segmenter.preprocessing

    yield good("of a bundle", _flips(bundle, rng, count, predicted))
    cache, content = DiskCache(trial.folder / "cache"), rng.randbytes(3000)

    def cached() -> object:
        found = cache.find("key")
        if found is None:
            found = cache.keep("key", lambda folder: (folder / "data").write_bytes(content))
        return (found / "data").read_bytes()

    cached()
    yield good("of an entry of a cache", _flips(trial.folder / "cache", rng, count, cached))
    yield good("of a checkpoint", _flips(*_checkpoint(trial, rng, count)))


def _checkpoint(trial: Trial, rng: random.Random, count: int) -> tuple[Any, ...]:
    """Write a checkpoint as training does, and return what flips its bits."""
    from tiledseg.train import checkpoint  # noqa: PLC0415  it loads TensorFlow

    arrays = {f"weights/{n}": np.random.default_rng(n).random((8, 9), np.float32) for n in range(4)}
    folder = trial.folder / "checkpoints"
    folder.mkdir()
    facts = {"epoch": 3, "history": {"loss": [1.0, 0.5, 0.25]}}
    checkpoint._write(folder, 3, checkpoint.Checkpoint(arrays, facts))

    def read() -> object:
        found = checkpoint.latest_checkpoint(folder)
        if found is None:
            raise FileError("no checkpoint")
        return {name: array_digest(one) for name, one in found.arrays.items()}, json.dumps(found.facts)

    return folder, rng, count, read


def _broken(data: bytes, way: int, rng: random.Random) -> bytes:
    """Break a PNG in one of 20 ways; none leaves a readable image."""
    cut = rng.randrange(60, len(data) - 60)
    noise = rng.randbytes(64)
    ways: list[bytes] = [
        b"", data[:1], data[:8], data[:20], data[:33], data[: len(data) // 2], data[:-40], noise, bytes(500),
        data[8:], b"\x89PNG" + noise, data[:cut] + bytes(40) + data[cut + 40 :], b"II*\0" + noise,
        b"BM" + noise, b"\xff\xd8\xff" + noise, b"<html></html>", b"GIF89a" + noise, data[:33] + data[-12:],
        data[:16] + b"\xff" * 8 + data[24:], data[:-12],
    ]  # fmt: skip
    return ways[way]


@row(6, "a folder of images, 3 % of them broken in 20 ways")
def broken_folder(trial: Trial) -> Iterator[Figure]:
    rng, count = random.Random(trial.seed), trial.count(2000, 100)
    images = trial.folder / "images"
    images.mkdir()
    image = np.random.default_rng(trial.seed).integers(0, 256, (48, 48, 3), np.uint8)
    data = cv2.imencode(".png", image)[1].tobytes()
    places = rng.sample(range(count), round(count * 0.03))
    for place in range(count):
        (images / f"{place:04d}.png").write_bytes(data)
    for way, place in enumerate(places):
        (images / f"{place:04d}.png").write_bytes(_broken(data, way % 20, rng))
    found = ts.predict_files(_mean, images, trial.folder / "out", tiling={"tile_size": 48, "overlap": 0})
    bad = {f"{place:04d}.png" for place in places}
    failed = {one.path.name for one in found.failed}
    yield good("broken ones are reported", [None if name in failed else name for name in sorted(bad)])
    done = {path.stem for path in (trial.folder / "out" / "masks").iterdir()}
    whole = [f"{place:04d}" for place in range(count) if f"{place:04d}.png" not in bad]
    yield good("the others are done", [None if name in done else name for name in whole])


def _mean(tiles: Any) -> Any:
    return tiles.mean(axis=-1, keepdims=True) / 255
