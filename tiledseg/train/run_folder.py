"""The folder of a run: settings, versions and data from its start, and the history of its epochs."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._backend import keras
from tiledseg._lazy import cv2
from tiledseg._storage import array_digest, is_folder, json_of, write_text
from tiledseg._validate import invalid, listed, named, shown
from tiledseg._version import __version__
from tiledseg.config import RunConfig
from tiledseg.data import Pair, pixel_size_of_pair
from tiledseg.errors import FileError, SettingError
from tiledseg.io import content_digest, is_remote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tiledseg._types import PathLike
    from tiledseg.config import TrainConfig

_log = logging.getLogger("tiledseg")
_SETTINGS, _RECORD = "run.toml", "run.json"
_MAY_CHANGE = {  # settings that do not change the trained network
    "runs_dir",
    "memory_mb",
    "cache_dir",
    "feed_threads",
    "curves",
    "preview_every",
    "preview_images",
    "preview_count",
    "diagram",
    "tensorboard",
}
_MAX_SHOWN = 5
_LEFTOVERS = (".tiledseg-*.part", ".best.*.old", "checkpoints/.tiledseg-*.part")


def new_run_dir(runs_dir: PathLike) -> Path:
    """Create a folder for a run, named after the time."""
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    names = (stamp if number == 1 else f"{stamp}-{number}" for number in count(1))
    try:
        Path(runs_dir).mkdir(parents=True, exist_ok=True)
        return next(path for name in names if _created(path := Path(runs_dir).resolve() / name))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise invalid(
            FileError,
            str(runs_dir),
            must="be a folder that can be written",
            got=error,
            fix="Choose another `runs_dir`.",
        ) from error


def _created(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def remove_leftovers(run_dir: Path) -> None:
    """Remove the hidden files of a run that was killed while writing."""
    for pattern in _LEFTOVERS:
        for path in run_dir.glob(pattern):
            if is_folder(path):
                shutil.rmtree(path)
            else:
                path.unlink()


class History:
    """The values of each epoch, in ``history.csv`` and ``history.json``; neither is ever incomplete."""

    def __init__(self, folder: Path, columns: Mapping[str, list[float]] | None = None) -> None:
        self._folder = folder
        self.columns: dict[str, list[float]] = {
            name: list(values) for name, values in (columns or {}).items()
        }

    def add(self, epoch: int, values: Mapping[str, float]) -> None:
        """Add an epoch, counted from 1, and write both files again."""
        for name, value in {"epoch": epoch, **values}.items():
            self.columns.setdefault(name, []).append(value)
        rows = [",".join(str(value) for value in row) for row in zip(*self.columns.values(), strict=True)]
        write_text(self._folder / "history.csv", "\n".join([",".join(self.columns), *rows, ""]))
        write_text(self._folder / "history.json", json.dumps(self.columns, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Return the versions of all software that affects the numbers of a run."""
    return {
        "tiledseg": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "python": platform.python_version(),
    }


class RunRecord:
    """The data of a run, with digests, and the versions at its start."""

    def __init__(self, train: Sequence[Pair], valid: Sequence[Pair]) -> None:
        self.data = {"train": [_entry(pair) for pair in train], "valid": [_entry(pair) for pair in valid]}
        sizes = {pair.name: pixel_size_of_pair(pair) for pair in [*train, *valid]}
        self._sizes = {name: size and (size.y, size.x) for name, size in sizes.items()}

    def check_apart(self) -> None:
        """Check that no image is in both parts, under another name or as a copy."""
        known = {_content(entry): entry["name"] for entry in self.data["train"]}
        valid = {_content(entry): entry["name"] for entry in self.data["valid"]}
        both = [f"{name} is {known[one]}" for one, name in valid.items() if one in known]
        if both:
            must, got = "have no copy of an image of `train`", listed(both, _MAX_SHOWN)
            fix = "Remove it from one of the two."
            raise invalid(SettingError, "valid", must=must, got=got, fix=fix)

    @property
    def digest(self) -> str:
        """Digest of all names, pixels and labels, and of how masks are read, but not of paths."""
        content = [
            [part, {key: value for key, value in entry.items() if key != "files"}]
            for part, entries in self.data.items()
            for entry in entries
        ]
        return f"sha256:{hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"

    def write(self, run_dir: Path, settings: RunConfig) -> None:
        """Write the settings to ``run.toml``, and all else to ``run.json``."""
        write_text(run_dir / _SETTINGS, settings.to_toml())
        seed = settings.train.seed
        about = {"versions": versions(), "seed": seed, "data_digest": self.digest, "data": self.data}
        about["um_per_px"] = self._sizes  # height and width by image
        write_text(run_dir / _RECORD, json.dumps(about, indent=1) + "\n")

    def check(self, run_dir: Path) -> None:
        """Check that a run is resumed with the same data, and warn of other versions."""
        with _described(run_dir):
            self._compare(_read_record(run_dir))

    def _compare(self, before: dict[str, Any]) -> None:
        if before["data_digest"] != self.digest:
            must, fix = "be the pairs from the start of the run", "Restore them, or start a new run."
            got = "; ".join(_differences(before["data"], self.data)) or "the same in another order"
            raise invalid(SettingError, "train, valid", must=must, got=got, fix=fix)
        for name, version in versions().items():
            if before["versions"].get(name) != version:
                _log.warning(
                    "the run started with %s %s and is resumed with %s: its numbers may differ",
                    name,
                    before["versions"].get(name),
                    version,
                )


def recorded_pairs(run_dir: Path) -> tuple[list[Pair], list[Pair]]:
    """Return the pairs from the start of a run, if all of them are files."""
    with _described(run_dir):
        data = _read_record(run_dir)["data"]
        train, valid = ([_pair(entry) for entry in data[part]] for part in ("train", "valid"))
        return train, valid


def read_settings(run_dir: Path) -> TrainConfig:
    """Read the settings from the start of a run."""
    path = run_dir / _SETTINGS
    try:
        return RunConfig.from_toml(_text(path)).train
    except SettingError as error:
        raise SettingError(f"{named(path)}: {error}") from None


def fixed_settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that a resumed run may not change, by their dotted names."""
    return fixed(config.model_dump(mode="json"))


def fixed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out, of settings as JSON, those that may change; give the others by their dotted names."""
    return _flat({name: value for name, value in settings.items() if name not in _MAY_CHANGE})


def check_settings(before: dict[str, Any], now: dict[str, Any], what: str, fix: str) -> None:
    """Check that a run is resumed with the same settings, except those that may change."""
    differ = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if differ:
        lines = [f"`{name}` {before.get(name)} -> {now.get(name)}" for name in differ]
        got = f"other settings: {'; '.join(lines[:_MAX_SHOWN])}{'; …' if len(lines) > _MAX_SHOWN else ''}"
        raise invalid(SettingError, what, must="be that of the run to resume it", got=got, fix=fix)


def _flat(settings: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(settings, dict):
        return {path: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{path}.{name}" if path else name)
    return flat


def _differences(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Name the pairs that were changed, added or removed."""
    old, new = (
        {
            (part, entry["name"]): {**entry, "files": None}
            for part, entries in data.items()
            for entry in entries
        }
        for data in (before, now)
    )
    both = old.keys() & new.keys()
    changes = {
        "changed": [key for key in both if old[key] != new[key]],
        "added": new.keys() - both,
        "removed": old.keys() - both,
    }
    for how, keys in changes.items():
        if keys:
            yield f"{how}: {listed(sorted(shown(name) for _, name in keys), _MAX_SHOWN)}"


def _content(entry: dict[str, Any]) -> str:
    """Say which px of an image are read."""
    return json.dumps([entry[name] for name in ("image", "level", "channels", "at", "page")])


def _entry(pair: Pair) -> dict[str, Any]:
    entry: dict[str, Any] = {"files": {}}
    for field in fields(pair):
        value = getattr(pair, field.name)
        if field.name not in {"image", "mask"}:
            entry[field.name] = list(value) if isinstance(value, tuple) else value
        elif isinstance(value, np.ndarray):
            entry[field.name] = array_digest(value)
        else:
            paths = [_absolute(one) for one in (value if isinstance(value, tuple) else [value])]
            entry[field.name] = [content_digest(path) for path in paths]
            entry["files"][field.name] = paths if isinstance(value, tuple) else paths[0]
    return entry


def _absolute(path: PathLike) -> str:
    text = os.fsdecode(path)
    return text if is_remote(text) else str(Path(text).absolute())


def _pair(entry: dict[str, Any]) -> Pair:
    files = entry["files"]
    if files.keys() != {"image", "mask"}:
        raise SettingError(
            f"The run started with arrays, which its folder does not contain, for {shown(entry['name'])}. "
            "Pass `train` and `valid` to `resume` again."
        )
    own: dict[str, Any] = {name: value for name, value in entry.items() if name != "files"} | files
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
    return Pair(**own)


def _read_record(run_dir: Path) -> dict[str, Any]:
    record: dict[str, Any] = json_of(_text(run_dir / _RECORD), nan=True)
    return record


@contextmanager
def _described(run_dir: Path) -> Iterator[None]:
    """Turn the errors of a record that is none into one of its file."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        got, fix = f"{type(error).__name__}: {error}", "Restore it, or start a new run."
        name = named(run_dir / _RECORD)
        raise invalid(FileError, name, must="describe a run", got=got, fix=fix) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise invalid(
            FileError,
            str(path.parent),
            must=f"be the folder of a run, with {path.name}",
            got=getattr(error, "strerror", None) or str(error),
            fix="Give the folder of a run, for example runs/20260101-120000.",
        ) from None
