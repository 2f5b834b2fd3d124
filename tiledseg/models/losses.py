"""Losses: one value per sample, then their mean, so that the loss does not depend on the batch.

There are losses of single px (entropies), of regions (Dice, IoU, Tversky), of outlines and structure,
and for incomplete labels. Tensors are annotated as Any, because Keras does not type them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from tiledseg._backend import keras
from tiledseg._validate import counted, did_you_mean, invalid, items_of, one_of, real_number
from tiledseg.config import LossConfig
from tiledseg.errors import ArrayError, SettingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_LOSS_CONFIG: TypeAdapter[Any] = TypeAdapter(LossConfig)
_REDUCTIONS = ("sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none")
_MOST = 1.001  # of truth and probabilities, which may be rounded
_SMOOTHING = 1.0  # of soft counts
_WINDOW, _SIGMA = 11, 1.5  # of the Gaussian window of Wang et al. (2004)
_C1, _C2 = 0.01**2, 0.03**2  # of the same paper
_TINY = 1e-7  # a root has no finite slope at 0: the gradient of a perfect sample would be NaN


@keras.saving.register_keras_serializable(package="tiledseg")
class SegmentationLoss(keras.losses.Loss):
    """A loss of truth (N, h, w, K) and probabilities (N, h, w, K): one value per sample.

    Soft sums are over the px of one sample, never over a batch; Keras then averages over samples.

    Parameters
    ----------
    settings : LossConfig or mapping
        Which loss, with its parameters.
    class_weights : sequence of float, optional
        One per class; with one channel those of background and foreground. Losses that are sums
        over px weight each px, the others weight each class.
    name : str
        Name of the loss.
    reduction : str, optional
        Keras name of the reduction over samples.

    Raises
    ------
    SettingError
        As of `build_loss`.
    """

    def __init__(
        self,
        settings: LossConfig | Mapping[str, Any],
        class_weights: Sequence[float] | None = None,
        name: str = "loss",
        reduction: str | None = "sum_over_batch_size",
    ) -> None:
        if reduction is not None:  # as Keras takes it
            one_of("reduction", reduction, _REDUCTIONS)
        super().__init__(name=name, reduction=reduction)
        self.settings = _validated(settings)
        self.class_weights = None if class_weights is None else _checked_weights(class_weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each sample.

        Parameters
        ----------
        y_true : tensor
            (N, h, w, K) in [0, 1]; -1 in all channels of a px that does not count.
        y_pred : tensor
            Probabilities (N, h, w, K) in [0, 1].

        Returns
        -------
        tensor
            (N,); NaN where truth or probabilities lie outside [0, 1], as masks of 0 and 255 and logits do.

        Raises
        ------
        ArrayError
            If the two differ in shape.
        SettingError
            If the class weights are not one per class.
        """
        _check_truth_shape(y_true, y_pred)
        _check_number(self.class_weights, y_pred.shape[-1])
        farthest = keras.ops.max(keras.ops.abs(y_pred - 0.5))
        within = (keras.ops.max(y_true) <= _MOST) & (farthest <= _MOST - 0.5)
        counts = keras.ops.cast(y_true[..., :1] >= 0, y_pred.dtype)
        share = keras.ops.mean(counts, axis=(1, 2, 3))
        terms = _Terms(self.settings, self.class_weights, keras.ops.maximum(share, _TINY))
        # where a px does not count, truth and prediction are both 0 in all channels
        losses = _LOSSES[self.settings.name](terms, y_true * counts, y_pred * counts)
        return keras.ops.where(within, losses, np.nan)  # a graph cannot raise an error

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the loss of a batch; refuse arrays with values outside [0, 1], but for -1 in the truth."""
        for name, values, least in (("y_true", y_true, -1.0), ("y_pred", y_pred, 1 - _MOST)):
            if isinstance(values, np.ndarray):
                _check_range(name, values, least, _MOST)
        return super().__call__(y_true, y_pred, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild the loss.

        Returns
        -------
        dict
            The arguments of the class.
        """
        config: dict[str, Any] = super().get_config()
        return config | {"settings": self.settings.model_dump(), "class_weights": self.class_weights}


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a loss is computed with besides truth and prediction."""

    settings: Any  # of the loss
    class_weights: tuple[float, ...] | None
    share: Any  # of the px of each sample that count, (N,)


def build_loss(
    settings: LossConfig | Mapping[str, Any] | str, class_weights: Sequence[float] | None = None
) -> SegmentationLoss:
    """Make a loss of truth (N, h, w, K) in [0, 1] and probabilities (N, h, w, K).

    Parameters
    ----------
    settings : LossConfig, mapping or str
        Which loss: its settings, a mapping of them with a ``name``, or only the name. Labels of
        several classes are given one-hot.
    class_weights : sequence of float, optional
        One per class; with one channel those of background and foreground.

    Returns
    -------
    keras.losses.Loss
        The loss, averaged over samples; it can be saved with a network.

    Raises
    ------
    SettingError
        If the name or a parameter is unknown, or a value is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> truth, probs = np.array([1.0, 0.0]).reshape(1, 1, 2, 1), np.ones((1, 1, 2, 1))
    >>> float(build_loss("dice")(truth, probs))  # 1 - (2·1 + 1) / (1 + 2 + 1)
    0.25
    """
    validated = _validated(settings)
    return SegmentationLoss(validated, class_weights, name=validated.name)


def _validated(settings: LossConfig | Mapping[str, Any] | str) -> Any:
    try:
        return _LOSS_CONFIG.validate_python(settings)
    except ValidationError:
        name = settings.get("name") if isinstance(settings, dict) else settings
        raise invalid(
            SettingError, "loss", must="be the name of a loss", got=name, fix=did_you_mean(str(name), _LOSSES)
        ) from None


def _checked_weights(given: Sequence[float]) -> tuple[float, ...]:
    must = "be numbers of at least 0, and not all of them 0"
    fix = "Give one per class; with one channel, background and foreground."
    items = items_of(given, "class_weights", must, fix)
    weights = tuple(real_number("class_weights", one, fix) for one in items)
    if not sum(weights) or min(weights) < 0:
        raise invalid(SettingError, "class_weights", must=must, got=weights, fix=fix)
    return weights


def _check_number(weights: tuple[float, ...] | None, channels: int | None) -> None:
    """Refuse weights for another number of classes, which would broadcast silently."""
    wanted = max(2, channels or 0)
    if weights is not None and channels is not None and len(weights) != wanted:
        must = f"be {wanted} numbers for maps of {counted(channels, 'channel')}"
        fix = "Give one per class; with one channel, background and foreground."
        raise invalid(SettingError, "class_weights", must=must, got=weights, fix=fix)


def _check_truth_shape(y_true: Any, y_pred: Any) -> None:
    """Refuse shapes that would broadcast silently, for example labels without a channel axis."""
    true, predicted = tuple(y_true.shape), tuple(y_pred.shape)
    fits = len(true) == len(predicted) == 4 and all(
        a is None or b is None or a == b for a, b in zip(true, predicted, strict=True)
    )
    if not fits:
        raise invalid(
            ArrayError,
            "y_true",
            must=f"have the shape (N, h, w, K) of y_pred, {predicted}",
            got=true,
            fix="Give labels one-hot, and a single class as (N, h, w, 1).",
        )


def _check_range(name: str, values: Any, least: float, most: float) -> None:
    """Refuse masks of 0 and 255, and logits."""
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if low < least or high > most:
        got, fix = f"values from {low:g} to {high:g}", "Apply a sigmoid or softmax to logits."
        if name == "y_true":
            fix = "Divide a mask of 0 and 255 by 255; give labels of classes one-hot."
        raise invalid(ArrayError, name, must="lie in [0, 1]", got=got, fix=fix)


def _over_px(loss: _Terms, values: Any, y: Any, weights: Any = 1.0) -> Any:
    """Average (N, h, w, K) over px and classes, weighted by the class of each px in the truth `y`: (N,)."""
    of_class = 1.0 if loss.class_weights is None else _px_weights(y, loss.class_weights)
    return keras.ops.mean(of_class * weights * values, axis=(1, 2, 3)) / loss.share


def _px_weights(y: Any, weights: tuple[float, ...]) -> Any:
    """Return the weight of each px, that of its own class: (N, h, w, 1)."""
    if len(weights) == 2 and y.shape[-1] == 1:
        return weights[0] + (weights[1] - weights[0]) * y
    return keras.ops.sum(y * keras.ops.convert_to_tensor(weights, y.dtype), axis=-1, keepdims=True)


def _over_classes(loss: _Terms, values: Any) -> Any:
    """Average (N, K) over classes, weighted if there are several: (N,)."""
    if loss.class_weights is None or values.shape[-1] == 1:
        return keras.ops.mean(values, axis=-1)
    shares = [weight / sum(loss.class_weights) for weight in loss.class_weights]
    return keras.ops.sum(values * keras.ops.convert_to_tensor(shares, values.dtype), axis=-1)


def _soft_counts(y: Any, p: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Sum y p, (1 - y) p and y (1 - p) over px, weighted by `weights` (N, h, w, 1) if given: (N, K) each."""

    def total(values: Any) -> Any:
        return keras.ops.sum(values if weights is None else weights * values, axis=(1, 2))

    return total(y * p), total((1 - y) * p), total(y * (1 - p))


def _dice_index(tp: Any, fp: Any, fn: Any) -> Any:
    """Return (2 Σ y p + 1) / (Σ y + Σ p + 1), (N, K)."""
    return (2 * tp + _SMOOTHING) / (2 * tp + fp + fn + _SMOOTHING)


def _iou_index(tp: Any, fp: Any, fn: Any) -> Any:
    """Return (Σ y p + 1) / (Σ (y + p - y p) + 1), (N, K)."""
    return (tp + _SMOOTHING) / (tp + fp + fn + _SMOOTHING)


def _tversky_index(counts: tuple[Any, Any, Any], alpha: float, beta: float) -> Any:
    """Return the Tversky index, (N, K), smoothed so that it equals Dice if alpha and beta are 0.5."""
    (tp, fp, fn), half = counts, _SMOOTHING / 2
    return (tp + half) / (tp + (alpha * fp + beta * fn) + half)


def _bce(loss: _Terms, y: Any, p: Any) -> Any:
    return _over_px(loss, keras.ops.binary_crossentropy(y, p), y)


def _focal(loss: _Terms, y: Any, p: Any) -> Any:
    """Weight the cross-entropy of each px and class by its error."""
    gamma, alpha = loss.settings.gamma, loss.settings.alpha
    wrong = keras.ops.maximum(y + p - 2 * y * p, _TINY)  # 1 - p or p
    values = keras.ops.power(wrong, gamma) * keras.ops.binary_crossentropy(y, p)
    return _over_px(loss, values if alpha is None else values * (alpha * y + (1 - alpha) * (1 - y)), y)


def _dice(loss: _Terms, y: Any, p: Any) -> Any:
    return 1 - _over_classes(loss, _dice_index(*_soft_counts(y, p)))


def _iou(loss: _Terms, y: Any, p: Any) -> Any:
    return 1 - _over_classes(loss, _iou_index(*_soft_counts(y, p)))


def _bce_dice(loss: _Terms, y: Any, p: Any) -> Any:
    return (_bce(loss, y, p) + _dice(loss, y, p)) / 2


def _tversky(loss: _Terms, y: Any, p: Any) -> Any:
    settings = loss.settings
    return 1 - _over_classes(loss, _tversky_index(_soft_counts(y, p), settings.alpha, settings.beta))


def _focal_tversky(loss: _Terms, y: Any, p: Any) -> Any:
    settings = loss.settings
    index = _tversky_index(_soft_counts(y, p), settings.alpha, settings.beta)
    return _over_classes(loss, keras.ops.power(keras.ops.maximum(1 - index, _TINY), 1 / settings.gamma))


def _basnet(loss: _Terms, y: Any, p: Any) -> Any:
    structure = (1 - _over_classes(loss, _ssim(y, p))) / loss.share
    return (_bce(loss, y, p) + structure + _iou(loss, y, p)) / 3


def _ssim(y: Any, p: Any) -> Any:
    """Return the mean structural similarity (N, K), with zero padding as in BASNet."""
    classes = y.shape[-1]
    blurred = _blurred(keras.ops.concatenate([y, p, y * y, p * p, y * p], axis=-1))
    mean_y, mean_p, yy, pp, yp = (blurred[..., n * classes : (n + 1) * classes] for n in range(5))
    luminance = (2 * mean_y * mean_p + _C1) / (mean_y**2 + mean_p**2 + _C1)
    variances = (yy - mean_y**2) + (pp - mean_p**2)
    structure = (2 * (yp - mean_y * mean_p) + _C2) / (variances + _C2)
    return keras.ops.mean(luminance * structure, axis=(1, 2))


def _blurred(maps: Any) -> Any:
    """Blur each channel along y, then along x: two windows in one dimension cost a fifth of a square."""
    offsets = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    window = np.tile((window / window.sum())[:, None], (1, maps.shape[-1])).astype(np.float32)
    along_y = keras.ops.depthwise_conv(maps, window[:, None, :, None], padding="same")
    return keras.ops.depthwise_conv(along_y, window[None, :, :, None], padding="same")


def _boundary(loss: _Terms, y: Any, p: Any) -> Any:
    weight = loss.settings.weight
    outline = 1 - _over_classes(loss, _outline_f1(y, p, loss.settings.width))
    return (1 - weight) * _bce_dice(loss, y, p) + weight * outline


def _outline_f1(y: Any, p: Any, width: int) -> Any:
    """Return the F1 score (N, K) of soft outlines, with a tolerance of `width` px, smoothed by 1."""
    true, found = _outline(y), _outline(p)
    precision = _share_near(found, _dilated(true, width))
    recall = _share_near(true, _dilated(found, width))
    return 2 * precision * recall / (precision + recall)


def _share_near(outline: Any, near: Any) -> Any:
    within = keras.ops.sum(outline * near, axis=(1, 2))
    return (within + 1) / (keras.ops.sum(outline, axis=(1, 2)) + 1)


def _outline(maps: Any) -> Any:
    """Mark the px of a region that touch its border."""
    return _dilated(1 - maps, 1) - (1 - maps)


def _dilated(maps: Any, px: int) -> Any:
    return keras.ops.max_pool(maps, 2 * px + 1, strides=1, padding="same")


def _bootstrap(loss: _Terms, y: Any, p: Any) -> Any:
    """Mix the labels with the network's own probabilities (Reed et al., arXiv 1412.6596, soft)."""
    trust = loss.settings.trust
    mixed = trust * y + (1 - trust) * p
    entropy = _over_px(loss, keras.ops.binary_crossentropy(mixed, p), y)
    counts = _soft_counts(keras.ops.stop_gradient(mixed), p)
    return (entropy + 1 - _over_classes(loss, _dice_index(*counts))) / 2


def _missing_labels(loss: _Terms, y: Any, p: Any) -> Any:
    settings = loss.settings
    weights = _doubt_weights(y, p, settings.certain, settings.weight)
    index = _tversky_index(_soft_counts(y, p, weights), settings.alpha, settings.beta)
    entropy = _over_px(loss, keras.ops.binary_crossentropy(y, p), y, weights)
    return (entropy + 1 - _over_classes(loss, index)) / 2


def _doubt_weights(y: Any, p: Any, certain: float, weight: float) -> Any:
    """Return `weight` for background px that look like foreground, 1 for all others: (N, h, w, 1)."""
    background = 1 - y if y.shape[-1] == 1 else y[..., :1]
    foreground = p if y.shape[-1] == 1 else keras.ops.max(p[..., 1:], axis=-1, keepdims=True)
    doubtful = background * keras.ops.cast(foreground >= certain, y.dtype)
    return keras.ops.stop_gradient(1 - (1 - weight) * doubtful)


_LOSSES: dict[str, Callable[[_Terms, Any, Any], Any]] = {
    "bce": _bce,
    "dice": _dice,
    "iou": _iou,
    "bce_dice": _bce_dice,
    "bce_iou": lambda loss, y, p: (_bce(loss, y, p) + _iou(loss, y, p)) / 2,
    "basnet": _basnet,
    "focal": _focal,
    "tversky": _tversky,
    "focal_tversky": _focal_tversky,
    "boundary": _boundary,
    "bootstrap": _bootstrap,
    "missing_labels": _missing_labels,
}
