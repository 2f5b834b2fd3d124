"""Results of files: where they go, what they never replace, and the record by which a later run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from contextlib import suppress
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from tiledseg._storage import (
    check_writable,
    csv_text,
    exists,
    first_alike,
    is_folder,
    json_of,
    open_regular,
    remove_parts,
    write_text,
    zarr_files,
)
from tiledseg._validate import invalid, named, reason_of, shown
from tiledseg._version import __version__
from tiledseg.config import OBJECT_PRODUCTS, PredictConfig, Product
from tiledseg.errors import FileError, SettingError, TiledSegError
from tiledseg.io import check_identity, content_digest, is_remote, state_of
from tiledseg.objects import read_table
from tiledseg.predict.roi import roi_of_file
from tiledseg.predict.segmentation import class_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from tiledseg.config import TilingConfig
    from tiledseg.engine import Network

_log = logging.getLogger("tiledseg")

FOLDERS: dict[Product, str] = {
    **{what: what for what in get_args(Product)},
    "mask": "masks",
    "overlay": "overlays",
}
"""Folder of each product."""

_SUFFIXES = {
    "png": ".png",
    "tiff": ".tif",
    "ome-tiff": ".ome.tif",
    "ome-zarr": ".ome.zarr",
    "npy": ".npy",
    "csv": ".csv",
    "parquet": ".parquet",
    "geojson": ".geojson",
    "coco": ".json",
    "roi": ".zip",
}
_OME = {".tif", ".tiff", ".zarr"}  # what may follow a .ome
_RECORD = ".tiledseg-resume.json"
_COUNTS, _COUNTED = "counts.csv", ("image", "objects", "area", "area_um2")
_WITHOUT_EFFECT = {"batch_size", "recursive", "existing", "resume", "write", "into_image"}
_SAVED_EVERY = 10  # seconds, while images are predicted
_IN_NAMES = {"mask_format", "probs_format", "labels_format", "table_format"}  # of results, by their suffixes


def targets_of(path: Path, roots: list[Path], output: Path, config: PredictConfig) -> dict[Product, Path]:
    """Name the files to be written for an image."""
    root = next((root for root in roots if is_folder(root) and path.is_relative_to(root)), path.parent)
    place = path.relative_to(root).parent
    name = path.stem.removesuffix(".ome") if path.suffix.lower() in _OME else path.stem
    ends = {what: _SUFFIXES[format_of(what, config)] for what in config.write}
    if config.formats.compress and "geojson" in ends:
        ends["geojson"] += ".gz"
    return {what: output / FOLDERS[what] / place / (name + end) for what, end in ends.items()}


def check_targets(targets: dict[Path, dict[Product, Path]], config: PredictConfig) -> None:
    """Check that no two outputs have one path, and that none replaces an input or an earlier output."""
    inputs = {identity: path for path in targets for identity in _identities(path)}
    owner: dict[Path, Path] = {}
    standing = []
    for path, products in targets.items():
        for target in products.values():
            if target in owner:
                raise _same_name(path, owner[target])
            if own := inputs.keys() & _identities(target):
                got = f"{shown(str(inputs[own.pop()]))}, which is the same file, by its path or by a link"
                fix = "Choose another output folder, or remove the link."
                raise invalid(FileError, str(target), must="not overwrite an input", got=got, fix=fix)
            owner[target] = path
            standing += [target] if os.path.lexists(target) else []
    if standing and config.existing == "refuse" and not config.resume:
        raise invalid(
            FileError,
            "output",
            must="not hold results already",
            got=f"{len(standing)} of them, the first {shown(str(standing[0]))}",
            fix='Set existing="skip" or existing="overwrite", or choose another folder.',
        )


def _identities(path: Path) -> set[object]:
    """Say how a file is recognised: by its path without links and by its number."""
    found: set[object] = {os.path.realpath(path)}
    with suppress(OSError):
        status = path.stat()
        found |= {(status.st_dev, status.st_ino)} if status.st_ino else set()
    return found


def _same_name(path: Path, other: Path) -> FileError:
    return invalid(
        FileError,
        str(path),
        must="have a name of its own",
        got=f"the output name of {shown(str(other))}",
        fix="Rename one of them, or choose an output folder for each.",
    )


def check_inputs(images: Iterable[Path], roots: Iterable[Path], folder: Path, config: PredictConfig) -> None:
    """Refuse results of earlier runs that a search through all folders takes for images."""
    home = os.path.realpath(folder)
    above = [root for root in roots if _is_within(home, os.path.realpath(root))]
    if not (config.recursive and above):
        return
    places = [os.path.join(home, one) for one in FOLDERS.values()]  # noqa: PTH118
    for path in images:
        if any(_is_within(os.path.realpath(path), place) for place in places):
            must = "name images, not results of an earlier run"
            fix = f"Choose an output folder outside {shown(str(above[0]))}, or name folders without results."
            raise invalid(FileError, "inputs", must=must, got=str(path), fix=fix)


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))  # noqa: PTH118


def check_spellings(folder: Path, targets: dict[Path, dict[Product, Path]]) -> None:
    """Refuse names that the file system of the output folder takes for one."""
    owner = {
        str(target.relative_to(folder)): path
        for path, products in targets.items()
        for target in products.values()
    }
    if (found := first_alike(folder, owner)) is not None:
        raise _same_name(owner[found[1]], owner[found[0]])


def check_folders(folder: Path, targets: dict[Path, dict[Product, Path]], config: PredictConfig) -> None:
    """Check that products can be written; remove the parts of files that a killed run left."""
    for what in config.write:
        check_writable(folder / FOLDERS[what])
    for place in {target.parent for products in targets.values() for target in products.values()}:
        remove_parts(place)


def format_of(what: Product, config: PredictConfig) -> str:
    """Return the format of a product."""
    formats: dict[str, str] = {
        "mask": config.mask_format,
        "probs": config.probs_format,
        "labels": config.labels_format,
        "objects": config.table_format,
    }
    return formats.get(what, what if what in OBJECT_PRODUCTS else "png")


def fingerprint_of(
    network: Network, image: dict[str, Any], config: PredictConfig, tiling: TilingConfig | None
) -> dict[str, Any]:
    """Say what a prediction of a file depends on, one entry for each part."""
    known = PredictConfig.model_fields.keys() - _WITHOUT_EFFECT  # a job of a command has more: paths
    settings = {key: value for key, value in config.model_dump().items() if key in known}
    settings["runtime"] = {key: settings["runtime"][key] for key in ("engine", "precision", "activation")}
    parts: dict[str, Any] = {"model": _digest_of(network, config)}
    identity = _content_of(image, config.roi) if image else {}
    parts |= {f"image {key}": value for key, value in identity.items()}
    parts |= settings | {"tiling": None if tiling is None else tiling.model_dump(), "tiledseg": __version__}
    if network.preprocessing is not None:
        parts["preprocessing"] = network.preprocessing.model_dump()
        parts["own tiling"] = None if network.tiling is None else network.tiling.model_dump()
        parts["own threshold"] = network.threshold
        parts["own tta"] = network.tta
        parts["own activation"] = network.activation
    readable: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return readable


def _content_of(identity: Mapping[str, Any], roi: str | None) -> dict[str, Any]:
    """Identify an image by its contents instead of its time of change, which copying and touching renew."""
    path = str(identity["path"])
    area = roi_of_file(roi, Path(path))
    own = {} if area in {None, "tissue"} else {"roi contents": content_digest(str(area))}
    if is_remote(path):
        return {**identity, **own}
    kept = {key: value for key, value in identity.items() if key not in {"changed", "metadata"}}
    return {**kept, **own, "contents": content_digest(path)}


def _digest_of(network: Network, config: PredictConfig) -> str | None:
    """Identify a model; None for a callable without a fingerprint, of which only settings are compared."""
    try:
        return network.digest
    except SettingError:
        if config.resume:
            raise
        return None


class RunRecord:
    """Which run made each result of a folder, from which state of its image."""

    # Of each result: its image, the key of its run, and state and digest of the image and of its region of
    # interest. A state that has changed is no fault where the digest has not, as of a copied folder.

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / _RECORD
        self._runs, self._results = _read(self._path)
        self._key = ""
        self._roi: str | None = None
        self._saved, self._lock = time.monotonic(), threading.Lock()

    def begin(
        self,
        network: Network,
        targets: Mapping[Path, Mapping[Product, Path]],
        config: PredictConfig,
        tiling: TilingConfig | None,
    ) -> None:
        """Refuse results of another run that would be kept; note what this one is about to write."""
        parts = fingerprint_of(network, {}, config, tiling)
        run = {key: value for key, value in parts.items() if key not in _IN_NAMES}
        self._key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:16]
        self._roi = config.roi
        places = [(image, target) for image, products in targets.items() for target in products.values()]
        standing = {target for _, target in places if os.path.lexists(target)}
        if config.existing == "overwrite":
            for target in standing:  # which are there until they are replaced
                self._results.pop(self._name(target), None)
        else:
            self._check(run, [place for place in places if place[1] in standing], config)
        self._runs[self._key] = run
        for image, target in places:
            if target not in standing:
                self._note(image, target, self._state_of(image), None)
        self._write()

    def add(self, image: Path, results: Mapping[Product, Path]) -> None:
        """Note the contents of an image whose results were written."""
        state, digest = self._state_of(image), self._digest_of(image) if results else None
        with self._lock:
            for target in results.values():
                self._note(image, target, state, digest)
            if time.monotonic() - self._saved > _SAVED_EVERY:
                self.save()

    def save(self) -> None:
        """Write what is noted; the work is done, whether or not that can be written."""
        try:
            self._write()
        except FileError as error:
            _log.warning("%s", error)

    def write_counts(self, network: Network) -> None:
        """Write how many objects each image has, by all tables that the folder has a record of."""
        tables: dict[str, dict[str, Any]] = {}
        path = self._folder / _COUNTS
        try:
            for name, (image, *_) in sorted(self._results.items()):
                if Path(name).parts[0] == FOLDERS["objects"] and exists(self._folder / name):
                    own = Path(*Path(name).parts[1:-1], Path(image).name).as_posix()
                    tables[own] = read_table(self._folder / name, ("class", *_COUNTED))
            if exists(path) and not path.read_bytes().startswith(b"image,objects,"):
                _log.warning("%s is another table, and is not replaced by counts", named(str(path)))
            elif tables:
                rows = list(_counts_of(tables, network))
                write_text(path, csv_text(dict.fromkeys(chain(*rows)), rows))
        except (OSError, LookupError, ValueError, TiledSegError) as error:  # the work is done
            _log.warning("%s is not written: %s", named(str(path)), reason_of(error))

    def _check(self, run: dict[str, Any], standing: list[tuple[Path, Path]], config: PredictConfig) -> None:
        unknown = [target for _, target in standing if self._name(target) not in self._results]
        if unknown and config.existing == "refuse":
            raise invalid(
                FileError,
                "output",
                must="hold only results that its record lists",
                got=f"others, the first {shown(str(unknown[0]))}",
                fix='Choose another folder, or set existing="skip" or existing="overwrite".',
            )
        if unknown:
            text = "%d results in %s are kept although the record does not list them; the first is %s"
            _log.warning(text, len(unknown), named(str(self._folder)), named(str(unknown[0])))
        for image, target in standing:
            if target not in unknown:
                self._check_one(run, image, target, config)

    def _check_one(self, run: dict[str, Any], image: Path, target: Path, config: PredictConfig) -> None:
        name, key, state, digest = self._results[self._name(target)]
        before = self._runs.get(key, {})
        if config.existing == "skip":  # a later version may keep what an earlier one made
            before = before | {"tiledseg": run["tiledseg"]}
        fix = 'Use those of that run, choose another folder, or set existing="overwrite".'
        check_identity(named(str(target)), before, run, fix)
        now = self._state_of(image)
        if name == self._name(image) and now == state:
            return
        if name != self._name(image) or digest is None or digest != self._digest_of(image):
            raise invalid(
                FileError,
                named(str(image)),
                must="be unchanged since its result was written",
                got="another image or region of interest, or one that changed since",
                fix=f"Delete {shown(str(target))} to predict it again.",
            )
        self._results[self._name(target)][2] = now

    def _note(self, image: Path, target: Path, state: list[Any], digest: list[str] | None) -> None:
        self._results[self._name(target)] = [self._name(image), self._key, state, digest]

    def _write(self) -> None:
        used = {key for _, key, *_ in self._results.values()} | {self._key}
        runs = {key: run for key, run in self._runs.items() if key in used}
        write_text(self._path, json.dumps({"runs": runs, "results": self._results}))
        self._saved = time.monotonic()

    def _name(self, path: Path) -> str:
        try:
            return os.path.relpath(path, self._folder)
        except ValueError:  # on another drive of Windows
            return str(path.absolute())

    def _sources(self, image: Path) -> list[str]:
        """Name the files that a result depends on."""
        area = roi_of_file(self._roi, image)
        return [str(image)] if area in {None, "tissue"} else [str(image), str(area)]

    def _state_of(self, image: Path) -> list[Any]:
        """Tell an image from what it may become; an unreadable one fails later, by itself."""
        try:
            return [[*state_of(path), *_stamps(path)] for path in self._sources(image)]
        except (OSError, FileError):
            return []

    def _digest_of(self, image: Path) -> list[str] | None:
        try:
            paths = self._sources(image)
            return None if any(map(is_remote, paths)) else [content_digest(path) for path in paths]
        except (OSError, FileError):
            return None


def _counts_of(tables: Mapping[str, dict[str, Any]], network: Network) -> Iterator[dict[str, Any]]:
    """Count the objects of each table, those of each of several classes, and their px in total."""
    found = {image: np.bincount(table["class"].astype(int)) for image, table in tables.items()}
    names = class_names(network, network.classes or max(1, *map(len, found.values())))
    columns = [f"{name} (class)" if name in _COUNTED else name for name in names if len(names) > 1]
    for image, table in tables.items():
        counts = chain(found[image][1:].tolist(), repeat(0))
        sums = {name: f"{table[name].sum():.10g}" for name in _COUNTED if name in table}
        yield {
            "image": image,
            "objects": len(table["class"]),
            **dict(zip(columns, counts, strict=False)),
            **sums,
        }


def _stamps(path: str) -> list[int]:
    """Return number and size of the files of an image, and when the last was really written."""
    if is_remote(path):
        return []
    states = [one.stat() for one in (zarr_files(Path(path)) if is_folder(path) else [Path(path)])]
    return [len(states), sum(one.st_size for one in states), max(one.st_ctime_ns for one in states)]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the runs by their keys, and the results by their names."""
    if not exists(path):
        return {}, {}
    try:
        with open_regular(path) as file:
            record = json_of(file.read())
        runs, results = dict(record["runs"]), {name: [*one] for name, one in record["results"].items()}
        whole = all(isinstance(run, dict) for run in runs.values())
        if whole and all(len(one) == 4 and isinstance(one[1], str) for one in results.values()):
            return runs, results
        got = "other entries"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
    fix = 'Delete it; results beside it are then kept only with existing="skip".'
    raise invalid(FileError, named(str(path)), must="be a record of results", got=got, fix=fix)
