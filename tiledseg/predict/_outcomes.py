"""What became of files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiledseg._validate import shown

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg.config import Product

__all__ = ["FileOutcome", "FilesResult"]


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file.

    Attributes
    ----------
    path : Path
        The image.
    written : dict
        Path of each product written: ``mask``, ``probs``, ``overlay``.
    seconds : float
        Time from reading to writing.
    error : str or None
        Why not everything was written; None for success.
    skipped : bool
        Whether its outputs stood already and were left as they are.
    """

    path: Path
    written: dict[Product, Path]
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class FilesResult:
    """What became of many files.

    Attributes
    ----------
    outcomes : tuple of FileOutcome
        One for each file, in order.
    """

    outcomes: tuple[FileOutcome, ...]

    @property
    def done(self) -> tuple[FileOutcome, ...]:
        """The files that were predicted, or skipped because their outputs stood already."""
        return tuple(one for one in self.outcomes if one.error is None)

    @property
    def failed(self) -> tuple[FileOutcome, ...]:
        """The files that could not be predicted."""
        return tuple(one for one in self.outcomes if one.error is not None)

    def __str__(self) -> str:
        skipped = sum(one.skipped for one in self.outcomes)
        lines = [f"{len(self.done) - skipped} predicted, {skipped} skipped, {len(self.failed)} failed"]
        lines += [f"failed: {shown(str(one.path))}: {one.error}" for one in self.failed]
        return "\n".join(lines)
