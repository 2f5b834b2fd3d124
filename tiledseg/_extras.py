"""Libraries that only some need, loaded when they are first used."""

from __future__ import annotations

import importlib
from typing import Any

from tiledseg._checks import broken
from tiledseg.errors import SettingError

__all__ = ["extra"]


def extra(module: str, name: str) -> Any:  # noqa: ANN401  modules have no common type
    """Load a library that an extra of this package installs.

    Parameters
    ----------
    module : str
        What is imported.
    name : str
        The extra.

    Returns
    -------
    module
        The library.

    Raises
    ------
    SettingError
        If it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        library = module.partition(".")[0]
        raise broken(
            SettingError,
            library,
            must="be installed for this",
            got="no such package",
            fix=f'Run `pip install "tiledseg[{name}]"`.',
        ) from None
