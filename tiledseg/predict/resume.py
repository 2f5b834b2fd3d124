"""What the results of a folder were made of: the record by which a later run resumes or skips them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from typing import TYPE_CHECKING, Any

from tiledseg._storage import exists, json_of, open_regular, write_text
from tiledseg._validate import invalid, named, shown
from tiledseg._version import __version__
from tiledseg.errors import FileError, SettingError
from tiledseg.io import check_identity, state_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from tiledseg.config import PredictConfig, Product, TilingConfig
    from tiledseg.engine import Network

_log = logging.getLogger("tiledseg")

_RECORD = ".tiledseg-resume.json"
_WITHOUT_EFFECT = {"batch_size", "recursive", "existing", "resume", "write", "into_image"}
_IN_NAMES = {"mask_format", "probs_format", "labels_format", "table_format"}  # of results, by their suffixes


def fingerprint_of(
    network: Network, image: dict[str, Any], config: PredictConfig, tiling: TilingConfig | None
) -> dict[str, Any]:
    """Say what a prediction of a file depends on, one entry for each part."""
    settings = {key: value for key, value in config.model_dump().items() if key not in _WITHOUT_EFFECT}
    settings["runtime"] = {key: settings["runtime"][key] for key in ("engine", "precision", "activation")}
    parts: dict[str, Any] = {"model": _digest_of(network, config)}
    parts |= {f"image {key}": value for key, value in image.items()}
    parts |= settings | {"tiling": None if tiling is None else tiling.model_dump(), "tiledseg": __version__}
    if network.preprocessing is not None:
        parts["preprocessing"] = network.preprocessing.model_dump()
        parts["own tiling"] = None if network.tiling is None else network.tiling.model_dump()
        parts["own threshold"] = network.threshold
        parts["own tta"] = network.tta
    readable: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return readable


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

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / _RECORD
        self._runs, self._results = _read(self._path)
        self._key = ""

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
        places = [(image, target) for image, products in targets.items() for target in products.values()]
        standing = {target for _, target in places if os.path.lexists(target)}
        if config.existing == "overwrite":
            for target in standing:  # which are there until they are replaced
                self._results.pop(self._name(target), None)
        else:
            self._check(run, [place for place in places if place[1] in standing], config)
        self._runs[self._key] = run
        self._note(place for place in places if place[1] not in standing)
        self._write()

    def finish(self, written: Iterable[tuple[Path, Iterable[Path]]]) -> None:
        """Note results that were replaced; the work is done, whether or not that can be written."""
        places = [(image, target) for image, results in written for target in results]
        if self._note(places):
            try:
                self._write()
            except FileError as error:
                _log.warning("%s", error)

    def _check(self, run: dict[str, Any], standing: list[tuple[Path, Path]], config: PredictConfig) -> None:
        unknown = [target for _, target in standing if self._name(target) not in self._results]
        if unknown and config.existing == "refuse":
            raise invalid(
                FileError,
                "output",
                must="hold only results of which the record says what they come from",
                got=f"others, the first {shown(str(unknown[0]))}",
                fix='Choose another folder, or set existing="skip" or existing="overwrite".',
            )
        if unknown:
            text = "%d results in %s are kept of which nothing says by what they were made, the first %s"
            _log.warning(text, len(unknown), named(str(self._folder)), named(str(unknown[0])))
        for image, target in standing:
            if target not in unknown:
                self._check_one(run, image, target, config)

    def _check_one(self, run: dict[str, Any], image: Path, target: Path, config: PredictConfig) -> None:
        name, state, key = self._results[self._name(target)]
        before = self._runs.get(key, {})
        if config.existing == "skip":  # a later version may keep what an earlier one made
            before = before | {"tiledseg": run["tiledseg"]}
        fix = 'Use those of that run, choose another folder, or set existing="overwrite".'
        check_identity(named(str(target)), before, run, fix)
        if [name, state] != self._state_of(image):
            raise invalid(
                FileError,
                named(str(image)),
                must="be as it was when its result was written",
                got="another image, or one that changed since",
                fix=f"Delete {shown(str(target))} to predict it again.",
            )

    def _note(self, places: Iterable[tuple[Path, Path]]) -> bool:
        """Note what this run makes; say whether anything is new."""
        new = {self._name(target): [*self._state_of(image), self._key] for image, target in places}
        changed = any(self._results.get(name) != entry for name, entry in new.items())
        self._results |= new
        return changed

    def _write(self) -> None:
        used = {key for _, _, key in self._results.values()} | {self._key}
        runs = {key: run for key, run in self._runs.items() if key in used}
        write_text(self._path, json.dumps({"runs": runs, "results": self._results}))

    def _name(self, path: Path) -> str:
        try:
            return os.path.relpath(path, self._folder)
        except ValueError:  # on another drive of Windows
            return str(path.absolute())

    def _state_of(self, image: Path) -> list[Any]:
        """Tell an image from what it may become; an unreadable one fails later, by itself."""
        try:
            return [self._name(image), state_of(str(image))]
        except OSError:
            return [self._name(image), []]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the runs by their keys, and the results by their names."""
    if not exists(path):
        return {}, {}
    try:
        with open_regular(path) as file:
            record = json_of(file.read())
        runs, results = dict(record["runs"]), {name: (*one,) for name, one in record["results"].items()}
        whole = all(isinstance(run, dict) for run in runs.values())
        if whole and all(len(one) == 3 and isinstance(one[2], str) for one in results.values()):
            return runs, {name: list(one) for name, one in results.items()}
        got = "other entries"
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        got = f"{type(error).__name__}: {error}"
    fix = 'Delete it; results beside it are then kept only with existing="skip".'
    raise invalid(FileError, named(str(path)), must="be a record of results", got=got, fix=fix)
