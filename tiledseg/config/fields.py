"""Types of fields, the forms in which they may be given, and what is said of a value that does not fit."""

from __future__ import annotations

import operator
import re
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeAlias, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationInfo

from tiledseg._validate import did_you_mean, invalid, shown
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

_Held = TypeVar("_Held")


def numbers_of(value: object) -> object:
    """Turn NumPy's integers, lists and ``"256x384"`` into what the strict types accept."""
    if isinstance(value, str):
        parts = value.lower().split("x")
        pair = len(parts) == 2 and all(part.isascii() and part.isdecimal() for part in parts)
        return tuple(int(part) for part in parts) if pair else value
    if isinstance(value, list | tuple):
        return tuple(numbers_of(part) for part in value)
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return value
    try:
        return operator.index(value)
    except TypeError:  # for example an array
        return value


def _tupled(value: object) -> object:
    """Turn a list, which is what JSON and TOML have, into a tuple."""
    return tuple(value) if isinstance(value, list) else value


as_numbers: BeforeValidator = BeforeValidator(numbers_of)
"""Marks numbers and tuples of them, which may be given as text, lists or NumPy's."""

as_tuple: BeforeValidator = BeforeValidator(_tupled)
"""Marks tuples, which may be given as lists."""

Count: TypeAlias = Annotated[int, as_numbers, Field(ge=1)]
"""A positive whole number."""

Pair: TypeAlias = Annotated[Count | tuple[Count, Count], as_numbers]
"""One positive number for both axes, or one for each: (y, x)."""

Share: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""A fraction in [0, 1]."""

Positive: TypeAlias = Annotated[float, Field(gt=0)]
"""A number above 0."""

Real32: TypeAlias = Annotated[float, Field(ge=-3.4e38, le=3.4e38)]
"""A number that is finite as float32."""

Micrometres: TypeAlias = Annotated[Positive | tuple[Positive, Positive], as_numbers]
"""Size of a px in µm: one number for both axes, or one for each, (y, x)."""

NotNegative: TypeAlias = Annotated[float, Field(ge=0)]
"""A number from 0 up."""

Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
"""What random numbers are derived from."""

Names: TypeAlias = Annotated[tuple[str, ...], as_tuple]
"""Names in order."""


MaskThreshold: TypeAlias = (
    Annotated[int, Field(ge=1, le=65535)] | Annotated[float, Field(gt=0)] | Literal["auto"] | None
)
"""Value from which a px of a mask counts as foreground; None for masks that hold labels."""


def _compiled(value: str, info: ValidationInfo) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        must, fix = f"be a regular expression ({error})", "See Python's documentation of `re`."
        raise invalid(SettingError, str(info.field_name), must=must, got=value, fix=fix) from None
    return value


Regex: TypeAlias = Annotated[str, AfterValidator(_compiled)]
"""A regular expression."""


def named(value: object) -> object:
    """Turn a name alone into settings that have it."""
    return {"name": value} if isinstance(value, str) else value


def fields_within(hint: object) -> set[str]:
    """List the fields of all settings that a type hint allows."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return set(hint.model_fields) - {"name"}
    return {name for part in get_args(hint) for name in fields_within(part)}


def names_of(hint: object) -> list[str]:
    """List what the field ``name`` may be, of all settings that a type hint allows."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return list(get_args(hint.model_fields["name"].annotation))
    return [name for part in get_args(hint) for name in names_of(part)]


def settings_within(field: FieldInfo) -> type[BaseModel] | None:
    """Return the class of the settings that a field holds, unless it takes other things as well."""
    kinds = [one for one in get_args(field.annotation) or (field.annotation,) if one is not NoneType]
    plain = len(kinds) == 1 and isinstance(kinds[0], type) and not field.metadata
    return kinds[0] if plain and issubclass(kinds[0], BaseModel) else None


def laid_over(below: object, above: object) -> object:
    """Put what is given of nested settings over what holds without it."""
    if not isinstance(above, dict) or not isinstance(below, dict):
        return above
    if above.get("name", below.get("name")) != below.get("name"):
        return above
    return below | {key: laid_over(below.get(key), value) for key, value in above.items()}


by_name: BeforeValidator = BeforeValidator(named)
"""Marks settings of several kinds for which a name without settings means the kind with its defaults."""


if TYPE_CHECKING:  # to a type checker a descriptor, whose setter says what a class of settings takes

    class Given(Generic[_Held]):
        """A field that holds settings, and takes them as a dict as well."""

        def __get__(self, owner: object, kind: type | None = None) -> _Held: ...
        def __set__(self, owner: object, value: _Held | Mapping[str, Any]) -> None: ...

    class Named(Generic[_Held]):
        """A field that takes the name of one of several kinds, too."""

        def __get__(self, owner: object, kind: type | None = None) -> _Held: ...
        def __set__(self, owner: object, value: _Held | Mapping[str, Any] | str) -> None: ...

else:

    class Given:
        """To pydantic, the settings themselves."""

        def __class_getitem__(cls, held: Any) -> Any:
            return held

    Named = Given


def or_else(default: object) -> Any:  # whatever the field holds
    """Give a field its default."""
    return Field(default=default)


def or_made(make: Callable[..., object]) -> Any:
    """Give a field a default that is made of the fields before it."""
    return Field(default_factory=make)


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
    "model_attributes_type": "Give a name, or settings that have one.",
    "too_short": "Give more values.",
    "too_long": "Give fewer values.",
    "string_pattern_mismatch": "Write it in that form.",
}
_NUMBERS = {"int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number"}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def joined(lines: list[ErrorDetails]) -> list[ErrorDetails]:
    """Join the choices of several branches of a union into one line."""
    choices: dict[object, list[str]] = {}
    for line in lines:
        if line["type"] == "literal_error":
            choices.setdefault(line["loc"][:1], []).append(line["ctx"]["expected"])
    numbers = {line["loc"][:-1]: _NUMBERS[line["type"]] for line in lines if line["type"] in _NUMBERS}
    return [
        line | {"msg": f"Input should be {_or(choices[line['loc'][:1]])}{_or_number(line, numbers)}"}
        if line["type"] == "literal_error"
        else line
        for line in lines
    ]


def _or_number(line: ErrorDetails, numbers: dict[tuple[int | str, ...], str]) -> str:
    """Name a number too where one is allowed beside the choices: the other branches of the union say so."""
    in_union = str(line["loc"][-1]).startswith("literal[")
    return f" or {numbers[line['loc'][:-1]]}" if in_union and line["loc"][:-1] in numbers else ""


def _or(choices: list[str]) -> str:
    """Write choices, of which each text holds one or several in quotes, as one list."""
    found = dict.fromkeys(name for text in choices for name in re.findall(r"'([^']*)'", text))
    names = [f"'{name}'" for name in found]  # those of several wrong entries are the same
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else " or ".join(choices)


def complaint(where: str, line: ErrorDetails) -> str:
    """Say what is wrong with one value."""
    if line["type"] == "missing" and isinstance(line["loc"][-1], int):  # of a tuple that is too short
        least = line["loc"][-1] + 1
        return f"`{where}` must have at least {least} values; got {shown(line['input'])}. Give more values."
    text = line["msg"].replace("Input should be", "must be").replace("Field required", "must be given")
    text = text.replace("a valid dictionary or object to extract fields from", "settings")
    for what in ("Tuple", "List", "String", "Data", "Value"):
        text = text.replace(f"{what} should", "must")
    given = line["input"]
    found = "nothing" if line["type"] == "missing" else shown(given)
    if isinstance(given, str) and (line["type"].endswith("_type") or given[:1].isdecimal()):
        found = f"the text {found!r}"
    return f"`{where}` {text}; got {found}. {_fix(line)}"


def _fix(line: ErrorDetails) -> str:
    if line["type"] in _LIMITS:
        key, words = _LIMITS[line["type"]]
        return f"Use {words} {line['ctx'][key]}."
    if line["type"] == "literal_error":
        near = did_you_mean(shown(line["input"]), re.findall(r"'([^']*)'", line["msg"]))
        return near if near.startswith("Did") else _FIXES["literal_error"]
    return _FIXES.get(line["type"], "See the class's docstring.")
