"""``tiledseg predict`` and ``tiledseg plan``."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from cyclopts import Parameter

import tiledseg
from tiledseg import models
from tiledseg._memory import share_freed_memory
from tiledseg._storage import check_writable, exists, is_file, is_folder
from tiledseg._validate import invalid, named
from tiledseg.cli import lazy
from tiledseg.cli.options import Table, merged
from tiledseg.cli.settings import Settings, needed, with_options
from tiledseg.config import PredictConfig, PredictJobConfig, TilingConfig
from tiledseg.errors import BundleError, SettingError

if TYPE_CHECKING:
    from tiledseg.predict import FileOutcome, Plan

_FILE_PX = {"overlay": 14, "coloured": 8, "mask": 3, "probs": 4}  # bytes per px of files made of a whole map
_SHAPE = re.compile(r"(\d+)x(\d+)(?:x(\d+))?")
TILING = Table(
    "tiling", TilingConfig(), "Tiling", defaults=dict.fromkeys(TilingConfig.model_fields, "the model's own")
)

MODEL_HELP = (
    "Folder of a bundle, the name of an included bundle (demo), the address of one on a hub "
    "(hf://owner/name@revision), an .onnx file, or a .keras file with --trust."
)
ModelPath: TypeAlias = Annotated[str, Parameter(help=MODEL_HELP)]
OptionalModel: TypeAlias = Annotated[str | None, Parameter(help=MODEL_HELP, negative_none=())]
Trust: TypeAlias = Annotated[
    bool,
    Parameter(
        help="Load a .keras file; use it only if you know its author.", negative=(), show_default=False
    ),
]


_PLANNED = (
    "level",
    "channels",
    "at",
    "page",
    "alpha",
    "write",
    "mask_format",
    "labels_format",
    "probs_format",
    "probs_dtype",
    "blur",
    "pixel_size",
    "batch_size",
    "tta",
    "runtime",
)


def check_model(model: str, *, trust: bool) -> None:
    """Check a model's path without Keras, which takes seconds to load."""
    path = models.model_path(model)
    if not exists(path):
        must, fix = "be a bundle's folder", models.missing_fix(path)
        raise invalid(BundleError, str(path), must=must, got="no such folder", fix=fix)
    if is_file(path) and path.suffix.lower() == ".keras" and not trust:
        raise BundleError(
            f"`{named(path)}` is a .keras file, which can run code when it is loaded. "
            "Add --trust if you know its author."
        )


def check_tiling(model: str, settings: Settings, base: TilingConfig | None) -> None:
    """Check tiling options against a bundle's tiling, without Keras."""
    given, path = settings.given.get("tiling"), models.model_path(model)
    if given and base is not None:
        merged(base, given)
    elif given and is_folder(path):
        try:
            tiling = TilingConfig.model_validate(models.read_config(path)["tiling"])
        except (OSError, BundleError, SettingError):  # loading reports the error
            return
        merged(tiling, given)


def channels_of(model: object) -> int:
    """Return the number of channels of a model's images."""
    network = lazy.engine.Network.of(model)
    return network.preprocessing.channels if network.preprocessing else network.channels or 1


def tiling_for(model: object, settings: Settings, base: TilingConfig | None = None) -> TilingConfig | None:
    """Apply the given tiling options to the tiling that is used without them."""
    given = settings.given.get("tiling")
    if not given:
        return base
    preprocessing = lazy.engine.Network.of(model).preprocessing
    size = None if preprocessing is None else preprocessing.pixel_size
    own = base or tiledseg.plan(model, (1, 1, channels_of(model)), pixel_size=size).tiling
    return merged(own, given)


@with_options(
    Table("predict", PredictJobConfig(), "Prediction", without=("model", "inputs", "tiling")), TILING
)
def predict(
    model: OptionalModel = None,
    /,
    *inputs: Annotated[str, Parameter(help="Image files, folders, patterns (images/*.tif), or addresses.")],
    settings: Settings,
) -> int:
    """Segment image files."""
    config = settings.over(settings.own("predict", PredictJobConfig()), "predict")
    name = model or needed(config.model, "model", "predict.model")
    files = inputs or needed(config.inputs, "inputs", "predict.inputs")
    output = Path(needed(config.output, "--output", "predict.output"))
    check_model(name, trust=config.trust)
    check_tiling(name, settings, config.tiling)
    lazy.io.find_images(files, recursive=config.recursive)
    check_writable(output, keep=False)
    share_freed_memory()
    segmenter = tiledseg.load_model(name, trust=config.trust)
    tiling = tiling_for(segmenter, settings, config.tiling)
    result = tiledseg.predict_files(
        segmenter, files, output, config, tiling=tiling, progress=settings.progress
    )
    done = config.changed(model=_text(name), inputs=tuple(map(_text, files)), tiling=tiling)
    settings.keep(output, predict=done, tiling=None)
    settings.say(f"{str(result).splitlines()[0]}; results in {output}")
    settings.give(files=[_of_file(one) for one in result.outcomes], output=output)
    return 1 if result.failed else 0


def _of_file(one: FileOutcome) -> dict[str, object]:
    """Say for programs what became of a file."""
    written = {product: str(path) for product, path in one.written.items()}
    facts = {"image": str(one.path), "written": written, "seconds": one.seconds}
    return {**facts, "skipped": one.skipped, "error": one.error}


def _text(path: Path | str) -> str:
    """Write a path as UTF-8; other bytes are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


@with_options(Table("predict", PredictConfig(), "Prediction", only=_PLANNED), TILING)
def plan(
    model: ModelPath,
    image: Annotated[str, Parameter(help="An image file, or height and width in px, for example 1920x2560.")],
    /,
    *,
    trust: Trust = False,
    settings: Settings,
) -> int:
    """Show how an image would be predicted."""
    config = settings.over(settings.own("predict", PredictJobConfig()), "predict")
    check_model(model, trust=trust)
    check_tiling(model, settings, config.tiling)
    shape, sample_bytes = _shape(image, config)
    segmenter = tiledseg.load_model(model, trust=trust)
    if len(shape) == 2 and _SHAPE.fullmatch(image):
        shape = (*shape, channels_of(segmenter))
    tiling = tiling_for(segmenter, settings, config.tiling)
    options: dict[str, Any] = {name: getattr(config, name) for name in ("batch_size", "tta", "runtime")}
    if _SHAPE.fullmatch(image):
        plan = tiledseg.plan(segmenter, shape, tiling, pixel_size=config.pixel_size, **options)
    else:
        with lazy.io.open_image(image, pixel_size=config.pixel_size, **config.reading) as source:
            plan = tiledseg.plan(segmenter, source, tiling, **options)
    plan = _as_files(plan, config, sample_bytes)
    settings.say(plan)
    settings.give(**_of_plan(plan))
    return 0


def _of_plan(plan: Plan) -> dict[str, object]:
    """Say for programs what is planned; sizes are (height, width) in px, memory is in bytes."""
    grid = plan.grid
    overlap = (grid.y.overlap, grid.x.overlap)
    tiles = {"tiles": plan.n_tiles, "tile": grid.tile_shape, "overlap": overlap, "blend": grid.blend}
    work = {"redundancy": grid.redundancy, "batch_size": plan.batch_size, "calls": plan.calls}
    sizes = {"classes": plan.classes, "memory": plan.memory, "peak": sum(plan.memory.values())}
    verdict = {"verdict": plan.verdict, "reason": plan.reason}
    return {"image": plan.shape, "scale": plan.scale, **tiles, **work, **sizes, **verdict}


def _shape(image: str, config: PredictConfig) -> tuple[tuple[int, ...], int]:
    """Read a shape, or that of a file, and the bytes of a sample."""
    sizes = _SHAPE.fullmatch(image)
    if sizes is None and re.fullmatch(r"[\dx]+", image) and not exists(Path(image)):
        must, fix = "be an image file, or height and width in px", "Write them as in 1920x2560."
        raise invalid(SettingError, "image", must=must, got=image, fix=fix)
    if sizes is None:
        with lazy.io.open_image(image, **config.reading) as source:
            return source.shape, source.dtype.itemsize
    if exists(Path(image)):
        raise invalid(
            SettingError,
            image,
            must="be a shape or a file, not both",
            got="a shape that is also a file name",
            fix=f"Write ./{image} for the file, or run the command in another folder for the shape.",
        )
    return tuple(int(size) for size in sizes.groups() if size is not None), 1


def _as_files(plan: Plan, config: PredictConfig, sample_bytes: int) -> Plan:
    """Plan for the files that `predict_files` writes, of an image whose samples take so many bytes."""
    whole = [what for what in config.write if lazy.predict.needs_whole(what, config)]
    if whole:
        largest = max(_FILE_PX.get(what, 0) for what in whole) * math.prod(plan.shape)
        image = math.prod(plan.shape) * (plan.channels or 1) * sample_bytes
        size = max(image, plan.source_bytes)
        return replace(plan, output="probabilities", source_bytes=size, files_bytes=largest)
    return replace(plan, output="mask" if set(config.write) == {"mask"} else "probabilities", streamed=True)
