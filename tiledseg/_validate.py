"""The form of error messages, and checks of arguments."""

from __future__ import annotations

import math
import operator
import os
import re
from contextlib import contextmanager
from difflib import get_close_matches
from inspect import signature
from typing import TYPE_CHECKING, Any, TypeVar

from tiledseg.errors import FileError, SettingError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

ELSEWHERE = "which takes this"
"""Says in an error that another function than the one that was called takes the option."""

_LONGEST, _LONGEST_NAME, _LONGEST_REASON = 120, 100, 300  # letters
_LARGEST_32 = 3.4028234e38  # of float32, in which maps are computed
_OF_READING = ("level", "channels", "at", "page", "alpha", "pixel_size")
_Error = TypeVar("_Error", bound=TiledSegError)
_Kind = TypeVar("_Kind")


def invalid(error: type[_Error], what: str, *, must: str, got: object, fix: str) -> _Error:
    """Build an error whose message says what is wrong, what was found and how to fix it."""
    found = text_of(got, what) if isinstance(got, Exception) else got
    return error(f"`{shown(what)}` must {must}; got {shown(found)}. {fix}")


def text_of(error: Exception, known: str = "") -> str:
    """Return what an error says; one of the system without its number, with its path unless known."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    path = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else known
    return error.strerror if path == known else f"{error.strerror}: {path}"


def reason_of(error: Exception) -> str:
    """Say why something failed; with the kind of an error that is not our own."""
    try:
        text = text_of(error)
    except Exception:  # noqa: BLE001  of a class that is not ours
        text = ""
    if isinstance(error, TiledSegError | MemoryError | OSError):
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def raised_as(kind: type[TiledSegError], what: str, fix: str) -> Iterator[None]:
    """Turn an error of code that is not ours into one that says what failed, why, and what to do."""
    try:
        yield
    except (TiledSegError, MemoryError):
        raise
    except Exception as error:
        lines = reason_of(error).strip().splitlines() or [""]
        raise kind(f"{what}: {lines[0][:_LONGEST_REASON].rstrip('.: ')}. {fix}") from error


def as_utf8(text: str) -> str:
    """Escape what is not UTF-8, as bytes of a file name may be."""
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value: object) -> str:
    """Show a value on one short line, control characters escaped."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # noqa: BLE001  of a class of the user's
        text = f"an object of the class {type(value).__name__}, which cannot be shown"
    text = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in as_utf8(text))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def named(path: object) -> str:
    """Show a path on one short line; a long path is cut at its beginning, not at its file name."""
    text = str(path)
    return shown(text if len(text) <= _LONGEST_NAME else f"…{text[-_LONGEST_NAME:]}")


def listed(values: Iterable[object], most: int) -> str:
    """Show the first values, and count those that are left out."""
    texts = [shown(value if isinstance(value, str) else str(value)) for value in values]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def counted(number: int, noun: str) -> str:
    """Write a number with its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def abbreviated(text: str, known: Iterable[str]) -> list[str]:
    """List the words of several parts whose first letters are a text: `lr` is learning_rate."""
    parts = {word: re.split("[-_]", word) for word in known}
    return [word for word, of in parts.items() if len(of) > 1 and "".join(one[:1] for one in of) == text]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Suggest the known word that is closest to a wrong one."""
    words, text = sorted(known), shown(word)  # `word` may be any object
    near = abbreviated(text, words) or get_close_matches(text, words, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(words)}."


def whole_number(name: str, value: object, least: int = 1, most: int | None = None, fix: str = "") -> int:
    """Check that an option is a whole number."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        above, rest = ("", "or more") if most is None else (f" and at most {most}", f"to {most}")
        must = f"be a whole number of at least {least}{above}"
        raise invalid(SettingError, name, must=must, got=value, fix=fix or f"Use {least} {rest}.")
    return number


def real_number(name: str, value: object, fix: str = "Give a number.") -> float:
    """Check that an option is a real number that is finite as float32."""
    one = not isinstance(value, bool | str | bytes | complex) and getattr(value, "shape", ()) == ()
    try:
        number = float(value) if one else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= _LARGEST_32:
        raise invalid(SettingError, name, must="be a finite number, as float32", got=value, fix=fix)
    return number


def fraction(name: str, value: object, fix: str) -> float:
    """Check that an option is a number greater than 0 and less than 1."""
    number = real_number(name, value, fix)
    if not 0 < number < 1:
        raise invalid(SettingError, name, must="be in (0, 1)", got=value, fix=fix)
    return number


def real_pair(name: str, value: object, must: str, fix: str) -> tuple[float, float]:
    """Check that an option is two finite real numbers."""
    first, second = _two(name, value, must, fix)
    return real_number(name, first, fix), real_number(name, second, fix)


def whole_pair(name: str, value: object, least: int = 1) -> tuple[int, int]:
    """Check that an option is two whole numbers, one for each axis."""
    y, x = _two(name, value, "be two whole numbers, (y, x)", "Give one for each axis.")
    return whole_number(name, y, least), whole_number(name, x, least)


def _two(name: str, value: Any, must: str, fix: str) -> tuple[object, object]:
    try:
        first, second = value
    except Exception:  # noqa: BLE001  of a class of the user's
        raise invalid(SettingError, name, must=must, got=value, fix=fix) from None
    return first, second


def pair_of(value: _Kind | tuple[_Kind, _Kind]) -> tuple[_Kind, _Kind]:
    """Spell one number for both axes out."""
    return value if isinstance(value, tuple) else (value, value)


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Check that an option is one of the known words."""
    if not isinstance(value, str) or value not in known:
        must = f"be one of {', '.join(known)}"
        raise invalid(SettingError, name, must=must, got=value, fix=did_you_mean(shown(value), known))


def instance_of(kind: type[_Kind], value: object, name: str, fix: str = "") -> _Kind:
    """Check that an argument is an object of a class."""
    if not isinstance(value, kind):
        fix = fix or f"Pass {kind.__name__}({'**settings' if isinstance(value, dict) else '...'})."
        raise invalid(SettingError, name, must=f"be of type {kind.__name__}", got=value, fix=fix)
    return value


def settings_of(kind: type[_Kind], value: object, name: str, *, optional: bool = True) -> _Kind:
    """Return settings given as their class, as a dict of some of them, or as None for the defaults."""
    if value is None and optional:
        return kind()
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return instance_of(
            kind, value, name, f"Pass {kind.__name__}(...), or a dict of some of its settings."
        )
    try:
        return kind(**value)
    except SettingError as error:
        raise SettingError(f"`{name}`: {error}") from None


def items_of(
    values: object, name: str, must: str, fix: str, error: type[TiledSegError] = SettingError
) -> Iterator[Any]:
    """Iterate over an argument that must be a sequence; a text is refused, since its letters are no items."""
    try:
        found = None if isinstance(values, str | bytes) else iter(values)  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001  of a class of the user's
        found = None
    if found is None:
        raise invalid(error, name, must=must, got=values, fix=fix)
    return found  # type: ignore[no-any-return]


def all_of(kind: type[_Kind], values: object, name: str, fix: str) -> list[_Kind]:
    """Check that an argument is a sequence of objects of a class."""
    items = items_of(values, name, f"be a sequence of {kind.__name__}", fix)
    return [instance_of(kind, one, f"{name}[{place}]", fix) for place, one in enumerate(items)]


def check_callable(name: str, value: object) -> None:
    """Check that an argument can be called, or is None."""
    if value is not None and not callable(value):
        fix = "Pass a function, or leave it out."
        raise invalid(SettingError, name, must="be a callable or None", got=value, fix=fix)


def text_of_path(path: object) -> str | None:
    """Return a path as text; None for what is none."""
    try:
        text = os.fspath(path)  # type: ignore[call-overload]
    except Exception:  # noqa: BLE001  of a class of the user's
        return None
    return text if isinstance(text, str) else None


def path_text(path: object, name: str = "path", error: type[TiledSegError] = FileError) -> str:
    """Return a path as text; refuse what cannot be a path."""
    text = text_of_path(path)
    if not text:
        got = "''" if text == "" else path
        raise invalid(error, name, must="be a path as text", got=got, fix="Pass a str or a pathlib.Path.")
    if "\0" in text:
        raise invalid(error, name, must="not contain a NUL character", got=repr(text), fix="Rename the file.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        must, fix = "be a name that this system can write", "Check the text."
        raise invalid(error, name, must=must, got=ascii(text), fix=fix) from None
    return text


def check_arguments(unknown: Mapping[str, object], called: Callable[..., object], **tables: Any) -> None:
    """Refuse arguments that a function or class does not have; `tables` are settings that may have them."""
    for name, value in unknown.items():
        known = signature(called).parameters.keys() - {"unknown"}
        home = next((argument for argument, kind in tables.items() if name in kind.model_fields), None)
        if home is not None:
            raise SettingError(
                f"`{name}` is a setting of `{home}`. Pass {home}={{{name!r}: {shown(value)}}}."
            )
        if name == "threshold" and "image" in known:
            text = f"A segmenter has its own: pass segmenter.changed(threshold={shown(value)})."
        elif name in _OF_READING and "image" in known:
            text = f"It says how an image is read: pass tiledseg.open_image(image, {name}={shown(value)})."
        else:
            text = did_you_mean(name, known)
        raise SettingError(f"`{name}` is no argument here. {text}")
