"""What a field's type says: which texts it takes, how its option looks, in which range its numbers lie."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt

__all__ = [
    "Hint",
    "any_of",
    "choices_of",
    "is_flag",
    "is_text",
    "limits_of",
    "members_of",
    "metavar_of",
    "parsed",
]

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
