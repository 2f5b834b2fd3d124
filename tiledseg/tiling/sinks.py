"""Sinks between the stitcher and a map: they convert probabilities to the output, or enlarge them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np

from tiledseg._validate import fraction, invalid, one_of
from tiledseg.errors import ArrayError, StitchError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tiledseg._types import AnyArray, FloatArray, Sink

Output: TypeAlias = Literal["probabilities", "mask", "labels", "uint8"]
"""Float32 probabilities, one label for each px (mask, labels), or probabilities times 255 as uint8."""

_TOLERANCE = 1e-3
_THRESHOLD_FIX = "Use 0.5, for example."
_MOST_BYTE_LABELS = 256


def map_shape(shape: tuple[int, int, int], output: Output) -> tuple[int, ...]:
    """Return the stored shape of a map of probabilities (H, W, K)."""
    one_of("output", output, get_args(Output))
    return shape[:2] if output in {"mask", "labels"} else shape


def map_dtype(output: Output, n_channels: int) -> np.dtype[Any]:
    """Return the stored dtype of a map."""
    one_of("output", output, get_args(Output))
    wide = n_channels > _MOST_BYTE_LABELS and output in {"mask", "labels"}
    return np.dtype(np.float32 if output == "probabilities" else np.uint16 if wide else np.uint8)


def labels_of(probs: FloatArray, threshold: float = 0.5) -> AnyArray:
    """Return the label of each px: one channel is cut at the threshold, of several the largest counts."""
    if getattr(probs, "ndim", 0) != 3:
        got, fix = getattr(probs, "shape", probs), "Give one channel as probs[..., numpy.newaxis]."
        raise invalid(ArrayError, "probs", must="be an array (H, W, K)", got=got, fix=fix)
    if probs.shape[2] == 1:
        cut = np.float32(fraction("threshold", threshold, _THRESHOLD_FIX))
        return np.greater_equal(probs[..., 0], cut).astype(np.uint8)
    labels: AnyArray = probs.argmax(axis=-1)
    return labels.astype(map_dtype("labels", probs.shape[2]))


class OutputSink:
    """Takes rows of probabilities, and writes them to another sink in the form of the output."""

    def __init__(
        self,
        out: Sink,
        shape: tuple[int, int, int],
        output: Output = "probabilities",
        threshold: float = 0.5,
    ) -> None:
        wanted, dtype = map_shape(shape, output), map_dtype(output, shape[2])
        threshold = fraction("threshold", threshold, _THRESHOLD_FIX)
        self._axes = _check_out(out, wanted, output, dtype)
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._output, self._threshold = output, threshold

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        stored = self._stored(probs)
        self.out[rows] = stored if stored.ndim == self._axes else stored.reshape(stored.shape[: self._axes])

    def _stored(self, probs: FloatArray) -> AnyArray:
        if self._output == "probabilities":
            return probs
        if self._output != "uint8":
            return labels_of(probs, self._threshold)
        low, high = float(probs.min()), float(probs.max())
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise invalid(
                ArrayError,
                "outputs",
                must="be in [0, 1] to be stored as uint8",
                got=f"values from {low:.4g} to {high:.4g}",
                fix="Let the network end in a sigmoid or softmax, or store probabilities.",
            )
        return np.rint(np.clip(probs, 0, 1) * 255).astype(np.uint8)


def _check_out(out: Sink, wanted: tuple[int, ...], output: Output, dtype: np.dtype[Any]) -> int:
    """Check that a sink can hold a map; return the number of its axes (2 are enough for one channel)."""
    if not all(hasattr(out, name) for name in ("shape", "dtype", "__setitem__")):
        raise invalid(
            ArrayError,
            "out",
            must="be an array with shape, dtype and slice assignment",
            got=type(out).__name__,
            fix="Pass a NumPy array or a memmap, for example.",
        )
    found = tuple(out.shape)
    if found != wanted and not (found == wanted[:2] and wanted[2:] == (1,)):
        raise invalid(
            ArrayError, "out", must=f"have shape {wanted}", got=found, fix="Allocate it with that shape."
        )
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise invalid(
            ArrayError, "out", must="be writable", got="a read-only array", fix="Pass a copy of it."
        )
    held = np.dtype(out.dtype)
    known = held.kind in set("biuf" if output in {"mask", "labels"} else "iuf")
    fits = held.kind == "f" if output == "probabilities" else known and np.can_cast(dtype, held, "safe")
    if not fits:
        raise invalid(
            ArrayError,
            "out",
            must="hold probabilities" if output == "probabilities" else f"hold {dtype} values",
            got=str(held),
            fix=f"Use {dtype}, or another `output`.",
        )
    return len(found)


_ROWS_AT_ONCE = 256
_PARTS = 4096


class EnlargingSink:
    """Takes the rows of a small map in order, in pieces of any size, and writes those of the large map."""

    def __init__(self, out: Sink, shape: tuple[int, int, int]) -> None:
        self.out: Sink = out
        self.shape: tuple[int, int, int] = shape
        self.dtype: np.dtype[np.float32] = np.dtype(np.float32)
        self._upper, self._lower, share = _neighbours(shape[0], out.shape[0])
        self._left, self._right, across = _neighbours(shape[1], out.shape[1])
        self._share, self._across = share[:, None, None], across[None, :, None]
        self._held = np.empty((0, *shape[1:]), np.float32)
        self._first = 0  # row of the small map at the start of `_held`
        self.written_rows: int = 0  # of the large map, final

    def __setitem__(self, rows: slice, probs: FloatArray) -> None:
        if rows.start != self._first + len(self._held):
            raise invalid(
                StitchError,
                "rows",
                must=f"follow row {self._first + len(self._held)}",
                got=f"row {rows.start}",
                fix="Write the rows in order.",
            )
        self._held = np.concatenate([self._held, probs])
        ready = int(np.searchsorted(self._lower, rows.stop))
        for start in range(self.written_rows, ready, _ROWS_AT_ONCE):
            self._write(start, min(start + _ROWS_AT_ONCE, ready))
        self.written_rows = ready
        if ready < len(self._upper):
            drop = int(self._upper[ready]) - self._first
            self._held, self._first = self._held[drop:].copy(), self._first + drop

    def _write(self, start: int, stop: int) -> None:
        first, last = int(self._upper[start]), int(self._lower[stop - 1]) + 1
        rows = self._held[first - self._first : last - self._first]
        wide = _mixed(rows[:, self._left], rows[:, self._right], self._across)
        upper, lower = self._upper[start:stop] - first, self._lower[start:stop] - first
        self.out[start:stop] = _mixed(wide[upper], wide[lower], self._share[start:stop])


def _neighbours(small: int, large: int) -> tuple[NDArray[np.intp], NDArray[np.intp], FloatArray]:
    """Return, for each px of a large axis, the two nearest px of a small one and the share of the second."""
    # Px centres are at halves, as in OpenCV and TensorFlow. Shares are multiples of 1/4096, so that the
    # mixture of two values in [0, 1] stays there.
    place = np.clip((np.arange(large) + 0.5) * (small / large) - 0.5, 0, small - 1)
    first = np.floor(place).astype(np.intp)
    share = np.rint((place - first) * _PARTS) / _PARTS
    return first, np.minimum(first + 1, small - 1), share.astype(np.float32)


def _mixed(one: FloatArray, other: FloatArray, share: FloatArray) -> FloatArray:
    one *= 1 - share  # in place: both are copies already
    other *= share
    one += other
    return one
