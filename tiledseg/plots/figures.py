"""The only use of matplotlib: figures without a window, as PNG."""

from __future__ import annotations

import io
from typing import Any

from tiledseg._extras import extra

_DPI = 150


def new_figure(width: float, height: float) -> Any:  # noqa: ANN401  a Figure of matplotlib, which may not be installed
    """Make an empty figure."""
    return extra("matplotlib.figure", "plot").Figure(
        figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white"
    )


def png_of(figure: Any) -> bytes:  # noqa: ANN401
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
