"""Threads, processes, surroundings and memory that predictions share."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import psutil

import tiledseg as ts
from benchmarks.scorecard._processes import command, digests, run_script
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg.samples import write_samples

if TYPE_CHECKING:
    from collections.abc import Iterator

_TILING = {"tile_size": 64, "overlap": 16}
_FORK = """
import os, sys
import numpy as np, tiledseg as ts
segmenter, image = ts.load_model("demo"), np.zeros((90, 90, 3), np.uint8)
ts.tiled_predict(segmenter, image)
child = os.fork()
if child == 0:
    try:
        ts.tiled_predict(segmenter, image)
    except ts.TiledSegError:
        pass
    os._exit(0)
import signal
signal.alarm(60)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def _image(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (150, 170, 3), np.uint8)


@row(17, "threads and processes that share a network or a folder; many predictions in one process")
def shared(trial: Trial) -> Iterator[Figure]:
    segmenter, each = ts.load_model("demo"), trial.count(50, 2)
    images = [_image(seed) for seed in range(16)]
    wanted = [ts.tiled_predict(segmenter, image, _TILING) for image in images]

    def repeated(place: int) -> list[str | None]:
        found = [ts.tiled_predict(segmenter, images[place], _TILING) for _ in range(each)]
        return [None if np.array_equal(one, wanted[place]) else f"image {place} differs" for one in found]

    with ThreadPoolExecutor(16) as pool:
        yield good(
            "predictions of 16 threads", [one for found in pool.map(repeated, range(16)) for one in found]
        )
    process, first = psutil.Process(), 0
    for number in range(trial.count(2000, 60)):
        ts.tiled_predict(segmenter, images[number % 16], _TILING)
        if number == 50:
            first = process.memory_info().rss
    yield Figure("MB grown over predictions", round((process.memory_info().rss - first) / 1e6, 1), most=20)
    code, text = run_script(_FORK)
    yield Figure("hangs after a fork", int(code != 0), most=0, faults=(text[-300:],))
    write_samples(trial.folder, n_images=4, height=96, width=96, seed=trial.seed)
    runs = [
        command(
            "predict", "demo", trial.folder / "images", "--output", trial.folder / "out", "--pixel-size", 0.25
        )
        for _ in range(8)
    ]
    texts = [one.communicate(timeout=300)[0] for one in runs]
    ended = sum(one.returncode == 0 for one in runs)
    faults = [text[-200:] for one, text in zip(runs, texts, strict=True) if one.returncode not in {0, 1, 2}]
    masks = len(list((trial.folder / "out" / "masks").glob("*.png")))
    yield Figure("files of 8 processes in one folder", masks, least=4, faults=tuple(faults))
    yield Figure("of them end well, the others are refused", ended, least=1, faults=tuple(texts[:2]))


_SURROUNDINGS: tuple[dict[str, str], ...] = (
    {}, {"TZ": "Asia/Kathmandu"}, {"LC_ALL": "C"}, {"LC_ALL": "tr_TR.UTF-8"}, {"PYTHONHASHSEED": "1"},
    {"PYTHONHASHSEED": "77"}, {"OMP_NUM_THREADS": "1"}, {"TZ": "UTC", "PYTHONOPTIMIZE": "2"},
)  # fmt: skip


@row(18, "the same bytes in any time zone, locale, folder, and with any hash seed and number of threads")
def same_bytes(trial: Trial) -> Iterator[Figure]:
    write_samples(trial.folder, n_images=2, height=96, width=128, seed=trial.seed)
    found: dict[str, str] = {}
    for number, changes in enumerate(_SURROUNDINGS):
        out = trial.folder / f"out-{number}"
        products = ("--write", "mask,probs,labels,objects,geojson,coco,overlay", "--pixel-size", "0.25")
        text, _ = command(
            "predict", "demo", trial.folder / "images", "--output", out, *products, **changes
        ).communicate()
        results = digests(out)
        digest = hashlib.sha256(json.dumps(results or text, sort_keys=True).encode()).hexdigest()
        found.setdefault(digest, f"{changes}: {len(results)} results: {text[-300:]}")
    yield Figure("digests", len(found), most=1, faults=tuple(found.values()))


_LIMITED = """
import resource, sys
import numpy as np, tiledseg as ts
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]), resource.RLIM_INFINITY))
image = np.random.default_rng(0).integers(0, 256, (3000, 3000, 3), np.uint8)
try:
    probs = ts.tiled_predict(ts.load_model("demo"), image)
    print("RESULT", round(float(probs.sum(dtype=float)), 3))
except ts.TiledSegError as error:
    print("RESULT", type(error).__name__, error)
except MemoryError:
    print("RESULT MemoryError")
"""


@row(15, "ten limits of address space: the same result, or a typed error")
def memory_ladder(trial: Trial) -> Iterator[Figure]:
    faults: list[str | None] = []
    _, text = run_script(_LIMITED, -1)
    wanted = _result(text)
    for number in range(trial.count(10, 3)):
        limit = round(0.6e9 * 1.35**number)
        code, text = run_script(_LIMITED, limit)
        found = _result(text)
        typed = found.startswith(
            ("RESULT OutOfMemory", "RESULT Model", "RESULT Setting", "RESULT Array", "RESULT Tiled")
        )
        faults.append(
            None
            if code == 0 and (found == wanted or typed)
            else f"{limit / 1e6:.0f} MB: {code}, {text[-300:]}"
        )
    yield good("limits", faults)


def _result(text: str) -> str:
    return next((line for line in text.splitlines() if line.startswith("RESULT")), "")
