"""``tiledseg import-config``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tiledseg._validate import invalid
from tiledseg.cli import _rooms as rooms
from tiledseg.cli._settings import Settings, with_options
from tiledseg.config import import_founding
from tiledseg.errors import FileError

__all__ = ["import_config"]

_LARGEST = 1_000_000


@with_options(file=False)
def import_config(
    source: Annotated[Path, Parameter(help="The file to convert, train_eval_infer.config.")],
    target: Annotated[Path, Parameter(help="The TOML file to write; it must not exist yet.")] = Path(
        "run.toml"
    ),
    /,
    *,
    settings: Settings,  # noqa: ARG001  what all commands take
) -> int:
    """Convert the founding experiment's configuration into a file of settings."""
    if target.exists():
        fix = "Name another one; nothing is overwritten."
        raise invalid(FileError, str(target), must="be a new file", got="one that exists", fix=fix)
    try:
        with source.open("rb") as file:
            text = file.read(_LARGEST).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        fix = "Check the path."
        raise invalid(
            FileError, str(source), must="be a text file in UTF-8", got=str(error), fix=fix
        ) from None
    done = import_founding(text)
    rooms.io.write_text(target, done.run.to_toml())
    sys.stdout.write(f"{done}\n{target}\n")
    return 1 if any(note.outcome == "unusable" for note in done.notes) else 0
