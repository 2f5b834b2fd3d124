"""What a run that can be resumed notes in its output folder: settings, model and images."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from tiledseg._validate import invalid, named, shown
from tiledseg.errors import FileError
from tiledseg.io import check_identity, state_of, write_text
from tiledseg.predict._fingerprint import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tiledseg.config import PredictConfig, Product, TilingConfig

__all__ = ["RECORD", "record_run"]

RECORD = ".tiledseg-resume.json"
"""Name of the file, in the output folder."""


def record_run(
    folder: Path,
    model: object,
    targets: Mapping[Path, Mapping[Product, Path]],
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> None:
    """Note what a run depends on; refuse results that are not of the same run."""
    path, run = folder / RECORD, fingerprint_of(model, {}, config, tiling)
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
            must="hold results of a run with resume alone",
            got=f"others, the first {shown(str(first))}",
            fix="Choose another folder, or set existing to skip or overwrite.",
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
