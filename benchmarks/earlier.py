"""This checkout beside an earlier one: ``python -m benchmarks.earlier ROOT [--rounds N] [name ...]``.

What: stitching alone; `tiled_predict` by Keras over bare compiled calls; a band of rows 49,152 px wide, its
peak memory over the band's own; `import tiledseg`; a step of training over the bare step; and a map from
zarr to a pyramidal OME-TIFF of 65,536 x 65,536 px (``streaming``). How: each measurement in a process of
its own, with the code of one checkout; both checkouts in turn, so that what else the machine does meets
both; processor time, all cores together; medians over the rounds, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import flat
from benchmarks._clock import ratios

if TYPE_CHECKING:
    from collections.abc import Callable

_HERE = Path(__file__).resolve().parents[1]
_SCRIPTS = {
    "stitching": """
import time, numpy, tiledseg
image = numpy.random.default_rng(0).integers(0, 256, (4096, 4096, 3), numpy.uint8)
tiling = tiledseg.TilingConfig(tile_size=512, overlap=128)
taken = []
for _ in range(4):
    started = time.process_time()
    tiledseg.tiled_predict(lambda tiles: tiles[..., :1], image, tiling)
    taken.append(time.process_time() - started)
print(min(taken[1:]))
""",
    "bare": """
import inspect, time, numpy, tensorflow, tiledseg
settings = tiledseg.UNetConfig(input_shape=(512, 512, 3), levels=5, base_filters=16, base_kernel=3)
model = tiledseg.UNetBuilder(settings).build()
image = numpy.random.default_rng(0).random((1280, 1280, 3), numpy.float32)
tiling = tiledseg.TilingConfig(tile_size=512, overlap=128)
tiler = tiledseg.Tiler(tiling)
grid = tiledseg.plan(model, image.shape, tiling).grid
tiles = [batch.tiles for batch in tiler.batches(image, 1, grid=grid)]
call = tensorflow.function(lambda batch: model(batch, training=False))
known = inspect.signature(tiledseg.tiled_predict).parameters
keras = {"engine": "keras"} if "engine" in known else {"runtime": {"engine": "keras"}}
def bare():
    for one in tiles:
        call(one).numpy()
def ours():
    tiledseg.tiled_predict(model, image, tiling, batch_size=1, **keras)
def timed(run):
    started = time.process_time()
    run()
    return time.process_time() - started
bare(), ours()
print(min(timed(ours) for _ in range(3)) / min(timed(bare) for _ in range(3)))
""",
    "band": """
import numpy, tiledseg
from benchmarks._memory import peak_of, status_bytes
size, width = 2048, 49152
class Nowhere:
    shape, dtype = (size, width, 1), numpy.dtype(numpy.float32)
    def __setitem__(self, rows, values):
        pass
image = numpy.broadcast_to(numpy.uint8(0), (size, width, 1))
tiling = tiledseg.TilingConfig(tile_size=512, overlap=128)
tiledseg.tiled_predict(lambda tiles: tiles / 255, image[:600, :600], tiling)
before = status_bytes("VmRSS")
peak = peak_of(lambda: tiledseg.tiled_predict(lambda tiles: tiles / 255, image, tiling, out=Nowhere()))
print((peak - before) / (512 * width * 4))
""",
    "import": """
import time
started = time.process_time()
import tiledseg
print(time.process_time() - started)
""",
    "training": """
import numpy
from benchmarks.training import timed
fit, bare = timed(quick=True, deterministic=True, bare=True)
print(numpy.median([one[1] / other[1] for one, other in zip(fit, bare)]))
""",
}
_UNITS = {
    "stitching": "s of processor time for 4096 x 4096 px",
    "bare": "times the bare calls",
    "band": "bands of rows",
    "import": "s of processor time",
    "training": "times the bare step",
    "streaming": "s of processor time for 65,536 x 65,536 px",
}


def _run(root: Path, arguments: list[str]) -> str:
    """Run Python with the package and the benchmarks of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(root), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-W", "ignore", *arguments]
    done = subprocess.run(command, check=True, cwd=root, env=environment, stdout=subprocess.PIPE)
    return done.stdout.decode()


def _measured(name: str) -> Callable[[Path], float]:
    return lambda root: float(_run(root, ["-c", _SCRIPTS[name]]).splitlines()[-1])


def _streamed(folder: Path, size: int) -> Callable[[Path], float]:
    """Return what streams one image with the code of a checkout, and its processor time in seconds."""
    path = flat.image_at(folder, "zarr", size)

    def measured(root: Path) -> float:
        arguments = json.dumps({"path": str(path), "out": str(folder / "map.ome.tif")})
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        target = ["-m", "benchmarks._fresh", "benchmarks.flat:stream"]
        _run(root, [*target, arguments, str(folder / "answer.json")])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        (folder / "map.ome.tif").unlink()
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return measured


def main() -> None:
    """Measure, and print a table in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.earlier", description=__doc__)
    parser.add_argument("root", type=Path, help="the earlier checkout")
    parser.add_argument("names", nargs="*", choices=[*_UNITS, []], help="all, or some of these")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=65_536, help="px of a side of the streamed image")
    options = parser.parse_args()
    roots = (options.root.resolve(), _HERE)
    print("| what | earlier | now | now over earlier |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names or _UNITS:
            run = _measured(name) if name in _SCRIPTS else _streamed(Path(folder), options.size)
            pairs = [[run(root) for root in roots] for _ in range(options.rounds)]
            earlier, now = zip(*pairs, strict=True)
            share = ratios(now, earlier)
            print(
                f"| {name}: {_UNITS[name]} | {statistics.median(earlier):.3g} | {statistics.median(now):.3g} "
                f"| {statistics.median(share):.3f} ({min(share):.3f} to {max(share):.3f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
