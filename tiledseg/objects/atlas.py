"""Atlases: the boxes of many objects packed into one small picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_PX = 1 << 18  # of the boxes of an atlas, so that it stays in the cache of a processor
_LEAST_WIDTH = 512


@dataclass(frozen=True, slots=True, eq=False)
class Atlas:
    """A picture in which objects do not touch each other, nor its border."""

    shape: tuple[int, int]
    y: NDArray[np.int64]  # of each object: first row of its box
    x: NDArray[np.int64]

    @classmethod
    def of(cls, height: AnyArray, width: AnyArray) -> Atlas:
        """Place boxes side by side, the tallest first."""
        order = np.argsort(-height, kind="stable")
        ends = np.cumsum(width[order] + 1)
        wide = max(_LEAST_WIDTH, int(width.max()) + 1)
        y, x, first, top = np.empty_like(ends), np.empty_like(ends), 0, 1
        while first < len(order):
            before = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, before + wide, side="right"))
            shelf = order[first:last]
            y[shelf], x[shelf] = top, ends[first:last] - width[shelf] - before
            top += int(height[order[first]]) + 1
            first = last
        return cls((top, wide + 1), y, x)

    def places(self, of: AnyArray, y: AnyArray, x: AnyArray) -> NDArray[np.int64]:
        """Return where px of objects lie in the flat picture; (y, x) counts from the corner of the box."""
        return np.asarray((self.y[of] + y) * self.shape[1] + self.x[of] + x)

    def painted(self, of: AnyArray, y: AnyArray, x0: AnyArray, x1: AnyArray) -> NDArray[np.int32]:
        """Paint runs with the number of their object, from 1."""
        # no run begins where another ends: objects are apart, and runs of one object in a row too
        steps = np.zeros(self.shape[0] * self.shape[1], np.int32)
        steps[self.places(of, y, x0)] = of + 1
        steps[self.places(of, y, x1)] = -(of + 1)
        return np.cumsum(steps, out=steps).reshape(self.shape)


def groups(height: AnyArray, width: AnyArray) -> Iterator[tuple[int, int]]:
    """Divide objects into as many as fit into an atlas."""
    used = np.cumsum((height + 1) * (width + 1))
    first = 0
    while first < len(used):
        before = used[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(used, before + _PX, side="right")))
        yield first, last
        first = last
