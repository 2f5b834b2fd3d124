"""A catalogue of bad input: each is refused by a typed error that can be acted on."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import os
import re
import shutil
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper
from PIL import Image

import tiledseg as ts
from benchmarks.scorecard._rows import Figure, Trial, good, row
from tiledseg import config, export, metrics, objects
from tiledseg.config.base import Config
from tiledseg.errors import TiledSegError
from tiledseg.io import open_image, read_image, read_mask, write_mask, write_probs
from tiledseg.models import load_model, shipped_folder
from tiledseg.models.bundle import _seal_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Case = tuple[str, Callable[[], object], str]  # what it is, the call, and a word that names the place

_IMAGE = np.zeros((40, 50, 3), np.uint8)
_TILING = {"tile_size": 16, "overlap": 4}
_FORM = re.compile(r"must .+; got .+\. \S", re.DOTALL)  # expected, found, fix


def _mean(tiles: Any) -> Any:
    return tiles[..., :1] / 255


def _lacks(text: str, place: str) -> str | None:
    """Say what a message lacks: the place, what was expected, what was found, or the fix."""
    if place not in text:
        return f"does not name {place!r}"
    sentences = len(re.findall(r"[.?](?:\s|$)", text))  # a second one says the fix
    return None if _FORM.search(text) or sentences > 1 else "has no expected, found and fix"


def fault_of(case: Case) -> str | None:
    """Say what is wrong with how a case is refused."""
    what, call, place = case
    try:
        call()
    except TiledSegError as error:
        lack = _lacks(str(error), place)
        return lack and f"{what}: {lack}: {error}"
    except BaseException as error:  # noqa: BLE001  which is the fault
        return f"{what}: bare {error!r:.300}"
    return f"{what}: silent"


def settings() -> Iterator[Case]:
    """Give each setting of each table what no setting takes, and misspell it."""
    kinds = [one for name in dir(config) if inspect.isclass(one := getattr(config, name))]
    for kind in [one for one in kinds if issubclass(one, Config) and one.model_fields]:
        for name in kind.model_fields:
            for junk in (object(), float("nan"), 1j):
                call = partial(kind, **{name: junk})
                yield f"{kind.__name__}({name}={junk!r:.20})", call, name
            yield f"{kind.__name__}({name}x=1)", partial(kind, **{f"{name}x": 1}), f"{name}x"


class _Liar:
    """An image whose pixels are not what it states."""

    shape, dtype = (40, 50, 3), np.dtype(np.uint8)

    def __init__(self, pixels: Any) -> None:
        self.pixels = pixels

    def __getitem__(self, key: object) -> Any:
        if isinstance(self.pixels, Exception):
            raise self.pixels
        return self.pixels


def _arrays() -> dict[str, Any]:
    bad = np.ones((40, 50, 3), np.float32)
    bad[3, 4, 1] = np.nan
    return {
        "None": None,
        "a number": 5,
        "text": "image",
        "0-d": np.array(5),
        "1-d": np.zeros(9),
        "4-d": np.zeros((1, 9, 9, 3)),
        "empty": np.zeros((0, 9, 3)),
        "no channel": np.zeros((9, 9, 0)),
        "objects": np.zeros((9, 9, 3), object),
        "complex": np.zeros((9, 9, 3), complex),
        "dates": np.zeros((9, 9, 3), "datetime64[s]"),
        "words": np.zeros((9, 9, 3), "U3"),
        "records": np.zeros((9, 9), [("a", "u1")]),
        "NaN": bad,
        "infinity": bad * np.inf,
        "ragged": [[1], [1, 2]],
        "a list": [[1, 2]],
        "channels first": np.zeros((3, 40, 50), np.uint8),
        "masked": np.ma.masked_equal(_IMAGE, 0),
        "a set": {1},
        "a dict": {"image": _IMAGE},
        "bytes": b"\0",
        "pixels of another shape": _Liar(_IMAGE[:2]),
        "pixels of another dtype": _Liar(_IMAGE.astype(float)),
        "a source that fails": _Liar(ValueError("on purpose")),
        "a source without": _Liar(None),
    }


def arrays() -> Iterator[Case]:
    """Give arrays that are no images to predictions, no masks to metrics, objects and exports."""
    takes: dict[str, Callable[[Any], object]] = {
        "tiled_predict": lambda one: ts.tiled_predict(_mean, one, _TILING),
        "segment": lambda one: ts.segment(_mean, one, _TILING),
        "plan": lambda one: ts.plan(_mean, one, _TILING),
    }
    for what, one in _arrays().items():
        for name, call in takes.items():
            planned = name == "plan" and (what in {"NaN", "infinity"} or isinstance(one, _Liar))
            if not planned:  # a plan reads no pixels
                yield f"{name}({what})", partial(call, one), ""
    labels: dict[str, Any] = {
        "negative": np.full((9, 9), -1),
        "fractions": np.full((9, 9), 0.5),
        "3-d": np.zeros((9, 9, 3), int),
        "objects": np.zeros((9, 9), object),
        "ragged": [[1], [1, 2]],
        "None": None,
        "text": "mask",
        "complex": np.zeros((9, 9), complex),
    }
    good_labels = np.zeros((9, 9), np.uint8)
    uses: dict[str, Callable[[Any], object]] = {
        "count": lambda one: metrics.count(one, good_labels),
        "score_map": lambda one: ts.evaluate.score_map(good_labels, one),
        "label_objects": lambda one: objects.label_objects(one if one is not None else 5),
        "write_geojson": lambda one: export.write_geojson("never.geojson", one, instances=True),
        "write_mask": lambda one: write_mask("never.png", one),
        "write_probs": lambda one: write_probs("never.tif", None if one is None else [one, "x"]),
    }
    for what, one in labels.items():
        for name, call in uses.items():
            if (name, what) not in {
                ("label_objects", "fractions"),
                ("label_objects", "3-d"),
            }:
                yield f"{name}({what})", partial(call, one), ""


def networks() -> Iterator[Case]:
    """Give callables whose outputs are no maps, or that fail."""

    class Quiet(Exception):
        def __str__(self) -> str:
            raise RuntimeError("on purpose")

    def fails(error: BaseException) -> Callable[[Any], Any]:
        def call(_tiles: Any) -> Any:
            raise error

        return call

    outputs: dict[str, Callable[[Any], Any]] = {
        "None": lambda _: None,
        "text": lambda _: "map",
        "a number": lambda _: 5,
        "a list": lambda _: [[1], [1, 2]],
        "fewer tiles": lambda tiles: tiles[:0],
        "smaller": lambda tiles: tiles[:, ::2, ::2],
        "3-d": lambda tiles: tiles[0],
        "5-d": lambda tiles: tiles[None],
        "NaN": lambda tiles: tiles * np.nan,
        "infinity": lambda tiles: (tiles + 1.0) / 0,
        "complex": lambda tiles: tiles * 1j,
        "objects": lambda tiles: tiles.astype(object),
        "no class": lambda tiles: tiles[..., :0],
        "masked": lambda tiles: np.ma.masked_equal(_mean(tiles), 0),
        "fails": fails(ValueError("on purpose")),
        "fails without text": fails(Quiet()),
        "runs out of memory": fails(MemoryError()),
        "asserts": fails(AssertionError()),
        "a dict": lambda tiles: {"out": _mean(tiles)},
        "a tuple": lambda tiles: (_mean(tiles), _mean(tiles)),
    }
    for what, call in outputs.items():
        yield f"a callable that gives {what}", partial(ts.tiled_predict, call, _IMAGE, _TILING), ""
    for what, one in {
        "None": None,
        "5": 5,
        "a list": [_mean],
        "a class": dict,
        "text": "no-such-bundle",
    }.items():
        yield f"the model {what}", partial(ts.tiled_predict, one, _IMAGE, _TILING), ""


def _encoded(form: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    if form == "npy":
        np.save(out, pixels)
    else:
        Image.fromarray(pixels).save(out, form)
    return out.getvalue()


def files(folder: Path) -> Iterator[Case]:
    """Read files that are cut, empty, of another kind, or none."""
    for form, suffix in {
        "PNG": "png",
        "JPEG": "jpg",
        "TIFF": "tif",
        "BMP": "bmp",
        "WEBP": "webp",
        "npy": "npy",
    }.items():
        data = _encoded(form)
        cuts = {
            "empty": b"",
            "byte": data[:1],
            "head": data[:20],
            "half": data[: len(data) // 2],
            "most": data[:-30],
            "text": b"no image " * 40,
            "html": b"<html></html>",
            "other": _encoded("GIF")[:300],
            "noise": data[:8] + bytes(400),
        }
        for what, content in cuts.items():
            path = folder / f"{what}.{suffix}"
            path.write_bytes(content)
            for read in (read_image, _first_px, read_mask):
                yield f"{read.__name__}({path.name})", partial(read, path), path.name
    (folder / "folder.png").mkdir()
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "empty.zarr").mkdir()
    odd = ("missing.png", "folder.png", "loop.png", "pipe.png", "empty.zarr", "no.suffix", "missing/a.tif")
    for read in (read_image, _first_px, read_mask):
        for name in odd:
            yield f"{read.__name__}({name})", partial(read, folder / name), name.split("/")[-1]
        for junk in ("", "a\0b.png", None, 5, b"a.png", ["a.png"], "\ud800.png"):
            yield f"{read.__name__}({junk!r})", partial(read, junk), ""


def _first_px(path: Any) -> Any:
    with open_image(path) as image:
        return image[0:64, 0:64]


def bundles(folder: Path) -> Iterator[Case]:
    """Load what is no network, or a damaged one."""
    contents = {
        "a.keras": b"PK",
        "a.h5": b"\x89HDF\r\n\x1a\n",
        "a.pt": b"PK\3\4",
        "a.onnx": b"",
        "b.onnx": b"\x08\x07" * 50,
        "a.safetensors": b"",
        "a.pkl": b"\x80\4.",
        "a.txt": b"model",
        "a.zip": b"PK\5\6" + bytes(18),
        "a.pb": b"x",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "empty").mkdir()
    for name in (*contents, "empty", "missing", "missing.onnx", "missing.keras"):
        yield f"load_model({name})", partial(load_model, folder / name), name
    whole = json.loads((shipped_folder("demo") / "config.json").read_text())
    changes: dict[str, Any] = dict.fromkeys(whole, 5) | {f"{key}x": 5 for key in list(whole)[:3]}
    for number, (key, value) in enumerate(changes.items()):
        bundle = folder / f"bundle-{number}"
        shutil.copytree(shipped_folder("demo"), bundle)
        changed = whole | {key: value}
        seal = {} if key == "config_sha256" else {"config_sha256": _seal_of(changed)}
        (bundle / "config.json").write_text(json.dumps(changed | seal))
        yield f"a bundle with {key}={value}", partial(load_model, bundle), bundle.name
    for number, text in enumerate(("", "[]", "{}", "null", "{", '{"a": 1}', "NaN", "[" * 9999)):
        bundle = folder / f"text-{number}"
        shutil.copytree(shipped_folder("demo"), bundle)
        (bundle / "config.json").write_text(text)
        yield f"a bundle whose config is {text[:9]!r}", partial(load_model, bundle), bundle.name


def graphs(folder: Path) -> Iterator[Case]:
    """Load ONNX graphs that are broken, or that no tiling can run."""
    port = partial(helper.make_tensor_value_info, elem_type=1)
    image, out = port("x", shape=["n", 3, "h", "w"]), port("y", shape=["n", 3, "h", "w"])
    relu = helper.make_node("Relu", ["x"], ["y"])
    models = {
        "no node": ([], [image], [out]),
        "no input": ([relu], [], [out]),
        "no output": ([relu], [image], []),
        "two inputs": (
            [helper.make_node("Add", ["x", "z"], ["y"])],
            [image, port("z", shape=["n", 3, "h", "w"])],
            [out],
        ),
        "a missing name": ([helper.make_node("Relu", ["q"], ["y"])], [image], [out]),
        "an unknown operator": ([helper.make_node("Nope", ["x"], ["y"])], [image], [out]),
        "an unknown domain": ([helper.make_node("Relu", ["x"], ["y"], domain="nope")], [image], [out]),
        "a circle": ([helper.make_node("Add", ["x", "y"], ["y"])], [image], [out]),
        "a missing attribute": ([helper.make_node("Concat", ["x", "x"], ["y"])], [image], [out]),
        "too few inputs": ([helper.make_node("Conv", ["x"], ["y"])], [image], [out]),
        "a flat input": ([relu], [port("x", shape=["n", 9])], [port("y", shape=["n", 9])]),
        "text as input": (
            [helper.make_node("Identity", ["x"], ["y"])],
            [helper.make_tensor_value_info("x", 8, ["n", 3, "h", "w"])],
            [out],
        ),
        "one number": (
            [helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)],
            [image],
            [port("y", shape=[])],
        ),
    }
    for number, (what, (nodes, inputs, outputs)) in enumerate(models.items()):
        path = folder / f"graph-{number}.onnx"
        graph = helper.make_graph(nodes, "g", inputs, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        yield (
            f"a graph with {what}",
            partial(ts.tiled_predict, path, _IMAGE, {"tile_size": 32, "overlap": 0}),
            "",
        )


def arguments() -> Iterator[Case]:
    """Give arguments of a wrong type to each package, as the tests do."""
    from tests.test_arguments import ROWS  # noqa: PLC0415  it loads all packages

    for package, rows in ROWS.items():
        for number, (call, _, _) in enumerate(rows):
            yield f"{package} {number}", call, ""


@row(7, "a catalogue of bad input: typed errors that name what, where, found, expected and the fix")
def bad_input(trial: Trial) -> Iterator[Figure]:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    folder = trial.folder / "files"
    folder.mkdir()
    kinds = {
        "settings": settings(),
        "arrays": arrays(),
        "networks": networks(),
        "files": files(folder),
        "bundles and model files": bundles(folder),
        "ONNX graphs": graphs(folder),
        "arguments": arguments(),
    }
    count = 0
    with contextlib.chdir(trial.folder):
        read_image_folder = trial.folder / "in"
        read_image_folder.mkdir()
        (read_image_folder / "a.png").write_bytes(_encoded("PNG"))
        for what, cases in kinds.items():
            each = list(cases)
            chosen = each[:: max(1, round(1 / max(trial.size, 0.2)))]
            count += len(chosen)
            yield good(f"{what}: refused by a typed error that can be acted on", map(fault_of, chosen))
    logging.disable(logging.NOTSET)
    yield Figure("cases", count, least=300 if trial.size >= 1 else 0)
