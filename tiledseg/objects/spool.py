"""Arrays that grow at their end, in memory up to a limit and past it in a temporary file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._storage import ScratchFile, scratch_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_IN_MEMORY = 1 << 26  # bytes of a spool that stay in memory


def zeros(n: int, dtype: object) -> AnyArray:
    """Make a column of zeros; a long one lies in a temporary file, from which memory can be taken back."""
    kind: np.dtype[Any] = np.dtype(dtype)  # type: ignore[call-overload]
    if n * kind.itemsize <= _IN_MEMORY:
        return np.zeros(n, kind)
    return scratch_array(n, kind)


class Spool:
    """An array (N, ...) that grows at its end, and is read by ranges."""

    def __init__(self, dtype: object, item: tuple[int, ...] = ()) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)  # type: ignore[call-overload]
        self._item = item
        self._bytes = self.dtype.itemsize * int(np.prod(item, dtype=int))
        self._file = ScratchFile(_IN_MEMORY)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: AnyArray) -> None:
        """Add items at the end."""
        data = np.ascontiguousarray(values, self.dtype).reshape(-1).view(np.uint8).data
        self._file.write(self._length * self._bytes, data)
        self._length += len(values)

    def read(self, first: int, last: int) -> AnyArray:
        """Return items [first, last)."""
        data = self._file.read(first * self._bytes, (last - first) * self._bytes)
        return np.frombuffer(data, self.dtype).reshape(last - first, *self._item)


class RunSpool:
    """Runs of px in reading order, each with an id."""

    def __init__(self) -> None:
        self.x0, self.x1, self.ids = Spool(np.int32), Spool(np.int32), Spool(np.int32)
        self.marks = Spool(np.int32)  # of each run, or of none
        self._first = [np.zeros(1, np.int64)]  # of each row: its first run
        self._first_px = [np.zeros(1, np.int64)]  # and the number of px before it

    def append(self, row: AnyArray, x0: AnyArray, x1: AnyArray, ids: AnyArray, n_rows: int) -> None:
        """Add the runs of the next rows; `row` counts from the first of them."""
        for spool, values in ((self.x0, x0), (self.x1, x1), (self.ids, ids)):
            spool.append(values)
        px = np.bincount(row, x1 - x0, n_rows).astype(np.int64)
        self._first.append(np.cumsum(np.bincount(row, minlength=n_rows)) + self._first[-1][-1])
        self._first_px.append(np.cumsum(px) + self._first_px[-1][-1])

    def rows(self, first: int, last: int) -> tuple[AnyArray, AnyArray, AnyArray, AnyArray]:
        """Return row, x0, x1 and id of the runs in rows [first, last)."""
        starts = self._joined(self._first)[first : last + 1]
        row = np.repeat(np.arange(first, last, dtype=np.int32), np.diff(starts))
        a, b = int(starts[0]), int(starts[-1])
        return row, self.x0.read(a, b), self.x1.read(a, b), self.ids.read(a, b)

    def marks_of(self, first: int, last: int) -> AnyArray:
        """Return the mark of each run in rows [first, last); 0 where runs have none."""
        a, b = self._joined(self._first)[[first, last]].tolist()
        return self.marks.read(a, b) if len(self.marks) else np.zeros(b - a, np.int32)

    def px(self, first: int, last: int) -> tuple[int, int]:
        """Return how many px the runs above rows [first, last) have, and those up to their end."""
        starts = self._joined(self._first_px)
        return int(starts[first]), int(starts[last])

    @staticmethod
    def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        if len(parts) > 1:
            parts[:] = [np.concatenate(parts)]
        return parts[0]
