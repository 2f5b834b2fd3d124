"""Pydantic's complaints in the house's form: what, what it must be, what was found, how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._validate import shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["complaint"]

_FIXES = {
    "missing": "Give it a value.",
    "int_type": "Give a whole number.",
    "int_from_float": "Give a whole number.",
    "float_type": "Give a number.",
    "finite_number": "Give a number that is neither infinite nor NaN.",
    "bool_type": "Use true or false.",
    "string_type": "Give text.",
    "string_unicode": "Rename the file: settings are text in UTF-8.",
    "tuple_type": "Give a list.",
    "literal_error": "Use one of these.",
    "model_type": "Give a table of settings.",
    "too_short": "Give more values.",
    "too_long": "Give fewer values.",
    "string_pattern_mismatch": "Write it in that form.",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def complaint(where: str, line: ErrorDetails) -> str:
    """Say what is wrong with one value."""
    text = line["msg"].replace("Input should be", "must be").replace("Field required", "must be given")
    for what in ("Tuple", "List", "String", "Data"):
        text = text.replace(f"{what} should", "must")
    found = "nothing" if line["type"] == "missing" else shown(line["input"])
    return f"`{where}` {text}; got {found}. {_fix(line)}"


def _fix(line: ErrorDetails) -> str:
    if line["type"] in _LIMITS:
        key, words = _LIMITS[line["type"]]
        return f"Use {words} {line['ctx'][key]}."
    return _FIXES.get(line["type"], "See the class's docstring.")
