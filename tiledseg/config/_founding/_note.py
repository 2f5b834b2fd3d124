"""What became of one key of a foreign configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from tiledseg._validate import shown

__all__ = ["Entry", "Note", "Outcome"]

Outcome: TypeAlias = Literal["converted", "dropped", "unusable"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as the file has it."""

    section: str  # where it stands; a known misspelling of the key is mended
    key: str  # where it stands; a known misspelling of the key is mended
    text: str  # its value as written
    value: object  # its value as Python reads it; the text itself where it cannot be read
    readable: bool = True  # whether it could be read
    mended: str = ""  # what was misspelt and how it was read; empty for nothing


@dataclass(frozen=True, slots=True)
class Note:
    """What became of a key."""

    entry: Entry  # the key
    outcome: Outcome  # whether its meaning was kept, is not needed here, or was lost
    text: str  # into which setting, or why

    def __str__(self) -> str:
        mended = f" ({self.entry.mended})" if self.entry.mended else ""
        where = f"{self.entry.section}.{self.entry.key} = {shown(self.entry.text)}"
        return f"{self.outcome:<9}  {where}{mended}: {self.text}"
