"""Cutting an image's probabilities at a threshold that its own histogram gives."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from tiledseg._types import FloatArray
    from tiledseg.config import AutoThreshold
    from tiledseg.io import ImageSink

__all__ = ["LevelMap", "cut_level", "levels_of"]

_WHITE = 255
_ROWS, _COLUMNS = 512, 4096


def levels_of(probs: FloatArray) -> NDArray[np.uint8]:
    """Give probabilities in 256 levels."""
    return np.rint(np.clip(probs[..., 0], 0, 1) * _WHITE).astype(np.uint8)


def cut_level(counts: NDArray[np.int64], method: AutoThreshold) -> int:
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


class LevelMap:
    """A mask that is cut once all probabilities are there: until then they wait in a temporary file."""

    def __init__(self, sink: ImageSink, method: AutoThreshold) -> None:
        self._sink, self._method = sink, method
        self._height, self._width = sink.shape[:2]

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._file:
            if kind is None:
                self._cut()

    def __setitem__(self, key: Any, probs: FloatArray) -> None:  # noqa: ANN401
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        top, left = rows.indices(self._height)[0], columns.indices(self._width)[0]
        for row, line in enumerate(levels_of(probs), top):
            self._file.seek(row * self._width + left)
            self._file.write(line.tobytes())

    def _read(self, y: int, x: int) -> NDArray[np.uint8]:
        rows, columns = range(y, min(y + _ROWS, self._height)), min(_COLUMNS, self._width - x)
        block = np.empty((len(rows), columns), np.uint8)
        for row in rows:
            self._file.seek(row * self._width + x)
            block[row - y] = np.frombuffer(self._file.read(columns), np.uint8)
        return block

    def _cut(self) -> None:
        corners = [(y, x) for y in range(0, self._height, _ROWS) for x in range(0, self._width, _COLUMNS)]
        counts = np.zeros(256, np.int64)
        for y, x in corners:
            counts += np.bincount(self._read(y, x).ravel(), minlength=256)
        level = cut_level(counts, self._method)
        for y, x in corners:
            block = self._read(y, x)
            mask = (block > level).astype(np.uint8) * np.uint8(_WHITE)
            self._sink[y : y + block.shape[0], x : x + block.shape[1]] = mask
