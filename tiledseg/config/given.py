"""Fields that hold settings and take them as a dict, or by name, so that type checkers know of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Held = TypeVar("_Held")

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

        def __class_getitem__(cls, held: Any) -> Any:  # noqa: ANN401
            return held

    Named = Given


def or_else(default: object) -> Any:  # noqa: ANN401  whatever the field holds
    """Give a field its default."""
    return Field(default=default)


def or_made(make: Callable[..., object]) -> Any:  # noqa: ANN401
    """Give a field a default that is made of the fields before it."""
    return Field(default_factory=make)
