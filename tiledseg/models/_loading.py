"""Reading a bundle, which executes nothing, and foreign files, which may."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tiledseg._backend import keras
from tiledseg._storage import sha256
from tiledseg._validate import did_you_mean, invalid
from tiledseg.config import PreprocessingConfig, TilingConfig
from tiledseg.errors import BundleError, SettingError
from tiledseg.models._format import CONFIG, FORMAT, KEYS, LARGEST_CONFIG, OPTIONAL, WEIGHTS, damaged
from tiledseg.models._segmenter import Segmenter
from tiledseg.models._weights import load_network
from tiledseg.models.architectures import builder_for
from tiledseg.models.shipped import shipped_or

if TYPE_CHECKING:
    from pathlib import Path

    from tiledseg._types import PathLike

__all__ = ["load_model"]

_FOREIGN = {
    **dict.fromkeys((".h5", ".hdf5"), "an HDF5 file, which can hold code"),
    **dict.fromkeys((".pkl", ".pickle", ".joblib", ".pt", ".pth"), "a pickle, which is code"),
    ".pb": "a SavedModel, which can hold code",
    ".safetensors": "weights without their settings",
}
_REBUILD = "If you trust it, copy its weights into a network of `build_model` and save that as a `Segmenter`."


def load_model(path: PathLike, *, trust: bool = False) -> Segmenter | keras.Model:
    """Load a segmenter from its bundle, or a network from a ``.keras`` file.

    Parameters
    ----------
    path : path
        A bundle's folder, a ``.keras`` file, or the name of a model that comes with the package:
        ``"demo"``, which finds the plasma cells of `tiledseg.samples`.
    trust : bool
        Whether a ``.keras`` file may be loaded. Keras checks such a file for code, but does not
        vouch for it. A bundle needs no trust: it is settings and arrays.

    Returns
    -------
    Segmenter or keras.Model
        A `Segmenter` from a bundle; a bare ``keras.Model``, not compiled, from a ``.keras`` file.

    Raises
    ------
    BundleError
        If there is nothing there, or what is there is damaged, foreign or not trusted.
    ModelError
        If Keras is set to a precision whose weights are not float32.
    """
    path = shipped_or(path)
    try:
        if path.is_dir():
            return _bundle(path)
        if not path.is_file():
            raise invalid(
                BundleError, str(path), must="be a bundle's folder", got="no such folder", fix=_where(path)
            )
    except (OSError, ValueError) as error:
        raise damaged(path, must="be a bundle that can be read", got=str(error)) from error
    if path.suffix.lower() != ".keras":
        raise invalid(
            BundleError,
            str(path),
            must="be a bundle's folder",
            got=_FOREIGN.get(path.suffix.lower(), "a file"),
            fix=_REBUILD,
        )
    return _keras_file(path, trust=trust)


def _keras_file(path: Path, *, trust: bool) -> keras.Model:
    if not trust:
        raise invalid(
            BundleError,
            str(path),
            must="be trusted, as any .keras file",
            got="trust=False",
            fix="Pass trust=True if you know where it comes from.",
        )
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file can make Keras raise anything
        raise invalid(
            BundleError,
            str(path),
            must="be a .keras file that Keras loads in its safe mode",
            got=f"{type(error).__name__}: {error}",
            fix=_REBUILD,
        ) from error


def _bundle(folder: Path) -> Segmenter:
    if not (folder / CONFIG).exists():
        kind = _FOREIGN[".pb"] if (folder / "saved_model.pb").exists() else f"a folder without {CONFIG}"
        raise invalid(BundleError, str(folder), must="be a bundle's folder", got=kind, fix=_REBUILD)
    entries = _entries(_regular(folder / CONFIG))
    weights = _regular(folder / WEIGHTS)
    try:
        settings = _settings(entries)
        digest = sha256(weights)
        if entries["weights_sha256"] != digest:
            raise damaged(weights, must=f"have the digest {entries['weights_sha256']}", got=digest)
        return Segmenter(network=load_network(settings["architecture"], weights), **settings)
    except SettingError as error:
        raise BundleError(f"{folder / CONFIG}: {error}") from None


def _settings(entries: dict[str, Any]) -> dict[str, Any]:
    """Make the parts of a segmenter, all but the network."""
    tiling, labels = entries["tiling"], entries["labels"]
    return {
        "architecture": builder_for(entries["architecture"]).config,
        "labels": tuple(labels) if isinstance(labels, list) else labels,
        "preprocessing": PreprocessingConfig.model_validate(entries["preprocessing"]),
        "threshold": entries["threshold"],
        "tiling": None if tiling is None else TilingConfig.model_validate(tiling),
        "views": entries.get("views"),
        "provenance": entries["provenance"],
    }


def _entries(path: Path) -> dict[str, Any]:
    """Read ``config.json`` and compare its format and its entries, not yet their values."""
    if path.stat().st_size > LARGEST_CONFIG:
        raise damaged(path, must=f"have at most {LARGEST_CONFIG} bytes", got=path.stat().st_size)
    try:
        entries = json.loads(path.read_bytes(), parse_constant=_refused, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise damaged(path, must="be JSON", got=str(error)) from None
    if not isinstance(entries, dict):
        raise damaged(path, must="be a mapping", got=type(entries).__name__)
    if entries.get("format") is True or entries.get("format") != FORMAT:
        raise invalid(
            BundleError,
            f"{path}: format",
            must=f"be {FORMAT}",
            got=entries.get("format"),
            fix="Load it with the version of tiledseg that it was saved with, or a later one.",
        )
    for key in sorted(KEYS ^ (entries.keys() - OPTIONAL)):
        raise invalid(
            BundleError,
            f"{path}: {key}",
            must="be there" if key in KEYS else "not be there",
            got="nothing" if key in KEYS else "an entry",
            fix=did_you_mean(key, KEYS),
        )
    return entries


def _refused(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"a key is given twice among {[key for key, _ in pairs]}")
    return dict(pairs)


def _regular(path: Path) -> Path:
    """Refuse pipes and devices, which reading could wait for without end."""
    if not path.is_file():
        raise damaged(path, must="be a file", got="something else" if path.exists() else "nothing")
    return path


def _where(path: Path) -> str:
    """Say how to get a bundle back that stepped aside for another one that never came."""
    aside = sorted(path.parent.glob(f".{path.name}.*.old")) if path.parent.is_dir() else []
    if aside:
        return f"Saving was interrupted; the earlier bundle is in {aside[-1]}: give it its name back."
    return "Check the path."
