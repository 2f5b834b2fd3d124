"""``tiledseg export`` and ``tiledseg export-model``: objects and models for other programs."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from cyclopts import Parameter

import tiledseg
from tiledseg._progress import progress_bar
from tiledseg._storage import first_alike, new_folder
from tiledseg._validate import invalid, named
from tiledseg.cli.options import Table
from tiledseg.cli.settings import Settings, needed, with_options
from tiledseg.config import ExportConfig, PackageConfig
from tiledseg.errors import ArrayError, FileError, SettingError
from tiledseg.export import CocoWriter, GeoJsonWriter, RoiWriter, Style, pass_on
from tiledseg.io import (
    IGNORED,
    OF_EXPORT,
    MaskRules,
    find_images,
    level_scale_of,
    mask_of,
    mask_values,
    open_image,
    open_labels,
    stem_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tiledseg._types import AnyArray, Source
    from tiledseg.export import ObjectFile

_log = logging.getLogger("tiledseg")


@with_options(Table("export", ExportConfig(), "Export", without=("inputs",)))
def export(
    *inputs: Annotated[Path, Parameter(help="Mask files, folders, or patterns (masks/*.png).")],
    settings: Settings,
) -> int:
    """Write the objects of masks for other programs."""
    config = settings.over(settings.run.export, "export")
    files = inputs or tuple(map(Path, needed(config.inputs, "inputs", "export.inputs")))
    paths = find_images(files, recursive=config.recursive)
    _check_stems(paths)
    n_failed = n_objects = 0
    with ExitStack() as stack:
        folder = stack.enter_context(new_folder(needed(config.output, "--output", "export.output")))
        _check_spellings(folder, {stem_of(path): path for path in paths})
        coco = None
        if "coco" in config.write:
            style = _style(config, _scale_of_all(paths, config))
            coco = stack.enter_context(
                CocoWriter(folder / "coco.json", style, config.formats.coco_segmentation)
            )
        advance = stack.enter_context(progress_bar(len(paths), "masks", shown=settings.progress))
        for path in paths:
            try:
                with _opened(path, config) as (labels, instances):
                    some = config.changed(instances=instances)
                    n_objects += _export(path, labels, folder, some, coco)
            except (FileError, ArrayError) as error:
                n_failed += 1
                _log.warning("%s: %s", named(path), error)
            advance(1)
    settings.say(f"{n_objects} objects of {len(paths) - n_failed} masks, {n_failed} failed")
    settings.give(objects=n_objects, masks=len(paths) - n_failed, failed=n_failed)
    return 1 if n_failed else 0


def _style(config: ExportConfig, scale: tuple[float, float], image: str = "") -> Style:
    return Style.of(config.names, image, config.formats.tolerance, scale)


def _scale_of_all(paths: Sequence[Path], config: ExportConfig) -> tuple[float, float]:
    """Find the one scale of all masks: a file of COCO has no scale for each image."""
    scales = {_scale_of(path, config) for path in paths}
    if len(scales) > 1:
        must, fix = "be of one level for coco", "Export the masks of each level to a folder of its own."
        raise invalid(ArrayError, "masks", must=must, got=f"scales {sorted(scales)}", fix=fix)
    return scales.pop()


def _scale_of(path: Path, config: ExportConfig) -> tuple[float, float]:
    """Find how many px of level 0 of the image a px of a mask has, or of the level of it that is read."""
    if config.level_scale is not None:
        return config.level_scale
    down, across = level_scale_of(path)
    if not config.level:
        return down, across
    with open_image(path, **config.reading) as mask:
        return down * mask.level_scale[0], across * mask.level_scale[1]


def _export(path: Path, labels: Source, folder: Path, config: ExportConfig, coco: CocoWriter | None) -> int:
    """Write the objects of one mask; it is read once for all formats."""
    scale = _scale_of(path, config)
    style, name = _style(config, scale, path.name), stem_of(path)
    shape = (labels.shape[0], labels.shape[1])
    with ExitStack() as stack:
        writers: list[ObjectFile] = []
        if "geojson" in config.write:
            file = folder / "geojson" / f"{name}.geojson{'.gz' if config.formats.compress else ''}"
            writers.append(stack.enter_context(GeoJsonWriter(file, style, config.formats.object_type)))
        if "roi" in config.write:
            writers.append(stack.enter_context(RoiWriter(folder / "roi" / f"{name}.zip", style, shape)))
        if coco is not None:
            stack.enter_context(coco.image(path.name, shape))
            writers.append(coco)
        return pass_on(labels, writers, instances=config.instances, cell_px=config.cell_px)


def _check_stems(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if stem_of(path) in seen:
            raise _same_stem(path, seen[stem_of(path)])
        seen[stem_of(path)] = path


def _check_spellings(folder: Path, stems: dict[str, Path]) -> None:
    """Refuse stems that the file system of the output folder takes for one."""
    if (found := first_alike(folder, stems)) is not None:
        raise _same_stem(stems[found[1]], stems[found[0]])


def _same_stem(path: Path, other: Path) -> FileError:
    fix = "Rename one, or export them to different folders."
    return invalid(FileError, str(path), must="have a unique stem", got=f"the stem of {other}", fix=fix)


@contextmanager
def _opened(path: Path, config: ExportConfig) -> Iterator[tuple[Source, bool]]:
    """Open a mask, and say whether each label is an object; then it is read by region."""
    if not config.instances or config.ignore_label is not None:
        yield _labels(path, config)
        return
    with open_labels(path, palette=config.palette, **config.reading) as image:
        if len(image.shape) == 2 and image.dtype.kind in "biu":
            yield image, True
            image.check_unchanged()
            return
    yield _labels(path, config)  # real numbers that are whole, or three equal channels


def _labels(path: Path, config: ExportConfig) -> tuple[AnyArray, bool]:
    """Read a mask; px that do not count are background."""
    threshold = None if config.instances else config.mask_threshold
    values, lossy = mask_values(
        path, threshold, ignore_label=config.ignore_label, palette=config.palette, **config.reading
    )
    rules = MaskRules(
        threshold,
        "instances" if config.instances else "merged",
        ignore_label=config.ignore_label,
        advice=OF_EXPORT,
    )
    mask = mask_of(values, named(path), rules, lossy=lossy)
    _log.info("%s: %s", named(path), mask.found)
    labels = mask.labels if mask.cells is None else mask.cells
    if config.ignore_label is not None:
        labels = np.where(mask.labels == IGNORED, 0, labels)
    return labels, mask.cells is not None


_PACKAGE = Table(
    "package",
    PackageConfig(authors=("?",), license="?"),
    "Package of BioImage.IO",
    defaults=dict.fromkeys(("authors", "license"), "needed"),
)
_BUNDLE = (
    "Folder of a bundle, the name of an included bundle (demo), or the address of one on a hub "
    "(hf://owner/name)."
)


@with_options(_PACKAGE, file=False)
def export_model(
    model: Annotated[str, Parameter(help=_BUNDLE)],
    output: Annotated[Path, Parameter(help="The new file; for bioimageio a .zip or a folder.")],
    /,
    *,
    to: Annotated[Literal["onnx", "openvino", "bioimageio"], Parameter(help="Format.")] = "onnx",
    settings: Settings,
) -> int:
    """Write a model for other programs."""
    segmenter = tiledseg.load_model(model)
    if not isinstance(segmenter, tiledseg.Segmenter):
        fix = "Save it as a bundle first, with `Segmenter(...).save(folder)`."
        raise invalid(SettingError, model, must="be a bundle", got=type(segmenter).__name__, fix=fix)
    about = settings.given.get("package") if to == "bioimageio" else None
    written = segmenter.export(output, to, about)
    settings.say(written)
    settings.give(written=written, format=to)
    return 0
