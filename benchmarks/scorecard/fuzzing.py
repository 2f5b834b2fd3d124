"""Coverage-guided fuzzing with atheris, of everything that reads what others wrote.

The row gives each target its turn, some minutes of processor time at once, until each has had its hour.
It can be stopped at any moment and started again, also several times at once: ``results/fuzzing/TARGET``
keeps the inputs that reached new code (``corpus``), the processor time so far (``spent.json``), and an input
that fails (``crash-...``), which is tried again first.
``python -m benchmarks.scorecard.fuzzing TARGET FOLDER SECONDS SEED`` gives one target one turn.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from benchmarks.scorecard._rows import Figure, Trial, row

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGETS = ("image", "settings", "bundle", "checkpoint", "ini", "onnx", "geojson")
_ROOT = Path(__file__).resolve().parents[2]
_CORPUS = Path(__file__).with_name("corpus")
_FOLDER = Path(__file__).with_name("results") / "fuzzing"
_SECONDS = 3600  # of processor time, for each target
_TURN = 300  # of them at once
_SLOWEST = (
    20  # of processor time for one input; the limit below counts time on the clock, also of other processes
)
_SUFFIXES = (".png", ".jpg", ".bmp", ".webp", ".tif", ".npy", ".svs", ".ome.tif")
_OPTIONS = (
    "-timeout=600",
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
    folders = {target: _FOLDER / target for target in TARGETS}
    faults: dict[str, str] = {}
    for target, folder in folders.items():
        _prepare(target, folder)
    while left := [one for one in TARGETS if one not in faults and _spent(folders[one])[0] < seconds]:
        for target in left:
            with (folders[target] / "busy").open("a") as busy:
                if not _held(busy):  # by another process that runs this row
                    time.sleep(1)
                    continue
                turn = min(_TURN, seconds - _spent(folders[target])[0])
                fault = _turn(target, folders[target], turn, trial.seed) if turn > 0 else ""
                faults |= {target: fault} if fault else {}
    for target, folder in folders.items():
        spent, inputs = _spent(folder)
        fault = (faults[target],) if target in faults else ()
        yield Figure(
            f"{target}: faults in {spent:.0f} s, {inputs:,} inputs", len(fault), most=0, faults=fault
        )
        yield Figure(f"{target}: seconds of processor time", round(spent), least=seconds)


def _held(busy: IO[str]) -> bool:
    """Hold a target, unless another process does."""
    import fcntl  # noqa: PLC0415  Linux alone has atheris

    try:
        fcntl.flock(busy, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _prepare(target: str, folder: Path) -> None:
    """Lay out what fuzzing starts from, and what failed before."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for place, data in enumerate(_seeds(target)):
        (corpus / str(place)).write_bytes(data)
    if (_CORPUS / target).is_dir():
        shutil.copytree(_CORPUS / target, corpus, dirs_exist_ok=True)
    for path in [*folder.glob("crash-*"), *folder.glob("timeout-*"), *folder.glob("oom-*")]:
        path.replace(corpus / path.name)


def _spent(folder: Path) -> tuple[float, int]:
    """Return the seconds of processor time that a target has had, and the inputs that it has read."""
    try:
        found = json.loads((folder / "spent.json").read_text())
    except FileNotFoundError:
        return 0, 0
    return found["seconds"], found["inputs"]


def _turn(target: str, folder: Path, seconds: float, seed: int) -> str:
    """Fuzz a target for a while; return the fault, or nothing."""
    before = _spent(folder)
    command = [
        sys.executable,
        "-m",
        "benchmarks.scorecard.fuzzing",
        target,
        folder,
        seconds,
        seed + before[1],
    ]
    done = subprocess.run(list(map(str, command)), cwd=_ROOT, capture_output=True, check=False)
    if done.returncode == 0 and _spent(folder)[0] > before[0]:
        return ""
    text = done.stderr.decode(errors="replace")
    (folder / "fault.txt").write_text(text[-20_000:])
    return (
        " ".join([line for line in text.splitlines() if "Error" in line or "ERROR" in line][-1:])
        or text[-300:]
    )


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


def _reader(target: str, folder: Path, corpus: Path) -> Callable[[bytes], object]:
    """Return what reads an input as the library reads it; it may write files into a folder, and seeds."""
    if target == "settings":
        from tiledseg.config import RunConfig  # noqa: PLC0415

        return lambda data: RunConfig.from_toml(data.decode("utf-8", "replace"))
    if target == "ini":
        from tiledseg.config import import_founding  # noqa: PLC0415

        return lambda data: import_founding(data.decode("utf-8", "replace"))
    if target in {"bundle", "checkpoint"}:
        return {"bundle": _bundle, "checkpoint": _checkpoint}[target](folder, corpus)
    return {"image": _image, "onnx": _onnx, "geojson": _geojson_file}[target](folder)


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


def _bundle(folder: Path, corpus: Path) -> Callable[[bytes], object]:
    """Give a bundle other settings or another graph, with the right digests, as an attacker would."""
    from tiledseg.models import load_model, shipped_folder  # noqa: PLC0415
    from tiledseg.models.bundle import _SEAL, _seal_of  # noqa: PLC0415

    good = folder / "good"
    shutil.copytree(shipped_folder("demo"), good)
    for place, name in enumerate(("config.json", "graph.json")):
        (corpus / name).write_bytes(bytes([place]) + (good / name).read_bytes())

    def read(data: bytes) -> object:
        bundle = folder / "bundle"
        shutil.copytree(good, bundle, dirs_exist_ok=True)
        name = ("config.json", "graph.json")[data[0] % 2 if data else 0]
        (bundle / name).write_bytes(data[1:])
        with contextlib.suppress(ValueError, TypeError, RecursionError, AttributeError, UnicodeDecodeError):
            config = json.loads((bundle / "config.json").read_bytes())
            config["graph_sha256"] = hashlib.sha256((bundle / "graph.json").read_bytes()).hexdigest()
            config[_SEAL] = _seal_of(config)
            (bundle / "config.json").write_text(json.dumps(config))
        return load_model(bundle)

    return read


def _checkpoint(folder: Path, corpus: Path) -> Callable[[bytes], object]:
    """Seal what is drawn, so that reading goes on behind the seal."""
    import numpy as np  # noqa: PLC0415

    from tiledseg.train import checkpoint  # noqa: PLC0415  it loads TensorFlow

    path = folder / "epoch-000001.ckpt"
    facts = {"epoch": 1, "history": {"loss": [1.0]}}
    checkpoint._write(folder, 1, checkpoint.Checkpoint({"weights/0": np.ones((3, 2), np.float32)}, facts))
    start = len(checkpoint._SEAL.format("0" * 64))
    (corpus / "good").write_bytes(path.read_bytes()[start:])

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

        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112  a disk would be waited for
        scratch = tempfile.TemporaryDirectory(prefix="fuzzing-", dir=memory)
        read = _reader(target, Path(scratch.name), folder / "corpus")
    clock = _Clock(folder, float(seconds))

    def once(data: bytes) -> None:
        started = time.process_time()
        with contextlib.suppress(TiledSegError):
            read(data)
        if time.process_time() - started > _SLOWEST:
            raise TimeoutError(f"one input took {time.process_time() - started:.0f} s of processor time")
        if clock.ended():
            scratch.cleanup()
            os._exit(0)

    options = [f"-seed={int(seed) % 2**31 + 1}", f"-artifact_prefix={folder}/"]
    atheris.Setup([sys.argv[0], str(folder / "corpus"), *options, *_OPTIONS], once)
    atheris.Fuzz()


class _Clock:
    """Adds up the processor time and the inputs of a target, and keeps them in a file."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.path, self.seconds = folder / "spent.json", seconds
        self.before, self.started, self.inputs, self.kept = _spent(folder), time.process_time(), 0, 0.0

    def ended(self) -> bool:
        """Count one input, and say whether the time is over."""
        self.inputs += 1
        spent = time.process_time() - self.started
        if spent - self.kept > min(5, self.seconds / 2) or spent >= self.seconds:
            self.kept = spent
            found = {"seconds": self.before[0] + spent, "inputs": self.before[1] + self.inputs}
            self.path.with_suffix(".new").write_text(json.dumps(found))
            self.path.with_suffix(".new").replace(self.path)
        return spent >= self.seconds


if __name__ == "__main__":
    main(*sys.argv[1:])
