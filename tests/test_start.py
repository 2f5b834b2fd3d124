"""A bundle is predicted without Keras, its network is built when it is asked for, and nothing is printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import tiledseg as ts
from tiledseg._lazy import lazy
from tiledseg.config import PreprocessingConfig
from tiledseg.errors import BundleError
from tiledseg.models import Segmenter, load_model
from tiledseg.models.bundle import _seal_of
from tiledseg.samples import smear

pytest.importorskip("openvino")
UNUSED = "keras tensorflow openvino.tools.ovc asyncio tifffile.tifffile scipy dask cv2 tiledseg.config.train"
LOADED = f"{set(UNUSED.split())} & set(sys.modules)"
CONFIG = ts.UNetConfig(
    input_shape=(None, None, 3), levels=2, base_filters=4, base_kernel=3, dropout=0.1, norm="batch"
)
TILE = (64, 96)
IMAGE = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)


def run(probe: str, *arguments: object) -> tuple[list[str], str]:
    """Run a script in a new process, with nothing set that quiets TensorFlow: lines of output, and errors."""
    root = str(Path(ts.__file__).parents[1])
    env = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-c", probe, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=env | {"PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    keras.utils.set_random_seed(0)
    network = ts.build_model(CONFIG)
    rng = np.random.default_rng(0)
    network.set_weights([one * rng.uniform(0.7, 1.3, one.shape) for one in network.get_weights()])
    return Segmenter(
        network, CONFIG, ("cell",), PreprocessingConfig(mean=(0.5,)), tiling=ts.TilingConfig(tile_size=TILE)
    )


@pytest.fixture(scope="module")
def saved(segmenter: Segmenter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return segmenter.save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def bundle(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "bundle"))


def edit(bundle: Path, change: object) -> None:
    """Change the graph of a bundle, and give it its right digest."""
    record = json.loads((bundle / "graph.json").read_text())
    change(record)  # type: ignore[operator]
    (bundle / "graph.json").write_text(json.dumps(record))
    config = json.loads((bundle / "config.json").read_text())
    config["graph_sha256"] = ts._storage.sha256(bundle / "graph.json")
    write_sealed(bundle, config)


def write_sealed(bundle: Path, config: dict[str, object]) -> None:
    config["config_sha256"] = _seal_of(config)
    (bundle / "config.json").write_text(json.dumps(config))


def test_tiles_of_the_usual_size_are_compiled_for_once(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, shapes = import_module("tiledseg.engine.openvino.predictor"), []
    build = module.build
    monkeypatch.setattr(module, "build", lambda *args: shapes.append(args[2]) or build(*args))
    probs = ts.tiled_predict(load_model(saved), IMAGE, batch_size=2)
    assert probs.std() > 0.001
    assert {shape[1:3] for shape in shapes} == {TILE}
    assert len(shapes) == 1


def test_predicting_prints_nothing_and_loads_only_what_it_needs(tmp_path: Path) -> None:
    Image.fromarray(smear(240, 320, seed=1).image).save(tmp_path / "one.jpg")
    probe = (
        "import logging, os, sys; os.chdir(sys.argv[1]);"
        "from tiledseg.cli import main; import tiledseg as ts;"
        "code = main(['predict', 'demo', 'one.jpg', '--output', 'out', '--quiet']);"
        f"print({LOADED});"
        "code += main(['plan', 'demo', 'one.jpg']);"
        "i = ts.read_image('one.jpg');"
        "s = ts.load_model('demo'); m = ts.tiled_predict(s, i, output='mask');"
        "s.save('again'); ts.load_model('again');"
        "print(code, m.shape, {'keras', 'tensorflow'} & set(sys.modules), logging.getLogger().handlers)"
    )
    out, err = run(probe, tmp_path)
    assert out[:2] == ["1 predicted, 0 skipped, 0 failed; results in out", "set()"]
    assert out[-1] == "0 (240, 320) set() []"
    assert err == ""
    assert (tmp_path / "out" / "masks" / "one.png").is_file()
    assert tomllib.loads((tmp_path / "out" / "run.toml").read_text(encoding="utf-8")).keys() == {"predict"}


@pytest.mark.slow
def test_keras_prints_nothing_and_adds_no_handler_to_the_log() -> None:
    probe = (
        "import logging; import numpy as np; import tiledseg as ts;"
        "ts.load_model('demo').network;"
        "m = ts.build_model({'name': 'unet', 'levels': 2, 'input_shape': (None, None, 3)});"
        "i, t = np.zeros((64, 64, 3), np.uint8), {'tile_size': 32, 'overlap': 8};"
        "ts.tiled_predict(m, i, t, runtime={'engine': 'keras'}); ts.tiled_predict(m, i, t);"
        "print(logging.getLogger().handlers)"
    )
    assert run(probe) == (["[]"], "")


def test_notices_of_tensorflow_are_left_out_and_other_lines_are_not(tmp_path: Path) -> None:
    notices = (
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n"
        "I0000 00:00:1795889234.926951 4013 port.cc:153] oneDNN custom operations are on.\\n"
        "2026-01-31 12:00:00.123456: I tensorflow/core/util/port.cc:153] oneDNN\\n"
    )
    (tmp_path / "keras.py").write_text(f"import os; os.write(2, b'{notices}why\\n')")
    probe = "import sys; sys.path.insert(0, sys.argv[1])\nfrom tiledseg._backend import keras"
    assert run(probe, tmp_path) == ([], "why\n")


def test_an_error_while_keras_loads_is_shown(tmp_path: Path) -> None:
    (tmp_path / "keras.py").write_text("import os; os.write(2, b'why\\n'); raise ImportError('broken')")
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "try:\n    from tiledseg._backend import keras\nexcept ImportError as error: print(error)"
    )
    assert run(probe, tmp_path) == (["broken"], "why\n")


def test_the_map_of_a_bundle_equals_that_of_its_keras_network(segmenter: Segmenter, bundle: Path) -> None:
    loaded = load_model(bundle)
    found = ts.tiled_predict(loaded, IMAGE)
    assert not isinstance(loaded.runnable, keras.Model)
    wanted = ts.tiled_predict(segmenter, IMAGE, runtime={"engine": "keras"})
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    plans = [str(ts.plan(one, IMAGE)).splitlines() for one in (loaded, segmenter)]
    found_plan, wanted_plan = ([line for line in plan if not line.startswith("memory")] for plan in plans)
    assert found_plan == wanted_plan  # the memory is that of the process now
    np.testing.assert_array_equal(ts.tiled_predict(loaded, IMAGE, runtime={"engine": "keras"}), wanted)


def test_weights_that_are_changed_after_loading_are_used(bundle: Path) -> None:
    loaded = load_model(bundle)
    copy, before = loaded.changed(threshold=0.3), ts.tiled_predict(loaded, IMAGE)
    loaded.network.set_weights([weight * 0.5 for weight in loaded.network.get_weights()])
    after = ts.tiled_predict(copy, IMAGE)
    np.testing.assert_allclose(after, ts.tiled_predict(copy, IMAGE, runtime={"engine": "keras"}), atol=1e-5)
    assert np.abs(after - before).max() > 0.01
    assert copy.network is loaded.network


def test_a_bundle_outlives_its_folder(segmenter: Segmenter, bundle: Path) -> None:
    loaded = load_model(bundle)
    for path in bundle.iterdir():
        path.unlink()
    np.testing.assert_allclose(ts.tiled_predict(loaded, IMAGE), ts.tiled_predict(segmenter, IMAGE), atol=1e-5)
    np.testing.assert_array_equal(loaded.network.get_weights()[0], segmenter.network.get_weights()[0])


def test_a_bundle_without_a_graph_or_of_edited_settings_is_built_by_keras(bundle: Path) -> None:
    config = json.loads((bundle / "config.json").read_text())
    config["architecture"]["activation"] = "elu"
    write_sealed(bundle, config)
    edited = load_model(bundle)
    assert isinstance(edited.runnable, keras.Model)
    assert "elu" in str(edited.network.get_config())
    del config["graph_sha256"]
    config["architecture"]["activation"] = "relu"
    write_sealed(bundle, config)
    (bundle / "graph.json").unlink()
    assert isinstance(load_model(bundle).runnable, keras.Model)


def test_a_graph_that_disagrees_with_its_probe_is_not_used(
    bundle: Path, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    def change(record: dict) -> None:
        place = next(one for one in record["layers"] if one["kind"] == "layers.BatchNormalization")
        place["config"]["epsilon"] = 0.5

    edit(bundle, change)
    loaded = load_model(bundle)
    found = ts.tiled_predict(loaded, IMAGE)
    assert "instead of OpenVINO: a difference of" in caplog.text
    np.testing.assert_array_equal(found, ts.tiled_predict(segmenter, IMAGE, runtime={"engine": "keras"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("probe"),
        lambda record: record["layers"].reverse(),
        lambda record: record["layers"][0].update(extra=1),
        lambda record: record["layers"][0].update(kind=3),
        lambda record: record.update(output=10**6),
        lambda record: record["graph"].update(stride=[0, 4]),
        lambda record: record["graph"].update(stride=[10**9, 4]),
        lambda record: record["graph"].update(channels="3"),
        lambda record: record["graph"]["receptive_field"][0]["steps"].pop(),
        lambda record: record["probe"].update(shape=[1, 10**6, 64, 3]),
        lambda record: record["probe"].update(outputs=[]),
        lambda record: record.update(layers=None),
    ],
)
def test_a_damaged_graph_is_refused(change: object, bundle: Path) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=r"graph\.json` must describe a network"):
        load_model(bundle)


def test_a_graph_with_a_wrong_digest_is_refused(bundle: Path) -> None:
    (bundle / "graph.json").write_bytes((bundle / "graph.json").read_bytes().replace(b"0", b"1", 1))
    with pytest.raises(BundleError, match=r"graph\.json` must have the digest"):
        load_model(bundle)


def test_a_module_that_is_loaded_when_it_is_first_used_is_complete_for_all_threads(tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.1)\nanswer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = lazy("slow_module")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: module.answer, range(8))) == [42] * 8
    del sys.modules["slow_module"]
