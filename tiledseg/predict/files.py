"""Many files through one network: each is written whole or reported, none stops the others."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

import numpy as np

from tiledseg._lazy import extra
from tiledseg._progress import no_progress, progress_bar, whole_step
from tiledseg._storage import check_writable, exists, folder_lock
from tiledseg._validate import check_arguments, path_text, reason_of, settings_of, shown
from tiledseg._version import __version__
from tiledseg.config import OBJECT_PRODUCTS, PredictConfig, TilingConfig
from tiledseg.engine import Network
from tiledseg.io import (
    as_path,
    check_labels_writable,
    find_images,
    holds_labels,
    level_notes,
    open_image,
    path_texts,
)
from tiledseg.predict.dask import check_client, spread
from tiledseg.predict.plan import Plan, classes_of, make_plan
from tiledseg.predict.prediction import run_plan
from tiledseg.predict.products import (
    ProductSink,
    channels_in,
    check_size,
    cut_of,
    feed_file,
    is_streamed,
    needs_whole,
    object_writers,
    write_into_image,
    write_objects,
    written_at_the_end,
)
from tiledseg.predict.results import (
    RunRecord,
    check_folders,
    check_inputs,
    check_spellings,
    check_targets,
    fingerprint_of,
    format_of,
    targets_of,
)
from tiledseg.predict.roi import roi_of_file
from tiledseg.predict.segmentation import MapSink, class_names
from tiledseg.preprocess import blurred
from tiledseg.tiling import check_threshold

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tiledseg._progress import Advance
    from tiledseg._types import PathLike, Source
    from tiledseg.config import Product
    from tiledseg.io import ImageSource
    from tiledseg.tiling import Tile

_log = logging.getLogger("tiledseg")


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
        Whether its outputs existed already and were left as they are.
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
        """The files that were predicted, or skipped because their outputs existed already."""
        return tuple(one for one in self.outcomes if one.error is None)

    @property
    def failed(self) -> tuple[FileOutcome, ...]:
        """The files that could not be predicted."""
        return tuple(one for one in self.outcomes if one.error is not None)

    def __repr__(self) -> str:
        return f"FilesResult({str(self).splitlines()[0]})"

    def __str__(self) -> str:
        skipped = sum(one.skipped for one in self.outcomes)
        lines = [f"{len(self.done) - skipped} predicted, {skipped} skipped, {len(self.failed)} failed"]
        lines += [f"failed: {shown(str(one.path))}: {one.error}" for one in self.failed]
        return "\n".join(lines)


def predict_files(  # noqa: PLR0913  one call with the field's usual options
    model: object,
    inputs: PathLike | Sequence[PathLike],
    output: PathLike,
    config: PredictConfig | dict[str, Any] | None = None,
    *,
    tiling: TilingConfig | dict[str, Any] | None = None,
    progress: bool = False,
    client: Any = None,  # Dask has no types
    **unknown: Never,
) -> FilesResult:
    """Run a network over image files, and write masks, probabilities and overlays.

    Masks go to ``masks/NAME.png`` (0 and 255 for one class, labels for several), probabilities to
    ``probs/NAME.tif``, overlays to ``overlays/NAME.png`` below the output folder; images from folders inside
    a given folder keep their place. With ``objects`` in ``config.write``, ``counts.csv`` has the number of
    objects of each image. Each file stands whole under its name or not at all. While the network runs, the
    next image is read and the last one written. With ``ome-tiff``, ``ome-zarr`` or ``npy`` as `mask_format`
    and `probs_format`, images are read and maps written region by region, in memory that does not grow with
    the image.

    Parameters
    ----------
    model : Segmenter, keras.Model, PyTorch module, callable, BundleReference or path of an ONNX file
        As for `tiled_predict`.
    inputs : path or sequence of path
        Images (PNG, JPEG, BMP, TIFF, zarr, .npy), folders of them, and patterns such as ``images/*.tif``.
    output : path
        Folder to write to; made where it does not exist.
    config : PredictConfig or dict, optional
        What is written, and how.
    tiling : TilingConfig or dict, optional
        As for `tiled_predict`.
    progress : bool
        Whether to show a progress bar over the files.
    client : distributed.Client, optional
        Of a Dask cluster whose workers see the same files: each takes images as it is free, and loads the
        network once. `model` is then a `BundleReference`, or a callable that can be sent. A file whose
        worker dies is done again by another.
    **unknown : Never
        As for `tiled_predict`.

    Returns
    -------
    FilesResult
        What became of each file. An image that cannot be read or predicted, or that changed meanwhile, is
        reported here and does not stop the others.

    Raises
    ------
    FileError
        Before anything is computed: if there is no image, two images would be written under one name, an
        output exists already (see ``PredictConfig.existing``) or is one of the inputs, the inputs include
        results of earlier runs, the output folder cannot be written, or another run writes to it; with
        `resume` or ``existing="skip"`` also if results come from another model, image or setting.
    ModelError
        If `model` cannot be tiled.
    SettingError
        If an argument is of another type, or `model` cannot be sent to a cluster.
    """
    check_arguments(unknown, predict_files, config=PredictConfig, tiling=TilingConfig)
    config = settings_of(PredictConfig, config, "config")
    tiling = None if tiling is None else settings_of(TilingConfig, tiling, "tiling")
    roots, folder = [as_path(one) for one in path_texts(inputs, "inputs")], Path(path_text(output, "output"))
    files = find_images(roots, recursive=config.recursive)
    check_inputs(files, roots, folder, config)
    targets = {path: targets_of(path, roots, folder, config) for path in files}
    check_targets(targets, config)
    check_writable(folder, keep=False)
    _check_formats(targets, config)
    if client is None:
        model = _network_for(model, config, tiling)
    else:
        check_client(client, model)
    with folder_lock(folder):
        check_targets(targets, config)  # again: of a run that ended just now, for example
        check_folders(folder, targets, config)
        check_spellings(folder, targets)
        record = RunRecord(folder)
        record.begin(Network.of(model), targets, config, tiling)
        with progress_bar(len(files), "images", shown=progress) as advance:
            if client is not None:
                result = _spread(model, targets, config, tiling, client, advance)
                for one in filter(lambda one: not one.skipped, result.outcomes):
                    record.add(one.path, one.written)
            else:
                result = _local(model, targets, config, tiling, advance, record)
        record.save()
        record.write_counts(Network.of(model))
    return result


def _check_formats(images: Iterable[Path], config: PredictConfig) -> None:
    formats = {format_of(what, config) for what in config.write}
    needed = {"ome-zarr": ("zarr", "zarr"), "parquet": ("pyarrow", "table"), "roi": ("roifile", "roi")}
    for kind in sorted(formats & needed.keys()):
        extra(*needed[kind])
    label, again = config.into_image, config.existing == "skip" or config.resume
    for path in images:
        if label is not None and not (again and holds_labels(path, label)):
            check_labels_writable(path, label)


def _network_for(model: object, config: PredictConfig, tiling: TilingConfig | None) -> Network:
    """Refuse at once what is not available, or does not fit the network whatever the image."""
    network = Network.of(model, config.runtime)
    network.fastest()
    if isinstance(config.threshold, float):
        check_threshold(config.threshold, network.classes, stated=True)
    if getattr(tiling or network.tiling, "tile_size", None) != "auto":
        own = None if network.preprocessing is None else network.preprocessing.pixel_size
        make_plan(network, (1, 1), tiling, pixel_size=own)
    return network


def _local(
    model: object,
    targets: dict[Path, dict[Product, Path]],
    config: PredictConfig,
    tiling: TilingConfig | None,
    advance: Advance,
    record: RunRecord | None = None,
) -> FilesResult:
    """Predict files in this process, two at a time, or one more than there are devices."""
    network = Network.of(model, config.runtime)
    batcher = network.batcher(config.batch_size, config.tta or network.tta)
    run = _Run(network, network.shared(batcher), config, tiling)

    def outcome(path: Path) -> FileOutcome:
        with whole_step(advance) as part:
            done = run.outcome(path, targets[path], part)
        if record is not None:
            record.add(path, {} if done.skipped else done.written)
        return done

    with ThreadPoolExecutor(network.n_devices + 1, "tiledseg-file") as pool:
        try:
            outcomes = [done.result() for done in [pool.submit(outcome, path) for path in targets]]
        finally:  # an interrupt ends the images under way and begins no others
            batcher.close()
            pool.shutdown(wait=False, cancel_futures=True)
    return FilesResult(tuple(outcomes))


def _spread(
    model: object,
    targets: dict[Path, dict[Product, Path]],
    config: PredictConfig,
    tiling: TilingConfig | None,
    client: Any,  # Dask has no types
    advance: Advance,
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
    (outcome,) = _local(model, {path: targets}, config, tiling, no_progress).outcomes
    return outcome


@dataclass(frozen=True, slots=True)
class _Run:
    """A run over files."""

    network: Network
    shared: Network  # the same, for images that share its batches
    config: PredictConfig
    tiling: TilingConfig | None

    def outcome(self, path: Path, targets: dict[Product, Path], advance: Advance) -> FileOutcome:
        """Predict a file, and say what became of it."""
        config = self.config
        skip = config.existing == "skip" or (config.resume and config.existing == "refuse")
        started = time.perf_counter()
        written: dict[Product, Path] = {}
        try:
            if skip and all(exists(target) for target in targets.values()):
                write_into_image(path, targets, self.network, config, self.tiling)
                return FileOutcome(path, targets, skipped=True)
            with open_image(path, pixel_size=config.pixel_size, **config.reading) as image:
                check_size(image, targets, config)
                written |= self._predicted(image, targets, advance)
            write_into_image(path, targets, self.network, config, self.tiling)
        except Exception as error:  # noqa: BLE001  one file never ends the run for the others
            text = reason_of(error)
            _log.warning("%s: %s", shown(str(path)), text)
            return FileOutcome(path, written, time.perf_counter() - started, text)
        return FileOutcome(path, targets, time.perf_counter() - started)

    def _is_computed(self, targets: dict[Product, Path]) -> bool:
        """Say whether the maps of a run that is resumed are there, from which objects are made."""
        maps = [path for what, path in targets.items() if what not in OBJECT_PRODUCTS]
        resumed = self.config.resume and self.config.existing != "overwrite"
        return resumed and len(maps) < len(targets) and all(exists(path) for path in maps)

    def _predicted(
        self, image: ImageSource, targets: dict[Product, Path], advance: Advance
    ) -> dict[Product, Path]:
        """Predict one image, and write what is streamed on the way and the rest at the end."""
        network, config = self.network, self.config
        roi = roi_of_file(config.roi, Path(image.identity["path"]))
        plan = make_plan(self.shared, image, self.tiling, batch_size=config.batch_size, roi=roi)
        threshold: Any = config.threshold or network.threshold
        pixels = np.asarray(image) if any(needs_whole(what, config) for what in targets) else image
        computed = self._is_computed(targets)
        classes = channels_in(targets["probs"]) if computed else classes_of(plan, image.dtype)
        make = partial(MapSink, pixels, classes, settings=config.objects, pixel_size=image.pixel_size)
        objects, wanted = None, any(what in OBJECT_PRODUCTS for what in targets)
        if wanted and not config.resume and is_streamed("labels", config):
            objects = make(threshold=threshold)
        sink = ProductSink(image, classes, threshold, objects, stated=config.threshold is not None)
        with object_writers(targets, image, class_names(network, classes), config) as writers:
            if not computed:
                self._run(plan, image, pixels, sink, targets, advance)
            written = targets
            if sink.whole is not None:
                probs = blurred(sink.whole, config.blur) if config.blur else sink.whole
                written = written_at_the_end(targets, image, np.asarray(pixels), probs, threshold, config)
                if objects is None and wanted:
                    objects = make(threshold=cut_of(probs, threshold))
                    objects[0 : len(probs)] = probs
            elif objects is None and wanted:
                objects = make(threshold=threshold)
                feed_file(objects, targets["probs"])
            if objects is not None:
                write_objects(objects, targets, writers, image)
        return written

    def _run(
        self,
        plan: Plan,
        image: ImageSource,
        pixels: Source,
        sink: ProductSink,
        targets: dict[Product, Path],
        advance: Advance,
    ) -> None:
        """Run the network over an image."""
        config, fingerprint = self.config, None
        threshold = str(config.threshold or self.network.threshold)
        provenance = {"software": f"tiledseg {__version__}", "image": image.name, "threshold": threshold}
        provenance["tiling"] = plan.tiling.model_dump_json()
        provenance |= level_notes(image)
        if config.resume:
            fingerprint = fingerprint_of(self.network, image.identity, config, self.tiling)

        def tell(_tile: Tile, done: int, total: int) -> None:
            advance(1 / total, f"{Path(image.name).name}: tile {done} of {total}")

        with sink.open(targets, config, provenance, fingerprint):
            run_plan(plan, pixels if plan.level in {None, image.level} else image, sink, callback=tell)
            image.check_unchanged()
