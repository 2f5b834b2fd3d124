"""The results of a benchmark: rows with a value and, where something is promised, a target."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Row", "of_samples", "show"]

_QUIET_CORES = 0.1
_VERDICTS = {True: "[green]met[/]", False: "[bold red]missed[/]", None: ""}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

        ``samples`` are the single measurements that ``value`` is the median of. A figure with
        ``at_least`` or ``at_most`` has a target to meet. ``beside`` adds to it, for example
    how good the timed result is.
    """

    what: str
    value: float
    unit: str = ""
    samples: tuple[float, ...] = ()
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    beside: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target."""
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def target(self) -> str:
        """The target in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:.3g}"
        return "" if self.at_most is None else f"at most {self.at_most:.3g}"

    def as_dict(self) -> dict[str, Any]:
        """Return the row as it is stored in JSON."""
        return asdict(self) | {"met": self.met}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Row:
        """Undo `as_dict`."""
        return cls(**{key: value for key, value in stored.items() if key != "met"})


def of_samples(what: str, samples: Sequence[float], unit: str = "", **target: Any) -> Row:
    """Make the row of a median."""
    return Row(what, statistics.median(samples), unit, tuple(samples), **target)


def show(results: dict[str, list[Row]], machine: str, others: dict[str, float]) -> None:
    """Print one table of all rows; ``others`` are the cores that other processes took meanwhile."""
    console = Console()
    agree = any(row.beside for rows in results.values() for row in rows)
    columns = ["measured", "median", "range", "target", ""] + (["beside it"] if agree else [])
    table = Table(*columns, title=machine, title_justify="left")
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
        table.columns[column].no_wrap = True
    notes: list[str] = []
    for name, rows in results.items():
        table.add_section()
        busy = ", [red]not a quiet machine[/]" if others[name] > _QUIET_CORES else ""
        table.add_row(f"[bold]{name}[/]: others took {others[name]:.2f} cores{busy}")
        for row in rows:
            mark = _mark(row.note, notes)
            cells = [f"  {row.what}{mark}", _text(row), _range(row), row.target, _VERDICTS[row.met]]
            table.add_row(*cells, *([row.beside] if agree else []))
    console.width = max(console.width, 150 if agree else 120)
    console.print(table)
    for number, note in enumerate(notes, 1):
        console.print(f"[{number}] {note}", markup=False, highlight=False)


def _mark(note: str, notes: list[str]) -> str:
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return rf" \[{notes.index(note) + 1}]"


def _text(row: Row) -> str:
    return f"{row.value:.3g} {row.unit}".strip()


def _range(row: Row) -> str:
    return f"{min(row.samples):.3g} to {max(row.samples):.3g}" if row.samples else ""
