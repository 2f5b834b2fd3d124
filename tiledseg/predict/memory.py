"""The memory of a prediction whose map goes into files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg.predict.products import needs_whole

if TYPE_CHECKING:
    from tiledseg.config import PredictConfig
    from tiledseg.predict.plan import Plan

_FILE_PX = {"overlay": 14, "coloured": 8, "mask": 3, "probs": 4}  # bytes per px of files made of a whole map


def as_files(plan: Plan, config: PredictConfig, dtype: Any) -> Plan:  # noqa: ANN401  as NumPy takes it
    """Plan for the files that `predict_files` writes, of an image of a dtype."""
    whole = [what for what in config.write if needs_whole(what, config)]
    if whole:
        largest = max(_FILE_PX.get(what, 0) for what in whole) * int(np.prod(plan.shape))
        image = int(np.prod(plan.shape)) * (plan.channels or 1) * np.dtype(dtype).itemsize
        size = max(image, plan.source_bytes)
        return replace(plan, output="probabilities", source_bytes=size, files_bytes=largest)
    return replace(plan, output="mask" if set(config.write) == {"mask"} else "probabilities", streamed=True)
