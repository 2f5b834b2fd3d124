"""Libraries that only some need, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

from tiledseg._validate import invalid
from tiledseg.errors import SettingError

__all__ = ["extra"]


def extra(module: str, name: str) -> Any:  # noqa: ANN401  modules have no common type
    """Load a library that an extra of this package installs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        library = module.partition(".")[0]
        raise invalid(
            SettingError,
            library,
            must="be installed for this",
            got="no such package",
            fix=f'Run `pip install "tiledseg[{name}]"`.',
        ) from None
