"""The folder of a run, and what is written into it as the run goes on."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.errors import FileError
from tiledseg.io import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tiledseg._types import PathLike

__all__ = ["History", "new_run_dir", "remove_leftovers"]

_LEFTOVERS = (".tiledseg-*.part", ".best.*.old", "checkpoints/.tiledseg-*.part")


def new_run_dir(runs_dir: PathLike) -> Path:
    """Make a folder for a run, named after the time."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    names = (stamp if number == 1 else f"{stamp}-{number}" for number in count(1))
    try:
        Path(runs_dir).mkdir(parents=True, exist_ok=True)
        return next(path for name in names if _made(path := Path(runs_dir).resolve() / name))
    except (OSError, ValueError) as error:  # a NUL in the name
        raise invalid(
            FileError,
            str(runs_dir),
            must="be a folder that can be written",
            got=str(error),
            fix="Choose another `runs_dir`.",
        ) from error


def _made(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def remove_leftovers(run_dir: Path) -> None:
    """Remove what a run that was killed while it wrote has left, all under hidden names of ours."""
    for pattern in _LEFTOVERS:
        for path in run_dir.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


class History:
    """What each epoch came to, in ``history.csv`` and ``history.json``; both are whole at any time."""

    def __init__(self, folder: Path, columns: Mapping[str, list[float]] | None = None) -> None:
        self._folder = folder
        self.columns: dict[str, list[float]] = {
            name: list(values) for name, values in (columns or {}).items()
        }

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add an epoch, counted from 1, and write everything anew."""
        for name, value in {"epoch": epoch, **values}.items():
            self.columns.setdefault(name, []).append(value)
        rows = [",".join(str(value) for value in row) for row in zip(*self.columns.values(), strict=True)]
        write_text(self._folder / "history.csv", "\n".join([",".join(self.columns), *rows, ""]))
        write_text(self._folder / "history.json", json.dumps(self.columns, indent=2) + "\n")
