"""BioImage.IO packages, read: a zip, a folder or its ``rdf.yaml``; nothing of it executes.

A package becomes an ONNX file in a cache on disk, with its postprocessing inside, and a preparation in steps.
"""

from __future__ import annotations

import hashlib
import math
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._lazy import extra, lazy
from tiledseg._storage import DiskCache, is_file, is_folder, open_regular
from tiledseg._validate import invalid, shown
from tiledseg.config import StepsConfig, TilingConfig
from tiledseg.engine import OnnxNetwork
from tiledseg.errors import SettingError
from tiledseg.models.bioimageio_parts import refused, steps_of, write_weights
from tiledseg.models.hub import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tiledseg.models import segmenter
    from tiledseg.models.segmenter import Segmenter
else:
    segmenter = lazy("tiledseg.models.segmenter")

RDFS = ("rdf.yaml", "bioimageio.yaml")
_LARGEST_RDF = 1_000_000  # bytes
_MOST_FILES = 10_000
_MOST_PARTS = 100_000  # of a description
_MOST_RATIO = 200  # of a file to its compressed form, from 10 MB up
_CHUNK = 1 << 20


def load_package(path: Path, *, trust: bool, output: str | None) -> Segmenter:
    """Load a package; every part that this library cannot follow is refused by its name."""
    try:
        if is_folder(path) or path.name in RDFS:
            return _read(_Folder(path), trust=trust, output=output)
        with zipfile.ZipFile(path) as archive:
            return _read(_Zip(path, archive), trust=trust, output=output)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError) as error:
        raise refused(str(path), "be a package that can be read", error) from error


class _Folder:
    """The files of a package in a folder."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._folder = path if is_folder(path) else path.parent
        self.rdf = path.name if is_file(path) else next(one for one in RDFS if is_file(path / one))

    def copy(self, name: str, most: int, write: Callable[[bytes], object]) -> None:
        """Pass a file on in parts."""
        path = self._folder / _plain(name, self.name)
        parts = [path, *list(path.parents)[: len(PurePosixPath(name).parts) - 1]]
        if any(one.is_symlink() for one in parts):
            raise refused(f"{self.name}: {name}", "be a plain file", "a link")
        with open_regular(path) as file:
            _pass_on(file, f"{self.name}: {name}", most, write)


class _Zip:
    """The files of a package in a zip: none is unpacked but those that are needed."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.name, self._archive = str(path), archive
        entries = archive.infolist()
        if len(entries) > _MOST_FILES:
            raise refused(self.name, f"hold at most {_MOST_FILES} files", len(entries))
        self._entries = {one.filename: one for one in entries}
        if len(self._entries) < len(entries):
            raise refused(self.name, "hold each file once", "two files of one name")
        for name in self._entries:
            _plain(name.rstrip("/"), self.name)
        found = [one for one in RDFS if one in self._entries]
        if not found:
            got = f"{shown(list(self._entries)[:5])}"
            raise refused(self.name, f"hold {RDFS[0]}", got, "Give a package of the BioImage Model Zoo.")
        self.rdf = found[0]

    def copy(self, name: str, most: int, write: Callable[[bytes], object]) -> None:
        """Pass a file on in parts."""
        entry = self._entries.get(_plain(name, self.name))
        what = f"{self.name}: {name}"
        if entry is None or entry.is_dir():
            raise refused(what, "be in the package", "no such file")
        if entry.flag_bits & 1 or stat.S_ISLNK(entry.external_attr >> 16):
            raise refused(what, "be a plain file", "a link, or a file with a password")
        if entry.file_size > max(10_000_000, _MOST_RATIO * entry.compress_size):
            got = f"{entry.compress_size} bytes that become {entry.file_size}"
            raise refused(what, f"be compressed by at most {_MOST_RATIO}", got)
        with self._archive.open(entry) as file:
            _pass_on(file, what, most, write)


def _pass_on(file: Any, what: str, most: int, write: Callable[[bytes], object]) -> None:
    count = 0
    while part := file.read(_CHUNK):
        count += len(part)
        if count > most:
            raise refused(what, f"have at most {most} bytes", "more")
        write(part)


def _plain(name: object, where: str) -> str:
    """Refuse names that lead out of the package, and addresses."""
    if not isinstance(name, str) or "://" in name:
        fix = "Download the whole package as a zip: nothing is fetched while it is read."
        raise refused(f"{where}: source", "be a file of the package", name, fix)
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or any(mark in name for mark in ("\\", ":", "\0")):
        raise refused(f"{where}: source", "stay inside the package", name)
    return name


def _read(files: _Folder | _Zip, *, trust: bool, output: str | None) -> Segmenter:
    text = bytearray()
    files.copy(files.rdf, _LARGEST_RDF, text.extend)
    record = _parsed(bytes(text), f"{files.name}: {files.rdf}")
    try:
        described = _Described(record, files.name, output)
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise refused(f"{files.name}: {files.rdf}", "have values of the right types", str(error)) from error
    weights = described.weights(trust=trust)
    key = hashlib.sha256(bytes(text) + f"{weights} {described.place}".encode()).hexdigest()
    cache = DiskCache(cache_folder() / "packages")
    folder = cache.find(key) or cache.keep(key, lambda part: described.convert(part, files, weights))
    return described.segmenter(OnnxNetwork(folder / "model.onnx", None, described.layout))


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Parse YAML without tags; references are followed as long as the whole stays small."""
    yaml = extra("yaml", "bioimageio")
    try:
        n_parts = _expanded(yaml.compose(text, Loader=yaml.SafeLoader), {})
        if n_parts > _MOST_PARTS:
            raise refused(where, f"have at most {_MOST_PARTS} entries", f"{n_parts:g}, by references (*)")
        record = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise refused(where, "be YAML", str(error).replace("\n", " ")) from None
    if not isinstance(record, dict):
        raise refused(where, "be a mapping", type(record).__name__)
    return record


def _expanded(node: Any, known: dict[int, float]) -> float:  # of YAML
    """Count the entries of a node with all its references; infinite where it contains itself."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = (part for one in node.value for part in (one if isinstance(one, tuple) else (one,)))
        known[id(node)] = 1 + sum(_expanded(one, known) for one in parts)
    return known[id(node)]


class _Described:
    """The description of a model, read part by part."""

    def __init__(self, record: dict[str, Any], where: str, output: str | None) -> None:
        self._record, self._where = record, where
        version = str(record.get("format_version", ""))
        if record.get("type") != "model" or not version.startswith("0.5."):
            got = f"type {record.get('type')!r}, format_version {version!r}"
            fix = "Bring it to version 0.5 with bioimageio.spec."
            raise refused(where, "be a model of specification 0.5", got, fix)
        inputs, outputs = (self._list(record, name) for name in ("inputs", "outputs"))
        if len(inputs) != 1:
            raise refused(f"{where}: inputs", "be one image", f"{len(inputs)} inputs")
        names = [str(one.get("id", f"output {place}")) for place, one in enumerate(outputs)]
        if output is None and len(names) > 1:
            fix = f'Pass output="{names[0]}" to load_model, for example.'
            raise invalid(SettingError, "output", must=f"name one of {names}", got="nothing", fix=fix)
        if output is not None and output not in names:
            raise invalid(SettingError, "output", must=f"name one of {names}", got=output, fix="")
        self.place = names.index(output) if output else 0  # among the outputs of the ONNX file
        self._input, self._output = inputs[0], outputs[self.place]
        self._axes = _axes_of(self._input, f"{where}: inputs")
        made = _axes_of(self._output, f"{where}: outputs")
        self.layout: Any = _layout(self._axes, f"{where}: inputs")
        if _order(made).replace("c", "") != _order(self._axes).replace("c", ""):
            raise refused(f"{where}: outputs", "have the axes of the input", _order(made))
        _check_sizes(made, f"{where}: outputs")
        self._channels = len(self._names(self._axes, "channel"))
        self.labels = self._names(made, "class")
        self.before = steps_of(self._input, "preprocessing", where)
        self.after = steps_of(self._output, "postprocessing", where)
        self.threshold = self._threshold()

    def _list(self, record: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        found = record.get(name)
        if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
            raise refused(f"{self._where}: {name}", "be a list of tensors", found)
        return found

    def _names(self, axes: list[dict[str, Any]], default: str) -> tuple[str, ...]:
        axis = next((one for one in axes if one.get("type") == "channel"), None)
        names = axis.get("channel_names") if axis else [default]
        if not isinstance(names, list) or not names:
            raise refused(f"{self._where}: channel_names", "be a list of names", names)
        texts = tuple(str(one).strip() or default for one in names)
        return texts if len(set(texts)) == len(texts) else tuple(f"{default} {i}" for i in range(len(texts)))

    def convert(self, part: Path, files: _Folder | _Zip, weights: dict[str, Any]) -> None:
        """Write the network into the cache."""
        write_weights(part, files, weights, layout=self.layout, place=self.place, steps=self.after)

    def weights(self, *, trust: bool) -> dict[str, Any]:
        """Return the entry of the weights that are read."""
        found = self._record.get("weights")
        found = found if isinstance(found, dict) else {}
        if isinstance(found.get("onnx"), dict):
            return dict(found["onnx"])
        if not isinstance(found.get("keras_v3"), dict):
            fix = "Ask its author for ONNX weights."
            raise refused(f"{self._where}: weights", "be onnx or keras_v3", sorted(map(str, found)), fix)
        if not trust:
            fix = "Pass trust=True if you know where the package comes from."
            raise refused(f"{self._where}: weights", "be trusted, as any .keras file", "trust=False", fix)
        return dict(found["keras_v3"])

    def _threshold(self) -> float:
        """Return the least probability of the foreground, where the last step is a threshold."""
        last = self.after[-1] if self.after else None
        if last is None or last.op != "binarize":
            return 0.5
        if len(last.threshold) > 1 or not 0 < last.threshold[0] < 1 or len(self.labels) > 1:
            what = f"{self._where}: postprocessing binarize"
            raise refused(what, "have one threshold in (0, 1), for one class", last.threshold)
        self.after = self.after[:-1]
        return float(np.nextafter(np.float32(last.threshold[0]), np.float32(1)))  # above it, not from it on

    def segmenter(self, network: OnnxNetwork) -> Segmenter:
        """Return its network with what the package says of it."""
        steps = StepsConfig(channels=self._channels, steps=self.before)
        sizes = [one.get("size") for one in self._axes if one.get("type") == "space"]
        fixed = [one for one in sizes if isinstance(one, int)]
        tiling = None
        if len(fixed) == 2:
            tiling = TilingConfig(tile_size=(fixed[0], fixed[1]), overlap=min(fixed) // 4)
        stated = {name: self._record[name] for name in ("name", "license", "cite") if name in self._record}
        return segmenter.Segmenter(
            network=network,
            labels=self.labels,
            preprocessing=steps,
            threshold=self.threshold,
            tiling=tiling,
            provenance={"bioimageio": stated},
        )


def _axes_of(tensor: dict[str, Any], where: str) -> list[dict[str, Any]]:
    axes = tensor.get("axes")
    if not isinstance(axes, list) or not all(isinstance(one, dict) for one in axes):
        raise refused(f"{where}: axes", "be a list of axes of version 0.5", axes)
    for one in axes:
        known = one.get("type") in {"batch", "channel"} or one.get("id") in {"x", "y"}
        if not known:
            name = f"{one.get('type')} axis {one.get('id')!r}"
            raise refused(f"{where}: axes", "be batch, channel, y and x", name, "Only 2-D networks are read.")
    return axes


def _order(axes: list[dict[str, Any]]) -> str:
    return "".join({"batch": "b", "channel": "c"}.get(one["type"], str(one.get("id"))) for one in axes)


def _layout(axes: list[dict[str, Any]], where: str) -> str:
    layouts = {"bcyx": "channels_first", "byxc": "channels_last"}
    if _order(axes) not in layouts:
        raise refused(
            f"{where}: axes", "have the order batch, channel, y, x or batch, y, x, channel", _order(axes)
        )
    return layouts[_order(axes)]


def _check_sizes(axes: list[dict[str, Any]], where: str) -> None:
    """Check that a map has the size of the image."""
    for one in axes:
        size = one.get("size")
        scale, offset = one.get("scale", 1.0), size.get("offset", 0) if isinstance(size, dict) else 0
        if one.get("id") in {"x", "y"} and offset:
            raise refused(f"{where}: axes", "have the size of the image", f"offset {offset}, scale {scale}")
