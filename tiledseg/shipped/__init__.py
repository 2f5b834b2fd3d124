"""Models that come with the package, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._arguments import path_text
from tiledseg._checks import broken
from tiledseg.errors import BundleError

if TYPE_CHECKING:
    from tiledseg._types import PathLike

__all__ = ["SHIPPED", "shipped_folder", "shipped_or"]

_FOLDER = Path(__file__).parent
SHIPPED = ("demo",)


def shipped_or(path: PathLike) -> Path:
    """Find the folder of a model that comes with the package; any other path stays what it is.

    Parameters
    ----------
    path : path
        The name of a shipped model, or a path.

    Returns
    -------
    Path
        Where the bundle or file is.

    Raises
    ------
    BundleError
        If it is no path, or it is the name of a shipped model and a bundle of that name stands in
        the working folder as well.
    """
    if (
        not isinstance(path, str) or path not in SHIPPED
    ):  # a path such as Path("demo") or "./demo" is never a name
        return Path(path_text(path, error=BundleError))
    if (Path(path) / "config.json").exists():
        raise broken(
            BundleError,
            path,
            must="name one model",
            got=f"the one that comes with tiledseg and the bundle {Path(path).resolve()}",
            fix=f'Write "./{path}" for the bundle here; move into another folder for the other.',
        )
    return shipped_folder(path)


def shipped_folder(name: str) -> Path:
    """Give the folder of a model that comes with the package.

    Parameters
    ----------
    name : str
        One of `SHIPPED`.

    Returns
    -------
    Path
        Its bundle's folder.
    """
    return _FOLDER / name
