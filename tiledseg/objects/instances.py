"""Maps in which each label is one object: numbered in reading order and measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import check_finite, check_image, read_region
from tiledseg.io import pixel_size_from
from tiledseg.objects.collect import check_out, collected
from tiledseg.objects.labels import px_of
from tiledseg.objects.measure import Values
from tiledseg.objects.runs import Components, runs_of
from tiledseg.objects.spool import RunSpool
from tiledseg.objects.table import Objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, PathLike, Sink, Source
    from tiledseg.io import PixelSize
    from tiledseg.objects.collect import ObjectBatch


class Instances:
    """Takes rows of a map of instances in order, and makes objects of them."""

    def __init__(
        self,
        shape: tuple[int, int],
        *,
        image: Source | None = None,
        pixel_size: PixelSize | float | tuple[float, float] | None = None,
    ) -> None:
        self.shape: tuple[int, int] = (int(shape[0]), int(shape[1]))
        self._image = image
        self._pixel_size = pixel_size_from(pixel_size) or getattr(image, "pixel_size", None)
        self._spool = RunSpool()
        self._labels = np.empty(0, np.int64)  # ascending, and the number of each in reading order
        self._numbers = np.empty(0, np.int64)
        self._values: list[Values] = []
        if image is not None:
            names = [f"channel_{channel}" for channel in range(check_image(image)[2])]
            self._values = [Values(names, np.dtype(image.dtype))]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of each object in the map that was given."""
        return self._labels[np.argsort(self._numbers)]

    def __setitem__(self, rows: slice, band: AnyArray) -> None:
        """Take the next rows, (h, W)."""
        width = self.shape[1]
        start, length, label = runs_of(band, background=False)
        row, x0 = np.divmod(start, width)
        self._spool.append(row, x0, x0 + length, self._numbered(label), len(band))
        if self._image is not None:
            pixels = read_region(self._image, rows, slice(0, width))
            check_finite(pixels, "image", (rows.start, 0))
            self._values[0].append(pixels.reshape(len(band) * width, -1)[px_of(start, length)])

    def finish(
        self,
        out: Sink | PathLike | None = None,
        *,
        each: Callable[[ObjectBatch], object] | None = None,
        measure: bool = True,
        progress: bool = False,
    ) -> Objects:
        """Measure the objects, and write their labels, as `ObjectsSink.finish` does."""
        check_out(out, self.shape)
        n = len(self._labels)
        found = Components.of(self.shape, self._spool, np.arange(n), np.ones(n, np.int64))
        options: dict[str, Any] = {"each": each, "measure": measure, "progress": progress}
        table = collected(found, self._values, self._pixel_size, out, {}, **options)
        return Objects(out, table, 0, self._pixel_size)

    def _numbered(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each label; new ones are numbered as they come."""
        known, first = np.unique(label, return_index=True)
        places = np.minimum(np.searchsorted(self._labels, known), max(len(self._labels) - 1, 0))
        is_new = np.ones(len(known), bool) if not len(self._labels) else self._labels[places] != known
        new = known[is_new][np.argsort(first[is_new])]
        labels = np.concatenate([self._labels, new])
        numbers = np.concatenate([self._numbers, len(self._labels) + np.arange(len(new))])
        order = np.argsort(labels, kind="stable")
        self._labels, self._numbers = labels[order], numbers[order]
        return np.asarray(self._numbers[np.searchsorted(self._labels, label)])
