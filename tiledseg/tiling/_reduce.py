"""Reductions of finished probabilities on their way to the sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from tiledseg._validate import invalid, one_of, real_number
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray, Sink

__all__ = ["ReducingSink", "Reduction", "labels_of", "reduced_dtype", "reduced_shape"]

Reduction: TypeAlias = Literal["threshold", "argmax", "uint8"]
"""``threshold`` and ``uint8`` keep the channel axis; ``argmax`` replaces it by labels."""

_TOLERANCE = 1e-3


def reduced_shape(shape: tuple[int, int, int], reduction: Reduction | None) -> tuple[int, ...]:
    """Give the shape of a map after its reduction."""
    if reduction is not None:
        one_of("reduction", reduction, get_args(Reduction))
    if reduction != "argmax":
        return shape
    if shape[2] == 1:
        raise invalid(
            SettingError,
            "reduction",
            must="not be argmax with one channel",
            got=reduction,
            fix="Use threshold.",
        )
    return shape[:2]


def reduced_dtype(reduction: Reduction | None, n_channels: int) -> np.dtype[Any]:
    """Give the dtype of a map after its reduction."""
    if reduction is None:
        return np.dtype(np.float32)
    return np.dtype(np.uint16 if reduction == "argmax" and n_channels > 256 else np.uint8)


def labels_of(probs: FloatArray, threshold: float = 0.5) -> AnyArray:
    """Decide the label of each px."""
    if getattr(probs, "ndim", 0) != 3:
        got, fix = getattr(probs, "shape", probs), "Give one channel as probs[..., numpy.newaxis]."
        raise invalid(ArrayError, "probs", must="be an array (H, W, K)", got=got, fix=fix)
    if probs.shape[2] == 1:
        cut = np.float32(real_number("threshold", threshold, "Use 0.5, say."))
        return np.greater_equal(probs[..., 0], cut).astype(np.uint8)
    labels: AnyArray = probs.argmax(axis=-1)
    return labels.astype(reduced_dtype("argmax", probs.shape[2]))


class ReducingSink:
    """A sink that reduces rows of probabilities and hands them on."""

    def __init__(
        self,
        out: Sink,
        shape: tuple[int, int, int],
        reduction: Reduction | None = None,
        threshold: float = 0.5,
    ) -> None:
        wanted = reduced_shape(shape, reduction)
        threshold = real_number("threshold", threshold, "Use 0.5, say.")
        if not 0 < threshold < 1:
            raise invalid(SettingError, "threshold", must="be in (0, 1)", got=threshold, fix="Use 0.5, say.")
        self._flat = _check_out(out, wanted, reduction, reduced_dtype(reduction, shape[2]))
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._reduction, self._threshold = reduction, np.float32(threshold)

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        reduced = self._reduced(probs)
        self.out[rows] = reduced[..., 0] if self._flat else reduced

    def _reduced(self, probs: FloatArray) -> AnyArray:
        if self._reduction is None:
            return probs
        if self._reduction == "threshold":
            return (probs >= self._threshold).astype(np.uint8)
        if self._reduction == "argmax":
            return labels_of(probs)
        low, high = float(probs.min()), float(probs.max())
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise invalid(
                ArrayError,
                "outputs",
                must="be in [0, 1] to be stored as uint8",
                got=f"values from {low:.4g} to {high:.4g}",
                fix="Let the network end in a sigmoid or softmax, or store float32.",
            )
        return np.rint(np.clip(probs, 0, 1) * 255).astype(np.uint8)


def _check_out(out: Sink, wanted: tuple[int, ...], reduction: Reduction | None, dtype: np.dtype[Any]) -> bool:
    """Check that a sink can hold a map; say whether it lacks the axis of the one channel."""
    if not all(hasattr(out, name) for name in ("shape", "dtype", "__setitem__")):
        raise invalid(
            ArrayError,
            "out",
            must="be an array with shape, dtype and slice assignment",
            got=type(out).__name__,
            fix="Pass a NumPy array, a memmap or the like.",
        )
    found = tuple(out.shape)
    flat = found == wanted[:2] and wanted[2:] == (1,)
    if found != wanted and not flat:
        raise invalid(
            ArrayError, "out", must=f"have shape {wanted}", got=found, fix="Allocate it with that shape."
        )
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise invalid(
            ArrayError, "out", must="be writable", got="a read-only array", fix="Pass a copy of it."
        )
    held = np.dtype(out.dtype)
    fits = {
        None: held.kind == "f",
        "threshold": held.kind in set("biuf"),
    }.get(reduction, held.kind in set("iuf") and np.can_cast(dtype, held, "safe"))
    if not fits:
        raise invalid(
            ArrayError,
            "out",
            must="hold probabilities" if reduction is None else f"hold {dtype} values",
            got=str(held),
            fix=f"Use {dtype}, or another `reduction`.",
        )
    return flat
