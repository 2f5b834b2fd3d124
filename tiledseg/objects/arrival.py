"""Rows of a map in order, from regions that arrive in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._storage import scratch_array
from tiledseg._validate import invalid
from tiledseg.errors import ArrayError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tiledseg._types import AnyArray

_BAND = 256  # rows that are passed on at a time


class Arrival:
    """Passes whole rows on in order; what comes before its turn waits in a temporary file."""

    def __init__(
        self, shape: tuple[int, ...], dtype: np.dtype[Any], take: Callable[[int, AnyArray], None]
    ) -> None:
        self._shape, self._dtype, self._take = shape, dtype, take
        self._next = 0  # first row that was not passed on
        self._arrived = np.zeros(shape[0], np.int64)  # px of each row
        self._waiting: AnyArray | None = None

    def put(self, region: object, px: object) -> None:
        """Take a region; it belongs to the map and no px of it came before."""
        rows, columns = self._slices(region)
        block = np.asarray(px)
        wanted = (rows.stop - rows.start, columns.stop - columns.start, *self._shape[2:])
        if block.size != np.prod(wanted, dtype=int):
            raise invalid(
                ArrayError, "px", must=f"have shape {wanted}", got=block.shape, fix="Check the region."
            )
        if not block.size:
            return
        block = block.reshape(wanted)
        self._arrived[rows] += wanted[1]
        if (self._arrived[rows] > self._shape[1]).any() or rows.start < self._next:
            must, got = "arrive once", f"rows {rows.start} to {rows.stop} once more"
            raise invalid(ArrayError, "px", must=must, got=got, fix="Write each px of the map once.")
        if rows.start == self._next and wanted[1] == self._shape[1]:
            self._take(rows.start, block)
            self._next = rows.stop
        else:
            self._wait()[rows, columns] = block
        self._pass_on()

    def check_complete(self) -> None:
        """Check that all px arrived."""
        if self._next < self._shape[0]:
            got = f"none or a part of row {self._next}"
            fix = "Write all of the map first."
            raise invalid(ArrayError, "map", must=f"have {self._shape[0]} whole rows", got=got, fix=fix)

    def _slices(self, region: object) -> tuple[slice, slice]:
        parts = region if isinstance(region, tuple) else (region,)
        whole = (*parts, slice(None))[:2]
        rows, columns = (
            slice(*one.indices(length)[:2]) for one, length in zip(whole, self._shape[:2], strict=True)
        )
        return rows, columns

    def _wait(self) -> AnyArray:
        if self._waiting is None:
            self._waiting = scratch_array(self._shape, self._dtype)
        return self._waiting

    def _pass_on(self) -> None:
        """Pass on the rows that became complete."""
        while self._waiting is not None and self._next < self._shape[0]:
            band = self._arrived[self._next : self._next + _BAND] == self._shape[1]
            n = len(band) if band.all() else int(band.argmin())
            if not n:
                return
            self._take(self._next, np.asarray(self._waiting[self._next : self._next + n]))
            self._next += n
