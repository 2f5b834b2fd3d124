"""Resuming a run over files: what its results depend on, and the record of it in the output folder."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tiledseg._storage import write_text
from tiledseg._validate import invalid, named, shown
from tiledseg._version import __version__
from tiledseg.engine import Network
from tiledseg.errors import FileError
from tiledseg.io import check_identity, state_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tiledseg.config import PredictConfig, Product, TilingConfig

_RECORD = ".tiledseg-resume.json"
_WITHOUT_EFFECT = {"batch_size", "recursive", "existing", "resume", "write"}


def fingerprint_of(
    network: Network, image: dict[str, Any], config: PredictConfig, tiling: TilingConfig | None
) -> dict[str, Any]:
    """Say what a prediction of a file depends on, one entry for each part."""
    settings = {key: value for key, value in config.model_dump().items() if key not in _WITHOUT_EFFECT}
    settings["runtime"] = {key: settings["runtime"][key] for key in ("engine", "precision", "activation")}
    parts: dict[str, Any] = {
        "model": network.digest,
        **{f"image {key}": value for key, value in image.items()},
    }
    parts |= settings | {"tiling": None if tiling is None else tiling.model_dump(), "tiledseg": __version__}
    if network.preprocessing is not None:
        parts["preprocessing"] = network.preprocessing.model_dump()
        parts["own tiling"] = None if network.tiling is None else network.tiling.model_dump()
        parts["own threshold"] = network.threshold
    readable: dict[str, Any] = json.loads(json.dumps(parts, default=str))
    return readable


def record_run(
    folder: Path,
    model: object,
    targets: Mapping[Path, Mapping[Product, Path]],
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> None:
    """Note what a run depends on; refuse results that are not of the same run."""
    path, run = folder / _RECORD, fingerprint_of(Network.of(model), {}, config, tiling)
    standing = {
        image: [target for target in products.values() if os.path.lexists(target)]
        for image, products in targets.items()
    }
    known = None if config.existing == "overwrite" else _read(path)
    if known is None and config.existing == "refuse" and any(standing.values()):
        first = next(found[0] for found in standing.values() if found)
        raise invalid(
            FileError,
            "output",
            must="hold only results of runs with resume",
            got=f"others, the first {shown(str(first))}",
            fix='Choose another folder, or set existing="skip" or existing="overwrite".',
        )
    images: dict[str, Any] = {} if known is None else known["images"]
    if known is not None:
        check_identity(named(str(folder)), known["run"], run)
    for image, found in standing.items():
        state, name = _state(image), os.path.relpath(image, folder)
        if found and config.existing == "refuse" and images.get(name) != state:
            raise invalid(
                FileError,
                named(str(image)),
                must="be as it was when its result was written",
                got="another image, or one that changed since",
                fix=f"Delete {shown(str(found[0]))} to predict it again.",
            )
        images[name] = state
    write_text(path, json.dumps({"run": run, "images": images}))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return record if {"run", "images"} <= set(record) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        fix = "Delete it, and the results beside it, to begin anew."
        raise invalid(FileError, named(str(path)), must="be readable", got=str(error), fix=fix) from error


def _state(image: Path) -> list[int]:
    """Tell an image from what it may become; an unreadable one fails later, by itself."""
    try:
        return state_of(str(image))
    except OSError:
        return []
