"""Areas within outlines: which px are inside."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """An area by its outline."""

    # A px is inside where its centre is: of px (y, x) that is (y + 0.5, x + 0.5). A centre is inside where a
    # ray from it crosses the rings an odd number of times, so that rings inside others are holes; one that
    # lies on a left or upper edge is inside, on a right or lower edge outside.

    name: str  # of its class; empty where it has none
    parts: tuple[tuple[NDArray[np.float64], ...], ...]  # the rings of each part, (n, 2) of x and y
    mask: NDArray[np.bool_] | None = None  # of an area that is stored by its px instead, (H, W)
    crowd: bool = False  # whether it marks many objects that nobody outlined (COCO's iscrowd)
    numbered: bool = False  # whether a number may follow the class, as ImageJ makes names of regions differ
    plane: Mapping[str, int] = field(default_factory=dict)  # position along z and t, where it states one

    def inside(self, rows: slice, columns: slice) -> NDArray[np.bool_]:
        """Say which px of a rectangle are inside."""
        if self.mask is not None:
            found = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.bool_)
            given = self.mask[rows, columns]
            found[: given.shape[0], : given.shape[1]] = given
            return found
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        found = np.zeros(shape, np.bool_)
        for rings in self.parts:
            found |= _inside(rings, rows, columns)
        return found

    def box(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Return the rows and columns of an image that it lies in."""
        if self.mask is not None:
            return slice(0, shape[0]), slice(0, shape[1])
        rings_of_all = [ring for rings in self.parts for ring in rings]
        if not rings_of_all:
            return slice(0, 0), slice(0, 0)
        points = np.concatenate(rings_of_all)
        (x0, y0), (x1, y1) = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
        rows, columns = np.clip([y0, y1 + 1], 0, shape[0]), np.clip([x0, x1 + 1], 0, shape[1])
        return slice(int(rows[0]), int(rows[1])), slice(int(columns[0]), int(columns[1]))


class OutlineMask:
    """The px inside any of several outlines, read by region as an image is."""

    def __init__(self, outlines: Sequence[Outline], shape: tuple[int, int]) -> None:
        self.shape: tuple[int, int] = shape
        self.dtype: np.dtype[Any] = np.dtype(np.bool_)
        self._outlines = [(one, one.box(shape)) for one in outlines]

    def __getitem__(self, key: tuple[slice, slice]) -> NDArray[np.bool_]:
        rows, columns = (slice(*one.indices(length)[:2]) for one, length in zip(key, self.shape, strict=True))
        found = np.zeros((max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)), np.bool_)
        for outline, (down, across) in self._outlines:
            y0, y1 = max(rows.start, down.start), min(rows.stop, down.stop)
            x0, x1 = max(columns.start, across.start), min(columns.stop, across.stop)
            if y0 < y1 and x0 < x1:
                part = found[y0 - rows.start : y1 - rows.start, x0 - columns.start : x1 - columns.start]
                part |= outline.inside(slice(y0, y1), slice(x0, x1))
        return found


def _inside(rings: Sequence[NDArray[np.float64]], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """Count, for each px, the edges that lie to the left of its centre; inside they are an odd number."""
    height, width = rows.stop - rows.start, columns.stop - columns.start
    crossings = np.zeros(height * (width + 1), np.int64)
    for ring in rings:
        y, x = _crossings(ring, rows)
        column = np.clip(np.ceil(x - 0.5), columns.start, columns.stop).astype(np.int64) - columns.start
        crossings += np.bincount((y - rows.start) * (width + 1) + column, minlength=crossings.size)
    parity = np.cumsum(crossings.reshape(height, width + 1), axis=1)[:, :width] % 2
    return parity.astype(np.bool_)


def _crossings(ring: NDArray[np.float64], rows: slice) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find where the edges of a ring cross the centres of rows: the row, and x."""
    start, end = ring, np.roll(ring, -1, axis=0)
    upper = np.where((start[:, 1] < end[:, 1])[:, None], start, end)
    lower = np.where((start[:, 1] < end[:, 1])[:, None], end, start)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), rows.start, rows.stop).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), rows.start, rows.stop).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(ring)), count)
    y = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    height = lower[edge, 1] - upper[edge, 1]
    share = (y + 0.5 - upper[edge, 1]) / np.where(height > 0, height, 1)
    return y, upper[edge, 0] + share * (lower[edge, 0] - upper[edge, 0])


def painted(
    outlines: Sequence[Outline], labels: Sequence[int], shape: tuple[int, int], *, first: bool = False
) -> AnyArray:
    """Paint outlines with their labels: where two overlap the later one holds, or the first."""
    found = np.zeros(shape, np.int32)
    for outline, label in zip(outlines, labels, strict=True):
        box = outline.box(shape)
        inside = outline.inside(*box)
        found[box][inside & (found[box] == 0) if first else inside] = label
    return found


def class_text(found: object) -> str:
    """Bring the name of a class to one Unicode form; empty where it has none."""
    return unicodedata.normalize("NFC", str(found or ""))
