"""Are tile borders visible? A ratio of gradients that needs no truth."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tiledseg._checks import broken
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tiledseg._types import AnyArray

__all__ = ["SeamRatio", "seam_ratio"]

_BESIDE = 8  # px on each side of a border


@dataclass(frozen=True, slots=True)
class SeamRatio:
    """How much steeper a map is across tile borders than beside them; 1 where they cannot be seen.

    Attributes
    ----------
    y : float
        Across the horizontal borders, that is along y.
    x : float
        Across the vertical borders, that is along x.
    both : float
        Across all borders together.
    """

    y: float
    x: float
    both: float


@dataclass(frozen=True, slots=True)
class _Steps:
    """Sums and numbers of the absolute steps between neighbouring px."""

    across: float
    n_across: int
    beside: float
    n_beside: int

    def __add__(self, other: _Steps) -> _Steps:
        return _Steps(
            self.across + other.across,
            self.n_across + other.n_across,
            self.beside + other.beside,
            self.n_beside + other.n_beside,
        )

    @property
    def ratio(self) -> float:
        """Mean across over mean beside."""
        if not self.n_across or not self.n_beside:
            return math.nan
        if not self.beside:
            return math.inf if self.across else math.nan
        return (self.across / self.n_across) / (self.beside / self.n_beside)


def seam_ratio(probs: npt.ArrayLike, borders_y: Sequence[int], borders_x: Sequence[int]) -> SeamRatio:
    """Measure how visible tile borders are in a map.

    The mean absolute step from px to px across the borders, over the mean of the 8 steps on each
    side of them. Steps across another border, or beyond the edge, are left out.

    Parameters
    ----------
    probs : ndarray, shape (H, W) or (H, W, K)
        The map: probabilities in any range, or 8-bit grey values. Finite.
    borders_y, borders_x : sequence of int
        Borders between rows and between columns: border b lies between px b - 1 and px b. In
        [1, H - 1] and [1, W - 1]; those of a grid are ``grid.y.borders`` and ``grid.x.borders``.

    Returns
    -------
    SeamRatio
        For each axis and for both together. An axis without borders has nan, and so has a map
        that is flat both across its borders and beside them; one that is flat beside them only
        has inf.

    Raises
    ------
    ArrayError
        If `probs` is not of shape (H, W) or (H, W, K), or not of a finite numeric kind.
    SettingError
        If a border does not lie inside the map.

    Examples
    --------
    A slope of 1 per px with a jump of 5 between columns 19 and 20:

    >>> import numpy as np
    >>> row = np.arange(40.0)
    >>> row[20:] += 4
    >>> seam_ratio(np.tile(row, (30, 1)), [], [20])
    SeamRatio(y=nan, x=5.0, both=5.0)
    """
    values = _checked(probs)
    along_y = _steps(values, _inside("borders_y", borders_y, values.shape[0]))
    along_x = _steps(values.swapaxes(0, 1), _inside("borders_x", borders_x, values.shape[1]))
    return SeamRatio(along_y.ratio, along_x.ratio, (along_y + along_x).ratio)


def _steps(values: AnyArray, borders: list[int]) -> _Steps:
    """Add up the steps along the first axis, across the borders and beside them."""
    near = {place for border in borders for place in range(border - _BESIDE, border + _BESIDE + 1)}
    beside = sorted(place for place in near - set(borders) if 1 <= place < values.shape[0])
    across_sum, n_across = _sum_of_steps(values, borders)
    beside_sum, n_beside = _sum_of_steps(values, beside)
    return _Steps(across_sum, n_across, beside_sum, n_beside)


def _sum_of_steps(values: AnyArray, places: list[int]) -> tuple[float, int]:
    """Add up the steps from px ``place - 1`` to px ``place``, and count them."""
    after = np.asarray(places, np.intp)
    steps = np.abs(values[after].astype(np.float64) - values[after - 1])
    return float(steps.sum()), steps.size


def _checked(probs: npt.ArrayLike) -> AnyArray:
    """Refuse what is no map."""
    values = np.asarray(probs)
    if values.ndim not in {2, 3}:
        raise broken(
            ArrayError,
            "probs",
            must="have shape (H, W) or (H, W, K)",
            got=values.shape,
            fix="Give one map at a time, channels last.",
        )
    if values.dtype.kind not in "buif":
        raise broken(
            ArrayError,
            "probs",
            must="have a boolean, integer or real dtype",
            got=str(values.dtype),
            fix="Give probabilities or grey values.",
        )
    if not np.isfinite(values).all():
        raise broken(
            ArrayError,
            "probs",
            must="be finite",
            got="NaN or infinite values",
            fix="Replace them, for example with numpy.nan_to_num.",
        )
    return values


def _inside(name: str, borders: Sequence[int], length: int) -> list[int]:
    """Sort the borders, each once, and refuse those that lie outside the map."""
    for border in borders:
        if not 1 <= border < length:
            raise broken(
                SettingError,
                name,
                must=f"lie in [1, {length - 1}] in a map of {length} px",
                got=border,
                fix="Take the borders of the grid that the map was stitched on.",
            )
    return sorted(set(borders))
