"""Losses by name; each is an average over samples, so that it does not depend on the batch."""

from __future__ import annotations

from typing import Any

from tiledseg._backend import keras
from tiledseg._checks import broken, did_you_mean
from tiledseg.errors import ArrayError, SettingError

__all__ = ["BceDiceLoss", "BceLoss", "DiceLoss", "loss_by_name"]

_SMOOTHING = 1.0


class _PerSample(keras.losses.Loss):
    """Base of losses of truth (N, h, w, K) and probabilities (N, h, w, K): one value per sample."""

    def call(self, y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401  tensors, which Keras does not type
        """Give the loss (N,) of each sample."""
        _check_shapes(y_true, y_pred)
        return self._per_sample(y_true, y_pred)

    def _per_sample(self, y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
        """Give the loss (N,) of each sample."""
        raise NotImplementedError


@keras.saving.register_keras_serializable(package="tiledseg")
class DiceLoss(_PerSample):
    """One minus the soft Dice coefficient, per sample and class, then averaged.

    The coefficient is (2 Σ y p + 1) / (Σ y + Σ p + 1) over the pixels of one sample and class
    (Milletari et al., arXiv 1606.04797, without the squares).

    Parameters
    ----------
    name : str
        Name of the loss.
    reduction : str
        Keras name of the reduction over samples.
    """

    def __init__(self, name: str = "dice", reduction: str = "sum_over_batch_size") -> None:
        super().__init__(name=name, reduction=reduction)

    def _per_sample(self, y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
        """Give the loss (N,) of each sample."""
        return _dice_loss(y_true, y_pred)


@keras.saving.register_keras_serializable(package="tiledseg")
class BceLoss(_PerSample):
    """Binary cross-entropy, averaged over pixels and classes.

    Parameters
    ----------
    name : str
        Name of the loss.
    reduction : str
        Keras name of the reduction over samples.
    """

    def __init__(self, name: str = "bce", reduction: str = "sum_over_batch_size") -> None:
        super().__init__(name=name, reduction=reduction)

    def _per_sample(self, y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
        """Give the loss (N,) of each sample."""
        return _bce(y_true, y_pred)


@keras.saving.register_keras_serializable(package="tiledseg")
class BceDiceLoss(_PerSample):
    """Half binary cross-entropy, half Dice loss.

    Parameters
    ----------
    name : str
        Name of the loss.
    reduction : str
        Keras name of the reduction over samples.
    """

    def __init__(self, name: str = "bce_dice", reduction: str = "sum_over_batch_size") -> None:
        super().__init__(name=name, reduction=reduction)

    def _per_sample(self, y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
        """Give the loss (N,) of each sample."""
        return 0.5 * (_bce(y_true, y_pred) + _dice_loss(y_true, y_pred))


_LOSSES: dict[str, type[_PerSample]] = {"bce": BceLoss, "bce_dice": BceDiceLoss, "dice": DiceLoss}


def loss_by_name(name: str) -> keras.losses.Loss:
    """Make a loss of truth (N, h, w, K) in [0, 1] and probabilities (N, h, w, K).

    Parameters
    ----------
    name : {"bce", "bce_dice", "dice"}
        The loss. Labels of several classes are given one-hot.

    Returns
    -------
    keras.losses.Loss
        The loss, averaged over samples; it can be saved with a network.

    Raises
    ------
    SettingError
        If the name is not known.

    Examples
    --------
    >>> import numpy as np
    >>> truth, probs = np.array([1.0, 0.0]).reshape(1, 1, 2, 1), np.ones((1, 1, 2, 1))
    >>> float(loss_by_name("dice")(truth, probs))  # 1 - (2·1 + 1) / (1 + 2 + 1)
    0.25
    """
    if name not in _LOSSES:
        raise broken(
            SettingError, "loss", must="be the name of a loss", got=name, fix=did_you_mean(str(name), _LOSSES)
        )
    return _LOSSES[name]()


def _dice_loss(y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
    pixels = (1, 2)
    both = keras.ops.sum(y_true * y_pred, axis=pixels)
    either = keras.ops.sum(y_true, axis=pixels) + keras.ops.sum(y_pred, axis=pixels)
    dice = (2 * both + _SMOOTHING) / (either + _SMOOTHING)
    return 1 - keras.ops.mean(dice, axis=-1)


def _bce(y_true: Any, y_pred: Any) -> Any:  # noqa: ANN401
    return keras.ops.mean(keras.ops.binary_crossentropy(y_true, y_pred), axis=(1, 2, 3))


def _check_shapes(y_true: Any, y_pred: Any) -> None:  # noqa: ANN401
    """Refuse what would broadcast in silence: labels without a channel axis, say."""
    true, predicted = tuple(y_true.shape), tuple(y_pred.shape)
    fits = len(true) == len(predicted) == 4 and all(
        a is None or b is None or a == b for a, b in zip(true, predicted, strict=True)
    )
    if not fits:
        raise broken(
            ArrayError,
            "y_true",
            must=f"be (N, h, w, K) as y_pred, {predicted}",
            got=true,
            fix="Give labels one-hot, a single class as (N, h, w, 1).",
        )
