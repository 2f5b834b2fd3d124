"""Settings of how weights are moved: the optimizer and its learning rate over time."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tiledseg.config.base import Choice, Count, NotNegative, Share, by_name

_Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class _MomentsConfig(Choice):
    """Base of the settings of optimizers that keep the mean and the square of gradients."""

    beta_1: _Decay = 0.9
    """How much of the mean of the gradients stays per step, in [0, 1)."""
    beta_2: _Decay = 0.999
    """How much of the mean of their squares stays per step, in [0, 1)."""


class AdamConfig(_MomentsConfig):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    name: Literal["adam"] = "adam"


class AdamWConfig(_MomentsConfig):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.01
    """Times the learning rate, the share of each kernel that is taken off per step; biases and the
    parameters of normalisation are left alone."""


class SgdConfig(Choice):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: _Decay = 0.9
    """Share of the last step that is taken again, in [0, 1)."""
    nesterov: bool = True
    """Whether the gradient is taken where the momentum leads (Sutskever et al., 2013)."""
    weight_decay: NotNegative = 0.0
    """As of `AdamWConfig`."""


OptimizerConfig: TypeAlias = Annotated[
    AdamConfig | AdamWConfig | SgdConfig, Field(discriminator="name"), by_name
]
"""An optimizer with its parameters, or its name alone."""


class ConstantConfig(Choice):
    """A learning rate that stays, after a warm-up."""

    name: Literal["constant"] = "constant"
    warmup_epochs: NotNegative = 0.0
    """Epochs in which the rate rises from nothing in a straight line, from 0."""


class CosineConfig(Choice):
    """A learning rate that falls along half a cosine (arXiv 1608.03983) after a warm-up."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    """Epochs in which the rate rises from nothing in a straight line, from 0."""
    final: Share = 0.0
    """Share of the learning rate that is left at the end of the last epoch, in [0, 1]."""


class PlateauConfig(Choice):
    """A learning rate that is lowered whenever the validation loss gets no better."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """What the rate is multiplied by, in (0, 1)."""
    patience: Count = 4
    """Epochs without a better validation loss after which it is lowered."""
    least: NotNegative = 1e-7
    """The rate never goes under this one."""


ScheduleConfig: TypeAlias = Annotated[
    ConstantConfig | CosineConfig | PlateauConfig, Field(discriminator="name"), by_name
]
"""A learning rate over time with its parameters, or its name alone."""
