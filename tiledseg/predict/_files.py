"""Many files through one network: each is written whole or reported, none stops the others."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tiledseg._extras import extra
from tiledseg._progress import progress_bar
from tiledseg._validate import instance_of, path_text, path_texts, settings_of, shown
from tiledseg._version import __version__
from tiledseg.config import PredictConfig, TilingConfig
from tiledseg.engine import Batcher, Network, SegmenterLike, n_devices, predictor_for
from tiledseg.errors import TiledSegError
from tiledseg.io import check_writable, find_images, locked, open_image
from tiledseg.predict._fingerprint import fingerprint_of
from tiledseg.predict._outcomes import FileOutcome, FilesResult
from tiledseg.predict._outputs import Tee, check_size, is_streamed, written_at_the_end
from tiledseg.predict._plan import lay_out
from tiledseg.predict._remote import resolved
from tiledseg.predict._resume import record_run
from tiledseg.predict._spread import check_client, spread
from tiledseg.predict._targets import FOLDERS, check_targets, targets_of
from tiledseg.predict._tiled import tiled_predict
from tiledseg.preprocess import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tiledseg._types import PathLike, Source
    from tiledseg.config import AutoThreshold, PreprocessingConfig, Product
    from tiledseg.io import ImageSource
    from tiledseg.predict._plan import Layout

__all__ = ["predict_files"]

_log = logging.getLogger("tiledseg")
_PX_OF_A_FILE = 1 << 22  # a guess, for whether converting the network pays


def predict_files(  # noqa: PLR0913  one call with the field's usual options
    model: object,
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    config: PredictConfig | None = None,
    *,
    tiling: TilingConfig | None = None,
    progress: bool = False,
    client: Any = None,  # noqa: ANN401  Dask has no types
) -> FilesResult:
    """Run a network over image files, and write masks, probabilities and overlays.

    Masks go to ``masks/NAME.png`` (0 and 255 for one class, labels for several), probabilities
    to ``probs/NAME.tif``, overlays to ``overlays/NAME.png`` below the output folder; images from
    folders inside a given folder keep their place. Each file stands whole under its name or not
    at all. With ``ome-tiff``, ``ome-zarr`` or ``npy`` as `mask_format` and `probs_format`, images
    are read and maps written region by region, in memory that does not grow with the image.

    Two images are under way at a time (one more than there are GPUs): while the network runs, the
    next image is read and the last one written, and tiles of both fill its batches up.

    Parameters
    ----------
    model : Segmenter, keras.Model, callable or BundleReference
        As for `tiled_predict`.
    inputs : path or sequence of path
        Images (PNG, JPEG, BMP, TIFF, zarr, .npy), and folders of them.
    output : path
        Folder to write to; made where it does not exist.
    config : PredictConfig, optional
        What is written, and how.
    tiling : TilingConfig, optional
        As for `tiled_predict`.
    progress : bool
        Whether to show a progress bar over the files.
    client : distributed.Client, optional
        Of a Dask cluster whose workers see the same files: each takes images as it is free, and
        loads the network once. `model` is then a `BundleReference`, or a callable that can be
        sent. A file whose worker dies is done again by another.

    Returns
    -------
    FilesResult
        What became of each file. An image that cannot be read or predicted, or that changed
        meanwhile, is reported here and does not stop the others.

    Raises
    ------
    FileError
        Before anything is computed: if there is no image, two images would be written under one
        name, an output stands already (see ``PredictConfig.existing``) or is one of the inputs,
        or the output folder cannot be written to, or another run writes to it.
    ModelError
        If `model` cannot be tiled.
    SettingError
        If an argument is of another type, or `model` cannot be sent to a cluster.
    """
    config = settings_of(PredictConfig, config, "config")
    if tiling is not None:
        instance_of(TilingConfig, tiling, "tiling")
    roots, folder = [Path(one) for one in path_texts(inputs, "inputs")], Path(path_text(output, "output"))
    files = find_images(roots, recursive=config.recursive)
    targets = {path: targets_of(path, roots, folder, config) for path in files}
    check_targets(targets, config)
    check_writable(folder, keep=False)
    model = _checked(model, config, tiling, client)
    with locked(folder):
        if config.resume:
            record_run(folder, model, targets, config, tiling)
        else:
            check_targets(targets, config)  # of a run that ended just now, for example
        for what in config.write:
            check_writable(folder / FOLDERS[what])
        with progress_bar(len(files), "images", shown=progress) as advance:
            if client is not None:
                return _spread(model, targets, config, tiling, client, advance)
            return _local(model, targets, config, tiling, advance)


def _checked(
    model: object,
    config: PredictConfig,
    tiling: TilingConfig | None,
    client: Any,  # noqa: ANN401  Dask has no types
) -> object:
    """Tell at once what cannot be had, or does not fit the network whatever the image."""
    formats = {"mask": config.mask_format, "probs": config.probs_format}
    if any(formats.get(what) == "ome-zarr" for what in config.write):
        extra("zarr", "zarr")
    if client is not None:
        check_client(client, model)
        return model
    model = resolved(model)
    Network.of(model, config.runtime).fastest(0)
    if getattr(tiling or getattr(model, "tiling", None), "tile_size", None) != "auto":
        lay_out(model, (1, 1), tiling)
    return model


def _local(
    model: object,
    targets: dict[Path, dict[Product, Path]],
    config: PredictConfig,
    tiling: TilingConfig | None,
    advance: Callable[[int], object],
) -> FilesResult:
    """Predict files in this process."""
    predictor = predictor_for(model)
    network = Network.of(model, config.runtime)
    packing = network.batcher(len(targets) * _PX_OF_A_FILE, config.batch_size, config.tta or network.tta)
    shared = _Shared.of(model, packing) if isinstance(model, SegmenterLike) else packing

    def outcome(path: Path) -> FileOutcome:
        return _outcome(model, shared, path, targets[path], config, tiling)

    outcomes = []
    with ThreadPoolExecutor(n_devices(predictor) + 1, "tiledseg-file") as pool:
        try:
            for done in [pool.submit(outcome, path) for path in targets]:
                outcomes.append(done.result())
                advance(1)
        finally:  # an interrupt ends the images under way and begins no others
            packing.close()
            pool.shutdown(wait=False, cancel_futures=True)
    return FilesResult(tuple(outcomes))


@dataclass(frozen=True, slots=True)
class _Shared:
    """A Segmenter whose network is shared by several images."""

    network: Batcher
    preprocessing: PreprocessingConfig
    labels: tuple[str, ...]
    threshold: float
    tiling: TilingConfig | None

    @classmethod
    def of(cls, segmenter: SegmenterLike, network: Batcher) -> _Shared:
        return cls(network, segmenter.preprocessing, segmenter.labels, segmenter.threshold, segmenter.tiling)


def _spread(
    model: object,
    targets: dict[Path, dict[Product, Path]],
    config: PredictConfig,
    tiling: TilingConfig | None,
    client: Any,  # noqa: ANN401  Dask has no types
    advance: Callable[[int], object],
) -> FilesResult:
    """Predict each file on one of a cluster's workers."""
    paths = [path.absolute() for path in targets]
    jobs = [
        (path.name, (path, {what: one.absolute() for what, one in products.items()}, config, tiling))
        for path, products in zip(paths, targets.values(), strict=True)
    ]
    outcomes: list[FileOutcome | None] = [None] * len(paths)
    for place, found in spread(client, _remote_outcome, jobs, model):
        outcomes[place] = FileOutcome(paths[place], {}, error=found) if isinstance(found, str) else found
        advance(1)
    return FilesResult(tuple(one for one in outcomes if one is not None))


def _remote_outcome(
    model: object,
    path: Path,
    targets: dict[Product, Path],
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> FileOutcome:
    """Predict a file on a worker, which loads the network once."""
    (outcome,) = _local(resolved(model), {path: targets}, config, tiling, lambda _steps: None).outcomes
    return outcome


def _outcome(
    model: object,
    shared: object,
    path: Path,
    targets: dict[Product, Path],
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> FileOutcome:
    skip = config.existing == "skip" or (config.resume and config.existing == "refuse")
    if skip and all(target.exists() for target in targets.values()):
        return FileOutcome(path, targets, skipped=True)
    started = time.perf_counter()
    written: dict[Product, Path] = {}
    try:
        with open_image(path, level=config.level, channels=config.channels) as image:
            check_size(image, targets, config)
            written |= _predicted(model, shared, image, targets, config, tiling)
    except Exception as error:  # noqa: BLE001  one file never ends the run for the others
        text = _reason(error)
        _log.warning("%s: %s", shown(str(path)), text)
        return FileOutcome(path, written, time.perf_counter() - started, text)
    return FileOutcome(path, targets, time.perf_counter() - started)


def _reason(error: Exception) -> str:
    """Say why a file failed; with the kind of an error that is not our own."""
    if isinstance(error, TiledSegError | MemoryError | OSError):
        return str(error) or type(error).__name__
    _log.debug("An unexpected error", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _predicted(
    model: object,
    shared: object,
    image: ImageSource,
    targets: dict[Product, Path],
    config: PredictConfig,
    tiling: TilingConfig | None,
) -> dict[Product, Path]:
    """Predict one image, and write what is streamed on the way and the rest at the end."""
    layout = lay_out(shared, image.shape, tiling, config.runtime.memory)
    threshold = _threshold(model, config)
    whole = not all(is_streamed(what, config) for what in targets)
    pixels = np.asarray(image) if whole else image
    tee = Tee(image, layout.predictor.classes or _found_classes(layout, pixels), threshold)
    provenance = {"software": f"tiledseg {__version__}", "image": image.name, "threshold": str(threshold)}
    provenance["tiling"] = layout.tiler.config.model_dump_json()
    fingerprint = fingerprint_of(model, image.identity, config, tiling) if config.resume else None
    with tee.open(targets, config, provenance, fingerprint):
        tiled_predict(
            shared,
            pixels,
            tiling,
            batch_size=config.batch_size,
            memory_budget=config.runtime.memory,
            mask="tissue" if config.tissue else None,
            out=tee,
        )
        image.check_unchanged()
    if tee.whole is None:
        return targets
    return written_at_the_end(targets, np.asarray(pixels), tee.whole, threshold, config)


def _found_classes(layout: Layout, image: Source) -> int:
    """Count the channels of a callable's output, by running it on one tile."""
    source = image if layout.preprocessing is None else prepare(image, layout.preprocessing)
    tile = next(layout.tiler.batches(source, 1, grid=layout.grid, ids=[0])).tiles
    return int(layout.predictor(tile).shape[3])


def _threshold(model: object, config: PredictConfig) -> float | AutoThreshold:
    if config.threshold is not None:
        return config.threshold
    return model.threshold if isinstance(model, SegmenterLike) else 0.5
