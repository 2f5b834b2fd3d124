"""A bundle: a folder of settings, weights, the graph and a model card, written whole or not at all.

Reading a bundle executes nothing. This module does not import Keras: its callers pass the network.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tiledseg._lazy import lazy
from tiledseg._storage import is_folder, json_of, new_folder, sha256, sync_file, write_bytes
from tiledseg._validate import did_you_mean, invalid, path_text
from tiledseg._version import __version__
from tiledseg.engine import stored_record
from tiledseg.errors import BundleError, FileError, ModelError, SettingError
from tiledseg.models.weights import (
    GRAPH,
    ONNX,
    WEIGHTS,
    damaged,
    describe_finite,
    filled,
    is_finite,
    regular,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiledseg import _backend
    from tiledseg._backend import keras
    from tiledseg._types import FloatArray, PathLike
    from tiledseg.config import TilingConfig
    from tiledseg.models.builder import NetworkBuilder
else:
    _backend = lazy("tiledseg._backend")

CONFIG, CARD = "config.json", "README.md"
FILES = frozenset({CONFIG, WEIGHTS, CARD, GRAPH, ONNX})
_FORMAT = 1
_DESCRIBED = ("architecture", "labels", "preprocessing", "threshold", "tiling", "provenance")
_SEAL = "config_sha256"  # of all other entries
_KEYS = frozenset({"format", *_DESCRIBED, "written_with", "weights_sha256", _SEAL})
_OPTIONAL = frozenset({"tta", "activation", "graph_sha256"})
_LARGEST_CONFIG = 1_000_000  # bytes

# Settings of layers that do not change the outputs of a trained network.
_TRAINING_SUFFIXES = ("_initializer", "_regularizer", "_constraint")
_NOT_COMPARED = frozenset({"dtype", "trainable", "build_config", "seed", "batch_input_shape", "momentum"})


def write_bundle(
    folder: PathLike,
    content: Callable[[], bytes | tuple[Mapping[str, FloatArray], dict[str, Any] | None]],
    entries: Mapping[str, Any],
    *,
    overwrite: bool,
) -> Path:
    """Write a network, an ONNX file or weights and a graph, with the entries that describe it."""
    try:
        target = Path(path_text(folder, "folder")).resolve()
        _check_target(target, overwrite=overwrite)
        found = content()
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(target, replace=FILES if overwrite else ()) as partial:
            if isinstance(found, bytes):
                write_bytes(partial / ONNX, found)
                _describe(partial, entries, {"weights_sha256": sha256(partial / ONNX)}, None)
            else:
                _fill(partial, *found, entries)
    except (OSError, ValueError, RuntimeError) as error:  # for example a loop of links
        raise invalid(
            FileError,
            str(folder),
            must="be a folder that can be written",
            got=error,
            fix="Choose another folder, or free some space.",
        ) from error
    return target


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        fix = "Choose another name, or pass overwrite=True to replace the bundle there."
        raise invalid(FileError, str(target), must="not exist yet", got="an existing path", fix=fix)
    if not is_folder(target) or not {path.name for path in target.iterdir()} <= FILES:
        must, fix = "be a bundle and nothing else", "Choose another name, or move the other files away."
        raise invalid(FileError, str(target), must=must, got="other files", fix=fix)


def _fill(
    partial: Path,
    weights: Mapping[str, FloatArray],
    graph: dict[str, Any] | None,
    entries: Mapping[str, Any],
) -> None:
    try:
        save_file(dict(weights), partial / WEIGHTS)
    except SafetensorError as error:
        fix = "Free some space."
        raise invalid(FileError, str(partial), must="be writable", got=error, fix=fix) from None
    if graph is not None:
        shapes = {path: values.shape for path, values in weights.items()}
        record = {"architecture": entries["architecture"], "shapes": shapes, **graph}
        write_bytes(partial / GRAPH, json.dumps(record, separators=(",", ":"), allow_nan=False).encode())
    digests = {"weights_sha256": sha256(partial / WEIGHTS)}
    if graph is not None:
        digests["graph_sha256"] = sha256(partial / GRAPH)
    _describe(partial, entries, digests, sum(values.size for values in weights.values()))
    shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors makes it private to its owner
    sync_file(partial / WEIGHTS)


def _describe(
    partial: Path, entries: Mapping[str, Any], digests: dict[str, str], parameters: int | None
) -> None:
    """Write the settings and the model card."""
    config = {
        "format": _FORMAT,
        **entries,
        "written_with": {"tiledseg": __version__, "keras": version("keras")},
        **digests,
    }
    config[_SEAL] = _seal_of(config)
    text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False).encode()
    if len(text) > _LARGEST_CONFIG:
        must = f"keep {CONFIG} under {_LARGEST_CONFIG} bytes"
        raise invalid(SettingError, "provenance", must=must, got=len(text), fix="Shorten it.")
    write_bytes(partial / CONFIG, text)
    write_bytes(partial / CARD, _card(entries, parameters).encode())


_CARD = """\
---
library_name: tiledseg
pipeline_tag: image-segmentation
{licence}
tags:
- tiledseg
- {name}
- microscopy
---

# Segmenter of {labels}

A network that segments images of any size, tile by tile, saved by `tiledseg`.

| | |
|---|---|
| architecture | `{name}`{parameters} |
| input | {channels} channel(s), {dtype}; tiles of {tile} |
| output | {classes} channel(s): {labels} |
| threshold | {threshold} |
| tiling | {tiling} |
| test-time augmentation | {tta} |

## Use

```python
import tiledseg

segmenter = tiledseg.load_model("this folder")  # or "hf://owner/name" on a hub
probs = tiledseg.tiled_predict(segmenter, image)  # image (H, W, C) -> probs (H, W, K)
```

Loading executes no code. {files}

## Preprocessing

{preprocessing}

## Architecture

{architecture}

## Provenance

{provenance}
"""


_KERAS_FILES = (
    "`config.json` contains settings, the SHA-256 of them, and that of `model.safetensors`, which\n"
    "contains the weights. `graph.json` contains the layers, so that a prediction need not load Keras."
)
_ONNX_FILES = (
    "`config.json` contains settings, the SHA-256 of them, and that of `model.onnx`, which contains the\n"
    "network. It is checked before an engine reads it."
)


def _card(entries: Mapping[str, Any], parameters: int | None) -> str:
    """Write the model card from the entries of ``config.json``."""
    architecture, preprocessing, tiling = (
        entries[name] for name in ("architecture", "preprocessing", "tiling")
    )
    height, width, channels = architecture["input_shape"]
    return _CARD.format(
        labels=", ".join(_escaped(label) for label in entries["labels"]),
        licence=_licence(entries["provenance"]),
        name=architecture["name"],
        parameters="" if parameters is None else f", {parameters:,} parameters",
        files=_ONNX_FILES if architecture["name"] == "onnx" else _KERAS_FILES,
        channels=channels,
        dtype=preprocessing["dtype"],
        tile=f"{height or 'any'} x {width or 'any'} px" if height or width else "any size",
        classes=architecture["classes"],
        threshold=entries["threshold"],
        tiling=f"`{tiling}`" if tiling else "chosen by the caller",
        tta=entries.get("tta", "none"),
        preprocessing=_indented(preprocessing),
        architecture=_indented(architecture),
        provenance=_indented(entries["provenance"]) if entries["provenance"] else "Not stated.",
    )


def _licence(provenance: Mapping[str, Any]) -> str:
    """Write the licence as the head of a card has it: a short name that hubs know, or any other text."""
    stated = provenance.get("licence", provenance.get("license"))
    if not isinstance(stated, str) or not stated.strip():
        return "license: unknown"
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9.+-]*", stated):
        return f"license: {stated.lower()}"
    return f"license: other\nlicense_name: {json.dumps(stated)}"


def _escaped(label: str) -> str:
    """Escape a label, so that it stays on one line and in one cell of a table."""
    return json.dumps(label, ensure_ascii=False).replace("|", "\\|")


def _indented(settings: object) -> str:
    """Format settings as JSON, indented by four, so that Markdown shows them verbatim."""
    lines = json.dumps(settings, indent=2, ensure_ascii=False).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` and check its format and the names of its entries, not yet their values."""
    path = regular(folder / CONFIG)
    if path.stat().st_size > _LARGEST_CONFIG:
        raise damaged(path, must=f"have at most {_LARGEST_CONFIG} bytes", got=path.stat().st_size)
    try:
        entries = json_of(path.read_bytes())
    except ValueError as error:
        raise damaged(path, must="be JSON", got=error) from None
    if not isinstance(entries, dict):
        raise damaged(path, must="be a mapping", got=type(entries).__name__)
    if "format" not in entries:
        raise invalid(
            BundleError,
            str(folder),
            must="be a bundle's folder",
            got=f"a {CONFIG} without the entry format, as of another program",
            fix="Give the folder of a bundle that tiledseg saved.",
        )
    if entries.get("format") is True or entries.get("format") != _FORMAT:
        fix = "Load it with the version of tiledseg that saved it, or a later one."
        got = entries.get("format")
        raise invalid(BundleError, f"{path}: format", must=f"be {_FORMAT}", got=got, fix=fix)
    _check_keys(path, entries.keys() - _OPTIONAL)
    if entries[_SEAL] != _seal_of(entries):
        raise damaged(path, must=f"have the entries whose digest {_SEAL} states", got="other entries")
    if not isinstance(entries["written_with"], dict):
        must, got = "be a table of versions", entries["written_with"]
        raise invalid(BundleError, f"{path}: written_with", must=must, got=got, fix="Save the bundle again.")
    return entries


def _check_keys(path: Path, found: set[str]) -> None:
    """Refuse an entry that is not known, and entries that are missing."""
    for key in sorted(found - _KEYS):
        fix = did_you_mean(key, _KEYS | _OPTIONAL)
        raise invalid(BundleError, f"{path}: {key}", must="not be present", got="an entry", fix=fix)
    for key in sorted(_KEYS - found):
        fix = "Get the bundle again, or save it again."
        raise invalid(BundleError, f"{path}: {key}", must="be present", got="nothing", fix=fix)


def _seal_of(entries: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all entries but the seal, however they are laid out as text."""
    sealed = {key: value for key, value in entries.items() if key != _SEAL}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def built_content(
    network: keras.Model, builder: NetworkBuilder[Any], tiling: TilingConfig | None
) -> tuple[dict[str, FloatArray], dict[str, Any] | None]:
    """Return all weights of a network, those that are not trained among them, and its graph, all checked."""
    rebuilt = _check_rebuilds(network, builder)
    weights = {variable.path: np.ascontiguousarray(variable.numpy()) for variable in network.weights}
    for path, values in weights.items():
        if values.dtype != np.float32:
            fix = "Use a mixed precision, which keeps the weights in float32."
            raise invalid(ModelError, path, must="have float32 weights", got=str(values.dtype), fix=fix)
        if not is_finite(values):
            fix = "Training diverged: go back to an earlier checkpoint."
            raise invalid(ModelError, path, must="have finite weights", got=describe_finite(values), fix=fix)
    usual = None if tiling is None or tiling.tile_size == "auto" else tiling.tile_shape
    return weights, stored_record(filled(rebuilt, weights), usual)


def _check_rebuilds(network: keras.Model, builder: NetworkBuilder[Any]) -> keras.Model:
    """Check that the settings build the same network again, and return it, its weights zero."""
    fix = "Give the settings that the network was built with."
    policy = _backend.keras.config.dtype_policy()
    _backend.keras.config.set_dtype_policy("float32")  # as it is after loading
    try:
        rebuilt = builder.build(blank=True)
    finally:
        _backend.keras.config.set_dtype_policy(policy)
    if not isinstance(network, type(rebuilt)):
        raise invalid(
            ModelError,
            "network",
            must="be one that `build_model` builds",
            got=type(network).__name__,
            fix="Build it with `build_model` and copy the weights into it.",
        )
    found, wanted = (_compared(one.get_config()["layers"]) for one in (network, rebuilt))
    for layer, stated in zip(found, wanted, strict=False):
        if layer != stated:
            name, got = f"network.{layer['name']}", _difference(layer, stated)
            raise invalid(ModelError, name, must="be as its architecture defines it", got=got, fix=fix)
    if len(found) != len(wanted):
        must = f"have the {len(wanted)} layers of its architecture"
        raise invalid(ModelError, "network", must=must, got=len(found), fix=fix)
    return rebuilt


def _compared(value: Any) -> Any:
    """Return settings of layers without those that do not change the outputs of a trained network."""
    if isinstance(value, dict):
        return {
            key: _compared(part)
            for key, part in value.items()
            if key not in _NOT_COMPARED and not key.endswith(_TRAINING_SUFFIXES)
        }
    return [_compared(part) for part in value] if isinstance(value, list | tuple) else value


def _difference(layer: dict[str, Any], stated: dict[str, Any]) -> str:
    """Describe how a layer differs from the stated one."""
    if layer["name"] != stated["name"]:
        return f"this layer instead of {stated['name']}"
    pairs = ((key, value, stated["config"].get(key)) for key, value in layer["config"].items())
    return ", ".join(f"{key}={a!r}, not {b!r}" for key, a, b in pairs if a != b) or "other connections"
