"""BioImage.IO packages, written (specification 0.5): a segmenter as a folder or a zip with ``rdf.yaml``."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tempfile
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._storage import atomic_write, new_folder, sha256, write_bytes, write_text
from tiledseg._validate import invalid, named, pair_of, path_text, settings_of
from tiledseg._version import __version__
from tiledseg.config import PackageConfig, PreprocessingConfig, StepsConfig
from tiledseg.engine import Network, OnnxNetwork
from tiledseg.errors import FileError, SettingError
from tiledseg.models.formats import check_equal, onnx_of, outputs_of, session_of, tile_of
from tiledseg.plots import as_picture, as_png, overlay
from tiledseg.preprocess import prepare

if TYPE_CHECKING:
    from typing import TypeAlias

    from tiledseg import _backend
    from tiledseg._types import AnyArray, FloatArray, PathLike

    Segmenter: TypeAlias = Any  # its module imports this one
else:
    _backend = lazy("tiledseg._backend")

_log = logging.getLogger("tiledseg")
_VERSION = "0.5.12"
RDF = "rdf.yaml"
ONNX, KERAS = "model.onnx", "model.keras"
_INPUT, _OUTPUT, _COVER, _README = "test_input.npy", "test_output.npy", "cover.png", "README.md"
_LARGEST_TEST = 2048  # px of a side of the test image: a larger halo is not stated
_LEAST_TEST = 128
_COVER_PX = 256
_NOT_STATED = ("sharpen", "gamma", "colour", "percentiles")


def write_package(segmenter: Segmenter, path: PathLike, about: PackageConfig | dict[str, Any] | None) -> Path:
    """Write a package: a zip where the name ends in .zip, else a new folder."""
    target = Path(path_text(path)).absolute()
    about = settings_of(PackageConfig, {} if about is None else about, "about", optional=False)
    citations = [_citation(one) for one in about.cite]
    _check_steps(segmenter.preprocessing)
    extra("yaml", "bioimageio")
    if target.suffix.lower() != ".zip":
        with new_folder(target) as folder:
            _fill(folder, segmenter, about, citations)
        return target
    if os.path.lexists(target):
        fix = "Choose another name; no file is overwritten."
        raise invalid(FileError, named(target), must="be a new file", got="one that exists", fix=fix)
    with tempfile.TemporaryDirectory(prefix="tiledseg-") as name:
        folder = Path(name)
        _fill(folder, segmenter, about, citations)
        with atomic_write(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for one in sorted(folder.iterdir()):
                archive.write(one, one.name)
    return target


def _check_steps(config: PreprocessingConfig) -> None:
    """Refuse a preparation of px that a package cannot describe."""
    if isinstance(config, StepsConfig):
        must, fix = "be a PreprocessingConfig without steps", "Share the package that it came from."
        raise invalid(SettingError, "preprocessing", must=must, got="steps of a package", fix=fix)
    default = PreprocessingConfig()
    for name in _NOT_STATED:
        if getattr(config, name) != getattr(default, name):
            fix = "Share the bundle, or train a network without it."
            must = "be left out for a BioImage.IO package, which cannot describe it"
            raise invalid(
                SettingError, f"preprocessing.{name}", must=must, got=getattr(config, name), fix=fix
            )


def _fill(folder: Path, segmenter: Segmenter, about: PackageConfig, citations: list[dict[str, str]]) -> None:
    """Write all files of a package, the description last."""
    written = onnx_of(segmenter, channels_last=True)
    package = _Package(segmenter, about, fixed=written.fixed_by is not None)
    write_bytes(folder / ONNX, written.content)
    outputs = package.checked(written.content)
    for name, values in ((_INPUT, package.image[None]), (_OUTPUT, outputs)):
        write_bytes(folder / name, _npy(package.in_order(values)))
    write_bytes(folder / _COVER, _cover(package.image, outputs[0]))
    write_text(folder / _README, _readme(segmenter, about))
    weights = {"onnx": _entry(folder, ONNX) | {"opset_version": _opset(written.content)}}
    if _is_plain_keras(segmenter):
        segmenter.network.save(folder / KERAS)
        backend = _backend.keras.backend.backend()
        keras = {"keras_version": version("keras"), "backend": [backend, version(backend)]}
        weights = {
            "keras_v3": _entry(folder, KERAS) | keras,
            "onnx": weights["onnx"] | {"parent": "keras_v3"},
        }
    record = _described(package, folder) | {"cite": citations, "weights": weights}
    record = json.loads(json.dumps(record))  # YAML would write what occurs twice as a reference
    text = extra("yaml", "bioimageio").safe_dump(record, sort_keys=False, allow_unicode=True, width=100)
    write_text(folder / RDF, text)
    _validate(folder)


class _Package:
    """A segmenter, an image to test it, and the sizes that the package allows."""

    def __init__(self, segmenter: Segmenter, about: PackageConfig, *, fixed: bool) -> None:
        self.segmenter, self.about, self.network = segmenter, about, Network.of(segmenter)
        self.first: bool = getattr(segmenter.architecture, "layout", "") == "channels_first"
        self.fixed = fixed or self.network.tile_size != (None, None)
        self.halo = _halo(self.network)
        size = tile_of(segmenter) if self.fixed else self._least_size()
        if max(size) > _LARGEST_TEST or any(a <= 2 * b for a, b in zip(size, self.halo, strict=True)):
            _log.info("The halo of %d x %d px is too large to be stated in the package.", *self.halo)
            self.halo = (0, 0)
            size = tile_of(segmenter) if self.fixed else self._least_size()
        self.image: AnyArray = _drawn(size, segmenter.preprocessing)

    def _least_size(self) -> tuple[int, int]:
        y, x = (
            -(-max(_LEAST_TEST, 2 * px + 1) // step) * step
            for px, step in zip(self.halo, self.network.stride, strict=True)
        )
        return y, x

    def checked(self, content: bytes) -> FloatArray:
        """Run the network on the image, and compare it with the ONNX model; return its probabilities."""
        # a network that sees a shrunk image gets one that is shrunk already
        config = self.segmenter.preprocessing.changed(scale=1.0, pixel_size=None)
        tiles = np.asarray(prepare(self.image, config))[None]
        found = session_of(content)(self.in_order(tiles))
        found = found.transpose(0, 2, 3, 1) if self.first else found
        check_equal(found, outputs_of(self.segmenter, tiles), "ONNX Runtime")
        return self.network.ready(1)[0](tiles)

    def in_order(self, values: AnyArray) -> AnyArray:
        """Bring an array (N, h, w, C) to the order of axes of the network."""
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.first else values)


def _halo(network: Network) -> tuple[int, int]:
    """Return the px at the ends of a tile that differ from the whole, along y and x; 0 where not known."""
    # Readers add it to both ends of an image, whose size then has to be a multiple of the stride again.
    found = network.receptive_field.halo or ((0, 0), (0, 0))
    y, x = (-(-max(px) // step) * step for px, step in zip(found, network.stride, strict=True))
    return y, x


def _drawn(size: tuple[int, int], config: PreprocessingConfig) -> AnyArray:
    """Draw spots and noise."""
    rng = np.random.default_rng(0)
    coarse = rng.random((size[0] // 8 + 1, size[1] // 8 + 1, config.channels))
    smooth = np.repeat(np.repeat(coarse, 8, 0), 8, 1)[: size[0], : size[1]]
    values = 0.7 * smooth + 0.3 * rng.random((*size, config.channels))
    dtype = np.dtype(config.dtype)
    return (values if dtype.kind == "f" else np.floor(values * config.largest)).astype(dtype)


def _npy(values: AnyArray) -> bytes:
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def _cover(image: AnyArray, probs: FloatArray) -> bytes:
    """Draw the test image beside what is found in it, twice as wide as high."""
    picture = as_picture(image)
    mask = probs[..., 0] >= 0.5 if probs.shape[2] == 1 else probs.argmax(2).astype(np.uint8)
    places = [np.linspace(0, length - 1, _COVER_PX).astype(int) for length in mask.shape]
    both = [one[np.ix_(*places)] for one in (picture, overlay(picture, mask))]
    return as_png(np.concatenate(both, axis=1))


def _is_plain_keras(segmenter: Segmenter) -> bool:
    """Say whether Keras can load the network without this package."""
    if isinstance(segmenter.runnable, OnnxNetwork):
        return False
    layers: Any = Network.of(segmenter).predictor
    own = sorted({one.kind for one in layers.layers().layers if one.kind.startswith("tiledseg.")})
    if own:
        _log.info("The package has ONNX weights alone: %s is a layer of tiledseg.", own[0])
    return not own


def _entry(folder: Path, name: str) -> dict[str, Any]:
    return {"source": name, "sha256": sha256(folder / name)}


def _opset(content: bytes) -> int:
    model = extra("onnx", "onnx").load_from_string(content)
    return next(int(one.version) for one in model.opset_import if one.domain in {"", "ai.onnx"})


def _described(package: _Package, folder: Path) -> dict[str, Any]:
    """Return the description of a model, all but its weights."""
    segmenter, about = package.segmenter, package.about
    return {
        "format_version": _VERSION,
        "type": "model",
        "name": about.title,
        "description": about.description or f"Segments {', '.join(segmenter.labels)}."[:1024],
        "authors": [{"name": one} for one in about.authors],
        "license": about.license,
        "tags": [*about.tags, "segmentation", "tiledseg"],
        "documentation": _entry(folder, _README),
        "covers": [_entry(folder, _COVER)],
        "inputs": [_input(package, folder)],
        "outputs": [_output(package, folder)],
        "config": {
            "tiledseg": {
                "version": __version__,
                "threshold": segmenter.threshold,
                "provenance": json.loads(json.dumps(segmenter.provenance)),
            }
        },
    }


def _citation(text: str) -> dict[str, str]:
    """Part a citation into its text and the DOI or URL that it ends in."""
    *words, last = text.split() or [""]
    doi = re.fullmatch(r"(?:https?://(?:dx\.)?doi\.org/|doi:)?(10\.\d{4,9}/\S+?)\.?", last)
    if doi:
        return {"text": " ".join(words) or doi[1], "doi": doi[1]}
    if last.startswith(("http://", "https://")):
        return {"text": " ".join(words) or last, "url": last}
    must, fix = "end in a DOI or a URL", 'For example "Author (2026). Title. 10.1234/5678".'
    raise invalid(SettingError, "cite", must=must, got=text, fix=fix)


def _axes(package: _Package, channels: dict[str, Any], y: dict[str, Any], x: dict[str, Any]) -> list[Any]:
    size = package.segmenter.preprocessing.pixel_size
    scale = package.segmenter.preprocessing.scale
    for axis, span in zip((y, x), pair_of(size), strict=True):
        axis.update(
            {"type": "space"}
            if span is None
            else {"type": "space", "unit": "micrometer", "scale": span / scale}
        )
    batch = {"type": "batch"}
    return [batch, channels, y, x] if package.first else [batch, y, x, channels]


def _input(package: _Package, folder: Path) -> dict[str, Any]:
    config = package.segmenter.preprocessing
    names = (
        ["red", "green", "blue"] if config.channels == 3 else [f"channel{i}" for i in range(config.channels)]
    )
    height, width, _ = package.image.shape
    sizes: list[Any] = [height, width]
    if not package.fixed:
        steps = package.network.stride
        sizes = [{"min": one, "step": step} for one, step in zip(sizes, steps, strict=True)]
    y, x = ({"id": axis, "size": size} for axis, size in zip("yx", sizes, strict=True))
    return {
        "id": "image",
        "axes": _axes(package, {"type": "channel", "channel_names": names}, y, x),
        "data": {"type": config.dtype},
        "test_tensor": _entry(folder, _INPUT),
        "preprocessing": _steps(config),
    }


def _steps(config: PreprocessingConfig) -> list[dict[str, Any]]:
    """Describe the preparation of px: a factor and an offset for each channel."""
    means, stds = (
        np.broadcast_to(one, max(len(config.mean), len(config.std))) for one in (config.mean, config.std)
    )
    gain, offset = (1 / (config.largest * stds)).tolist(), (-means / stds + 0.0).tolist()
    as_float = {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}
    if len(gain) == 1 and (gain[0], offset[0]) == (1.0, 0.0):
        return [as_float]
    kwargs = (
        {"gain": gain[0], "offset": offset[0]}
        if len(gain) == 1
        else {"axis": "channel", "gain": gain, "offset": offset}
    )
    # without the last step readers would cast to the dtype of the image again
    return [as_float, {"id": "scale_linear", "kwargs": kwargs}, as_float]


def _output(package: _Package, folder: Path) -> dict[str, Any]:
    segmenter = package.segmenter
    y, x = (
        {"id": axis, "size": {"tensor_id": "image", "axis_id": axis}} | ({"halo": px} if px else {})
        for axis, px in zip("yx", package.halo, strict=True)
    )
    channels = {"type": "channel", "channel_names": list(segmenter.labels)}
    steps = {
        None: [],
        "sigmoid": [{"id": "sigmoid"}],
        "softmax": [{"id": "softmax", "kwargs": {"axis": "channel"}}],
    }
    return {
        "id": "probabilities",
        "axes": _axes(package, channels, y, x),
        "data": {"type": "float32", "range": [0.0, 1.0]},
        "test_tensor": _entry(folder, _OUTPUT),
        "postprocessing": steps[segmenter.activation],
    }


def _readme(segmenter: Segmenter, about: PackageConfig) -> str:
    """Write the documentation, with the section on validation that the specification asks for."""
    config = segmenter.preprocessing
    size = "" if config.pixel_size is None else f" It was trained at {config.pixel_size} µm per px."
    shrunk = (
        ""
        if config.scale == 1
        else (
            f" Shrink images by the factor {config.scale:g} first (mean of each area): the network sees them "
            "so."
        )
    )
    validation = (
        ""
        if re.search(r"(?m)^#+.*[Vv]alidation", about.documentation)
        else (
            "## Validation\n\nPredict annotated images that were not used in training, apply the threshold "
            f"{segmenter.threshold:g}, and compare the masks, for example by Dice and by boundary F1."
        )
    )
    parts = (
        f"# {about.title}",
        f"Segments {', '.join(segmenter.labels)}.{size}{shrunk}",
        "Written by `tiledseg`, which predicts images of any size.",
        about.documentation,
        validation,
    )
    return "\n\n".join(filter(None, parts)) + "\n"


def _validate(folder: Path) -> None:
    """Check a package by the library of its specification, where that is installed."""
    if find_spec("bioimageio.spec") is None:
        _log.warning('The package is not validated: `pip install "tiledseg[bioimageio]"`.')
        return
    spec = extra("bioimageio.spec", "bioimageio")
    record = extra("yaml", "bioimageio").safe_load((folder / RDF).read_text("utf-8"))
    with spec.ValidationContext(root=folder, perform_io_checks=False):
        summary = spec.validate_format(record)
    if summary.status == "failed":
        errors = "; ".join(
            f"{'.'.join(map(str, one.loc))}: {one.msg}" for part in summary.details for one in part.errors
        )
        must, fix = "follow the specification of BioImage.IO", "Change what `about` states."
        raise invalid(SettingError, "package", must=must, got=errors, fix=fix)
