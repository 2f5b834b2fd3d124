"""Ranges that chance draws from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from tiledseg._validate import invalid
from tiledseg.config._base import _plain
from tiledseg.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Range", "between", "in_order"]

_Number = TypeVar("_Number", int, float)


def in_order(value: tuple[_Number, _Number], info: ValidationInfo) -> tuple[_Number, _Number]:
    """Check that a range begins with its least value."""
    if value[0] > value[1]:
        raise invalid(
            SettingError,
            str(info.field_name),
            must="be the least and the largest value, in this order",
            got=value,
            fix=f"Use {value[::-1]}.",
        )
    return value


Range: TypeAlias = Annotated[tuple[float, float], BeforeValidator(_plain), AfterValidator(in_order)]
"""Least and largest value that may be drawn; both the same for one value always."""


def between(
    least: float, most: float
) -> Callable[[tuple[float, float], ValidationInfo], tuple[float, float]]:
    """Make a check that a range lies between two numbers."""

    def check(value: tuple[float, float], info: ValidationInfo) -> tuple[float, float]:
        if value[0] < least or value[1] > most:
            raise invalid(
                SettingError,
                str(info.field_name),
                must=f"lie in [{least}, {most}]",
                got=value,
                fix=f"Use {(max(least, min(value[0], most)), min(most, max(value[1], least)))}.",
            )
        return value

    return check
