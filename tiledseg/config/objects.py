"""Settings of objects: which areas of a map are one object, and which of them count."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tiledseg.config.base import Config, Count, as_numbers


class ObjectsConfig(Config):
    """How objects are made of a map.

    Examples
    --------
    >>> ObjectsConfig(min_area=30, fill_holes=True).connectivity
    4
    """

    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Probability from which a px of a map of one class belongs to an object. A map of several classes
    needs none: a px has the class of its largest probability, and class 0 is the background."""
    connectivity: Annotated[Literal[4, 8], as_numbers] = 4
    """With 4, px that touch only at a corner belong to different objects; with 8, to the same one."""
    fill_holes: bool = False
    """Whether areas of background that touch one object alone, and not the image's border, become part
    of that object. An area that holds other objects is not a hole."""
    keep_border: bool = True
    """Whether objects that touch the image's border count."""
    min_area: Count = 1
    """Smaller objects, in px, are left out. Holes that were filled count as area."""
    max_area: Count | None = None
    """Larger objects, in px, are left out; None for no limit."""

    @model_validator(mode="after")
    def _areas(self) -> Self:
        if self.max_area is not None and self.max_area < self.min_area:
            raise self._invalid(
                "max_area", f"be at least min_area={self.min_area}", "Use a larger one, or None."
            )
        return self
