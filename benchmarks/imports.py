"""Time of ``import tiledseg``.

What: the statement alone, and what the first `tiled_predict` with a callable must load. How:
fresh interpreters in turn, ten rounds after one that fills the file cache, medians; other libraries
for comparison, three rounds. Target: 0.1 s, and neither Keras nor TensorFlow loaded by either.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks._rows import Row, of_samples

__all__ = ["run"]

_TARGET_S = 0.1
_SCRIPT = """
import sys, time
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
import json
print(json.dumps([seconds, [name for name in ("keras", "tensorflow") if name in sys.modules]]))
"""
_OURS = "import tiledseg"
_PUBLIC = "from tiledseg import tiled_predict"
_OTHERS = (
    "import numpy",
    "from tiler import Tiler, Merger",
    "from monai.inferers import sliding_window_inference",
)


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002
    """Measure."""
    rounds = 3 if quick else 10
    times, heavy = _timed((_OURS, _PUBLIC), rounds)
    others, _ = _timed(_OTHERS, 1 if quick else 3)
    return [
        of_samples(_OURS, times.pop(_OURS), "s", at_most=_TARGET_S),
        *(of_samples(statement, seconds, "s") for statement, seconds in (times | others).items()),
        *(
            Row(f"Keras and TensorFlow loaded by `{statement}`", len(loaded), "of 2", at_most=0)
            for statement, loaded in heavy.items()
        ),
    ]


def _timed(statements: tuple[str, ...], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    times: dict[str, list[float]] = {statement: [] for statement in statements}
    heavy: dict[str, list[str]] = {}
    for turn in range(rounds + 1):
        for statement in statements:
            seconds, heavy[statement] = _once(statement)
            if turn:
                times[statement].append(seconds)
    return times, heavy


def _once(statement: str) -> tuple[float, list[str]]:
    script = _SCRIPT.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    seconds, loaded = json.loads(done.stdout.splitlines()[-1])
    return seconds, loaded
