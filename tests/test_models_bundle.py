"""Segmenters and their bundles: checked, saved whole or not at all, loaded the same or refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import resource
import shutil
import sys
from contextlib import suppress
from dataclasses import FrozenInstanceError
from pathlib import Path

import keras
import numpy as np
import pytest
import warm_python
from safetensors.numpy import load_file, save_file

import tiledseg
from tiledseg.config import PredictConfig, PreprocessingConfig, TilingConfig, UNetConfig
from tiledseg.engine import Network
from tiledseg.errors import BundleError, FileError, ModelError, SettingError
from tiledseg.io import read_image, write_image
from tiledseg.models import BundleReference, Segmenter, UNetBuilder, build_model, load_model
from tiledseg.models.bundle import _seal_of
from tiledseg.predict import tiled_predict

saved_by_keras = pytest.mark.filterwarnings(  # Keras' own way of reading its variables
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)
CONFIG = UNetConfig(input_shape=(None, None, 3), levels=2, base_filters=4, base_kernel=3)


def make(config=CONFIG, **parts):
    network = UNetBuilder(config).build()
    rng = np.random.default_rng(0)
    network.set_weights([rng.uniform(0.1, 1, weight.shape).astype(np.float32) for weight in network.weights])
    labels = ("cell",) if config.classes == 1 else tuple(f"class {i}" for i in range(config.classes))
    preprocessing = PreprocessingConfig(channels=config.input_shape[2])
    return Segmenter(
        **{
            "network": network,
            "architecture": config,
            "labels": labels,
            "preprocessing": preprocessing,
            **parts,
        }
    )


@pytest.fixture(scope="module")
def segmenter():
    return make(
        threshold=0.25,
        tiling=TilingConfig(tile_size=(64, 32), overlap=(8, 4)),
        provenance={"epochs": 3, "data": "smears\nof ``` many | kinds", "sizes": (1, 2)},
    )


@pytest.fixture(scope="module")
def saved(segmenter, tmp_path_factory):
    return segmenter.save(tmp_path_factory.mktemp("saved") / "bundle")


@pytest.fixture
def bundle(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "bundle"))


def outputs(segmenter):
    size = [length or 16 for length in segmenter.architecture.input_shape[:2]]
    shape = (1, *size, segmenter.architecture.input_shape[2])
    return np.asarray(segmenter.network(np.random.default_rng(1).random(shape, dtype=np.float32)))


def edit(bundle, **changes):
    """Change entries of config.json, and seal them again; ... removes one."""
    entries = json.loads((bundle / "config.json").read_text()) | changes
    remaining = {key: value for key, value in entries.items() if value is not ...}
    if "config_sha256" not in changes:
        remaining["config_sha256"] = _seal_of(remaining)
    (bundle / "config.json").write_text(json.dumps(remaining))


def reseal(bundle, weights):
    """Write other weights with their right digest, as an attacker would."""
    save_file(weights, bundle / "model.safetensors")
    edit(bundle, weights_sha256=hashlib.sha256((bundle / "model.safetensors").read_bytes()).hexdigest())


def refused(path, *words, error=BundleError, **options):
    with pytest.raises(error) as caught:
        load_model(path, **options)
    for word in words:
        assert word in str(caught.value)


def test_the_card_of_a_bundle_states_its_licence(segmenter, tmp_path):
    folder = segmenter.changed(provenance={"licence": "For research alone"}).save(tmp_path / "bundle")
    head = (folder / "README.md").read_text("utf-8").splitlines()
    assert {"license: other", 'license_name: "For research alone"'} <= set(head)


def test_a_reference_loads_the_bundle_that_it_was_made_for(bundle):
    reference = BundleReference.of(bundle)
    assert reference.load() is reference.load()
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(tiled_predict(reference, image), tiled_predict(load_model(bundle), image))
    edit(bundle, threshold=0.75)
    assert BundleReference.of(bundle).digest != reference.digest
    with pytest.raises(BundleError, match="be the bundle with digest 000000000000"):
        BundleReference(str(bundle), "0" * 64).load()


def test_a_graph_of_a_bundle_has_a_largest_size(bundle, monkeypatch):
    monkeypatch.setattr("tiledseg.models.weights._LARGEST_GRAPH", 100)
    refused(bundle, "graph.json", "have at most 100 bytes")


def test_a_table_of_versions_is_a_table(bundle):
    edit(bundle, written_with="3.1")
    refused(bundle, "written_with", "be a table of versions")


# --- a segmenter's parts fit each other ------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"labels": ("a", "b")}, SettingError, "be 1 different names"),
        ({"labels": ()}, SettingError, "name only the foreground"),
        ({"labels": ["cell"]}, SettingError, "`labels` must be of type tuple; got list"),
        ({"labels": (" ",)}, SettingError, "not empty"),
        ({"labels": (1,)}, SettingError, "not empty"),
        ({"threshold": 0.0}, SettingError, "`threshold` must be"),
        ({"threshold": 1.0}, SettingError, "`threshold` must be"),
        ({"threshold": float("nan")}, SettingError, "`threshold` must be"),
        ({"threshold": 1}, SettingError, "`threshold` must be of type float"),
        (
            {"preprocessing": PreprocessingConfig(channels=1)},
            SettingError,
            "be 3, the network",
        ),
        ({"tiling": TilingConfig(tile_size=33)}, SettingError, "stride 2 along y; got 33. Use 32 or 34."),
        ({"tiling": 64}, SettingError, "`tiling`"),
        ({"provenance": {"loss": float("nan")}}, SettingError, "`provenance`"),
        ({"provenance": {"made": object()}}, SettingError, "`provenance`"),
        ({"architecture": CONFIG.changed(final_activation="linear")}, SettingError, "activation"),
        ({"network": "unet"}, SettingError, "`network`"),
        (
            {"architecture": CONFIG.changed(final_activation="linear"), "activation": "softmax"},
            SettingError,
            "be sigmoid for one class",
        ),
        ({"architecture": CONFIG.changed(classes=2)}, ModelError, "input and output shapes"),
    ],
)
def test_parts_that_do_not_fit_are_refused(segmenter, parts, error, message):
    with pytest.raises(error) as caught:
        segmenter.changed(**parts)
    assert message in str(caught.value)


def test_tile_must_be_the_fixed_input():
    with pytest.raises(SettingError, match="be 16 along x, as the network's input; got 32"):
        make(CONFIG.changed(input_shape=(32, 16, 3)), tiling=TilingConfig(tile_size=32))


def test_labels_of_several_classes_differ():
    with pytest.raises(SettingError, match="2 different names"):
        make(CONFIG.changed(classes=2), labels=("cell", "cell"))


def test_segmenter_never_changes_but_can_be_copied(segmenter):
    with pytest.raises(FrozenInstanceError):
        segmenter.threshold = 0.75
    copy = segmenter.changed(threshold=0.75)
    assert (copy.threshold, segmenter.threshold) == (0.75, 0.25)
    assert copy.network is segmenter.network


# --- the same after as before ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(CONFIG, marks=pytest.mark.slow),
        CONFIG.changed(norm="batch_renorm", activation="mish", classes=5),
        pytest.param(CONFIG.changed(norm="group", input_shape=(16, 24, 1)), marks=pytest.mark.slow),
        CONFIG.changed(norm="none", input_shape=(None, 16, 4), classes=2, final_activation="sigmoid"),
    ],
)
def test_loaded_network_gives_the_same_bits(config, tmp_path):
    segmenter = make(config)
    again = load_model(segmenter.save(tmp_path / "bundle"))
    np.testing.assert_array_equal(outputs(again), outputs(segmenter))
    assert again.network.get_config() == segmenter.network.get_config()


def test_all_parts_come_back(segmenter, bundle):
    again = load_model(str(bundle))
    for name in ("architecture", "labels", "preprocessing", "threshold", "tiling", "provenance"):
        assert getattr(again, name) == getattr(segmenter, name)
    assert again.provenance["sizes"] == [1, 2]


def test_bundle_holds_four_readable_files(bundle):
    assert {path.name for path in bundle.iterdir()} == {
        "config.json",
        "model.safetensors",
        "graph.json",
        "README.md",
    }
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert len({path.stat().st_mode for path in bundle.iterdir()}) == 1
    card = (bundle / "README.md").read_text()
    assert '# Segmenter of "cell"' in card
    assert "smears\\nof ``` many" in card
    written_with = json.loads((bundle / "config.json").read_text())["written_with"]
    assert written_with["keras"] == keras.__version__


def test_statistics_are_saved_and_seeds_are_not(bundle):
    names = load_file(bundle / "model.safetensors").keys()
    assert "encoder_0_norm_a/moving_variance" in names
    assert not [name for name in names if "seed" in name]


def test_trained_network_can_be_saved(tmp_path):
    segmenter = make(CONFIG.changed(input_shape=(8, 8, 3)))
    segmenter.network.compile("adam", "binary_crossentropy", run_eagerly=True)
    segmenter.network.fit(np.ones((2, 8, 8, 3)), np.ones((2, 8, 8, 1)), verbose=0)
    segmenter.network.trainable = False
    again = load_model(segmenter.save(tmp_path / "bundle"))
    np.testing.assert_array_equal(outputs(again), outputs(segmenter))
    assert again.network.trainable


def test_a_network_has_one_digest_however_it_is_run(segmenter, bundle, tmp_path):
    again = load_model(bundle)
    before = Network.of(again).digest
    assert before == Network.of(segmenter).digest
    assert again.network.count_params()  # builds it with Keras
    assert Network.of(again).digest == before
    assert Network.of(load_model(again.save(tmp_path / "again"))).digest == before
    bias = again.network.get_layer("bridge_conv_a").bias
    bias.assign(bias + 1)
    assert Network.of(again).digest != before


@pytest.mark.slow
def test_founding_network_comes_back(tmp_path):
    segmenter = Segmenter(UNetBuilder().build(), UNetConfig(), ("cell",))
    again = load_model(segmenter.save(tmp_path / "bundle"))
    for before, after in zip(segmenter.network.weights, again.network.weights, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


# --- what is not saved -----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_not_saved(bad, tmp_path):
    segmenter = make()
    bias = segmenter.network.get_layer("bridge_conv_a").bias
    bias.assign(np.full(bias.shape, bad, np.float32))
    with pytest.raises(ModelError, match=r"bridge_conv_a/bias.*8 of 8 not finite"):
        segmenter.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"activation": "mish"}, "encoder_0_conv_a`.*got activation='relu', not 'mish'"),
        ({"norm": "none"}, "norm"),
        ({"levels": 3}, "bridge_conv_a"),
        ({"dilation": 2}, "dilation_rate"),
    ],
)
def test_settings_that_rebuild_another_network_are_refused(stated, message, tmp_path):
    segmenter = make().changed(architecture=CONFIG.changed(**stated))
    with pytest.raises(ModelError, match=message):
        segmenter.save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_network_of_another_kind_is_refused(tmp_path):
    inner = UNetBuilder(CONFIG).build()
    network = keras.Sequential([keras.Input((None, None, 3)), inner])
    with pytest.raises(ModelError, match="build_model"):
        Segmenter(network, CONFIG, ("cell",)).save(tmp_path / "bundle")


def test_provenance_too_large_to_load_is_not_saved(segmenter, tmp_path):
    with pytest.raises(SettingError, match="Shorten it"):
        segmenter.changed(provenance={"log": "x" * 1_000_000}).save(tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_not_replaced_without_overwrite(segmenter, bundle):
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with pytest.raises(FileError, match="overwrite=True"):
        segmenter.changed(threshold=0.75).save(bundle)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_bundle_is_replaced_with_overwrite(segmenter, bundle):
    segmenter.changed(threshold=0.75).save(bundle, overwrite=True)
    assert load_model(bundle).threshold == 0.75
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_folder_with_files_of_the_user_is_never_replaced(segmenter, bundle):
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(FileError, match="other files"):
        segmenter.save(bundle, overwrite=True)
    assert (bundle / "notes.txt").read_text() == "mine"


def test_file_is_never_replaced(segmenter, tmp_path):
    (tmp_path / "bundle").write_text("mine")
    with pytest.raises(FileError):
        segmenter.save(tmp_path / "bundle", overwrite=True)
    assert (tmp_path / "bundle").read_text() == "mine"


@pytest.mark.parametrize("folder", ["/dev/null/bundle", "a\0b"])
def test_impossible_folder_is_a_file_error(segmenter, folder):
    with pytest.raises(FileError, match=r"can be written|contain a NUL"):
        segmenter.save(folder)


# --- faults while saving ---------------------------------------------------------------------------

FAULTS = ("save_file", "fsync", "replace")


def break_nth_call(monkeypatch, name, n, fault):
    """Let the n-th call of a step of saving fail; return the calls so far."""
    owner, attribute = {
        "save_file": (sys.modules["tiledseg.models.bundle"], "save_file"),
        "fsync": (os, "fsync"),
        "replace": (type(Path()), "replace"),
    }[name]
    calls, real = [], getattr(owner, attribute)

    def failing(*args):
        calls.append(args)
        return fault() if len(calls) == n else real(*args)

    monkeypatch.setattr(owner, attribute, failing)
    return calls


def no_space():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("name", FAULTS)
def test_failed_replacement_keeps_the_earlier_bundle(name, bundle, monkeypatch):
    other = make(CONFIG.changed(levels=1, norm="none"), threshold=0.75)
    n = 0
    while True:
        n += 1
        with monkeypatch.context() as patch:
            calls = break_nth_call(patch, name, n, no_space)
            if n > 20:
                pytest.fail("saving has no end")
            with suppress(FileError):
                other.save(bundle, overwrite=True)
        if len(calls) < n:  # there was no n-th call, so nothing failed
            break
        assert load_model(bundle).threshold in {0.25, 0.75}
    assert n > 1
    assert load_model(bundle).threshold == 0.75


def test_full_disk_is_a_file_error_and_leaves_nothing(segmenter, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FileError, match="Free some space"):
            segmenter.save(tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
import tiledseg.models.bundle as weights
from tiledseg.models import load_model

def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)

name, n, bundle = sys.argv[1], int(sys.argv[2]), sys.argv[3]
owner = {"save_file": weights, "fsync": os, "replace": type(Path())}[name]
real, calls = getattr(owner, name), []

def killed(*args):
    calls.append(args)
    return die() if len(calls) == n else real(*args)

segmenter = load_model(bundle).changed(threshold=0.75)
setattr(owner, name, killed)
segmenter.save(Path(bundle).with_name("other") if sys.argv[4] == "new" else bundle, overwrite=True)
"""


@pytest.mark.parametrize(
    ("name", "n", "where"),
    [
        ("fsync", 1, "new"),
        ("replace", 4, "new"),
        ("replace", 5, "over"),
    ],
)
def test_killed_save_leaves_nothing_half_done(name, n, where, bundle):
    done = warm_python.run(KILLED, name, n, bundle, where)
    assert done.returncode == -9, done.stderr
    assert not (bundle.parent / "other").exists()
    if where == "new":
        assert load_model(bundle).threshold == 0.25
    else:  # between the two renames: the error says where the earlier bundle is
        earlier = next(bundle.parent.glob(".bundle.*.old"))
        refused(bundle, "interrupted", str(earlier)[:40])
        assert load_model(earlier).threshold == 0.25


# --- tampering -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_truncated_file_is_refused(name, length, bundle):
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[:length])
    refused(bundle, name, "Copy the bundle again")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_refused(name, bundle):
    (bundle / name).unlink()
    refused(bundle)


def test_card_is_not_needed(bundle):
    (bundle / "README.md").unlink()
    assert load_model(bundle).threshold == 0.25


def test_flipped_bit_in_the_weights_is_refused(bundle):
    data = bytearray((bundle / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (bundle / "model.safetensors").write_bytes(data)
    refused(bundle, "model.safetensors", "digest")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "must be 1; got 2"),
        ({"format": True}, "must be 1; got True"),
        ({"format": "1"}, "must be 1; got 1"),
        ({"format": ...}, "without the entry format"),
        ({"labels": ...}, "config.json: labels` must be present; got nothing. Get the bundle again"),
        ({"treshold": 0.5}, "Did you mean `threshold`?"),
        ({"labels": "cell"}, "labels"),
        ({"labels": ["a", "b"]}, "labels"),
        ({"threshold": "0.5"}, "threshold"),
        ({"threshold": 2.0}, "threshold"),
        ({"tiling": {"tile_size": 64, "overlp": 8}}, "Did you mean `overlap`?"),
        ({"tiling": [64]}, "config.json"),
        ({"preprocessing": {"channels": 1}}, "channels"),
        ({"preprocessing": None}, "config.json"),
        ({"provenance": []}, "provenance"),
        ({"architecture": {"name": "umet"}}, "Did you mean `unet`?"),
        ({"architecture": {"levels": 2}}, "name"),
        ({"architecture": "unet"}, "architecture"),
        ({"architecture": CONFIG.changed(base_filters=5).model_dump(mode="json")}, "parameters"),
        ({"architecture": CONFIG.model_dump(mode="json") | {"base_filters": 2**62}}, "parameters"),
        ({"architecture": CONFIG.model_dump(mode="json") | {"base_filters": 10**30}}, "base_filters"),
        ({"weights_sha256": None}, "digest"),
    ],
)
def test_changed_settings_are_refused(changes, message, bundle):
    edit(bundle, **changes)
    refused(bundle, message)


def test_settings_are_sealed_however_they_are_laid_out(bundle):
    entries = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(entries, indent=1, sort_keys=True))
    assert load_model(bundle).threshold == entries["threshold"]
    (bundle / "config.json").write_text(json.dumps(entries | {"threshold": 0.26}))
    refused(bundle, "config.json", "config_sha256")
    edit(bundle, threshold=0.26, config_sha256=...)
    refused(bundle, "config.json", "config_sha256", "be present")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "be a mapping"),
        (b"{", "be JSON"),
        (b"\xff\xfe", "be JSON"),
        (b'{"format": NaN}', "NaN"),
        (b'{"format": 1, "format": 1}', "occurs twice"),
        (b"[" * 200_000, "be JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "be JSON"),
        (b" " * 1_000_001, "at most 1000000 bytes"),
    ],
)
def test_settings_in_another_format_are_refused(text, message, bundle):
    (bundle / "config.json").write_bytes(text)
    refused(bundle, "config.json", message)


def without(weights):
    del weights["output/bias"]
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without, "parameters"),
        (lambda w: w | {"extra": np.zeros(3, np.float32)}, "parameters"),
        (lambda w: without(w) | {"other": np.zeros(1, np.float32)}, "not be present"),
        (lambda w: w | {"output/kernel": w["output/kernel"].reshape(4)}, "shape"),
        (lambda w: w | {"output/bias": np.full(1, np.nan, np.float32)}, "1 of 1 not finite"),
        (lambda w: w | {"output/bias": np.zeros(1, np.int32)}, "int32"),
        (lambda w: w | {"output/bias": np.zeros(1, np.float64)}, "float64"),
    ],
)
def test_other_weights_with_the_right_digest_are_refused(change, message, bundle):
    reseal(bundle, change(load_file(bundle / "model.safetensors")))
    refused(bundle, "model.safetensors", message)


@pytest.mark.parametrize("length", [2**63, 10_000_001, 2**40, 50])
def test_header_of_a_wrong_length_is_refused(length, bundle):
    data = length.to_bytes(8, "little") + (bundle / "model.safetensors").read_bytes()[8:]
    (bundle / "model.safetensors").write_bytes(data)
    edit(bundle, weights_sha256=hashlib.sha256(data).hexdigest())
    refused(bundle, "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_pipe_is_refused_without_waiting(name, bundle):
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    refused(bundle, "be a file; got something else")


def test_weights_in_another_precision_are_refused(bundle):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        segmenter = load_model(bundle)  # it needs no Keras
        with pytest.raises(ModelError, match="mixed precision"):
            segmenter.network  # noqa: B018
    finally:
        keras.config.set_dtype_policy(before)


# --- what is no bundle -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.h5", "a.HDF5", "a.pkl", "a.safetensors", "a.png"])
def test_foreign_file_is_refused_with_a_hint(name, tmp_path):
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, name, "build_model", trust=True)


def test_weights_of_pytorch_name_the_two_ways_to_use_them(tmp_path):
    (tmp_path / "net.pth").write_bytes(b"PK")
    refused(tmp_path / "net.pth", "PyTorch", "`tiled_predict`", "torch.onnx.export", trust=True)


def test_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    (tmp_path / "model.pkl").write_bytes(pickle.dumps(Evil()))
    refused(tmp_path / "model.pkl", "pickle", trust=True)
    assert not (tmp_path / "ran").exists()


def test_saved_model_folder_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    refused(tmp_path, "SavedModel", trust=True)


@pytest.mark.parametrize("name", ["nothing", "no/thing", "a\0b"])
def test_path_to_nothing_is_refused(name, tmp_path):
    refused(f"{tmp_path}/{name}")


def test_empty_folder_is_refused(tmp_path):
    refused(tmp_path, "without config.json")


def test_a_folder_that_holds_a_bundle_names_it(tmp_path):
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text("{}")
    refused(tmp_path, f"Did you mean {tmp_path / 'best'}?")


def test_the_folder_of_all_runs_names_the_bundle_of_each_the_latest_first(tmp_path):
    for run in ("20260101-000000", "20260102-000000"):
        (tmp_path / run / "best").mkdir(parents=True)
        (tmp_path / run / "best" / "config.json").write_text("{}")
        (tmp_path / run / "run.toml").touch()
    later, earlier = tmp_path / "20260102-000000", tmp_path / "20260101-000000"
    refused(tmp_path, f"Did you mean {later / 'best'}, {earlier / 'best'}?")
    (later / "checkpoints").mkdir()
    (later / "checkpoints" / "epoch-000001.ckpt").touch()
    for part in ("checkpoints", "checkpoints/epoch-000001.ckpt", "run.toml"):
        refused(later / part, f"Did you mean {later / 'best'}?")
    refused(later / "best" / "config.json", f"Give its folder, {later / 'best'}")


def test_what_cannot_be_loaded_is_named_with_what_to_do(tmp_path):
    refused("https://example.org/net.onnx", "a model of a hub", "Download")
    (tmp_path / "net.xml").write_text("<net/>")
    refused(tmp_path / "net.xml", "OpenVINO", "compile_model")


@saved_by_keras
def test_keras_file_needs_trust(tmp_path):
    network = build_model({"name": "unet", "input_shape": (8, 8, 3), "levels": 2, "base_filters": 2})
    network.save(tmp_path / "network.keras")
    refused(tmp_path / "network.keras", "trust=True")
    again = load_model(tmp_path / "network.keras", trust=True)
    assert isinstance(again, keras.Model)
    image = np.ones((1, 8, 8, 3), np.float32)
    np.testing.assert_array_equal(again(image), network(image))


@saved_by_keras
def test_code_in_a_trusted_keras_file_is_still_refused(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)]).save(tmp_path / "network.keras")
    refused(tmp_path / "network.keras", "safe mode", trust=True)


def test_damaged_keras_file_is_refused(tmp_path):
    (tmp_path / "network.keras").write_bytes(b"not a zip")
    refused(tmp_path / "network.keras", "network.keras", trust=True)


@pytest.mark.parametrize("tta", [None, pytest.param("flips", marks=pytest.mark.slow), "d4"])
def test_test_time_augmentation_is_saved_and_used_by_default(tmp_path, tta):
    keras.utils.set_random_seed(0)
    made = make(network=UNetBuilder(CONFIG).build(), tta=tta, tiling=TilingConfig(tile_size=32, overlap=8))
    loaded = load_model(made.save(tmp_path / "bundle"))
    assert loaded.tta == tta
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    plain = loaded.changed(tta=None)
    found = tiledseg.tiled_predict(loaded, image)
    np.testing.assert_array_equal(loaded.predict(image, output="mask"), found[..., 0] >= loaded.threshold)
    np.testing.assert_array_equal(found, tiledseg.tiled_predict(plain, image, tta=tta))
    assert np.array_equal(found, tiledseg.tiled_predict(plain, image)) == (tta is None)
    write_image(tmp_path / "image.png", image)
    how = PredictConfig(write=("probs",), probs_dtype="float32")
    done = tiledseg.predict_files(loaded, tmp_path / "image.png", tmp_path / "out", how, progress=False)
    assert not done.failed
    np.testing.assert_allclose(
        read_image(tmp_path / "out" / "probs" / "image.tif").squeeze(), found[..., 0], atol=1e-6
    )


def test_unknown_or_unsuitable_test_time_augmentation_is_refused():
    with pytest.raises(SettingError, match="must be one of flips, d4"):
        make(tta="rot90")
    with pytest.raises(SettingError, match="not square"):
        make(tta="d4", tiling=TilingConfig(tile_size=(64, 32), overlap=4))


def test_an_unknown_model_name_lists_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="come with tiledseg are: demo"):
        load_model("segpc")
