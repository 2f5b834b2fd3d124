"""What became of one key of a foreign configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tiledseg._checks import shown

__all__ = ["Entry", "Note", "Outcome"]

Outcome: TypeAlias = Literal["converted", "dropped", "unusable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the file has it.

    Attributes
    ----------
    section, key : str
        Where it stands; a known misspelling of the key is mended.
    text : str
        Its value as written.
    value : object
        Its value as Python reads it; the text itself where it cannot be read.
    readable : bool
        Whether it could be read.
    mended : str
        What was misspelt and how it was read; empty for nothing.
    """

    section: str
    key: str
    text: str
    value: object
    readable: bool = True
    mended: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a key.

    Attributes
    ----------
    entry : Entry
        The key.
    outcome : {"converted", "dropped", "unusable"}
        Whether its meaning was kept, is not needed here, or was lost.
    text : str
        Into which setting, or why.
    """

    entry: Entry
    outcome: Outcome
    text: str

    def __str__(self) -> str:
        mended = f" ({self.entry.mended})" if self.entry.mended else ""
        where = f"{self.entry.section}.{self.entry.key} = {shown(self.entry.text)}"
        return f"{self.outcome:<9}  {where}{mended}: {self.text}"
