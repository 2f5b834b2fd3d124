"""Options made from the settings: names, meanings, ranges and defaults stand there alone."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, replace
from functools import cache
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import Group, Parameter

from tiledseg.config import Config, by_name, laid_over, meanings_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_Settings = TypeVar("_Settings", bound=Config)
_INTERVAL = re.compile(r"[\[(][\d.]+, [^ ]+[\])]")


@dataclass(frozen=True, slots=True)
class Table:
    """Settings that a command takes options from."""

    name: str  # where the values that are given are put
    settings: Config  # the model, and the defaults that the help shows
    title: str  # heading of the options in the help
    prefix: str = ""  # stands before each option's name, as in ``train-``
    only: tuple[str, ...] = ()  # the fields that are taken; empty for all
    without: tuple[str, ...] = ()  # fields that are left out
    required: bool = False  # whether the fields of text must be given
    # what the help shows, by field, in place of the settings' own defaults
    defaults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line: a field of a settings model."""

    table: Table  # where it comes from
    path: tuple[str, ...]  # names of the fields that lead to it
    hint: Hint  # the field's type and rules
    text: str  # its meaning
    default: object  # its value where it is not given
    # names of the settings that have it, where others in its place do not; empty for all
    of: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The option as it is typed: the field's name, or that of the settings that the field names."""
        last = self.path[-1] if self.path[-1] != "name" else self.path[-2]
        return f"--{self.table.prefix}{last.replace('_', '-')}"

    @property
    def keyword(self) -> str:
        """The option as a Python name."""
        return self.name[2:].replace("-", "_")

    def parameter(self) -> inspect.Parameter:
        """Describe the option to the parser."""
        kind: Hint = bool if is_flag(self.hint) else choices_of(self.hint) or str
        required = self.table.required and is_text(self.hint)
        return inspect.Parameter(
            self.keyword,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else None,
            annotation=Annotated[kind if required else kind | None, self._look(required=required)],
        )

    def value_of(self, given: object) -> object:
        """Turn what was typed into what the settings take."""
        return parsed(given, self.hint) if isinstance(given, str) else given

    def _look(self, *, required: bool) -> Parameter:
        limits = "" if _INTERVAL.search(self.text) else limits_of(self.hint)
        plain = not is_flag(self.hint) and choices_of(self.hint) is None
        default = self.table.defaults.get(self.path[-1]) or _shown(self.default)
        text = f"{self.text} [of: {', '.join(self.of)}]" if len(self.of) > 1 else self.text
        return Parameter(
            name=self.name,
            help=f"{text} [range: {limits}]" if limits else text,
            show_default=False if required or default is None else default,
            group=group(self._title()),
            metavar=metavar_of(self.hint) if plain else None,
            negative_none=(),
            required=required,
        )

    def _title(self) -> str:
        """Name the heading: the table's, or that of the settings inside it."""
        title = self.table.title if len(self.path) == 1 else self.path[0].capitalize()
        return f"{title}: {self.of[0]} alone" if len(self.of) == 1 else title


@cache
def group(title: str) -> Group:
    """Make a heading of the help; those asked for first come first."""
    return Group.create_ordered(title)


def options_of(table: Table) -> list[Option]:
    """List the options of a table, nested settings among them."""
    return list(_walk(table, type(table.settings), table.settings, ()))


def merged(settings: _Settings, given: dict[str, Any]) -> _Settings:
    """Put values over settings, and check the whole."""
    return type(settings).model_validate(laid_over(settings.model_dump(exclude_unset=True), given))


def _walk(table: Table, model: type[Config], base: Config | None, path: tuple[str, ...]) -> Iterator[Option]:
    meanings = meanings_of(model)
    for name, info in model.model_fields.items():
        if not path and (name in table.without or (table.only and name not in table.only)):
            continue
        hint: Hint = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        default = getattr(base or model(), name)
        nested = [one for one in members_of(hint) if inspect.isclass(one) and issubclass(one, Config)]
        if by_name in info.metadata:
            names: Hint = Literal[tuple(one.model_fields["name"].default for one in nested)]
            yield Option(table, (*path, name), names, meanings[name], default.name)
        elif nested:
            yield from _of_any(table, nested, default, (*path, name))
        else:
            yield Option(table, (*path, name), hint, meanings[name], default)


def _of_any(
    table: Table, models: list[type[Config]], base: Config | None, path: tuple[str, ...]
) -> Iterator[Option]:
    """List the options of settings that may be of several kinds, those of the default one first."""
    found: dict[str, dict[str, Option]] = {}
    for model in sorted(models, key=lambda model: not isinstance(base, model)):
        own = base if isinstance(base, model) else None
        for option in _walk(table, model, own, path):
            found.setdefault(option.name, {})[getattr(own or model(), "name", "")] = option
    for options in found.values():
        first = next(iter(options.values()))
        of = () if len(options) == len(models) else tuple(options)
        yield replace(first, hint=any_of([option.hint for option in options.values()]), of=of)


def _shown(default: object) -> str | None:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return ",".join("none" if part is None else str(part) for part in default)
    return None if default is None else str(default)


Hint: TypeAlias = Any
"""A type hint; Python has no one type for them."""

_SIGNS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


def members_of(hint: Hint) -> tuple[Hint, ...]:
    """List what a union may be; another type alone."""
    if _made_of(hint, Annotated):
        return members_of(get_args(hint)[0])
    if _made_of(hint, Union, UnionType):
        return tuple(one for member in get_args(hint) for one in members_of(member))
    return (hint,)


def any_of(hints: list[Hint]) -> Hint:
    """Join the types that an option has in different settings."""
    if all(hint == hints[0] for hint in hints):
        return hints[0]
    if not all(choices_of(hint) for hint in hints):
        return Union[tuple(hints)]  # noqa: UP007  known only here
    words = [word for hint in hints for word in get_args(choices_of(hint))]
    choices: Hint = Literal[tuple(dict.fromkeys(words))]
    return choices | None if any(NoneType in members_of(hint) for hint in hints) else choices


def is_flag(hint: Hint) -> bool:
    """Say whether it is a boolean."""
    return members_of(hint) == (bool,)


def is_text(hint: Hint) -> bool:
    """Say whether it is text alone."""
    return members_of(hint) == (str,)


def choices_of(hint: Hint) -> Hint:
    """Give the ``Literal`` that a hint allows beside None; None where there is none, or more besides."""
    members = [member for member in members_of(hint) if member is not NoneType]
    return members[0] if len(members) == 1 and _made_of(members[0], Literal) else None


def parsed(text: str, hint: Hint) -> object:
    """Turn text into what settings take; lists have commas, and ``none`` is None."""
    if text.lower() == "none" and NoneType in members_of(hint):
        return None
    if _lists(hint) and ("," in text or _is_list(hint)):
        return tuple(_scalar(part.strip(), _kinds(hint)) for part in text.split(",") if part.strip())
    return _scalar(text, _kinds(hint))


def limits_of(hint: Hint) -> str:
    """Say the range that a number is checked against; of a union's members the first that has one."""
    return ", ".join(f"{sign} {bound}" for sign, bound in _bounds(hint).items())


def metavar_of(hint: Hint) -> str:
    """Say what stands for the value in the help, as in ``INT|INTxINT``."""
    words = [word for member in members_of(hint) if _made_of(member, Literal) for word in get_args(member)]
    names = [name for kind, name in _METAVARS.items() if kind in _kinds(hint) - ({str} if words else set())]
    if _is_list(hint):
        return f"{names[0]},..."
    return "|".join([*names, *([f"{names[0]}x{names[0]}"] if names and _lists(hint) else []), *words])


def _made_of(hint: Hint, *origins: Hint) -> bool:
    return get_origin(hint) in origins


def _bounds(hint: Hint) -> dict[str, object]:
    """Collect bounds by sign; an outer one replaces an inner one."""
    if not _made_of(hint, Annotated):
        parts = () if _made_of(hint, Literal) else get_args(hint)
        return next(filter(None, map(_bounds, parts)), {})
    inner, *rules = get_args(hint)
    own = [bound for rule in rules for bound in getattr(rule, "metadata", [rule]) if type(bound) in _SIGNS]
    return _bounds(inner) | {_SIGNS[type(one)][1]: getattr(one, _SIGNS[type(one)][0]) for one in own}


def _lists(hint: Hint) -> list[Hint]:
    return [member for member in members_of(hint) if _made_of(member, tuple)]


def _is_list(hint: Hint) -> bool:
    """Say whether it can be nothing else than a list."""
    lists = _lists(hint)
    return bool(lists) and all(member in {*lists, NoneType} for member in members_of(hint))


def _kinds(hint: Hint) -> set[Hint]:
    """List the plain types that a hint is made of."""
    kinds: set[Hint] = set()
    for member in members_of(hint):
        if _made_of(member, tuple):
            parts = (part for part in get_args(member) if part is not Ellipsis)
            kinds.update(*(_kinds(part) for part in parts))
        else:
            kinds.add(str if _made_of(member, Literal) else member)
    return kinds


def _scalar(text: str, kinds: set[Hint]) -> object:
    if str in kinds and not kinds & {int, float}:
        return text
    if text.lower() == "none" and NoneType in kinds:
        return None
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
