"""The model card: the README of a bundle."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiledseg.models._segmenter import Segmenter

__all__ = ["card"]

_CARD = """\
# Segmenter of {labels}

A network that segments images of any size, tile by tile, saved by `tiledseg`.

| | |
|---|---|
| architecture | `{name}`, {parameters:,} parameters |
| input | {channels} channel(s), {dtype}; tiles of {height} by {width} px |
| output | {classes} channel(s): {labels} |
| threshold | {threshold} |
| tiling | {tiling} |
| views averaged | {views} |

## Use

```python
import tiledseg

segmenter = tiledseg.load_model("this folder")
probs = tiledseg.tiled_predict(segmenter, image)  # image (H, W, C) -> probs (H, W, K)
```

Loading executes no code: `config.json` holds settings, `model.safetensors` holds arrays, and
the digest of the arrays stands among the settings.

## Preparation of pixels

{preprocessing}

## Architecture

{architecture}

## Provenance

{provenance}
"""


def card(segmenter: Segmenter) -> str:
    """Write the model card of a segmenter."""
    height, width, channels = segmenter.architecture.input_shape
    tiling = segmenter.tiling
    return _CARD.format(
        labels=", ".join(_quoted(label) for label in segmenter.labels),
        name=segmenter.architecture.name,
        parameters=segmenter.network.count_params(),
        channels=channels,
        dtype=segmenter.preprocessing.dtype,
        height=height or "any",
        width=width or "any",
        classes=segmenter.architecture.classes,
        threshold=segmenter.threshold,
        tiling=f"`{tiling.model_dump(mode='json')}`" if tiling else "left to the caller",
        views=segmenter.views or "none",
        preprocessing=_listed(segmenter.preprocessing.model_dump(mode="json")),
        architecture=_listed(segmenter.architecture.told()),
        provenance=_listed(segmenter.provenance) if segmenter.provenance else "Not stated.",
    )


def _quoted(label: str) -> str:
    """Keep a label on its line and inside its cell of a table."""
    return json.dumps(label, ensure_ascii=False).replace("|", "\\|")


def _listed(settings: object) -> str:
    """Indent JSON by four, which Markdown shows as it is, whatever it holds."""
    lines = json.dumps(settings, indent=2, ensure_ascii=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)
