"""Segmenters written for other programs: as ONNX, as OpenVINO, and as a BioImage.IO package.

What is written is run first, and compared with the engine that runs the segmenter here.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._storage import atomic_write, write_bytes
from tiledseg._validate import invalid, named, one_of, path_text
from tiledseg.engine import Network, OnnxNetwork, WrittenOnnx, to_onnx
from tiledseg.errors import FileError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from tiledseg._types import FloatArray, PathLike
    from tiledseg.engine import openvino

    Segmenter: TypeAlias = Any  # its module imports this one
else:
    openvino = lazy("tiledseg.engine.openvino")

_log = logging.getLogger("tiledseg")
Format = Literal["onnx", "openvino"]
_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
_LEAST = 256  # px of a side of the tile on which outputs are compared
_TOLERANCE = 1e-5  # of the largest output


def export_model(segmenter: Segmenter, path: PathLike, to: Format) -> Path:
    """Write the network of a segmenter in another format; see `Segmenter.export`."""
    one_of("to", to, _SUFFIXES)
    target = _new_path(path, to)
    written = onnx_of(segmenter)
    _check_output(segmenter, session_of(written.content), "ONNX Runtime")
    content = _described(written.content, segmenter)
    if to == "onnx":
        write_bytes(target, content)
    else:
        _write_openvino(segmenter, content, target)
    _report(segmenter, written, target)
    return target


def _new_path(path: PathLike, to: Format) -> Path:
    """Check the path of a new file, before the network is converted."""
    target = Path(path_text(path)).absolute()
    if target.suffix.lower() != _SUFFIXES[to]:
        must, fix = f"end in {_SUFFIXES[to]} for {to}", f"Use {target.with_suffix(_SUFFIXES[to]).name}."
        raise invalid(FileError, named(path), must=must, got=target.name, fix=fix)
    for one in {target, target.with_suffix(".bin") if to == "openvino" else target}:
        if os.path.lexists(one):
            fix = "Choose another name; no file is overwritten."
            raise invalid(FileError, named(one), must="be a new file", got="one that exists", fix=fix)
    return target


def onnx_of(segmenter: Segmenter, *, channels_last: bool = False) -> WrittenOnnx:
    """Convert the network of a segmenter; that of an ONNX file stays as it is."""
    predictor: Any = Network.of(segmenter).predictor
    if isinstance(predictor, OnnxNetwork):
        fixed = None not in predictor.tile_size
        return WrittenOnnx(predictor.content(), "the ONNX file" if fixed else None)
    try:
        return _converted(predictor, tile_of(segmenter), channels_last=channels_last)
    except ModelError as error:
        must, fix = "have only layers that can be exported", "Share the bundle, or use another architecture."
        raise invalid(ModelError, "network", must=must, got=str(error), fix=fix) from error


def onnx_of_keras(model: Any, *, channels_last: bool) -> WrittenOnnx:
    """Convert a keras.Model."""
    predictor: Any = Network.of(model).predictor
    sizes = zip(predictor.tile_size, predictor.stride, strict=True)
    height, width = (one or -(-_LEAST // step) * step for one, step in sizes)
    return _converted(predictor, (height, width), channels_last=channels_last)


def _converted(predictor: Any, tile: tuple[int, int], *, channels_last: bool) -> WrittenOnnx:
    layers, weights, channels = predictor.layers(), predictor.weights(), predictor.channels
    return to_onnx(layers, weights, tile, predictor.stride, channels=channels, channels_last=channels_last)


def tile_of(segmenter: Segmenter) -> tuple[int, int]:
    """Return a size of tile that the network takes: its own, that of its tiling, or a usual one."""
    settings, tiling = segmenter.architecture, segmenter.tiling
    given = (None, None) if tiling is None or tiling.tile_size == "auto" else tiling.tile_shape
    usual = -(-_LEAST // settings.stride) * settings.stride
    height, width = (one or two or usual for one, two in zip(settings.input_shape[:2], given, strict=True))
    return height, width


def session_of(content: bytes) -> Callable[[FloatArray], FloatArray]:
    """Return what runs an ONNX model for tiles in the order of axes that it takes."""
    runtime = extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # only errors
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def call(tiles: FloatArray) -> FloatArray:
        return np.asarray(session.run(None, {name: tiles})[0], np.float32)

    return call


def outputs_of(segmenter: Segmenter, tiles: FloatArray) -> FloatArray:
    """Run the network of a segmenter as a prediction does, without its activation."""
    network = Network.of(segmenter)
    call = network.fastest()
    return np.asarray(call(tiles), np.float32)


def noise(segmenter: Segmenter) -> FloatArray:
    """Make a tile (1, h, w, C) in the range of prepared px."""
    shape = (1, *tile_of(segmenter), segmenter.preprocessing.channels)
    return np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def _check_output(segmenter: Segmenter, call: Callable[[FloatArray], FloatArray], engine: str) -> None:
    """Compare what was written with the engine that runs the segmenter."""
    tiles = noise(segmenter)
    first = getattr(segmenter.architecture, "layout", "channels_first") == "channels_first"
    found = call(np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)) if first else tiles)
    found = found.transpose(0, 2, 3, 1) if first else found
    check_equal(found, outputs_of(segmenter, tiles), engine)


def check_equal(found: FloatArray, wanted: FloatArray, engine: str) -> float:
    """Refuse outputs that differ from those of the engine; return by how much they differ."""
    same = found.shape == wanted.shape
    worst = float(np.abs(found - wanted).max()) / max(1.0, float(np.abs(wanted).max())) if same else np.inf
    if not worst <= _TOLERANCE:
        raise invalid(
            ModelError,
            f"the exported network, run by {engine},",
            must=f"agree with this library's engine within {_TOLERANCE:g} of the largest output",
            got=f"a difference of {worst:.2g}" if same else f"{found.shape} in place of {wanted.shape}",
            fix="Nothing was written. Share the bundle.",
        )
    _log.debug("%s agrees within %.1e of the largest output.", engine, worst)
    return worst


def _described(content: bytes, segmenter: Segmenter) -> bytes:
    """Add to an ONNX model what its user has to know."""
    if isinstance(segmenter.runnable, OnnxNetwork):
        return content
    model = extra("onnx", "onnx").load_from_string(content)
    entries = {
        "labels": json.dumps(segmenter.labels, ensure_ascii=False),
        "preprocessing": json.dumps(segmenter.preprocessing.model_dump(mode="json")),
        "threshold": json.dumps(segmenter.threshold),
        "activation": segmenter.activation or "none: the outputs are probabilities",
        "stride": str(segmenter.architecture.stride),
    }
    extra("onnx.helper", "onnx").set_model_props(model, entries)
    model.doc_string = (
        "Written by tiledseg. The input holds px that are prepared as `preprocessing` states; its height and "
        "width are multiples of `stride`."
    )
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _write_openvino(segmenter: Segmenter, content: bytes, target: Path) -> None:
    """Write the two files of OpenVINO; the one that names the network last."""
    library = extra("openvino", None)
    model = openvino.core().read_model(content)
    _check_output(segmenter, openvino.compiled(model, "f32"), "OpenVINO")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".tiledseg-", dir=target.parent) as folder:
        part = Path(folder) / "model.xml"
        library.save_model(model, part, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            with (
                part.with_suffix(suffix).open("rb") as source,
                atomic_write(target.with_suffix(suffix)) as copy,
            ):
                shutil.copyfileobj(source, copy)


def _report(segmenter: Segmenter, written: WrittenOnnx, target: Path) -> None:
    """Say what size and what px the written network takes, and what its outputs are."""
    stride = segmenter.architecture.stride
    if written.fixed_by is None:
        size = f"any height and width that are multiples of {stride}"
    else:
        height, width = tile_of(segmenter)
        size = f"only {height} x {width} px, because of {written.fixed_by}"
    config, pixels = segmenter.preprocessing, "as they are"
    if config is not None:
        given = (f"{name}={value}" for name, value in config.model_dump(exclude_defaults=True).items())
        pixels = f"prepared by {type(config).__name__}({', '.join(given)})"
    kind = f"logits: apply a {segmenter.activation}" if segmenter.activation else "probabilities"
    _log.info("%s: takes %s, px %s; its outputs are %s.", named(target), size, pixels, kind)
