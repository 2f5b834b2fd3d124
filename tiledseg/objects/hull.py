"""Areas of convex hulls, counted in px as scikit-image does."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray

_Ints: TypeAlias = "NDArray[np.int64]"
_Chain: TypeAlias = "tuple[_Ints, _Ints, _Ints]"  # object, y and x of points, sorted by object and y

# Coordinates are doubled: the hull is that of the middles of all edges of px, half a px from their centres.


def convex_areas(left: AnyArray, right: AnyArray, n_rows: AnyArray) -> NDArray[np.int64]:
    """Count the px whose centre lies in the hull of each object; first and last px of each of its rows."""
    of = np.repeat(np.arange(len(n_rows)), n_rows)
    y = 2 * (np.arange(len(of)) - (np.cumsum(n_rows) - n_rows)[of])
    first = -_farthest(of, y, -2 * left.astype(np.int64))
    last = _farthest(of, y, 2 * right.astype(np.int64))
    return np.bincount(of, last - first + 1, len(n_rows)).astype(np.int64)


def _farthest(of: _Ints, y: _Ints, x: _Ints) -> _Ints:
    """Return the largest px, not doubled, in the hull in each row, from the largest px of each object."""
    chain = _outermost(_around(_outermost((of, y, x))))
    span = int(y.max(initial=0)) + 4
    edge = np.searchsorted(chain[0] * span + chain[1], of * span + y, side="right") - 1
    y0, x0 = chain[1][edge], chain[2][edge]
    down, across = chain[1][edge + 1] - y0, chain[2][edge + 1] - x0
    return np.asarray((x0 * down + across * (y - y0)) // (2 * down))


def _around(chain: _Chain) -> _Chain:
    """Replace the centre of each px by the middles of its edges."""
    of = np.concatenate(3 * [chain[0]])
    y = np.concatenate([chain[1] - 1, chain[1], chain[1] + 1])
    x = np.concatenate([chain[2], chain[2] + 1, chain[2]])
    least, span = int(x.min(initial=0)), int(y.max(initial=0)) + 2
    wide = int(x.max(initial=0)) - least + 1
    key = np.sort(((of * span + y + 1) * wide) + x - least)
    place, x = np.divmod(key, wide)
    farthest = np.ones(len(place), bool)
    farthest[:-1] = place[1:] != place[:-1]
    of, y = np.divmod(place[farthest], span)
    return of, y - 1, x[farthest] + least


def _outermost(chain: _Chain) -> _Chain:
    """Remove the points that do not lie beyond the line between their neighbours, until none is left."""
    # A corner of the hull lies beyond the line between any others: it is never removed.
    of, y, x = chain
    while len(of) > 2:
        inner = of[2:] == of[:-2]
        turn = (x[1:-1] - x[:-2]) * (y[2:] - y[:-2]) - (x[2:] - x[:-2]) * (y[1:-1] - y[:-2])
        stay = np.ones(len(of), bool)
        stay[1:-1] = ~inner | (turn > 0)
        if stay.all():
            break
        of, y, x = of[stay], y[stay], x[stay]
    return of, y, x
