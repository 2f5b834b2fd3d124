"""Settings of objects: which areas of a map are one object, and which of them count."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tiledseg.config.base import Config
from tiledseg.config.fields import Count, as_numbers, as_tuple

_Share = Annotated[float, Field(gt=0, lt=1)]


class ObjectsConfig(Config):
    """How objects are extracted from a map.

    Examples
    --------
    >>> ObjectsConfig(min_area=30, fill_holes=True).connectivity
    4
    """

    threshold: _Share | Annotated[tuple[_Share, ...], as_tuple] = 0.5
    """Probability from which a px belongs to an object, in a map of one class, or of background and
    foreground. With more classes a px has the class of its largest probability, and class 0 is the
    background; with a threshold for each of the classes 1, 2, …, a px below that of its class is background
    too."""
    connectivity: Annotated[Literal[4, 8], as_numbers] = 4
    """With 4, px that touch only at a corner belong to different objects; with 8, to the same one."""
    fill_holes: bool = False
    """Whether areas of background that touch only one object, and not the image's border, become part of
    that object. An area that holds other objects is not a hole."""
    split: Literal["none", "watershed"] = "none"
    """Whether objects that touch are split: by the distance to the background, or by a class of the
    network (`boundary_class`, `centre_class`)."""
    split_depth: Annotated[float, Field(gt=0)] = 1.0
    """How far, in px, the distance to the background must rise from the neck between two parts to the lower
    of their peaks, so that they are split. A larger value gives fewer parts."""
    boundary_class: Count | None = None
    """Class of the px between objects: areas of the other classes grow into it, each px to the nearest."""
    centre_class: Count | None = None
    """Class of the centres of objects: each of its areas becomes an object, and grows into the other
    classes. An area without a centre stays one object."""
    split_max_px: Count = 1 << 24
    """Objects whose bounding box has more px are not split; a log message says how many."""
    keep_border: bool = True
    """Whether objects that touch the image's border count."""
    min_area: Annotated[float, as_numbers, Field(ge=0)] = 1
    """Smaller objects are left out. Holes that were filled count as area."""
    max_area: Annotated[float, as_numbers, Field(gt=0)] | None = None
    """Larger objects are left out; None for no limit."""
    area_unit: Literal["px", "um2"] = "px"
    """Unit of `min_area` and `max_area`: px, or µm², which needs the size of a px."""

    @model_validator(mode="after")
    def _areas(self) -> Self:
        if self.max_area is not None and self.max_area < self.min_area:
            raise self._invalid(
                "max_area", f"be at least min_area={self.min_area}", "Use a larger one, or None."
            )
        return self

    @model_validator(mode="after")
    def _classes(self) -> Self:
        given = [name for name in ("boundary_class", "centre_class") if getattr(self, name) is not None]
        if given and self.split == "none":
            raise self._invalid(given[0], "be None without splitting", 'Set split="watershed".')
        if len(given) > 1:
            raise self._invalid("centre_class", "be None with a boundary_class", "Give one of them.")
        return self
