"""``tiledseg doctor``."""

from __future__ import annotations

import importlib.metadata as packages
import os
import platform
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

import tiledseg
from tiledseg import samples
from tiledseg._validate import counted
from tiledseg.cli import lazy
from tiledseg.cli.settings import Settings, with_options

if TYPE_CHECKING:
    from collections.abc import Iterable

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

_Test = Annotated[bool, Parameter(help="Segment and score a generated image with the included model.")]


@with_options(file=False)
def doctor(*, test: _Test = True, settings: Settings) -> int:
    """Check the installation."""
    report = {"versions": _versions((*_NEEDED, *_OPENCV)), "extras": _extras(), "machine": _machine()}
    problems = _problems()
    if test:
        report["test"], failures = _tested()
        problems += failures
    settings.say("".join(_lines(report)))
    settings.say("\n".join(f"problem: {text}" for text in problems) or "No problem found.")
    settings.give(**report, problems=problems)
    return 1 if problems else 0


def _versions(names: Iterable[str]) -> dict[str, str]:
    known = {"python": f"{platform.python_version()} on {platform.platform(terse=True)}"}
    return known | {name: found for name in names if (found := _version(name))}


def _version(name: str) -> str | None:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return None


def _extras() -> dict[str, str]:
    missing = "not installed; pip install 'tiledseg[{}]'"
    return {name: _version(name) or missing.format(extra) for name, extra in _OPTIONAL.items()}


def _machine() -> dict[str, str]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": f"{usable} of {os.cpu_count()}",
        "memory": f"{lazy.memory.available_memory() // _MIB} MiB free",
        "Keras backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
    }


def _problems() -> list[str]:
    """Say what is wrong with the installed packages."""
    double = [name for name in _OPENCV if _version(name)]
    problems = [
        f"{name} is not installed; install tiledseg again" for name in _NEEDED[1:] if not _version(name)
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


def _lines(report: dict[str, dict[str, Any]]) -> Iterable[str]:
    for title, facts in report.items():
        yield f"{title}\n"
        yield from (f"  {name:<24}{text}\n" for name, text in facts.items())
