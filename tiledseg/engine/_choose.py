"""The functions from before `Network`, until their last caller has changed to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from tiledseg._validate import one_of
from tiledseg.config import TTA, Engine, Precision, RuntimeConfig
from tiledseg.engine.batching import Batcher
from tiledseg.engine.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.callable import Predictor

__all__ = ["Packing", "Way", "fastest", "n_devices", "networks_for", "own_views", "predictor_for"]


@dataclass(frozen=True, slots=True)
class Way:
    """How a network is run."""

    engine: Engine = "auto"
    precision: Precision = "f32"
    views: TTA | None = None
    devices: Sequence[str] | None = None

    def __post_init__(self) -> None:
        """Check the choices by themselves."""
        if self.views is not None:
            one_of("views", self.views, get_args(TTA))
        _ = self.runtime

    @property
    def runtime(self) -> RuntimeConfig:
        """The settings."""
        devices = tuple(self.devices) if isinstance(self.devices, list) else self.devices
        return RuntimeConfig(engine=self.engine, precision=self.precision, devices=devices)  # type: ignore[arg-type]


def networks_for(
    predictor: Predictor, way: Way, tile_size: tuple[int, int], n_tiles: int, batch_size: int
) -> list[Callable[[AnyArray], FloatArray]]:
    """Make a network ready to be run, once for each device."""
    return Network.of(predictor, way.runtime).ready(tile_size, n_tiles, batch_size, way.views)


def n_devices(predictor: Predictor) -> int:
    """Count the devices that `networks_for` takes by itself."""
    return Network.of(predictor).n_devices


def own_views(model: object) -> TTA | None:
    """Give the augmentation that a Segmenter asks for; None for any other model."""
    return Network.of(model).tta


def predictor_for(model: object) -> Predictor:
    """Make a network ready to be called on batches of tiles."""
    return Network.of(model).predictor


def fastest(
    predictor: Predictor, n_px: int, engine: Engine = "auto", precision: Precision = "f32"
) -> Predictor:
    """Take the engine asked for, or the one that will be done first."""
    return Network.of(predictor, RuntimeConfig(engine=engine, precision=precision)).fastest(n_px)


class Packing(Batcher):
    """A Batcher, made as before."""

    def __init__(
        self, predictor: Predictor, way: Way, n_px: int, batch_size: int | None, memory_budget: int | None
    ) -> None:
        network = Network.of(predictor, way.runtime.changed(memory=memory_budget))
        made = network.batcher(n_px, batch_size, way.views)
        super().__init__(predictor, made._prepare)
