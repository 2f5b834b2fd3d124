"""Training: what it learns, what it saves, and what it refuses."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import warm_python

from tiledseg._backend import keras
from tiledseg.config import PreprocessingConfig, RunConfig, TilingConfig, TrainConfig, UNetConfig
from tiledseg.data import Pair
from tiledseg.engine import Network
from tiledseg.errors import ArrayError, BundleError, FileError, ModelError, SettingError, TiledSegError
from tiledseg.io import read_image, read_mask, write_image
from tiledseg.models import Segmenter, UNetBuilder, build_loss, load_model
from tiledseg.predict import tiled_predict
from tiledseg.preprocess import prepare
from tiledseg.samples import smear, write_samples
from tiledseg.train import Trainer, find_learning_rate, lr_finder, overfit_one_batch
from tiledseg.train.inputs import Feed
from tiledseg.train.previews import previewed

TINY = UNetConfig(  # what a test costs is the graph of a step, which grows with the layers
    input_shape=(None, None, 3), levels=1, base_filters=4, base_kernel=3, dropout=0.0, norm="none"
)
NORMED = TINY.changed(levels=2, norm="group")
COLUMNS = {"epoch", "loss", "dice", "val_loss", "val_dice", "learning_rate"}


def blobs(*seeds, size=64):
    """Make images with a red foreground."""
    pairs = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        mask = cv2.GaussianBlur(rng.random((size, size), np.float32), (0, 0), 4) > 0.5
        image = rng.integers(0, 160, (size, size, 3), dtype=np.uint8)
        image[mask, 0] = 230
        pairs.append((image, mask.astype(np.uint8)))
    return pairs


def settings(tmp_path, **changes):
    base = {
        "network": TINY,
        "crop_size": 32,
        "curves": False,
        "epochs": 3,
        "steps_per_epoch": 1,
        "learning_rate": 1e-2,
        "augment": "flips",
    }
    return TrainConfig(**{**base, "runs_dir": f"{tmp_path}/runs", **changes})


pytestmark = pytest.mark.usefixtures("eager")
COMPILE = keras.Model.compile


@pytest.fixture
def graph(monkeypatch):
    """Run many steps in a graph, as a user's run does."""
    monkeypatch.setattr(keras.Model, "compile", COMPILE)


class Spoil(keras.callbacks.Callback):
    """Sets every kernel to one value times itself before each epoch from `first` on, counted from 1."""

    def __init__(self, first, factor):
        super().__init__()
        self.first, self.factor = first, factor

    def on_epoch_begin(self, epoch, logs=None):
        if epoch + 1 >= self.first:
            for variable in self.model.trainable_weights:
                variable.assign(variable * self.factor)


class Interrupt(keras.callbacks.Callback):
    """Presses Ctrl-C in the first epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One short run that several tests look at."""
    config = settings(
        tmp_path_factory.mktemp("trained"),
        network=NORMED,
        epochs=2,
        preprocessing=PreprocessingConfig(mean=(0.4,)),
    )
    return config, Trainer(config).fit(blobs(1, 2, 3), blobs(8, 9), progress=False)


def test_a_run_leaves_settings_history_and_the_best_bundle(trained):
    config, result = trained
    names = {path.name for path in result.run_dir.iterdir()}
    assert names == {
        "run.toml",
        "run.json",
        "model.txt",
        "history.csv",
        "history.json",
        "best",
        "checkpoints",
    }
    assert RunConfig.from_toml((result.run_dir / "run.toml").read_text(encoding="utf-8")).train == config
    assert json.loads((result.run_dir / "history.json").read_text()) == result.history
    rows = list(csv.DictReader((result.run_dir / "history.csv").read_text().splitlines()))
    assert {name: [float(row[name]) for row in rows] for name in rows[0]} == result.history
    assert set(result.history) == COLUMNS
    assert result.history["epoch"] == [1, 2]


def test_the_segmenter_states_its_provenance(trained):
    config, result = trained
    segmenter = result.segmenter
    assert isinstance(segmenter, Segmenter)
    assert segmenter.preprocessing == config.preprocessing
    assert segmenter.tiling == TilingConfig(tile_size=(32, 32), overlap=0.25)
    facts = segmenter.provenance
    assert (facts["train_images"], facts["valid_images"]) == (3, 2)
    assert facts["best_epoch"] == result.best_epoch == 1 + int(np.argmin(result.history["val_loss"]))
    assert facts["val_loss"] == min(result.history["val_loss"])
    assert TrainConfig.from_json(json.dumps(facts["settings"])) == config.changed(runs_dir="runs")


def test_validation_scores_every_px_of_the_images_as_they_are(trained):
    config, result = trained
    images = np.stack([np.asarray(prepare(image, config.preprocessing)) for image, _ in blobs(8, 9)])
    masks = np.stack([mask for _, mask in blobs(8, 9)])[..., None].astype(np.float32)
    images, masks = (_quarters(maps) for maps in (images, masks))
    probs = np.asarray(result.segmenter.network(images))
    best = result.best_epoch - 1
    assert float(build_loss("bce_dice")(masks, probs)) == pytest.approx(
        result.history["val_loss"][best], rel=1e-4
    )
    cut = probs >= 0.5
    dice = 2 * (cut * masks).sum() / (cut.sum() + masks.sum())
    assert dice == pytest.approx(result.history["val_dice"][best], abs=1e-4)


def test_validation_counts_each_px_once_whatever_the_size(tmp_path):
    valid = [*blobs(8, size=40), *blobs(9, size=21), *blobs(10, size=70)]
    config = settings(tmp_path, epochs=1, metrics=("accuracy",))
    result = Trainer(config).fit(blobs(1), valid, progress=False)
    tiling = TilingConfig(tile_size=32, overlap=0, blend="crop")
    masks = [tiled_predict(result.segmenter, image, tiling, output="mask") for image, _ in valid]
    right = [found == mask for found, (_, mask) in zip(masks, valid, strict=True)]
    accuracy = sum(map(np.count_nonzero, right)) / sum(one.size for one in right)
    assert result.history["val_accuracy"][0] == pytest.approx(accuracy, abs=1e-6)


def _quarters(maps):
    return np.concatenate([maps[:, y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32)])


def test_a_trained_network_segments_new_images(tmp_path, graph):
    def smears(*seeds):
        made = (smear(128, 128, seed=seed, cell_px=(24, 36)) for seed in seeds)
        return [(one.image, one.mask) for one in made]

    network = TINY.changed(base_filters=8)
    config = settings(tmp_path, network=network, crop_size=48, steps_per_epoch=20, batch_size=8)
    result = Trainer(config).fit(smears(*range(6)), smears(50), progress=False)
    assert result.history["loss"][-1] < 0.7 * result.history["loss"][0]
    both = either = 0
    for image, mask in smears(90, 91):
        cut = tiled_predict(result.segmenter, image)[..., 0] >= 0.5
        both += int((cut & (mask > 0)).sum())
        either += int(cut.sum() + mask.sum())
    assert 2 * both / either > 0.65


def test_the_same_seed_gives_the_same_run_from_files_and_from_a_cache_too(trained, tmp_path):
    def files(*seeds):
        for seed, (image, mask) in zip(seeds, blobs(*seeds), strict=True):
            for name, array in (("image", image[..., ::-1]), ("mask", mask * 255)):
                (tmp_path / f"{seed}_{name}.png").write_bytes(cv2.imencode(".png", array)[1].tobytes())
        return [
            Pair(str(seed), tmp_path / f"{seed}_image.png", tmp_path / f"{seed}_mask.png") for seed in seeds
        ]

    config, result = trained
    random.seed(5)
    expected = random.random(), random.random()
    random.seed(5)
    found = [random.random()]
    cached = config.changed(memory_mb=0, cache_dir=str(tmp_path / "cache"))
    again = Trainer(cached).fit(files(1, 2, 3), files(8, 9), progress=False)
    assert len(list((tmp_path / "cache").iterdir())) == 5
    assert again.history == result.history
    assert again.run_dir.parent == result.run_dir.parent
    assert again.run_dir != result.run_dir
    assert (*found, random.random()) == expected  # the caller's own generators continue


def test_several_classes_are_trained_from_shrunk_small_and_oblong_images(tmp_path):
    def two(*seeds, size):
        return [(image, mask + (mask & (image[..., 1] > 80))) for image, mask in blobs(*seeds, size=size)]

    config = settings(
        tmp_path,
        network=TINY.changed(classes=3),
        labels=("none", "dark", "bright"),
        preprocessing=PreprocessingConfig(scale=0.4),
        crop_size=(16, 32),
        epochs=1,
        loss="dice",
    )
    result = Trainer(config).fit(two(1, size=64) + two(2, size=200), two(9, size=70), progress=False)
    assert tiled_predict(result.segmenter, blobs(3, size=100)[0][0]).shape == (100, 100, 3)
    assert 0 <= result.history["val_dice"][0] <= 1


def test_a_run_that_gets_worse_stops_and_its_best_network_stays(tmp_path, caplog):
    caplog.set_level("INFO", logger="tiledseg")
    spoil = Spoil(2, -3.0)
    config = settings(tmp_path, epochs=9, patience=2)
    result = Trainer(config).fit(blobs(1), blobs(9), progress=False, callbacks=[spoil])
    assert result.history["epoch"] == [1, 2, 3]
    assert result.best_epoch == result.segmenter.provenance["best_epoch"] == 1
    assert not np.array_equal(result.segmenter.network.weights[0].numpy(), spoil.model.weights[0].numpy())
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch")]
    assert [line.partition(":")[0] for line in lines] == [f"epoch {n} of 9" for n in (1, 2, 3)]
    assert [line.endswith(", best") for line in lines] == [True, False, False]


def test_weights_that_are_not_finite_end_the_run_and_the_best_stays(tmp_path):
    with pytest.raises(ModelError, match=r"finite.*nan in epoch 3.*best"):
        Trainer(settings(tmp_path)).fit(blobs(1), blobs(9), progress=False, callbacks=[Spoil(3, np.nan)])
    (run_dir,) = (tmp_path / "runs").iterdir()
    assert load_model(run_dir / "best").provenance["best_epoch"] <= 2
    assert json.loads((run_dir / "history.json").read_text())["epoch"] == [1, 2]


def test_a_nan_that_the_loss_does_not_show_is_found(tmp_path):
    class Poison(keras.callbacks.Callback):
        def on_test_end(self, logs=None):  # after the last loss of the epoch
            kernel = self.model.weights[0]
            kernel.assign(kernel * np.nan)

    with pytest.raises(ModelError, match=r"bridge_conv_a/kernel.*nan in epoch 1.*so far: none"):
        Trainer(settings(tmp_path)).fit(blobs(1), blobs(9), progress=False, callbacks=[Poison()])


@pytest.mark.parametrize(
    ("train", "error", "text"),
    [
        ([], SettingError, "at least one pair"),
        ([(np.zeros((40, 40, 3), np.uint8), np.full((40, 40), 2, np.uint8))], ArrayError, "labels"),
        (
            [(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 41), np.uint8))],
            ArrayError,
            r"size.*\(40, 40\); got \(40, 41\)",
        ),
        ([(np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8))], ArrayError, "foreground"),
        ([(np.zeros((40, 40), np.uint8), np.ones((40, 40), np.uint8))], ArrayError, "channels"),
        ([(np.zeros((40, 40, 3), np.float32), np.ones((40, 40), np.uint8))], ArrayError, "uint8"),
        ([("no_such.png", "no_such_mask.png")], FileError, "exist"),
    ],
)
def test_bad_pairs_are_refused_before_anything_is_made(tmp_path, train, error, text):
    with pytest.raises(error, match=text):
        Trainer(settings(tmp_path)).fit(train, blobs(9), progress=False)
    assert not (tmp_path / "runs").exists()


def test_an_image_with_nan_is_refused(tmp_path):
    image = np.full((40, 40, 3), np.nan, np.float32)
    config = settings(tmp_path, preprocessing=PreprocessingConfig(dtype="float32"))
    with pytest.raises(ArrayError, match="finite"):
        Trainer(config).fit([(image, np.ones((40, 40), np.uint8))], blobs(9), progress=False)


def test_an_image_of_both_sets_is_refused(tmp_path):
    pairs = blobs(1, 2)
    with pytest.raises(SettingError, match=r"valid.*no image of `train`"):
        Trainer(settings(tmp_path)).fit(pairs, pairs[1:], progress=False)


def test_a_runs_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(FileError, match="runs"):
        Trainer(settings(tmp_path)).fit(blobs(1), blobs(9), progress=False)


# --- optimizers and schedules ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "schedule": "cosine", "clip_norm": 1.0, "precision": "mixed_bfloat16"},
        {
            "optimizer": "sgd",
            "schedule": {"name": "constant", "warmup_epochs": 1.0},
            "clip": 0.5,
            "precision": "mixed_float16",
            "ema": 0.5,
            "network": TINY.changed(norm="batch"),
        },
        {"accumulate": 3, "ema": 0.9, "class_weights": (1.0, 2.0)},
    ],
)
def test_every_optimizer_and_precision_learns(tmp_path, changes, request):
    if "clip" in changes:  # the one with most parts
        request.getfixturevalue("graph")
    config = settings(tmp_path, epochs=2, steps_per_epoch=6, **changes)
    before = keras.config.dtype_policy()
    result = Trainer(config).fit(blobs(1, 2), blobs(9), progress=False)
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert keras.config.dtype_policy() == before
    assert {variable.dtype for variable in result.segmenter.network.weights} == {"float32"}


def test_the_learning_rate_rises_in_a_line_and_falls_along_a_cosine(tmp_path):
    cosine = {"name": "cosine", "warmup_epochs": 1.0, "final": 0.1}
    config = settings(tmp_path, epochs=2, steps_per_epoch=4, schedule=cosine)
    rates = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rates.append(float(self.model.optimizer.learning_rate))

    result = Trainer(config).fit(blobs(1), blobs(9), progress=False, callbacks=[Watch()])
    fall = [0.1 + 0.9 * (1 + np.cos(np.pi * step / 4)) / 2 for step in range(4)]
    assert rates == pytest.approx([1e-2 * share for share in (0.25, 0.5, 0.75, 1.0, *fall)])
    assert result.history["learning_rate"][-1] == pytest.approx(1e-3)


def test_the_learning_rate_is_lowered_when_the_loss_does_not_improve(tmp_path):
    plateau = {"name": "plateau", "factor": 0.5, "patience": 2, "least": 3e-3}
    config = settings(tmp_path, epochs=6, schedule=plateau, patience=None)
    result = Trainer(config).fit(blobs(1), blobs(9), progress=False, callbacks=[Spoil(2, -3.0)])
    rates, losses = result.history["learning_rate"], result.history["val_loss"]
    expected, rate, waited = [], 1e-2, 0
    for epoch, loss in enumerate(losses):
        expected.append(rate)
        waited = 0 if loss < min(losses[:epoch], default=np.inf) else waited + 1
        if waited == 2:
            rate, waited = max(rate / 2, 3e-3), 0
    assert rates == pytest.approx(expected)
    assert rates[-1] < 1e-2


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run that averages its weights, and what these are before and after each step."""
    starts, ends = [], []

    class Follow(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            starts.append([variable.numpy() for variable in self.model.trainable_variables])

        def on_train_batch_end(self, batch, logs=None):
            ends.append([variable.numpy() for variable in self.model.trainable_variables])

    config = settings(tmp_path_factory.mktemp("averaged"), epochs=2, steps_per_epoch=6, ema=0.8)
    result = Trainer(config).fit(blobs(1), blobs(9), progress=False, callbacks=[Follow()])
    return config, result, starts, ends


def test_the_average_of_the_weights_is_validated_and_saved(averaged):
    config, result, _, ends = averaged
    average = ends[0]
    for weights in ends[1 : 6 * result.best_epoch]:
        average = [0.8 * a + 0.2 * w for a, w in zip(average, weights, strict=True)]
    network = result.segmenter.network
    for variable, expected in zip(network.trainable_variables, average, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    image, mask = blobs(9)[0]
    crops = _quarters(np.asarray(prepare(image, config.preprocessing))[None])
    loss = build_loss("bce_dice")(_quarters(mask[None, ..., None].astype(np.float32)), network(crops))
    assert float(loss) == pytest.approx(result.history["val_loss"][result.best_epoch - 1], rel=1e-5)


@pytest.mark.parametrize("batches", [pytest.param(12, marks=pytest.mark.slow), 10])
def test_the_average_decays_with_the_steps_of_the_optimizer_not_with_the_batches(batches, tmp_path):
    ends = []

    class Follow(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ends.append([variable.numpy() for variable in self.model.trainable_variables])

    config = settings(tmp_path, epochs=1, steps_per_epoch=batches, accumulate=4, ema=0.5, seed=1)
    result = Trainer(config).fit(blobs(1), blobs(9), progress=False, callbacks=[Follow()])
    average = ends[3]  # the first step
    for weights in ends[7::4]:
        average = [0.5 * a + 0.5 * w for a, w in zip(average, weights, strict=True)]
    for variable, expected in zip(result.segmenter.network.trainable_variables, average, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_without_validation_the_average_of_the_last_epoch_is_kept(averaged, tmp_path):
    config, validated, _, ends = averaged
    config = config.changed(validation=False, runs_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        Trainer(config).fit(blobs(1), progress=False, callbacks=[Interrupt()])
    (run_dir,) = tmp_path.iterdir()
    result = Trainer.resume(run_dir, blobs(1), progress=False, callbacks=[Interrupt()])
    assert result.history == {
        name: values for name, values in validated.history.items() if not name.startswith("val_")
    }
    average = ends[0]
    for weights in ends[1:]:
        average = [0.8 * a + 0.2 * w for a, w in zip(average, weights, strict=True)]
    for variable, expected in zip(result.segmenter.network.trainable_variables, average, strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    facts = result.segmenter.provenance
    assert (facts["train_images"], facts["valid_images"]) == (1, 0)
    assert f"best 2 with dice {result.history['dice'][1]:.4f}" in repr(result)
    assert "<svg" in result._repr_html_()


def test_without_validation_the_training_loss_stops_a_run_and_lowers_the_rate(tmp_path):
    config = settings(tmp_path, validation=False, epochs=4, patience=2, preview_every=9, ema=0.5)
    config = config.changed(schedule={"name": "plateau", "patience": 1, "factor": 0.5})
    result = Trainer(config).fit(blobs(1), progress=False, callbacks=[Spoil(2, 9.0)])
    assert result.best_epoch == 3  # the last one, though its loss is larger
    assert result.history["loss"][0] < min(result.history["loss"][1:])
    assert result.history["learning_rate"] == pytest.approx([1e-2, 1e-2, 1e-2 / 2])  # before it is lowered


def test_validation_data_is_refused_where_nothing_is_validated(tmp_path):
    with pytest.raises(SettingError, match=r"`valid` must be None.*got list.*validation=True"):
        Trainer(settings(tmp_path, validation=False)).fit(blobs(1), blobs(8), progress=False)
    assert not (tmp_path / "runs").exists()


def test_training_continues_from_the_weights_and_not_from_their_average(averaged):
    _, _, starts, ends = averaged
    for before, after in zip(ends[:-1], starts[1:], strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_weight_decay_shrinks_only_kernels(tmp_path):
    moved = {}

    class Freeze(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.before = {v.path: v.numpy() for v in self.model.trainable_variables}

        def on_train_batch_end(self, batch, logs=None):
            moved.update({v.path: v.numpy() / self.before[v.path] for v in self.model.trainable_variables})

    decaying = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.5}
    config = settings(
        tmp_path,
        network=NORMED,
        epochs=1,
        steps_per_epoch=1,
        optimizer=decaying,
        learning_rate=1e-1,
        clip_norm=1e-12,
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        Trainer(config).fit(blobs(1), blobs(9), progress=False, callbacks=[Freeze()])
    kernels = [share for path, share in moved.items() if path.endswith("kernel")]
    scales = [share for path, share in moved.items() if path.endswith("gamma")]
    np.testing.assert_allclose(np.concatenate([share.ravel() for share in kernels]), 0.95, rtol=1e-5)
    np.testing.assert_allclose(np.concatenate([share.ravel() for share in scales]), 1.0, rtol=1e-5)


def test_a_network_of_logits_is_refused():
    with pytest.raises(SettingError, match=r"network\.final_activation` must be sigmoid or softmax"):
        TrainConfig(network=TINY.changed(final_activation="linear"))


def test_a_lowest_rate_at_which_the_loss_diverges_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tiledseg.train.lr_finder._DIVERGED", 0.0)  # every loss counts as diverged
    with pytest.raises(ModelError, match="`lowest` must be a rate"):
        find_learning_rate(settings(tmp_path), blobs(1), lowest=1e5, highest=1e6, steps=10)


def test_batches_that_are_too_few_for_one_step_are_refused(tmp_path):
    trainer = Trainer(settings(tmp_path, epochs=2, steps_per_epoch=3, accumulate=7))
    with pytest.raises(SettingError, match=r"accumulate.*at most 6, the batches of the run"):
        trainer.fit(blobs(0), blobs(1))
    assert not (tmp_path / "runs").exists()


def test_a_threshold_that_several_classes_do_not_use_is_refused():
    with pytest.raises(SettingError, match=r"threshold.*3 classes"):
        TrainConfig(network=TINY.changed(classes=3), labels=("a", "b", "c"), threshold=0.3)


def test_two_kinds_of_clipping_are_refused():
    with pytest.raises(SettingError, match="clip_norm"):
        TrainConfig(clip=0.5, clip_norm=1.0)


DEVICES = """
import sys
from pathlib import Path
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
from test_train import SettingError, Trainer, TrainConfig, TINY, blobs, np, settings

def trained(**changes):
    common = {"epochs": 2, "batch_size": 6, "augment": "none", "optimizer": "adamw", "ema": 0.9}
    config = settings(sys.argv[2], **common, **changes)
    return Trainer(config).fit(*data, progress=False)

data = blobs(1, 2), [*blobs(9), *blobs(8, size=32)]  # five crops of validation
one, two = trained(), trained(devices=2)
weights = [result.segmenter.network.get_weights() for result in (one, two)]
print(max(float(np.abs(a - b).max()) for a, b in zip(*weights)))
for name, values in one.history.items():
    np.testing.assert_allclose(values, two.history[name], rtol=1e-3)
half = sorted((two.run_dir / "checkpoints").iterdir())
half[-1].unlink()
again = Trainer.resume(two.run_dir, *data, progress=False)
assert again.history == two.history, (again.history, two.history)
try:
    trained(devices=3)
except SettingError as error:
    print(error)
"""


@pytest.mark.slow
def test_two_devices_train_as_one_does(tmp_path, request):
    done = warm_python.run(DEVICES, request.path.parent, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    difference, refusal = done.stdout.splitlines()[-2:]
    assert float(difference) < 1e-4
    assert "`devices` must be at most 2" in refusal


def test_the_learning_rate_finder_suggests_a_rate_at_which_the_loss_falls(tmp_path, graph, caplog):
    found = find_learning_rate(settings(tmp_path), blobs(1, 2), lowest=1e-5, highest=10.0, steps=40)
    assert found.rates[0] == 1e-5
    assert len(found.rates) == len(found.losses) <= 40
    assert 1e-4 < found.suggested < 1
    place = found.rates.index(found.suggested)
    assert min(found.losses[place:]) < 0.8 * found.losses[0]
    assert "falls at no rate" not in caplog.text
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SettingError, match="lowest"):
        find_learning_rate(settings(tmp_path), blobs(1), lowest=1.0, highest=0.1)


def test_the_learning_rate_finder_says_so_where_the_loss_never_falls(tmp_path, caplog):
    find_learning_rate(settings(tmp_path), blobs(1, 2), lowest=1e-9, highest=2e-9, steps=12)
    assert "falls at no rate from 1e-09 to 2e-09" in caplog.text
    assert "overfit_one_batch" in caplog.text


@pytest.mark.parametrize("steps", [10, 20, 100])
def test_the_learning_rate_finder_tells_a_fall_from_noise(steps, tmp_path, monkeypatch, caplog):
    told = {}
    for falls, seed in itertools.product([True, False], range(10)):
        losses = np.random.default_rng(seed).normal(0.6, 0.03, steps)
        losses[0] -= 0.1  # one batch says little
        if falls:
            losses[steps // 2 :] -= np.linspace(0, 0.4, steps - steps // 2)
        monkeypatch.setattr(
            lr_finder,
            "_fit",
            lambda _config, _source, recorder, _rate, losses=losses: recorder.losses.extend(losses),
        )
        caplog.clear()
        found = find_learning_rate(settings(tmp_path), blobs(1), steps=steps)
        told.setdefault(falls, []).append("falls at no rate" in caplog.text)
        assert not falls or found.rates[steps // 2 - 1] <= found.suggested < found.rates[-1]
    assert not any(told[True])
    assert sum(told[False]) >= 8


def test_one_batch_is_overfitted_unless_its_image_is_empty(tmp_path, graph, monkeypatch):
    config = settings(tmp_path, network=TINY.changed(base_filters=8), batch_size=2)
    overfit = overfit_one_batch(config, blobs(1), steps=60)
    assert len(overfit.losses) == 60
    assert overfit.losses[-1] < 0.3 * overfit.losses[0]
    assert overfit.dice > 0.95
    blank = [(np.zeros((64, 64, 3), np.uint8), blobs(1)[0][1])]
    monkeypatch.undo()  # few steps need no graph
    assert overfit_one_batch(config.changed(augment="none"), blank, steps=10).dice < 0.9


@pytest.mark.parametrize(
    ("changes", "name"), [({"accumulate": 2}, "accumulate"), ({"batch_size": 3}, "batch_size")]
)
def test_what_devices_cannot_share_is_refused(changes, name):
    with pytest.raises(SettingError, match=name):
        TrainConfig(devices=2, **changes)


@pytest.mark.parametrize(("n", "parts"), [(9, 2), (8, 2), (7, 4), (3, 4), (5, 1)])
def test_each_batch_has_equal_parts_and_the_mean_stays_that_of_all_crops(n, parts):
    class Crops:
        def __len__(self):
            return n

        def batch(self, epoch, ids):
            one = np.array(list(ids), np.float32).reshape(-1, 1, 1, 1)
            return one, np.ones_like(one)

    feed = Feed(Crops(), 4, 1, parts)
    feed.start(0)
    batches = [feed[index] for index in range(len(feed))]
    feed.close()
    assert all(len(images) % parts == 0 for images, *_ in batches)
    losses = [np.mean(rest[1] * images.ravel() if rest[1:] else images) for images, *rest in batches]
    of_all = np.average(losses, weights=[len(images) for images, *_ in batches])
    assert of_all == pytest.approx(np.mean(range(n)))
    counted = sum((masks >= 0).sum() for _, masks, *_ in batches)
    assert counted == n


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="each device of TensorFlow clips")
@pytest.mark.parametrize("name", ["clip", "clip_norm"])
def test_clipping_is_refused_where_devices_share_a_batch(name, tmp_path, monkeypatch):
    monkeypatch.setattr("tiledseg.train.loop._available", lambda _: ["GPU:0", "GPU:1"])
    with pytest.raises(SettingError, match=f"`{name}` must be None where several devices"):
        Trainer(settings(tmp_path, devices="all", batch_size=4, **{name: 0.5})).fit(blobs(1), blobs(9))
    assert not (tmp_path / "runs").exists()


# --- curves, previews and metrics ------------------------------------------------------------------


of_keras = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # in TensorBoard's


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A run with curves, previews of a larger image and a log."""
    folder = tmp_path_factory.mktemp("shown")
    write_samples(folder / "full", n_images=2, height=96, width=128)
    config = settings(
        folder,
        epochs=2,
        steps_per_epoch=2,
        curves=True,
        preview_every=1,
        preview_images=(str(folder / "full" / "images"),),
        preview_count=1,
        tensorboard=True,
        metrics=("iou", "sensitivity", "specificity", "accuracy"),
        ema=0.5,
    )
    return Trainer(config).fit(blobs(1, 2), [*blobs(8, size=80), *blobs(9)], progress=False)


@of_keras
def test_previews_show_chosen_images_at_their_own_size_and_a_sheet_shows_the_epochs(shown):
    folder = shown.run_dir / "previews"
    assert sorted(path.name for path in folder.iterdir()) == ["epoch-0001", "epoch-0002", "sheet.png"]
    (name,) = (path.stem for path in (folder / "epoch-0001").glob("*_mask.png"))
    assert name == "00_smear_0000_mask"
    mask = read_mask(folder / "epoch-0002" / f"{name}.png", threshold=128)
    assert mask.shape == (96, 128)
    height, width, _ = read_image(folder / "sheet.png").shape
    assert (height > 2 * 96, width) == (True, 128 + 2 * 20)  # a row for each epoch
    if shown.best_epoch == 2:  # with the averaged weights, which are saved
        full = shown.run_dir.parents[1] / "full" / "images" / "smear_0000.png"
        probs = tiled_predict(shown.segmenter, full)[..., 0]
        assert np.mean((probs >= 0.5) == mask) > 0.999


def test_previews_are_of_the_first_validation_images_where_none_are_named(tmp_path):
    config = settings(tmp_path, preview_every=1, preview_count=1)
    pairs = [Pair(name, np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8)) for name in "ab"]
    assert [pair.name for pair in previewed(config, pairs)] == ["a"]
    assert previewed(config.changed(preview_every=None), pairs) == []


def test_wrong_previews_are_refused_before_there_is_a_folder(tmp_path):
    write_image(tmp_path / "grey.png", np.zeros((40, 40), np.uint8))
    for wrong, message in (("grey.png", "must have 3 channels.*got 1"), ("none", "must be a readable file")):
        config = settings(tmp_path, preview_every=1, preview_images=(str(tmp_path / wrong),))
        with pytest.raises(TiledSegError, match=message):
            Trainer(config).fit(blobs(1), blobs(8), progress=False)
    assert not (tmp_path / "runs").exists()


@of_keras
def test_curves_and_the_log_for_tensorboard_are_written(shown):
    height, width = read_image(shown.run_dir / "curves.png").shape[:2]
    assert width > 3 * height
    assert list((shown.run_dir / "tensorboard" / "train").glob("events.*"))


def test_a_run_lists_the_layers_of_its_network(trained):
    _, result = trained
    network = result.segmenter.network
    layers, facts = (part.splitlines() for part in (result.run_dir / "model.txt").read_text().split("\n\n"))
    cells = [re.split(r" {2,}", line) for line in layers]
    assert [row[:2] for row in cells[1:]] == [[one.name, type(one).__name__] for one in network.layers]
    assert sum(int(row[3].replace(",", "")) for row in cells[1:]) == network.count_params()
    (joined,) = (row for row in cells if row[1] == "Concatenate")
    assert joined[4] == "decoder_0_up, encoder_0_norm_b"
    assert facts[0].split()[1] == f"{network.count_params():,},"
    assert facts[1:] == [
        "total stride     2 x 2 px",
        "receptive field  the whole tile, by GroupNormalization 'encoder_0_norm_a' and 5 more",
    ]


def test_a_diagram_shows_every_layer(tmp_path, monkeypatch):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "dot").write_text('#!/bin/sh\nfor last; do :; done\ncat "$last"\n')  # what it would lay out
    (programs / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    config = settings(tmp_path, network=TINY.changed(levels=2), diagram=True, epochs=1, steps_per_epoch=1)
    result = Trainer(config).fit(blobs(1), blobs(8), progress=False)
    network, drawn = result.segmenter.network, (result.run_dir / "model.png").read_text()
    assert [one.name for one in network.layers if one.name not in drawn] == []
    before, after = Network.of(network).receptive_field.extent[0]
    side = before + 1 + after
    last = (result.run_dir / "model.txt").read_text().splitlines()[-1]
    assert last == f"receptive field  {side} x {side} px"


@pytest.mark.parametrize("missing", ["pydot", "dot"])
def test_a_diagram_that_cannot_be_drawn_is_refused_before_there_is_a_folder(tmp_path, monkeypatch, missing):
    if missing == "pydot":
        monkeypatch.setitem(sys.modules, "pydot", None)
        message = r'`pydot`.*pip install "tiledseg\[diagram\]"'
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
        message = "`diagram` needs Graphviz"
    with pytest.raises(SettingError, match=message):
        Trainer(settings(tmp_path, diagram=True)).fit(blobs(1), blobs(8), progress=False)
    assert not (tmp_path / "runs").exists()


@of_keras
def test_metrics_are_taken_over_all_px_together(shown):
    last = {name: values[shown.best_epoch - 1] for name, values in shown.history.items()}
    counts = np.zeros(4)
    for size, seed in ((80, 8), (64, 9)):
        image, mask = blobs(seed, size=size)[0]
        tiling = TilingConfig(tile_size=32, overlap=0, blend="crop")
        cut, true = tiled_predict(shown.segmenter, image, tiling, output="mask") > 0, mask > 0
        counts += [(cut & true).sum(), (cut & ~true).sum(), (~cut & true).sum(), (~cut & ~true).sum()]
    tp, fp, fn, tn = counts
    expected = {
        "dice": 2 * tp / (2 * tp + fp + fn),
        "iou": tp / (tp + fp + fn),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "accuracy": (tp + tn) / counts.sum(),
    }
    assert {name: last[f"val_{name}"] for name in expected} == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_deep_supervision_trains_outputs_that_the_bundle_does_not_have(tmp_path):
    network = {
        "name": "resenc_unet",
        "input_shape": (None, None, 3),
        "levels": 4,
        "base_filters": 4,
        "blocks": (1, 1, 1, 1),
    }
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen["trained"] = {variable.path for variable in self.model.trainable_weights}

    config = settings(tmp_path, network=network, epochs=1)
    result = Trainer(config).fit(blobs(1), blobs(8), progress=False, callbacks=[Look()])
    saved = {variable.path for variable in result.segmenter.network.weights}
    assert {path.split("/")[-2] for path in seen["trained"] - saved} == {"side_1_conv"}
    assert saved <= seen["trained"]
    assert result.segmenter.architecture == config.network
    assert result.segmenter.network.output_shape == (None, None, None, 1)


def test_the_founding_configuration_is_that_of_the_experiment():
    file = Path(__file__).parents[1] / "examples" / "founding.toml"
    config = RunConfig.from_toml(file.read_text(encoding="utf-8")).train
    assert UNetBuilder(config.network).count() == 125_045_745
    assert (config.crop_shape, config.batch_size, config.learning_rate) == ((512, 512), 2, 1e-4)
    assert (config.optimizer.name, config.loss.name, config.clip) == ("adam", "bce_dice", 0.5)
    assert (config.schedule.name, config.schedule.factor, config.schedule.patience) == ("plateau", 0.5, 4)
    assert (config.patience, config.epochs, config.preprocessing.scale) == (10, 100, 1.0)


def test_wrong_settings_of_a_run_make_no_folder(tmp_path):
    with pytest.raises(SettingError, match="`settings` must be of type RunConfig"):
        Trainer(settings(tmp_path)).fit(blobs(1, 2), blobs(8), progress=False, settings=5)
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_resumed_without_its_pairs(trained):
    with pytest.raises(SettingError, match="`train` must have at least one pair"):
        Trainer.resume(trained[1].run_dir, [], blobs(8, 9), progress=False)
    with pytest.raises(SettingError, match=r"arrays.*Pass `train` and `valid`"):
        Trainer.resume(trained[1].run_dir, progress=False)


def test_a_run_starts_from_the_weights_of_a_bundle(averaged, tmp_path):
    start = averaged[1].run_dir / "best"
    still = settings(tmp_path, start_from=str(start), learning_rate=1e-9, steps_per_epoch=1, epochs=1)
    result = Trainer(still).fit(blobs(1, 2), blobs(8, 9), progress=False)
    before, after = load_model(start).network.trainable_weights, result.segmenter.network.trainable_weights
    assert all(np.allclose(one, other, atol=1e-6) for one, other in zip(before, after, strict=True))
    new = Trainer(still.changed(start_from=None)).fit(blobs(1, 2), blobs(8, 9), progress=False)
    assert result.history["val_loss"][0] < new.history["val_loss"][0]
    start_from = result.segmenter.provenance["settings"]["start_from"]
    assert start_from == f"{start.parent.name}/best"  # and nothing of the machine's other folders


def test_a_run_with_a_checkpoint_no_longer_needs_its_start(averaged, tmp_path):
    start = shutil.copytree(averaged[1].run_dir / "best", tmp_path / "start")
    config = settings(tmp_path, start_from=str(start), epochs=2, steps_per_epoch=1)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config).fit(blobs(1, 2), blobs(8), progress=False, callbacks=[Interrupt()])
    shutil.rmtree(start)
    (run_dir,) = (tmp_path / "runs").iterdir()
    result = Trainer.resume(run_dir, blobs(1, 2), blobs(8), progress=False, callbacks=[Interrupt()])
    assert result.history["epoch"] == [1, 2]


def test_a_start_that_does_not_fit_is_refused_before_any_folder_is_made(averaged, tmp_path):
    start = str(averaged[1].run_dir / "best")
    wider = settings(tmp_path, start_from=start, network=TINY.changed(base_filters=8))
    with pytest.raises(SettingError, match="`start_from` must contain weights for `network`"):
        Trainer(wider).fit(blobs(1, 2), blobs(8), progress=False)
    with pytest.raises(BundleError, match="nowhere"):
        Trainer(settings(tmp_path, start_from="nowhere")).fit(blobs(1, 2), blobs(8), progress=False)
    assert not (tmp_path / "runs").exists()


def test_a_start_of_another_function_or_of_other_classes_is_refused(averaged, tmp_path):
    start = str(averaged[1].run_dir / "best")
    other = settings(tmp_path, start_from=start, network=TINY.changed(activation="elu"))
    with pytest.raises(SettingError, match=r"`start_from` must .* activation=elu; got activation=relu"):
        Trainer(other).fit(blobs(1, 2), blobs(8), progress=False)
    names = ("background", "a", "b")
    three = TINY.changed(classes=3)
    network = UNetBuilder(three).build()
    Segmenter(network=network, architecture=three, labels=names).save(tmp_path / "three")
    last = {"start_from": str(tmp_path / "three"), "learning_rate": 1e-9, "steps_per_epoch": 1, "epochs": 1}
    moved = settings(tmp_path, network=three, labels=("background", "b", "a"), **last)
    with pytest.raises(SettingError, match=r"`labels` must .* background, a, b; got background, b, a"):
        Trainer(moved).fit(blobs(1, 2), blobs(8), progress=False)
    sigmoid = settings(tmp_path, network=three.changed(final_activation="sigmoid"), labels=names, **last)
    with pytest.raises(SettingError, match=r"final_activation=sigmoid; got final_activation=softmax"):
        find_learning_rate(sigmoid, blobs(1, 2), steps=10)
    assert not (tmp_path / "runs").exists()
    alike = three.changed(final_activation="softmax", dropout=0.3)
    kept = Trainer(settings(tmp_path, network=alike, labels=names, **last)).fit(blobs(1, 2), blobs(8))
    found, wanted = kept.segmenter.network.trainable_weights[0], network.trainable_weights[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_start_on_px_that_were_prepared_otherwise_is_told(averaged, tmp_path, caplog):
    start = str(averaged[1].run_dir / "best")
    told = "prepared otherwise than those that `start_from` was trained on: "
    short = settings(tmp_path, start_from=start, steps_per_epoch=1, epochs=1)
    Trainer(short).fit(blobs(1, 2), blobs(8, 9), progress=False)
    Trainer(short.changed(preprocessing={"mean": (0.0, 0.0, 0.0)})).fit(blobs(1), blobs(8), progress=False)
    assert told not in caplog.text
    other = {"gamma": 2.0, "mean": (0.5,), "sharpen_sigma": 2.0}
    Trainer(short.changed(preprocessing=other)).fit(blobs(1, 2), blobs(8, 9), progress=False)
    assert f"{told}gamma 2.0, not 1.0; mean [0.5, 0.5, 0.5], not [0.0, 0.0, 0.0]. To keep" in caplog.text
    sized = load_model(start)
    sized.changed(preprocessing=sized.preprocessing.changed(pixel_size=0.5)).save(tmp_path / "sized")
    Trainer(short.changed(start_from=str(tmp_path / "sized"))).fit(blobs(1), blobs(8), progress=False)
    assert f"{told}pixel_size not known, not 0.5 µm" in caplog.text


def test_an_error_of_a_callback_names_it(tmp_path):
    class Failing(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise ValueError("of mine")

    short = settings(tmp_path, steps_per_epoch=1, epochs=1)
    with pytest.raises(SettingError, match=r"`callbacks\[0\]`, a Failing, failed: ValueError: of mine"):
        Trainer(short).fit(blobs(1, 2), blobs(8), progress=False, callbacks=[Failing()])


def test_pairs_may_come_from_a_generator(tmp_path):
    short = settings(tmp_path, steps_per_epoch=1, epochs=1)
    found = Trainer(short).fit(iter(blobs(1, 2)), iter(blobs(8)), progress=False)
    assert found.history == Trainer(short).fit(blobs(1, 2), blobs(8), progress=False).history


def marked(mask, value):
    """Say which value of a mask does not count."""
    return Pair(f"of {value}", blobs(4)[0][0], mask, ignore_label=value)


@pytest.mark.parametrize(
    ("train", "valid", "message"),
    [
        (lambda one: [marked(one * 255, 255)], None, "have foreground in some mask.*`ignore_label`"),
        (lambda one: [marked(one, 0)], None, "have background in some mask.*`ignore_label`"),
        (lambda one: [(blobs(5)[0][0], one * 0 + 1)], None, "have background in some mask"),
        (
            lambda one: [marked(one, 7)],
            lambda one: [marked(one * 0 + 9, 9)],
            "`valid` must have px that count",
        ),
        (lambda one: [marked(one, 7)], lambda one: [marked(one.copy(), 8)], r"no copy.*got of 8 is of 7"),
    ],
)
def test_data_that_nothing_can_be_learnt_from_is_refused(train, valid, message, tmp_path):
    mask = blobs(4)[0][1]
    trainer = Trainer(settings(tmp_path, validation=valid is not None))
    with pytest.raises(TiledSegError, match=message):
        trainer.fit(train(mask), valid and valid(mask), progress=False)
    assert not (tmp_path / "runs").exists()
