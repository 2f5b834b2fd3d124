"""A folder that is there whole, or not at all."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._storage import check_writable
from tiledseg._validate import invalid, named, path_text
from tiledseg.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tiledseg._types import PathLike

__all__ = ["check_new_folder", "new_folder"]


def check_new_folder(path: PathLike) -> Path:
    """Check that a folder is new or empty, and that it could be made."""
    target = Path(path_text(path))
    try:
        first = next(target.iterdir(), None) if target.exists() else None
    except OSError as error:
        got = error.strerror or str(error)
        raise invalid(FileError, named(target), must="be a folder", got=got, fix="Name a new one.") from error
    if first is not None:
        raise invalid(
            FileError,
            named(target),
            must="be a new or empty folder",
            got=f"{named(first.name)} in it",
            fix="Name another folder; nothing in this one is touched.",
        )
    check_writable(target.absolute().parent, keep=False)
    return target


@contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """Fill a folder whole or not at all.

    Gives a hidden folder beside the target. When the block ends without an error, it takes the
    target's place in one step; when anything fails, it is removed. A process that is killed
    leaves no target, and at most a hidden folder ``.tiledseg-*.part`` beside it.
    """
    target = check_new_folder(path)
    filling = target.absolute().parent / f".tiledseg-{secrets.token_hex(8)}.part"
    try:
        filling.mkdir(parents=True)
        try:
            yield filling
            check_new_folder(target)
            with contextlib.suppress(FileNotFoundError):
                target.rmdir()
            filling.rename(target)
        except BaseException:
            shutil.rmtree(filling, ignore_errors=True)
            raise
    except OSError as error:
        got = error.strerror or str(error)
        fix = "Check the folder and its rights, or write elsewhere."
        raise invalid(FileError, named(target), must="be made", got=got, fix=fix) from error
