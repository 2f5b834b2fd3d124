"""Weights from which a training starts: those of a bundle, where one is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiledseg._validate import invalid
from tiledseg.errors import SettingError
from tiledseg.models import build_model, load_model
from tiledseg.models.architectures import builder_for

if TYPE_CHECKING:
    from tiledseg._backend import keras
    from tiledseg.config import TrainConfig

__all__ = ["build_start"]


def build_start(config: TrainConfig) -> keras.Model:
    """Build the network that a run begins with."""
    if config.start_from is None:
        return build_model(config.network)
    network = builder_for(config.network).build(blank=True)  # without the file of `encoder_weights`
    start = load_model(config.start_from)
    before, wanted = (
        (name, [tuple(weight.shape) for weight in one.weights])
        for name, one in (
            (start.architecture.name, start.network),
            (config.network.name, network),
        )
    )
    if before != wanted:
        raise invalid(
            SettingError,
            "start_from",
            must=f"hold weights for `network`, which is {_told(config.network.name, network)}",
            got=_told(start.architecture.name, start.network),
            fix="Train with network=load_model(start_from).architecture.",
        )
    network.set_weights(start.network.get_weights())
    return network


def _told(name: str, network: keras.Model) -> str:
    return f"a {name} with {network.count_params():,} parameters"
