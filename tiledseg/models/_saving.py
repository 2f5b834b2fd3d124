"""Writing a bundle: whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tiledseg._backend import keras
from tiledseg._storage import new_folder, sha256, sync_file, write_bytes
from tiledseg._validate import invalid, path_text
from tiledseg._version import __version__
from tiledseg.engine import SegmenterLike
from tiledseg.errors import FileError, SettingError
from tiledseg.models._card import card
from tiledseg.models._format import CARD, CONFIG, FILES, FORMAT, LARGEST_CONFIG, WEIGHTS
from tiledseg.models._weights import weights_of, write_weights

if TYPE_CHECKING:
    from tiledseg._types import FloatArray, PathLike
    from tiledseg.models._segmenter import Segmenter

__all__ = ["save_bundle"]


def save_bundle(segmenter: Segmenter, folder: PathLike, *, overwrite: bool = False) -> Path:
    """Write a segmenter as a folder of ``config.json``, ``model.safetensors`` and ``README.md``.

    The files are written to a hidden folder beside the target, which then takes the target's
    name. A save that is killed leaves that folder, ``.tiledseg-*.part``, and the target as it
    was; killed while it replaces a bundle, it may leave the earlier one under the hidden name
    ``.NAME.*.old``.

    Parameters
    ----------
    segmenter : Segmenter
        What to save.
    folder : path
        The new folder; the folders above it are made.
    overwrite : bool
        Whether to replace a bundle that is there already. A folder that holds anything else is
        never replaced.

    Returns
    -------
    Path
        The bundle's absolute path.

    Raises
    ------
    FileError
        If `folder` is no path, exists and may not be replaced, or cannot be written.
    ModelError
        If a weight is not finite, or the architecture would rebuild another network.
    SettingError
        If `segmenter` is none, or the settings and the provenance together are larger than 1 MB.
    """
    if not isinstance(segmenter, SegmenterLike):
        got, fix = type(segmenter).__name__, "Make one with tiledseg.Segmenter."
        raise invalid(SettingError, "segmenter", must="be a Segmenter", got=got, fix=fix)
    try:
        target = Path(path_text(folder, "folder")).resolve()
        _check_target(target, overwrite=overwrite)
        weights = weights_of(segmenter.network, segmenter.architecture)
        target.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(target, replace=FILES if overwrite else ()) as partial:
            _fill(partial, segmenter, weights)
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, say
        raise invalid(
            FileError,
            str(folder),
            must="be a folder that can be written",
            got=str(error),
            fix="Choose another folder, or free some space.",
        ) from error
    return target


def _check_target(target: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise invalid(
            FileError,
            str(target),
            must="not exist yet",
            got="an existing path",
            fix="Choose another name, or pass overwrite=True to replace the bundle there.",
        )
    if not target.is_dir() or not {path.name for path in target.iterdir()} <= FILES:
        raise invalid(
            FileError,
            str(target),
            must="be a bundle and hold nothing else to be replaced",
            got="other files",
            fix="Choose another name, or move the other files away.",
        )


def _fill(partial: Path, segmenter: Segmenter, weights: dict[str, FloatArray]) -> None:
    write_weights(weights, partial / WEIGHTS)
    text = _config(segmenter, sha256(partial / WEIGHTS))
    if len(text) > LARGEST_CONFIG:
        raise invalid(
            SettingError,
            "provenance",
            must=f"keep {CONFIG} under {LARGEST_CONFIG} bytes",
            got=len(text),
            fix="Shorten it.",
        )
    write_bytes(partial / CONFIG, text)
    write_bytes(partial / CARD, card(segmenter).encode())
    shutil.copymode(partial / CONFIG, partial / WEIGHTS)  # safetensors makes it private to its owner
    sync_file(partial / WEIGHTS)


def _config(segmenter: Segmenter, digest: str) -> bytes:
    tiling = segmenter.tiling
    entries = {
        "format": FORMAT,
        "architecture": segmenter.architecture.told(),
        "labels": segmenter.labels,
        "preprocessing": segmenter.preprocessing.model_dump(mode="json"),
        "threshold": segmenter.threshold,
        "tiling": None if tiling is None else tiling.model_dump(mode="json"),
        **({} if segmenter.views is None else {"views": segmenter.views}),
        "provenance": segmenter.provenance,
        "written_with": {"tiledseg": __version__, "keras": keras.__version__},
        "weights_sha256": digest,
    }
    return json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False).encode()
