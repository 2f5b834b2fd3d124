"""One prediction under way: from the outputs of tiles to the finished map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._checks import broken, real_number
from tiledseg.errors import ArrayError, CancelledError, ModelError, SettingError
from tiledseg.stitcher import EnlargingSink, ReducingSink, Stitcher, reduced_dtype, reduced_shape

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tiledseg._types import FloatArray
    from tiledseg.grid import Tile
    from tiledseg.predict._plan import Layout
    from tiledseg.predict._seams import SeamWatch
    from tiledseg.stitcher import Reduction

__all__ = ["Run", "Target"]

_TOLERANCE = 1e-3
_ROWS_AT_ONCE = 256


@dataclass(slots=True)
class Target:
    """Where the map goes; opened once the number of channels is known.

    Attributes
    ----------
    layout : Layout
        The network and its tiles.
    out : array_like or None
        The map; a new array once there is a Stitcher where it is None.
    reduction : {"threshold", "argmax", "uint8"} or None
        What is stored.
    threshold : float
        For ``reduction="threshold"``.
    fill_value : float
        Output of what is not computed.
    enlarging : EnlargingSink or None
        What enlarges rows on their way, where the image was shrunk.
    """

    layout: Layout
    out: Any
    reduction: Reduction | None
    threshold: float
    fill_value: float
    enlarging: EnlargingSink | None = None

    def open(self, classes: int) -> Stitcher:
        """Make the Stitcher, and the map where none was given.

        Parameters
        ----------
        classes : int
            Output channels.

        Returns
        -------
        Stitcher
            Writes into the map.
        """
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
        """Write the fill value into the rows that were not finished, reduced as all others.

        Parameters
        ----------
        row : int
            First of these rows.
        classes : int
            Output channels.
        """
        height, width = self.layout.shape
        sink = ReducingSink(self.out, (height, width, classes), self.reduction, self.threshold)
        for start in range(row, height, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, height)
            sink[start:stop] = np.full((stop - start, width, classes), self.fill_value, np.float32)

    def finished_rows(self, stitcher: Stitcher) -> int:
        """Count the rows of the map that are final.

        Parameters
        ----------
        stitcher : Stitcher
            The one that was opened.

        Returns
        -------
        int
            Rows from the top.
        """
        return self.enlarging.written_rows if self.enlarging else stitcher.finished_rows


@dataclass(slots=True)
class Run:
    """One prediction under way.

    Attributes
    ----------
    layout : Layout
        The network and its tiles.
    target : Target
        Where the map goes.
    order : list of int
        Positions in the grid of all tiles that the map lacks, in the order in which it takes them.
    wanted : list of int
        Those of them that are computed.
    callback : callable or None
        Told of every tile.
    probabilities : bool
        Whether the first outputs have to be probabilities.
    seams : SeamWatch or None
        Compares neighbours.
    stitcher : Stitcher or None
        There once the channels are known.
    done : int
        Tiles that were added.
    place : int
        In the order: tiles before it were added or skipped.
    """

    layout: Layout
    target: Target
    order: list[int]
    wanted: list[int]
    callback: Callable[[Tile, int, int], bool | None] | None
    probabilities: bool
    seams: SeamWatch | None = None
    stitcher: Stitcher | None = None
    done: int = 0
    place: int = 0

    def __post_init__(self) -> None:
        self.target.fill_value = real_number("fill_value", self.target.fill_value, "Use 0, say.")
        if self.callback is not None and not callable(self.callback):
            raise broken(
                SettingError,
                "callback",
                must="be callable",
                got=self.callback,
                fix="Pass a function or None.",
            )
        if self.layout.predictor.classes is not None:  # else the first outputs tell
            self.stitcher = self.target.open(self.layout.predictor.classes)

    def add(self, ids: NDArray[np.int64], outputs: FloatArray) -> None:
        """Stitch a batch, and the tiles before it that are left out.

        Parameters
        ----------
        ids : ndarray
            (N,): positions in the grid, in the order of the run.
        outputs : ndarray
            (N, h, w, K) float32.

        Raises
        ------
        CancelledError
            If the callback returned False.
        ModelError
            If the outputs are no probabilities and have to be.
        StitchError
            If they are not finite.
        """
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
        """Give the finished map.

        Returns
        -------
        array_like
            The map.

        Raises
        ------
        ArrayError
            If no tile was computed and the channels are not known.
        """
        if not self.order:
            return self.target.out  # it had everything already
        if self.stitcher is None:
            raise broken(
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
        raise broken(
            ModelError,
            "network",
            must="return probabilities in [0, 1]",
            got=f"values from {low:.4g} to {high:.4g}",
            fix="End it in a sigmoid or softmax; these look like logits.",
        )
