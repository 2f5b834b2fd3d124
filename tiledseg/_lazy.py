"""Modules that are loaded when they are first used, from any thread; among them optional libraries."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tiledseg.errors import SettingError

__all__ = ["cv2", "extra", "lazy", "version_of"]


class _Lazy:
    """A module that is loaded when it is first used: by one thread, while others wait for it."""

    # The lazy modules of Python below 3.11.9 and 3.12.3 give another thread a module that is not complete.
    __slots__ = ("_module",)

    def __init__(self, module: str) -> None:
        object.__setattr__(self, "_module", module)

    def __getattr__(self, name: str) -> Any:
        if name == "__wrapped__":  # what looks through all modules, as doctest does, loads nothing
            raise AttributeError(name)
        return getattr(importlib.import_module(self._module), name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(importlib.import_module(self._module), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(importlib.import_module(self._module), name)


def lazy(module: str) -> Any:  # modules have no common type
    """Return a module that is loaded when it is first used, from any thread."""
    return _Lazy(module)


if TYPE_CHECKING:
    import cv2
else:
    cv2 = lazy("cv2")  # its files take up to 60 MB of a process, and many predictions do without


def extra(module: str, name: str | None) -> Any:  # modules have no common type
    """Load a module of a library that an extra of this package installs, or that lacks on some machines."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        what = library if name is None else f'"tiledseg[{name}]"'
        text = f"This needs `{library}`, which is not installed. Run `pip install {what}`."
        raise SettingError(text) from None


_metadata = lazy("importlib.metadata")


def version_of(package: str) -> str:
    """Return the version of a package; nothing where it is not installed."""
    try:
        return str(_metadata.version(package))
    except _metadata.PackageNotFoundError:
        return ""
