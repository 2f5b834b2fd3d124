"""The loss that settings describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from tiledseg._backend import keras
from tiledseg._validate import did_you_mean, invalid, items_of, real_number
from tiledseg.config import LossConfig
from tiledseg.errors import ArrayError, SettingError
from tiledseg.models._losses._missing import believed, doubt_weights
from tiledseg.models._losses._pixel import cross_entropy, focal_entropy, mean_of_px, px_weights
from tiledseg.models._losses._region import dice_of, iou_of, soft_counts, tversky_of
from tiledseg.models._losses._structure import outline_f1, ssim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["SegmentationLoss", "build_loss"]

_SETTINGS: TypeAdapter[Any] = TypeAdapter(LossConfig)


@keras.saving.register_keras_serializable(package="tiledseg")
class SegmentationLoss(keras.losses.Loss):
    """A loss of truth (N, h, w, K) and probabilities (N, h, w, K): one value per sample.

    Soft sums run over the px of one sample, never over those that happen to share a batch;
    Keras then averages over samples.

    Parameters
    ----------
    settings : LossConfig or mapping
        Which loss, with its parameters.
    class_weights : sequence of float, optional
        One per class; with one channel those of background and foreground. They weigh the px of
        the losses that are sums over px, and the classes of the others.
    name : str
        Name of the loss.
    reduction : str
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
        reduction: str = "sum_over_batch_size",
    ) -> None:
        super().__init__(name=name, reduction=reduction)
        self.settings = _known(settings)
        self.class_weights = None if class_weights is None else _weights(class_weights)

    def call(self, y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
        """Give the loss of each sample.

        Parameters
        ----------
        y_true : tensor
            (N, h, w, K) in [0, 1].
        y_pred : tensor
            Probabilities (N, h, w, K).

        Returns
        -------
        tensor
            (N,).

        Raises
        ------
        ArrayError
            If the two differ in shape.
        """
        _check_shapes(y_true, y_pred)
        return _LOSSES[self.settings.name](self, y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Give what rebuilds the loss.

        Returns
        -------
        dict
            The arguments of the class.
        """
        config: dict[str, Any] = super().get_config()
        return config | {"settings": self.settings.model_dump(), "class_weights": self.class_weights}

    def over_px(self, values: Any, y: Any, weights: Any = 1.0) -> Any:  # noqa: ANN401
        """Average over px and classes, by weight.

        Parameters
        ----------
        values : tensor
            (N, h, w, K).
        y : tensor
            The truth, (N, h, w, K): says which class weight a px has.
        weights : tensor or float
            Of each px besides.

        Returns
        -------
        tensor
            (N,).
        """
        own = 1.0 if self.class_weights is None else px_weights(y, self.class_weights)
        return mean_of_px(values, own * weights)

    def over_classes(self, values: Any) -> Any:  # noqa: ANN401
        """Average over classes, by weight where there are several.

        Parameters
        ----------
        values : tensor
            (N, K).

        Returns
        -------
        tensor
            (N,).
        """
        if self.class_weights is None or values.shape[-1] == 1:
            return keras.ops.mean(values, axis=-1)
        shares = [weight / sum(self.class_weights) for weight in self.class_weights]
        return keras.ops.sum(values * keras.ops.convert_to_tensor(shares, values.dtype), axis=-1)


def build_loss(
    settings: LossConfig | Mapping[str, Any] | str, class_weights: Sequence[float] | None = None
) -> SegmentationLoss:
    """Make a loss of truth (N, h, w, K) in [0, 1] and probabilities (N, h, w, K).

    Parameters
    ----------
    settings : LossConfig, mapping or str
        Which loss: its settings, a mapping of them with a ``name``, or the name alone. Labels of
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
        If the name or a parameter is not known, or a value cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> truth, probs = np.array([1.0, 0.0]).reshape(1, 1, 2, 1), np.ones((1, 1, 2, 1))
    >>> float(build_loss("dice")(truth, probs))  # 1 - (2·1 + 1) / (1 + 2 + 1)
    0.25
    """
    known = _known(settings)
    return SegmentationLoss(known, class_weights, name=known.name)


def _known(settings: LossConfig | Mapping[str, Any] | str) -> Any:  # noqa: ANN401  which it is, its name tells
    try:
        return _SETTINGS.validate_python(settings)
    except ValidationError:
        name = settings.get("name") if isinstance(settings, dict) else settings
        raise invalid(
            SettingError, "loss", must="be the name of a loss", got=name, fix=did_you_mean(str(name), _LOSSES)
        ) from None


def _weights(given: Sequence[float]) -> tuple[float, ...]:
    must = "be numbers from 0 that are not all 0"
    fix = "Give one per class; with one channel, background and foreground."
    items = items_of(given, "class_weights", must, fix)
    weights = tuple(real_number("class_weights", one, fix) for one in items)
    if not sum(weights) or min(weights) < 0:
        raise invalid(SettingError, "class_weights", must=must, got=weights, fix=fix)
    return weights


def _bce(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return loss.over_px(cross_entropy(y, p), y)


def _dice(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return 1 - loss.over_classes(dice_of(soft_counts(y, p)))


def _iou(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return 1 - loss.over_classes(iou_of(soft_counts(y, p)))


def _bce_dice(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return (_bce(loss, y, p) + _dice(loss, y, p)) / 2


def _bce_iou(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return (_bce(loss, y, p) + _iou(loss, y, p)) / 2


def _basnet(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return (_bce(loss, y, p) + 1 - loss.over_classes(ssim(y, p)) + _iou(loss, y, p)) / 3


def _focal(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return loss.over_px(focal_entropy(y, p, loss.settings.gamma, loss.settings.alpha), y)


def _tversky(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    return 1 - loss.over_classes(tversky_of(soft_counts(y, p), loss.settings.alpha, loss.settings.beta))


def _focal_tversky(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    own = loss.settings
    wrong = 1 - tversky_of(soft_counts(y, p), own.alpha, own.beta)
    # a root has no slope at 0, which a sample without fault would turn into NaN
    return loss.over_classes(keras.ops.power(keras.ops.maximum(wrong, 1e-7), 1 / own.gamma))


def _boundary(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    own = loss.settings
    outline = 1 - loss.over_classes(outline_f1(y, p, own.width))
    return (1 - own.weight) * _bce_dice(loss, y, p) + own.weight * outline


def _bootstrap(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    mixed = believed(y, p, loss.settings.trust)
    entropy = loss.over_px(cross_entropy(mixed, p), y)
    counts = soft_counts(keras.ops.stop_gradient(mixed), p)
    return (entropy + 1 - loss.over_classes(dice_of(counts))) / 2


def _missing_labels(loss: SegmentationLoss, y: Any, p: Any) -> Any:  # noqa: ANN401
    own = loss.settings
    weights = doubt_weights(y, p, own.certain, own.weight)
    index = tversky_of(soft_counts(y, p, weights), own.alpha, own.beta)
    return (loss.over_px(cross_entropy(y, p), y, weights) + 1 - loss.over_classes(index)) / 2


_LOSSES: dict[str, Callable[[SegmentationLoss, Any, Any], Any]] = {
    "bce": _bce,
    "dice": _dice,
    "iou": _iou,
    "bce_dice": _bce_dice,
    "bce_iou": _bce_iou,
    "basnet": _basnet,
    "focal": _focal,
    "tversky": _tversky,
    "focal_tversky": _focal_tversky,
    "boundary": _boundary,
    "bootstrap": _bootstrap,
    "missing_labels": _missing_labels,
}


def _check_shapes(y_true: Any, y_pred: Any) -> None:  # noqa: ANN401
    """Refuse what would broadcast in silence: labels without a channel axis, say."""
    true, predicted = tuple(y_true.shape), tuple(y_pred.shape)
    fits = len(true) == len(predicted) == 4 and all(
        a is None or b is None or a == b for a, b in zip(true, predicted, strict=True)
    )
    if not fits:
        raise invalid(
            ArrayError,
            "y_true",
            must=f"be (N, h, w, K) as y_pred, {predicted}",
            got=true,
            fix="Give labels one-hot, a single class as (N, h, w, 1).",
        )
