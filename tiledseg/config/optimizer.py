"""Settings of how weights are moved: the optimizer and its learning rate over time."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tiledseg.config.base import Config, Count, Share, by_name

__all__ = [
    "AdamConfig",
    "AdamWConfig",
    "ConstantConfig",
    "CosineConfig",
    "OptimizerConfig",
    "PlateauConfig",
    "ScheduleConfig",
    "SgdConfig",
]


class AdamConfig(Config):
    """Adam (Kingma and Ba, arXiv 1412.6980).

    Attributes
    ----------
    name : {"adam"}
        The optimizer.
    beta_1, beta_2 : float
        How much of the gradients' mean and square is kept per step, in [0, 1).
    """

    name: Literal["adam"] = "adam"
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999


class AdamWConfig(Config):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, arXiv 1711.05101).

    Attributes
    ----------
    name : {"adamw"}
        The optimizer.
    beta_1, beta_2 : float
        How much of the gradients' mean and square is kept per step, in [0, 1).
    weight_decay : float
        Times the learning rate, the share of each kernel that is taken off per step; biases and
        the parameters of normalisation are left alone.
    """

    name: Literal["adamw"] = "adamw"
    beta_1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta_2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class SgdConfig(Config):
    """Stochastic gradient descent with momentum.

    Attributes
    ----------
    name : {"sgd"}
        The optimizer.
    momentum : float
        Share of the last step that is taken again, in [0, 1).
    nesterov : bool
        Whether the gradient is taken where the momentum leads (Sutskever et al., 2013).
    weight_decay : float
        As of `AdamWConfig`.
    """

    name: Literal["sgd"] = "sgd"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    nesterov: bool = True
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


OptimizerConfig: TypeAlias = Annotated[
    AdamConfig | AdamWConfig | SgdConfig, Field(discriminator="name"), by_name
]
"""An optimizer with its parameters, or its name alone."""


class ConstantConfig(Config):
    """A learning rate that stays, after a warm-up.

    Attributes
    ----------
    name : {"constant"}
        The schedule.
    warmup_epochs : float
        Epochs in which the rate rises from nothing in a straight line, from 0.
    """

    name: Literal["constant"] = "constant"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0


class CosineConfig(Config):
    """A learning rate that falls along half a cosine (arXiv 1608.03983) after a warm-up.

    Attributes
    ----------
    name : {"cosine"}
        The schedule.
    warmup_epochs : float
        Epochs in which the rate rises from nothing in a straight line, from 0.
    final : float
        Share of the learning rate that is left at the end of the last epoch, in [0, 1].
    """

    name: Literal["cosine"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    final: Share = 0.0


class PlateauConfig(Config):
    """A learning rate that is lowered whenever the validation loss gets no better.

    Attributes
    ----------
    name : {"plateau"}
        The schedule.
    factor : float
        What the rate is multiplied by, in (0, 1).
    patience : int
        Epochs without a better validation loss after which it is lowered.
    least : float
        The rate never goes under this one.
    """

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    patience: Count = 4
    least: Annotated[float, Field(ge=0)] = 1e-7


ScheduleConfig: TypeAlias = Annotated[
    ConstantConfig | CosineConfig | PlateauConfig, Field(discriminator="name"), by_name
]
"""A learning rate over time with its parameters, or its name alone."""
