"""The one form of an error message: what, what it must be, what was found, how to mend it."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, TypeVar

from tiledseg.errors import TiledSegError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["broken", "did_you_mean", "shown"]

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
    return error(f"`{what}` must {must}; got {shown(got)}. {fix}")


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
    near = get_close_matches(word, words, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(words)}."
