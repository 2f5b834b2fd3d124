"""Models that come with the package, by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._validate import invalid, path_text
from tiledseg.errors import BundleError

if TYPE_CHECKING:
    from tiledseg._types import PathLike

__all__ = ["SHIPPED", "shipped_folder", "shipped_or"]

_FOLDER = Path(__file__).parent
SHIPPED = ("demo",)


def shipped_or(path: PathLike) -> Path:
    """Find the folder of a model that comes with the package; any other path stays what it is."""
    if (
        not isinstance(path, str) or path not in SHIPPED
    ):  # a path such as Path("demo") or "./demo" is never a name
        return Path(path_text(path, error=BundleError))
    if (Path(path) / "config.json").exists():
        raise invalid(
            BundleError,
            path,
            must="name one model",
            got=f"the one that comes with tiledseg and the bundle {Path(path).resolve()}",
            fix=f'Write "./{path}" for the bundle here; move into another folder for the other.',
        )
    return shipped_folder(path)


def shipped_folder(name: str) -> Path:
    """Give the folder of a model that comes with the package."""
    return _FOLDER / name
