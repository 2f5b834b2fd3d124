"""Packages of BioImage.IO: written, validated by the library of the specification, tested by its runtime."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import import_module

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

import tiledseg as ts  # noqa: E402
from tiledseg.cli import main  # noqa: E402
from tiledseg.errors import FileError, SettingError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras, when it saves
ABOUT = {"authors": ("A. Author",), "license": "CC-BY-4.0", "cite": ("Author (2026). Title. 10.1234/abcd",)}


@pytest.fixture(scope="module")
def demo():
    return ts.load_model("demo")


@pytest.fixture(scope="module")
def package(demo, tmp_path_factory):
    """Write the included model as a package, once; its validation is a test of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_module("tiledseg.models.bioimageio_write"), "_validate", lambda _: None)
        return demo.export(tmp_path_factory.mktemp("package") / "demo.zip", "bioimageio", ABOUT)


def test_a_package_describes_axes_halo_and_preparation(demo, package):
    with zipfile.ZipFile(package) as archive:
        names = set(archive.namelist())
        record = yaml.safe_load(archive.read("rdf.yaml"))
        image, outputs = (np.load(archive.open(f"test_{one}.npy")) for one in ("input", "output"))
    assert names >= {"model.keras", "model.onnx", "cover.png", "README.md"}
    (taken,), (made,) = record["inputs"], record["outputs"]
    assert [axis.get("size") for axis in taken["axes"]] == [None, *[{"min": 128, "step": 8}] * 2, None]
    assert {axis["halo"] for axis in made["axes"] if "halo" in axis} == {
        48
    }  # 46, to a multiple of the stride
    assert record["weights"]["onnx"]["parent"] == "keras_v3"
    assert record["license"] == "CC-BY-4.0"
    assert record["cite"] == [{"text": "Author (2026). Title.", "doi": "10.1234/abcd"}]
    (scaling,) = [one["kwargs"] for one in taken["preprocessing"] if one["id"] == "scale_linear"]
    prepared = image.astype(np.float32) * scaling["gain"] + scaling["offset"]
    np.testing.assert_allclose(np.asarray(demo.network(prepared, training=False)), outputs, atol=1e-5)


def test_a_package_states_the_value_of_white(demo, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("tiledseg.models.bioimageio_write"), "_validate", lambda _: None)
    camera = demo.changed(preprocessing=demo.preprocessing.changed(dtype="uint16", white=4095))
    path = camera.export(tmp_path / "camera.zip", "bioimageio", ABOUT)
    with zipfile.ZipFile(path) as archive:
        (taken,) = yaml.safe_load(archive.read("rdf.yaml"))["inputs"]
        image = np.load(archive.open("test_input.npy"))
    (scaling,) = [one["kwargs"] for one in taken["preprocessing"] if one["id"] == "scale_linear"]
    assert scaling["gain"] == pytest.approx(1 / 4095 / demo.preprocessing.std[0])
    assert 2047 < image.max() <= 4095


@pytest.mark.slow
def test_the_library_of_the_specification_finds_nothing_wrong(package, tmp_path):
    code = (
        "import sys, bioimageio.spec as spec; "
        "found = spec.load_description(sys.argv[1], perform_io_checks=True); "
        "print(type(found).__name__, found.validation_summary.status)"
    )
    env = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(package)], capture_output=True, text=True, env=env, check=False
    )
    if "No module named" in done.stderr:
        pytest.skip("bioimageio.spec is not installed")
    assert done.stdout.split() == ["ModelDescr", "valid-format"], done.stderr


@pytest.mark.parametrize(
    ("about", "changes", "text"),
    [
        (None, {}, "authors.*license"),
        ({**ABOUT, "cite": ("Author 2026",)}, {}, "DOI or a URL"),
        ({**ABOUT, "licence": "MIT"}, {}, "license"),
        (ABOUT, {"sharpen": 1.0}, r"preprocessing\.sharpen"),
        (ABOUT, {"percentiles": (1.0, 99.0)}, r"preprocessing\.percentiles"),
    ],
)
def test_what_a_package_cannot_say_is_refused_at_once(demo, tmp_path, about, changes, text):
    changed = demo.changed(preprocessing=demo.preprocessing.changed(**changes))
    with pytest.raises(SettingError, match=text):
        changed.export(tmp_path / "package", "bioimageio", about)
    assert not list(tmp_path.iterdir())


def test_an_existing_package_stays(demo, tmp_path):
    path = tmp_path / "package.zip"
    path.write_text("mine")
    with pytest.raises(FileError, match="new file"):
        demo.export(path, "bioimageio", ABOUT)
    assert path.read_text() == "mine"


def test_the_command_asks_for_authors_and_licence(tmp_path, capsys):
    assert main(["export-model", "demo", str(tmp_path / "p.zip"), "--to", "bioimageio"]) == 2
    assert "authors" in capsys.readouterr().err


CORE = """
import json, sys
from bioimageio.core import test_model
found = test_model(sys.argv[1], weight_format="onnx")
print(json.dumps([[one.name, one.status] for one in found.details]))
"""
PREDICT = """
import sys
import numpy as np
from bioimageio.core import Tensor, load_description, predict
image = Tensor.from_numpy(np.load(sys.argv[2])[None], dims=("batch", "y", "x", "channel"))
found = predict(model=load_description(sys.argv[1]), inputs={"image": image})
np.save(sys.argv[3], found.members["probabilities"].to_numpy()[0])
"""


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Return what runs code in an environment that has the runtime of BioImage.IO."""
    python = os.environ.get("BIOIMAGEIO_PYTHON")  # of such an environment
    if python is None:
        venv = tmp_path_factory.mktemp("core") / "venv"
        python = venv / ("Scripts" if os.name == "nt" else "bin") / "python"
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        wanted = ["bioimageio.core==0.11.0", "onnxruntime", "pydantic<2.13"]  # 2.14 breaks its specification
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(code, *arguments):
        command = [python, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.mark.slow
def test_the_runtime_of_bioimageio_reproduces_the_outputs(package, core):
    details = json.loads(core(CORE, package).splitlines()[-1])
    assert any("Reproduce" in name for name, _ in details)
    assert [name for name, status in details if status != "passed"] == []


@pytest.mark.slow
def test_a_package_is_predicted_as_by_the_runtime_of_bioimageio(package, core, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    image = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)
    np.save(tmp_path / "image.npy", image)
    core(PREDICT, package, tmp_path / "image.npy", tmp_path / "core.npy")
    found = ts.tiled_predict(ts.load_model(package), image, {"tile_size": 128, "overlap": "exact"})
    inside = (slice(48, -48), slice(48, -48))  # the runtime repeats px around the image
    np.testing.assert_allclose(found[inside], np.load(tmp_path / "core.npy")[inside], atol=1e-5)
