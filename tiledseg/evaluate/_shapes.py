"""Score the outlines and the cells of a finished map of labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._validate import shown
from tiledseg.metrics import components, default_tolerance, hausdorff95, match_instances, outline_distances

if TYPE_CHECKING:
    from tiledseg._types import AnyArray
    from tiledseg.evaluate._scores import ImageScores
    from tiledseg.metrics import BoundaryCounts, InstanceCounts

__all__ = ["ShapeScorer"]

_log = logging.getLogger("tiledseg")
_MOST_PX = 2**28  # outlines and cells are found in a whole image at once, with some 16 bytes per px


@dataclass(frozen=True, slots=True)
class ShapeScorer:
    """How outlines and cells are scored."""

    # how near two outlines must be to agree; None for 0.75 % of the image's diagonal
    boundary_px: float | None = None
    cell_px: int = 1  # smaller areas are no cells

    def scored(
        self, scores: ImageScores, truth: AnyArray, labels: AnyArray, cells: AnyArray | None = None
    ) -> ImageScores:
        """Add outlines and cells to the scores of an image."""
        if truth.size > _MOST_PX:
            _log.warning("%s: too large for scores of outlines and cells", shown(scores.name))
            return scores
        parts = [
            self._of_class(truth == label, labels == label, cells)
            for label in range(1, max(len(scores.counts), 2))
        ]
        boundary, distances, instances = zip(*parts, strict=True)
        return replace(scores, boundary=boundary, distances=distances, instances=instances)

    def _of_class(
        self, truth: AnyArray, found: AnyArray, cells: AnyArray | None
    ) -> tuple[BoundaryCounts, float, InstanceCounts]:
        tolerance = default_tolerance(truth.shape) if self.boundary_px is None else self.boundary_px
        outlines = outline_distances(truth, found)
        true_cells = components(truth, self.cell_px) if cells is None else np.where(truth, cells, 0)
        return (
            outlines.within(tolerance),
            hausdorff95(outlines),
            match_instances(true_cells, components(found, self.cell_px)),
        )
