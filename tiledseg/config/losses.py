"""Settings of the losses, one class per loss; each has a name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from tiledseg.config.base import Choice
from tiledseg.config.fields import Count, NotNegative, Positive, Share, by_name
from tiledseg.errors import SettingError


class PlainLossConfig(Choice):
    """A loss that has only a name.

    ``bce`` is the cross-entropy of every px and class, ``dice`` one minus the soft Dice coefficient, ``iou``
    one minus the soft intersection over union; ``bce_dice`` and ``bce_iou`` are half the one and half the
    other, ``basnet`` a third each of cross-entropy, 1 - SSIM and the IoU loss (BASNet, arXiv 2101.04704).
    """

    name: Literal["bce", "dice", "iou", "bce_dice", "bce_iou", "basnet"] = "bce_dice"


class FocalConfig(Choice):
    """Cross-entropy in which px that are already right count less (arXiv 1708.02002)."""

    name: Literal["focal"] = "focal"
    gamma: NotNegative = 2.0
    """Exponent of 1 - p, where p is the probability of the truth; 0 gives cross-entropy."""
    alpha: Share | None = None
    """Weight of the foreground in [0, 1], 1 - alpha that of the background; None for none."""


class _TverskyConfig(Choice):
    """Base of the settings of losses with a Tversky index."""

    alpha: NotNegative = 0.3
    """Weight of false positives in the Tversky index; 0.5 for both gives Dice."""
    beta: NotNegative = 0.7
    """Weight of false negatives in the Tversky index."""


class TverskyConfig(_TverskyConfig):
    """Dice loss with separate weights of false positives and false negatives (arXiv 1706.05721)."""

    name: Literal["tversky"] = "tversky"


class FocalTverskyConfig(_TverskyConfig):
    """Tversky loss to a power (arXiv 1810.07842)."""

    name: Literal["focal_tversky"] = "focal_tversky"
    gamma: Positive = 4 / 3
    """The loss is raised to ``1 / gamma``; above 1, samples that are nearly right count more."""


class BoundaryConfig(Choice):
    """Cross-entropy and Dice loss, and one minus the F1 score of outlines (arXiv 1905.07852)."""

    name: Literal["boundary"] = "boundary"
    weight: Share = 0.5
    """Weight of the outlines in [0, 1]; the rest is the weight of ``bce_dice``."""
    width: Count = 2
    """Tolerance of an outline in px."""


class BootstrapConfig(Choice):
    """Cross-entropy and Dice loss whose truth is partly the network's own output (arXiv 1412.6596)."""

    name: Literal["bootstrap"] = "bootstrap"
    trust: Share = 0.8
    """Share of the labels in the truth, in [0, 1]; the rest is the network's own probability."""


class MissingLabelsConfig(_TverskyConfig):
    """Cross-entropy and Tversky loss that tolerate objects which nobody labelled.

    Background px that the network takes for foreground with a probability of `certain` or more
    may be such objects; they have the weight `weight`. Labelled foreground counts in full.
    """

    name: Literal["missing_labels"] = "missing_labels"
    alpha: NotNegative = 0.5
    beta: NotNegative = 0.5
    certain: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Probability from which a background px may be such an object, in (0, 1)."""
    weight: Share = 0.1
    """Weight of such a px, in [0, 1]."""


LossConfig: TypeAlias = Annotated[
    PlainLossConfig
    | FocalConfig
    | TverskyConfig
    | FocalTverskyConfig
    | BoundaryConfig
    | BootstrapConfig
    | MissingLabelsConfig,
    Field(discriminator="name"),
    by_name,
]
"""A loss with its parameters, or only its name."""

OF_FOREGROUND = {"dice", "iou", "tversky", "focal_tversky"}
"""Losses that are one index of each class: with one channel there is nothing to weigh."""

AnyLossConfig: TypeAlias = Annotated[LossConfig | None, by_name]
"""A loss, or None."""


def recorded_loss(settings: object) -> tuple[LossConfig | None, tuple[float, ...] | None]:
    """Return the loss and the class weights of recorded training settings; None for what is not there."""
    found: Any = settings if isinstance(settings, dict) else {}
    weights = found.get("class_weights")
    try:
        loss: LossConfig | None = TypeAdapter(AnyLossConfig).validate_python(found.get("loss"))
    except (ValueError, SettingError):  # of another version, for example
        return None, None
    return loss, tuple(map(float, weights)) if isinstance(weights, list | tuple) else None
