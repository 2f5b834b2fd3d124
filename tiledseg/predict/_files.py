"""Many files through one network: each is written whole or reported, none stops the others."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tiledseg._checks import broken, settings_of, shown
from tiledseg._progress import progress_bar
from tiledseg._types import SegmenterLike
from tiledseg.config import PredictConfig
from tiledseg.engine import predictor_for
from tiledseg.errors import FileError, TiledSegError
from tiledseg.io import check_writable, find_images, read_image, write_image, write_mask, write_probs
from tiledseg.predict._tiled import tiled_predict
from tiledseg.render import overlay
from tiledseg.stitcher import labels_of

if TYPE_CHECKING:
    from tiledseg._types import AnyArray, FloatArray, PathLike
    from tiledseg.config import Product, TilingConfig

__all__ = ["FileOutcome", "FilesResult", "predict_files"]

_log = logging.getLogger("tiledseg")
_FOLDERS: dict[Product, str] = {"mask": "masks", "probs": "probs", "overlay": "overlays"}


@dataclass(frozen=True, slots=True)
class FileOutcome:
    """What became of one file.

    Attributes
    ----------
    path : Path
        The image.
    written : dict
        Path of each product written: ``mask``, ``probs``, ``overlay``.
    seconds : float
        Time from reading to writing.
    error : str or None
        Why not everything was written; None for success.
    skipped : bool
        Whether its outputs stood already and were left as they are.
    """

    path: Path
    written: dict[Product, Path]
    seconds: float = 0.0
    error: str | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class FilesResult:
    """What became of many files.

    Attributes
    ----------
    outcomes : tuple of FileOutcome
        One for each file, in order.
    """

    outcomes: tuple[FileOutcome, ...]

    @property
    def done(self) -> tuple[FileOutcome, ...]:
        """The files that were predicted, or skipped because their outputs stood already."""
        return tuple(one for one in self.outcomes if one.error is None)

    @property
    def failed(self) -> tuple[FileOutcome, ...]:
        """The files that could not be predicted."""
        return tuple(one for one in self.outcomes if one.error is not None)

    def __str__(self) -> str:
        skipped = sum(one.skipped for one in self.outcomes)
        lines = [f"{len(self.done) - skipped} predicted, {skipped} skipped, {len(self.failed)} failed"]
        lines += [f"failed: {shown(str(one.path))}: {one.error}" for one in self.failed]
        return "\n".join(lines)


def predict_files(
    model: object,
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    config: PredictConfig | None = None,
    *,
    tiling: TilingConfig | None = None,
    progress: bool = False,
) -> FilesResult:
    """Run a network over image files, and write masks, probabilities and overlays.

    Masks go to ``masks/NAME.png`` (0 and 255 for one class, labels for several), probabilities
    to ``probs/NAME.tif``, overlays to ``overlays/NAME.png`` below the output folder; images from
    folders inside a given folder keep their place. Each file stands whole under its name or not
    at all.

    Parameters
    ----------
    model : Segmenter, keras.Model or callable
        As for `tiled_predict`.
    inputs : path or sequence of path
        Image files (PNG, JPEG, BMP, TIFF), and folders of them.
    output : path
        Folder to write to; made where it does not exist.
    config : PredictConfig, optional
        What is written, and how.
    tiling : TilingConfig, optional
        As for `tiled_predict`.
    progress : bool
        Whether to show a progress bar over the files.

    Returns
    -------
    FilesResult
        What became of each file. An image that cannot be read or predicted is reported here and
        does not stop the others.

    Raises
    ------
    FileError
        Before anything is computed: if there is no image, two images would be written under one
        name, an output stands already (see ``PredictConfig.existing``) or is one of the inputs,
        or the output folder cannot be written to.
    ModelError
        If `model` cannot be tiled.
    """
    config = settings_of(PredictConfig, config, "config")
    roots = [Path(one) for one in _listed(inputs)]
    files = find_images(roots, recursive=config.recursive)
    targets = {path: _targets(path, roots, Path(output), config) for path in files}
    _check_targets(targets, config)
    predictor_for(model)
    for what in config.write:
        check_writable(Path(output) / _FOLDERS[what])
    outcomes = []
    with progress_bar(len(files), "images", shown=progress) as advance:
        for path in files:
            outcomes.append(_outcome(model, path, targets[path], config, tiling))
            advance(1)
    return FilesResult(tuple(outcomes))


def _listed(inputs: object) -> list[str | os.PathLike[str]]:
    paths = [inputs] if isinstance(inputs, str | os.PathLike) else inputs
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise broken(
            FileError,
            "inputs",
            must="be a path or a sequence of paths",
            got=inputs,
            fix="Pass str or pathlib.Path.",
        )
    return list(paths)


def _targets(path: Path, roots: list[Path], output: Path, config: PredictConfig) -> dict[Product, Path]:
    """Name the files to be written for an image."""
    root = next((root for root in roots if root.is_dir() and path.is_relative_to(root)), path.parent)
    place = path.relative_to(root).parent
    suffixes: dict[Product, str] = {
        "mask": ".png" if config.mask_format == "png" else ".tif",
        "probs": ".tif",
        "overlay": ".png",
    }
    return {what: output / _FOLDERS[what] / place / (path.stem + suffixes[what]) for what in config.write}


def _check_targets(targets: dict[Path, dict[Product, Path]], config: PredictConfig) -> None:
    inputs = {os.path.realpath(path) for path in targets}
    owner: dict[Path, Path] = {}
    standing = []
    for path, products in targets.items():
        for target in products.values():
            if target in owner:
                raise broken(
                    FileError,
                    str(path),
                    must="have a name of its own",
                    got=f"the output name of {shown(str(owner[target]))}",
                    fix="Rename one of them, or predict them into two folders.",
                )
            if os.path.realpath(target) in inputs:
                raise broken(
                    FileError,
                    str(target),
                    must="not overwrite an input",
                    got="an image of the same name there",
                    fix="Choose another output folder.",
                )
            owner[target] = path
            standing += [target] if os.path.lexists(target) else []
    if standing and config.existing == "refuse":
        raise broken(
            FileError,
            "output",
            must="not hold results already",
            got=f"{len(standing)} of them, the first {shown(str(standing[0]))}",
            fix="Set existing to skip or overwrite, or choose another folder.",
        )


def _outcome(
    model: object,
    path: Path,
    targets: dict[Product, Path],
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> FileOutcome:
    if config.existing == "skip" and all(target.is_file() for target in targets.values()):
        return FileOutcome(path, targets, skipped=True)
    started = time.perf_counter()
    written: dict[Product, Path] = {}
    try:
        image = read_image(path)
        probs = tiled_predict(
            model,
            image,
            tiling,
            batch_size=config.batch_size,
            memory_budget=config.memory_budget,
            engine=config.engine,
            precision=config.precision,
            views=config.views,
            mask="tissue" if config.tissue else None,
        )
        labels = labels_of(probs, _threshold(model, config))
        for what, target in targets.items():
            _write(what, target, image, probs, labels, config)
            written[what] = target
    except (TiledSegError, MemoryError, OSError) as error:
        text = str(error) or type(error).__name__
        _log.warning("%s: %s", shown(str(path)), text)
        return FileOutcome(path, written, time.perf_counter() - started, text)
    return FileOutcome(path, targets, time.perf_counter() - started)


def _threshold(model: object, config: PredictConfig) -> float:
    if config.threshold is not None:
        return config.threshold
    return model.threshold if isinstance(model, SegmenterLike) else 0.5


def _write(
    what: Product, target: Path, image: AnyArray, probs: FloatArray, labels: AnyArray, config: PredictConfig
) -> None:
    if what == "mask":
        write_mask(target, labels, foreground=255 if probs.shape[2] == 1 else None)
    elif what == "probs":
        write_probs(target, probs, dtype=config.probs_dtype)
    else:
        write_image(target, overlay(image, labels, limits=_limits(image)))


def _limits(image: AnyArray) -> tuple[float, float] | None:
    """Say which values an overlay shows as black and white: all that there are, where 8 bits are too few."""
    low, high = float(image.min()), float(image.max())
    return None if image.dtype == np.uint8 or low == high else (low, high)
