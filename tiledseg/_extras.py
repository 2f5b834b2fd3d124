"""Optional libraries, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

from tiledseg.errors import SettingError


def extra(module: str, name: str) -> Any:  # noqa: ANN401  modules have no common type
    """Load a module of a library that the extra `name` of this package installs."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        text = f'This needs `{library}`, which is not installed. Run `pip install "tiledseg[{name}]"`.'
        raise SettingError(text) from None
