"""The choice of a Predictor; Keras is touched only where a Keras network comes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

from tiledseg._checks import broken
from tiledseg._types import SegmenterLike
from tiledseg.engine._callable import CallablePredictor
from tiledseg.errors import ModelError

if TYPE_CHECKING:
    from tiledseg._types import Predictor
    from tiledseg.engine import _keras
else:
    _keras = lazy_loader.load("tiledseg.engine._keras", suppress_warning=True)

__all__ = ["predictor_for"]


def predictor_for(model: object) -> Predictor:
    """Make a network ready to be called on batches of tiles.

    Parameters
    ----------
    model : Segmenter, keras.Model, Predictor or callable
        A callable maps tiles (N, h, w, C) float32 to outputs (N, h, w, K).

    Returns
    -------
    Predictor
        Knows the network's channels, classes, tile size and stride as far as they can be known.

    Raises
    ------
    ModelError
        If `model` is none of these, or a Keras network that cannot be tiled: several inputs or
        outputs, not an image, weights that are not finite, or an unknown data format.

    Examples
    --------
    >>> import numpy as np
    >>> predictor = predictor_for(lambda tiles: tiles[..., :1] * 2)
    >>> predictor(np.ones((2, 4, 4, 3), np.uint8)).shape
    (2, 4, 4, 1)
    """
    if isinstance(model, SegmenterLike):
        model = model.network
    if _is_keras(model):
        return _keras.KerasPredictor(model)
    if all(hasattr(model, name) for name in ("channels", "classes", "tile_size", "stride", "bytes_per_tile")):
        ready: Predictor = model  # type: ignore[assignment]
        return ready
    if not callable(model):
        raise broken(
            ModelError,
            "model",
            must="be a Segmenter, a keras.Model or a callable",
            got=type(model).__name__,
            fix="Load a saved one with tiledseg.load_model."
            if isinstance(model, str)
            else "Pass the network itself.",
        )
    return CallablePredictor(model)


def _is_keras(model: object) -> bool:
    """Recognise a keras.Model without loading Keras."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] == "keras"
        for kind in type(model).__mro__
    )
