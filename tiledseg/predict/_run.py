"""One prediction under way: from the outputs of tiles to the finished map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._validate import invalid, real_number
from tiledseg.errors import ArrayError, CancelledError, ModelError, SettingError
from tiledseg.tiling import EnlargingSink, ReducingSink, Stitcher, reduced_dtype, reduced_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import FloatArray
    from tiledseg.predict._plan import Layout
    from tiledseg.predict._seams import SeamWatch
    from tiledseg.tiling import Reduction, Tile

__all__ = ["Run", "Target"]

_TOLERANCE = 1e-3
_ROWS_AT_ONCE = 256


@dataclass(slots=True)
class Target:
    """Where the map goes; opened once the number of channels is known."""

    layout: Layout  # the network and its tiles
    out: Any  # the map; a new array once there is a Stitcher where it is None
    reduction: Reduction | None  # what is stored
    threshold: float  # for ``reduction="threshold"``
    fill_value: float  # output of what is not computed
    enlarging: EnlargingSink | None = None  # what enlarges rows on their way, where the image was shrunk

    def open(self, classes: int) -> Stitcher:
        """Make the Stitcher, and the map where none was given."""
        shape = (*self.layout.shape, classes)
        if self.out is None:
            self.out = np.zeros(reduced_shape(shape, self.reduction), reduced_dtype(self.reduction, classes))
        if self.layout.grid.shape == self.layout.shape:
            return Stitcher(
                self.layout.grid, classes, self.out, reduction=self.reduction, threshold=self.threshold
            )
        reducing = ReducingSink(self.out, shape, self.reduction, self.threshold)
        self.enlarging = EnlargingSink(reducing, (*self.layout.grid.shape, classes))
        return Stitcher(self.layout.grid, classes, self.enlarging)

    def fill_from(self, row: int, classes: int) -> None:
        """Write the fill value into the rows that were not finished, reduced as all others."""
        height, width = self.layout.shape
        sink = ReducingSink(self.out, (height, width, classes), self.reduction, self.threshold)
        for start in range(row, height, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, height)
            sink[start:stop] = np.full((stop - start, width, classes), self.fill_value, np.float32)

    def finished_rows(self, stitcher: Stitcher) -> int:
        """Count the rows of the map that are final."""
        return self.enlarging.written_rows if self.enlarging else stitcher.finished_rows


@dataclass(slots=True)
class Run:
    """One prediction under way."""

    layout: Layout  # the network and its tiles
    target: Target  # where the map goes
    # positions in the grid of all tiles that the map lacks, in the order in which it takes them
    order: list[int]
    wanted: list[int]  # those of them that are computed
    callback: Callable[[Tile, int, int], bool | None] | None  # told of every tile
    probabilities: bool  # whether the first outputs have to be probabilities
    seams: SeamWatch | None = None  # compares neighbours
    stitcher: Stitcher | None = None  # there once the channels are known
    done: int = 0  # tiles that were added
    place: int = 0  # in the order: tiles before it were added or skipped

    def __post_init__(self) -> None:
        self.target.fill_value = real_number("fill_value", self.target.fill_value, "Use 0, say.")
        if self.callback is not None and not callable(self.callback):
            raise invalid(
                SettingError,
                "callback",
                must="be callable",
                got=self.callback,
                fix="Pass a function or None.",
            )
        if self.layout.predictor.classes is not None:  # else the first outputs tell
            self.stitcher = self.target.open(self.layout.predictor.classes)

    def add(self, ids: NDArray[np.int64], outputs: FloatArray) -> None:
        """Stitch a batch, and the tiles before it that are left out."""
        if self.done == 0 and self.probabilities:
            _check_probabilities(outputs)
        if self.stitcher is None:
            self.stitcher = self.target.open(outputs.shape[3])
        for place, tile_id in enumerate(ids.tolist()):
            self._skip_before(tile_id)
            self.place += 1
            self.stitcher.add([tile_id], outputs[place : place + 1])
            if self.seams is not None:
                self.seams.add(tile_id, outputs[place])
            self.done += 1
            self._tell(tile_id)

    def finish(self) -> Any:  # noqa: ANN401
        """Give the finished map."""
        if not self.order:
            return self.target.out  # it had everything already
        if self.stitcher is None:
            raise invalid(
                ArrayError,
                "mask",
                must="leave at least one tile where the model's channels are not known beforehand",
                got="a mask without a px set",
                fix="Skip the image.",
            )
        self._skip_before(None)
        self.stitcher.merge()
        return self.target.out

    def _skip_before(self, tile_id: int | None) -> None:
        """Skip the tiles left out that come before another: in order, so that rows can leave."""
        while (
            self.stitcher is not None and self.place < len(self.order) and self.order[self.place] != tile_id
        ):
            self.stitcher.skip([self.order[self.place]], self.target.fill_value)
            self.place += 1

    def _tell(self, tile_id: int) -> None:
        if self.callback is None or self.stitcher is None:
            return
        if self.callback(self.layout.grid[tile_id], self.done, len(self.wanted)) is False:
            rows = self.target.finished_rows(self.stitcher)
            if not hasattr(self.target.out, "finished_rows"):  # what goes on later is left as it is
                self.target.fill_from(rows, self.stitcher.n_channels)
            raise CancelledError(
                f"Cancelled after {self.done} of {len(self.wanted)} tiles; the first {rows} rows are final.",
                result=self.target.out,
                finished_rows=rows,
            )


def _check_probabilities(outputs: FloatArray) -> None:
    low, high = float(outputs.min()), float(outputs.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise invalid(
            ModelError,
            "network",
            must="return probabilities in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            fix="End it in a sigmoid or softmax; these look like logits.",
        )
