"""What each setting means, read from the one place where it stands: the docstring of its class."""

from __future__ import annotations

import inspect
import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

__all__ = ["meanings_of", "summary_of"]

_ATTRIBUTE = re.compile(r"^(\w+(?:, \w+)*)(?: : .*)?\n((?:(?: {4}.*)?\n)+)", re.MULTILINE)
_SECTION = re.compile(r"\n\n\w[\w ]*\n-+\n")


@cache
def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Read what each field means out of the docstring's Attributes section."""
    base = model.__base__
    inherited = meanings_of(base) if base is not None and hasattr(base, "model_fields") else {}
    _, _, section = inspect.cleandoc(model.__doc__ or "").partition("Attributes\n----------\n")
    section = _SECTION.split(section)[0] + "\n"
    own = {name: _plain(text) for names, text in _ATTRIBUTE.findall(section) for name in names.split(", ")}
    return inherited | own


def summary_of(model: type[BaseModel]) -> str:
    """Read the first line of a docstring."""
    return _plain(inspect.cleandoc(model.__doc__ or "").partition("\n")[0])


def _plain(text: str) -> str:
    """Say it for files and the command line, where ``none`` is written for None."""
    return " ".join(re.sub(r"\bNone\b", "none", text.replace("``", "").replace("`", "")).split())
