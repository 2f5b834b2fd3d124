"""Is a map more often wrong near tile borders than far from them? Px counted by their distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import whole_pair
from tiledseg.metrics._seams import check_borders

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["SEAM_DISTANCES", "SeamErrorTally", "SeamErrors"]

SEAM_DISTANCES: tuple[int, ...] = (0, 2, 4, 8, 16, 32, 64, 128)
"""Where the classes of distance begin, in px; the px on both sides of a border have distance 0."""


@dataclass(frozen=True, slots=True)
class SeamErrors:
    """Px by their distance from the nearest tile border; the sum of two is that of both images."""

    px: tuple[int, ...]  # how many lie in each class of `SEAM_DISTANCES`
    wrong: tuple[int, ...]  # those of them whose label is not the true one

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of wrong px in each class; nan where it has none."""
        return tuple(
            wrong / px if px else float("nan") for px, wrong in zip(self.px, self.wrong, strict=True)
        )

    def __add__(self, other: SeamErrors) -> SeamErrors:
        """Add up two images."""
        return SeamErrors(
            tuple(one + two for one, two in zip(self.px, other.px, strict=True)),
            tuple(one + two for one, two in zip(self.wrong, other.wrong, strict=True)),
        )


class SeamErrorTally:
    """Counts wrong px by their distance from tile borders, in rows that come in order."""

    def __init__(self, shape: tuple[int, int], borders_y: Sequence[int], borders_x: Sequence[int]) -> None:
        height, width = whole_pair("shape", shape)
        self._classes = (
            _classes(height, check_borders("borders_y", borders_y, height)),
            _classes(width, check_borders("borders_x", borders_x, width)),
        )
        self._table = np.zeros((len(SEAM_DISTANCES), 2), np.int64)
        self._row = 0

    def add(self, wrong: npt.NDArray[np.bool_]) -> None:
        """Take the next rows."""
        along_y = self._classes[0][self._row : self._row + len(wrong)]
        nearest = np.minimum(along_y[:, np.newaxis], self._classes[1])
        pairs = np.bincount((nearest * 2 + wrong).ravel(), minlength=self._table.size)
        self._table += pairs.reshape(self._table.shape)
        self._row += len(wrong)

    @property
    def errors(self) -> SeamErrors:
        """Of the rows so far."""
        right, wrong = (tuple(column.tolist()) for column in self._table.T)
        return SeamErrors(tuple(one + two for one, two in zip(right, wrong, strict=True)), wrong)


def _classes(length: int, borders: list[int]) -> npt.NDArray[np.intp]:
    """Give each px of an axis the class of its distance from the nearest border."""
    if not borders:
        return np.full(length, len(SEAM_DISTANCES) - 1, np.intp)
    places, edges = np.arange(length), np.asarray(borders)
    after = np.searchsorted(edges, places, side="right")
    below = np.where(after > 0, places - edges[after - 1], length)
    above = np.where(after < edges.size, edges[np.minimum(after, edges.size - 1)] - 1 - places, length)
    return np.searchsorted(SEAM_DISTANCES, np.minimum(below, above), side="right") - 1
