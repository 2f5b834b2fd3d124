"""What is wrong with the files of a dataset."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias

from tiledseg._validate import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Problem", "ProblemKind", "listed"]

ProblemKind: TypeAlias = Literal["no mask", "no image", "same stem", "size", "unreadable", "changed"]
"""A partner is missing, a stem occurs twice, sizes differ, a file cannot be read or is another one."""

_MOST_NAMES = 20
_ORDER: tuple[ProblemKind, ...] = ("unreadable", "changed", "same stem", "no mask", "no image", "size")


@dataclass(frozen=True, slots=True)
class Problem:
    """A file, or some of one name, that cannot be used."""

    kind: ProblemKind  # what is wrong
    name: str  # name of the image
    text: str  # what exactly is wrong, on one line
    harmless: bool = False  # whether the layout expects such gaps, so that the rest is used in any case

    def __str__(self) -> str:
        return f"{self.kind}: {shown(self.name)}: {self.text}"


def listed(problems: Sequence[Problem]) -> str:
    """List problems on one line: each kind with its names, and the text of its first."""
    ordered = sorted(problems, key=lambda problem: _ORDER.index(problem.kind))
    return " ".join(_kind(kind, list(some)) for kind, some in groupby(ordered, lambda one: one.kind))


def _kind(kind: ProblemKind, problems: list[Problem]) -> str:
    names = ", ".join(shown(problem.name) for problem in problems[:_MOST_NAMES])
    more = f" and {len(problems) - _MOST_NAMES} more" if len(problems) > _MOST_NAMES else ""
    return f"{kind}: {names}{more} (the first: {problems[0].text.rstrip('.')})."
