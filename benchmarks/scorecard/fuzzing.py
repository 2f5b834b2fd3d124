"""Coverage-guided fuzzing with atheris, of everything that reads what others wrote.

``python -m benchmarks.scorecard.fuzzing TARGET FOLDER SECONDS SEED`` fuzzes one target. Inputs that reached
new code stay in FOLDER/corpus, and one that fails becomes FOLDER/crash-....
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scorecard._rows import Figure, Trial, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGETS = ("image", "settings", "bundle", "checkpoint", "ini", "onnx", "geojson")
_ROOT = Path(__file__).resolve().parents[2]
_CORPUS = Path(__file__).with_name("corpus")
_SECONDS = 3600  # of processor time, for each target
_SUFFIXES = (".png", ".jpg", ".bmp", ".webp", ".tif", ".npy", ".svs", ".ome.tif")
_OPTIONS = (
    "-timeout=20",
    "-rss_limit_mb=4000",
    "-max_len=20000",
    "-print_final_stats=1",
    "-use_value_profile=1",
)


@row(11, "coverage-guided fuzzing of image reader, settings, bundle, checkpoint, INI, ONNX and GeoJSON")
def fuzzing(trial: Trial) -> Iterator[Figure]:
    """Give each target an hour, and count crashes, hangs and errors that are not typed."""
    if not find_spec("atheris"):
        raise RuntimeError("atheris is missing: pip install atheris")
    seconds = max(10, round(_SECONDS * trial.size))
    for target in TARGETS:
        folder = trial.folder / target
        corpus = folder / "corpus"
        corpus.mkdir(parents=True)
        for place, data in enumerate(_seeds(target)):
            (corpus / str(place)).write_bytes(data)
        if (_CORPUS / target).is_dir():
            shutil.copytree(_CORPUS / target, corpus, dirs_exist_ok=True)
        command = [sys.executable, "-m", "benchmarks.scorecard.fuzzing", target, folder, seconds, trial.seed]
        done = subprocess.run(
            list(map(str, command)), cwd=_ROOT, capture_output=True, check=False, timeout=seconds * 4 + 600
        )
        text = done.stderr.decode(errors="replace")
        runs = int((re.findall(r"number_of_executed_units: (\d+)", text) or ["0"])[0])
        last = [line for line in text.splitlines() if "Error" in line or "ERROR" in line][-1:]
        fault = () if done.returncode == 0 else (f"{last or text[-300:]}",)
        yield Figure(f"{target}: faults in {seconds} s, {runs:,} inputs", len(fault), most=0, faults=fault)


def _seeds(target: str) -> list[bytes]:
    """Return good inputs of a target, to start from."""
    if target == "image":
        from tests.fuzz_files import _seeds as good  # noqa: PLC0415  it loads tifffile

        files = [file for form, files in good().items() if form not in {"outlines", "zarr"} for file in files]
        return [bytes([_place(name)]) + data for name, data in files]
    if target == "geojson":
        from tests.fuzz_files import _coco, _geojson  # noqa: PLC0415

        return [_geojson(), _coco()]
    if target == "onnx":
        paths = sorted((_ROOT / "tests" / "networks").glob("*.onnx"), key=lambda path: path.stat().st_size)
        return [path.read_bytes() for path in paths[:3]]
    if target == "ini":
        return [
            b"[model]\nnum_layers = 6\nshow_summary = Flase\n[train]\nepochs = 3\n[mask]\nthreshold = 128\n"
        ]
    if target == "settings":
        from tiledseg.config import RunConfig  # noqa: PLC0415

        return [
            RunConfig().to_toml().encode()[:6000],
            b"[train]\nepochs = 3\n[train.network]\nname = 'unet'\n",
        ]
    return []  # made by the target itself


def _place(name: str) -> int:
    fitting = [place for place, suffix in enumerate(_SUFFIXES) if name.endswith(suffix)]
    return max(fitting, key=lambda place: len(_SUFFIXES[place]))


def _reader(target: str, folder: Path) -> Callable[[bytes], object]:
    """Return what reads an input as the library reads it."""
    if target == "settings":
        from tiledseg.config import RunConfig  # noqa: PLC0415

        return lambda data: RunConfig.from_toml(data.decode("utf-8", "replace"))
    if target == "ini":
        from tiledseg.config import import_founding  # noqa: PLC0415

        return lambda data: import_founding(data.decode("utf-8", "replace"))
    readers = {
        "image": _image,
        "bundle": _bundle,
        "checkpoint": _checkpoint,
        "onnx": _onnx,
        "geojson": _geojson_file,
    }
    return readers[target](folder)


def _image(folder: Path) -> Callable[[bytes], object]:
    from tiledseg.errors import TiledSegError  # noqa: PLC0415
    from tiledseg.io import open_image, read_image, read_mask  # noqa: PLC0415

    def region(path: Path) -> None:
        with open_image(path, alpha="keep") as image:
            _ = image[: image.shape[0] // 2 + 1, 1:40], image.levels, image.pixel_size

    def read(data: bytes) -> None:
        path = folder / f"a{_SUFFIXES[data[0] % len(_SUFFIXES)] if data else '.png'}"
        path.write_bytes(data[1:])
        for way in (read_image, region, read_mask):
            with contextlib.suppress(TiledSegError):
                way(path)

    return read


def _bundle(folder: Path) -> Callable[[bytes], object]:
    """Give a bundle other settings or another graph, with the right digests, as an attacker would."""
    from tiledseg.models import load_model, shipped_folder  # noqa: PLC0415

    good = folder / "good"
    shutil.copytree(shipped_folder("demo"), good)
    for place, name in enumerate(("config.json", "graph.json")):
        (folder / "corpus" / name).write_bytes(bytes([place]) + (good / name).read_bytes())

    def read(data: bytes) -> object:
        bundle = folder / "bundle"
        shutil.copytree(good, bundle, dirs_exist_ok=True)
        name = ("config.json", "graph.json")[data[0] % 2 if data else 0]
        (bundle / name).write_bytes(data[1:])
        with contextlib.suppress(ValueError, RecursionError, AttributeError, UnicodeDecodeError):
            config = json.loads((bundle / "config.json").read_bytes())
            config.pop("config_sha256", None)
            config["graph_sha256"] = hashlib.sha256((bundle / "graph.json").read_bytes()).hexdigest()
            (bundle / "config.json").write_text(json.dumps(config))
        return load_model(bundle)

    return read


def _checkpoint(folder: Path) -> Callable[[bytes], object]:
    """Seal what is drawn, so that reading goes on behind the seal."""
    import numpy as np  # noqa: PLC0415

    from tiledseg.train import checkpoint  # noqa: PLC0415  it loads TensorFlow

    path = folder / "epoch-000001.ckpt"
    facts = {"epoch": 1, "history": {"loss": [1.0]}}
    checkpoint._write(folder, 1, checkpoint.Checkpoint({"weights/0": np.ones((3, 2), np.float32)}, facts))
    start = len(checkpoint._SEAL.format("0" * 64))
    (folder / "corpus" / "good").write_bytes(path.read_bytes()[start:])

    def read(data: bytes) -> object:
        path.write_bytes(checkpoint._SEAL.format(hashlib.sha256(data).hexdigest()).encode() + data)
        return checkpoint.latest_checkpoint(folder)

    return read


def _onnx(folder: Path) -> Callable[[bytes], object]:
    from tiledseg.models import load_model  # noqa: PLC0415

    def read(data: bytes) -> object:
        (folder / "a.onnx").write_bytes(data)
        return load_model(folder / "a.onnx")

    return read


def _geojson_file(folder: Path) -> Callable[[bytes], object]:
    from tiledseg.io import read_outlines  # noqa: PLC0415

    def read(data: bytes) -> object:
        (folder / "a.geojson").write_bytes(data)
        return read_outlines(folder / "a.geojson", "a")

    return read


def main(target: str, place: str, seconds: str, seed: str) -> None:
    """Fuzz one target; end with an exit code other than 0 at the first fault."""
    import atheris  # noqa: PLC0415  Linux alone has it

    folder = Path(place)
    os.environ["EAGER_IMPORT"] = "1"  # what is loaded later would not be instrumented
    with atheris.instrument_imports(include=["tiledseg"], enable_loader_override=False):
        from tiledseg.errors import TiledSegError  # noqa: PLC0415

        read = _reader(target, folder)

    def once(data: bytes) -> None:
        with contextlib.suppress(TiledSegError):
            read(data)

    limits = [f"-max_total_time={seconds}", f"-seed={int(seed) + 1}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], str(folder / "corpus"), *limits, *_OPTIONS], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
