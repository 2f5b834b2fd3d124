"""Settings of the optimizer and of its learning rate over time."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from tiledseg.config.base import Choice
from tiledseg.config.fields import Count, NotNegative, Share, by_name

_Decay: TypeAlias = Annotated[float, Field(ge=0, lt=1)]


class _MomentsConfig(Choice):
    """Base of the settings of optimizers that keep the mean and the square of gradients."""

    beta_1: _Decay = 0.9
    """Decay per step of the mean of the gradients, in [0, 1)."""
    beta_2: _Decay = 0.999
    """Decay per step of the mean of their squares, in [0, 1)."""


class AdamConfig(_MomentsConfig):
    """Adam (Kingma and Ba, arXiv 1412.6980)."""

    name: Literal["adam"] = "adam"


class AdamWConfig(_MomentsConfig):
    """Adam with weight decay apart from the gradient (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.01
    """Share of each kernel that is subtracted per step, times the learning rate; biases and the parameters
    of normalisation do not decay."""


class SgdConfig(Choice):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    momentum: _Decay = 0.9
    """Share of the last step that is added to the next one, in [0, 1)."""
    nesterov: bool = True
    """Whether the gradient is computed after the step of the momentum (Nesterov; Sutskever et al., 2013)."""
    weight_decay: NotNegative = 0.0
    """As of `AdamWConfig`."""


OptimizerConfig: TypeAlias = Annotated[
    AdamConfig | AdamWConfig | SgdConfig, Field(discriminator="name"), by_name
]
"""An optimizer with its parameters, or only its name."""


class ConstantConfig(Choice):
    """A constant learning rate after a warm-up."""

    name: Literal["constant"] = "constant"
    warmup_epochs: NotNegative = 0.0
    """Epochs in which the rate rises linearly from 0; none where it is 0."""


class CosineConfig(Choice):
    """A learning rate that falls along half a cosine (arXiv 1608.03983) after a warm-up."""

    name: Literal["cosine"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    """Epochs in which the rate rises linearly from 0; none where it is 0."""
    final: Share = 0.0
    """Share of the learning rate that is left at the end of the last epoch, in [0, 1]."""


class PlateauConfig(Choice):
    """A learning rate that is reduced when the validation loss does not improve."""

    name: Literal["plateau"] = "plateau"
    factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor of the rate at each reduction, in (0, 1)."""
    patience: Count = 4
    """Epochs without a better validation loss after which the rate is reduced."""
    least: NotNegative = 1e-7
    """Lower limit of the rate."""


ScheduleConfig: TypeAlias = Annotated[
    ConstantConfig | CosineConfig | PlateauConfig, Field(discriminator="name"), by_name
]
"""A learning rate over time with its parameters, or only its name."""
