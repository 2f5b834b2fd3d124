"""The connected areas of a map of labels, and their outlines along the edges of px."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import check_labels, whole_number
from tiledseg.metrics import components

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

Ring = list[tuple[int, int]]
"""Corners (x, y) of a closed line, the first again at the end."""

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (y, x): right, down, left, up


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A connected area of one label."""

    label: int
    y: int  # first row of its bounding box
    x: int  # first column of its bounding box
    mask: NDArray[np.bool_]  # the px of the bounding box that belong to it

    @property
    def area(self) -> int:
        """Number of px."""
        return int(np.count_nonzero(self.mask))

    def rings(self) -> list[Ring]:
        """Trace its outline, then the outlines of its holes, along the edges of px."""
        # Px (y, x) covers [x, x + 1] by [y, y + 1]: corners are whole numbers, and the polygon covers the
        # same area. Where two px touch only at a corner, the line turns towards the background:
        # no ring touches itself, and the polygon is valid.
        edges, rings = _edges(self.mask), []
        for row, column in np.argwhere(edges[0]).tolist():
            if edges[0, row, column]:  # not part of an earlier ring
                rings.append([(self.x + x, self.y + y) for x, y in _ring(edges, row, column)])
        return rings  # the first edge in reading order belongs to the outline


def cells_of(labels: AnyArray, *, least_px: int = 1) -> Iterator[Cell]:
    """Find the connected areas of each label; px that touch only at a corner are separate."""
    labels = check_labels(labels, "labels")
    least = whole_number("least_px", least_px)
    found = np.unique(labels[labels > 0]).tolist()
    return chain.from_iterable(_of_label(int(one), components(labels == one, least)) for one in found)


def _of_label(label: int, ids: NDArray[np.int32]) -> Iterator[Cell]:
    places = np.flatnonzero(ids)
    numbers = ids.ravel()[places]
    order = np.argsort(numbers, kind="stable")
    places, numbers = places[order], numbers[order]
    starts = np.flatnonzero(np.diff(numbers, prepend=0))
    if not starts.size:
        return
    rows, columns = np.divmod(places, ids.shape[1])
    boxes = zip(
        *(np.minimum.reduceat(along, starts).tolist() for along in (rows, columns)),
        *(np.maximum.reduceat(along, starts).tolist() for along in (rows, columns)),
        strict=True,
    )
    for number, (top, left, bottom, right) in enumerate(boxes, start=1):
        yield Cell(label, top, left, ids[top : bottom + 1, left : right + 1] == number)


def _edges(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark each edge that has the area on its right, by its direction and the corner where it starts."""
    padded = np.pad(mask, 1)
    here, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    edges = np.zeros((4, *here.shape), bool)
    edges[0] = here & ~above
    edges[1] = left & ~here
    edges[2, :, 1:] = (above & ~here)[:, :-1]
    edges[3, 1:] = (here & ~left)[:-1]
    return edges


def _ring(edges: NDArray[np.bool_], row: int, column: int) -> Ring:
    """Follow edges from one that leads to the right until the ring is closed, and remove them."""
    first = (0, row, column)
    passed, corners, heading = [first], [(column, row)], 0
    while True:
        row, column = row + _STEPS[heading][0], column + _STEPS[heading][1]
        turns = (heading - 1, heading, heading + 1)  # left, straight on, right
        turned = next(turn % 4 for turn in turns if edges[turn % 4, row, column])
        if turned != heading:
            corners.append((column, row))
        if (turned, row, column) == first:
            break
        heading = turned
        passed.append((heading, row, column))
    edges[tuple(np.transpose(passed))] = False
    return corners
