"""Files, models and names that are made to do harm; every payload is harmless."""

from __future__ import annotations

import csv
import json
import os
import pickle
import random
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import tifffile

import tiledseg as ts
from benchmarks.scorecard._processes import run_each
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg.config import EvaluateConfig
from tiledseg.errors import TiledSegError
from tiledseg.io import create_image, write_labels
from tiledseg.models import shipped_folder
from tiledseg.models.bundle import _seal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_READ = """
import resource, sys, time
from pathlib import Path
import numpy as np, tiledseg as ts
from tiledseg.io import open_image, read_mask
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
def region(path):
    with open_image(path) as image:
        image[0:64, 0:64]
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")
    before, started, kind = peak(), time.perf_counter(), "read"
    for read in (ts.read_image, region, read_mask):
        try:
            read(path)
        except ts.TiledSegError as error:
            kind = "refused"
        except BaseException as error:
            kind = "bare " + repr(error)[:200]
            break
    print("FOUND", kind, "|", time.perf_counter() - started, "|", peak() - before, flush=True)
"""


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _tiff(entries: dict[int, tuple[int, int, int]], following: int = 0, data: bytes = b"") -> bytes:
    """Write a directory of tags: type, count, value."""
    body = struct.pack("<H", len(entries))
    for tag, (kind, count, value) in sorted(entries.items()):
        body += struct.pack("<HHII", tag, kind, count, value)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", following) + data


def _declared(width: int, height: int, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    known = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    known |= {273: (4, 1, 200), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, 100)}
    return known | {int(tag[1:]): value for tag, value in more.items()}


def _npy(text: str) -> bytes:
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def _hostile_bytes() -> dict[str, bytes]:
    """Return files that are made of bytes alone, by name."""
    bomb = zlib.compress(bytes(1 << 26), 9)
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[
        1
    ].tobytes()
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    sof = jpeg.index(b"\xff\xc2")
    huge = jpeg[: sof + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[sof + 9 :]
    nested = b'{"type":"FeatureCollection","features":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    deflated = _declared(60_000, 60_000, _259=(3, 1, 8), _273=(4, 1, 300), _279=(4, 1, len(bomb)))
    return {
        "loop.tif": _tiff(_declared(8, 8), 8, bytes(400)),
        "huge.tif": _tiff(_declared(100_000, 100_000), 0, bytes(400)),
        "deflate.tif": _tiff(deflated, 0, bytes(300) + bomb),
        "count.tif": _tiff(_declared(64, 64, _273=(4, 0xFFFFFFFF, 8)), 0, bytes(400)),
        "zero.tif": _tiff(_declared(0, 0), 0, bytes(400)),
        "samples.tif": _tiff(_declared(64, 64, _277=(3, 1, 65_535)), 0, bytes(400)),
        "offset.tif": b"II*\0" + struct.pack("<I", 0xFFFFFFF0),
        "big.tif": b"II+\0\x08\0\0\0" + struct.pack("<Q", 16) + struct.pack("<Q", 1 << 62),
        "bomb.png": _png(30_000, 30_000, zlib.compress(bytes(30_001 * 30_000), 1)),
        "declared.png": _png(0x7FFFFFFF, 0x7FFFFFFF, zlib.compress(b"")),
        "empty.png": _png(64, 64, b""),
        "more.png": _png(8, 8, bomb),
        "scans.jpg": jpeg[:-2] + scan * 20_000 + b"\xff\xd9",
        "huge.jpg": huge,
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "count.npy": _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999)}"),
        "object.npy": _npy("{'descr': '|O', 'fortran_order': False, 'shape': (3, 3)}") + pickle.dumps([1]),
        "code.npy": _npy("__import__('os').system('true')"),
        "nested.npy": _npy("(" * 9000),
        "nested.geojson": nested,
        "number.geojson": b'{"type":"FeatureCollection","features":[' + b"9" * 3_000_000 + b"]}",
        "names.bmp": b"BM" + struct.pack("<IHHIIiiHHI", 100, 0, 0, 54, 40, 2**31 - 1, -(2**31), 1, 24, 0),
        "frames.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(40),
        "zip.zip": b"PK\x03\x04" + bytes(60),
    }  # fmt: skip


def _entities(path: Path) -> None:
    """Write an OME-TIFF whose XML doubles its entities 40 times."""
    entities = "".join(f'<!ENTITY e{n + 1} "&e{n};&e{n};">' for n in range(40))
    text = f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY e0 "x">{entities}]><OME>&e40;</OME>'
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), description=text, metadata=None)


def _zarr(path: Path, harm: str) -> None:
    """Write a zarr with one chunk that is a pipe, a link that loops, or inflates beyond its size."""
    with create_image(path, (64, 64), np.uint8) as out:
        out[:] = np.ones((64, 64), np.uint8)
    chunk = path / "0" / "c" / "0" / "0"
    chunk.unlink()
    if harm == "pipe":
        os.mkfifo(chunk)
    elif harm == "loop":
        chunk.symlink_to(chunk)
    else:
        text = json.loads((path / "0" / "zarr.json").read_text())
        text["codecs"] = [{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 9}}]
        (path / "0" / "zarr.json").write_text(json.dumps(text))
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        chunk.write_bytes(b"".join(packer.compress(bytes(1 << 26)) for _ in range(24)) + packer.flush())


def _hostile_files(folder: Path) -> Iterator[Path]:
    for name, data in _hostile_bytes().items():
        (folder / name).write_bytes(data)
    _entities(folder / "entities.ome.tif")
    for harm in ("pipe", "loop", "bomb"):
        _zarr(folder / f"{harm}.ome.zarr", harm)
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "folder.png").mkdir()
    (folder / "-rf \n\x1b[2J.png").write_bytes(b"\x89PNG")
    yield from sorted(folder.iterdir())


@row(8, "hostile files: time, memory and signal deaths")
def hostile_files(trial: Trial) -> Iterator[Figure]:
    files = list(_hostile_files(trial.folder))
    slowest, largest = (0.0, ""), (0.0, "")
    faults: list[str | None] = []
    for path, found, text in run_each(_READ, files):
        kind, seconds, memory = found.split("|") if "|" in found else (found, "60", "0")
        slowest, largest = max(slowest, (float(seconds), path.name)), max(largest, (float(memory), path.name))
        faults.append(f"{path.name!r}: {kind} {text}" if kind.startswith(("bare", "ended")) else None)
    yield good("files read or refused by a typed error", faults)
    yield Figure("seconds, at worst", round(slowest[0], 2), most=2, faults=(slowest[1],))
    yield Figure("MiB beyond the start, at worst", round(largest[0]), most=512, faults=(largest[1],))


_LOAD = """
import sys
sys.dont_write_bytecode = True
import tiledseg as ts
from tiledseg.models import load_model
import numpy, keras, zipfile, onnx, tiledseg.engine
events = []
watched = ("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
def hook(event, arguments):
    name = arguments[0] if arguments and type(arguments[0]) is str else ""
    if event.startswith(watched) or {"open": "SECRET", "import": "canary"}.get(event, "(none)") in name:
        events.append(f"{event} {name[:80]}")
sys.addaudithook(hook)
for path in sys.argv[1:]:
    events.clear()
    try:
        load_model(path)
        kind = "loaded"
    except ts.TiledSegError:
        kind = "refused"
    except BaseException as error:
        kind = "bare " + repr(error)[:200]
    print("FOUND", kind, "|", "; ".join(events[:3]), flush=True)
"""


class _Gadget:
    """A pickle that would run a command."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


def _keras_file(path: Path, layer: dict[str, Any], **members: bytes) -> None:
    config = {"module": "keras", "class_name": "Functional", "config": {"name": "m", "layers": [layer]}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", '{"keras_version": "3.15.1"}')
        for name, data in members.items():
            archive.writestr(name.replace("__", "/"), data)
        archive.writestr("../../escaped", b"escaped")


def _hostile_models(folder: Path, secret: Path) -> Iterator[Path]:
    import h5py  # noqa: PLC0415
    import onnx  # noqa: PLC0415

    for number, (module, name) in enumerate(
        [("keras.layers", "Lambda"), ("canary", "Layer"), ("os", "system"), ("keras.utils", "get_file"),
         ("builtins", "eval"), ("keras.layers", "TorchModuleWrapper")]
    ):  # fmt: skip
        config = {"name": "l", "function": {"class_name": "__lambda__", "config": {"code": "4wEAAAA="}}}
        layer = {"module": module, "class_name": name, "config": config, "registered_name": name}
        yield (path := folder / f"{number}.keras")
        _keras_file(path, layer, **{"model.weights.h5": b""})
    for suffix in ("pkl", "h5", "pt", "keras", "onnx", "safetensors"):
        path = folder / f"pickled.{suffix}"
        path.write_bytes(pickle.dumps(_Gadget()))
        yield path
    with h5py.File(folder / "linked.h5", "w") as file:
        file["weights"] = h5py.ExternalLink(str(secret), "/")
    yield folder / "linked.h5"
    for number, place in enumerate(
        (str(secret), f"../{secret.name}", "/etc/passwd", "../../../../etc/passwd")
    ):
        yield _external(onnx, folder / f"external-{number}.onnx", place)
    yield from _hostile_bundles(folder, secret)


def _external(onnx: Any, path: Path, place: str) -> Path:
    """Write a network whose weights lie in a file elsewhere."""
    weights = onnx.TensorProto(name="w", data_type=1, dims=[1, 3, 1, 1], data_location=1)
    weights.external_data.add(key="location", value=place)
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    ends = [
        onnx.helper.make_tensor_value_info(name, 1, [1, depth, 64, 64])
        for name, depth in (("x", 3), ("y", 1))
    ]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [weights])
    path.write_bytes(onnx.helper.make_model(graph).SerializeToString())
    return path


def _hostile_bundles(folder: Path, secret: Path) -> Iterator[Path]:
    """Change bundles: weights that are links or pickles, settings that name code or paths."""
    whole = shipped_folder("demo")
    for number in range(6):
        bundle = folder / f"bundle-{number}"
        bundle.mkdir()
        for path in whole.iterdir():
            if path.is_file():
                (bundle / path.name).write_bytes(path.read_bytes())
        config = json.loads((bundle / "config.json").read_text())
        if number == 0:
            (bundle / "model.safetensors").unlink()
            (bundle / "model.safetensors").symlink_to(secret)
        elif number == 1:
            (bundle / "model.safetensors").write_bytes(pickle.dumps(_Gadget()))
        elif number == 2:
            config["architecture"] = {"name": "canary", "module": "canary"}
        elif number == 3:
            config["preprocessing"] = {"__reduce__": "os.system"}
        elif number == 4:
            config["weights"] = f"../{secret.name}"
        else:
            (bundle / "config.json").write_text("[" * 100_000)
        if number in {2, 3, 4}:  # with its right digest, as an attacker would
            (bundle / "config.json").write_text(json.dumps(config | {"config_sha256": _seal_of(config)}))
        yield bundle


@row(9, "hostile models: files, sockets, processes and imports before they are refused")
def hostile_models(trial: Trial) -> Iterator[Figure]:
    secret = trial.folder / "SECRET.h5"
    secret.write_bytes(b"secret" * 100)
    folder = trial.folder / "models"
    folder.mkdir()
    events: list[str | None] = []
    bare: list[str | None] = []
    for path, found, text in run_each(_LOAD, list(_hostile_models(folder, secret))):
        kind, _, seen = found.partition("|")
        events.append(f"{path.name}: {seen.strip()}" if seen.strip() else None)
        bare.append(None if kind.strip() == "refused" else f"{path.name}: {kind} {text}")
    yield good("models that did nothing", events)
    yield good("models that were refused by a typed error", bare)


_NAMES = (
    "../escaped", "..", ".", "/tmp/escaped", "a/../../escaped", "a\\..\\escaped", "C:\\escaped", "\0", "a\0b",
    "con", "", " ", "-rf", "~/escaped", "$(touch escaped)", "`touch escaped`", "a;touch escaped", "\x1b[2J",
    "\u202egpj", "%2e%2e%2fescaped",
)  # fmt: skip
_TEXTS = (
    "=1+1",
    "+1",
    "@SUM(1)",
    "-1+1",
    "\t=1+1",
    "<img src=x onerror=alert(1)>",
    '"><svg>',
    "&e;",
)


@row(10, "names, links and texts that try to get out of the folder or to run")
def escapes(trial: Trial) -> Iterator[Figure]:
    rng, image = random.Random(trial.seed), trial.folder / "image.ome.zarr"
    with create_image(image, (64, 64), np.uint8) as out:
        out[:] = np.zeros((64, 64), np.uint8)
    labels = np.eye(64, dtype=np.uint8)
    outside = {path: path.stat().st_mtime_ns for path in trial.folder.iterdir() if path != image}
    faults: list[str | None] = []
    for name in rng.sample(_NAMES, trial.count(len(_NAMES), 3)):
        for write in _writers(trial.folder / "inside" / str(rng.random()), image, labels):
            try:
                write(name)
                fault = None
            except TiledSegError:
                fault = None
            except Exception as error:  # noqa: BLE001  which is the fault
                fault = f"{name!r}: {error!r}"
            there = {
                path
                for path in trial.folder.iterdir()
                if path not in outside and path.name not in {"inside", image.name}
            }
            faults.append(f"{name!r} wrote {there}" if there or os.path.lexists("/tmp/escaped") else fault)
    yield good("names that stay inside", faults)
    texts = rng.sample(_TEXTS, trial.count(len(_TEXTS), 2))
    yield good("texts that no program runs", map(_text_fault, texts))


def _writers(folder: Path, image: Path, labels: Any) -> list[Callable[[str], object]]:
    """Return what writes something under a name that is given to it."""
    from tiledseg.export import write_coco, write_geojson, write_roi  # noqa: PLC0415

    def predicted(name: str) -> object:
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / "in.png"
        source.write_bytes(cv2.imencode(".png", labels)[1].tobytes())
        tiling = {"tile_size": 64, "overlap": 0}
        return ts.predict_files(
            lambda tiles: tiles / 255, source, folder / "out", {"suffix": name}, tiling=tiling
        )

    folder.mkdir(parents=True)
    return [
        lambda name: write_labels(image, name, labels),
        lambda name: write_roi(folder / "a.zip", labels, names=[name]),
        lambda name: write_coco(folder / "a.json", [(name, labels)]),
        lambda name: write_geojson(folder / "a.geojson", labels, names=[name], image=name),
        predicted,
    ]


def _text_fault(text: str) -> str | None:
    """Write a text into a table and a report as the name of an image; say where it stands as it is."""
    from tiledseg.data import Pair  # noqa: PLC0415
    from tiledseg.evaluate import Evaluator  # noqa: PLC0415
    from tiledseg.report import write_report  # noqa: PLC0415

    image, mask = np.zeros((64, 64, 3), np.uint8), np.eye(64, dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        tiled = EvaluateConfig(tiling={"tile_size": 64, "overlap": 0})
        result = Evaluator(tiled).evaluate(lambda tiles: tiles[..., :1] / 255, [Pair(text, image, mask)])
        result.to_csv(f"{folder}/scores.csv")
        write_report(f"{folder}/report.html", title=text, result=result)
        lines = csv.reader(Path(folder, "scores.csv").read_text().splitlines())
        cells = [cell for line in lines for cell in line]
        page = Path(folder, "report.html").read_text()
    if any(cell.startswith(("=", "+", "@", "\t", "\r")) or cell == "-1+1" for cell in cells):
        return f"{text!r} in CSV"
    return f"{text!r} in HTML" if "<" in text and text in page else None
