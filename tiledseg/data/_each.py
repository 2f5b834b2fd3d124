"""Doing one thing to every pair, and naming every pair that it failed for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tiledseg._validate import shown
from tiledseg.errors import TiledSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg.data._pairs import Pair

__all__ = ["each"]

_MOST_TEXTS = 10
_Result = TypeVar("_Result")


def each(pairs: Sequence[Pair], act: Callable[[Pair], _Result]) -> list[_Result]:
    """Do one thing to every pair before complaining of any."""
    results, errors = [], []
    for pair in pairs:
        try:
            results.append(act(pair))
        except TiledSegError as error:
            errors.append((pair.name, error))
    if errors:
        texts = [f"{shown(name)}: {error}" for name, error in errors[:_MOST_TEXTS]]
        more = f" … and {len(errors) - _MOST_TEXTS} more." if len(errors) > _MOST_TEXTS else ""
        raise type(errors[0][1])(
            f"{len(errors)} of {len(pairs)} pairs cannot be used. {' '.join(texts)}{more}"
        ) from errors[0][1]
    return results
