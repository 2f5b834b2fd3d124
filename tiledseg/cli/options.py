"""Command-line options made from the settings: their names, help, ranges and defaults."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, replace
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from cyclopts import Group, Parameter

from tiledseg._validate import ELSEWHERE
from tiledseg.config import Config, by_name, laid_over, meanings_of, names_of, ordered_fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_Settings = TypeVar("_Settings", bound=Config)
COMMON = Group("Common", sort_key=1000)
"""Options that all commands have; they come last in the help."""

_INTERVAL = re.compile(r"[\[(][\d.]+, [^ ]+[\])]")


@dataclass(frozen=True, slots=True)
class Table:
    """Settings that a command takes options from."""

    name: str  # key of the given values
    settings: Config  # model of the settings, with the defaults that the help shows
    title: str  # heading of the options in the help
    prefix: str = ""  # of each option's name, as in ``train-``
    only: tuple[str, ...] = ()  # the fields that become options; empty for all
    without: tuple[str, ...] = ()  # fields that become no option
    defaults: Mapping[str, str] = field(default_factory=dict)  # shown in the help, by field
    reserved: tuple[str, ...] = ()  # names of options of other tables, which nested fields leave to them


@dataclass(frozen=True, slots=True)
class Option:
    """One option of the command line: a field of a settings model."""

    table: Table
    path: tuple[str, ...]  # names of the nested fields
    hint: Hint  # type and rules of the field
    text: str  # its meaning
    default: object
    of: tuple[str, ...] = ()  # names of the settings that have it, if only some of a union do

    @property
    def name(self) -> str:
        """The option as it is typed."""
        last = self.path[-1] if self.path[-1] != "name" else self.path[-2]
        outer = (*(self.table.only or type(self.table.settings).model_fields), *self.table.reserved)
        if len(self.path) > 1 and last in outer and last != self.path[0]:
            last = f"{self.path[-2]}_{last}"  # an outer setting has this name
        return f"--{self.table.prefix}{last.replace('_', '-')}"

    @property
    def keyword(self) -> str:
        """The option as a Python identifier."""
        return self.name[2:].replace("-", "_")

    def parameter(self, group: Group, options: Named) -> inspect.Parameter:
        """Describe the option to the parser, under a heading of the help."""
        kind: Hint = bool if is_flag(self.hint) else choices_of(self.hint) or str
        return inspect.Parameter(
            self.keyword,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, self._look(group, options)],
        )

    def value_of(self, given: object) -> object:
        """Parse a value for the settings."""
        return parsed(given, self.hint) if isinstance(given, str) else given

    def _look(self, group: Group, options: Named) -> Parameter:
        limits = "" if _INTERVAL.search(self.text) else limits_of(self.hint)
        plain = not is_flag(self.hint) and choices_of(self.hint) is None
        default = self.table.defaults.get(self.path[-1]) or _shown(self.default)
        text = _helped(self.text, options, {self.table.name})
        text = f"{text} [of: {', '.join(self.of)}]" if len(self.of) > 1 else text
        return Parameter(
            name=self.name,
            help=f"{text} [range: {limits}]" if limits else text,
            show_default=False if default is None else default,
            group=group,
            metavar=metavar_of(self.hint) if plain else None,
            negative_none=(),
            required=False,
        )

    @property
    def title(self) -> str:
        """The heading: that of the table or of nested settings."""
        title = self.table.title if len(self.path) == 1 else self.path[0].capitalize()
        return f"{title}: only {self.of[0]}" if len(self.of) == 1 else title


def options_of(table: Table) -> list[Option]:
    """List the options of a table, nested settings among them."""
    return list(_walk(table, type(table.settings), table.settings, ()))


def merged(settings: _Settings, given: dict[str, Any]) -> _Settings:
    """Replace values of settings, and check the result."""
    return type(settings).model_validate(laid_over(settings.model_dump(exclude_unset=True), given))


Named: TypeAlias = "dict[str, list[Option]]"
"""Options by the setting that they give: those that are meant by its name alone."""


def by_setting(options: Iterable[Option]) -> Named:
    """Find the options that the name of a setting stands for: an outer one rather than a nested one."""
    names: Named = {}
    for option in sorted(options, key=lambda option: len(option.path)):
        same = names.setdefault(option.path[-1], [])
        if not same or len(option.path) == 1:
            same.append(option)
    return names


_VALUE = r"""\{[^{}]*\}|\([^()]*\)|"[^"]*"|'[^']*'|-?\d+(?:\.\d+)?|[A-Za-z][\w.-]*\w|\w"""
_SETTING = re.compile(
    rf"`(?:[A-Z]\w+\.)?(?:[a-z_]+\.)*?([a-z_]+?)(?:\.name)?`|(?<![\w./`-])([a-z_]+)=({_VALUE})"
)
_ARGUMENT = re.compile(r"\w\([^()]*$")  # of a call in Python
_WORD = re.compile(r"(?<![\w./`-])([a-z]+_[a-z_]+)(?![\w=`])")
_LIST = re.compile(r'(?<!in )\(((?:\d+|"[^"]*")(?:, (?:\d+|"[^"]*"))+)\)')


def _helped(text: str, options: Named, used: Collection[str]) -> str:
    """Write the meaning of a setting for the help: other settings and lists are as they are typed."""
    typed = in_options(_WORD.sub(r"`\1`", text), options, used).replace("`", "")
    return _LIST.sub(lambda found: re.sub('[" ]', "", found[1]), typed)


def in_options(text: str, options: Named, used: Collection[str] = ()) -> str:
    """Write the settings that a message names, and their values, as a command takes them.

    Of options of several tables with one name, those of the tables are meant of which something is used.
    """
    if ELSEWHERE in text:
        return text

    def typed(found: re.Match[str]) -> str:
        same, value = options.get(found[1] or found[2], []), found[3]
        if not same or (value and _ARGUMENT.search(text, 0, found.start())):
            return found[0]
        known = [option.name for option in same if option.table.name in used] or [one.name for one in same]
        if value is None:
            return f"`{'` or `'.join(known)}`"
        return " or ".join(f"{name}{_as_typed(value)}" for name in known)

    return _SETTING.sub(typed, text)


def _as_typed(value: str) -> str:
    """Write a value of Python as it is typed after an option."""
    if value in {"True", "None"}:
        return "" if value == "True" else " none"
    parts = re.findall(r"[\w.-]+", value)
    if value[0] == "{":
        parts = [f"{axis}={place}" for axis, place in zip(parts[::2], parts[1::2], strict=True)]
    return f" {','.join(parts)}"


def _walk(table: Table, model: type[Config], base: Config | None, path: tuple[str, ...]) -> Iterator[Option]:
    meanings = meanings_of(model)
    for name in ordered_fields(model):
        info = model.model_fields[name]
        if not path and (name in table.without or (table.only and name not in table.only)):
            continue
        hint: Hint = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
        default = getattr(base or model(), name)
        nested = [one for one in members_of(hint) if inspect.isclass(one) and issubclass(one, Config)]
        if by_name in info.metadata:
            names: Hint = Literal[tuple(names_of(hint))]
            yield Option(table, (*path, name), names, meanings[name], getattr(default, "name", None))
        elif nested:
            yield from _of_any(table, nested, default, (*path, name))
        else:
            yield Option(table, (*path, name), hint, meanings[name], default)


def _of_any(
    table: Table, models: list[type[Config]], base: Config | None, path: tuple[str, ...]
) -> Iterator[Option]:
    """List the options of a union of settings, those of the default first."""
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
        default = ",".join("none" if part is None else str(part) for part in default)
    return None if default in {None, ""} else str(default)


Hint: TypeAlias = Any
"""A type hint; Python has no one type for them."""

_SIGNS = {Ge: ("ge", ">="), Gt: ("gt", ">"), Le: ("le", "<="), Lt: ("lt", "<")}
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}


def members_of(hint: Hint) -> tuple[Hint, ...]:
    """List the members of a union; a list of one for another type."""
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
        return Union[tuple(hints)]  # noqa: UP007  not known to the type checker
    words = [word for hint in hints for word in get_args(choices_of(hint))]
    choices: Hint = Literal[tuple(dict.fromkeys(words))]
    return choices | None if any(NoneType in members_of(hint) for hint in hints) else choices


def is_flag(hint: Hint) -> bool:
    """Return whether a type is bool."""
    return members_of(hint) == (bool,)


def choices_of(hint: Hint) -> Hint:
    """Return the ``Literal`` of a hint that allows only it and None; else None."""
    members = [member for member in members_of(hint) if member is not NoneType]
    return members[0] if len(members) == 1 and _made_of(members[0], Literal) else None


def parsed(text: str, hint: Hint) -> object:
    """Parse text for the settings; lists have commas, and ``none`` is None."""
    if text.lower() == "none" and NoneType in members_of(hint):
        return None
    if _lists(hint) and ("," in text or _is_list(hint)):
        return tuple(_scalar(part.strip(), _kinds(hint)) for part in text.split(",") if part.strip())
    return _scalar(text, _kinds(hint))


def limits_of(hint: Hint) -> str:
    """Format the range of a number; of a union, the first range."""
    return ", ".join(f"{sign} {bound}" for sign, bound in _bounds(hint).items())


def metavar_of(hint: Hint) -> str:
    """Return the placeholder of the value in the help, as in ``INT|INTxINT``."""
    words = [word for member in members_of(hint) if _made_of(member, Literal) for word in get_args(member)]
    names = [name for kind, name in _METAVARS.items() if kind in _kinds(hint) - ({str} if words else set())]
    if _is_list(hint):
        return f"{names[0]},..."
    return "|".join([*names, *([f"{names[0]}x{names[0]}"] if names and _lists(hint) else []), *words])


def _made_of(hint: Hint, *origins: Hint) -> bool:
    return get_origin(hint) in origins


def _bounds(hint: Hint) -> dict[str, object]:
    """Collect bounds by sign; an outer bound replaces an inner one."""
    if not _made_of(hint, Annotated):
        parts = () if _made_of(hint, Literal) else get_args(hint)
        return next(filter(None, map(_bounds, parts)), {})
    inner, *rules = get_args(hint)
    own = [bound for rule in rules for bound in getattr(rule, "metadata", [rule]) if type(bound) in _SIGNS]
    return _bounds(inner) | {_SIGNS[type(one)][1]: getattr(one, _SIGNS[type(one)][0]) for one in own}


def _lists(hint: Hint) -> list[Hint]:
    return [member for member in members_of(hint) if _made_of(member, tuple)]


def _is_list(hint: Hint) -> bool:
    """Return whether a type allows only lists, or None."""
    lists = _lists(hint)
    return bool(lists) and all(member in {*lists, NoneType} for member in members_of(hint))


def _kinds(hint: Hint) -> set[Hint]:
    """List the scalar types in a hint."""
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
