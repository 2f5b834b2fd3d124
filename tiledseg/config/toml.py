"""Settings as TOML: written with the meaning of each, read with ``"none"`` for no value."""

from __future__ import annotations

import inspect
import itertools
import re
import sys
import textwrap
import tomllib
from functools import cache
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

from tiledseg._lazy import lazy
from tiledseg._validate import invalid
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    import ast
    from collections.abc import Mapping

    import tomlkit
    from tomlkit.container import Container
    from tomlkit.items import Table
else:
    ast = lazy("ast")
    tomlkit = lazy("tomlkit")

_WIDTH = 96
_DEEP = re.compile(
    r"""(?<![\w"'.-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){17}"""
)  # a key of more than 16 dots: the parser's time grows with the square of them
_LOOSE = re.compile(r"^(#.*\n)\n(?=\[)", re.MULTILINE)  # a comment that stands apart from its table


def write_toml(settings: BaseModel) -> str:
    """Write settings as TOML, a comment with its meaning above each."""
    document = tomlkit.document()
    _comment(document, f'{summary_of(type(settings))} "none" stands for no value.')
    _fill(document, settings)
    return _LOOSE.sub(r"\1", tomlkit.dumps(document))


def write_tables(tables: Mapping[str, BaseModel]) -> str:
    """Write some tables of a file of settings."""
    document = tomlkit.document()
    _comment(document, 'Settings that a command of tiledseg used. "none" stands for no value.')
    for name, settings in tables.items():
        document.add(tomlkit.nl())
        _comment(document, summary_of(type(settings)))
        document.add(name, _table(settings))
    return _LOOSE.sub(r"\1", tomlkit.dumps(document))


def read_toml(text: str, model: type[BaseModel]) -> dict[str, Any]:
    """Read TOML, and turn ``"none"`` into None where a setting may have no value."""
    if _DEEP.search(text):
        raise invalid(
            SettingError,
            "settings",
            must="have keys of at most 16 dots",
            got="more",
            fix="Put quotes around a key that has dots in it.",
        )
    try:
        table = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as error:  # an integer may have too many digits
        raise SettingError(f"The settings are not valid TOML: {error}. Correct the file.") from None
    return {name: _with_none(value, _hint(model, name)) for name, value in table.items()}


_TUPLE = re.compile(r"""(?<=got |Try |Use )\(((?:'[^']*'|[\w.+-]+)(?:, (?:'[^']*'|[\w.+-]+))*)?,?\)""")


def in_toml(text: str) -> str:
    """Write the values that a message shows as a file has them."""
    text = _TUPLE.sub(lambda one: f"[{one[1] or ''}]".replace("'", '"'), text)
    return re.sub(r"\bNone\b", '"none"', text)


def _fill(table: Table | Container, settings: BaseModel) -> None:
    """Add plain values first: TOML has no way back out of a table."""
    meanings = meanings_of(type(settings))
    values = {name: getattr(settings, name) for name in ordered_fields(type(settings))}
    nested = {name: value for name, value in values.items() if _is_table(value)}
    for name, value in values.items():
        if name not in nested:
            _comment(table, meanings.get(name, ""))
            table.add(name, _plain(value))
    for name, value in nested.items():
        table.add(tomlkit.nl())
        _comment(table, meanings.get(name, ""))
        if isinstance(value, BaseModel):
            table.add(name, _table(value))
        else:
            array = tomlkit.aot()
            for one in value:
                array.append(_table(one))
            table.add(name, array)


def _table(settings: BaseModel) -> Table:
    table = tomlkit.table()
    _fill(table, settings)
    return table


def _is_table(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(isinstance(one, BaseModel) for one in value)
    return isinstance(value, BaseModel)


def _comment(table: Table | Container, text: str) -> None:
    for line in textwrap.wrap(text, _WIDTH):
        table.add(tomlkit.comment(line))


def _plain(value: object) -> Any:
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return "none" if value is None else value


def _with_none(value: Any, hint: Any) -> Any:
    """Follow a type hint into tables and lists."""
    if isinstance(value, dict):
        models = [one for one in _parts(hint) if isinstance(one, type) and issubclass(one, BaseModel)]
        hints = {name: _hint(one, name) for one in models for name in one.model_fields}
        return {name: _with_none(one, hints.get(name)) for name, one in value.items()}
    if isinstance(value, list):
        return [_with_none(one, hint) for one in value]
    return None if value == "none" and NoneType in _parts(hint) else value


def _parts(hint: Any) -> set[Any]:
    """List the types that a hint is made of."""
    inner = get_args(hint)
    return {hint}.union(*map(_parts, inner)) if inner and not isinstance(hint, str) else {hint}


def _hint(model: type[BaseModel], name: str) -> Any:
    return model.model_fields[name].annotation if name in model.model_fields else None


# Pydantic reads these texts for every class when it is made (`use_attribute_docstrings`), which takes
# 90 ms of each import; only help and settings files need them.
@cache
def descriptions_of(model: type[BaseModel]) -> dict[str, str]:
    """Give the text below each field, or below the one that it replaces."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if issubclass(one, BaseModel) and one is not BaseModel:
            found |= _texts_of(one.__module__).get(one.__name__, {})
    return {name: field.description or found.get(name, "") for name, field in model.model_fields.items()}


def ordered_fields(model: type[BaseModel]) -> list[str]:
    """List the fields for people: those of the class itself before those that it shares with others."""
    if "name" in model.model_fields:  # one of several kinds: what all of them have comes first
        return list(model.model_fields)
    own = (name for one in model.__mro__ for name in vars(one).get("__annotations__", ()))
    return [name for name in dict.fromkeys(own) if name in model.model_fields]


def meanings_of(model: type[BaseModel]) -> dict[str, str]:
    """Say what each field means, in plain text."""
    return {name: _prose(text) for name, text in descriptions_of(model).items()}


@cache
def _texts_of(module: str) -> dict[str, dict[str, str]]:
    """Read the text below each field of each class; nothing where Python runs without its source."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return {}
    return {one.name: _texts_in(one) for one in tree.body if isinstance(one, ast.ClassDef)}


def _texts_in(body: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, below in itertools.pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def summary_of(model: type[BaseModel]) -> str:
    """Read the first line of a docstring."""
    return _prose(inspect.cleandoc(model.__doc__ or "").partition("\n")[0])


def _prose(text: str) -> str:
    """Say it for files and the command line, where ``none`` is written for None."""
    return " ".join(re.sub(r"\bNone\b", "none", text.replace("``", "").replace("`", "")).split())
