"""Checks of a segmenter's parts, and that they fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tiledseg._lazy import lazy
from tiledseg._validate import invalid, one_of
from tiledseg.config import ArchitectureConfig, PreprocessingConfig, TilingConfig
from tiledseg.engine import OnnxNetwork, StoredNetwork
from tiledseg.errors import ModelError, SettingError

if TYPE_CHECKING:
    from typing import TypeAlias

    from tiledseg import _backend

    Segmenter: TypeAlias = Any  # its module imports this one
else:
    _backend = lazy("tiledseg._backend")


def check_parts(segmenter: Segmenter) -> None:
    """Check the types of all parts, and that network, architecture and labels fit each other."""
    _check_types(segmenter)
    _check_network(segmenter)
    _check_labels(segmenter)


def check_use(segmenter: Segmenter) -> None:
    """Check the settings of test-time augmentation and of the tiling."""
    _check_tta(segmenter)
    _check_tiling(segmenter)


_BUILT = (
    "Give the settings that the network was built with, or pass one of your own to tiled_predict, "
    "with its preparation of px: lambda tiles: network(tiles / 255)."
)
_ONNX = "Write the PyTorch module by `torch.onnx.export`, and pass tiledseg.load_model of the .onnx file."


def _check_types(segmenter: Segmenter) -> None:
    network = segmenter.runnable
    without_keras = isinstance(network, StoredNetwork | OnnxNetwork)
    wanted = {
        "network": type(network) if without_keras else _backend.keras.Model,
        "architecture": ArchitectureConfig,
        "labels": tuple,
        "preprocessing": PreprocessingConfig,
        "threshold": float,
        "tiling": TilingConfig | None,
        "provenance": Mapping,
    }
    fixes = {"architecture": _BUILT} | ({"network": _ONNX} if hasattr(network, "state_dict") else {})
    for name, kind in wanted.items():
        value = network if name == "network" else getattr(segmenter, name)
        if not isinstance(value, kind):
            raise invalid(
                SettingError,
                name,
                must=f"be of type {getattr(kind, '__name__', kind)}",
                got=type(value).__name__,
                fix=fixes.get(name, "See `Segmenter` for its fields."),
            )


def _check_network(segmenter: Segmenter) -> None:
    network, settings = segmenter.runnable, segmenter.architecture
    shapes = (getattr(network, "input_shape", None), getattr(network, "output_shape", None))
    _check_activation(segmenter)
    stated = ((None, *settings.input_shape), (None, *settings.input_shape[:2], settings.classes))
    if shapes != stated:
        raise invalid(
            ModelError,
            "network",
            must=f"have its architecture's input and output shapes {stated}",
            got=shapes,
            fix="Give the settings that it was built with.",
        )


def _check_labels(segmenter: Segmenter) -> None:
    labels: tuple[object, ...] = segmenter.labels
    classes = segmenter.architecture.classes
    if not all(isinstance(label, str) and label.strip() for label in labels):
        raise invalid(
            SettingError,
            "labels",
            must="be names that are not empty",
            got=labels,
            fix='Use ("cell",), for example.',
        )
    if len(labels) != classes or len(set(labels)) != classes:
        raise invalid(
            SettingError,
            "labels",
            must=f"be {classes} different names, one per output channel",
            got=labels,
            fix="With one channel, name only the foreground.",
        )


def _check_activation(segmenter: Segmenter) -> None:
    settings, activation = segmenter.architecture, segmenter.activation
    if activation is not None:
        one_of("activation", activation, ("sigmoid", "softmax"))
    known = settings.name != "onnx" or settings.final_activation is not None
    if known and (settings.final_activation == "linear") != (activation is not None):
        raise invalid(
            SettingError,
            "activation",
            must="be given if the network ends in logits (final_activation linear), and only then",
            got=f"{activation} with final_activation={settings.final_activation}",
            fix="Set it to sigmoid or softmax for logits, and leave it out for probabilities.",
        )
    if activation == "softmax" and settings.classes == 1:
        must, fix = "be sigmoid for one class", "Use sigmoid."
        raise invalid(SettingError, "activation", must=must, got=activation, fix=fix)


def _check_tta(segmenter: Segmenter) -> None:
    tta, tiling = segmenter.tta, segmenter.tiling
    if tta is not None:
        one_of("tta", tta, ("flips", "d4"))
    if tta == "d4" and tiling and tiling.tile_size != "auto" and len(set(tiling.tile_shape)) > 1:
        must = "be flips for tiles that are not square"
        raise invalid(SettingError, "tta", must=must, got="d4", fix="Use flips.")


def _check_tiling(segmenter: Segmenter) -> None:
    if segmenter.tiling is None or segmenter.tiling.tile_size == "auto":
        return
    settings = segmenter.architecture
    for axis, tile, size in zip("yx", segmenter.tiling.tile_shape, settings.input_shape[:2], strict=True):
        if size is not None and tile != size:
            raise invalid(
                SettingError,
                "tiling.tile_size",
                must=f"be {size} along {axis}, as the network's input",
                got=tile,
                fix=f"Use {size}, or a network of free size.",
            )
        if tile % settings.stride:
            low = tile // settings.stride * settings.stride
            raise invalid(
                SettingError,
                "tiling.tile_size",
                must=f"be a multiple of the network's stride {settings.stride} along {axis}",
                got=tile,
                fix=f"Use {f'{low} or ' if low else ''}{low + settings.stride}.",
            )
