"""The functions from before `Network`, until their last caller has changed to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from tiledseg._validate import one_of
from tiledseg.config import TTA, Engine, Precision, RuntimeConfig
from tiledseg.engine.network import Network, SegmenterLike, fastest
from tiledseg.engine.network import networks_for as ready

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import AnyArray, FloatArray
    from tiledseg.engine.network import Predictor

__all__ = ["Way", "fastest", "n_devices", "networks_for", "own_views"]


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
    return ready(predictor, way.runtime, tile_size, n_tiles, batch_size, way.views)


def n_devices(predictor: Predictor) -> int:
    """Count the devices that `networks_for` takes by itself."""
    return Network.of(predictor).n_devices


def own_views(model: object) -> TTA | None:
    """Give the augmentation that a Segmenter asks for; None for any other model."""
    return getattr(model, "views", None) if isinstance(model, SegmenterLike) else None
