"""Keras on JAX: what it predicts and learns, on one device and on two, and what it refuses.

Each script runs in a process of its own, where JAX sees two processors.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tiledseg.config import PreprocessingConfig, UNetConfig
from tiledseg.models import Segmenter, UNetBuilder, load_model
from tiledseg.predict import tiled_predict

pytestmark = pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")


FLAGS = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"  # soon compiled


PREDICTS = """
import json, sys
import numpy as np
from tiledseg.errors import TiledSegError
from tiledseg.models import load_model
from tiledseg.predict import tiled_predict

bundle, image, by_default, by_keras = sys.argv[1:]

def predicted(**how):
    return tiled_predict(segmenter, np.load(image), runtime=how, progress=False)

segmenter = load_model(bundle)
np.save(by_default, predicted())
segmenter.save(bundle + "-again")
segmenter.network
np.save(by_keras, predicted(engine="keras"))
try:
    predicted(devices=["CPU:0"])
except TiledSegError as error:
    print(json.dumps(str(error)))
"""

TRAINS = """
import json, sys
import numpy as np
from test_train import TINY, Trainer, blobs, keras, settings
from tiledseg.errors import TiledSegError

def trained(**changes):
    common = {"epochs": 2, "batch_size": 6, "augment": "none", "optimizer": "adamw", "ema": 0.9}
    config = settings(sys.argv[1], network=TINY.changed(norm="batch"), **(common | changes))
    return Trainer(config).fit(blobs(1, 2), blobs(9, size=96), progress=False)  # 9 crops: 3, then 6

def refused(**changes):
    try:
        trained(**changes)
    except TiledSegError as error:
        return str(error)

one, two = trained(), trained(devices=2)
pairs = zip(one.segmenter.network.weights, two.segmenter.network.weights)
differs = max(float(np.abs(a.numpy() - b.numpy()).max()) for a, b in pairs)
sorted((two.run_dir / "checkpoints").iterdir())[-1].unlink()
again = Trainer.resume(two.run_dir, blobs(1, 2), blobs(9, size=96), progress=False)
refusals = [refused(devices=3), refused(devices="all", batch_size=5)]
keras.distribution.list_devices = lambda: ["gpu:0"]  # there is none here
refusals.append(refused())
print(json.dumps({
    "best": str(one.run_dir / "best"),
    "histories": [result.history for result in (one, two, again)],
    "differs": differs,
    "refusals": refusals,
}))
"""


def on_jax(script, *arguments):
    """Run a script on JAX; return what its last line holds."""
    env = {
        **os.environ,
        "KERAS_BACKEND": "jax",
        "XLA_FLAGS": FLAGS,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def segmenter():
    config = UNetConfig(
        input_shape=(None, None, 3), levels=3, base_filters=4, base_kernel=3, dropout=0.0, norm="batch"
    )
    return Segmenter(UNetBuilder(config).build(), config, ("cell",), PreprocessingConfig(mean=(0.4,)))


@pytest.mark.slow
def test_a_bundle_gives_the_same_map_on_jax_and_comes_back_as_it_was(segmenter, tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (150, 170, 3), dtype=np.uint8)
    np.save(tmp_path / "image.npy", image)
    segmenter.save(tmp_path / "bundle")
    maps = [tmp_path / "by_default.npy", tmp_path / "by_keras.npy"]
    refusal = on_jax(PREDICTS, tmp_path / "bundle", tmp_path / "image.npy", *maps)
    expected = tiled_predict(segmenter, image, runtime={"engine": "keras"}, progress=False)
    for path in maps:
        np.testing.assert_allclose(np.load(path), expected, atol=1e-5)
    again = load_model(tmp_path / "bundle-again").network
    for one, other in zip(segmenter.network.weights, again.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert "`devices` must be None unless Keras uses TensorFlow; got jax." in refusal


@pytest.mark.slow
def test_one_device_and_two_learn_the_same_and_resume_bit_for_bit(tmp_path):
    found = on_jax(TRAINS, tmp_path)
    one, two, again = found["histories"]
    assert one["loss"][1] < one["loss"][0]
    for name, values in one.items():
        np.testing.assert_allclose(values, two[name], rtol=1e-3)
    assert found["differs"] < 1e-4
    assert again == two
    too_many, uneven, on_gpu = found["refusals"]
    assert "`devices` must be at most 2" in too_many
    assert "`batch_size` must be a multiple of the 2 devices that share it; got 5. Use 6" in uneven
    assert "Set XLA_FLAGS=--xla_gpu_deterministic_ops=true before Python starts" in on_gpu
    assert tiled_predict(load_model(found["best"]), np.zeros((70, 90, 3), np.uint8)).shape == (70, 90, 1)
