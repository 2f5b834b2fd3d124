"""Checks of what an argument is, for every room: words, objects, sequences, callables, paths."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from tiledseg._checks import broken, did_you_mean, shown
from tiledseg.errors import FileError, SettingError, TiledSegError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = [
    "all_of",
    "check_callable",
    "instance_of",
    "items_of",
    "one_of",
    "path_text",
    "path_texts",
    "settings_of",
]

_Kind = TypeVar("_Kind")


def one_of(name: str, value: object, known: Collection[str]) -> None:
    """Check that an option is one of the known words.

    Parameters
    ----------
    name : str
        Name of the option.
    value : object
        What was given.
    known : collection of str
        The words.

    Raises
    ------
    SettingError
        If it is another, or no word at all.
    """
    if not isinstance(value, str) or value not in known:
        must = f"be one of {', '.join(known)}"
        raise broken(SettingError, name, must=must, got=value, fix=did_you_mean(shown(value), known))


def instance_of(kind: type[_Kind], value: object, name: str, fix: str = "") -> _Kind:
    """Check that an argument is an object of a class.

    Parameters
    ----------
    kind : type
        The class.
    value : object
        What was given.
    name : str
        Name of the argument.
    fix : str
        Where to get one, where it is not simply made.

    Returns
    -------
    object
        `value`.

    Raises
    ------
    SettingError
        If it is something else.
    """
    if not isinstance(value, kind):
        fix = fix or f"Pass {kind.__name__}({'**settings' if isinstance(value, dict) else '...'})."
        raise broken(SettingError, name, must=f"be of type {kind.__name__}", got=value, fix=fix)
    return value


def settings_of(kind: type[_Kind], value: object, name: str) -> _Kind:
    """Check that an argument holds settings of the right kind.

    Parameters
    ----------
    kind : type
        The class of the settings.
    value : object
        What was given; None stands for the defaults.
    name : str
        Name of the argument.

    Returns
    -------
    Config
        The settings.

    Raises
    ------
    SettingError
        If it is something else.
    """
    return kind() if value is None else instance_of(kind, value, name)


def items_of(
    values: object, name: str, must: str, fix: str, error: type[TiledSegError] = SettingError
) -> Iterator[Any]:
    """Go through what must be a sequence, and no text, whose letters would be taken for items.

    Parameters
    ----------
    values : object
        What was given.
    name : str
        Name of the argument.
    must, fix : str
        As of `broken`.
    error : type
        The class of the error.

    Returns
    -------
    iterator
        Over the items.

    Raises
    ------
    TiledSegError
        If it is something else.
    """
    try:
        found = None if isinstance(values, str | bytes) else iter(values)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if found is None:
        raise broken(error, name, must=must, got=values, fix=fix)
    return found  # type: ignore[no-any-return]


def all_of(kind: type[_Kind], values: object, name: str, fix: str) -> list[_Kind]:
    """Check that an argument is a sequence of objects of a class.

    Parameters
    ----------
    kind : type
        The class.
    values : object
        What was given.
    name : str
        Name of the argument.
    fix : str
        Where to get such objects.

    Returns
    -------
    list
        The objects.

    Raises
    ------
    SettingError
        If it is something else; the message has the place of the first that is.
    """
    items = items_of(values, name, f"be a sequence of {kind.__name__}", fix)
    return [instance_of(kind, one, f"{name}[{place}]", fix) for place, one in enumerate(items)]


def check_callable(name: str, value: object) -> None:
    """Check that an argument can be called, or is None.

    Parameters
    ----------
    name : str
        Name of the argument.
    value : object
        What was given.

    Raises
    ------
    SettingError
        If it is something else.
    """
    if value is not None and not callable(value):
        fix = "Pass a function, or leave it out."
        raise broken(SettingError, name, must="be a callable or None", got=value, fix=fix)


def path_text(path: object, name: str = "path", error: type[TiledSegError] = FileError) -> str:
    """Return a path as text, or say why it cannot be one.

    Parameters
    ----------
    path : object
        What was given.
    name : str
        Name of the argument.
    error : type
        The class of the error.

    Returns
    -------
    str
        The path.

    Raises
    ------
    TiledSegError
        If `path` is neither text nor a path, is empty, or holds a NUL.
    """
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str) or not text:
        fix = "Pass a str or a pathlib.Path."
        raise broken(error, name, must="be a path as text", got=repr(path), fix=fix)
    if "\0" in text:
        raise broken(error, name, must="hold no NUL character", got=repr(text), fix="Rename the file.")
    return text


def path_texts(paths: object, name: str) -> list[str]:
    """List what is given as one path or as several, as text.

    Parameters
    ----------
    paths : object
        What was given.
    name : str
        Name of the argument.

    Returns
    -------
    list of str
        The paths.

    Raises
    ------
    FileError
        If they are no paths.
    """
    if isinstance(paths, str | os.PathLike):
        return [path_text(paths, name)]
    must, fix = "be a path or a sequence of paths", "Pass str or pathlib.Path."
    items = items_of(paths, name, must, fix, FileError)
    return [path_text(one, f"{name}[{place}]") for place, one in enumerate(items)]
