"""The loss of a map: the formulas of training in NumPy, summed while the rows of the map arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import cv2
from tiledseg.metrics.counts import Summable

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.config import LossConfig

_SMOOTHING, _EPSILON = 1.0, 1e-7  # of soft counts; of logarithms, as Keras has it
_WINDOW, _SIGMA = 11, 1.5  # of SSIM (Wang et al., 2004)
_C1, _C2 = 0.01**2, 0.03**2


class LossTally:
    """The loss of one map as a single sample, as `tiledseg.models.build_loss` computes it in training."""

    # Rows are added in order. Losses of structure (basnet, boundary) look at neighbouring rows, so the
    # last few rows are held back until the next ones are known.

    def __init__(
        self, shape: tuple[int, int, int], settings: LossConfig, class_weights: tuple[float, ...] | None
    ) -> None:
        self._height, self._classes = shape[0], shape[2]
        self._settings, self._weights = settings, class_weights
        self._halo = {"basnet": _WINDOW // 2, "boundary": 1 + getattr(settings, "width", 0)}.get(
            settings.name, 0
        )
        self._held: list[AnyArray] | None = None  # rows of truth, map and counted px
        self._done = self._seen = 0  # rows that are summed; rows that came
        self._sums = _Sums.none(shape[2])

    def add(self, truth: AnyArray, probs: FloatArray, ignored: AnyArray | None = None) -> None:
        """Add the next rows: labels (h, W), probabilities (h, W, K), px that do not count (h, W)."""
        counts = np.ones(truth.shape, bool) if ignored is None else ~ignored
        new = [np.asarray(truth), np.asarray(probs), counts]
        rows = (
            new if self._held is None else [np.concatenate(two) for two in zip(self._held, new, strict=True)]
        )
        self._seen += len(truth)
        first = self._seen - len(rows[0])  # number of the first row that is at hand
        end = self._seen if self._seen == self._height else self._seen - self._halo
        if end > self._done:
            wanted = slice(self._done - first, end - first)
            self._sums += _sums_of(self._settings, self._weights, *self._parts(rows), wanted)
            self._done = end
        kept = max(0, self._done - self._halo - first)
        self._held = [part[kept:].copy() for part in rows] if self._halo else None

    def _parts(self, rows: list[AnyArray]) -> tuple[FloatArray, FloatArray, AnyArray]:
        """Return truth and map (h, W, K), both 0 where a px does not count, and which count."""
        labels, probs, counts = rows
        first = 1 if self._classes == 1 else 0
        truth = labels[..., np.newaxis] == np.arange(first, first + self._classes)
        y, p = truth.astype(np.float32), np.clip(probs, 0, 1)
        if not counts.all():
            y[~counts], p[~counts] = 0, 0
        return y, p, counts

    @property
    def value(self) -> float:
        """The loss after all rows; nan where no px counts."""
        sums = self._sums
        if not sums.px:
            return float("nan")
        return float(_LOSSES[self._settings.name](_Means(sums, self._settings, self._weights, self._classes)))


@dataclass(frozen=True, slots=True, eq=False)
class _Sums(Summable):
    """Sums over the px of a map, (K,) where they are of a class."""

    px: float  # that count
    all_px: float
    entropy: float
    tp: AnyArray
    fp: AnyArray
    fn: AnyArray
    ssim: AnyArray
    outlines: AnyArray  # (4, K): found near true ones, found, true near found ones, true

    @classmethod
    def none(cls, classes: int) -> _Sums:
        zero = np.zeros(classes)
        return cls(0, 0, 0, zero, zero, zero, zero, np.zeros((4, classes)))


def _sums_of(
    settings: Any,
    weights: tuple[float, ...] | None,
    y: FloatArray,
    p: FloatArray,
    counts: AnyArray,
    rows: slice,
) -> _Sums:
    """Sum over some rows of a band of a map."""
    ssim = outlines = None
    if settings.name == "basnet":
        ssim = _total(_ssim(y, p)[rows])
    if settings.name == "boundary":
        outlines = _outline_sums(y, p, settings.width, rows)
    y, p, counts = y[rows], p[rows], counts[rows]
    of_px = _px_weights(y, weights)
    doubt: Any = 1.0
    truth, entropy = y, _entropy(y, p)
    if settings.name == "bootstrap":
        truth = settings.trust * y + (1 - settings.trust) * p
        entropy = settings.trust * entropy + (1 - settings.trust) * _own_entropy(p)
    if settings.name == "missing_labels":
        doubt = _doubt(y, p, settings.certain, settings.weight)
    if settings.name == "focal":
        entropy = entropy * _focus(y, p, settings.gamma, settings.alpha)
    none = np.zeros(y.shape[2])
    tp = _total(doubt * truth * p)
    return _Sums(
        float(np.count_nonzero(counts)),
        float(counts.size),
        float(np.sum(of_px * doubt * entropy, dtype=np.float64)),
        tp,
        _total(doubt * p) - tp,
        _total(doubt * truth) - tp,
        none if ssim is None else ssim,
        np.zeros((4, y.shape[2])) if outlines is None else outlines,
    )


def _total(values: AnyArray) -> AnyArray:
    return np.asarray(np.sum(values, axis=(0, 1), dtype=np.float64))


def _entropy(y: FloatArray, p: FloatArray) -> AnyArray:
    """Return the cross-entropy of a truth of 0 and 1."""
    return np.asarray(-np.log(np.clip(1 - np.abs(y - p), _EPSILON, 1 - _EPSILON)))


def _own_entropy(p: FloatArray) -> AnyArray:
    safe = np.clip(p, _EPSILON, 1 - _EPSILON)
    return np.asarray(-(p * np.log(safe) + (1 - p) * np.log(1 - safe)))


def _focus(y: FloatArray, p: FloatArray, gamma: float, alpha: float | None) -> AnyArray:
    values = np.maximum(y + p - 2 * y * p, _EPSILON) ** gamma
    return np.asarray(values if alpha is None else values * (alpha * y + (1 - alpha) * (1 - y)))


def _px_weights(y: FloatArray, weights: tuple[float, ...] | None) -> Any:  # a number or (h, W, 1)
    if weights is None:
        return 1.0
    if len(weights) == 2 and y.shape[2] == 1:
        return weights[0] + (weights[1] - weights[0]) * y
    return np.sum(y * np.asarray(weights, np.float32), axis=2, keepdims=True)


def _doubt(y: FloatArray, p: FloatArray, certain: float, weight: float) -> AnyArray:
    one = y.shape[2] == 1
    background = 1 - y if one else y[..., :1]
    foreground = p if one else p[..., 1:].max(axis=2, keepdims=True)
    return np.asarray(1 - (1 - weight) * background * (foreground >= certain))


def _each(function: Any, maps: FloatArray) -> AnyArray:
    """Apply a function of (h, W) to each channel."""
    return np.stack([function(np.ascontiguousarray(maps[..., k])) for k in range(maps.shape[2])], axis=2)


def _ssim(y: FloatArray, p: FloatArray) -> AnyArray:
    def blurred(maps: FloatArray) -> AnyArray:
        size, none = (_WINDOW, _WINDOW), cv2.BORDER_CONSTANT
        return _each(lambda one: cv2.GaussianBlur(one, size, _SIGMA, borderType=none), maps)

    y, p = y.astype(np.float64), p.astype(np.float64)
    mean_y, mean_p, yy, pp, yp = map(blurred, (y, p, y * y, p * p, y * p))
    luminance = (2 * mean_y * mean_p + _C1) / (mean_y**2 + mean_p**2 + _C1)
    variances = (yy - mean_y**2) + (pp - mean_p**2)
    return np.asarray(luminance * (2 * (yp - mean_y * mean_p) + _C2) / (variances + _C2))


def _outline_sums(y: FloatArray, p: FloatArray, width: int, rows: slice) -> AnyArray:
    true, found = (_dilated(1 - one, 1) - (1 - one) for one in (y, p))
    parts = (found * _dilated(true, width), found, true * _dilated(found, width), true)
    return np.stack([_total(one[rows]) for one in parts])


def _dilated(maps: FloatArray, px: int) -> AnyArray:
    kernel = np.ones((2 * px + 1, 2 * px + 1), np.uint8)
    return _each(lambda one: cv2.dilate(one.astype(np.float32), kernel), maps)


@dataclass(frozen=True, slots=True, eq=False)
class _Means:
    """What losses are made of, from the sums of a whole map."""

    sums: _Sums
    settings: Any
    weights: tuple[float, ...] | None
    classes: int

    @property
    def entropy(self) -> float:
        return self.sums.entropy / (self.sums.px * self.classes)

    def over_classes(self, values: AnyArray) -> float:
        if self.weights is None or self.classes == 1:
            return float(values.mean())
        return float(np.average(values, weights=self.weights))

    @property
    def dice(self) -> float:
        return 1 - self.over_classes(self._index(2 * self.sums.tp, self.sums.fp + self.sums.fn))

    @property
    def iou(self) -> float:
        return 1 - self.over_classes(self._index(self.sums.tp, self.sums.fp + self.sums.fn))

    @property
    def tversky(self) -> AnyArray:
        wrong = self.settings.alpha * self.sums.fp + self.settings.beta * self.sums.fn
        return np.asarray((self.sums.tp + _SMOOTHING / 2) / (self.sums.tp + wrong + _SMOOTHING / 2))

    @property
    def structure(self) -> float:
        share = self.sums.px / self.sums.all_px
        return (1 - self.over_classes(self.sums.ssim / self.sums.all_px)) / share

    @property
    def outline(self) -> float:
        near_true, found, near_found, true = self.sums.outlines
        precision, recall = (near_true + 1) / (found + 1), (near_found + 1) / (true + 1)
        return 1 - self.over_classes(2 * precision * recall / (precision + recall))

    @staticmethod
    def _index(right: AnyArray, wrong: AnyArray) -> AnyArray:
        return np.asarray((right + _SMOOTHING) / (right + wrong + _SMOOTHING))


_LOSSES: dict[str, Any] = {
    "bce": lambda of: of.entropy,
    "focal": lambda of: of.entropy,
    "dice": lambda of: of.dice,
    "iou": lambda of: of.iou,
    "bce_dice": lambda of: (of.entropy + of.dice) / 2,
    "bootstrap": lambda of: (of.entropy + of.dice) / 2,
    "bce_iou": lambda of: (of.entropy + of.iou) / 2,
    "basnet": lambda of: (of.entropy + of.structure + of.iou) / 3,
    "tversky": lambda of: 1 - of.over_classes(of.tversky),
    "focal_tversky": lambda of: of.over_classes(
        np.maximum(1 - of.tversky, _EPSILON) ** (1 / of.settings.gamma)
    ),
    "missing_labels": lambda of: (of.entropy + 1 - of.over_classes(of.tversky)) / 2,
    "boundary": lambda of: (
        (1 - of.settings.weight) * (of.entropy + of.dice) / 2 + of.settings.weight * of.outline
    ),
}
"""The loss of the means, by name; `tiledseg.models.losses` has the same formulas for training."""
