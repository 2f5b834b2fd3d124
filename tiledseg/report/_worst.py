"""Keep pictures of the worst images while all are scored."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from tiledseg._validate import instance_of, real_pair, shown, whole_number
from tiledseg.errors import ArrayError
from tiledseg.evaluate import ScoredImage
from tiledseg.report._pictures import picture_row

if TYPE_CHECKING:
    from tiledseg.report._pictures import PictureRow

__all__ = ["WorstCases"]

_log = logging.getLogger("tiledseg")


class WorstCases:
    """A callback of the Evaluator that draws the images of the lowest Dice."""

    def __init__(
        self, n_images: int = 8, *, longest_px: int = 960, limits: tuple[float, float] | None = None
    ) -> None:
        self._most = whole_number("n_images", n_images, 0)
        self._longest_px, self._limits = whole_number("longest_px", longest_px), limits
        if limits is not None:
            real_pair("limits", limits, "be finite, the lower first", "Give for example (0, 4095).")
        self._rows: list[tuple[float, PictureRow]] = []

    @property
    def rows(self) -> list[PictureRow]:
        """The pictures, those of the worst image first."""
        return [row for _, row in self._rows]

    def __call__(self, scored: ScoredImage) -> None:
        """Draw an image if it is among the worst so far."""
        instance_of(ScoredImage, scored, "scored", "Pass what Evaluator.evaluate gives its callback.")
        dice = scored.scores.dice
        if not self._most or (len(self._rows) == self._most and dice >= self._rows[-1][0]):
            return
        try:
            row = picture_row(scored, longest_px=self._longest_px, limits=self._limits)
        except ArrayError as error:
            _log.warning("%s: no picture: %s", shown(scored.scores.name), error)
            return
        self._rows = sorted([*self._rows, (dice, row)], key=lambda one: one[0])[: self._most]

    def add_other(self, scored: ScoredImage, title: str) -> None:
        """Draw what another segmenter says of an image that is kept."""
        for place, (dice, row) in enumerate(self._rows):
            if row.name == scored.scores.name:
                other = picture_row(scored, longest_px=self._longest_px, limits=self._limits)
                pictures = [replace(one, title=f"{one.title} of {title}") for one in other.pictures[2:]]
                note = f"{row.note}, {title}: {other.note}"
                self._rows[place] = dice, replace(row, note=note, pictures=(*row.pictures, *pictures))
