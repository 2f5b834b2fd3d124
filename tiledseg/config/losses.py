"""Settings of the losses, one class per loss; each has a name."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tiledseg.config.base import Config, Count, Share, by_name

__all__ = [
    "BasnetConfig",
    "BceConfig",
    "BceDiceConfig",
    "BceIouConfig",
    "BootstrapConfig",
    "BoundaryConfig",
    "DiceConfig",
    "FocalConfig",
    "FocalTverskyConfig",
    "IouConfig",
    "LossConfig",
    "MissingLabelsConfig",
    "TverskyConfig",
]


class BceConfig(Config):
    """Cross-entropy of every px and class.

    Attributes
    ----------
    name : {"bce"}
        The loss.
    """

    name: Literal["bce"] = "bce"


class DiceConfig(Config):
    """One minus the soft Dice coefficient.

    Attributes
    ----------
    name : {"dice"}
        The loss.
    """

    name: Literal["dice"] = "dice"


class IouConfig(Config):
    """One minus the soft intersection over union.

    Attributes
    ----------
    name : {"iou"}
        The loss.
    """

    name: Literal["iou"] = "iou"


class BceDiceConfig(Config):
    """Half cross-entropy, half Dice loss.

    Attributes
    ----------
    name : {"bce_dice"}
        The loss.
    """

    name: Literal["bce_dice"] = "bce_dice"


class BceIouConfig(Config):
    """Half cross-entropy, half IoU loss.

    Attributes
    ----------
    name : {"bce_iou"}
        The loss.
    """

    name: Literal["bce_iou"] = "bce_iou"


class BasnetConfig(Config):
    """A third each of cross-entropy, 1 - SSIM and IoU loss (BASNet, arXiv 2101.04704).

    Attributes
    ----------
    name : {"basnet"}
        The loss.
    """

    name: Literal["basnet"] = "basnet"


class FocalConfig(Config):
    """Cross-entropy in which px that are right already count less (arXiv 1708.02002).

    Attributes
    ----------
    name : {"focal"}
        The loss.
    gamma : float
        Exponent of 1 - p, where p is the probability of the truth; 0 gives cross-entropy.
    alpha : float or None
        Weight of the foreground in [0, 1], 1 - alpha that of the background; None for none.
    """

    name: Literal["focal"] = "focal"
    gamma: Annotated[float, Field(ge=0)] = 2.0
    alpha: Share | None = None


class TverskyConfig(Config):
    """Dice loss with weights of its own for what is invented and what is missed (arXiv 1706.05721).

    Attributes
    ----------
    name : {"tversky"}
        The loss.
    alpha : float
        Weight of false positives; 0.5 for both gives Dice.
    beta : float
        Weight of false negatives.
    """

    name: Literal["tversky"] = "tversky"
    alpha: Annotated[float, Field(ge=0)] = 0.3
    beta: Annotated[float, Field(ge=0)] = 0.7


class FocalTverskyConfig(Config):
    """Tversky loss to a power (arXiv 1810.07842).

    Attributes
    ----------
    name : {"focal_tversky"}
        The loss.
    alpha : float
        Weight of false positives.
    beta : float
        Weight of false negatives.
    gamma : float
        The loss is raised to ``1 / gamma``; above 1 samples that are nearly right count more.
    """

    name: Literal["focal_tversky"] = "focal_tversky"
    alpha: Annotated[float, Field(ge=0)] = 0.3
    beta: Annotated[float, Field(ge=0)] = 0.7
    gamma: Annotated[float, Field(gt=0)] = 4 / 3


class BoundaryConfig(Config):
    """Cross-entropy and Dice loss, and one minus the F1 score of the outlines (arXiv 1905.07852).

    Attributes
    ----------
    name : {"boundary"}
        The loss.
    weight : float
        Share of the outlines' part in [0, 1]; the rest is that of ``bce_dice``.
    width : int
        Px by which an outline may be off.
    """

    name: Literal["boundary"] = "boundary"
    weight: Share = 0.5
    width: Count = 2


class BootstrapConfig(Config):
    """Cross-entropy and Dice loss whose truth is partly what the network believes (arXiv 1412.6596).

    Attributes
    ----------
    name : {"bootstrap"}
        The loss.
    trust : float
        Share of the labels in the truth, in [0, 1]; the rest is the network's own probability.
    """

    name: Literal["bootstrap"] = "bootstrap"
    trust: Share = 0.8


class MissingLabelsConfig(Config):
    """Cross-entropy and Tversky loss that bear objects which nobody labelled.

    Background px that the network takes for foreground with a probability of `certain` or more
    may be such objects; they count `weight`. Labelled foreground counts in full.

    Attributes
    ----------
    name : {"missing_labels"}
        The loss.
    certain : float
        Probability from which a background px is doubted, in (0, 1).
    weight : float
        What such a px counts, in [0, 1].
    alpha : float
        Weight of false positives in the Tversky part.
    beta : float
        Weight of false negatives in the Tversky part.
    """

    name: Literal["missing_labels"] = "missing_labels"
    certain: Annotated[float, Field(gt=0, lt=1)] = 0.8
    weight: Share = 0.1
    alpha: Annotated[float, Field(ge=0)] = 0.5
    beta: Annotated[float, Field(ge=0)] = 0.5


LossConfig: TypeAlias = Annotated[
    BceConfig
    | DiceConfig
    | IouConfig
    | BceDiceConfig
    | BceIouConfig
    | BasnetConfig
    | FocalConfig
    | TverskyConfig
    | FocalTverskyConfig
    | BoundaryConfig
    | BootstrapConfig
    | MissingLabelsConfig,
    Field(discriminator="name"),
    by_name,
]
"""A loss with its parameters, or its name alone."""
