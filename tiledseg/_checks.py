"""The one form of an error message: what, what it must be, what was found, how to mend it."""

from __future__ import annotations

import math
import operator
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from tiledseg.errors import SettingError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["broken", "did_you_mean", "real_number", "real_pair", "shown", "whole_number", "whole_pair"]

_LONGEST = 120
_Error = TypeVar("_Error", bound=TiledSegError)


def broken(error: type[_Error], what: str, *, must: str, got: object, fix: str) -> _Error:
    """Build an error in the house's form.

    Parameters
    ----------
    error : type
        The class of the error.
    what : str
        Name of the setting, argument, file or array; stands in backticks.
    must : str
        What was expected, continuing "must", as in ``"be in [0, tile) with tile=64"``.
    got : object
        What was found; shown by `shown`.
    fix : str
        A sentence that says what to do.

    Returns
    -------
    TiledSegError
        An instance of `error`, to be raised by the caller.

    Examples
    --------
    >>> from tiledseg.errors import SettingError
    >>> print(broken(SettingError, "overlap", must="be under 64", got=64, fix="Use at most 63."))
    `overlap` must be under 64; got 64. Use at most 63.
    """
    return error(f"`{shown(what)}` must {must}; got {shown(got)}. {fix}")


def shown(value: object) -> str:
    """Show a value on one short line, control characters escaped.

    Parameters
    ----------
    value : object
        A string is taken as it is, anything else by its ``repr``.

    Returns
    -------
    str
        At most 120 characters.
    """
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    text = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Name the known word that is nearest to a wrong one.

    Parameters
    ----------
    word : str
        The word that is not known.
    known : iterable of str
        The words that are.

    Returns
    -------
    str
        A sentence: the nearest word, or all of them where none is near.

    Examples
    --------
    >>> did_you_mean("overlp", ["overlap", "blend"])
    'Did you mean `overlap`?'
    """
    words = sorted(known)
    near = get_close_matches(shown(word), words, n=1)  # what is no text has no near one
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(words)}."


def whole_number(name: str, value: object, least: int = 1, most: int | None = None, fix: str = "") -> int:
    """Check that an option is a whole number.

    Parameters
    ----------
    name : str
        Name of the option.
    value : object
        What was given: an int, or what stands for one, as NumPy's do.
    least, most : int
        The least and the most that it may be; None for no limit.
    fix : str
        What to do about a wrong one, where that is more than to take another.

    Returns
    -------
    int
        The number.

    Raises
    ------
    SettingError
        If it is no whole number, a boolean, less than `least` or more than `most`.

    Examples
    --------
    >>> whole_number("batch_size", 4)
    4
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        above, rest = ("", "or more") if most is None else (f" and at most {most}", f"to {most}")
        must = f"be a whole number of at least {least}{above}"
        raise broken(SettingError, name, must=must, got=value, fix=fix or f"Use {least} {rest}.")
    return number


def real_number(name: str, value: object, fix: str = "Give a number.") -> float:
    """Check that an option is a finite real number.

    Parameters
    ----------
    name : str
        Name of the option.
    value : object
        What was given: an int or float, or what stands for one, as NumPy's do.
    fix : str
        What to do about a wrong one.

    Returns
    -------
    float
        The number.

    Raises
    ------
    SettingError
        If it is no number, a boolean, NaN or infinite.
    """
    if isinstance(value, bool | str | bytes | complex) or getattr(value, "shape", ()) != ():
        number = math.nan
    else:
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number):
        raise broken(SettingError, name, must="be a finite number", got=value, fix=fix)
    return number


def real_pair(name: str, value: object, must: str, fix: str) -> tuple[float, float]:
    """Check that an option is two finite real numbers.

    Parameters
    ----------
    name : str
        Name of the option.
    value : object
        What was given.
    must, fix : str
        As of `broken`.

    Returns
    -------
    tuple of float
        The numbers.

    Raises
    ------
    SettingError
        If it is something else.
    """
    first, second = _two(name, value, must, fix)
    return real_number(name, first, fix), real_number(name, second, fix)


def whole_pair(name: str, value: object, least: int = 1) -> tuple[int, int]:
    """Check that an option is two whole numbers, one for each axis.

    Parameters
    ----------
    name : str
        Name of the option.
    value : object
        What was given.
    least : int
        The least that either may be.

    Returns
    -------
    tuple of int
        (y, x).

    Raises
    ------
    SettingError
        If it is something else.
    """
    y, x = _two(name, value, "be two whole numbers, (y, x)", "Give one for each axis.")
    return whole_number(name, y, least), whole_number(name, x, least)


def _two(name: str, value: Any, must: str, fix: str) -> tuple[object, object]:  # noqa: ANN401
    try:
        first, second = value
    except (TypeError, ValueError):
        raise broken(SettingError, name, must=must, got=value, fix=fix) from None
    return first, second
