"""``tiledseg info`` and ``tiledseg doctor``: what is in files, and what is installed."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

import tiledseg
from tiledseg import samples
from tiledseg._lazy import version_of
from tiledseg._memory import available_memory
from tiledseg._storage import is_file
from tiledseg._validate import counted, invalid
from tiledseg.cli import lazy
from tiledseg.cli.settings import Settings, with_options
from tiledseg.errors import SettingError, TiledSegError
from tiledseg.tiling import sides_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_MODELS = {".onnx", ".keras", ".zip", ".yaml", ".yml"}
_FILES = ("config.json", "rdf.yaml")  # in the folder of a model

_NEEDED = (
    "tiledseg",
    "keras",
    "tensorflow",
    "numpy",
    *(() if platform.machine() == "aarch64" else ("openvino",)),
    "opencv-python-headless",
    "pydantic",
    "tifffile",
    "pillow",
)
_OPTIONAL = {  # library: the extra that installs it
    "onnxruntime": "onnx",
    "zarr": "zarr",
    "dask": "dask",
    "matplotlib": "plot",
    "imagecodecs": "codecs",
    "openslide-python": "slides",
    "roifile": "roi",
    "pyarrow": "table",
}
_OPENCV = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
_SIDE, _LEAST_DICE, _MIB = 1024, 0.5, 1 << 20

_Paths = Annotated[str, Parameter(help="Image files, bundles, ONNX files, packages, or names of models.")]
_Test = Annotated[bool, Parameter(help="Segment and score a generated image with the included model.")]


@with_options(file=False)
def info(*paths: _Paths, settings: Settings) -> int:
    """Say what is in files."""
    if not paths:
        fix = "Name files: tiledseg info slide.svs bundle/"
        raise invalid(SettingError, "paths", must="name at least one file", got="none", fix=fix)
    found, failed = {}, False
    for path in paths:
        try:
            found[path] = _of_model(path) if _is_model(path) else _of_image(path)
        except TiledSegError as error:
            found[path], failed = {"error": str(error)}, True
    settings.say(_text(found))
    settings.give(**found)
    return int(failed)


def _is_model(path: str) -> bool:
    """Tell a model from an image by its name, or by what its folder holds."""
    place = Path(path)
    if path == "demo" or path.startswith("hf://") or place.suffix.lower() in _MODELS:
        return True
    return any(is_file(place / name) for name in _FILES)


def _of_image(path: str) -> dict[str, str]:
    with tiledseg.open_image(path) as image:
        return image.facts()


def _of_model(path: str) -> dict[str, str]:
    """Say what a model is, its stride, and how far its outputs see."""
    model = tiledseg.load_model(path)
    network = lazy.engine.Network.of(model)
    rows = model.facts() if isinstance(model, tiledseg.Segmenter) else {"input channels": network.channels}
    field, halo = network.receptive_field.extent, network.receptive_field.halo
    more = {
        "classes": network.classes,
        "stride": " x ".join(map(str, network.stride)) + " px",
        "receptive field": "not known" if field is None else sides_of(field),
        "halo": "not known" if halo is None else sides_of(halo),
    }
    return {name: str(value) for name, value in {**rows, **more}.items()}


@with_options(file=False)
def doctor(*, test: _Test = True, settings: Settings) -> int:
    """Check the installation."""
    report = {"versions": _versions((*_NEEDED, *_OPENCV)), "extras": _extras(), "machine": _machine()}
    problems = _problems()
    if test:
        report["test"], failures = _tested()
        problems += failures
    settings.say(_text(report))
    settings.say("\n".join(f"problem: {text}" for text in problems) or "No problem found.")
    settings.give(**report, problems=problems)
    return 1 if problems else 0


def _versions(names: Iterable[str]) -> dict[str, str]:
    known = {"python": f"{platform.python_version()} on {platform.platform(terse=True)}"}
    return known | {name: found for name in names if (found := version_of(name))}


def _extras() -> dict[str, str]:
    missing = "not installed; pip install 'tiledseg[{}]'"
    return {name: version_of(name) or missing.format(extra) for name, extra in _OPTIONAL.items()}


def _machine() -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": f"{usable} of {os.cpu_count()}",
        "memory": f"{available_memory() // _MIB} MiB free",
        "Keras backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
    }


def _problems() -> list[str]:
    """Say what is wrong with the installed packages."""
    double = [name for name in _OPENCV if version_of(name)]
    problems = [
        f"{name} is not installed; install tiledseg again" for name in _NEEDED[1:] if not version_of(name)
    ]
    if len(double) > 1:
        problems.append(
            f"{' and '.join(double)} are both installed and write the same files; "
            f"pip uninstall -y {' '.join(double)}, then pip install {double[0]}"
        )
    return problems


def _tested() -> tuple[dict[str, str], list[str]]:
    """Segment a generated image, and compare it with the truth."""
    truth = samples.smear(_SIDE, _SIDE, seed=0)
    model = tiledseg.load_model("demo")
    plan = tiledseg.plan(model, truth.image)
    tiledseg.tiled_predict(
        model, truth.image[:256, :256], output="mask"
    )  # an engine compiles at its first call
    started = time.perf_counter()
    mask = tiledseg.tiled_predict(model, truth.image, output="mask")
    seconds = time.perf_counter() - started
    found, wanted = mask > 0, truth.mask > 0
    dice = 2 * int((found & wanted).sum()) / max(1, int(found.sum() + wanted.sum()))
    facts = {
        "image": f"{_SIDE} x {_SIDE} px, {counted(plan.n_tiles, 'tile')}, {plan.verdict}",
        "dice": f"{dice:.3f}",
        "speed": f"{_SIDE * _SIDE / 1e6 / seconds:.2f} Mpx/s",
    }
    wrong = f"the included model has a Dice of {dice:.3f} on a generated image, and should have {_LEAST_DICE}"
    return facts, [] if dice >= _LEAST_DICE else [wrong]


def _text(found: Mapping[str, Mapping[str, str]]) -> str:
    """Write each thing with its facts below it."""
    width = max(len(name) for rows in found.values() for name in rows)
    parts = [
        "\n".join([path, *(f"  {name:<{width}}  {value}" for name, value in rows.items())])
        for path, rows in found.items()
    ]
    return "\n\n".join(parts)
