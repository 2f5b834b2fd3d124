"""The network at the start of a run: with random or pretrained weights, or those of a bundle that fits."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from tiledseg._validate import invalid, listed
from tiledseg.errors import SettingError
from tiledseg.io import pixel_size_from
from tiledseg.models import Segmenter, build_model, builder_for, load_model
from tiledseg.preprocess import SAME_SIZE

if TYPE_CHECKING:
    from tiledseg._backend import keras
    from tiledseg.config import PreprocessingConfig, TrainConfig

_log = logging.getLogger("tiledseg")
_FREE = {"input_shape", "dropout", "drop_path", "encoder_weights", "deep_supervision"}  # change no output
_SHOWN = 6  # settings in a message
_ALIKE = {
    "dtype",
    "white",
    "channels",
    "pixel_size",
}  # of values between 0 and 1; compared on its own


def initial_network(config: TrainConfig) -> keras.Model:
    """Build the network at the start of a run: with random or pretrained weights, or those of a bundle."""
    if config.start_from is None:
        return build_model(config.network)
    network = builder_for(config.network).build(blank=True)  # without the file of `encoder_weights`
    start = load_model(config.start_from)
    if not isinstance(start, Segmenter) or start.architecture.name == "onnx":
        must, fix = (
            "be a bundle with a network of Keras",
            "Give the folder of a bundle that was trained here.",
        )
        got = "another kind of model"
        raise invalid(SettingError, "start_from", must=must, got=got, fix=fix)
    both = ((start.architecture.name, start.network), (config.network.name, network))
    found, wanted = ((name, [tuple(weight.shape) for weight in one.weights]) for name, one in both)
    if found != wanted:
        got, expected = (f"a {name} with {one.count_params():,} parameters" for name, one in both)
        must = f"contain weights for `network`, which is {expected}"
        fix = "Train with network=load_model(start_from).architecture."
        raise invalid(SettingError, "start_from", must=must, got=got, fix=fix)
    _check_meaning(start, config)
    network.set_weights(start.network.get_weights())
    return network


def _check_meaning(start: Segmenter, config: TrainConfig) -> None:
    """Refuse weights that fit by their shapes, but are those of another function or of other classes."""
    found, wanted = (_functional(one) for one in (start.architecture, config.network))
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other:
        must = f"be of a network with {listed([f'{name}={wanted[name]}' for name in other], _SHOWN)}"
        got = listed([f"{name}={found.get(name)}" for name in other], _SHOWN)
        fix = "Train with network=load_model(start_from).architecture."
        raise invalid(SettingError, "start_from", must=must, got=got, fix=fix)
    if config.labels != start.labels and sorted(config.labels) == sorted(start.labels):
        must = f"have the order of those of `start_from`, {', '.join(start.labels)}"
        fix = "Give the same order, and the masks the same numbers."
        raise invalid(SettingError, "labels", must=must, got=", ".join(config.labels), fix=fix)


def _functional(network: Any) -> dict[str, Any]:  # a config of any architecture
    """Return the settings that change what a network computes from its weights."""
    settings = {name: value for name, value in network.portable().items() if name not in _FREE}
    usual = "sigmoid" if network.classes == 1 else "softmax"
    return settings | {"final_activation": settings["final_activation"] or usual}


def warn_of_preparation(config: TrainConfig, preprocessing: PreprocessingConfig) -> None:
    """Warn where px are prepared otherwise than those that the weights at the start were trained on."""
    if config.start_from is None:
        return
    start = load_model(config.start_from).preprocessing
    before, now = _values(start), _values(preprocessing)
    other = [f"{name} {now[name]}, not {before[name]}" for name in now if now[name] != before.get(name)]
    sizes = pixel_size_from(start.pixel_size), pixel_size_from(preprocessing.pixel_size)
    if sizes[0] is not None and (sizes[1] is None or not sizes[0].is_near(sizes[1], SAME_SIZE)):
        other.append(f"pixel_size {sizes[1] or 'not known'}, not {sizes[0]}")
    if other:
        _log.warning(
            "The px are prepared otherwise than those that `start_from` was trained on: %s. To keep what its "
            "weights have learned, set preprocessing=load_model(start_from).preprocessing.",
            "; ".join(other),
        )


def _values(preprocessing: PreprocessingConfig) -> dict[str, Any]:
    """Return the settings that change the values and the scale of px."""
    values = preprocessing.model_dump(mode="json", exclude=_ALIKE)
    for name in ("mean", "std"):
        values[name] = values[name] * preprocessing.channels if len(values[name]) == 1 else values[name]
    if not preprocessing.sharpen:
        del values["sharpen_sigma"]
    return values
