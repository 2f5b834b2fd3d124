"""The rows of the scorecard: each is a function that gives figures with their targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

__all__ = ["ROWS", "Figure", "Row", "Trial", "row"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured number, and the least or the most that it should be."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    faults: tuple[str, ...] = ()  # the first that were found

    @property
    def passed(self) -> bool:
        """Whether the target is met."""
        return (self.least is None or self.value >= self.least) and (
            self.most is None or self.value <= self.most
        )

    @property
    def target(self) -> str:
        """The target in words."""
        return f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"

    def as_dict(self) -> dict[str, Any]:
        """Return what is stored as JSON."""
        return asdict(self) | {"passed": self.passed}


@dataclass(frozen=True, slots=True)
class Trial:
    """What a row is given: an empty folder, a seed, and the share of its work that it does."""

    folder: Path
    seed: int
    size: float

    def count(self, whole: int, least: int = 1) -> int:
        """Scale a number of attempts."""
        return max(least, round(whole * self.size))


@dataclass(frozen=True, slots=True)
class Row:
    """A row: its number, its name, and what measures it."""

    number: int
    name: str
    measure: Callable[[Trial], Iterable[Figure]]


MOST_FAULTS = 5  # that are told
ROWS: dict[int, Row] = {}


def row(number: int, name: str) -> Callable[[Callable[[Trial], Iterable[Figure]]], Any]:
    """Register a function as a row."""

    def register(measure: Callable[[Trial], Iterable[Figure]]) -> Any:
        ROWS[number] = Row(number, name, measure)
        return measure

    return register


def good(what: str, faults: Iterable[str | None]) -> Figure:
    """Count the attempts without a fault, of which all should be without."""
    found = list(faults)
    bad = [one for one in found if one is not None]
    return Figure(what, len(found) - len(bad), least=len(found), faults=tuple(bad[:MOST_FAULTS]))
